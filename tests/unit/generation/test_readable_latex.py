"""LaTeX read out: what stands in a survey must read like print."""

import unicodedata

import pytest

from services.generation.extractive.latex import MAX_CHARACTERS, readable


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        pytest.param("a 2.5$\\times$ speed-up", "a 2.5× speed-up", id="symbol"),
        pytest.param("\\textbf{Bold} and \\emph{italic} {\\em old}", "Bold and italic old", id="commands"),
        pytest.param("\\textbf{Phase-wise \\textbf{S}elf-\\textbf{R}eward}", "Phase-wise Self-Reward", id="nested"),
        pytest.param("``quoted'' and `single'", "“quoted” and ‘single’", id="quotes"),
        pytest.param("in $O(n \\log n)$ time", "in O(n log n) time", id="formula"),
        pytest.param("$O(n\\log n)$", "O(n log n)", id="function-glued"),
        pytest.param("Res$^2$CLIP", "Res²CLIP", id="power"),
        pytest.param("at $10^{-3}$", "at 10⁻³", id="negative-power"),
        pytest.param("a $360^\\circ$ view", "a 360° view", id="degrees"),
        pytest.param("$\\frac{1}{2}$ of $\\sqrt{n}$ and $\\sqrt{n+1}$", "1/2 of √n and √(n+1)", id="fractions"),
        pytest.param("by $ 96.77\\%$ and 50% more", "by 96.77% and 50% more", id="percent-is-no-comment"),
        pytest.param("costs $5 to $10 a run", "costs $5 to $10 a run", id="money"),
        pytest.param("G\\\"odel, Upernavik Isstr{\\o}m, \\'Etale", "Gödel, Upernavik Isstrøm, Étale", id="accents"),
        pytest.param("Fig.~2 of et al.~\\cite{x}", "Fig. 2 of et al.", id="ties-and-citations"),
        pytest.param("long--range, a --- b", "long–range, a — b", id="dashes"),
        pytest.param("We introduce \\wmw, a tool", "We introduce wmw, a tool", id="own-macro"),
        pytest.param("Code: \\url{https://x.org/a}. More at https://x.org/b_c.", "Code:. More at", id="addresses-go"),
        pytest.param("see \\href{https://x.org}{the page}", "see the page", id="link-text-stays"),
        pytest.param("the set \\{0,1\\}", "the set {0,1}", id="braces-meant"),
        pytest.param("a {LoRA} model", "a LoRA model", id="braces-unmeant"),
        pytest.param("a\u202eb\u200bc\x07 d", "abc d", id="invisible"),
        pytest.param("plain text", "plain text", id="plain"),
        pytest.param("", "", id="empty"),
    ],
)
def test_latex_is_read_out(written: str, printed: str):
    assert readable(written) == printed


def test_real_abstracts_hold_no_commands_afterwards(arxiv_papers):
    """Of 300 abstracts hardly any keeps a backslash, none a control or bidirectional character."""
    texts = [readable(paper.abstract) for paper in arxiv_papers]

    assert sum("\\" in text for text in texts) <= len(texts) // 100
    assert not [c for text in texts for c in text if unicodedata.category(c) in {"Cc", "Cf", "Co"}]


def test_plain_abstracts_keep_every_word(library):
    """Where there is no LaTeX nothing is lost."""
    for papers in library.values():
        for paper in papers:
            assert readable(paper.abstract).split() == paper.abstract.split()


@pytest.mark.parametrize("piece", ["{", "\\href{", "$", "\\frac{a}", "``", "\\[", "(1) ", "it these "])
def test_a_hostile_text_ends_soon_and_short(piece: str):
    """What is read of a text has an end, whatever it repeats."""
    assert len(readable(piece * 100_000)) <= MAX_CHARACTERS
