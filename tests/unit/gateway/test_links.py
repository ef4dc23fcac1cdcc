"""Links come from records."""

from datetime import UTC, datetime

import pytest

from gateway.document.links import short_name_of, url_of
from services.common.papers import Paper


def paper(paper_id: str, version: int | None) -> Paper:
    return Paper(
        paper_id=paper_id, version=version, title="T", abstract="", published_at=datetime(2024, 1, 1, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("paper_id", "version", "url"),
    [
        ("1706.03762", 7, "https://arxiv.org/abs/1706.03762v7"),
        ("1706.03762", None, "https://arxiv.org/abs/1706.03762"),
        ("astro-ph/0601001", 1, "https://arxiv.org/abs/astro-ph/0601001v1"),
    ],
)
def test_an_address_names_the_version_only_where_it_is_known(paper_id: str, version: int | None, url: str):
    assert url_of(paper(paper_id, version)) == url


@pytest.mark.parametrize(
    ("title", "name"),
    [
        pytest.param("ZipLoRA: Any Subject in Any Style", "ZipLoRA", id="up to the colon"),
        pytest.param("Attention Is All You Need", "Attention Is All You Need", id="a short title whole"),
        pytest.param(f"{'word ' * 20}: x", "word word word word word word word word word word word word…", id="long"),
        pytest.param(": a title that begins with a colon", ": a title that begins with a colon", id="empty name"),
        pytest.param("x" * 80, "x" * 60 + "…", id="no blank to cut at"),
    ],
)
def test_a_short_name_is_the_title_to_its_colon_or_its_beginning(title: str, name: str):
    assert short_name_of(title) == name
