"""The words of papers as rows of numbers: the TF-IDF of the set at hand."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 40_000_000
"""Most numbers in the papers-by-terms matrix: 160 MB, all shared terms of 1,000 abstracts several times over."""

_WORD = re.compile(r"[^\W_]{2,}")


def word_rows(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return a row for each text; the inner product of two rows is the cosine between the texts' TF-IDF.

    The weight of a term in a text is (1 + ln tf) * (ln((1 + n) / (1 + df)) + 1). A term of a single text has no column:
    it only adds to the length that the row is divided by. Above `MAX_CELLS` several terms share a column.

    Args:
        texts: n >= 1 texts; those without a word are alike.

    Returns:
        Shape (n, columns), nothing below 0; rows have length 1, less where a term stands in that text alone.

    Source: Salton and Buckley (1988), "Term-weighting approaches in automatic text retrieval"; smoothed as in
    scikit-learn's TfidfVectorizer(sublinear_tf=True).
    """
    rows, terms, counts = _occurrences(texts)
    text_count = len(texts)
    document_counts = np.bincount(terms)
    rarity = np.log((1 + text_count) / (1 + document_counts)) + 1
    weights = (1 + np.log(counts)) * rarity[terms]

    is_shared = document_counts > 1
    columns = max(1, min(int(is_shared.sum()), MAX_CELLS // text_count))
    column_of = (np.cumsum(is_shared) - 1) % columns
    kept = is_shared[terms]
    matrix = np.zeros((text_count, columns), dtype=np.float32)
    np.add.at(matrix, (rows[kept], column_of[terms[kept]]), weights[kept].astype(np.float32))

    alone = np.bincount(rows[~kept], weights[~kept] ** 2, minlength=text_count)
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64) + alone)
    matrix /= lengths[:, None].astype(np.float32)
    return matrix


def _occurrences(texts: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return text number, term number and count of each term of each text; terms are numbered as they come."""
    numbers: dict[str, int] = {}
    rows: list[int] = []
    terms: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        found = Counter(_WORD.findall(text.lower()) or [""])  # texts without a word share this one
        rows += [row] * len(found)
        terms += [numbers.setdefault(word, len(numbers)) for word in found]
        counts += found.values()
    return np.array(rows, dtype=np.intp), np.array(terms, dtype=np.intp), np.array(counts, dtype=np.float64)
