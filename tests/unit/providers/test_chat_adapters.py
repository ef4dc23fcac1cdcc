"""What is sent to each provider and what is made of its answer."""

from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio
from providing import MODELS, Texts, providers_at, request_to
from pydantic import BaseModel, Field
from standins.provider_server import ProviderStandIn, bad_parameter, tokens_in
from standins.provider_writers import plain_answer

from services.common.providers.chat import Finish, Thinking, Turn
from services.common.providers.registry import Providers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROVIDERS = ("openai", "anthropic", "gemini", "ollama")
LONG = "The same beginning for all sections of a survey. " * 200


class Claim(BaseModel):
    key: Literal["P1", "P2"]
    sentence: str = Field(max_length=200)


class Claims(BaseModel):
    claims: list[Claim] = Field(min_length=1, max_length=8)
    remark: str | None = None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def standin() -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def providers(standin: ProviderStandIn) -> AsyncIterator[Providers]:
    made = providers_at(standin)
    yield made
    await made.close()


@pytest.fixture
def server(standin: ProviderStandIn) -> ProviderStandIn:
    """The server as nobody has used it."""
    standin.requests.clear()
    standin.writer, standin.reasoning_tokens = plain_answer, 0
    return standin


async def chat(providers: Providers, provider: str, *, sink: Texts | None = None, **parts):
    found = providers.find(provider)
    return await found.chat(request_to(provider, **parts), sink)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_text_comes_whole_and_as_a_stream(providers, server, texts, provider, is_stream):
    server.writer = lambda asked: "画像生成のLoRA [P1] adapts few weights."

    reply = await chat(providers, provider, sink=texts if is_stream else None)

    assert (reply.text, reply.finish) == ("画像生成のLoRA [P1] adapts few weights.", Finish.STOP)
    assert reply.response_id
    assert not is_stream or "".join(texts.pieces) == reply.text
    assert len(texts.pieces) > 1 or not is_stream


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_parts_stand_in_their_order(providers, server, provider):
    turns = (Turn(answer="{", correction="That is no JSON."),)

    await chat(providers, provider, shared="Shared.", prompt="Mine.", turns=turns)

    (received,) = server.requests
    assert received.asked.system == "You write."
    assert [role for role, _ in received.asked.messages] == ["user", "assistant", "user"]
    texts = [text for _, text in received.asked.messages]
    assert texts[0].startswith("Shared.")
    assert texts[0].endswith("Mine.")
    assert texts[1:] == ["{", "That is no JSON."]
    assert received.asked.max_output_tokens == 500


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_is_told_in_one_form(providers, server, provider, is_stream):
    """Cached tokens are part of the input, reasoning of the output, whatever the provider counts apart."""
    server.reasoning_tokens = 7
    model = "gpt-4o" if provider == "ollama" else MODELS[provider]
    replies = []
    for prompt in ("First section.", "Second section."):
        request = request_to(provider, model=model, shared=LONG, prompt=prompt)
        replies.append(await providers.find(provider).chat(request, Texts() if is_stream else None))

    for reply, received in zip(replies, server.requests, strict=True):
        counted = received.counted
        assert reply.tokens.input_tokens == counted.input >= tokens_in(LONG)
        assert reply.tokens.cached_input_tokens == counted.cached
        assert reply.tokens.cache_write_tokens == counted.cache_write
        assert reply.tokens.output_tokens == counted.output == 7 + tokens_in(reply.text)
        assert reply.tokens.reasoning_tokens == 7
        assert not reply.tokens.is_estimated
    assert replies[1].tokens.cached_input_tokens > 0


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("provider", "limit"), [("openai", 30_000), ("anthropic", 30_000), ("gemini", None)])
async def test_an_answer_tells_what_is_left_of_the_limits(providers, provider, limit, is_stream):
    """Gemini says nothing of them."""
    reply = await chat(providers, provider, sink=Texts() if is_stream else None)

    assert (reply.rate and reply.rate.request_limit) == limit


async def test_only_the_shared_beginning_is_marked_for_anthropics_cache(providers, server):
    await chat(providers, "anthropic", shared=LONG, prompt="Mine.")
    await chat(providers, "anthropic", prompt="Mine.")

    first, second = (received.body["messages"][0]["content"] for received in server.requests)
    assert [block.get("cache_control") for block in first] == [{"type": "ephemeral"}, None]
    assert [block.get("cache_control") for block in second] == [None]


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_a_schema_is_kept_to_by_the_server(providers, server, provider):
    reply = await chat(providers, provider, schema=Claims)

    (received,) = server.requests
    assert received.asked.schema
    assert "schema" not in received.asked.text
    assert Claims.model_validate_json(reply.text)
    assert not any("schema" in name or "format" in name for name in reply.parameters)


async def test_openais_schema_allows_nothing_else_and_leaves_nothing_out(providers, server):
    """It refuses a schema that is not strict all the way down."""
    await chat(providers, "openai", schema=Claims)

    form = server.requests[0].body["response_format"]["json_schema"]
    assert form["strict"] is True
    schema = form["schema"]
    claim = schema["$defs"]["Claim"]
    for each in (schema, claim):
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    assert "maxLength" not in claim["properties"]["sentence"]
    assert claim["properties"]["key"]["enum"] == ["P1", "P2"]
    assert "default" not in schema["properties"]["remark"]


@pytest.mark.parametrize(
    ("provider", "model", "form"),
    [
        pytest.param("openai", "gpt-4-turbo-2024-04-09", {"type": "json_object"}, id="object"),
        pytest.param("openai", "gpt-4", None, id="none"),
        pytest.param("anthropic", "claude-3-opus-20240229", None, id="anthropic before schemas"),
    ],
)
async def test_a_model_without_schemas_is_shown_it(providers, server, provider, model, form):
    await chat(providers, provider, model=model, schema=Claims)

    (received,) = server.requests
    assert received.body.get("response_format") == form
    assert "output_config" not in received.body
    assert received.asked.messages[0][1].endswith("}")
    assert '"$defs"' in received.asked.text
    assert "JSON" in received.asked.text


async def test_a_compatible_server_is_sent_the_schema_and_its_model_shown_it(providers, server):
    """Small models keep to a form better when they see it."""
    await chat(providers, "ollama", schema=Claims)

    (received,) = server.requests
    assert received.asked.schema
    assert '"$defs"' in received.asked.text


@pytest.mark.parametrize(
    ("provider", "model", "thinking", "sent"),
    [
        ("openai", "gpt-6-luna", Thinking.OFF, {"reasoning_effort": "none"}),
        ("openai", "gpt-6-luna", Thinking.LOW, {"reasoning_effort": "low"}),
        ("openai", "gpt-6-luna", Thinking.DEFAULT, {}),
        ("openai", "gpt-6.1-sol", Thinking.OFF, {"reasoning_effort": "low"}),
        ("openai", "gpt-6-astra", Thinking.OFF, {"reasoning_effort": "low"}),
        ("openai", "gpt-5-mini", Thinking.OFF, {"reasoning_effort": "minimal"}),
        ("openai", "gpt-5.4-mini", Thinking.OFF, {"reasoning_effort": "none"}),
        ("openai", "gpt-4.1", Thinking.OFF, {}),
        ("openai", "o3-mini", Thinking.OFF, {"reasoning_effort": "low"}),
        ("openai", "never-heard-of", Thinking.OFF, {}),
        ("ollama", "qwen2.5:1.5b", Thinking.OFF, {}),
        ("anthropic", "claude-sonnet-5-5", Thinking.OFF, {"thinking": {"type": "disabled"}}),
        ("anthropic", "claude-sonnet-5-5", Thinking.LOW, {"output_config": {"effort": "low"}}),
        ("anthropic", "claude-opus-4-7", Thinking.OFF, {"output_config": {"effort": "low"}}),
        ("anthropic", "claude-haiku-4-5", Thinking.OFF, {}),
        ("gemini", "gemini-3.8-flash", Thinking.OFF, {"thinking_level": "minimal"}),
        ("gemini", "gemini-3-pro-preview", Thinking.OFF, {"thinking_level": "low"}),
        ("gemini", "gemini-2.5-flash", Thinking.OFF, {"thinking_budget": 0}),
        ("gemini", "gemini-2.5-pro", Thinking.OFF, {"thinking_budget": 128}),
        ("gemini", "gemini-2.0-flash", Thinking.LOW, {}),
    ],
)
async def test_a_model_is_told_to_think_less_in_its_own_way(providers, server, *, provider, model, thinking, sent):
    """The stand-in refuses what these models refuse; nothing had to be left out."""
    await chat(providers, provider, model=model, thinking=thinking)

    (received,) = server.requests
    body = received.body
    if provider == "gemini":
        found = body["generationConfig"].get("thinkingConfig", {})
    else:
        found = {name: body[name] for name in ("reasoning_effort", "thinking", "output_config") if name in body}
    assert {name: str(value).lower() for name, value in found.items()} == {
        name: str(value).lower() for name, value in sent.items()
    }


@pytest.mark.parametrize(
    ("provider", "model", "is_sent"),
    [
        ("openai", "gpt-4o", True),
        ("openai", "gpt-6-luna", False),
        ("ollama", "qwen2.5:1.5b", False),
        ("anthropic", "claude-sonnet-5-5", False),
        ("gemini", "gemini-2.5-flash", True),
        ("gemini", "gemini-3.8-flash", False),
    ],
)
async def test_a_seed_goes_to_models_that_take_one(providers, server, provider, model, is_sent):
    reply = await chat(providers, provider, model=model, seed=11)

    body = server.requests[0].body
    assert (body.get("seed", body.get("generationConfig", {}).get("seed")) == 11) is is_sent
    assert ("seed" in reply.parameters) is is_sent


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [("openai", "gpt-6-luna", "max_completion_tokens"), ("ollama", "qwen2.5:1.5b", "max_tokens")],
)
async def test_the_limit_on_tokens_is_called_as_the_server_knows_it(providers, server, provider, model, name):
    reply = await chat(providers, provider, model=model)

    assert server.requests[0].body[name] == reply.parameters[name] == 500
    assert {"max_tokens", "max_completion_tokens"} & server.requests[0].body.keys() == {name}


async def test_what_only_openai_knows_is_sent_to_openai_only(providers, server, texts):
    """The stand-in is not at api.openai.com."""
    await chat(providers, "openai", sink=texts, cache_key="survey-1")

    body = server.requests[0].body
    assert "prompt_cache_key" not in body
    assert body["stream_options"] == {"include_usage": True}


async def test_a_server_that_counts_nothing_is_counted_for(providers, server, texts):
    """Four Latin characters are a token; 1.2 Japanese ones are."""
    server.writer = lambda asked: "abcdefgh画像生成中身"
    server.script([bad_parameter("stream_options")])  # without which nothing is counted

    reply = await chat(providers, "ollama", sink=texts)

    assert reply.tokens.is_estimated
    assert reply.tokens.output_tokens == 7
    assert reply.tokens.input_tokens == round(len("You write.\n\nWrite of LoRA.") / 4)
