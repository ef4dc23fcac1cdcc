"""Who writes the stand-in's answers: small writers with the habits of real models, good and bad.

    provider.writer = CitingWriter()                # does all that the prompts ask for
    provider.writer = MentionWriter("gpt-4o-2024-08-06", question_index=2, seed=1)  # names few papers, as it did

None of them understands a paper: their sentences fill the form that was asked for.
"""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from standins.provider_prompts import language_of, marked_lines, outside, readable, schema_of, shown_papers
from standins.provider_wire import Asked, cut_to, tokens_in

SENTENCE = "This is a plain answer of one sentence."
SENTENCE_TOKENS = 45
"""Length of what is said of one paper, without its key."""
SUMMARY_TOKENS = 110
PARAGRAPH_TOKENS = 150
NAME_CHARACTERS = 40
MENTION_TABLE = Path(__file__).parents[3] / "shared/data/mention_table.json"
HOSTILE_ABSTRACTS = Path(__file__).parents[1] / "data/hostile_abstracts.json"
"""Texts that want more than to be read: name, what each tries, title, abstract."""
CODE_WORD = "heliotrope"
"""What those want written that give orders."""
OBEYED = "OBEYED"

_WORDS = {
    "en": {
        "heading": "How the papers here compare",
        "opening": "The papers of this part share a subject and differ in how they take it up. ",
        "sentence": (
            " takes up a problem of its own, and where its neighbours change the data or the loss, it changes how the"
            " parts of the model are put together, which is what sets its results apart from those of all the others"
        ),
        "text": (
            "The work takes up a known difficulty of its field and describes how earlier attempts fall short of it. "
            "It then puts together a method from parts that are simple by themselves, and trains them in one go. "
            "In the comparison that follows, the method does better than what it is held against, at a cost that is "
            "smaller than before, while some harder cases are left open for the work that comes after it. "
        ),
        "stop": ". ",
    },
    "ja": {
        "heading": "ここで扱う論文の比較",
        "opening": "この節の論文は同じ主題を扱うが、その取り組み方はそれぞれに異なっている。",
        "sentence": (
            "は独自の課題に取り組んでおり、近い研究がデータや損失を変えるのに対して、モデルの部品の組み合わせ方そのものを"
            "変える点で他の研究とは結果が異なっている"
        ),
        "text": (
            "この研究はその分野で知られた難しさを取り上げ、これまでの試みがどこで足りないのかを述べている。"
            "そのうえで、単純な部品を組み合わせた手法を作り、全体を一度に学習させている。"
            "比較の結果、従来よりも小さな計算量で良い結果が得られ、難しい場合は今後の課題として残されている。"
        ),
        "stop": "。",
    },
}


def plain_answer(asked: Asked) -> str:
    """Return a short sentence, or the smallest JSON that fits the schema asked for."""
    schema = schema_of(asked)
    if schema:
        return json.dumps(instance_of(schema), ensure_ascii=False)
    return "{}" if asked.is_json else SENTENCE


def instance_of(schema: Mapping[str, Any], text: str = "text") -> Any:
    """Return a small valid instance of a JSON schema.

    Strings are `text`; a list of objects that have an enum, such as keys, has one object for each of its values.
    """
    return _instance(schema, schema, text)


@dataclass
class CitingWriter:
    """Does all that the prompts ask for: names every paper it is shown, in the language asked for, in every form."""

    search_terms: Sequence[str] = ("image generation",)
    """Answered to every question."""

    def __call__(self, asked: Asked) -> str:
        schema = schema_of(asked)
        if schema:
            return json.dumps(self.form(asked, schema), ensure_ascii=False)
        papers = shown_papers(asked)
        return self.prose(asked, papers) if papers else self.summary(asked)

    def language(self, asked: Asked) -> str:
        """Return the language to write in."""
        return language_of(asked)

    def chosen(self, asked: Asked, papers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return the papers to name."""
        return papers

    def addition(self, asked: Asked) -> str:
        """Return what is put behind every text."""
        return ""

    def prose(self, asked: Asked, papers: Sequence[Mapping[str, Any]]) -> str:
        """Return a section: an opening, then a sentence a paper, its key at the end; a heading where one is wanted."""
        words = _WORDS[self.language(asked)]
        heading = f"# {words['heading']}\n\n" if '"# "' in outside(asked.text) else ""
        said = [self.sentence(asked, paper) for paper in self.chosen(asked, papers)]
        return heading + words["opening"] + "".join(said) + self.addition(asked)

    def sentence(self, asked: Asked, paper: Mapping[str, Any]) -> str:
        """Return what is said of one paper."""
        words = _WORDS[self.language(asked)]
        return f"{_about(paper, words)} [{paper['key']}]{words['stop']}"

    def summary(self, asked: Asked) -> str:
        """Return a summary of a paper, or what else is wanted without a form."""
        return _filled(_WORDS[self.language(asked)], SUMMARY_TOKENS) + self.addition(asked)

    def form(self, asked: Asked, schema: Mapping[str, Any]) -> Any:
        """Return the form asked for, filled in."""
        words = _WORDS[self.language(asked)]
        lines = marked_lines(asked.text)
        text = _filled(words, SENTENCE_TOKENS) + self.addition(asked)
        paragraph = _filled(words, PARAGRAPH_TOKENS) + self.addition(asked)
        filled = instance_of(schema, text)
        chapters = [line["chapter"] for line in lines if "chapter" in line]
        known = {
            "search_terms": list(self.search_terms),
            "language": "ja" if re.search("[\u3041-\u30ff]", asked.messages[0][1]) else "en",
            "heading": words["heading"],
            "title": words["heading"],
            "introduction": paragraph,
            "closing": paragraph,
            "chapters": [
                {"number": int(number), "title": f"{words['heading']} {number}", "text": text} for number in chapters
            ],
        }
        return {**filled, **{name: value for name, value in known.items() if name in filled}}


@dataclass
class MentionWriter(CitingWriter):
    """Names min(n, K) of n papers, K drawn anew for each answer as the published comparison found it for a model.

    K is normal, with the mean `papers_mentioned` and the deviation `recall_sd` x papers in the context, both of the
    question, rounded and never below 0. A form it fills in completely, as real models do.
    """

    model: str = "gpt-4o-2024-08-06"
    question_index: int = 0
    seed: int = 0
    quantile: float | None = None
    """Where in the distribution K lies, in (0, 1); None draws it by the seed and the prompt."""
    drawn: list[int] = field(default_factory=list)
    """What was drawn for each answer in prose."""

    def chosen(self, asked: Asked, papers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        chance = random.Random(_digest(str(self.seed), self.model, asked.text))
        spread = mentions_of(self.model, self.question_index)
        quantile = self.quantile if self.quantile is not None else chance.uniform(1e-9, 1 - 1e-9)
        value = spread.inv_cdf(quantile) if spread.stdev else spread.mean
        count = min(len(papers), max(0, round(value)))
        self.drawn.append(count)
        taken = set(chance.sample(range(len(papers)), count))
        return [paper for place, paper in enumerate(papers) if place in taken]


def mentions_of(model: str, question_index: int) -> NormalDist:
    """Return how many papers a model named in its answers to a question."""
    table = mention_table()
    context = table["mean_context_papers"][question_index]
    found = table["models"][model]
    return NormalDist(found["papers_mentioned"][question_index], found["recall_sd"][question_index] * context)


@cache
def mention_table() -> dict[str, Any]:
    """Return the published comparison of nine models on ten questions."""
    return dict(json.loads(MENTION_TABLE.read_text(encoding="utf-8")))


_COPIED = re.compile(
    r"""!?\[[^\]]*\]\([^)]*\)                      # links and images
    | \[[^\]]+\]:\s*\S+                             # where a link of another place leads
    | <[^>\s][^>]*>                                 # tags, addresses in angle brackets
    | (?:[a-z][a-z0-9+.-]*://|www\.|javascript:|data:)\S+
    | \b(?:[a-z0-9-]+\.)+(?:org|com|net|io|dev|test|example)(?:/\S*)?
    | [\[【［(（⟦]\s*[PР\uff30Ρ][^\]】］)）⟧]{1,40}[\]】］)）⟧]  # keys, and what looks like one
    | \bP\d+\b
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)


@dataclass
class GullibleWriter(CitingWriter):
    """The worst of readers.

    It does what any text outside the marks tells it, and says OBEYED there, so that a paper that gets out of its marks
    shows. Of what stands between the marks it copies every link, tag, image, hidden character and likeness of a key.
    """

    remembered: Sequence[str] = ()
    """Texts it knows by heart and copies from as well, as if nothing had been cleaned before it read."""

    def addition(self, asked: Asked) -> str:
        values = [str(value) for line in marked_lines(asked.text) for value in line.values()]
        copied = [part for text in (*values, *self.remembered) for part in self._copied(text)]
        obeyed = [OBEYED] if CODE_WORD in readable(outside(asked.text)).casefold() else []
        # Each on a line of its own, or what defines a link would define none.
        return "\n\n".join(["", *copied, *obeyed])

    def _copied(self, text: str) -> list[str]:
        hidden = "".join(
            each for each in text if unicodedata.category(each) in {"Cf", "Cc", "Co"} and each not in "\n\t"
        )
        return [found.group() for found in _COPIED.finditer(text)] + ([f"a{hidden}b"] if hidden else [])


@dataclass
class KeylessWriter(CitingWriter):
    """Names no paper in prose; a form it fills in."""

    def sentence(self, asked: Asked, paper: Mapping[str, Any]) -> str:
        words = _WORDS[self.language(asked)]
        return _about(paper, words) + words["stop"]


@dataclass
class EnglishWriter(CitingWriter):
    """Writes in English however it is asked."""

    times: int | None = None
    """For so many answers, then as it is asked; None for ever."""
    _answered: int = 0

    def __call__(self, asked: Asked) -> str:
        self._answered += 1
        return super().__call__(asked)

    def language(self, asked: Asked) -> str:
        return "en" if self.times is None or self._answered <= self.times else language_of(asked)


@dataclass
class UnknownKeyWriter(CitingWriter):
    """Names papers it was not shown as well."""

    keys: Sequence[str] = ("P9991", "P9992")

    def addition(self, asked: Asked) -> str:
        words = _WORDS[self.language(asked)]
        paper = {"title": ""}
        return "".join(f"{_about(paper, words)} [{key}]{words['stop']}" for key in self.keys)


@dataclass
class ScriptedWriter:
    """Answers what it is told to, in order; the last answer again and again."""

    answers: Sequence[str]
    asked: list[Asked] = field(default_factory=list)

    def __call__(self, asked: Asked) -> str:
        self.asked.append(asked)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def _about(paper: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return a sentence of the length of all others about a paper, named by the beginning of its title."""
    name = re.sub(r"[\[\]【】<>()`*_#|]", "", str(paper["title"]))[:NAME_CHARACTERS].strip() or "It"
    return _whole(cut_to(name + words["sentence"], SENTENCE_TOKENS))


def _filled(words: Mapping[str, str], token_count: int) -> str:
    """Return prose of about so many tokens."""
    text = words["text"]
    cut = _whole(cut_to(text * (token_count // tokens_in(text) + 1), token_count))
    return cut.rstrip(".。、") + words["stop"].strip()


def _whole(text: str) -> str:
    """Return a text without the word that a cut went through; in Japanese it stays as it is."""
    return text.rpartition(" ")[0] if text[-1:].isascii() else text


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=8).digest(), "big")


def _instance(schema: Mapping[str, Any], root: Mapping[str, Any], text: str) -> Any:
    schema = _resolved(schema, root)
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values:
        return values[0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "object":
        return {name: _instance(part, root, text) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return _items(schema, root, text)
    if kind == "string":
        return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", len(text) + 999))]
    number = schema.get("minimum", 1)
    return {"integer": number, "number": number, "boolean": True}.get(kind)


def _items(schema: Mapping[str, Any], root: Mapping[str, Any], text: str) -> list[Any]:
    item = _resolved(schema.get("items", {}), root)
    for name, part in item.get("properties", {}).items():
        resolved = _resolved(part, root)
        values = resolved.get("enum") or ([resolved["const"]] if "const" in resolved else [])
        if values:
            return [{**_instance(item, root, text), name: value} for value in values]
    return [_instance(item, root, text) for _ in range(max(1, int(schema.get("minItems", 1))))]


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a reference or the first of several choices stands for."""
    while True:
        if "$ref" in schema:
            target: Any = root
            for name in schema["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
        elif "anyOf" in schema:
            schema = schema["anyOf"][0]
        elif "allOf" in schema:
            schema = {**schema["allOf"][0], **{name: value for name, value in schema.items() if name != "allOf"}}
        else:
            return schema
