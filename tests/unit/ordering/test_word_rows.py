"""TF-IDF of the set at hand."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from services.ordering import words
from services.ordering.words import word_rows

TEXTS = [
    "Gaussian splatting for dynamic scenes. Gaussian primitives move.",
    "Dynamic scenes from video: splatting with time",
    "Large language models: a survey of quantization",
    "Quantization of large models to 4 bits",
    "Ein völlig anderer Text über Übergänge",
]


def cosines(texts: list[str]) -> np.ndarray:
    rows = word_rows(texts)
    return rows @ rows.T


def by_the_formula(texts: list[str]) -> np.ndarray:
    """The same in plain dictionaries, term by term."""
    counts = [Counter(re.findall(r"[^\W_]{2,}", text.lower())) for text in texts]
    document_counts = Counter(word for count in counts for word in count)
    rows = [
        {w: (1 + math.log(c)) * (math.log((1 + len(texts)) / (1 + document_counts[w])) + 1) for w, c in count.items()}
        for count in counts
    ]
    lengths = [math.sqrt(sum(weight**2 for weight in row.values())) for row in rows]
    return np.array(
        [
            [
                sum(weight * b.get(w, 0) for w, weight in a.items()) / (la * lb)
                for b, lb in zip(rows, lengths, strict=True)
            ]
            for a, la in zip(rows, lengths, strict=True)
        ]
    )


def test_similarities_follow_the_formula():
    """Between different texts; words of a single text make its row shorter than 1."""
    between = ~np.eye(len(TEXTS), dtype=bool)

    assert cosines(TEXTS)[between] == pytest.approx(by_the_formula(TEXTS)[between], abs=1e-6)


def test_equal_texts_have_a_cosine_of_1():
    assert np.diagonal(cosines(TEXTS * 2), len(TEXTS)) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)


def test_case_does_not_matter_and_one_letter_is_no_word():
    alike = cosines(["Mamba X", "mamba Y", "other Y"])

    assert alike[0, 1] == pytest.approx(1, abs=1e-6)
    assert alike[1, 2] == 0


def test_texts_without_a_word_are_alike_and_unlike_the_rest():
    alike = cosines(["", "words here", "...", "words there"])

    assert alike[0, 2] == pytest.approx(1, abs=1e-6)
    assert alike[0, 1] == alike[0, 3] == 0


def test_one_text_has_no_word_to_share():
    assert cosines(["alone"]).tolist() == [[0]]


def test_columns_are_shared_when_there_are_more_terms_than_room(monkeypatch):
    """Thousands of papers have more terms than fit; equal texts must stay equal then."""
    monkeypatch.setattr(words, "MAX_CELLS", 30)  # 3 columns for 10 texts

    rows = word_rows(TEXTS * 2)

    assert rows.shape == (10, 3)
    assert (rows * np.roll(rows, 5, axis=0)).sum(axis=1) == pytest.approx(np.ones(10), abs=1e-6)
