"""A model's text becomes prose that names known papers and holds nothing like a link, in pieces as in one."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.common.citations import Reference, render
from services.generation.llm.citing import StreamCleaner, cleaned, keys_in, title_of, without_keys

KEYS = frozenset({"P1", "P2", "P3", "P12"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("It is fast [P1].", "It is fast [P1].", id="one key"),
        pytest.param("Both [P1, P2].", "Both [P1, P2].", id="list"),
        pytest.param("Both [P1; P2].", "Both [P1, P2].", id="list with semicolons"),
        pytest.param("Both [P1][P2].", "Both [P1, P2].", id="neighbours"),
        pytest.param("Both [P1] [P2].", "Both [P1, P2].", id="neighbours with a space"),
        pytest.param("All [P1-P3].", "All [P1, P2, P3].", id="range"),
        pytest.param("All [P1–3].", "All [P1, P2, P3].", id="range with a dash, second letter left out"),
        pytest.param("All [P1\u2011P3].", "All [P1, P2, P3].", id="range with a hyphen that does not break"),
        pytest.param("両者【P1、P2】は速い。", "両者[P1, P2]は速い。", id="Japanese brackets and comma"),
        pytest.param("Both 【P1】【P12】.", "Both [P1, P12].", id="Japanese neighbours"),
        pytest.param("It is [[P1]].", "It is [P1].", id="doubled brackets"),
        pytest.param("It is `[P1]`.", "It is [P1].", id="as code"),
        pytest.param("It is **[P1]**.", "It is **[P1]**.", id="in bold"),
        pytest.param("It is [ P1 , P2 ].", "It is [P1, P2].", id="spaces"),
        pytest.param("Again [P1, P1].", "Again [P1].", id="twice in one"),
        pytest.param("It is [P\u200b1].", "It is [P1].", id="an invisible character in the key"),
        pytest.param("It is [P01].", "It is [P1].", id="leading zero"),
        pytest.param("両者［Ｐ１、Ｐ２］は速い。", "両者[P1, P2]は速い。", id="full width"),
        pytest.param("It is [P 12].", "It is [P12].", id="a space in the key"),
    ],
)
def test_every_accepted_form_of_a_key_becomes_the_one_form(text: str, expected: str):
    result = cleaned(text, KEYS)

    assert result.text == expected
    assert (result.unknown_key_count, result.removed_link_count) == (0, 0)
    assert result.cited_keys == keys_in(expected)


@pytest.mark.parametrize(
    ("text", "expected", "unknown"),
    [
        pytest.param("It is fast [P9].", "It is fast.", 1, id="alone"),
        pytest.param("Both [P1, P9, P12].", "Both [P1, P12].", 1, id="among known ones"),
        pytest.param("It is fast. [P9]. It is small [P1].", "It is fast. It is small [P1].", 1, id="behind the stop"),
        pytest.param("All [P1-P5].", "All [P1, P2, P3].", 2, id="the end of a range"),
        pytest.param("It is fast [3]. 速い[12]。", "It is fast. 速い。", 2, id="numbers of a list nobody has"),
        pytest.param("速い［Ｐ７７］。小さい[\u042077]。", "速い。小さい。", 2, id="look-alikes"),
        pytest.param("The interval [0, 1] and w[0].", "The interval [0, 1] and w[0].", 0, id="no citation at all"),
        pytest.param("Many [P1-P99999].", "Many [P1].", 1, id="an endless range"),
    ],
)
def test_unknown_keys_are_removed_and_counted(text: str, expected: str, unknown: int):
    """The closed set of a call is what it was shown; a longer one would launder invented keys into real papers."""
    result = cleaned(text, KEYS)

    assert (result.text, result.unknown_key_count) == (expected, unknown)


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        pytest.param("See [the page](https://evil.example/a(b)).", "See the page.", 1, id="link"),
        pytest.param('See [a](<https://evil.example> "A title. Really").', "See a.", 1, id="link with a title"),
        pytest.param("![x](https://evil.example/p.png) text", "x text", 1, id="image"),
        pytest.param("[![x](https://e.example/p.png)](https://e.example) text", "x text", 2, id="linked image"),
        pytest.param("Go to https://evil.example/path?q=1 now", "Go to now", 1, id="bare address"),
        pytest.param("Go to HTTPS://EVIL.EXAMPLE now", "Go to now", 1, id="bare address in capitals"),
        pytest.param("Go to www.evil.example now", "Go to now", 1, id="www"),
        pytest.param("Go to github.com/evil/repo now", "Go to now", 1, id="no scheme"),
        pytest.param("Go to arxiv.org/abs/2501.00001 now", "Go to now", 1, id="arXiv address"),
        pytest.param("Go to arXiv:2501.00001v2 now", "Go to now", 1, id="arXiv identifier"),
        pytest.param("Go to doi:10.1000/182 now", "Go to now", 1, id="DOI"),
        pytest.param("Write to eve@evil.example now", "Write to now", 1, id="mail address"),
        pytest.param("Go to [x](mailto:eve@evil.example) now", "Go to x now", 1, id="mail link"),
        pytest.param("<a href='https://evil.example'>x</a> y", "x y", 2, id="HTML link"),
        pytest.param("<img\nsrc=x\nonerror=alert(1)> y", "y", 1, id="tag over lines"),
        pytest.param("<!-- hidden. Really --> y", "y", 1, id="comment"),
        pytest.param("<<b>script>x", "x", 2, id="a tag that a removal uncovers"),
        pytest.param("<https://evil.example>", "", 1, id="autolink"),
        pytest.param("text\n\n[a]: https://evil.example\n", "text", 1, id="reference definition"),
        pytest.param("It is fast [P1](https://evil.example).", "It is fast [P1].", 1, id="a key dressed up as a link"),
        pytest.param("[x](javascript:alert(1))", "x", 1, id="script link"),
        pytest.param("[a\nb](/relative)", "a b", 1, id="link over lines"),
        pytest.param("where p <b holds", r"where p \<b holds", 0, id="a tag that never closes"),
        pytest.param("Precision@10 and mAP@0.5 at p < 0.05.", "Precision@10 and mAP@0.5 at p < 0.05.", 0, id="none"),
    ],
)
def test_links_images_and_html_are_removed_and_counted(text: str, expected: str, removed: int):
    result = cleaned(text, KEYS)

    assert (result.text, result.removed_link_count) == (expected, removed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("# One\n\nTwo.", "One\n\nTwo.", id="heading"),
        pytest.param("One\n===\nTwo.\n---\n", "One\n\nTwo.", id="underlined headings"),
        pytest.param("- One [P1].\n- Two.\n", "One [P1].\n\nTwo.", id="list"),
        pytest.param("1. One.\n2) Two.\n", "One.\n\nTwo.", id="numbered list"),
        pytest.param("・手法。\n・評価。", "手法。\n\n評価。", id="Japanese list"),
        pytest.param("> - ## One\n", "One", id="marks before marks"),
        pytest.param("```python\nx = 1\n```\nEnd.", "x = 1\n\nEnd.", id="fence"),
        pytest.param("| a | b |\n|---|---|\n| One | two |", "a | b |\n\nOne | two |", id="table"),
        pytest.param("    One\n\n\n\n\tTwo", "One\n\nTwo", id="indented"),
        pytest.param("1.5 points - and 3. Not a list.", "1.5 points - and 3. Not a list.", id="no marks"),
        pytest.param("**One** two.", "**One** two.", id="bold stays"),
        pytest.param("[P9]- one", "one", id="a mark that a removal uncovers"),
        pytest.param("[P1]: fast.", r"[P1]\: fast.", id="no definition of a link"),
    ],
)
def test_a_section_holds_prose_paragraphs_only(text: str, expected: str):
    assert cleaned(text, KEYS).text == expected


def test_invisible_characters_are_out():
    assert cleaned("fa\u200bst\u202e er\x07\ue000.", KEYS).text == "fast er."


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        pytest.param("## **Low-rank** [P1] `adaptation`\n", "Low-rank adaptation", 0, id="marks and keys"),
        pytest.param('"Low-rank adaptation"', "Low-rank adaptation", 0, id="quoted"),
        pytest.param('The "low" rank', 'The "low" rank', 0, id="a quote in it"),
        pytest.param("# [Low](https://evil.example) rank", "Low rank", 1, id="link"),
        pytest.param("3. 「低ランク適応」", "低ランク適応", 0, id="numbered and in Japanese quotes"),
        pytest.param("[P9]", "", 0, id="nothing left"),
    ],
)
def test_a_title_is_title_of_of_plain_text_without_keys(text: str, expected: str, removed: int):
    title = title_of(text, KEYS)

    assert (title.text, title.removed_link_count) == (expected, removed)


def test_text_without_its_keys():
    assert without_keys("It is fast [P1, P2].") == "It is fast ."


PIECES = [
    *"[]()<>!?.。！」\n #-*>|`\\,:1あx",
    "[P1]",
    "[P2](",
    "P9",
    "【P12】",
    "[P1-P3]",
    "\n\n",
    ". ",
    "https://evil.example",
    "www.e.e",
    "[a]: ",
    "[a](b)",
    "<b ",
    "</b>",
    "javascript:",
    "word ",
    "- ",
    "1. ",
    "```",
    "===",
    "\u200b",
    "e\u0301",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


def _in_pieces(text: str, cuts: list[int]) -> tuple[StreamCleaner, str]:
    cleaner = StreamCleaner(KEYS)
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    return cleaner, "".join([*map(cleaner.feed, pieces), cleaner.finish()])


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 10_000), max_size=12))
@example(text="fast. [P9]. Small", cuts=[5, 6, 7])
@example(text="</b>>[a]: [", cuts=[])
@example(text="[\n\n]([)", cuts=[3])
@example(text="1. - ## One", cuts=[1, 2, 3, 4, 5, 6, 7])
def test_a_text_in_pieces_comes_out_as_the_whole(text: str, cuts: list[int]):
    """However the provider cuts its stream, what a reader watched grow is what the section holds."""
    cleaner, joined = _in_pieces(text, cuts)

    assert cleaner.whole(joined) == cleaned(text, KEYS)
    assert joined == cleaned(text, KEYS).text


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text=r"\\[a](b)")
@example(text=r"[[P1-P3]\[a](b)")
def test_what_is_left_is_paragraphs_without_links(text: str):
    """An independent reader of Markdown finds neither link nor image, tag, heading, list, table or code block."""
    result = cleaned(text, KEYS)
    tokens = MarkdownIt("commonmark").enable("table").parse(result.text)

    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {"link_open", "image", "html_inline"}
    assert "evil" not in result.text
    assert set(result.cited_keys) <= KEYS


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="</b>```[P1]")
@example(text="[P2](")
@example(text="\\[P1]\n[P1]")
def test_the_gateway_finds_nothing_left_to_remove(text: str):
    """Keys and links are counted once, here; what the gateway renders is what was counted."""
    result = cleaned(text, KEYS)
    rendered = render(result.text, {key: Reference(name=key, url="https://arxiv.org/abs/2501.00001") for key in KEYS})

    assert (rendered.unknown_key_count, rendered.removed_link_count) == (0, 0)
    assert rendered.cited_keys == result.cited_keys


def test_sentences_are_given_out_as_soon_as_they_are_complete():
    cleaner = StreamCleaner(KEYS)

    assert [cleaner.feed(piece) for piece in ("It is fa", "st [P", "1]. It", " is small [P2].", " End")] == [
        "",
        "",
        "It is fast [P1].",
        "",
        " It is small [P2].",
    ]
    assert cleaner.finish() == " End"


def test_a_bracket_that_never_closes_does_not_hold_the_stream_back():
    cleaner = StreamCleaner(KEYS)

    given_out = cleaner.feed("[open. ") + "".join(cleaner.feed("More text. ") for _ in range(60))

    assert given_out.startswith("[open. More text.")


def test_a_hostile_flood_of_brackets_is_cleaned_in_one_go():
    """Text of a model is bounded by its tokens; the work it makes is bounded by its length."""
    cleaner = StreamCleaner(KEYS)

    for _ in range(4_000):
        cleaner.feed("[[[<a ")

    assert "[" in cleaner.finish()
