"""Every fault of a provider in every task, over the real libraries: what the caller gets.

All of it is asked at once, once for the module: it is the waiting for pauses and time limits that takes the time.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from real_engines import engines_of_environment, point_at
from scripted_models import caller_for
from standins import provider_server as faults
from standins.provider_server import ProviderStandIn
from standins.provider_writers import CitingWriter

from services.common.errors import NotReady
from services.common.paid import governor
from services.common.papers import Paper
from services.generation.engines import Engines
from services.generation.tasks import FrameTask, KeyedPaper, OutlineSection, PlanTask, SectionTask, SummaryTask

PROVIDERS = ("openai", "anthropic", "gemini")
TASKS = ("plan", "summarize", "write", "frame")
SECONDS = 100
"""For a task. None of them is used up: a pause that would end later is not waited for."""

STALL = faults.stall(0)
STANDS_IN = {
    "declined to answer": [faults.refusal()],
    "(rate limit)": [faults.rate_limited(110)],
    "(quota spent)": [faults.quota_spent()],
    "(overloaded)": [faults.overloaded(), faults.server_error(), faults.html_502()],
    "(unreachable)": [faults.drop_connection()],
    "(malformed)": [faults.bad_body()],
    "(prompt too long)": [faults.too_long()],
    "(timeout)": [STALL],
}
OPERATOR = {"API_KEY": [faults.refused_key()], "PAPERROUTE_MODELS__": [faults.unknown_model()]}
ROWS = [(fault, told) for table in (STANDS_IN, OPERATOR) for told, group in table.items() for fault in group]

PAPERS = tuple(
    KeyedPaper(
        key=f"P{number}",
        paper=Paper(
            paper_id=f"2501.0000{number}",
            title=f"Name{number}: a paper",
            abstract=f"We propose Name{number}.",
            published_at=datetime(2025, 1, number, tzinfo=UTC),
        ),
        summary=f"Name{number} is proposed.",
    )
    for number in range(1, 5)
)
OUTLINE = ((OutlineSection(keys=("P1", "P2")),), (OutlineSection(keys=("P3", "P4")),))
Results = Mapping[tuple[str, str, str], Any]
"""By fault, provider and task: a result, or what was raised."""


async def asked(engines: Engines, task: str, models: str) -> Any:
    engine, caller = engines.of(models), caller_for(task, item=models, seconds=SECONDS)
    if task == "plan":
        plan = PlanTask(question="How is LoRA used?", language="", max_search_terms=3, sample_seed=0)
        return await engine.plan_search(plan, caller)
    if task == "summarize":
        summary = SummaryTask(paper=PAPERS[0].paper, language="en", summary_seconds=30)
        return await engine.summarize_paper(summary, caller)
    about = {"question": "How is LoRA used?", "language": "en", "outline": OUTLINE, "sample_seed": 0}
    if task == "frame":
        frame = FrameTask(papers=PAPERS, search_terms=("LoRA",), **about)
        return [event async for event in engine.write_frame(frame, caller)][-1]
    titles = tuple(each.paper.title for each in PAPERS)
    section = SectionTask(papers=PAPERS[:2], route_titles=titles, chapter_number=1, section_number=1, **about)
    return [event async for event in engine.write_section(section, caller)][-1]


async def results_of(group: list[faults.Fault], monkeypatch: pytest.MonkeyPatch) -> Results:
    """Ask every provider for every task, of a model with each fault and a sound one behind it."""
    cases = [(fault.name, provider, task) for fault in group for provider in PROVIDERS for task in TASKS]
    async with ProviderStandIn(writer=CitingWriter(), faults={fault.name: fault for fault in group}) as standin:
        point_at(standin, monkeypatch)
        async with engines_of_environment() as engines:
            answers = await asyncio.gather(
                *(asked(engines, task, f"{name}:{fault},{name}:sound") for fault, name, task in cases),
                return_exceptions=True,
            )
    return dict(zip(cases, answers, strict=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PAPERROUTE_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        monkeypatch.setattr(governor, "FIRST_BACKOFF_S", 0.01)  # how long retries wait is the governor's affair
        rest = [fault for fault, _ in ROWS if fault is not STALL]
        found = dict(asyncio.run(results_of(rest, monkeypatch)))
        for name in PROVIDERS:
            monkeypatch.setenv(f"PAPERROUTE_{name.upper()}__TIMEOUT_S", "2")
        yield found | asyncio.run(results_of([STALL], monkeypatch))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("fault", "told"), [pytest.param(*row, id=row[0].name) for row in ROWS])
def test_outcome_is_that_of_the_table(results: Results, fault: faults.Fault, told: str, provider: str, task: str):
    """The model behind stands in and the result says why, or the operator is told which setting to change."""
    result = results[fault.name, provider, task]

    if told in OPERATOR:
        assert isinstance(result, NotReady)
        assert f"{provider}:{fault.name}" in result.message
        assert told in result.message
        return
    assert not isinstance(result, BaseException)
    assert result.model == f"{provider}:sound"
    assert result.fallback_reason.startswith(f"{provider}:{fault.name} ")
    if told == "(rate limit)":  # whoever comes after the first is told that the pause is too long for it
        assert re.search(r"\((rate limit|timeout)\)$", result.fallback_reason)
    else:
        assert result.fallback_reason.endswith(told)
