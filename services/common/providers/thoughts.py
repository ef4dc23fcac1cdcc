"""What a model thinks aloud before it answers, where a server leaves it in the text: `<think>...</think>`."""

OPENING, CLOSING = "<think>", "</think>"


class Thoughts:
    """Takes a text piece by piece and leaves out the thoughts at its beginning."""

    def __init__(self) -> None:
        self._held: str | None = ""
        """What is not known to be answer or thought; None once the answer has begun."""

    def without(self, piece: str) -> str:
        """Return what of a text's next piece belongs to the answer."""
        if self._held is None:
            return piece
        self._held += piece
        begun = self._held.lstrip()
        if OPENING.startswith(begun):
            return ""  # nothing, or what may still become a thought
        if not begun.startswith(OPENING):
            answer, self._held = self._held, None
            return answer
        _, _, answer = begun.partition(CLOSING)
        if not answer.strip():
            return ""
        self._held = None
        return answer.lstrip()
