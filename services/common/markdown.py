"""Text of others in Markdown: it must show as text, whatever characters it holds."""

import re
import unicodedata

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~]|:(?=//)|(?<=\bwww)\.)", re.IGNORECASE)
_OTHER_BRACKETS = str.maketrans("【】", "〔〕")
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Cn"}
_VARIATIONS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # they show nothing by themselves and can spell text
_MARK = "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_MARKS = re.compile(f"({_MARK}{{3}}){_MARK}+")
"""More than three marks on one letter, which no script writes."""


def escape(text: str) -> str:
    """Return `text` such that Markdown shows its characters and no reader sees markup, a link or a citation in it.

    The brackets 【】, which Markdown cannot escape and which may hold a key, become 〔〕.
    """
    return _SPECIAL.sub(r"\\\1", plain(text)).translate(_OTHER_BRACKETS)


def plain(text: str) -> str:
    """Return `text` in one line, NFC, without control, bidirectional, zero-width and private characters."""
    return " ".join(visible(unicodedata.normalize("NFC", text)).split())


def visible(text: str) -> str:
    """Return `text` without characters that show nothing of their own: control, bidirectional, zero-width, private.

    White space stays; of marks heaped on one letter three stay.
    """
    if not text.isascii():
        text = _MARKS.sub(r"\1", _VARIATIONS.sub("", text))
    if text.isprintable():  # most texts: nothing to take out
        return text
    return "".join(
        character for character in text if character.isspace() or unicodedata.category(character) not in _INVISIBLE
    )
