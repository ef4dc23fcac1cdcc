"""What a process exports, as a receiver and a scraper get it, and what it does when the receiver is bad."""

import asyncio
import contextlib
import logging
import re
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from processes import free_ports
from standins.otlp_collector import OtlpCollector, dead_endpoint, otlp_collector
from telemetered import Telemetry, telemetered

from services.common.settings import SettingsError, SharedSettings
from services.common.telemetry import model_calls, sdk
from services.common.telemetry.export import configure

DROPPED = "paperroute.spans.dropped"


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with otlp_collector() as made:
        yield made


@pytest.fixture
def seen() -> Iterator[Telemetry]:
    """What our own instruments count."""
    with telemetered() as made:
        yield made


Export = Callable[..., sdk.Exports]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> Iterator[Export]:
    """Make exports that are ended with the test, and that wait for bad receivers for a second only."""
    monkeypatch.setattr(sdk, "END_S", 1)
    with contextlib.ExitStack() as stack:

        def make(endpoint: str = "", listen: str = "") -> sdk.Exports:
            exports = sdk.Exports("ordering", endpoint=endpoint, listen=listen)
            stack.callback(exports.end)
            return exports

        yield make


def make_spans(exports: sdk.Exports, count: int) -> None:
    assert exports.traces
    tracer = exports.traces.get_tracer("test")
    for number in range(count):
        tracer.start_span(f"span {number}").end()


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


async def test_spans_arrive_as_they_were(collector: OtlpCollector, export: Export):
    exports = export(collector.endpoint)
    assert exports.traces
    tracer = exports.traces.get_tracer("test")
    with tracer.start_as_current_span("outer", kind=SpanKind.CLIENT, attributes={"n": 3, "of": ["a", "b"]}) as outer:
        outer.add_event("paperroute.retry", {"error.type": "rate_limit"})
        outer.set_status(StatusCode.ERROR)
        with tracer.start_as_current_span("inner"):
            pass
    await asyncio.to_thread(exports.end)

    spans = {span.name: span for span in collector.spans}
    assert spans["outer"].attributes == {"n": 3, "of": ["a", "b"]}
    assert (spans["outer"].kind, spans["outer"].status) == ("CLIENT", "ERROR")
    assert [(event.name, event.attributes) for event in spans["outer"].events] == [
        ("paperroute.retry", {"error.type": "rate_limit"})
    ]
    assert spans["inner"].parent_id == spans["outer"].span_id
    assert spans["outer"].started_ns <= spans["inner"].started_ns <= spans["inner"].ended_ns <= spans["outer"].ended_ns


async def test_metrics_arrive_with_the_process_they_are_of(collector: OtlpCollector, export: Export):
    exports = export(collector.endpoint)
    meter = exports.metrics.get_meter("test")
    meter.create_counter("paperroute.cost", unit="USD").add(0.25, {"paperroute.stage": "write"})
    histogram = meter.create_histogram("paperroute.stage.duration", explicit_bucket_boundaries_advisory=[1, 10])
    histogram.record(5)
    await asyncio.to_thread(exports.end)

    (cost,) = collector.latest("paperroute.cost", paperroute_stage="write")
    (stages,) = collector.latest("paperroute.stage.duration")
    assert (cost.kind, cost.is_monotonic, cost.unit, cost.value) == ("sum", True, "USD", 0.25)
    assert (stages.count, stages.value, stages.bounds, stages.bucket_counts) == (1, 5, (1, 10), (0, 1, 0))
    assert cost.service == "paperroute-ordering"
    assert cost.instance == stages.instance != ""


async def test_a_receiver_of_traces_alone_is_sent_no_metrics(
    collector: OtlpCollector, export: Export, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    exports = export(collector.endpoint)
    make_spans(exports, 1)
    exports.metrics.get_meter("test").create_counter("any").add(1)
    await asyncio.to_thread(exports.end)

    assert (len(collector.spans), collector.points) == (1, [])


async def test_two_processes_of_a_role_are_told_apart(collector: OtlpCollector, export: Export):
    for each in (export(collector.endpoint), export(collector.endpoint)):
        make_spans(each, 1)
        await asyncio.to_thread(each.end)

    abouts = [span.resource for span in collector.spans]
    assert {about["service.name"] for about in abouts} == {"paperroute-ordering"}
    assert len({about["service.instance.id"] for about in abouts}) == 2
    assert all(re.fullmatch(r"\d+\.\d+.*", about["service.version"]) for about in abouts)


async def test_a_scrape_reads_what_is_counted(export: Export, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        exports = export(listen="127.0.0.1:0")
    meter = exports.metrics.get_meter("test")
    meter.create_counter("paperroute.cost", unit="USD").add(0.25, {"paperroute.stage": "write"})
    meter.create_up_down_counter("paperroute.summaries.pending", unit="{paper}").add(4)
    text = await asyncio.to_thread(scraped, exports.metrics_address)

    assert f"http://{exports.metrics_address}/metrics" in caplog.text
    assert 'paperroute_cost_USD_total{paperroute_stage="write"} 0.25' in text.splitlines()
    assert "paperroute_summaries_pending 4.0" in text.splitlines()
    assert re.search(r'^target_info\{.*service_name="paperroute-ordering".*\} 1', text, re.MULTILINE)


async def test_a_process_that_is_only_scraped_makes_no_spans(export: Export):
    assert export(listen="127.0.0.1:0").traces is None


async def test_the_port_is_free_again_after_the_end(export: Export):
    exports = export(listen="127.0.0.1:0")
    await asyncio.to_thread(exports.end)

    assert export(listen=exports.metrics_address).metrics_address == exports.metrics_address


async def test_a_taken_port_is_told_in_one_line(export: Export):
    taken = export(listen="127.0.0.1:0").metrics_address
    with pytest.raises(SettingsError) as failure:
        export(listen=taken)

    (problem,) = failure.value.problems
    assert problem.startswith(f"PAPERROUTE_METRICS_LISTEN={taken!r}: cannot listen there")


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"])
async def test_spans_that_a_receiver_refuses_are_counted_and_told_once(
    code: str,
    collector: OtlpCollector,
    export: Export,
    seen: Telemetry,
    caplog: pytest.LogCaptureFixture,
):
    collector.refuses_with = grpc.StatusCode[code]
    exports = export(collector.endpoint)
    make_spans(exports, 700)
    await asyncio.wait_for(asyncio.to_thread(exports.end), 20)

    assert seen.sums(DROPPED, "error.type")["export_failed",] == 700
    assert not collector.spans
    told = [record.getMessage() for record in caplog.records if record.name.endswith("telemetry.sdk")]
    assert told == [f"700 spans did not reach {collector.endpoint}"]


async def test_a_receiver_that_comes_back_gets_what_waits(collector: OtlpCollector, export: Export, seen: Telemetry):
    collector.refuses_with = grpc.StatusCode.UNAVAILABLE
    exports = export(collector.endpoint)
    make_spans(exports, 3)
    await collector.until(lambda it: it.exports)
    collector.refuses_with = None

    assert len(await collector.until(lambda it: it.spans)) == 3
    assert not seen.sums(DROPPED)


async def test_spans_beyond_what_may_wait_are_counted_and_nobody_waits_for_them(
    collector: OtlpCollector, export: Export, seen: Telemetry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sdk, "MAX_SPANS", 600)
    collector.waits_s = 60
    exports = export(collector.endpoint)
    make_spans(exports, 1_000)  # in the loop: were it to wait for the receiver, nothing would come after it
    before = seen.sums(DROPPED, "error.type")
    await asyncio.wait_for(asyncio.to_thread(exports.end), 20)

    assert before == {("queue_full",): 400}
    assert seen.sums(DROPPED, "error.type") == {("queue_full",): 400, ("export_failed",): 600}


@pytest.mark.parametrize("fault", ["down", "slow"])
async def test_the_end_does_not_wait_for_a_bad_receiver(
    fault: str, collector: OtlpCollector, export: Export, seen: Telemetry
):
    """A receiver that would answer after a minute is not waited for; nothing that was measured is left uncounted."""
    collector.waits_s = 60
    with dead_endpoint() as dead:
        exports = export(dead if fault == "down" else collector.endpoint, listen=f"127.0.0.1:{free_ports(1)[0]}")
        make_spans(exports, 10)
        exports.metrics.get_meter("test").create_counter("any").add(1)
        await asyncio.wait_for(asyncio.to_thread(exports.end), 20)

    assert seen.sums(DROPPED) == {(): 10}


@pytest.mark.parametrize("is_wanted", [True, False])
def test_prompts_are_in_spans_only_where_they_are_wanted(is_wanted: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sdk.Exports, "become_global", lambda self: None)
    monkeypatch.setattr(model_calls._Content, "is_shown", False)
    end = configure("ordering", SharedSettings(metrics_listen="127.0.0.1:0", trace_content=is_wanted))
    end()

    assert model_calls._Content.is_shown is is_wanted
