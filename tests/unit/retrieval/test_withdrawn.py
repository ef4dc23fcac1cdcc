"""Whether a record says that its paper was withdrawn: phrases as authors write them, and some that look alike."""

from datetime import UTC, datetime

import pytest

from services.common.papers import Paper
from services.retrieval.withdrawn import marked_if_withdrawn, says_withdrawn


@pytest.mark.parametrize(
    "comment",
    [
        "This paper has been withdrawn by the author due to a sign error in equation 3",
        "This paper has been withdrawn",
        "This submission has been withdrawn by arXiv administrators due to disputed authorship",
        "12 pages, 3 figures. This paper is withdrawn because Lemma 2 is wrong",
        "The article is already withdrawn",
        "The paper was withdrawn from arXiv, as its author wishes",
        "Because of a conflict of interest the manuscript is withdrawal",
        "Withdrawn",
        "withdrawn.",
        "Withdrawn by authors: the proof of Theorem 1 does not hold",
        "Withdrawn, an extended version appears elsewhere",
        "Withdrawing, as an acknowledgement is missing",
        "Paper withdrawn",
        "[WITHDRAWN] superseded",
        "another version is newer, so this is withdrawn",
        "The bound is wrong. For this reason, it has been withdrawn by the authors",
        "We have decided to withdraw this paper in order to rewrite it",
        "The authors have withdrawn this manuscript",
        "This work has been retracted",
    ],
)
def test_comment_that_withdraws(comment):
    assert says_withdrawn(comment, "We study graphs.")


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "12 pages, accepted at a workshop",
        "The paper was withdrawn from the conference because of a misunderstanding with my employer",
        "Withdrawn from a workshop, now under review elsewhere",
        "Over an unpaid fee the authors withdrew the paper after it was accepted by a journal",
        "Equations 7 to 10 need to be withdrawn and revised",
        "The other writings to be withdrawn are 1503.00001 and 1412.00002",
        "Replaces an earlier paper with a wrong proof",
        "A study of cash withdrawal",
        "How opioids are withdrawn",
    ],
)
def test_comment_that_does_not(comment):
    assert not says_withdrawn(comment, "We study graphs.")


@pytest.mark.parametrize(
    ("abstract", "is_withdrawn"),
    [
        ("This paper has been withdrawn by the authors due to an error in the proof.", True),
        ("We show X. This paper has been withdrawn.", True),
        ("The authors have withdrawn this paper.", True),
        ("We withdraw this submission, since its data were wrong.", True),
        ("Papers withdrawn from arXiv are used to test how well models find errors.", False),
        ("We model the reflex of withdrawal from a tap, and a drug that was withdrawn by its maker.", False),
        ("Troops were withdrawn by the authorities, as this paper shows.", False),
        ("Withdrawn by authors or editors, many articles go on being cited; we count how often.", False),
        ("This paper discusses articles that have been withdrawn.", False),
        ("Retracted articles are cited for years.", False),
    ],
)
def test_abstract_must_speak_of_its_own_paper(abstract, is_withdrawn):
    assert says_withdrawn("", abstract) == is_withdrawn


def test_flag_stays_and_is_added():
    fields = {"paper_id": "2601.00001", "title": "T", "abstract": "", "published_at": datetime(2026, 1, 1, tzinfo=UTC)}

    assert marked_if_withdrawn(Paper(**fields, comment="Withdrawn")).is_withdrawn
    assert marked_if_withdrawn(Paper(**fields, is_withdrawn=True)).is_withdrawn
    assert not marked_if_withdrawn(Paper(**fields)).is_withdrawn
