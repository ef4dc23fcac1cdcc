"""What models take, what an operator says of it, and what servers refuse."""

import asyncio
import logging

import pytest
from providing import Texts, request_to
from pydantic import BaseModel
from standins.provider_server import bad_parameter, overloaded

from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers.capabilities import (
    Capabilities,
    JsonMode,
    RefusedParameters,
    capabilities_of,
    named_in,
    nested,
    overrides_in,
)

ANTHROPICS = ["output_config.effort", "output_config.format", "thinking", "temperature"]
GEMINIS = ["thinking_config.thinking_level", "thinking_config.thinking_budget", "seed"]


class Answer(BaseModel):
    word: str


@pytest.mark.parametrize(
    ("names", "problem", "name"),
    [
        (ANTHROPICS, "Unsupported value: 'temperature' does not support 0 with this model.", "temperature"),
        (ANTHROPICS, "`temperature` is deprecated for this model.", "temperature"),
        (ANTHROPICS, "temperature: Extra inputs are not permitted", "temperature"),
        (ANTHROPICS, "output_config.effort: not supported", "output_config.effort"),
        (ANTHROPICS, "output_config.format: not supported", "output_config.format"),
        (ANTHROPICS, "this model does not support output_config.", "output_config.effort"),
        (GEMINIS, "thinkingLevel is not supported for this model.", "thinking_config.thinking_level"),
        (GEMINIS, "Thinking level MINIMAL is not supported for this model.", "thinking_config.thinking_level"),
        (ANTHROPICS, "thinking.type: disabled is not supported", "thinking"),
        (ANTHROPICS, "The temperatures of stars are too high.", None),
        (ANTHROPICS, "messages.0: text is required", None),
        (ANTHROPICS, "", None),
    ],
)
def test_a_problem_names_a_parameter(names, problem, name):
    assert named_in(problem, names) == name


def test_of_several_the_one_that_is_told_first_is_meant():
    assert named_in("seed: not beside temperature", ["temperature", "seed"]) == "seed"


def test_dots_nest():
    assert nested({"a": 1, "b.c": 2, "b.d": {"e": 3}}) == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}


@pytest.mark.parametrize(
    ("provider", "model", "overrides", "named", "place"),
    [
        ("openai", "gpt-4o", '{"gpt-4o": {"temperature": 0}}', "temperature", lambda body: body),
        ("ollama", "qwen", '{"qw.*": {"seed": true}}', "seed", lambda body: body),
        ("anthropic", "claude-sonnet-5-5", "", "thinking", lambda body: body),
        ("gemini", "gemini-3.8-flash", "", "thinkingConfig", lambda body: body["generationConfig"]),
    ],
)
async def test_a_refused_parameter_is_left_out_once_and_for_all(
    connect, server, caplog, *, provider, model, overrides, named, place
):
    """Every further call would otherwise pay for a refusal first."""
    server.script([bad_parameter(named)])
    found = connect(capabilities=overrides).find(provider)

    first = await found.chat(request_to(provider, model=model, seed=3))
    second = await found.chat(request_to(provider, model=model, seed=3), Texts())

    assert [received.status for received in server.requests] == [400, 200, 200]
    assert [named in place(received.body) for received in server.requests] == [True, False, False]
    assert not any(named.lower() in name.replace("_", "").lower() for name in first.parameters)
    assert first.text == second.text
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert model in line
    assert found.endpoint in line


async def test_another_model_is_still_sent_it(connect, server):
    server.script([bad_parameter("reasoning_effort")])
    found = connect().find("openai")

    await found.chat(request_to("openai"))
    await found.chat(request_to("openai", model="gpt-5.4-mini"))

    assert ["reasoning_effort" in received.body for received in server.requests] == [True, False, True]


async def test_two_refused_parameters_are_left_out_one_after_the_other(connect, server):
    found = connect(capabilities='{".*": {"sampling": true, "temperature": 0.2, "seed": true}}').find("ollama")
    server.script([bad_parameter("seed"), bad_parameter("temperature")])

    reply = await found.chat(request_to("ollama", seed=1))

    assert dict(reply.parameters) == {"max_tokens": 500}
    assert len(server.requests) == 3


async def test_a_schema_that_a_server_refuses_is_shown_instead(connect, server):
    server.script([bad_parameter("output_config.format")])
    found = connect().find("anthropic")

    await found.chat(request_to("anthropic", schema=Answer))

    refused, taken = server.requests
    assert refused.asked.schema
    assert not taken.asked.schema
    assert '"word"' in taken.asked.text


async def test_the_limit_on_tokens_is_never_left_out(connect, server):
    """An answer without it costs what nobody has set aside."""
    server.script([bad_parameter("max_completion_tokens")])
    found = connect().find("openai")

    with pytest.raises(ProviderFault) as raised:
        await found.chat(request_to("openai"))

    assert raised.value.kind is FaultKind.BAD_REQUEST
    assert len(server.requests) == 1


async def test_other_faults_leave_nothing_out(connect, server):
    server.script([overloaded()])
    found = connect().find("openai")

    with pytest.raises(ProviderFault):
        await found.chat(request_to("openai"))
    await found.chat(request_to("openai"))

    assert all("reasoning_effort" in received.body for received in server.requests)


async def test_calls_at_once_log_a_refusal_once(caplog):
    refused = RefusedParameters("http://server")
    together = asyncio.Barrier(3)

    async def send(parameters):
        if "seed" in parameters:
            await together.wait()
            raise ProviderFault(FaultKind.BAD_REQUEST, "p:m", "seed: unknown")
        return parameters

    sent = await asyncio.gather(*(refused.send("m", {"seed": 1, "n": 2}, send) for _ in range(3)))

    assert sent == [{"n": 2}] * 3
    assert len(caplog.records) == 1


def test_a_correction_changes_what_it_names_and_nothing_else():
    table = [("known.*", Capabilities(seed=True, json_mode=JsonMode.OBJECT, off={"a": 1}))]
    overrides = overrides_in('{"known-2": {"off": {"b": 2}}, "other": {"seed": true}}')

    assert capabilities_of("known-1", table, overrides) == table[0][1]
    changed = capabilities_of("known-2", table, overrides)
    assert (changed.seed, changed.json_mode, changed.off) == (True, JsonMode.OBJECT, {"b": 2})
    assert capabilities_of("other", table, overrides) == Capabilities(seed=True)
    assert capabilities_of("another", table, overrides) == Capabilities()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"(": {}}', "regular expression"),
        ('{"m": {"sed": true}}', "m.sed: Extra inputs"),
        ('{"m": {"json_mode": "yes"}}', "m.json_mode"),
    ],
)
def test_a_correction_that_cannot_be_read_is_told(text, problem):
    with pytest.raises(ValueError, match=problem.replace("(", "\\(")):
        overrides_in(text)
