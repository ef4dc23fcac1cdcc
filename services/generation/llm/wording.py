"""How a model is told which language, style and length to write in: the same words in every prompt."""

from collections.abc import Mapping

from services.generation.llm.language import name_of, told_in

ENGLISH_WORDS_PER_MINUTE = 238
"""Source: Brysbaert (2019), Journal of Memory and Language 109, 104047: silent reading of non-fiction."""
WORDS_PER_MINUTE = 190
"""Of other languages, whose words are longer. Source: Trauzettel-Klosinski and Dietz (2012), Investigative
Ophthalmology & Visual Science 53(9): 184 words a minute over 17 languages, where English has 228."""
CHARACTERS_PER_MINUTE: Mapping[str, int] = {"ja": 500, "zh": 350, "th": 900}
"""Languages that put no spaces between words. Chinese says the same in fewer characters than Japanese; Thai has an
alphabet, as the 863 characters a minute of the same study."""

_STYLES = {"ja": "in だ・である style", "ko": "in the plain style that ends sentences in -다"}
_STYLE = "in the third person and the present tense"


def wording_of(language: str) -> dict[str, str]:
    """Return the values of the places $language, $told and $style of a prompt."""
    return {"language": name_of(language), "told": told_in(language), "style": style_of(language)}


def style_of(language: str) -> str:
    """Return the one prose style of a language, so that parts written by different calls read alike."""
    return _STYLES.get(language, _STYLE)


def once_more_in(language: str) -> str:
    """Return what a model is told that answered in another language."""
    return f"Write the same again in {name_of(language)}. {told_in(language)}".strip()


def length_of(language: str, seconds: int) -> int:
    """Return how much is read in that time, in words, or in characters where no spaces part the words."""
    per_minute = CHARACTERS_PER_MINUTE.get(language)
    if per_minute is None:
        per_minute = ENGLISH_WORDS_PER_MINUTE if language == "en" else WORDS_PER_MINUTE
    return round(per_minute * seconds / 60)


def unit_of(language: str) -> str:
    """Return what `length_of` and `length_in` count: "words" or "characters"."""
    return "characters" if language in CHARACTERS_PER_MINUTE else "words"


def length_in(text: str, language: str) -> int:
    """Return how long a text is, counted as `length_of` counts."""
    words = text.split()
    return sum(map(len, words)) if language in CHARACTERS_PER_MINUTE else len(words)
