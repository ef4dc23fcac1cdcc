"""The few sentences the gateway itself adds to a survey, in the languages it has them in."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrases:
    """What assemble and the exports write around the text of the models."""

    language: str
    gap: str
    """What stands between two sentences."""
    also_here: str
    closing: str
    references: str
    map_title: str
    map_description: str
    written_by: str
    extractive: str
    other_language: str
    found_in: str
    answer: str
    stale_answer: str
    answer_gap: str
    paraphrased: str
    stood_in: str
    """Of the whole survey, with the number of sections."""
    stood_in_here: str
    not_borne_out: str
    sources: Mapping[str, str]
    contents: str
    map_heading: str
    flagged: str
    costs: str
    coverage: str
    cost_columns: tuple[str, ...]
    total: str


ENGLISH = Phrases(
    language="en",
    gap=" ",
    also_here="Also in this section:",
    closing="Closing",
    references="References",
    map_title="Route map: {title}",
    map_description="{paper_count} papers in {chapter_count} chapters, joined in reading order. {chapters}",
    written_by="Written by {models}.",
    extractive="This engine uses no language model: it picks the papers' own sentences and joins them.",
    other_language="It has no phrases in the language asked for and wrote in English.",
    found_in="Papers from {answers}, looking back from {as_of}.",
    answer="{source} as of {day}",
    stale_answer="{source} as of {day} (nothing younger could be had)",
    answer_gap="; ",
    stood_in="Sections written by a model that stood in for the one asked for: {count}.",
    stood_in_here="Written by {model}: {reason}.",
    not_borne_out="Not found in the papers cited: {terms}.",
    paraphrased="The papers are real; abstracts of the sample library are paraphrases written for PaperRoute.",
    sources={
        "SOURCE_ARXIV": "arXiv API",
        "SOURCE_SAMPLE": "the sample library of PaperRoute",
        "SOURCE_INDEX": "the local arXiv index",
        "SOURCE_STORE": "papers of earlier surveys",
    },
    contents="Contents",
    map_heading="Route map",
    flagged="Sentences that their citations may not bear out: {count}",
    costs="Coverage and cost",
    coverage="{kept} papers kept: {cited} cited, {listed} listed, {dropped} dropped. Sentences flagged: {flagged}.",
    cost_columns=("Stage", "Time", "Models", "Calls", "Tokens in", "Tokens out", "Cost"),
    total="Total",
)

JAPANESE = Phrases(
    language="ja",
    gap="",
    also_here="この節のその他の論文:",
    closing="まとめ",
    references="参考文献",
    map_title="経路図: {title}",
    map_description="{chapter_count} 章 {paper_count} 本の論文を読む順に線で結んだ図。{chapters}",
    written_by="執筆: {models}。",
    extractive="このエンジンは言語モデルを使わず、論文自身の文を選んでつないでいる。",
    other_language="",
    found_in="論文の出所: {answers}。対象は {as_of} 以前。",
    answer="{source}（{day} 時点）",
    stale_answer="{source}（{day} 時点、これより新しいものは得られなかった）",
    answer_gap="、",
    stood_in="指定のモデルに代わって別のモデルが書いた節: {count}。",
    stood_in_here="執筆は {model}（{reason}）。",
    not_borne_out="引用した論文に見当たらない語句: {terms}。",
    paraphrased="論文は実在のものだが、サンプルライブラリの要旨は PaperRoute のために書き直した文である。",
    sources={
        "SOURCE_ARXIV": "arXiv API",
        "SOURCE_SAMPLE": "PaperRoute のサンプルライブラリ",
        "SOURCE_INDEX": "手元の arXiv 索引",
        "SOURCE_STORE": "過去のサーベイの論文",
    },
    contents="目次",
    map_heading="経路図",
    flagged="引用で裏づけられていない可能性のある文: {count}",
    costs="網羅と費用",
    coverage="採用 {kept} 本: 引用 {cited}、一覧のみ {listed}、除外 {dropped}。印の付いた文: {flagged}。",
    cost_columns=("段階", "時間", "モデル", "呼び出し", "入力トークン", "出力トークン", "費用"),
    total="合計",
)

_BY_LANGUAGE = {phrases.language: phrases for phrases in (ENGLISH, JAPANESE)}


def phrases_of(language: str) -> Phrases:
    """Return the phrases of a language; English where there are none."""
    return _BY_LANGUAGE.get(language, ENGLISH)
