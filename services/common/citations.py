"""Citations: a text names papers by key, and only code turns keys into links.

A key outside the closed set is removed and counted, and so is every link, image and HTML tag: a link in a finished
text was rendered from a record, so it cannot lead to another paper.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.common.markdown import escape

KEY = re.compile(r"P[1-9]\d{0,4}")
MAX_RANGE = 100
"""Longest range that is read as one ("P1-P3"); a longer one is no citation a writer would mean."""

MAX_NESTING = 8
_REMOVED = "\0"  # where a citation without a known key stood; no text holds this character
_ONE = r"P?\d{1,6}"
_DASH = r"[-\u2010-\u2014\u2212~〜～]"
_KEYS = rf"P\d{{1,6}}(?:\s*(?:[,;、，；]|{_DASH})\s*{_ONE})*"
_GROUP = re.compile(rf"[\[【]\s*({_KEYS})\s*[\]】]")
_CITATION = re.compile(rf"(?<!\\){_GROUP.pattern}(?:[ \t]*[\[【]\s*{_KEYS}\s*[\]】])*(?!\()")  # neighbours are one
_RANGE = re.compile(rf"({_ONE})\s*{_DASH}\s*({_ONE})")
_OPEN = r"((?<!\\)(?:\\\\)*)"  # behind an even number of backslashes a bracket is one
_LINE_END = r"\n(?![ \t]*\n)"  # within a paragraph
_BLOCK_MARKS = r"(?:(?:[>*+-]|\d{1,9}[.)])[ \t]*)*"
_NO_KEY = r"(?!\s*P\d[\dP,;\s\u2010-\u2014-]*\])"  # "[P1]: " begins a sentence about a paper
_LABEL = rf"(?:\\.|[^\[\]\n\\]|{_LINE_END})"
_ADDRESS_END = r"[^\s<>\])】」。、\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]*()"
_LINKS = (  # what stays of each: the backslashes before it and its text
    # The definition of a reference link; [text](url) and ![alt](url); <tag>, <https://...> and <!-- comment -->; bare
    # addresses.
    re.compile(rf"(?m)^[ \t]*{_BLOCK_MARKS}()\[{_NO_KEY}{_LABEL}+\]:[ \t]*\n?[ \t]*\S.*$()"),
    re.compile(rf"{_OPEN}!?\[({_LABEL}*)\]\((?:[^()\n]|{_LINE_END}|\([^()\n]*\))*\)"),
    re.compile(rf"{_OPEN}<(?:[!?][^<>]*|[a-zA-Z/](?:[^<>\n]|{_LINE_END})*)>()"),
    re.compile(
        r"()(?:[a-zA-Z][a-zA-Z0-9+.-]{0,30}://|(?<![a-zA-Z0-9])(?i:www\.|javascript:|mailto:|data:\w+/))" + _ADDRESS_END
    ),
)
_POINTERS = (  # what is no link and leads elsewhere all the same: in a paper's words, but not in a writer's
    re.compile(
        r"()(?<![a-zA-Z0-9])(?:(?:[a-zA-Z0-9-]{1,60}\.){1,6}"
        r"(?:ai|app|cn|co|com|de|dev|edu|eu|example|fr|gov|info|io|jp|net|org|ru|uk|xyz)/"
        r"|(?:(?:doi|DOI):\s*)?10\.\d{4,9}/|ar[Xx]iv(?:\.org\b|:\s*(?=\d)))" + _ADDRESS_END
    ),
    re.compile(r"()[a-zA-Z0-9_.+-]{1,80}@[a-zA-Z0-9_-]{1,80}(?:\.[a-zA-Z0-9_-]{1,80})*\.[a-z]{2,24}(?![a-zA-Z0-9])()"),
)
_TAG_START = re.compile(rf"{_OPEN}<(?=[a-zA-Z/!?])")  # begins a block of HTML even if it never ends
_SENTENCE_END = ".!?;:,。！？；：、，)）」"
_NOUN_BEFORE = re.compile(
    r"(?:^|[\s(])(?:and|are|as|at|behind|both|by|from|in|is|like|of|on|or|than|that|to|unlike|via|whereas|while|with)\s*$",
    re.IGNORECASE,
)
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a key becomes: a link's text, not escaped yet, and its address."""

    name: str
    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Markdown with its keys as links or in their one form, and what became of the keys and links that were in it."""

    text: str
    cited_keys: tuple[str, ...]
    """Each once, in the order of first mention."""
    unknown_key_count: int
    removed_link_count: int


def render(text: str, references: Mapping[str, Reference]) -> Rendered:
    """Return `text` with its keys turned into links and everything else that looks like a link removed.

    Args:
        text: Markdown; accepted are [P1], [P1, P2], [P1][P2], [P1-P3] and the same in 【】.
        references: the closed set, by key.
    """

    def links(match: re.Match[str], known: list[str]) -> str:
        return _placed(match, [f"[{escape(references[key].name)}]({references[key].url})" for key in known])

    return _cited(_without(text, _LINKS), references, links)


def in_one_form(text: str, keys: Collection[str]) -> Rendered:
    """Return what a model wrote with its keys in the form "[P1, P2]", and without anything that leads elsewhere.

    Args:
        text: as for `render`.
        keys: the closed set.
    """
    return _cited(without_links(text), keys, lambda _match, known: f"[{', '.join(known)}]" if known else _REMOVED)


def without_links(text: str) -> tuple[str, int]:
    """Return what a model wrote without links and tags, and their number.

    Addresses without a scheme, DOIs, arXiv identifiers and mail addresses count as links, and so does what a removal
    uncovers. What is no whole link and no whole tag stays, but cannot become one.
    """
    return _without(text, (*_LINKS, *_POINTERS))


class StreamRenderer:
    """Renders a text that arrives in pieces, holding back what a later piece could still turn into a citation."""

    LONGEST_HELD = 400  # characters; an opened bracket that is never closed must not hold the text back for ever

    def __init__(self, references: Mapping[str, Reference]) -> None:
        self._references = references
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be shown by now, which may be nothing."""
        self._held += piece
        cut = _safe_cut(self._held)
        if not cut and len(self._held) > self.LONGEST_HELD:
            cut = max(self._held.rfind(" "), self._held.rfind("\n")) + 1
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._shown(ready)

    def finish(self) -> str:
        """Return what is left."""
        ready, self._held = self._held, ""
        return self._shown(ready)

    def _shown(self, ready: str) -> str:
        if not ready.strip():
            return ready
        body = ready.rstrip()
        lead = body[: len(body) - len(body.lstrip())]
        return lead + render(body, self._references).text.strip() + ready[len(body) :]


def _without(text: str, patterns: Sequence[re.Pattern[str]]) -> tuple[str, int]:
    removed = 0
    text = text.replace(_REMOVED, "")
    for _ in range(MAX_NESTING * len(patterns)):
        for pattern in patterns:
            text, count = pattern.subn(r"\1\2", text)
            removed += count
            if count:
                break  # what it uncovers comes before the other patterns
        else:
            break
    else:  # nobody nests links so deep but to get one through
        text = text.replace("://", ": //")
    return _TAG_START.sub(r"\1\\<", text.replace("](", "] (")), removed


def _cited(
    cleared: tuple[str, int], keys: Collection[str], written: Callable[[re.Match[str], list[str]], str]
) -> Rendered:
    """Return a text with each citation replaced by what is `written` for its known keys.

    Args:
        cleared: the text without links, so that every link in the end is one of ours, and how many it had.
        keys: the closed set.
        written: of a citation and its known keys.
    """
    cited: dict[str, None] = {}
    unknown = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal unknown
        found = [key for group in _GROUP.findall(match.group()) for key in _keys_in(group)]
        known = [key for key in dict.fromkeys(found) if key in keys]
        unknown += sum(key not in keys for key in found)
        cited.update(dict.fromkeys(known))
        return written(match, known)

    text, removed = cleared
    linked = _CITATION.sub(replaced, text)
    return Rendered(text=_tidy(linked), cited_keys=tuple(cited), unknown_key_count=unknown, removed_link_count=removed)


def _safe_cut(held: str) -> int:
    """Return the last place where no bracket is open and a sentence, clause or line has ended; 0 for none."""
    cut = depth = 0
    for index, character in enumerate(held):
        is_escaped = index > 0 and held[index - 1] == "\\"
        if character in "[【<" and not is_escaped:
            depth += 1
        elif character in "]】>" and not is_escaped:
            depth = max(0, depth - 1)
        elif depth == 0 and _ends_here(held, index):
            cut = index + 1
    return cut


def _ends_here(held: str, index: int) -> bool:
    if held[index] == "\n" or held[index] in "。！？":
        following = held[index + 1 : index + 2]
        return following not in {"[", "【"}  # a citation may follow its sentence's end
    return held[index] == " " and index > 0 and held[index - 1] in ".!?"


def _keys_in(group: str) -> Iterator[str]:
    for item in re.split(r"\s*[,;、，；]\s*", group):
        limits = _RANGE.fullmatch(item)
        if limits is None:
            yield _key(item)
            continue
        low, high = (int(limit.lstrip("P")) for limit in limits.groups())
        if low <= high < low + MAX_RANGE:
            yield from (f"P{number}" for number in range(low, high + 1))
        else:
            yield from (f"P{low}", f"P{high}")


def _key(item: str) -> str:
    return f"P{int(item.lstrip('P'))}"


def _placed(match: re.Match[str], links: list[str]) -> str:
    """Return the links as the place in the sentence asks: as its noun, or in brackets after a claim."""
    if not links:
        return _REMOVED
    joined = ", ".join(links)
    before, after = match.string[: match.start()], match.string[match.end() :]
    if _is_noun(before, after):
        return joined
    if _CJK.fullmatch(before.rstrip()[-1]):
        return f"（{joined}）"
    return f"({joined})" if before.endswith((" ", "(")) else f" ({joined})"


def _is_noun(before: str, after: str) -> bool:
    """Return whether a citation between these two stands for the paper itself, not behind a claim about it."""
    line = before.rpartition("\n")[2].rstrip()
    if not line or line.endswith((":", "：", "-", "*")) or _NOUN_BEFORE.search(before):
        return True
    following = after.lstrip()
    is_end_after = not following or after[0] == "\n" or following[0] in _SENTENCE_END
    if line.endswith(tuple(".!?。！？")):  # between two sentences: it opens the second, unless that opens by itself
        return not is_end_after and not following[0].isupper()
    return not is_end_after


def _tidy(text: str) -> str:
    """Return `text` without the gaps that removed keys and links leave."""
    text = re.sub(rf"(?<=[.!?。！？])\s*{_REMOVED}\s*[.!?。！？]", "", text).replace(_REMOVED, "")
    text = re.sub(r"\(\s*\)|（\s*）", "", text)
    text = re.sub(r"[ \t]+(?=[.,;:!?。、](?:\s|$))", "", text)
    return re.sub(r"(?<=\S)[ \t]{2,}", " ", text).strip()
