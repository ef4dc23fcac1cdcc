"""Whether a text is in the language asked for, and how a model is told which one that is.

Told by script alone: Japanese from Chinese by its kana, but German not from English, nor Russian from Bulgarian. The
languages in Latin script are only held against the other scripts.
"""

import re
import unicodedata

from services.common.languages import LANGUAGES

FEWEST_LETTERS = 24
"""With fewer letters there is too little to tell by."""
DENSE_WEIGHT = 2
"""Letters that a kana, a kanji or a syllable of hangul stands for, beside Latin names of ten letters each."""
LATIN_SHARE = 0.7
"""A text in Latin script holds at least this share of Latin letters: symbols and a gloss in another script are normal
in it, sentences are not."""
OTHER_SHARE = 0.25
"""The same for any other script, where names of methods stay Latin."""
KANA_SHARE = 0.12
"""Share of kana in Japanese, of its kana and kanji; academic prose has 0.3 and more, Chinese none."""

_RANGES = {
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u052f",
    "hebrew": "\u0591-\u05f4",
    "arabic": "\u0610-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "devanagari": "\u0900-\u0963\u0971-\u097f",
    "bengali": "\u0980-\u09ff",
    "tamil": "\u0b80-\u0bff",
    "telugu": "\u0c00-\u0c7f",
    "thai": "\u0e01-\u0e4f",
    "hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "kana": "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "han": "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
}
_SCRIPTS = {name: re.compile(f"[{ranges}]") for name, ranges in _RANGES.items()}
_DENSE = frozenset({"hangul", "kana", "han"})
_SCRIPTS_OF = {
    **dict.fromkeys(LANGUAGES, frozenset({"latin"})),
    **dict.fromkeys(("ar", "fa", "ur"), frozenset({"arabic"})),
    **dict.fromkeys(("bg", "ru", "uk"), frozenset({"cyrillic"})),
    "bn": frozenset({"bengali"}),
    "el": frozenset({"greek"}),
    "he": frozenset({"hebrew"}),
    "hi": frozenset({"devanagari"}),
    "ja": frozenset({"kana", "han"}),
    "ko": frozenset({"hangul"}),
    "sr": frozenset({"cyrillic", "latin"}),  # written in either
    "ta": frozenset({"tamil"}),
    "te": frozenset({"telugu"}),
    "th": frozenset({"thai"}),
    "zh": frozenset({"han"}),
}
_NO_WORDS = re.compile(r"[\[【][^\]】]*P\d[^\]】]*[\]】]|\$[^$\n]*\$|`[^`\n]*`")  # citations, formulas, code
_TOLD = {
    "ar": "اكتب باللغة العربية.", "bg": "Пиши на български език.", "bn": "বাংলা ভাষায় লিখুন।",
    "ca": "Escriu en català.", "cs": "Piš česky.", "da": "Skriv på dansk.", "de": "Schreibe auf Deutsch.",
    "el": "Γράψε στα ελληνικά.", "en": "Write in English.", "es": "Escribe en español.", "et": "Kirjuta eesti keeles.",
    "fa": "به زبان فارسی بنویس.", "fi": "Kirjoita suomeksi.", "fr": "Écris en français.", "he": "כתוב בעברית.",
    "hi": "हिन्दी में लिखें।", "hr": "Piši na hrvatskom jeziku.", "hu": "Magyarul írj.",
    "id": "Tulislah dalam bahasa Indonesia.", "it": "Scrivi in italiano.", "ja": "日本語で書いてください。",
    "ko": "한국어로 작성하세요.", "lt": "Rašyk lietuviškai.", "lv": "Raksti latviski.",
    "ms": "Tulis dalam bahasa Melayu.", "nl": "Schrijf in het Nederlands.", "no": "Skriv på norsk.",
    "pl": "Pisz po polsku.", "pt": "Escreve em português.", "ro": "Scrie în limba română.",
    "ru": "Пиши на русском языке.", "sk": "Píš po slovensky.", "sl": "Piši v slovenščini.",
    "sr": "Пиши на српском језику.", "sv": "Skriv på svenska.", "sw": "Andika kwa Kiswahili.",
    "ta": "தமிழில் எழுதவும்.", "te": "తెలుగులో రాయండి.", "th": "เขียนเป็นภาษาไทย", "tl": "Sumulat sa Tagalog.",
    "tr": "Türkçe yaz.", "uk": "Пиши українською мовою.", "ur": "اردو میں لکھیں۔", "vi": "Hãy viết bằng tiếng Việt.",
    "zh": "请用中文写。",
}  # fmt: skip


def is_in_language(text: str, language: str) -> bool:
    """Return whether a text can be in a language, told by its script; True where there is too little to tell by.

    Args:
        text: prose; citations, formulas and code in it are left aside.
        language: BCP 47 primary subtag, one of LANGUAGES; of any other language every text can be.
    """
    prose = _NO_WORDS.sub(" ", text)
    wanted = _SCRIPTS_OF.get(language)
    counts = {name: len(script.findall(prose)) * _weight(name) for name, script in _SCRIPTS.items()}
    letters = max(sum(counts.values()), sum(unicodedata.category(character)[0] in "LM" for character in prose))
    if wanted is None or letters < FEWEST_LETTERS:
        return True
    if sum(counts[name] for name in wanted) < (LATIN_SHARE if "latin" in wanted else OTHER_SHARE) * letters:
        return False
    is_kana = counts["kana"] >= KANA_SHARE * (counts["kana"] + counts["han"])
    return {"ja": is_kana, "zh": not is_kana}.get(language, True)


def name_of(language: str) -> str:
    """Return the English name of a language; a subtag without one stands for itself."""
    return LANGUAGES.get(language, language)


def is_latin(language: str) -> bool:
    """Return whether a language is written in Latin script."""
    return "latin" in _SCRIPTS_OF.get(language, ())


def told_in(language: str) -> str:
    """Return "Write in Japanese." in Japanese: what a model that answered in another language is told; "" for none."""
    return _TOLD.get(language, "")


def _weight(script: str) -> int:
    return DENSE_WEIGHT if script in _DENSE else 1
