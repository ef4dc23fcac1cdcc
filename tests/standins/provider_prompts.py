"""What a writer can tell of a prompt: the papers between the marks, what stands outside them, the language wanted."""

import base64
import binascii
import json
import re
import unicodedata
from typing import Any

from standins.provider_wire import Asked

_BLOCK = re.compile(r"<papers (?P<nonce>[0-9a-f]{16})>\n(?P<lines>.*?)\n?</papers (?P=nonce)>", re.DOTALL)
_SCHEMA = re.compile(r"JSON schema:\s*(\{.*)", re.DOTALL)
_KEY = re.compile(r"P\d+")
_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")


def marked_lines(text: str) -> list[dict[str, Any]]:
    """Return the lines between marks that are what they should be: objects of JSON."""
    return [found for line in _lines(text) if (found := _object_of(line)) is not None]


def outside(text: str) -> str:
    """Return what stands outside the marks, with what stands between them and is no object of JSON."""
    broken = [line for line in _lines(text) if _object_of(line) is None]
    return "\n".join([_BLOCK.sub("\n", text), *broken])


def shown_papers(asked: Asked) -> list[dict[str, Any]]:
    """Return the papers of the last message that shows any, each once: key, title and whatever else is said of it."""
    for role, text in reversed(asked.messages):
        keyed = [line for line in marked_lines(text) if _KEY.fullmatch(str(line.get("key", "")))]
        if role == "user" and keyed:
            return list({line["key"]: line for line in keyed}.values())
    return []


def schema_of(asked: Asked) -> dict[str, Any] | None:
    """Return the JSON schema of the answer wanted: sent as a parameter, or written into the prompt."""
    described = _SCHEMA.search(outside(asked.text))
    if asked.schema or described is None:
        return asked.schema
    schema, _ = json.JSONDecoder().raw_decode(described[1])
    return dict(schema)


def language_of(asked: Asked) -> str:
    """Return "ja" where the instructions ask for Japanese, else "en"."""
    instructions = outside(asked.text)
    return "ja" if "Japanese" in instructions or "日本語" in instructions else "en"


def readable(text: str) -> str:
    """Return a text as a reader takes it who misses nothing: hidden letters, other widths and base64 spelt out."""
    text = text.translate(_TAGS)
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    for run in _BASE64.findall(text):
        try:
            text += base64.b64decode(run).decode()
        except (binascii.Error, ValueError):
            continue
    return unicodedata.normalize("NFKC", text)


def _lines(text: str) -> list[str]:
    return [line for block in _BLOCK.finditer(text) for line in block["lines"].splitlines() if line.strip()]


def _object_of(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
