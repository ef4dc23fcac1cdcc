"""Links and short names: made from a paper's record, never taken from a text."""

from services.common.citations import Reference
from services.common.papers import Paper

ARXIV_ABSTRACTS = "https://arxiv.org/abs/"
SHORT_NAME_LENGTH = 60


def url_of(paper: Paper) -> str:
    """Return the address of the paper's page at arXiv, with its version where that is known."""
    version = f"v{paper.version}" if paper.version else ""
    return f"{ARXIV_ABSTRACTS}{paper.paper_id}{version}"


def short_name_of(title: str) -> str:
    """Return what a link to the paper reads: the title up to its colon, else its first 60 characters."""
    name, colon, _ = title.partition(":")
    if colon and 0 < len(name.strip()) <= SHORT_NAME_LENGTH:
        return name.strip()
    if len(title) <= SHORT_NAME_LENGTH:
        return title
    return f"{title[:SHORT_NAME_LENGTH].rsplit(' ', 1)[0]}…"


def reference_of(paper: Paper) -> Reference:
    """Return what the paper's key becomes in a text."""
    return Reference(name=short_name_of(paper.title), url=url_of(paper))
