"""A survey written by language models, as a user runs it: real processes, real SDKs, a stand-in for the provider."""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from processes import paperroute
from standins.provider_server import ProviderStandIn
from standins.provider_writers import CitingWriter

from gateway.embedded import embedded
from services.common.channel import open_channel

pytestmark = pytest.mark.timeout(120)
QUESTION = json.loads((Path(__file__).parent / "questions.json").read_text())["lora"]
KEY = "sk-stand-in-0123456789"
WRITER = CitingWriter(search_terms=("LoRA image generation", "LoRA diffusion", "low-rank adaptation"))
PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "openai:gpt-6-luna", "openai:gpt-6.1-terra"),
    "anthropic": ("ANTHROPIC_API_KEY", "anthropic:claude-haiku-5-5", "anthropic:claude-sonnet-5-5"),
    "gemini": ("GEMINI_API_KEY", "gemini:gemini-3.1-flash-lite", "gemini:gemini-3.8-flash"),
}


def environment_of(provider: ProviderStandIn, name: str = "openai") -> dict[str, str]:
    return {
        PROVIDERS[name][0]: KEY,
        f"PAPERROUTE_{name.upper()}__BASE_URL": getattr(provider, f"{name}_url"),
    }


async def run(*arguments: str, environment: Mapping[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *paperroute(*arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode or 0, out.decode(), err.decode()


async def surveyed(provider: ProviderStandIn, *arguments: str, name: str = "openai") -> tuple[pb.Survey, str]:
    done, out, err = await run(
        "survey", QUESTION, "--source", "sample", "--format", "json", *arguments,
        environment=environment_of(provider, name),
    )  # fmt: skip
    assert done == 0, err
    assert KEY not in out + err
    return Parse(out, pb.Survey()), err


def stages_of(survey: pb.Survey) -> dict[str, pb.StageReport]:
    return {pb.Stage.Name(stage.stage).removeprefix("STAGE_").lower(): stage for stage in survey.stages}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_key_in_the_environment_makes_a_survey_with_tokens_and_cost_per_stage(name: str):
    async with ProviderStandIn(writer=WRITER, accepted_key=KEY) as provider:
        survey, told = await surveyed(provider, "--max-papers", "16", name=name)

    _, quick, writer = PROVIDERS[name]
    assert re.search(rf"write +{re.escape(writer)}: .* calls, about .* tokens in", told)
    assert re.search(r"estimate for 16 papers: \$0\.\d{4}", told)
    assert survey.state == pb.SURVEY_STATE_DONE
    assert survey.spec.models == pb.ModelChoice(plan=quick, summarize=quick, write=writer, frame=quick)
    stages = stages_of(survey)
    for stage in ("plan", "summarize", "write", "frame"):
        (usage,) = stages[stage].usage
        assert usage.model == (writer if stage == "write" else quick)
        assert min(usage.call_count, usage.input_tokens, usage.output_tokens, usage.cost_nano_usd) > 0
    assert stages["summarize"].usage[0].call_count == 16
    assert survey.coverage.cited_count == survey.coverage.kept_count == 16
    assert (survey.coverage.unknown_key_count, survey.coverage.removed_link_count) == (0, 0)
    assert {section.model for chapter in survey.chapters for section in chapter.sections} == {writer}
    for part in (survey.title, survey.introduction, survey.closing, survey.chapters[0].sections[0].text):
        assert re.search(r"[ぁ-んァ-ヶ]", part), part


async def test_the_same_survey_again_is_served_from_the_ledger_and_tells_what_was_avoided():
    async with ProviderStandIn(writer=WRITER) as provider:
        first, _ = await surveyed(provider, "--max-papers", "12")
        asked = len(provider.requests)
        second, _ = await surveyed(provider, "--max-papers", "12")
        again = len(provider.requests) - asked
        third, _ = await surveyed(provider, "--max-papers", "12", "--no-cache")
        anew = len(provider.requests) - asked - again

    cost = sum(usage.cost_nano_usd for usage in first.usage)
    assert again == 0
    assert anew == asked
    assert sum(usage.cost_nano_usd for usage in second.usage) == 0
    assert sum(usage.avoided_cost_nano_usd for usage in second.usage) == cost
    assert sum(usage.cost_nano_usd for usage in third.usage) > 0
    assert [each.title for each in second.chapters] == [each.title for each in first.chapters]


async def test_the_baseline_writer_makes_one_call_for_the_text():
    async with ProviderStandIn(writer=WRITER) as provider:
        survey, _ = await surveyed(provider, "--writer", "single", "--max-papers", "12")

    assert survey.state == pb.SURVEY_STATE_DONE
    assert stages_of(survey)["write"].usage[0].call_count == 1
    assert "frame" not in stages_of(survey)
    assert survey.title


async def test_a_refused_key_is_told_by_the_name_of_its_variable():
    async with ProviderStandIn(writer=WRITER, accepted_key="sk-another") as provider:
        done, out, err = await run("survey", QUESTION, "--source", "sample", environment=environment_of(provider))

    assert done == 1
    assert out == ""
    assert "OPENAI_API_KEY" in err
    assert KEY not in err
    assert "Traceback" not in err


async def test_no_model_is_asked_where_the_user_says_so():
    async with ProviderStandIn(writer=WRITER) as provider:
        survey, told = await surveyed(provider, "--model", "extractive:builtin")

    assert not provider.requests
    assert "estimate" not in told
    assert {usage.model for usage in survey.usage} == {"extractive:builtin", "wordllama:l2_supercat_256"}


async def test_sections_stream_side_by_side(monkeypatch: pytest.MonkeyPatch):
    """Several sections show their first words before one of them is finished."""
    async with ProviderStandIn(writer=WRITER, tokens_per_s=150) as provider:
        for variable, value in environment_of(provider).items():
            monkeypatch.setenv(variable, value)
        models = pb.ModelChoice(write="openai:gpt-6.1-terra")
        spec = pb.SurveySpec(question=QUESTION, source=search_pb2.SOURCE_SAMPLE, max_papers=24, models=models)
        async with embedded() as serving, open_channel(serving.address) as channel:
            stub = pb_grpc.SurveyServiceStub(channel)
            created = await stub.CreateSurvey(service_pb.CreateSurveyRequest(spec=spec), timeout=10)
            watch = service_pb.WatchSurveyRequest(survey_id=created.survey.survey_id)
            events = [event async for event in stub.WatchSurvey(watch, timeout=60)]

    kinds = [event.WhichOneof("event") for event in events]
    finished = [place for place, kind in enumerate(kinds) if kind == "section_finished"]
    begun = [event.section_text for event in events[: finished[0]] if event.HasField("section_text")]
    assert len(finished) >= 3
    assert len({(piece.chapter_number, piece.section_number) for piece in begun}) >= 2
