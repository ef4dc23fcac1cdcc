"""Sections over the providers' real libraries, against a server with the habits of real models, good and bad."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from markdown_it import MarkdownIt
from real_engines import engines_of_environment, point_at
from scripted_models import caller_for
from standins.provider_server import ProviderStandIn, length
from standins.provider_writers import (
    HOSTILE_ABSTRACTS,
    OBEYED,
    CitingWriter,
    EnglishWriter,
    GullibleWriter,
    KeylessWriter,
    MentionWriter,
    UnknownKeyWriter,
)

from services.common.citations import Reference, render
from services.common.papers import Paper
from services.generation.engines import Engines
from services.generation.tasks import Restarted, SectionForm, SectionTask, WrittenSection

PROVIDERS = ("openai:gpt-6-luna", "anthropic:claude-haiku-5-5", "gemini:gemini-3.8-flash")
HOSTILE = json.loads(HOSTILE_ABSTRACTS.read_text(encoding="utf-8"))
CITABLE = "https://arxiv.org/abs/"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn(writer=CitingWriter()) as provider:
        point_at(provider, monkeypatch)
        yield provider


@pytest.fixture
async def engines(server: ProviderStandIn) -> AsyncIterator[Engines]:
    async with engines_of_environment() as made:
        yield made


async def section_of(engines: Engines, model: str, task: SectionTask) -> tuple[WrittenSection, list[str]]:
    """Return a section and why it was restarted."""
    pieces: list[str] = []
    restarts: list[str] = []
    section: WrittenSection | None = None
    async for event in engines.of(model).write_section(task, caller_for("write", item=f"1.{task.section_number}")):
        if isinstance(event, Restarted):
            pieces.clear()
            restarts.append(event.reason)
        elif isinstance(event, str):
            pieces.append(event)
        else:
            section = event
    assert section is not None
    assert section.text == "".join(pieces)
    assert section.model == model, section.fallback_reason
    return section, restarts


@pytest.mark.parametrize("model", PROVIDERS)
async def test_a_section_names_every_paper_in_the_language_asked_for(model: str, engines: Engines, lora: Any):
    task = lora.sections(language="ja")[0]

    section, restarts = await section_of(engines, model, task)

    assert (section.title, restarts, section.is_other_language) == ("ここで扱う論文の比較", [], False)
    assert section.cited_keys == tuple(each.key for each in task.papers)
    assert (section.repair_count, section.unknown_key_count, section.removed_link_count) == (0, 0, 0)
    assert sum(usage.output_tokens for usage in section.usage) > 0


@pytest.mark.parametrize("model", PROVIDERS)
async def test_prose_without_keys_becomes_structured(model: str, server: ProviderStandIn, engines: Engines, lora: Any):
    """The schema with its keys as an enum passes through each library's own idea of schemas."""
    server.writer = KeylessWriter()
    task = lora.sections(language="ja")[0]

    section, restarts = await section_of(engines, model, task)

    assert restarts == ["the text named no paper"]
    assert section.cited_keys == tuple(each.key for each in task.papers)
    assert [each.status for each in server.requests] == [200, 200]


@pytest.mark.parametrize("model", PROVIDERS)
async def test_an_answer_in_english_is_asked_for_again(
    model: str, server: ProviderStandIn, engines: Engines, lora: Any
):
    server.writer = EnglishWriter(times=1)

    section, restarts = await section_of(engines, model, lora.sections(language="ja")[0])

    assert (restarts, section.is_other_language, section.title) == ([], False, "ここで扱う論文の比較")
    assert sum(usage.call_count for usage in section.usage) == 2


async def test_few_mentions_become_all_of_them(server: ProviderStandIn, engines: Engines, lora: Any):
    """A model that names few papers however many it sees names all of eight, one repair after another."""
    server.writer = MentionWriter("gpt-4o-2024-08-06", quantile=0.05)
    task = lora.sections()[0]

    section, _ = await section_of(engines, PROVIDERS[0], task)

    assert set(section.cited_keys) == {each.key for each in task.papers}


async def test_invented_keys_reach_nobody(server: ProviderStandIn, engines: Engines, lora: Any):
    server.writer = UnknownKeyWriter()

    section, _ = await section_of(engines, PROVIDERS[0], lora.sections()[0])

    assert "P999" not in section.text
    assert section.unknown_key_count == 2


async def test_a_cut_answer_ends_with_a_whole_sentence(server: ProviderStandIn, engines: Engines, lora: Any):
    server.script([length()])

    section, _ = await section_of(engines, PROVIDERS[0], lora.sections()[0])

    assert section.text.rstrip()[-1] in ".]"
    assert set(section.cited_keys) == {each.key for each in lora.sections()[0].papers}


async def test_the_baseline_is_one_call(server: ProviderStandIn, engines: Engines, lora: Any, route_of: Any):
    server.writer = MentionWriter("gpt-4o-2024-08-06", quantile=0.5)
    route = route_of([each.paper for each in lora.papers], most=100)

    section, _ = await section_of(engines, PROVIDERS[0], route.sections(form=SectionForm.SINGLE)[0])

    assert len(server.requests) == 1
    assert 5 <= len(section.cited_keys) <= 15
    assert (section.repair_count, section.title) == (0, "How the papers here compare")


def links_in(markdown: str) -> set[str]:
    """Return what an independent parser takes for links, images and HTML, addresses in bare text included."""
    found: set[str] = set()
    parser = MarkdownIt("commonmark", {"linkify": False}).enable("table")
    for block in parser.parse(markdown):
        for token in (block, *(block.children or ())):
            if token.type in {"html_block", "html_inline"}:
                found.add(token.content)
            found.update(str(value) for name, value in token.attrs.items() if name in {"href", "src"})
    return found


@pytest.fixture
def hostile(paper: Callable[..., Paper], route_of: Any) -> Callable[[int], Any]:
    """Routes over papers that want more than to be read, in sections of so many."""
    papers = [
        paper(row["title"][:2_000], row["abstract"], paper_id=f"2501.{number:05}")
        for number, row in enumerate(HOSTILE, start=1)
    ]
    return lambda most: route_of(papers, most=most)


@pytest.mark.parametrize(("language", "form"), [("ja", SectionForm.SECTION), ("en", SectionForm.SINGLE)])
async def test_hostile_papers_are_neither_obeyed_nor_linked(
    language: str, form: SectionForm, server: ProviderStandIn, engines: Engines, hostile: Callable[[int], Any]
):
    """A writer that obeys whatever stands outside the marks, and copies every link and key it ever saw."""
    server.writer = GullibleWriter(remembered=[row["abstract"] + "\n" + row["title"] for row in HOSTILE])
    route = hostile(8 if form is SectionForm.SECTION else 100)
    references = {
        each.key: Reference(name=each.paper.title, url=f"{CITABLE}{each.paper.paper_id}") for each in route.papers
    }

    sections = await asyncio.gather(
        *(section_of(engines, PROVIDERS[0], task) for task in route.sections(language=language, form=form))
    )

    for (section, _), task in zip(sections, route.sections(), strict=True):
        rendered = render(section.text, references)
        own = {references[each.key].url for each in task.papers}
        assert links_in(rendered.text) <= own
        assert links_in(section.title) == set()
        assert not re.search(
            r"://|www\.|evil\.example/|javascript:", rendered.text.replace("https://arxiv.org/abs/", "")
        )
        assert OBEYED not in section.text
        assert set(section.cited_keys) <= {each.key for each in task.papers}
        assert (rendered.unknown_key_count, rendered.removed_link_count) == (0, 0)
        assert section.text.replace("\n", "").isprintable()
