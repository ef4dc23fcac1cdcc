import hashlib
import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.common.papers import Paper
from services.embedding.payloads import paper_in, payload_of

MOMENTS = st.datetimes(timezones=st.just(UTC))
TEXTS = st.text(max_size=20)
PAPERS = st.builds(
    Paper,
    paper_id=TEXTS,
    title=TEXTS,
    abstract=TEXTS,
    published_at=MOMENTS,
    version=st.none() | st.integers(1, 2**32 - 1),
    authors=st.lists(TEXTS, max_size=3).map(tuple),
    primary_category=TEXTS,
    categories=st.lists(TEXTS, max_size=3).map(tuple),
    is_day_known=st.booleans(),
    updated_at=st.none() | MOMENTS,
    comment=TEXTS,
    doi=TEXTS,
    journal_ref=TEXTS,
    is_paraphrased=st.booleans(),
)


@given(PAPERS)
def test_a_paper_comes_back_from_its_payload_through_json(paper: Paper):
    """JSON is what a store makes of a payload; a found paper must be the one that was embedded."""
    assert paper_in(json.loads(json.dumps(payload_of(paper, "hash")))) == paper


def test_payload_holds_the_whole_record():
    """Its names and forms are what operators see in a store, and what filters are applied to."""
    full = Paper(
        paper_id="1706.03762",
        version=7,
        title="Attention",
        abstract="We propose.",
        published_at=datetime(2017, 6, 12, 17, 57, 34, tzinfo=UTC),
        authors=("Ada A", "Ben B"),
        primary_category="cs.CL",
        categories=("cs.CL", "cs.LG"),
        updated_at=datetime(2023, 8, 2, tzinfo=UTC),
        comment="15 pages",
    )
    text_hash = hashlib.sha256(b"Attention\nWe propose.").hexdigest()

    assert payload_of(full, text_hash) == {
        "paper_id": "1706.03762",
        "version": 7,
        "title": "Attention",
        "abstract": "We propose.",
        "published_at": "2017-06-12T17:57:34Z",
        "is_day_known": True,
        "updated_at": "2023-08-02T00:00:00Z",
        "authors": ["Ada A", "Ben B"],
        "primary_category": "cs.CL",
        "categories": ["cs.CL", "cs.LG"],
        "comment": "15 pages",
        "doi": "",
        "journal_ref": "",
        "is_paraphrased": False,
        "is_withdrawn": False,
        "text_hash": text_hash,
    }


def test_payload_leaves_out_what_is_not_known():
    paper = Paper(paper_id="2101.00001", title="T", abstract="", published_at=datetime(2021, 1, 1, tzinfo=UTC))

    assert not {"version", "updated_at"} & set(payload_of(paper, "hash"))
