"""The log: one line an event whatever it holds, the trace it belongs to, and no secret of anybody."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.common.settings import SettingsError, SharedSettings
from services.common.telemetry.logs import configure_logging

OURS = logging.getLogger("services.somewhere")
KEY = "gateway-of-a-team-0123456789"
ENVIRONMENT = {"PAPERROUTE_COMPATIBLE__LOCAL__API_KEY": KEY, "PAPERROUTE_LOG_LEVEL": "warning"}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    names = ("", "services", "gateway", "py.warnings")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.root.handlers)
    yield
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def configured(log_format: str, level: str = "warning") -> None:
    configure_logging(SharedSettings(log_format=log_format, log_level=level), ENVIRONMENT)


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def failed(problem: str) -> None:
    error = ValueError(problem)
    try:
        raise error
    except ValueError:
        OURS.exception("stage %s failed", "write")


def test_json_is_one_object_a_line_with_its_trace(capsys: pytest.CaptureFixture[str]):
    configured("json")
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        OURS.warning("took %d papers", 3)
    OURS.error("質問\nof another line")

    inside, outside = (json.loads(line) for line in written(capsys))
    assert inside.pop("time").endswith("+00:00")
    assert inside == {
        "level": "warning",
        "logger": "services.somewhere",
        "message": "took 3 papers",
        "trace_id": f"{0xABC:032x}",
        "span_id": f"{0xDEF:016x}",
    }
    assert outside["message"] == "質問\nof another line"
    assert "trace_id" not in outside


def test_an_exception_is_one_field_of_its_object(capsys: pytest.CaptureFixture[str]):
    configured("json")
    failed("first\nsecond")

    (line,) = (json.loads(each) for each in written(capsys))
    assert line["message"] == "stage write failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: first\nsecond")


@pytest.mark.parametrize("separator", ["\n", "\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_no_text_begins_a_line_of_its_own(separator: str, capsys: pytest.CaptureFixture[str]):
    """A question could otherwise write a record that never was."""
    forged = f"x{separator}2026-01-01 00:00:00,000 INFO gateway all is well"
    configured("text")
    OURS.warning("asked %s", forged)
    failed(forged)

    records = [line for line in written(capsys) if not line.startswith("  | ")]
    assert len(records) == 2
    assert "asked x\\" in records[0]
    assert "stage write failed" in records[1]


def test_nothing_that_a_terminal_would_obey_is_written(capsys: pytest.CaptureFixture[str]):
    configured("text")
    OURS.warning("title \x1b[2J\x9b1m\u202e of　日本語")

    (line,) = written(capsys)
    assert line.endswith("title \\x1b[2J\\x9b1m\\u202e of　日本語")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    ("secret", "told"),
    [
        pytest.param(KEY, f"403: {KEY} may not do that", id="own key, of no known form"),
        pytest.param("sk-proj-4711abcdef", "Incorrect API key provided: sk-proj-4711abcdef.", id="openai"),
        pytest.param("AIzaSyA-123456789", "url?key=AIzaSyA-123456789&alt=sse", id="gemini"),
        pytest.param("hunter2", "cannot reach postgresql://paper:hunter2@db.example/paper", id="database"),
        pytest.param("abc.def", "headers: {'Authorization': 'Bearer abc.def'}", id="header"),
        pytest.param("0123-abc", "{'x-api-key': '0123-abc', 'accept': 'json'}", id="header of anthropic"),
        pytest.param("q" * 43, f"token pr_{'q' * 43} is unknown", id="token of a gateway"),
    ],
)
def test_no_key_is_written(log_format: str, secret: str, told: str, capsys: pytest.CaptureFixture[str]):
    """What a provider's library says, in a message and in a traceback."""
    configured(log_format)
    OURS.warning("refused: %s", told)
    failed(told)

    err = capsys.readouterr().err
    assert secret not in err
    assert err.count("***") >= 2


def test_lower_levels_are_of_our_own_packages_only(capsys: pytest.CaptureFixture[str]):
    """A provider's library writes prompts at its lower levels."""
    configured("text", "debug")
    logging.getLogger("openai._base_client").debug("Request options: the whole prompt")
    logging.getLogger("httpx").info("HTTP Request")
    logging.getLogger("openai").warning("slow")
    logging.getLogger("gateway.jobs").debug("began")

    assert [line.split(" ", 3)[3] for line in written(capsys)] == ["openai slow", "gateway.jobs began"]


def test_warnings_of_python_are_objects_too(capsys: pytest.CaptureFixture[str]):
    configured("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "old" in json.loads(written(capsys)[0])["message"]


def test_an_unknown_level_is_told_by_its_variable():
    with pytest.raises(SettingsError, match="PAPERROUTE_LOG_LEVEL='loud'"):
        configure_logging(SharedSettings(log_level="loud"))
