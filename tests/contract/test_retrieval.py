import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import grpc
import pytest
from google.rpc import error_details_pb2
from paperroute.v1 import paper_pb2, search_pb2
from paperroute.v1 import retrieval_service_pb2 as pb
from paperroute.v1 import retrieval_service_pb2_grpc as pb_grpc
from serving import serving
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Author, Record

from services.common.errors import reason_in, status_in, violations_in
from services.common.papers import moment_of, timestamp_of
from services.retrieval.server import mount
from services.retrieval.settings import RetrievalSettings

TODAY = datetime.combine(datetime.now(UTC).date(), time(12), UTC)
LIBRARY_DAY = timestamp_of(datetime(2026, 7, 1, tzinfo=UTC))  # none of the sample library is too old on that day
TIMEOUT_S = 30
FILTERS = ["duplicates", "withdrawn", "all_words", "after_as_of", "older_than_two_years", "max_papers"]


def record(number: int, title: str, *, age_days: int, version: int = 1) -> Record:
    return Record(
        paper_id=f"2601.{number:05}",
        version=version,
        title=title,
        abstract=f"Number {number}.",
        authors=(Author(name="Ada Lovelace"), Author(name="Émile B")),
        primary_category="cs.CV",
        categories=("cs.CV", "cs.LG"),
        published=TODAY - timedelta(days=age_days),
        updated=TODAY,
    )


RECORDS = [
    *(record(number, "LoRA image generation", age_days=number, version=number % 3 + 1) for number in range(230)),
    *(record(1_000 + number, "LoRA video", age_days=number) for number in range(5)),
    record(2_000, "Exploration by imagery", age_days=1),
]


@asynccontextmanager
async def retrieval(**settings) -> AsyncIterator[pb_grpc.RetrievalServiceStub]:
    nobody = {"embedding": "127.0.0.1:1"}
    settings = {"request_spacing_s": 0.001, "cooldown_s": 0.01, **nobody, **settings}
    async with serving(mount, RetrievalSettings(**settings)) as channel:
        yield pb_grpc.RetrievalServiceStub(channel)


@pytest.fixture
async def server():
    async with arxiv.ArxivStandIn(RECORDS) as running:
        yield running


@pytest.fixture
async def stub(server):
    async with retrieval(arxiv_url=server.url) as opened:
        yield opened


async def search(stub, *terms: str, timeout: float | None = TIMEOUT_S, **fields) -> Sequence[pb.SearchPapersResponse]:
    request = pb.SearchPapersRequest(search_terms=terms, **({"source": search_pb2.SOURCE_ARXIV} | fields))
    return [message async for message in stub.SearchPapers(request, timeout=timeout)]


async def result(stub, *terms: str, **fields) -> pb.SearchResult:
    return (await search(stub, *terms, **fields))[-1].result


async def failure(stub, *terms: str, **fields) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await search(stub, *terms, **fields)
    return raised.value


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_in(error).details)
    return info.retry_delay.ToMilliseconds() / 1_000


def assert_upstream_failed(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_in(error) == "UPSTREAM_FAILED"
    assert "try --source sample" in error.details()
    assert retry_delay_s(error) > 0


def assert_stream_keeps_its_promises(messages: Sequence[pb.SearchPapersResponse], terms: Sequence[str]) -> None:
    """Progress of each term in turn with counts that never fall and one final message, then exactly one result."""
    assert [each.WhichOneof("event") for each in messages] == ["progress"] * (len(messages) - 1) + ["result"]
    progress = [each.progress for each in messages[:-1]]
    assert list(dict.fromkeys(each.search_term for each in progress)) == list(terms)
    for term in terms:
        of_term = [each for each in progress if each.search_term == term]
        assert [each.found_count for each in of_term] == sorted(each.found_count for each in of_term)
        assert [each.expected_count for each in of_term] == sorted(each.expected_count for each in of_term)
        assert [each.is_final for each in of_term] == [False] * (len(of_term) - 1) + [True]
        assert not of_term[-1].waiting_for


def assert_papers_keep_their_promises(papers: Sequence[paper_pb2.Paper]) -> None:
    moments = [moment_of(each.published_at) for each in papers]
    assert moments == sorted(moments, reverse=True)
    assert len({each.paper_id for each in papers}) == len(papers)
    for paper in papers:
        assert paper.title.strip()
        assert paper.published_precision in {paper_pb2.DATE_PRECISION_DAY, paper_pb2.DATE_PRECISION_MONTH}
        assert not paper.categories or paper.categories[0] == paper.primary_category


async def test_sample_library_answers_without_arxiv(stub, server):
    messages = await search(
        stub, "LoRA image generation", "video generation", source=search_pb2.SOURCE_SAMPLE, as_of=LIBRARY_DAY
    )

    assert_stream_keeps_its_promises(messages, ["LoRA image generation", "video generation"])
    found = messages[-1].result
    assert_papers_keep_their_promises(found.papers)
    assert len(found.papers) == 60
    assert {each.abstract_origin for each in found.papers} == {paper_pb2.ABSTRACT_ORIGIN_PARAPHRASE}
    assert not all(each.HasField("version") for each in found.papers)
    assert found.report.source == search_pb2.SOURCE_SAMPLE
    assert server.requests == []


async def test_report_adds_up(stub):
    """What each filter was given is what the one before it left, from all that was found to the papers kept."""
    found = await result(
        stub, "LoRA image generation", "RAG", source=search_pb2.SOURCE_SAMPLE, max_papers=20, as_of=LIBRARY_DAY
    )

    filters = found.report.filters
    assert [each.name for each in filters] == FILTERS
    assert filters[0].input_count == sum(each.found_count for each in found.report.terms)
    left = [each.input_count - each.dropped_count for each in filters]
    assert left[:-1] == [each.input_count for each in filters[1:]]
    assert left[-1] == len(found.papers) == 20
    assert [each.search_term for each in found.report.terms] == ["LoRA image generation", "RAG"]
    assert sum(each.kept_count for each in found.report.terms) >= 20
    assert found.report.as_of == LIBRARY_DAY
    assert abs(moment_of(found.report.answered_at) - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize("source", [search_pb2.SOURCE_UNSPECIFIED, search_pb2.SOURCE_AUTO, search_pb2.SOURCE_ARXIV])
async def test_arxiv_answers_in_pages(stub, server, source):
    """Two pages of 100 for each term; what both terms bring is kept once."""
    messages = await search(stub, "LoRA image", "image generation", source=source)

    assert_stream_keeps_its_promises(messages, ["LoRA image", "image generation"])
    assert [(each.query, each.start, each.max_results) for each in server.requests] == [
        ("all:lora AND all:image", 0, 100),
        ("all:lora AND all:image", 100, 100),
        ("all:image AND all:generation", 0, 100),
        ("all:image AND all:generation", 100, 100),
    ]
    assert {each.user_agent.partition("/")[0] for each in server.requests} == {"PaperRoute"}
    found = messages[-1].result
    assert_papers_keep_their_promises(found.papers)
    assert [each.paper_id for each in found.papers] == [f"2601.{number:05}" for number in range(160)]
    assert [(each.name, each.input_count, each.dropped_count) for each in found.report.filters] == [
        ("duplicates", 400, 200),
        ("withdrawn", 200, 0),
        ("all_words", 200, 0),
        ("after_as_of", 200, 0),
        ("older_than_two_years", 200, 0),
        ("max_papers", 200, 40),
    ]
    assert [(each.found_count, each.kept_count) for each in found.report.terms] == [(200, 160), (200, 160)]
    assert found.report.source == search_pb2.SOURCE_ARXIV


async def test_arxiv_record_arrives_whole(stub):
    paper = (await result(stub, "LoRA image generation", max_results_per_term=5)).papers[4]

    assert (paper.paper_id, paper.version) == ("2601.00004", 2)
    assert (paper.title, paper.abstract) == ("LoRA image generation", "Number 4.")
    assert list(paper.authors) == ["Ada Lovelace", "Émile B"]
    assert list(paper.categories) == ["cs.CV", "cs.LG"]
    assert moment_of(paper.published_at) == TODAY - timedelta(days=4)
    assert moment_of(paper.updated_at) == TODAY
    assert paper.published_precision == paper_pb2.DATE_PRECISION_DAY
    assert paper.abstract_origin == paper_pb2.ABSTRACT_ORIGIN_UNSPECIFIED


async def test_highest_version_is_kept(stub, server):
    """A paper that is replaced between two requests comes in two versions."""
    older, newer = (
        arxiv.feed(
            [record(1, "LoRA image", age_days=1, version=version)],
            search_query="",
            id_list="",
            start=0,
            max_results=100,
            total=1,
            updated=TODAY,
        )
        for version in (4, 5)
    )
    server.script([arxiv.recorded(newer), arxiv.recorded(older)])

    found = await result(stub, "LoRA", "image")

    assert [(each.paper_id, each.version) for each in found.papers] == [("2601.00001", 5)]


async def test_search_looks_back_from_as_of(stub):
    """Later papers are not asked for either: they would fill the pages of a search that looks a year back."""
    as_of = TODAY - timedelta(days=200)

    found = await result(stub, "LoRA image generation", as_of=timestamp_of(as_of), max_results_per_term=20)

    assert [each.paper_id for each in found.papers] == [f"2601.{number:05}" for number in range(200, 220)]
    assert moment_of(found.report.as_of).date() == as_of.date()


async def test_nothing_found_is_a_result_without_papers(stub):
    messages = await search(stub, "zeolite catalysis")

    assert_stream_keeps_its_promises(messages, ["zeolite catalysis"])
    found = messages[-1].result
    assert list(found.papers) == []
    assert [(each.search_term, each.found_count, each.kept_count) for each in found.report.terms] == [
        ("zeolite catalysis", 0, 0)
    ]
    assert [(each.name, each.input_count, each.dropped_count) for each in found.report.filters] == [
        (name, 0, 0) for name in FILTERS
    ]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([arxiv.too_many_requests()], id="429"),
        pytest.param([arxiv.too_many_requests("0")], id="429 with Retry-After"),
        pytest.param([arxiv.rate_exceeded()], id="soft 200"),
        pytest.param([arxiv.unavailable(), arxiv.unavailable()], id="503 twice"),
        pytest.param([arxiv.empty_page()], id="empty first page"),
        pytest.param([None, arxiv.empty_page(), arxiv.empty_page()], id="empty second page twice"),
        pytest.param([*[arxiv.unavailable()] * 2, None, *[arxiv.unavailable()] * 2], id="503 twice for each page"),
        pytest.param([None, arxiv.cut_feed()], id="cut feed"),
        pytest.param([arxiv.broken_off()], id="cut connection"),
        pytest.param([arxiv.html_page()], id="web page"),
        pytest.param([arxiv.connection_reset(), None, arxiv.connection_reset()], id="resets"),
        pytest.param([arxiv.short_page(30), arxiv.short_page(1)], id="short pages"),
        pytest.param([arxiv.slow(0.1)], id="slow"),
    ],
)
async def test_passing_fault_costs_no_paper(stub, server, script):
    server.script(script)

    found = await result(stub, "LoRA image generation")

    assert [each.paper_id for each in found.papers] == [f"2601.{number:05}" for number in range(160)]
    assert [each.found_count for each in found.report.terms] == [200]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(arxiv.too_many_requests(), id="429"),
        pytest.param(arxiv.rate_exceeded(), id="soft 200"),
        pytest.param(arxiv.unavailable(), id="503"),
        pytest.param(arxiv.empty_page(), id="empty page"),
        pytest.param(arxiv.cut_feed(), id="cut feed"),
        pytest.param(arxiv.broken_off(), id="cut connection"),
        pytest.param(arxiv.html_page(), id="web page"),
        pytest.param(arxiv.connection_reset(), id="reset"),
        pytest.param(arxiv.entity_bomb(), id="entity bomb"),
    ],
)
async def test_lasting_fault_is_unavailable_after_three_tries(stub, server, fault):
    """Three and no more: the channel does not repeat a call whose first message has come."""
    server.script([fault] * 10)

    error = await failure(stub, "LoRA image generation")

    assert_upstream_failed(error)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(arxiv.failing_query("malformed query"), id="error feed"),
        pytest.param(arxiv.recorded(b"gone", status=410), id="status that does not pass"),
        pytest.param(arxiv.oversized(24 * 2**20), id="too big"),
    ],
)
async def test_refusal_is_unavailable_at_once(stub, server, fault):
    server.script([None, fault])

    error = await failure(stub, "LoRA image generation")

    assert_upstream_failed(error)
    assert len(server.requests) == 2


async def test_pause_that_arxiv_asks_for_is_passed_on(stub, server):
    server.script([arxiv.too_many_requests("600")])

    error = await failure(stub, "LoRA image generation")

    assert_upstream_failed(error)
    assert retry_delay_s(error) == 600
    assert "wait 600 s" in error.details()
    assert len(server.requests) == 1


async def test_short_pause_is_sat_out_and_announced(stub, server):
    server.script([arxiv.too_many_requests("1")])

    messages = await search(stub, "LoRA video")

    waits = [each.progress.waiting_for for each in messages[:-1] if each.progress.waiting_for]
    assert waits == ["arXiv", "arXiv to answer again"]
    assert server.requests[1].started_at - server.requests[0].started_at > 0.9
    assert len(messages[-1].result.papers) == 5


async def test_unreachable_arxiv_is_unavailable():
    async with retrieval(arxiv_url="http://127.0.0.1:1/api/query") as stub:
        error = await failure(stub, "LoRA", source=search_pb2.SOURCE_AUTO)

    assert_upstream_failed(error)
    assert "cannot be reached" in error.details()


async def test_caller_hears_what_went_wrong_before_its_deadline(stub, server):
    server.script([arxiv.slow(20)])

    error = await failure(stub, "LoRA", timeout=2)

    assert_upstream_failed(error)


async def test_slow_request_is_given_up_and_asked_again(server):
    server.script([arxiv.slow(20)])
    async with retrieval(arxiv_url=server.url, request_timeout_s=0.5) as stub:
        found = await result(stub, "LoRA video")

    assert len(found.papers) == 5
    assert len(server.requests) == 2


async def test_call_without_a_deadline_is_served(stub):
    assert len((await result(stub, "LoRA video", timeout=None)).papers) == 5


async def test_requests_keep_their_distance(server):
    """One process asks once in a while, however many searches run and whether tries fail."""
    server.script([None, arxiv.unavailable()])
    async with retrieval(arxiv_url=server.url, request_spacing_s=0.3) as stub:
        await asyncio.gather(result(stub, "LoRA video", "imagery"), result(stub, "exploration"))

    starts = [each.started_at for each in server.requests]
    assert len(starts) == 4
    # Half of the spacing is left for the way of a request on a busy machine; without spacing they are milliseconds.
    assert all(later - earlier > 0.15 for earlier, later in pairwise(starts))


async def test_cancelled_search_asks_for_nothing_more(stub, server):
    """The request under way ends; the second page of the search is never asked for."""
    server.script([arxiv.slow(0.3)])
    call = stub.SearchPapers(pb.SearchPapersRequest(search_terms=["image generation"]), timeout=TIMEOUT_S)
    await call.read()
    while not server.requests:
        await asyncio.sleep(0.01)
    call.cancel()

    await result(stub, "exploration", "imagery", "video")

    assert [each.query for each in server.requests] == [
        "all:image AND all:generation",
        "all:exploration",
        "all:imagery",
        "all:video",
    ]


async def test_all_broken_fields_are_named_at_once(stub, server):
    error = await failure(
        stub,
        "fine",
        "",
        "?!",
        "x" * 201,
        source=7,
        max_papers=501,
        as_of=timestamp_of(TODAY + timedelta(days=2)),
        max_results_per_term=2_001,
    )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_in(error) == "INVALID_REQUEST"
    assert [each.field for each in violations_in(error)] == [
        "search_terms[1]",
        "search_terms[2]",
        "search_terms[3]",
        "source",
        "max_papers",
        "as_of",
        "max_results_per_term",
    ]
    assert server.requests == []
