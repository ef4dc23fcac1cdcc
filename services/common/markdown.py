"""Text of others in Markdown: it must show as text, whatever characters it holds."""

import re
import unicodedata

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~])")
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Cn"}


def escape(text: str) -> str:
    """Return `text` such that Markdown shows exactly its characters and no renderer sees markup in it."""
    return _SPECIAL.sub(r"\\\1", plain(text)).replace("://", ":\u200b//")


def plain(text: str) -> str:
    """Return `text` in one line, NFC, without control, bidirectional, zero-width and private characters."""
    kept = (
        " " if character.isspace() else character
        for character in unicodedata.normalize("NFC", text)
        if character.isspace() or unicodedata.category(character) not in _INVISIBLE
    )
    return " ".join("".join(kept).split())
