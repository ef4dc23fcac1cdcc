"""Some servers leave what a model thinks aloud in its answer; readers never see it."""

import pytest

from services.common.providers.thoughts import Thoughts


@pytest.mark.parametrize("size", [1, 3, 1_000])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("<think>Hm, [P1]?</think>\n\nThe answer.", "The answer.", id="thoughts"),
        pytest.param("\n<think>\n</think>The answer.", "The answer.", id="empty thoughts"),
        pytest.param("<think>cut short", "", id="nothing but thoughts"),
        pytest.param("The <think>answer</think>.", "The <think>answer</think>.", id="within the answer"),
        pytest.param("<this> is one", "<this> is one", id="another tag"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_thoughts_before_the_answer_are_left_out(text: str, answer: str, size: int):
    thoughts = Thoughts()

    pieces = [thoughts.without(text[at : at + size]) for at in range(0, len(text), size)]

    assert "".join(pieces) == answer
