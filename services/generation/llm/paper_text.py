"""Text of papers as a model may be shown it: cleaned, without look-alikes of keys, between marks it cannot forge."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from services.common.markdown import plain

MAX_TITLE_CHARACTERS = 300
MAX_TEXT_CHARACTERS = 6_000
"""Longest text of one paper in a prompt; the longest abstract of 50,007 real ones has 2,934."""
_KEY_LIKE = re.compile(r"[\[【［]([^\w\]】］]*[PＰ]\d[^\]】］]{0,80})[\]】］]")
_ADDRESS = re.compile(
    r"\b(?:[a-z][a-z0-9+.-]*://|www\.|(?:javascript|mailto):|data:\w+/|(?:[a-z0-9-]+\.)+[a-z]{2,}/)[^\s<>\])】」。、]+",
    re.IGNORECASE,
)
_SELECTORS = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""They choose between forms of a character, show as nothing, and can carry any text."""
_MARKS = re.compile(r"([\u0300-\u036f]{3})[\u0300-\u036f]+")


def shown(text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Return a paper's text as a model may see it: one line, nothing invisible, no address, nothing like a key."""
    visible = _MARKS.sub(r"\1", _SELECTORS.sub("", plain(text[: 4 * limit])))
    return _KEY_LIKE.sub(r"(\1)", _ADDRESS.sub("(address removed)", visible))[:limit]


def nonce_of(*texts: str) -> str:
    """Return a mark that none of the texts holds: their own hash, so that equal prompts stay equal.

    Who writes a text cannot put the mark into it, because putting anything into it changes the mark.
    """
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:16]


def marked(nonce: str, papers: Sequence[Mapping[str, str]]) -> str:
    """Return papers, or anything else in named values, each as one line of JSON, between marks with the nonce."""
    lines = [json.dumps(paper, ensure_ascii=False) for paper in papers]
    return "\n".join([f"<papers {nonce}>", *lines, f"</papers {nonce}>"])


def marked_by_itself(papers: Sequence[Mapping[str, str]]) -> str:
    """Return the same between marks whose nonce is that of what stands between them."""
    return marked(nonce_of(*(text for paper in papers for text in paper.values())), papers)
