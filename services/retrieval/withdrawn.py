"""Whether a record says that its paper was withdrawn; arXiv has no field for it, only the authors' words."""

import dataclasses
import re

from services.common.papers import Paper

_PAPER = r"(?:paper|article|submission|manuscript|preprint|work|document|report|note|version|draft)"
_THIS = rf"(?:this|the|our)\s+(?:\w+\s+)?{_PAPER}"
_BE = r"(?:is|was|has\s+been|have\s+been|had\s+been|is\s+being|are)"
_ADVERB = r"(?:\s+(?:already|now|temporarily|hereby|permanently|formally|voluntarily))?"
_BY = r"by\s+(?:the\s+)?(?:\w+\s+)?(?:authors?|arxiv|administrators?|admins?|submitters?)"
# A talk or a journal that a paper was taken back from says nothing about the paper on arXiv.
_ELSEWHERE = r"(?!\s+from\s+(?!(?:the\s+)?arxiv))"

_SENTENCES = re.compile(
    rf"\b{_THIS}(?:\s*\([^)]*\))?\s+{_BE}{_ADVERB}\s+(?:withdrawn|withdrawal|retracted){_ELSEWHERE}"
    rf"|\b(?:we|authors?)\s+(?:\w+\s+){{0,3}}withdr[ae]w(?:n|ing)?\s+(?:this|our)\s+{_PAPER}{_ELSEWHERE}",
    re.IGNORECASE,
)
_REMARKS = re.compile(
    rf"^\W*(?:{_PAPER}\s+)?(?:withdrawn|withdrawing|retracted)\b{_ELSEWHERE}"
    rf"|\bwithdrawn\s+{_BY}"
    rf"|\b{_PAPER}\s+{_BE}{_ADVERB}\s+withdrawn{_ELSEWHERE}"
    rf"|\bso\s+this\s+{_BE}{_ADVERB}\s+withdrawn",
    re.IGNORECASE,
)


def marked_if_withdrawn(paper: Paper) -> Paper:
    """Return the paper, flagged when its comment or its abstract says that it was withdrawn."""
    if paper.is_withdrawn or not says_withdrawn(paper.comment, paper.abstract):
        return paper
    return dataclasses.replace(paper, is_withdrawn=True)


def says_withdrawn(comment: str, abstract: str) -> bool:
    """Return whether one of the two says so of the paper itself.

    A comment may say it in one word; an abstract that is about withdrawals must speak of this very paper.
    """
    return bool(_SENTENCES.search(abstract) or _SENTENCES.search(comment) or _REMARKS.search(comment))
