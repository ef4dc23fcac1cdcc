"""The texts of sections as a watcher gets them over connections that break: nothing twice, nothing missing."""

from paperroute.v1 import survey_service_pb2 as pb


class SeenTexts:
    """How much of each section's text has been passed on."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}  # by place: attempt, characters

    def is_new(self, event: pb.WatchSurveyResponse) -> bool:
        """Return whether an event says anything new; a piece of text is cut to what is new of it.

        A new watch sends the text of a section under way from its beginning.
        """
        kind = event.WhichOneof("event")
        if kind == "section_restarted":
            restarted = event.section_restarted
            place = (restarted.chapter_number, restarted.section_number)
            is_known = self._seen.get(place, (0, 0))[0] >= restarted.attempt
            if not is_known:
                self._seen[place] = (restarted.attempt, 0)
            return not is_known
        return self._is_new_text(event.section_text) if kind == "section_text" else True

    def _is_new_text(self, piece: pb.SectionProgress) -> bool:
        place = (piece.chapter_number, piece.section_number)
        attempt, seen = self._seen.get(place, (piece.attempt, 0))
        if piece.attempt < attempt:
            return False
        if piece.attempt > attempt:
            seen = 0
        known = max(0, seen - piece.offset)
        if known >= len(piece.text) and piece.text:
            return False
        piece.text = piece.text[known:]
        piece.offset += known
        self._seen[place] = (piece.attempt, piece.offset + len(piece.text))
        return True
