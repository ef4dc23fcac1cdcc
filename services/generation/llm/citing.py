"""Text of a model as a section may hold it: paragraphs of prose that name papers "[P1, P2]", and nothing like a link.

A text is cleaned sentence by sentence, whether it is there as a whole or arrives in pieces, so that both come out the
same.
"""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from services.common.citations import MAX_NESTING, in_one_form, without_links
from services.common.markdown import plain, visible

LONGEST_BRACKET = 400
"""Characters within which an opened bracket, tag or address must close; otherwise it is taken as a character."""

_AFTER_END = "\"'”’)*_」』）】"
_TOKEN = re.compile(
    rf"(?<!\\)(?P<open>[\[【<])|(?P<asian>[。！？][{_AFTER_END}]*)|(?P<western>[.!?…][{_AFTER_END}]*)(?=\s)|(?P<line>\n)"
)
_CLOSING = {"[": "]", "【": "】", "<": ">", "(": ")"}
_BLANK_LINE = re.compile(r"\n\s*\n")
_MARK = re.compile(r"(?:#{1,6}|[-*+]|\d{1,9}[.)])[ \t]+|#{2,}|[>|・•‣]")
_MAYBE_MARK = re.compile(r"#|[-*+]|\d{1,9}[.)]?")  # the rest of the line decides
_NO_PROSE = re.compile(r"[-=_*~|:+#\s]+|\d{1,9}[.)]|(?:```|~~~).*")  # rules, underlines, lone marks, fences
_FENCE = re.compile(r"`{3,}|~{3,}")
_WIDE = re.compile(r"(?<!\\)[\[【［]\s*[PＰ]\s?\d[\dPＰ\s,、，;；~〜～\u2010-\u2014\u2212-]*[\]】］]")
_LOOK_ALIKE = re.compile(r"(?<!\\)[\[【［]\s*[РΡ]\s?\d{1,6}\s*[\]】］]")  # with the P of other alphabets
_CITED = r"[\[【]\s*P\d[^\[\]【】]{0,200}[\]】]"
_DRESSED = re.compile(rf"(?<!\\)({_CITED})\((?:[^()]|\([^()]*\))*\)")  # [P1](address)
_WRAPPED = re.compile(rf"`+\s*({_CITED})\s*`+|(?<!\\)\[\s*({_CITED}(?:[\s,;]*{_CITED})*)\s*\]")  # `[P1]`, [[P1]]
_NUMBERED = re.compile(
    r"(?:(?<![\w)\]\\])|(?<=[\u3040-\u9fff]))\[\^?\d{1,3}\](?!\()"
)  # [1], of a list that is not ours
_DEFINED = re.compile(r"^(\[P\d+(?:, P\d+)*\]):")
_QUOTED = re.compile(r'^(?:"([^"]+)"|“([^“”]+)”|「([^「」]+)」)$')
_LONE_END = re.compile(r"[.,;:!?。、](?:\s|$)")
_WHOLE = re.compile(rf"[.!?…。！？।۔؟][{_AFTER_END}\]]*\s*\Z")
_CITATION = re.compile(r"(?<!\\)\[P\d+(?:, P\d+)*\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What is left of a model's text, and what became of the keys and links in it."""

    text: str
    """Paragraphs with an empty line between them; every key in it stands as "[P1]" or "[P1, P2]" and is known."""
    cited_keys: tuple[str, ...]
    """Each once, in the order of first mention."""
    unknown_key_count: int
    removed_link_count: int


def cleaned(text: str, keys: Collection[str]) -> Cleaned:
    """Return a model's text as a section may hold it.

    Args:
        text: Markdown; keys may stand as [P1], [P1, P2], [P1][P2], [P1-P3] and the same in 【】. Numbers in brackets,
            [1], are keys of no paper.
        keys: the closed set; any other key is removed and counted.
    """
    cleaner = StreamCleaner(keys)
    return cleaner.whole(cleaner.feed(text) + cleaner.finish())


def title_of(text: str, keys: Collection[str]) -> Cleaned:
    """Return a model's title as plain text in one line, without keys and marks of Markdown; it may be empty."""
    result = cleaned(" ".join(text.split()), keys)
    words = plain(re.sub(r"\*\*|`", "", without_keys(result.text)).replace("\\<", "<")).strip("*_# ：:")
    return Cleaned(
        text=_QUOTED.sub(lambda found: found[1] or found[2] or found[3], words),
        cited_keys=(),
        unknown_key_count=result.unknown_key_count,
        removed_link_count=result.removed_link_count,
    )


def keys_in(text: str) -> tuple[str, ...]:
    """Return the keys a cleaned text cites, each once, in the order of first mention."""
    found = (key for citation in _CITATION.findall(text) for key in citation[1:-1].split(", "))
    return tuple(dict.fromkeys(found))


def without_keys(text: str) -> str:
    """Return a cleaned text without its citations."""
    return _CITATION.sub("", text)


class StreamCleaner:
    """Cleans a text that arrives in pieces, and gives out whole sentences: no key is ever cut in two.

    What it gives out, joined, is the text of `cleaned`, however the pieces were cut; but for a link whose brackets
    stay open for more than `LONGEST_BRACKET` characters. Only the whole shows that one.
    """

    def __init__(self, keys: Collection[str]) -> None:
        """Take the closed set."""
        self._keys = frozenset(keys)
        self._held = ""
        self._scanned = 0
        self._gap = ""
        self._is_line_start = True
        self._has_given = False
        self._cited: dict[str, None] = {}
        self._unknown_key_count = 0
        self._removed_link_count = 0

    def feed(self, piece: str) -> str:
        """Take the next piece and return the sentences that are complete by now, which may be none."""
        self._held += visible(piece)
        return self._given(is_last=False)

    def finish(self, *, is_cut: bool = False) -> str:
        """Return what is left; of a text that was cut in the middle, only a whole sentence, if it has one before."""
        if is_cut and self._has_given and not _WHOLE.search(self._held):
            return ""
        return self._given(is_last=True)

    def whole(self, text: str) -> Cleaned:
        """Return what was given out, `text`, with the counts, and without a link that only the whole shows."""
        cited, unknown, removed = tuple(self._cited), self._unknown_key_count, self._removed_link_count
        if without_links(text)[1]:
            again = in_one_form(text, self._keys)
            text, cited = again.text, again.cited_keys
            unknown += again.unknown_key_count
            removed += again.removed_link_count
        return Cleaned(text=text, cited_keys=cited, unknown_key_count=unknown, removed_link_count=removed)

    def _given(self, *, is_last: bool) -> str:
        given = []
        while self._begins(is_last=is_last):
            cut = self._cut(is_last=is_last)
            if not cut:
                break
            sentence, self._held, self._scanned = self._held[:cut], self._held[cut:], 0
            given.append(self._placed(self._cleaned(sentence)))
        return "".join(given)

    def _begins(self, *, is_last: bool) -> bool:
        """Leave white space and the marks of headings and lists aside; return whether a sentence begins here."""
        while not self._scanned:
            sentence = self._held.lstrip()
            self._widen(self._held[: len(self._held) - len(sentence)])
            self._held = sentence
            mark = _MARK.match(sentence) if self._is_line_start else None
            if mark is None or (mark.end() == len(sentence) and not is_last):
                maybe = self._is_line_start and not is_last and (mark or _MAYBE_MARK.fullmatch(sentence))
                return bool(sentence) and not maybe
            self._held = sentence[mark.end() :]
        return True

    def _widen(self, spaces: str) -> None:
        if "\n" in spaces:
            self._gap, self._is_line_start = "\n\n", True
        elif spaces:
            self._gap = self._gap or " "

    def _cut(self, *, is_last: bool) -> int:
        """Return where the first sentence or line of what is held ends; 0 while that is not known."""
        held = self._held
        while found := _TOKEN.search(held, self._scanned):
            if found.group("line"):
                return found.start()
            if not found.group("open"):
                if found.end() < len(held) or is_last:
                    return found.end()
                return 0
            end = _closed(held, found.start(), is_last=is_last)
            if not end:
                return 0
            self._scanned = end
        if is_last:
            return len(held)
        ordinary = held.rstrip(f".!?…。！？\\{_AFTER_END}")  # what follows may yet be the end of a sentence
        self._scanned = max(self._scanned, len(ordinary))
        return 0

    def _cleaned(self, sentence: str) -> str:
        text = plain(sentence)
        if self._is_line_start and _NO_PROSE.fullmatch(text):
            return ""
        text = _WIDE.sub(lambda found: _narrow(found[0]), text)
        text, strange = _LOOK_ALIKE.subn("", text)
        text, dressed = _DRESSED.subn(r"\1", text)
        text, numbered = _NUMBERED.subn("", _WRAPPED.sub(lambda found: found[1] or found[2], text))
        result = in_one_form(text, self._keys)
        self._unknown_key_count += result.unknown_key_count + numbered + strange
        self._removed_link_count += result.removed_link_count + dressed
        is_changed = numbered or strange or result.unknown_key_count or result.removed_link_count
        if is_changed and not re.search(r"\w", result.text):
            return ""
        prose = self._as_prose(result.text)
        self._cited.update(dict.fromkeys(keys_in(prose)))
        return prose

    def _as_prose(self, text: str) -> str:
        """Return a sentence that begins a line without what a removal made the mark of a list or a heading."""
        while self._is_line_start:
            mark = _MARK.match(text) or _FENCE.match(text)
            if mark is None:
                return "" if _NO_PROSE.fullmatch(text) else _DEFINED.sub(r"\1\\:", text)
            text, removed = without_links(text[mark.end() :].lstrip())
            self._removed_link_count += removed
        return text

    def _placed(self, text: str) -> str:
        """Return a sentence behind the gap that parts it from what was given out before."""
        if not text:
            return ""
        gap = self._gap if self._has_given else ""
        if gap == " " and _LONE_END.match(text):
            gap = ""
        self._gap, self._is_line_start, self._has_given = "", False, True
        return gap + text


def _narrow(citation: str) -> str:
    """Return a citation in letters and figures of full width, or with a space within a key, as it should stand."""
    return re.sub(r"P\s+(?=\d)", "P", unicodedata.normalize("NFKC", citation))


def _closed(held: str, start: int, *, is_last: bool) -> int:
    """Return the place behind what the bracket at `start` encloses, or behind it if it encloses nothing.

    Returns:
        0 while that is not known.
    """
    is_tag = held[start] == "<"
    if start + 1 == len(held):
        return start + 1 if is_last else 0
    if is_tag and not re.match(r"[a-zA-Z/!?]", held[start + 1]):
        return start + 1
    end = _partner(held, start, is_last=is_last)
    if end is None:
        return 0
    if end and held[start] == "[":
        if end == len(held):
            return end if is_last else 0
        if held[end] == "(":
            address_end = _partner(held, end, is_last=is_last)
            return 0 if address_end is None else address_end or end
    return end or start + 1


def _partner(held: str, start: int, *, is_last: bool) -> int | None:
    """Return the place behind the bracket that closes the one at `start`; 0 if none does, None while not known."""
    opening = held[start]
    closing = _CLOSING[opening]
    limit = start + LONGEST_BRACKET
    blank = _BLANK_LINE.search(held, start, limit)
    window_end = blank.start() if blank else min(limit, len(held))
    depth = 0
    for found in re.compile(rf"\\.|[{re.escape(opening + closing)}]", re.DOTALL).finditer(held, start, window_end):
        if found.group() == opening:
            depth += 1
        elif found.group() == closing:
            depth -= 1
        if not depth:
            return found.end()
        if depth > MAX_NESTING:
            return 0
    return 0 if blank or is_last or len(held) >= limit else None
