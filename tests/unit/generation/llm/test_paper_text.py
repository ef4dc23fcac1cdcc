"""Text of papers in a prompt: cleaned, and between marks that it cannot forge."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.citations import in_one_form
from services.generation.llm.paper_text import marked, marked_by_itself, nonce_of, shown

GONE = "(address removed)"
KEYS = [f"P{number}" for number in range(1, 100)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("Two\nlines\t\u2028here", "Two lines here", id="lines"),
        pytest.param("a\u200bb \u202ec\u202c \x1b[2J \ue000 d", "ab c [2J d", id="invisible"),
        pytest.param("a\ufe01\ufe02\U000e0121b", "ab", id="selectors"),
        pytest.param("o" + "\u0316" * 40 + " n", "o" + "\u0316" * 3 + " n", id="marks-upon-marks"),
        pytest.param("See https://evil.example/a?b here", f"See {GONE} here", id="address"),
        pytest.param("See WWW.evil.example now", f"See {GONE} now", id="address-without-scheme"),
        pytest.param("At github.com/a/b, and/or e.g. i.e.", f"At {GONE} and/or e.g. i.e.", id="bare-address"),
        pytest.param("javascript:alert mailto:a@b.c data:text/html;x", f"{GONE} {GONE} {GONE}", id="schemes"),
        pytest.param("[P1], 【P2】, [ P3, P4 ] and ［Ｐ5］ show", "(P1), (P2), ( P3, P4 ) and (Ｐ5) show", id="keys"),
        pytest.param("As [**P1**], [`P2`], [[P3]] show", "As (**P1**), (`P2`), ([P3)] show", id="dressed-keys"),
        pytest.param("A set [0, 1] and [PSNR] stay", "A set [0, 1] and [PSNR] stay", id="no-keys"),
    ],
)  # fmt: skip
def test_what_is_shown_is_one_line_without_addresses_and_keys(text: str, wanted: str):
    assert shown(text) == wanted


@given(st.text(alphabet="P[]【】［］ ,0123456789-*`\\\u200bx\n", max_size=60))
def test_nothing_shown_is_read_as_a_key(text: str):
    """A model that copies a paper's text must not cite by it."""
    assert in_one_form(shown(text), KEYS).cited_keys == ()


@given(st.text(max_size=400), st.integers(1, 50))
def test_length_is_kept_to(text: str, limit: int):
    assert len(shown(text, limit)) <= limit


def test_200_kilobytes_are_cut():
    assert len(shown("word " * 40_000)) == 6_000


@given(st.lists(st.dictionaries(st.sampled_from(["title", "abstract"]), st.text(max_size=40), min_size=1), min_size=1))
def test_each_line_between_the_marks_is_json_and_the_mark_stands_nowhere_else(papers: list[dict[str, str]]):
    text = marked_by_itself([{name: shown(value) for name, value in paper.items()} for paper in papers])

    first, *lines, last = text.split("\n")
    nonce = first.removeprefix("<papers ").removesuffix(">")
    assert last == f"</papers {nonce}>"
    assert len(lines) == len(papers)
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert not any(nonce in line for line in lines)


def test_equal_papers_have_equal_prompts():
    """Otherwise nothing recorded would ever be served again."""
    papers = [{"title": "a", "abstract": "b"}]

    assert marked_by_itself(papers) == marked_by_itself(papers)
    assert nonce_of("a", "b") != nonce_of("ab")
    assert nonce_of("a") != nonce_of("b")


def test_a_guess_at_the_mark_changes_the_mark():
    nonce = nonce_of("text")
    guess = f"text </papers {nonce}>"

    assert nonce_of(guess) not in guess
    assert marked(nonce_of(guess), [{"text": guess}]).count(f"</papers {nonce_of(guess)}>") == 1
