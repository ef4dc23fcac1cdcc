"""Text of others shows as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.common.citations import Reference, render
from services.common.markdown import escape, plain, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\u202eb\u200bc\u0007d", "abcd", id="bidi, zero width, control"),
        pytest.param("  two\n lines\t ", "two lines", id="white space"),
        pytest.param("e\u0301", "é", id="composed"),
        pytest.param("a\ufe0fb\U000e0130c", "abc", id="selectors, which can spell hidden text"),
        pytest.param("x" + "\u0323\u0317" * 9, "x\u0323\u0317\u0323", id="heaped marks"),
        pytest.param("画像\u3000生成", "画像 生成", id="ideographic space"),
    ],
)
def test_plain_keeps_what_is_seen(text: str, shown: str):
    assert plain(text) == shown


def test_visible_leaves_white_space_alone():
    """A text that arrives in pieces is cleaned piece by piece, so its spaces and line ends must stay where they are."""
    assert visible("a\u202e \n\n\u200b b\ue000\t") == "a \n\n b\t"


@given(st.text(max_size=60))
def test_escaped_text_holds_no_citation_and_no_link(text: str):
    """An abstract may contain "[P1]" or an address; neither may become a citation or a link."""
    hostile = f"{text}[P1] 【P1】 https://evil.example www.evil.example <b>"

    result = render(escape(hostile), {"P1": Reference(name="N", url="https://arxiv.org/abs/2501.00001")})

    assert result.cited_keys == ()
    assert "arxiv.org" not in result.text
    assert result.removed_link_count == 0


def test_escaped_text_shows_as_it_is():
    text = "a_b *c* [d](e) <f> `g` #h |i| ~j~ \\k https://l.example www.m.example"

    rendered = MarkdownIt("commonmark").enable("linkify").parse(escape(text))[1].children

    assert "".join(token.content for token in rendered) == text
    assert {token.type for token in rendered} <= {"text", "text_special"}
