"""Sentences of abstracts: a cut in the wrong place would be quoted as a sentence."""

import re

import pytest

from services.generation.extractive.latex import readable
from services.generation.extractive.sentences import sentences_of


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        pytest.param("One is here. Two is there.", ["One is here.", "Two is there."], id="two"),
        pytest.param("It beats, e.g. GPT-4, by 2.5. Good.", ["It beats, e.g. GPT-4, by 2.5.", "Good."], id="eg"),
        pytest.param("Cf. Fig. 2, Smith et al. 2020 did.", ["Cf. Fig. 2, Smith et al. 2020 did."], id="refs"),
        pytest.param("Data, code, etc. We show it.", ["Data, code, etc.", "We show it."], id="etc-ends"),
        pytest.param("By J. Smith. A note.", ["By J. Smith.", "A note."], id="initial"),
        pytest.param("It works. xLSTM follows. 3D too.", ["It works.", "xLSTM follows.", "3D too."], id="odd-starts"),
        pytest.param("We make three points: 1. We do. 2. We say.", None, id="enumeration"),
        pytest.param("Does it? It does! Yes.", ["Does it?", "It does!", "Yes."], id="marks"),
        pytest.param("It ends.We begin.", ["It ends.", "We begin."], id="glued"),
        pytest.param("See arXiv.org. Then go.", ["See arXiv.org.", "Then go."], id="dot-in-word"),
        pytest.param("手法を提案する。結果を示す。", ["手法を提案する。", "結果を示す。"], id="japanese"),
        pytest.param("no full stop", ["no full stop"], id="open-end"),
        pytest.param("", [], id="empty"),
        pytest.param(" . ! ", [], id="only-marks"),
    ],
)  # fmt: skip
def test_cuts(text: str, sentences: list[str] | None):
    found = list(sentences_of(text))

    assert found == sentences if sentences is not None else not any(re.fullmatch(r"\d\.", each) for each in found)


def test_nothing_of_a_real_abstract_is_lost(arxiv_papers):
    """All words of an abstract are in its sentences, in order."""
    for paper in arxiv_papers:
        text = readable(paper.abstract)
        joined = " ".join(sentences_of(text))

        assert re.findall(r"\w+", joined) == re.findall(r"\w+", text)


def test_sample_abstracts_have_the_sentences_they_were_written_with(library):
    """Each paraphrase of the sample library has three or four."""
    for papers in library.values():
        for paper in papers:
            assert 3 <= len(sentences_of(readable(paper.abstract))) <= 5, paper.abstract
