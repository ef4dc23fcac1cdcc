"""The published baseline: one call, checked like any other text, and never asked for what it left out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scripted_models import REFUSAL, Script, caller_for, model_of, provider_of, reply

from services.common.papers import Paper
from services.common.providers.chat import Finish
from services.generation.llm.chat_model import ChatModel, Refused
from services.generation.llm.single import write_single
from services.generation.tasks import FlagKind, Restarted, SectionForm, SectionTask, WrittenSection

ENGLISH = "It freezes the weights of a model and trains two small matrices beside them, which costs little memory. " * 3


@pytest.fixture
def task(paper: Callable[..., Paper], route_of: Callable[..., Any]) -> SectionTask:
    """Forty papers in one section."""
    papers = [paper(f"Adapting models, part {n}", "We freeze weights.") for n in range(1, 41)]
    (task,) = route_of(papers, most=50).sections(form=SectionForm.SINGLE)
    return task


async def survey_of(model: ChatModel, task: SectionTask) -> WrittenSection:
    events = [event async for event in write_single(model, task, caller_for("write"))]
    section = events[-1]
    assert isinstance(section, WrittenSection)
    assert not any(isinstance(event, Restarted) for event in events)
    assert "".join(str(event) for event in events[:-1]) == section.text
    return section


async def result_of(script: Script, task: SectionTask) -> WrittenSection:
    return await survey_of(model_of(script), task)


async def test_one_call_sees_all_papers_and_names_what_it_likes(task: SectionTask):
    model = model_of(["# A survey\n\n## Adapting\n\nSome freeze [P1, P40].\n\n- Others [P7] do not."])

    section = await survey_of(model, task)

    (request,) = provider_of(model).requests
    assert all(f'"key": "{each.key}"' in request.prompt for each in task.papers)
    assert request.shared == ""
    assert (section.title, section.cited_keys, section.repair_count) == ("A survey", ("P1", "P40", "P7"), 0)
    assert section.text == "Adapting\n\nSome freeze [P1, P40].\n\nOthers [P7] do not."


async def test_prose_without_keys_stays(task: SectionTask):
    """What a model does with 40 papers is what the baseline is to show."""
    section = await result_of(["# A survey\nMany adapt models."], task)

    assert (section.text, section.cited_keys) == ("Many adapt models.", ())


async def test_it_is_cleaned_checked_and_cut_like_a_section(task: SectionTask):
    text = "Some use QLoRA [P1, P99], see https://evil.example now. Others gain 9% [P2]. The rest w"

    section = await result_of([reply(text, Finish.LENGTH)], task)

    assert section.text == "Some use QLoRA [P1], see now. Others gain 9% [P2]."
    assert (section.unknown_key_count, section.removed_link_count) == (1, 1)
    assert [(flag.kind, flag.terms) for flag in section.flags] == [
        (FlagKind.FROM_MEMORY, ("QLoRA",)),
        (FlagKind.UNSUPPORTED, ("9%",)),
    ]
    assert section.title


async def test_another_language_is_asked_for_again(task: SectionTask):
    japanese = "# 調査\n" + "この手法は重みを固定し、小さな行列だけを学習する[P1]。" * 10

    section = await result_of([f"# A\n{ENGLISH}", japanese], replace(task, language="ja"))

    assert (section.title, section.is_other_language) == ("調査", False)


async def test_a_refusal_is_somebody_elses_to_make_good(task: SectionTask):
    with pytest.raises(Refused):
        await result_of([REFUSAL], task)
