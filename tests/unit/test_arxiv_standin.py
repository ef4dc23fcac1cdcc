"""The stand-in answers like arXiv: recorded feeds come out byte for byte, queries mean what the manual says."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from lxml import etree
from standins.arxiv_atom import Author, Record, error_feed, feed
from standins.arxiv_query import QueryError, parse
from standins.arxiv_server import ArxivStandIn, connection_reset, recorded, too_many_requests

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "atom"
NAMESPACES = {
    "a": "http://www.w3.org/2005/Atom",
    "x": "http://arxiv.org/schemas/atom",
    "o": "http://a9.com/-/spec/opensearch/1.1/",
}


def recordings():
    index = RECORDINGS / "index.json"
    if not index.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="recorded feeds are not beside the repository"))]
    return [pytest.param(each, id=each["file"]) for each in json.loads(index.read_text())]


@pytest.mark.parametrize("recording", recordings())
def test_recorded_feed_is_written_again(recording):
    """Elements, their order, attributes and escapes are arXiv's own; only the feed's opaque name differs."""
    body = (RECORDINGS / recording["file"]).read_bytes()
    root = etree.fromstring(body)
    updated = moment(root, "a:updated")
    if recording["status"] == 400:
        written = error_feed(root.findtext("a:entry/a:summary", None, NAMESPACES), updated)
    else:
        asked = parse_qs(urlsplit(root.find("a:link", NAMESPACES).get("href")).query, keep_blank_values=True)
        written = feed(
            [record_in(entry) for entry in root.findall("a:entry", NAMESPACES)],
            search_query=asked["search_query"][0],
            id_list=asked["id_list"][0],
            start=int(asked["start"][0]),
            max_results=int(asked["max_results"][0]),
            total=int(root.findtext("o:totalResults", None, NAMESPACES)),
            updated=updated,
        )

    assert without_name(written) == without_name(body)


def record_in(entry):
    paper_id, version = entry.findtext("a:id", None, NAMESPACES).removeprefix("http://arxiv.org/abs/").rsplit("v", 1)
    return Record(
        paper_id=paper_id,
        version=int(version),
        title=entry.findtext("a:title", None, NAMESPACES),
        abstract=entry.findtext("a:summary", None, NAMESPACES),
        authors=tuple(
            Author(
                name=author.findtext("a:name", None, NAMESPACES),
                affiliations=tuple(each.text for each in author.findall("x:affiliation", NAMESPACES)),
            )
            for author in entry.findall("a:author", NAMESPACES)
        ),
        primary_category=entry.find("x:primary_category", NAMESPACES).get("term"),
        categories=tuple(each.get("term") for each in entry.findall("a:category", NAMESPACES)),
        published=moment(entry, "a:published"),
        updated=moment(entry, "a:updated"),
        comment=entry.findtext("x:comment", "", NAMESPACES),
        journal_ref=entry.findtext("x:journal_ref", "", NAMESPACES),
        doi=entry.findtext("x:doi", "", NAMESPACES),
    )


def moment(element, name):
    return datetime.fromisoformat(element.findtext(name, None, NAMESPACES))


def without_name(body):
    return re.sub(rb"<id>https://arxiv.org/api/[^#<]*</id>", b"", body, count=1)


def record(paper_id, title, abstract="", **fields):
    published = fields.pop("published", datetime(2025, 1, 1, tzinfo=UTC))
    return Record(paper_id=paper_id, title=title, abstract=abstract, published=published, updated=published, **fields)


LIBRARY = [
    record("2501.00001", "Gaussian splatting", "fast rendering", categories=("cs.CV", "cs.GR")),
    record("2501.00002", "Splatting Gaussian kernels", "rendering of scenes", categories=("cs.GR",)),
    record("2501.00003", "Video generation", "a diffusion model", authors=(Author(name="Ada Del Maestro"),)),
    record("2412.00004", "Old video", "of a model", published=datetime(2024, 12, 31, 23, 59, tzinfo=UTC)),
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param("all:splatting", ["1", "2"], id="one word"),
        pytest.param("SPLATTING", ["1", "2"], id="all is the default field, case is nothing"),
        pytest.param("gaussian video", ["1", "2", "3", "4"], id="unquoted words are OR"),
        pytest.param("all:gaussian video", ["1", "2", "3", "4"], id="the field holds for its own word"),
        pytest.param('"gaussian splatting"', ["1"], id="a phrase stands side by side"),
        pytest.param('ti:"splatting gaussian"', ["2"], id="a phrase in a field"),
        pytest.param("ti:rendering", [], id="title only"),
        pytest.param("abs:rendering", ["1", "2"], id="abstract only"),
        pytest.param("au:del_maestro", ["3"], id="author"),
        pytest.param("cat:cs.cv", ["1"], id="category"),
        pytest.param("cat:cs.*", ["1", "2"], id="category with a star"),
        pytest.param("abs:rendering AND cat:cs.CV", ["1"], id="AND"),
        pytest.param("abs:rendering ANDNOT cat:cs.CV", ["2"], id="ANDNOT"),
        pytest.param("ti:video OR cat:cs.CV", ["1", "3", "4"], id="OR"),
        pytest.param("ti:splatting OR ti:video AND abs:diffusion", ["1", "2", "3"], id="AND binds tighter"),
        pytest.param("(ti:splatting OR ti:video) AND abs:diffusion", ["3"], id="parentheses"),
        pytest.param("abs:(diffusion OR scenes)", ["2", "3"], id="a field before parentheses"),
        pytest.param("ti:video AND submittedDate:[202412312359 TO 202412312359]", ["4"], id="dates, ends included"),
        pytest.param("submittedDate:[20250101 TO 20260101]", ["1", "2", "3"], id="days without a time"),
        pytest.param("exploration", [], id="nothing"),
    ],
)
def test_query_finds(query, found):
    test = parse(query).matches

    assert [each.paper_id[-1] for each in LIBRARY if test(each)] == found


@pytest.mark.parametrize("query", ["(ti:video", "ti:video)", "nofield:video", "ti:video AND", "ti:[2 TO 3]", '"'])
def test_broken_query_is_refused(query):
    with pytest.raises(QueryError):
        parse(query)


async def test_pages_and_orders():
    async with ArxivStandIn(LIBRARY) as arxiv, aiohttp.ClientSession() as http:
        newest = await ids(http, arxiv.url, search_query="model OR rendering", sortBy="submittedDate", max_results="2")
        rest = await ids(
            http, arxiv.url, search_query="model OR rendering", sortBy="submittedDate", start="2", max_results="2"
        )
        oldest = await ids(
            http, arxiv.url, search_query="model OR rendering", sortBy="submittedDate", sortOrder="ascending"
        )
        nearest = await ids(http, arxiv.url, search_query="video diffusion model")

    assert newest + rest == ["2501.00003v1", "2501.00002v1", "2501.00001v1", "2412.00004v1"]
    assert oldest == [*reversed(newest + rest)]
    assert nearest == ["2501.00003v1", "2412.00004v1"]


async def test_id_list_limits_and_names():
    async with ArxivStandIn(LIBRARY) as arxiv, aiohttp.ClientSession() as http:
        listed = await ids(http, arxiv.url, id_list="2501.00001,2501.00003v1,2501.00002v9,1001.00001")
        both = await ids(http, arxiv.url, id_list="2501.00001,2501.00003", search_query="ti:video")
        async with http.get(arxiv.url, params={"id_list": "abc"}) as response:
            refused = response.status, await response.text()

    assert sorted(listed) == ["2501.00001v1", "2501.00003v1"]
    assert both == ["2501.00003v1"]
    assert refused[0] == 400
    assert "/api/errors#incorrect_id_format_for_abc" in refused[1]


async def test_script_is_played_once_and_requests_are_logged():
    async with ArxivStandIn(LIBRARY) as arxiv, aiohttp.ClientSession() as http:
        resets = [connection_reset()] * 2  # this client asks once more by itself
        arxiv.script([too_many_requests("7"), None, recorded(b"as it was"), *resets])
        async with http.get(arxiv.url, params={"search_query": "video", "start": "1"}) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert await ids(http, arxiv.url, search_query="diffusion") == ["2501.00003v1"]
        async with http.get(arxiv.url) as response:
            assert await response.read() == b"as it was"
        with pytest.raises(aiohttp.ClientError):
            await http.get(arxiv.url)
        assert await ids(http, arxiv.url, search_query="diffusion") == ["2501.00003v1"]

    assert [(each.query, each.start) for each in arxiv.requests][:2] == [("video", 1), ("diffusion", 0)]
    assert [each.started_at for each in arxiv.requests] == sorted(each.started_at for each in arxiv.requests)


async def test_sample_lines_and_corpus_lines_become_records():
    """A line that knows no version or day gets those arXiv would have."""
    line = {"id": "2504.07998", "version": None, "title": "T", "abstract": "A", "authors": ["Ada L"], "date": "2025-04"}
    async with ArxivStandIn([line]) as arxiv, aiohttp.ClientSession() as http:
        assert await ids(http, arxiv.url, search_query="au:ada") == ["2504.07998v1"]


async def ids(http, url, **params):
    async with http.get(url, params=params) as response:
        root = etree.fromstring(await response.read())
    found = [each.text for each in root.findall("a:entry/a:id", NAMESPACES)]
    return [each.removeprefix("http://arxiv.org/abs/") for each in found]
