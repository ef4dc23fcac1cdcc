"""Which of several answers to one prompt agrees best with the others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ALMOST = 1e-9
"""What two equal means may differ by in floating point."""


def most_central(texts: Sequence[str], vectors: NDArray[np.float32] | None = None) -> int:
    """Return the place of the text that is most like the others; the first of those that are equally so.

    A text's score is its mean likeness to the others. Those more than one standard deviation below the mean score are
    dropped, so that what nobody else says does not pull the choice, and the rest is scored anew.

    Args:
        texts: n of them, n >= 1.
        vectors: shape (n, d), each row with L2 norm 1; None compares by spelling alone.
    """
    likeness = _likeness(texts, vectors)
    scores = _scores(likeness)
    kept = np.flatnonzero(scores >= scores.mean() - scores.std() - _ALMOST)
    final = _scores(likeness[np.ix_(kept, kept)])
    return int(kept[np.flatnonzero(final >= final.max() - _ALMOST)[0]])


def _likeness(texts: Sequence[str], vectors: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Return how alike each two texts are, shape (n, n), symmetric: mean of cosine and Levenshtein similarity."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    folded = [text.casefold() for text in texts]
    spelled = cdist(folded, folded, scorer=Levenshtein.normalized_similarity, dtype=np.float64)
    if vectors is None:
        return spelled
    meant = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    return (spelled + meant) / 2


def _scores(likeness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's mean without its diagonal; 0 for a single row."""
    others = max(1, len(likeness) - 1)
    scores: NDArray[np.float64] = (likeness.sum(axis=1) - np.diagonal(likeness)) / others
    return scores
