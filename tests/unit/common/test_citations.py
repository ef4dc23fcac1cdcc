"""Keys become links, and nothing else does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.common.citations import Reference, StreamRenderer, in_one_form, render

REFERENCES = {f"P{n}": Reference(name=f"Name{n}", url=f"https://arxiv.org/abs/2501.0000{n}") for n in range(1, 6)}
ONE, TWO, THREE = (f"[Name{n}](https://arxiv.org/abs/2501.0000{n})" for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        pytest.param("It halves the cost [P1].", f"It halves the cost ({ONE}).", id="behind a claim, in brackets"),
        pytest.param("[P1] halves the cost.", f"{ONE} halves the cost.", id="as the subject, bare"),
        pytest.param("Unlike [P1], it is fast.", f"Unlike {ONE}, it is fast.", id="after a preposition, bare"),
        pytest.param("Both help [P1, P2].", f"Both help ({ONE}, {TWO}).", id="list"),
        pytest.param("Both help [P1][P2].", f"Both help ({ONE}, {TWO}).", id="neighbours"),
        pytest.param("All help [P1-P3].", f"All help ({ONE}, {TWO}, {THREE}).", id="range"),
        pytest.param("All help [P1\u2011P3].", f"All help ({ONE}, {TWO}, {THREE}).", id="range with another hyphen"),
        pytest.param("[P1]: it is fast.", f"{ONE}: it is fast.", id="before a colon, which defines no link"),
        pytest.param("Both help [P1, 2].", f"Both help ({ONE}, {TWO}).", id="second key without its letter"),
        pytest.param("費用を半減する【P1】。", f"費用を半減する（{ONE}）。", id="Japanese brackets"),
        pytest.param("[P1]は速い。", f"{ONE}は速い。", id="Japanese subject"),
        pytest.param("It is fast. [P1]", f"It is fast. ({ONE})", id="behind the full stop"),
        pytest.param(r"The set \[P1\] is open.", r"The set \[P1\] is open.", id="an abstract's own brackets stay text"),
        pytest.param("Twice [P1, P1].", f"Twice ({ONE}).", id="the same key twice"),
    ],
)
def test_accepted_forms_become_links(text: str, rendered: str):
    assert render(text, REFERENCES).text == rendered


def test_unknown_keys_are_removed_and_counted():
    """An invented key must neither show nor be laundered into a paper."""
    result = render("It is fast [P9]. Small too [P1, P77]. [P9, P8].", REFERENCES)

    assert result.text == f"It is fast. Small too ({ONE})."
    assert result.cited_keys == ("P1",)
    assert result.unknown_key_count == 4


def test_cited_keys_come_in_the_order_of_first_mention():
    assert render("[P3] and [P1], then [P3].", REFERENCES).cited_keys == ("P3", "P1")


@pytest.mark.parametrize(
    ("text", "rendered", "removed"),
    [
        pytest.param("See [the page](https://evil.example/a(b)).", "See the page.", 1, id="link"),
        pytest.param("![x](https://evil.example/p.png) text", "x text", 1, id="image"),
        pytest.param("Go to https://evil.example/path?q=1 now", "Go to now", 1, id="bare address"),
        pytest.param("Go to www.evil.example now", "Go to now", 1, id="www"),
        pytest.param("看はhttps://evil.example/pathを", "看はを", 1, id="address within Japanese"),
        pytest.param("[![x](https://e.example/p)](https://e.example) y", "x y", 2, id="an image in a link"),
        pytest.param("[a\nb]: https://evil.example", "", 1, id="definition over two lines"),
        pytest.param("> [a]: https://evil.example", "", 1, id="definition within a quotation"),
        pytest.param(r"\\[a](b) c", r"\\a c", 1, id="behind a backslash that is itself escaped"),
        pytest.param("<div x", r"\<div x", 0, id="a tag that never ends"),
        pytest.param("w [a [b] c](d)", "w [a [b] c] (d)", 0, id="brackets in a link's text"),
        pytest.param("<script>alert(1)</script>x", "alert(1)x", 2, id="tags"),
        pytest.param("<<b>script>x", "x", 2, id="a tag that a removal uncovers"),
        pytest.param("<https://evil.example>", "", 1, id="autolink"),
        pytest.param("text\n[a]: https://evil.example\n", "text", 1, id="reference definition"),
        pytest.param("[P1](https://evil.example)", "P1", 1, id="a key dressed up as a link"),
        pytest.param("[x](javascript:alert(1))", "x", 1, id="script link"),
    ],
)
def test_links_of_the_text_are_removed_and_counted(text: str, rendered: str, removed: int):
    result = render(text, REFERENCES)

    assert result.text == rendered
    assert result.removed_link_count == removed


def test_links_nested_deeper_than_anybody_would_are_no_links():
    """What is left of them after many rounds is shown as text."""
    text = "x"
    for _ in range(60):
        text = f"[{text}](</y>)"

    assert links_in(render(text, REFERENCES).text) == set()


def test_a_citation_at_a_paragraphs_end_does_not_draw_the_next_paragraph_up():
    """Neighbouring citations are one, but not over the end of a line."""
    assert render("速い[P1]\n\n[P2]は軽い。", REFERENCES).text == f"速い（{ONE}）\n\n{TWO}は軽い。"


def test_keys_in_one_form():
    """The same reading of keys, without links: what a writer's text is kept as."""
    result = in_one_form("Both [P1][P2], 【P3】 and [P9] [x](https://evil.example).", {"P1", "P2", "P3"})

    assert result.text == "Both [P1, P2], [P3] and x."
    assert (result.cited_keys, result.unknown_key_count, result.removed_link_count) == (("P1", "P2", "P3"), 1, 1)


def test_what_leads_elsewhere_without_a_link_stays_in_the_words_of_papers_only():
    """An abstract may say where its code is; a writer has no business to."""
    text = "Code: github.com/a/b, doi:10.1000/182, arXiv:2501.00009, eve@evil.example [P1]."

    assert render(text, REFERENCES).text == text.replace("[P1]", f"({ONE})")
    assert in_one_form(text, REFERENCES).text == "Code: [P1]."
    assert in_one_form(text, REFERENCES).removed_link_count == 4


def test_markdown_in_a_title_shows_as_text_in_its_link():
    result = render("[P1] is.", {"P1": Reference(name="A [b](c) *d* <e>", url="https://arxiv.org/abs/2501.00001")})

    assert result.text == r"[A \[b\](c) \*d\* \<e\>](https://arxiv.org/abs/2501.00001) is."


PIECES = [
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    "!",
    "\\",
    "\n",
    " ",
    "[P1]",
    "[P2](",
    "P9",
    "https://evil.example",
    "//",
    ":",
    "www.e.e",
]
PIECES += ["[a]: ", "[a]", "<b ", "javascript:", "あ。", "x", "*", "`"]


def links_in(markdown: str) -> set[str]:
    """Return what an independent parser takes for links, images and HTML."""
    found: set[str] = set()
    for block in MarkdownIt("commonmark").parse(markdown):
        for token in (block, *(block.children or ())):
            if token.type in {"html_block", "html_inline"}:
                found.add(token.content)
            found.update(str(value) for name, value in token.attrs.items() if name in {"href", "src"})
    return found


@settings(max_examples=400)
@given(text=st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_whatever_the_text_every_link_left_is_one_of_ours(text: str):
    rendered = render(text, REFERENCES).text

    assert links_in(rendered) <= {reference.url for reference in REFERENCES.values()}
    assert "https://evil" not in rendered


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_streamed_text_reads_as_the_whole(size: int):
    """Watchers must see what the survey will hold, however the pieces were cut."""
    text = "It halves cost [P1]. And [P2, P3] is new.\n\n二番目 [P1]。[P2]は違う。 See [x](https://evil.example). End."
    renderer = StreamRenderer(REFERENCES)

    shown = "".join(renderer.feed(text[at : at + size]) for at in range(0, len(text), size)) + renderer.finish()

    assert shown == render(text, REFERENCES).text


def test_a_bracket_that_never_closes_does_not_hold_the_stream_back():
    renderer = StreamRenderer(REFERENCES)

    shown = "".join(renderer.feed("word ") for _ in range(10)) + renderer.feed("[") + renderer.feed("open text " * 60)

    assert "open text open text" in shown
