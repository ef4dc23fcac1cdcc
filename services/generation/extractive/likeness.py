"""How alike texts are, by the words they share: cosines of TF-IDF vectors."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from services.generation.extractive.words import content_words

Vector = Mapping[str, float]


def vectors_of(texts: Sequence[str]) -> list[Vector]:
    """Return a vector for each text, of length 1 (0 for a text without words); rare words weigh more."""
    counts = [Counter(content_words(text)) for text in texts]
    spread = Counter(word for each in counts for word in each)
    vectors: list[Vector] = []
    for each in counts:
        weights = {
            word: (1 + math.log(count)) * math.log(1 + len(texts) / spread[word]) for word, count in each.items()
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({word: weight / length for word, weight in weights.items()})
    return vectors


def likeness(one: Vector, other: Vector) -> float:
    """Return the cosine, 0 to 1."""
    short, long = sorted((one, other), key=len)
    return sum(weight * long.get(word, 0.0) for word, weight in short.items())


def most_central(vectors: Sequence[Vector]) -> int:
    """Return the place of the vector that is most like all others; the first of equals."""
    total: Counter[str] = Counter()
    for vector in vectors:
        for word, weight in vector.items():
            total[word] += weight  # type: ignore[assignment] # a Counter adds floats as well
    return max(range(len(vectors)), key=lambda place: (likeness(vectors[place], total), -place))
