"""Which of several answers agrees best with the others."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.llm.consensus import most_central

TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=12)


@given(TEXTS)
def test_choice_is_one_of_them(texts: list[str]):
    assert 0 <= most_central(texts) < len(texts)


@given(st.text(max_size=30), st.integers(1, 12))
def test_of_equal_texts_the_first_is_taken(text: str, count: int):
    assert most_central([text] * count) == 0


@pytest.mark.parametrize("texts", [*itertools.permutations(["LoRA image", "LoRA images", "a LoRA image", "proteins"])])
def test_order_of_the_answers_does_not_matter(texts: tuple[str, ...]):
    assert texts[most_central(texts)] == "LoRA image"


def test_a_majority_wins():
    assert most_central(["LoRA", "diffusion", "LoRA", "GAN", "LoRA"]) == 0


def test_outliers_do_not_pull_the_choice():
    """Far from everything, "zzzz..." is still a little nearer to one of the others; it must not decide between them."""
    near = np.array([[1, 0, 0], [0.99, 0.14, 0], [0.97, 0.24, 0], [0, 0.1, 0.99]], dtype=np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)

    assert most_central(["same"] * 4, near) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_have_no_majority(count: int):
    vectors = np.eye(count, dtype=np.float32)

    assert most_central(["a", "b"][:count], vectors) == 0


def test_case_is_no_difference():
    assert most_central(["RAG EVALUATION", "gan", "rag evaluation"]) == 0
