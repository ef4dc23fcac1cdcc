"""Text of others in Markdown: it must show as text, whatever characters it holds."""

import re
import unicodedata

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~]|:(?=//)|(?<=\bwww)\.)", re.IGNORECASE)
_OTHER_BRACKETS = str.maketrans("【】", "〔〕")
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Cn"}


def escape(text: str) -> str:
    """Return `text` such that Markdown shows its characters and no reader sees markup, a link or a citation in it.

    The brackets 【】, which Markdown cannot escape and which may hold a key, become 〔〕.
    """
    return _SPECIAL.sub(r"\\\1", plain(text)).translate(_OTHER_BRACKETS)


def plain(text: str) -> str:
    """Return `text` in one line, NFC, without control, bidirectional, zero-width and private characters."""
    return " ".join(visible(unicodedata.normalize("NFC", text)).split())


def visible(text: str) -> str:
    """Return `text` without control, bidirectional, zero-width and private characters; white space stays."""
    if text.isprintable():  # most texts: nothing to take out
        return text
    return "".join(
        character for character in text if character.isspace() or unicodedata.category(character) not in _INVISIBLE
    )
