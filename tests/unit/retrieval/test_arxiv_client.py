"""One page over HTTP: what arXiv sends becomes papers, and what is no page becomes a PageUnreadable."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from standins import arxiv_server as arxiv
from standins.arxiv_atom import Record

from services.retrieval.arxiv_client import ArxivClient, ArxivPage, PageUnreadable, seconds_of

RECORDINGS = Path(__file__).parents[4] / "shared" / "data" / "atom"
RECORDS = [
    Record(
        paper_id=f"2601.{number:05}",
        version=3,
        title=f"  Paper\n number  {number} ",
        abstract="A line\n  and another.",
        primary_category="cs.CV",
        categories=("cs.LG", "cs.CV"),
        published=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        updated=datetime(2026, 2, 3, tzinfo=UTC),
        doi="10.1000/1",
    )
    for number in range(7)
]


@pytest.fixture
async def server():
    async with arxiv.ArxivStandIn(RECORDS) as running:
        yield running


async def page(
    url: str, query: str = "all:paper", *, start: int = 0, size: int = 5, timeout_s: float = 10
) -> ArxivPage:
    client = ArxivClient(url, user_agent="PaperRoute/1.2")
    return await asyncio.to_thread(client.page, query, by_relevance=False, start=start, size=size, timeout_s=timeout_s)


async def refusal(server, fault, **options) -> PageUnreadable:
    server.script([fault])
    with pytest.raises(PageUnreadable) as failure:
        await page(server.url, **options)
    assert len(server.requests) == 1
    return failure.value


async def test_page_is_one_request_in_our_name(server):
    found = await page(server.url, start=2)

    assert (len(found.papers), found.entry_count, found.total_count) == (5, 5, 7)
    assert [(each.query, each.start, each.max_results) for each in server.requests] == [("all:paper", 2, 5)]
    assert server.requests[0].user_agent == "PaperRoute/1.2"


async def test_record_becomes_a_paper(server):
    paper = (await page(server.url, "ti:3")).papers[0]

    assert (paper.paper_id, paper.version) == ("2601.00003", 3)
    assert (paper.title, paper.abstract) == ("Paper number 3", "A line and another.")
    assert (paper.primary_category, paper.categories) == ("cs.CV", ("cs.CV", "cs.LG"))
    assert paper.published_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert paper.updated_at == datetime(2026, 2, 3, tzinfo=UTC)
    assert paper.doi == "10.1000/1"
    assert paper.is_day_known
    assert not paper.is_paraphrased


@pytest.mark.parametrize(
    ("name", "paper_ids"),
    [
        ("id_0808.05394_1707.08567_s0_m100_42e5aa0ec3af.xml", [("1707.08567", 1)]),
        ("id_astro-ph_0601001_s0_m100_3150dca9dc76.xml", [("astro-ph/0601001", 1)]),
        ("id_quant-ph_0201082v1_s0_m100_86989fe779ef.xml", [("quant-ph/0201082", 1)]),
        ("id_0000.0000_s0_m100_8b51d9633a68.xml", []),
    ],
)
async def test_recorded_answer_is_read(server, name, paper_ids):
    """Real answers of arXiv, old identifiers among them."""
    server.script([arxiv.recorded(recording(name))])

    found = await page(server.url)

    assert [(each.paper_id, each.version) for each in found.papers] == paper_ids
    assert all(each.title and each.abstract and each.authors and each.categories for each in found.papers)


async def test_recorded_page_of_a_hundred_is_read(server):
    server.script([arxiv.recorded(recording("q_testing_s0_m100_cfe7536492ca.xml"))])

    found = await page(server.url, size=100)

    assert len({each.paper_id for each in found.papers}) == found.entry_count == 100
    assert found.total_count == 214_881
    assert sum(bool(each.doi) for each in found.papers) > 10
    assert not any("\n" in each.title + each.abstract + each.comment + each.journal_ref for each in found.papers)


def recording(name: str) -> bytes:
    if not RECORDINGS.exists():
        pytest.skip("recorded feeds are not beside the repository")
    return (RECORDINGS / name).read_bytes()


async def test_more_than_was_asked_for_is_not_counted(server):
    """A server that ignores the page size must not make the next page start too late."""
    server.script([arxiv.recorded(recording("q_testing_s0_m100_cfe7536492ca.xml"))])

    found = await page(server.url, size=5)

    assert (len(found.papers), found.entry_count) == (5, 5)


async def test_short_page_asks_for_no_more(server):
    """The rest is for the next request, which waits its turn."""
    server.script([arxiv.short_page(2)])

    found = await page(server.url)

    assert (len(found.papers), found.entry_count, found.total_count) == (2, 2, 7)
    assert len(server.requests) == 1


async def test_entry_without_an_identifier_is_left_out(server, caplog):
    body = arxiv.feed(
        [
            RECORDS[0],
            Record(paper_id="?", title="T", abstract="A", published=RECORDS[0].published, updated=RECORDS[0].updated),
        ],
        search_query="",
        id_list="",
        start=0,
        max_results=5,
        total=2,
        updated=RECORDS[0].updated,
    )
    server.script([arxiv.recorded(body)])

    found = await page(server.url)

    assert (len(found.papers), found.entry_count) == (1, 2)
    assert "left out the entry" in caplog.text


@pytest.mark.parametrize(
    ("fault", "problem", "is_passing", "retry_after_s"),
    [
        pytest.param(arxiv.too_many_requests(), "429", True, 0, id="429"),
        pytest.param(arxiv.too_many_requests("7"), "429", True, 7, id="429 with Retry-After"),
        pytest.param(arxiv.rate_exceeded(), "pause", True, 0, id="soft 200"),
        pytest.param(arxiv.unavailable("9"), "503", True, 9, id="503"),
        pytest.param(arxiv.recorded(b"no", status=404), "404", False, 0, id="404"),
        pytest.param(arxiv.html_page(), "no feed", True, 0, id="web page"),
        pytest.param(arxiv.recorded(b""), "no feed", True, 0, id="empty body"),
        pytest.param(arxiv.recorded(b"<feed/>"), "no feed", True, 0, id="other XML"),
        pytest.param(arxiv.cut_feed(), "breaks off", True, 0, id="cut feed"),
        pytest.param(arxiv.broken_off(), "broke off", True, 0, id="cut connection"),
        pytest.param(arxiv.connection_reset(), "broke off", True, 0, id="reset"),
        pytest.param(arxiv.entity_bomb(), "no feed", True, 0, id="entity bomb"),
        pytest.param(arxiv.oversized(24 * 2**20), "20,971,520 bytes", False, 0, id="too big"),
        pytest.param(arxiv.failing_query("bad id"), "refused the query (bad id)", False, 0, id="error feed"),
        pytest.param(
            arxiv.recorded(arxiv.error_feed("bad id", datetime.now(UTC))), "bad id", False, 0, id="error feed with 200"
        ),
    ],
)
async def test_no_page_says_why(server, fault, problem, is_passing, retry_after_s):
    error = await refusal(server, fault)

    assert problem in error.problem
    assert (error.is_passing, error.retry_after_s) == (is_passing, retry_after_s)


@pytest.mark.parametrize("fault", [arxiv.slow(20), arxiv.dripping(0.05)])
async def test_time_limit_holds_for_the_whole_answer(server, fault):
    """Also where a byte now and then keeps the connection alive."""
    error = await refusal(server, fault, timeout_s=0.3)

    assert "no answer within" in error.problem
    assert error.is_passing


async def test_feed_that_defines_entities_is_no_page(server):
    """Even a harmless entity is not put in its place, so the text behind it would be lost."""
    body = page_of_one().replace(b"<feed ", b'<!DOCTYPE feed [<!ENTITY a "b">]><feed ', 1).replace(b"line", b"&a;ine")

    error = await refusal(server, arxiv.recorded(body))

    assert "no feed" in error.problem


def page_of_one() -> bytes:
    record = RECORDS[0]
    return arxiv.feed([record], search_query="", id_list="", start=0, max_results=5, total=1, updated=record.updated)


async def test_date_that_is_none_is_no_page(server):
    error = await refusal(server, arxiv.recorded(page_of_one().replace(b"2026-01-02T03:04:05Z", b"yesterday")))

    assert "cannot be read" in error.problem


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/api/query", "http://arxiv.invalid/api/query"])
async def test_unreachable_server_is_not_worth_another_try(url):
    with pytest.raises(PageUnreadable, match="cannot be reached") as failure:
        await page(url)

    assert not failure.value.is_passing


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 0), ("12", 12), (" 3 ", 3), ("-5", 0), ("soon", 0), ("9" * 400, 86_400), ("Fri, 99 Foo 2025", 0)],
)
def test_seconds_of_retry_after(header, seconds):
    assert seconds_of(header) == seconds


def test_retry_after_may_be_a_date():
    later, earlier = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, -1))

    assert 3_500 < seconds_of(format_datetime(later, usegmt=True)) <= 3_600
    assert seconds_of(format_datetime(earlier, usegmt=True)) == 0


@pytest.mark.parametrize(
    ("fault", "is_throttling"),
    [
        pytest.param(arxiv.too_many_requests(), True, id="429"),
        pytest.param(arxiv.unavailable(), True, id="503"),
        pytest.param(arxiv.rate_exceeded(), True, id="soft 200"),
        pytest.param(arxiv.empty_page(), True, id="empty page"),
        pytest.param(arxiv.html_page(), True, id="web page"),
        pytest.param(arxiv.cut_feed(), False, id="cut feed"),
        pytest.param(arxiv.connection_reset(), False, id="reset"),
        pytest.param(arxiv.failing_query("bad id"), False, id="error feed"),
        pytest.param(arxiv.recorded(b"", status=500), False, id="500"),
    ],
)
async def test_throttling_is_told_from_other_faults(server, fault, is_throttling):
    """After the one everybody pauses, the other costs only a try."""
    assert (await refusal(server, fault)).is_throttling == is_throttling
