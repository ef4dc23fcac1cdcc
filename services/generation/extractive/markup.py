"""Text of papers in Markdown: shown as it is, never a key, a link, a tag or a list."""

import re

from services.common.markdown import escape

_BLOCK_START = re.compile(r"^(\d{1,9})([.)])|^([-+=])")
_LENTICULAR = str.maketrans("【】", "〔〕")  # a citation may stand in these too, so a paper's text must not hold them


def safe(text: str) -> str:
    """Return `text` escaped, such that it is safe at the beginning of a paragraph as well."""
    shown = escape(text.translate(_LENTICULAR))
    return _BLOCK_START.sub(lambda found: f"{found.group(1) or ''}\\{found.group(2) or found.group(3)}", shown)
