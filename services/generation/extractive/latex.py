"""LaTeX as arXiv leaves it in titles and abstracts, turned into plain text that reads well.

Written by hand: abstracts are typed for MathJax, not for LaTeX, so a real parser takes "50% faster. It ..." for a
comment and stops at macros that only the authors' preamble knew.
"""

import re
import unicodedata

from services.common.markdown import plain
from services.generation.extractive.words import words_in

MAX_CHARACTERS = 10_000
"""The longest abstract among 50,000 of arXiv has 2,934."""

_GREEK = words_in(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau upsilon phi chi psi omega"
)
_SYMBOLS = {
    **{name: unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}") for name in _GREEK},
    **{name.capitalize(): unicodedata.lookup(f"GREEK CAPITAL LETTER {name.upper()}") for name in _GREEK},
    "lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "eps": "ε", "varphi": "φ", "vartheta": "ϑ", "ell": "ℓ",
    "times": "×", "cdot": "·", "pm": "±", "mp": "∓", "div": "÷", "ast": "*", "star": "*", "circ": "∘", "degree": "°",
    "deg": "deg", "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ll": "≪",
    "gg": "≫", "neq": "≠", "ne": "≠", "approx": "≈", "sim": "~", "simeq": "≃", "equiv": "≡", "propto": "∝",
    "infty": "∞", "to": "→", "rightarrow": "→", "leftarrow": "←", "leftrightarrow": "↔", "Rightarrow": "⇒",
    "Leftrightarrow": "⇔", "mapsto": "↦", "uparrow": "↑", "downarrow": "↓", "in": "∈", "notin": "∉", "ni": "∋",
    "subset": "⊂", "subseteq": "⊆", "supset": "⊃", "cup": "∪", "cap": "∩", "setminus": "∖", "emptyset": "∅",
    "forall": "∀", "exists": "∃", "neg": "¬", "wedge": "∧", "vee": "∨", "oplus": "⊕", "otimes": "⊗", "odot": "⊙",
    "sum": "∑", "prod": "∏", "int": "∫", "partial": "∂", "nabla": "∇", "sqrt": "√", "langle": "⟨", "rangle": "⟩",
    "lceil": "⌈", "rceil": "⌉", "lfloor": "⌊", "rfloor": "⌋", "ldots": "…", "dots": "…", "cdots": "…", "mid": "|",
    "vert": "|", "Vert": "‖", "prime": "′", "dagger": "†", "checkmark": "✓", "S": "§", "ss": "ß", "ae": "æ",
    "AE": "Æ", "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "aa": "å", "AA": "Å", "l": "ł", "L": "Ł", "i": "ı",
    "textendash": "–", "textemdash": "—", "textquoteright": "’", "textasciitilde": "~", "textbackslash": "\\",
    "eg": "e.g.", "ie": "i.e.", "etal": "et al.", "colon": ":", "lt": "<", "gt": ">", "LaTeX": "LaTeX",
}  # fmt: skip
_ACCENTS = {
    "'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328", "r": "\u030a", "d": "\u0323",
}  # fmt: skip
_RAISED = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")

_URL = re.compile(r"\(?\b(?:https?|ftp)://[^\s<>{}]+|\bwww\.[^\s<>{}]+")
_DOLLARS = re.compile(r"\$\$?([^$]{1,400})\$\$?")
_PARENTHESES = re.compile(r"\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]")
_MONEY = re.compile(r"\d[\d.,]*\s?[kKmMbB]?(?:\s.*\s|[^\\^_=]*\s)")
_DROPPED = re.compile(
    r"~?\\(?:cite[a-z]*|ref|eqref|autoref|cref|label|footnote|url|thanks|vspace|hspace|unicode)\*?(?:\[[^\]]*\])*\{[^{}]*\}"
)
_TWO_ARGUMENTS = re.compile(r"\\(?:href|textcolor|colorbox|color)\s*\{[^{}]*\}\s*\{([^{}]*)\}|\\color\{[^{}]*\}()")
_FRACTION = re.compile(r"\\[td]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\s*(?:\[[^\]]*\])?\{([^{}]*)\}")
_ACCENT = re.compile(r"""\\(['`"^~=.]|[uvHckrd](?=[\s{]))\s*\{?\\?([A-Za-z])(?![A-Za-z]\})\}?""")
_GROUP = re.compile(r"(?:\\([A-Za-z]+)\*?\s*|(?<![\\^_]))\{([^{}]*)\}")
_FUNCTIONS = words_in("log ln lg exp max min sup inf arg argmax argmin sin cos tan tanh det dim ker poly polylog")
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?(\s?)")
_SWITCHES = words_in(
    "em it bf rm sf sc tt sl cal textstyle displaystyle left right big Big bigl bigr Bigl Bigr small large limits"
)
_SHORT_FORMULA = 4  # characters: "n=5" and "2×" are set without spaces
_POWER = re.compile(r"\^(?:\{([0-9+\-n]{1,4})\}|(-?\d{1,3}|n)(?![\w+]))")
_DEGREES = re.compile(r"\^\{?∘\}?")
_PROTECTED = {
    "\\%": "%", "\\&": "&", "\\#": "#", "\\_": "_", "\\{": "\ue001", "\\}": "\ue002", "\\$": "\ue003", "\\|": "‖",
    "\\-": "", "\\@": "", "\\/": "",
}  # fmt: skip
"""Characters LaTeX gives a meaning, printed as themselves; braces and dollars wait until their meaning is gone."""


def readable(text: str) -> str:
    """Return a title or an abstract in one line of plain text: LaTeX read out, web addresses left out.

    A survey holds no links but those rendered from records, so addresses go here already.

    Args:
        text: what lies beyond MAX_CHARACTERS is not read.
    """
    text = text[:MAX_CHARACTERS]
    if not re.search(r"[\\${}~`]|--|://|www\.|''", text):
        return _in_one_line(text)
    text = _URL.sub("", _DROPPED.sub("", _TWO_ARGUMENTS.sub(r"\1", text)))
    for command, character in _PROTECTED.items():
        text = text.replace(command, character)
    text = _ACCENT.sub(_accented, text)
    text = _PARENTHESES.sub(lambda found: _formula(found.group(1) or found.group(2)), text)
    text = _prose(_unwrapped(_without_dollars(text)))
    for private, character in (("\ue001", "{"), ("\ue002", "}"), ("\ue003", "$")):
        text = text.replace(private, character)
    return re.sub(r"\s+([,.;:!?)])(?=\s|$)", r"\1", _in_one_line(text))


def _in_one_line(text: str) -> str:
    """Return what `plain` returns; quickly for a text that holds nothing it would take out."""
    return " ".join(unicodedata.normalize("NFC", text).split()) if text.isprintable() else plain(text)


def _accented(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", found.group(2) + _ACCENTS[found.group(1)])


def _without_dollars(text: str) -> str:
    """Return `text` with its formulas on the line; dollars that are money stay."""
    parts, start = [], 0
    while found := _DOLLARS.search(text, start):
        if _MONEY.fullmatch(found.group(1)):
            parts.append(text[start : found.start() + 1])
            start = found.start() + 1
        else:
            parts += text[start : found.start()], _formula(found.group(1))
            start = found.end()
    return "".join(parts) + text[start:]


def _formula(math: str) -> str:
    """Return a formula on the line: powers raised, other braces gone, names of functions as they are."""
    text = _unwrapped(re.sub(r"\\[,;:!> ]|~", " ", math)).replace("{,}", ",")
    text = _POWER.sub(lambda found: (found.group(1) or found.group(2)).translate(_RAISED), _DEGREES.sub("°", text))
    is_short = len(text) <= _SHORT_FORMULA
    return text.strip() if is_short else re.sub(r"\s*([=<>≤≥≈≠→×±∈])\s*", r" \1 ", text).strip()


def _unwrapped(text: str) -> str:
    """Return `text` with commands read out from the inside to the outside."""
    for _ in range(6):  # nesting deeper than this is no abstract
        before = text
        text = _ROOT.sub(_rooted, _FRACTION.sub(r"\1/\2", text))
        text = _GROUP.sub(_opened, text)
        if text == before:
            break
    return _COMMAND.sub(_symbol, text)


def _opened(found: re.Match[str]) -> str:
    name, inside = found.group(1), _COMMAND.sub(_symbol, found.group(2))  # now: "{\\o}m" must not become "\\om"
    if name in _FUNCTIONS:
        return f"{name} {inside}"
    return f"{_SYMBOLS.get(name, '')}{inside}" if name else inside


def _rooted(found: re.Match[str]) -> str:
    inside = found.group(1)
    return f"√{inside}" if len(inside) == 1 else f"√({inside})"


def _symbol(found: re.Match[str]) -> str:
    name, gap = found.groups()
    if name in _SWITCHES:
        return ""
    known = _SYMBOLS.get(name)
    if known is None:
        is_glued = name in _FUNCTIONS and found.start() > 0 and found.string[found.start() - 1].isalnum()
        return f"{' ' if is_glued else ''}{name}{gap}"  # a macro of the authors' own: its name is the best there is
    return known + (gap if len(known) > 1 or known in "∈≤≥≈≠→×±" else "")


def _prose(text: str) -> str:
    """Return `text` with quotes, dashes and spaces as they are printed."""
    text = re.sub(r"``(.{1,200}?)(?:''|\"|``)", r"“\1”", text)
    text = re.sub(r"(?<!\w)`([^`']{1,80})'", r"‘\1’", text)
    text = re.sub(r"(?<!-)---(?!-)", "—", text)
    text = re.sub(r"(?<!-)--(?=[\s\w])(?!-)", "–", text)
    text = re.sub(r"(?<=[\w.,)])~(?=[\w(])|\\[,;: ]", " ", text)
    return re.sub(r"\\[!/]|[{}]|(?<!\\)\\(?=\s|$)", "", text)
