"""How many tokens a text has, where nobody says."""

import re

LATIN_CHARACTERS_PER_TOKEN = 4.0
CJK_CHARACTERS_PER_TOKEN = 1.2
_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")


def estimated_tokens(*texts: str) -> int:
    """Return about how many tokens the texts have: one for 4 characters, for 1.2 Chinese, Japanese or Korean ones."""
    length = sum(map(len, texts))
    cjk = sum(len(_CJK.findall(text)) for text in texts)
    return round((length - cjk) / LATIN_CHARACTERS_PER_TOKEN + cjk / CJK_CHARACTERS_PER_TOKEN)
