"""A paper's own sentence, told in a survey: its key becomes the subject, "we" becomes "the authors".

Nothing else of the sentence changes, so that it stays what the paper says.
"""

import re
from dataclasses import dataclass

from services.generation.extractive import cues
from services.generation.extractive.latex import readable
from services.generation.extractive.markup import safe
from services.generation.extractive.phrases import Phrases, chosen
from services.generation.extractive.summary import Sentence, best_sentence, capital, without_connective
from services.generation.extractive.words import words_in

_PAPER = r"(?:paper|work|study|article|thesis|survey|report|letter|chapter|research|manuscript)"
_IN_THIS_PAPER = re.compile(
    rf"^(?:In|Within|With|Through) (?:this|the present|our) (?:\w+ )?{_PAPER},?\s+(?=we\b|I\b|the authors?\b)",
    re.IGNORECASE,
)
_THIS_PAPER = re.compile(
    rf"(?:^(?:This|The|The present|Our)|(?<=, )(?:and )?(?:this|the present)) {_PAPER}"
    r"(?= (?!we\b|of\b|in\b|on\b|is to\b)[a-z])"
)
_OUR_METHOD = re.compile(
    r"^Our (?P<noun>(?:(?:key|main|core|proposed|new) )?(?:method|approach|model|framework|system|algorithm|analysis|"
    r"result|experiment|idea|insight|contribution|dataset|benchmark|finding|goal|aim|objective|solution|technique|"
    r"pipeline|architecture|theory|evaluation)s?)\b"
)
_WE_PROPOSE_NAME = re.compile(
    r"^[Ww]e (?:\w+ly )?(?:propose|present|introduce|develop|design|build|release|describe) (?P<name>[^\s,:;]+)"
    r"(?P<expansion> \([^()]*\))?, (?P<what>(?:an?|the) [^,;]* |which (?=\w+s\b))"
)
_VERBS = "|".join(
    sorted(
        words_in(
            """
            address aim analyze apply argue assess build characterize collect combine compare conduct contribute define
            describe design develop employ establish evaluate examine explore extend find formulate identify integrate
            introduce investigate leverage offer present propose prove provide quantify release review revisit show
            study suggest survey tackle use
            """
        )
    )
)
_WE_DO = re.compile(rf"^[Ww]e (?:first |here |then |also |thus )?(?P<adverb>\w+ly )?(?P<verb>{_VERBS})\b")
_ANOTHER_VERB = re.compile(rf"(?:,|\band|\bor) (?:\w+ly )?(?:{_VERBS}|are|have|do)\b|\b[Ww]e\b|\bours?\b")
_WE = re.compile(
    r"\b(?:[Ww]e|[Tt]he authors)\b"
    r"(?: (?:then|also|further|thus|therefore|hence|additionally|subsequently|finally|first|here)\b)?"
)
_FIRST_PERSONS = (
    (re.compile(r"\b[Ww]e\b"), "the authors"),
    (re.compile(r"\bours\b"), "theirs"),
    (re.compile(r"\bourselves\b"), "themselves"),
    (re.compile(r"\bour\b"), "their"),
    (re.compile(r"\bOur\b"), "Their"),
    (re.compile(r"\bus\b"), "them"),
)
_SINGULAR = re.compile(r"(?:^|[\s(])(?:I(?= [a-z])|my|me|My)\b")
_QUOTED_US = re.compile(r"[“\"][^”\"]*\b(?:[Ww]e|[Oo]ur|us)\b[^”\"]*[”\"]")
_ENUMERATION = re.compile(r"(?<=\w)[:,]\s\(?(?:1|i)\)\s.{160,}$")  # a long list; what it lists is said before it
_CLOSING = re.compile(r"[.!?]+[\"'”’)]*$")
_ARTICLES = frozenset(("The", "A", "An"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A sentence with its key, before a connecting phrase is put in front."""

    text: str
    lowered: str = ""
    """The same with a small first letter, to stand after a phrase; empty where that would be wrong."""
    context: str = ""
    """The sentence it leans on, to be told before it; empty where it stands alone."""


def told(title: str, summary: str, key: str, phrases: Phrases) -> Told:
    """Return the sentence of a summary that says what was done, with the paper's key in it.

    Args:
        title: as arXiv has it; where the sentence begins with its part up to the colon, the key takes that place.
        summary: one to a few sentences; the title stands in for an empty one.
        key: "P12".
        phrases: for a sentence that can only be quoted.
    """
    best = best_sentence(title, summary)
    mark = f"[{key}]"
    if best is None:
        return Told(text=f"{safe(readable(title))} {mark}.")
    sentence = _shortened(_ENUMERATION.sub(".", best.text))
    if _SINGULAR.search(sentence) or _QUOTED_US.search(sentence):
        text = phrases.say(chosen(phrases.quoted, 0), key=mark, quote=safe(sentence))
        return Told(text=text, lowered=text)
    context = _context_of(sentence, best)
    text = _with_key(capital(_IN_THIS_PAPER.sub("", sentence)), title.partition(":")[0], mark)
    return Told(text=text, lowered=_lowered(text), context=safe(_third_person(context)))


def quoted(title: str, summary: str) -> str:
    """Return the sentence of a summary that says what was done, word for word, without its full stop."""
    best = best_sentence(title, summary)
    if best is None:
        return safe(readable(title))
    sentence = _shortened(_ENUMERATION.sub(": …", best.text))
    context = _context_of(sentence, best)
    return safe(f"{context} {sentence}".strip().removesuffix("."))


def _shortened(sentence: str) -> str:
    """Return a sentence without what ties it to the one before."""
    return capital(cues.PURPOSE.sub("", without_connective(sentence)))


def _context_of(sentence: str, best: Sentence) -> str:
    """Return the sentence before, where the one to be told points back to it."""
    leans = cues.POINTS_BACK.match(sentence) or cues.POINTS_BACK_SOON.match(sentence)
    return without_connective(best.before) if leans else ""


def _with_key(sentence: str, name: str, mark: str) -> str:
    """Return the sentence with its key: as its subject where one can be replaced, else before the full stop."""
    if _is_subject(name, sentence):
        return mark + _rest(sentence[len(name) :])
    if found := _THIS_PAPER.search(sentence):
        joined = "and " * found.group(0).startswith("and ")
        return f"{_start(sentence[: found.start()] + joined)}{mark}{_rest(sentence[found.end() :])}"
    if found := _OUR_METHOD.match(sentence):
        return f"The {found.group('noun')} of {mark}{_rest(sentence[found.end() :])}"
    if retold := _retold(sentence, name, mark):
        return retold
    if found := _WE.search(sentence):
        before = _start(sentence[: found.start()])
        return f"{before}{'the' if before else 'The'} authors of {mark}{_rest(sentence[found.end() :])}"
    text = safe(_third_person(sentence))
    closing = _CLOSING.search(text)
    return f"{text[: closing.start()]} {mark}{closing.group(0)}" if closing else f"{text} {mark}."


def _retold(sentence: str, name: str, mark: str) -> str:
    """Return "We propose X, a Y" as "[X] is a Y", "We study Y" as "[X] studies Y"; empty where neither fits."""
    named = _WE_PROPOSE_NAME.match(sentence)
    if named and named.group("name") == name and not _ANOTHER_VERB.search(sentence[named.end() :]):
        what = sentence[named.start("what") :]
        verb = what.removeprefix("which ") if what.startswith("which ") else f"is {what}"
        return f"{mark}{_rest((named.group('expansion') or '') + ' ' + verb)}"
    does = _WE_DO.match(sentence)
    if does and not _ANOTHER_VERB.search(sentence[does.end() :]):
        verb = (does.group("adverb") or "") + _third_singular(does.group("verb"))
        return f"{mark} {verb}{_rest(sentence[does.end() :])}"
    return ""


def _third_singular(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"


def _is_subject(name: str, sentence: str) -> bool:
    """Return whether the sentence begins with the paper's name, and with it as what acts, not as a common word."""
    if not name or not sentence.startswith(name):
        return False
    following = sentence[len(name) :]
    is_distinctive = " " not in name and (name[1:] != name[1:].lower() or any(map(str.isdigit, name)))
    if is_distinctive:
        return re.match(r" (?!(?:has|have|are)\b)", following) is not None  # "X, built on Y, ..." reads badly linked
    return cues.DOES.match(following) is not None


def _start(text: str) -> str:
    """Return what stands before a key, safe and with the space that parts them; empty for nothing."""
    return f"{safe(_third_person(text))} " if text.strip() else ""


def _rest(text: str) -> str:
    """Return what follows a key up to its full stop, safe, the space between them kept."""
    ended = text if _CLOSING.search(text) else f"{text}."
    return f"{' ' * ended.startswith(' ')}{safe(_in_third_person(ended))}"


def _third_person(sentence: str) -> str:
    return capital(_in_third_person(sentence))


def _in_third_person(text: str) -> str:
    for pattern, word in _FIRST_PERSONS:
        text = pattern.sub(word, text)
    return text


def _lowered(text: str) -> str:
    """Return the text as it goes on after a phrase; empty where its first word may be a name."""
    if text.startswith("["):
        return text
    return text[:1].lower() + text[1:] if text.split(" ", 1)[0] in _ARTICLES else ""
