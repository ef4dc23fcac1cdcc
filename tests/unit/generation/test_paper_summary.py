"""Summaries: true to the abstract, problem and method, readable alone."""

import re

import pytest

from services.generation.extractive.latex import readable
from services.generation.extractive.sentences import sentences_of
from services.generation.extractive.summary import WORDS_PER_SECOND, best_sentence, summary_of

DANGLING = re.compile(
    r"(?:They|These|Those|Its|Their|Such|Both|This(?! (?:paper|work|study|article|thesis|survey|report|research|letter|"
    r"chapter))|It(?! (?:is|was|has|remains)))\b"
)
ABSTRACT = (
    "Widgets are everywhere in modern life. "
    "However, making them remains costly and existing methods fail on small ones. "
    "To address this, we propose WidgetNet, a network that bends wire in one pass. It consists of two stages. "
    "Extensive experiments show that WidgetNet outperforms baselines by 12%. Code is available at https://x.org/w."
)


ASIDE = re.compile(r", (?:however|nevertheless|therefore|moreover|furthermore|thus|hence|in turn), ")


def letters(text: str) -> str:
    """Return the words alone; ", however, " may be left out of a sentence that is told by itself."""
    return re.sub(r"\W+", " ", ASIDE.sub(" ", text)).lower().strip()


def test_problem_and_method_are_picked():
    """Neither the introduction, nor the results, nor the offer of code."""
    assert summary_of("WidgetNet: Bending", ABSTRACT) == (
        "Making them remains costly and existing methods fail on small ones. "
        "To address this, we propose WidgetNet, a network that bends wire in one pass."
    )


def test_a_shorter_time_leaves_the_method_standing_alone():
    """Five seconds are one sentence, without the start that points to another."""
    assert summary_of("WidgetNet: Bending", ABSTRACT, seconds=5) == (
        "We propose WidgetNet, a network that bends wire in one pass."
    )


def test_a_longer_time_gives_more_sentences_in_order():
    summaries = [summary_of("WidgetNet: Bending", ABSTRACT, seconds=seconds) for seconds in (15, 30, 60)]
    counts = [len(sentences_of(summary)) for summary in summaries]

    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] > 2
    places = [readable(ABSTRACT).lower().find(each.lower()) for each in sentences_of(summaries[-1])]
    assert places == sorted(places)


def test_a_pronoun_brings_its_noun():
    """A method that starts with "It" comes with the sentence that says what it is."""
    abstract = (
        "Robots drop cups. RoboHand is a gripper with soft fingers. "
        "It is trained on video, uses touch and combines both with a planner we propose. Results are good."
    )

    summary = summary_of("Gripping", abstract)

    assert not DANGLING.match(summary)
    assert "It is trained" not in summary or "RoboHand is a gripper" in summary


@pytest.mark.parametrize(
    ("title", "abstract", "summary"),
    [
        pytest.param("Only a title", "", "Only a title", id="no-abstract"),
        pytest.param("A $\\beta$ title", "", "A β title", id="latex-title"),
        pytest.param("T", "No full stop here at all", "No full stop here at all", id="no-full-stop"),
        pytest.param("T", "Short.", "Short.", id="one-word"),
        pytest.param("T", "Code is available at https://x.org/w.", "Code is available at", id="nothing-but-an-offer"),
    ],
)
def test_a_summary_is_never_empty(title: str, abstract: str, summary: str):
    assert summary_of(title, abstract) == summary


def test_sample_summaries_are_the_papers_own_sentences(library):
    """One or two sentences of the abstract, in its order, within the reading time, with no pronoun left alone."""
    for papers in library.values():
        for paper in papers:
            summary = summary_of(paper.title, paper.abstract)
            sentences = sentences_of(summary)
            places = [letters(paper.abstract).find(letters(sentence)) for sentence in sentences]

            assert 1 <= len(sentences) <= 2, summary
            assert -1 not in places, summary
            assert places == sorted(places), summary
            assert len(summary.split()) <= 30 * WORDS_PER_SECOND
            assert not DANGLING.match(summary), summary


def test_real_summaries_are_the_papers_own_words(arxiv_papers):
    """The same on abstracts as they come; an awkward one is left with a pronoun at most once in a hundred."""
    dangling = 0
    for paper in arxiv_papers:
        summary = summary_of(paper.title, paper.abstract)
        for sentence in sentences_of(summary):
            assert letters(sentence) in letters(readable(paper.abstract)), sentence
        assert summary
        assert "\n" not in summary
        dangling += bool(DANGLING.match(summary))

    assert dangling <= len(arxiv_papers) / 100


def test_the_method_is_told_from_the_problem(library):
    """The sentence a section tells is the second of a summary that states the problem first."""
    for papers in library.values():
        picked = [best_sentence(paper.title, summary_of(paper.title, paper.abstract)) for paper in papers]

        assert sum(bool(each and each.before) for each in picked) >= 0.9 * len(papers)
