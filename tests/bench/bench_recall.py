"""`make bench-recall`: how many of its papers a survey names, with one call (`single`) and with one a section.

The models are played by the stand-in provider server, each naming as many papers an answer as the published comparison
found for it and its question, so this shows what the machinery covers, not how a model writes. Everything else is
real: gateway, services, adapters, ledger and records, papers from the local index at the published context sizes.

Every answer in prose also names a paper it was not shown and links elsewhere; neither may reach a survey.
"""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from bench_table import Target, finish, print_table
from corpus import CORPUS
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from standins.provider_server import ProviderStandIn
from standins.provider_wire import Asked
from standins.provider_writers import CitingWriter, MentionWriter, mention_table

from gateway.embedded import embedded
from services.common.channel import open_channel

TERMS = (
    "LoRA image generation",
    "video generation",
    "person tracking",
    "LoRA vision language image generation",
    "NeRF",
    "Gaussian Splatting",
    "vision foundation model",
    "LLM quantization",
    "Mamba",
    "RAG evaluation",
)
"""What is searched for each question of the table, in its order."""
REPEATS = 3
"""Answers of the writer `single` to a question, one from each third of the distribution of K."""
SURVEYS_AT_ONCE = 3
CLERK = "gpt-6-luna"
"""Plans and summarizes for the recall; its summaries are made once and served from the ledger from then on."""
COST_QUESTION = 6
"""The one whose published context, 158 papers, is nearest to the 160 of the target."""
COST_PAPERS = 160
FIRST_TOKEN_S = 0.3
"""While the cost is measured: a prompt is cached from the moment its answer begins, so it matters who waits."""
KEY = "sk-of-the-stand-in"
GOLDEN = 0.618
INDEX_FILE = "arxiv_index.sqlite3"
_LINK = re.compile(r"\]\(([^)\s]*)")
_KEY_LEFT = re.compile(r"\[P\d+")


@dataclass
class NoisyMentionWriter(MentionWriter):
    """Names as many papers as its model does, one that it was not shown, and an address."""

    def addition(self, asked: Asked) -> str:
        return " [P9991] [https://elsewhere.example](https://elsewhere.example)."


@dataclass
class Cast:
    """Who answers for which model."""

    clerk: CitingWriter = field(default_factory=CitingWriter)
    writers: dict[str, MentionWriter] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> str:
        return self.writers.get(asked.model, self.clerk)(asked)


def provider_of(model: str) -> str:
    """Return "provider:model" of a model in the table: its family's protocol."""
    families = {"gpt": "openai", "claude": "anthropic", "gemini": "gemini"}
    return f"{families[model.partition('-')[0]]}:{model}"


def contexts() -> list[int]:
    """Return the published numbers of papers shown, in whole papers."""
    return [round(size) for size in mention_table()["mean_context_papers"]]


def published(model: str) -> float:
    """Return the mean share of papers that a model named, each question's capped at 1."""
    return mean(min(1.0, recall) for recall in mention_table()["models"][model]["recall_mean"])


def quantile_of(question: int, repeat: int) -> float:
    """Return where in its distribution K lies: in the repeat's part of it, there evenly from question to question.

    So a few answers show the mean of many.
    """
    return (repeat + (question + 0.5) * GOLDEN % 1) / REPEATS


def cast_for(question: int, quantile: float | None) -> dict[str, MentionWriter]:
    """Return the nine writers for a question; None draws K anew for each answer."""
    return {
        model: NoisyMentionWriter(
            model=model, question_index=question, quantile=quantile, search_terms=[TERMS[question]]
        )
        for model in mention_table()["models"]
    }


def index_folder() -> Path:
    """Return the folder of the index of all records, built once for this version of them."""
    found = CORPUS.stat()
    folder = Path(tempfile.gettempdir()) / f"paperroute-bench-index-{found.st_size}-{int(found.st_mtime)}"
    if not (folder / INDEX_FILE).exists():
        building = folder.with_suffix(f".{os.getpid()}")
        command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "index", "build", str(CORPUS)]
        subprocess.run(command, check=True, env={**os.environ, "PAPERROUTE_DATA_DIR": str(building)})
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    return folder


@contextlib.asynccontextmanager
async def gateway_before(provider: ProviderStandIn, data_dir: Path) -> AsyncIterator[pb_grpc.SurveyServiceStub]:
    """Serve all roles in this process, their providers played by the stand-in."""
    shutil.copy(index_folder() / INDEX_FILE, data_dir / INDEX_FILE)
    for name, url in (
        ("OPENAI", provider.openai_url),
        ("ANTHROPIC", provider.anthropic_url),
        ("GEMINI", provider.gemini_url),
    ):
        os.environ[f"PAPERROUTE_{name}__BASE_URL"] = url
        os.environ[f"PAPERROUTE_{name}__API_KEY"] = KEY
    os.environ["PAPERROUTE_DATA_DIR"] = str(data_dir)
    async with embedded() as serving, open_channel(serving.address) as channel:
        yield pb_grpc.SurveyServiceStub(channel)


async def surveyed(stub: pb_grpc.SurveyServiceStub, spec: pb.SurveySpec) -> pb.Survey:
    """Return a survey that is done.

    Raises:
        RuntimeError: it ended otherwise.
    """
    created = await stub.CreateSurvey(service_pb.CreateSurveyRequest(spec=spec), timeout=30)
    survey_id = created.survey.survey_id
    async for _ in stub.WatchSurvey(service_pb.WatchSurveyRequest(survey_id=survey_id), timeout=600):
        pass
    survey = (await stub.GetSurvey(service_pb.GetSurveyRequest(survey_id=survey_id), timeout=30)).survey
    if survey.state != pb.SURVEY_STATE_DONE:
        raise RuntimeError(f"{pb.SurveyState.Name(survey.state)}: {survey.failure.message}")
    fallbacks = {each.fallback_reason for chapter in survey.chapters for each in chapter.sections} - {""}
    if fallbacks:
        raise RuntimeError(f"another model wrote: {fallbacks}")
    return survey


def spec_of(question: int, model: str, writer: pb.Writer.ValueType, *, clerk: str, **others: object) -> pb.SurveySpec:
    write = provider_of(model)
    return pb.SurveySpec(
        question=mention_table()["questions"][question],
        language="ja",
        source=search_pb2.SOURCE_INDEX,
        max_papers=contexts()[question],
        writer=writer,
        models=pb.ModelChoice(plan=clerk, summarize=clerk, write=write, frame=write),
        **others,
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one survey came to."""

    paper_count: int
    cited_share: float
    accounted_share: float
    """Cited and listed, of all papers kept."""
    foreign_link_count: int
    """Links in its text that lead to no paper of it."""
    unknown_key_count: int
    """Keys left in its text, and those removed from it."""
    removed_count: int
    cost_usd: float | None


def found_in(survey: pb.Survey) -> Found:
    coverage = survey.coverage
    texts = [survey.title, survey.introduction, survey.closing]
    for chapter in survey.chapters:
        texts += [chapter.title, chapter.text, *(text for each in chapter.sections for text in (each.title, each.text))]
    urls = {paper.url for paper in survey.papers}
    links = [link for text in texts for link in _LINK.findall(text)]
    costs = [usage.cost_nano_usd if usage.HasField("cost_nano_usd") else None for usage in survey.usage]
    return Found(
        paper_count=coverage.kept_count,
        cited_share=coverage.cited_share,
        accounted_share=(coverage.cited_count + coverage.listed_count) / coverage.kept_count,
        foreign_link_count=sum(link not in urls for link in links) + sum(text.count("elsewhere") for text in texts),
        unknown_key_count=sum(len(_KEY_LEFT.findall(text)) for text in texts),
        removed_count=coverage.unknown_key_count + coverage.removed_link_count,
        cost_usd=None if None in costs else sum(cost or 0 for cost in costs) / 1e9,
    )


async def recall(
    stub: pb_grpc.SurveyServiceStub, cast: Cast, writer: pb.Writer.ValueType, repeats: Sequence[int | None]
) -> Mapping[str, list[Found]]:
    """Return what the surveys of each model came to, the questions in order."""
    found: dict[str, list[Found]] = {model: [] for model in mention_table()["models"]}
    places = asyncio.Semaphore(SURVEYS_AT_ONCE)

    async def one(spec: pb.SurveySpec) -> Found:
        async with places:
            return found_in(await surveyed(stub, spec))

    for question in range(len(TERMS)):
        cast.clerk.search_terms = [TERMS[question]]
        for repeat in repeats:
            cast.writers = cast_for(question, None if repeat is None else quantile_of(question, repeat))
            specs = [
                spec_of(question, model, writer, clerk=f"openai:{CLERK}", sample_seed=repeat or 0) for model in found
            ]
            for model, result in zip(found, await asyncio.gather(*map(one, specs)), strict=True):
                found[model].append(result)
    return found


async def costs(stub: pb_grpc.SurveyServiceStub, cast: Cast) -> Mapping[str, tuple[Found, Found]]:
    """Return a survey of each model with each writer, all stages by that model, every call paid for."""
    found: dict[str, tuple[Found, Found]] = {}
    for model in mention_table()["models"]:
        both = []
        for writer, quantile in ((pb.WRITER_SINGLE, 0.5), (pb.WRITER_SECTIONS, None)):
            cast.writers = cast_for(COST_QUESTION, quantile)
            clerk = provider_of(model)
            spec = spec_of(COST_QUESTION, model, writer, clerk=clerk, cache_off=True)
            spec.max_papers = COST_PAPERS
            both.append(found_in(await surveyed(stub, spec)))
        found[model] = (both[0], both[1])
    return found


async def run() -> tuple[Mapping[str, list[Found]], Mapping[str, list[Found]], Mapping[str, tuple[Found, Found]]]:
    cast = Cast()
    with tempfile.TemporaryDirectory() as name:
        async with (
            ProviderStandIn(writer=cast, accepted_key=KEY) as provider,
            gateway_before(provider, Path(name)) as stub,
        ):
            single = await recall(stub, cast, pb.WRITER_SINGLE, range(REPEATS))
            sections = await recall(stub, cast, pb.WRITER_SECTIONS, [None])
            provider.latency_s = FIRST_TOKEN_S
            return single, sections, await costs(stub, cast)


def main() -> None:
    began = time.perf_counter()
    single, sections, paid = asyncio.run(run())
    print("Simulated writers: each names as many papers an answer as the published comparison found for its model.")
    print("This shows what the machinery covers, not how a model writes.\n")
    shares = {
        model: {
            "published": published(model),
            "single": mean(each.cited_share for each in single[model]),
            "sections": mean(each.cited_share for each in sections[model]),
            "worst_section_survey": min(each.cited_share for each in sections[model]),
        }
        for model in single
    }
    header = ["share of papers cited in prose", "published", "single", "sections", "sections, worst question"]
    print_table(header, [[model, *(f"{value:.3f}" for value in row.values())] for model, row in shares.items()])
    every = [each for found in (*single.values(), *sections.values()) for each in found]
    print(f"\n{len(every)} surveys, {sum(each.removed_count for each in every)} unknown keys and links removed\n")
    prices = cost_table(paid)
    targets = [
        Target(
            name="single: farthest from the published share",
            figure=max(abs(row["single"] - row["published"]) for row in shares.values()),
            most=0.05,
        ),
        Target(
            name="sections: papers not cited in prose, worst model",
            figure=1 - min(row["sections"] for row in shares.values()),
            most=0.02,
        ),
        Target(
            name="papers neither cited nor listed, worst survey",
            figure=1 - min(each.accounted_share for each in every),
            most=0,
        ),
        Target(name="foreign links", figure=sum(each.foreign_link_count for each in every), most=0),
        Target(name="unknown keys left", figure=sum(each.unknown_key_count for each in every), most=0),
        Target(
            name=f"cost of sections / single at {COST_PAPERS} papers, worst model",
            figure=max(row["ratio"] for row in prices.values()),
            most=1.6,
        ),
        Target(
            name="cost of a paper cited, sections / single, mean of the models",
            figure=mean(row["ratio_a_paper"] for row in prices.values()),
            most=0.2,
        ),
    ]
    figures = {"shares": shares, "costs": prices, "surveys": len(every), "s": time.perf_counter() - began}
    finish(targets, figures)


def cost_table(paid: Mapping[str, tuple[Found, Found]]) -> dict[str, dict[str, float]]:
    """Print what the surveys cost, and return it for the models that have a price."""
    rows: dict[str, dict[str, float]] = {}
    for model, (one, many) in paid.items():
        if one.cost_usd is None or many.cost_usd is None:
            print(f"{model} has no price in the catalogue")
            continue
        a_paper, of_many = (each.cost_usd / (each.cited_share * each.paper_count) for each in (one, many))
        rows[model] = {
            "single_usd": one.cost_usd,
            "sections_usd": many.cost_usd,
            "ratio": many.cost_usd / one.cost_usd,
            "ratio_a_paper": of_many / a_paper,
        }
    header = [
        "USD a survey, all stages by one model, at catalogue price",
        "single",
        "sections",
        "ratio",
        "a paper cited",
    ]
    print_table(header, [[model, *(f"{value:.4f}" for value in row.values())] for model, row in rows.items()])
    return rows


if __name__ == "__main__":
    main()
