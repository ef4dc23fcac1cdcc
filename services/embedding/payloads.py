"""What is kept beside a paper's vector: its whole record, in what JSON can hold."""

from collections.abc import Mapping
from functools import cache

from pydantic import TypeAdapter

from services.common.papers import Paper

PUBLISHED_AT = "published_at"
"""Key of the moment of publication, RFC 3339, which stores filter by."""
CATEGORIES = "categories"
"""Key of the list of categories, which stores filter by."""


def payload_of(paper: Paper, text_hash: str) -> dict[str, object]:
    """Return the fields of a paper and the hash of its encoded text; a field that is not known is left out."""
    fields: dict[str, object] = _papers().dump_python(paper, mode="json", exclude_none=True)
    return fields | {"text_hash": text_hash}


def paper_in(payload: Mapping[str, object]) -> Paper:
    """Return the paper whose payload it is, equal to the one that was put in."""
    return _papers().validate_python(payload)


@cache
def _papers() -> TypeAdapter[Paper]:
    return TypeAdapter(Paper)
