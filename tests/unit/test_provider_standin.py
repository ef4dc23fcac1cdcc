"""The stand-in for the model providers, proven by the three real SDKs: what they make of its answers and faults."""

import asyncio
import base64
import contextlib
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from pydantic import BaseModel
from standins.provider_process import provider_process
from standins.provider_server import (
    ProviderStandIn,
    bad_body,
    bad_parameter,
    bad_stream_line,
    cut_stream,
    drop_connection,
    empty_length,
    html_502,
    length,
    overloaded,
    quota_spent,
    rate_limited,
    refusal,
    refused_key,
    server_error,
    silent_end,
    stall,
    stream_error,
    tokens_in,
    too_long,
    unknown_model,
)

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

PATIENCE_S = 0.3
"""How long an SDK waits for a stalled server; no other answer takes as long."""
ANSWER = "This is a plain answer of one sentence."
BEGUN = ANSWER[:18]
PROVIDERS = ("openai", "anthropic", "gemini")


class Words(BaseModel):
    words: list[str]
    count: int


@dataclass
class Said:
    """What an SDK made of an answer."""

    text: str | None
    finish: str
    usage: dict[str, int]


class OpenAi:
    model = "gpt-6-luna"

    def __init__(self, provider, key="key", patience_s=5.0):
        self.sdk = openai.AsyncOpenAI(
            api_key=key,
            base_url=provider.openai_url,
            max_retries=0,
            timeout=httpx2.Timeout(patience_s),
            http_client=openai.DefaultAioHttpClient(),
        )

    async def chat(self, prompt="Hi", system="Be brief.", model=None, **others):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        answer = await self.sdk.chat.completions.create(model=model or self.model, messages=messages, **others)
        choice = answer.choices[0]
        return Said(choice.message.refusal or choice.message.content, choice.finish_reason, _openai_usage(answer.usage))

    async def stream(self, prompt="Hi", pieces=None, **others):
        said = Said("", "none", {})
        stream = await self.sdk.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            stream_options={"include_usage": True},
            **others,
        )
        async for chunk in stream:
            if chunk.usage:
                said.usage = _openai_usage(chunk.usage)
            for choice in chunk.choices:
                said.finish = choice.finish_reason or said.finish
                _grow(said, choice.delta.content or choice.delta.refusal or "", pieces)
        return said

    async def close(self):
        await self.sdk.close()


class Anthropic:
    model = "claude-haiku-5-5"

    def __init__(self, provider, key="key", patience_s=5.0):
        self.sdk = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=provider.anthropic_url,
            max_retries=0,
            timeout=httpx2.Timeout(patience_s),
            http_client=anthropic.DefaultAioHttpClient(),
        )

    async def chat(self, prompt="Hi", system="Be brief.", model=None, max_tokens=1000, **others):
        answer = await self.sdk.messages.create(
            model=model or self.model,
            max_tokens=max_tokens,
            system=system,
            messages=[{"role": "user", "content": prompt}],
            **others,
        )
        text = "".join(block.text for block in answer.content) or (
            answer.stop_details.explanation if answer.stop_details else ""
        )
        return Said(text, answer.stop_reason, _anthropic_usage(answer.usage))

    async def stream(self, prompt="Hi", pieces=None, **others):
        said = Said("", "none", {})
        messages = [{"role": "user", "content": prompt}]
        async with self.sdk.messages.stream(model=self.model, max_tokens=1000, messages=messages, **others) as stream:
            async for text in stream.text_stream:
                _grow(said, text, pieces)
            final = await stream.get_final_message()
        said.finish = final.stop_reason or "none"
        said.usage = _anthropic_usage(final.usage)
        return said

    async def close(self):
        await self.sdk.close()


class Gemini:
    model = "gemini-3.8-flash"

    def __init__(self, provider, key="key", patience_s=5.0):
        options = types.HttpOptions(base_url=provider.gemini_url, timeout=int(1000 * patience_s))
        self.sdk = genai.Client(api_key=key, http_options=options)

    async def chat(self, prompt="Hi", system="Be brief.", model=None, **config):
        config = types.GenerateContentConfig(system_instruction=system, **config)
        answer = await self.sdk.aio.models.generate_content(model=model or self.model, contents=prompt, config=config)
        return Said(answer.text, _gemini_finish(answer), _gemini_usage(answer.usage_metadata))

    async def stream(self, prompt="Hi", pieces=None, **config):
        said = Said("", "none", {})
        config = types.GenerateContentConfig(**config)
        async for chunk in await self.sdk.aio.models.generate_content_stream(
            model=self.model, contents=prompt, config=config
        ):
            said.finish = _gemini_finish(chunk) or said.finish
            said.usage = _gemini_usage(chunk.usage_metadata)
            _grow(said, chunk.text or "", pieces)
        return said

    async def close(self):
        await self.sdk.aio.aclose()
        self.sdk.close()


CLIENTS = {"openai": OpenAi, "anthropic": Anthropic, "gemini": Gemini}


def _grow(said, text, pieces):
    said.text += text
    if pieces is not None and text:
        pieces.append(text)


def _openai_usage(usage):
    return {
        "input": usage.prompt_tokens,
        "cached": usage.prompt_tokens_details.cached_tokens,
        "output": usage.completion_tokens,
        "reasoning": usage.completion_tokens_details.reasoning_tokens,
    }


def _anthropic_usage(usage):
    return {
        "input": usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
        "cached": usage.cache_read_input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0,
    }


def _gemini_usage(usage):
    reasoning = usage.thoughts_token_count or 0
    return {
        "input": usage.prompt_token_count,
        "cached": usage.cached_content_token_count or 0,
        "output": (usage.candidates_token_count or 0) + reasoning,
        "reasoning": reasoning,
    }


def _gemini_finish(answer):
    if answer.prompt_feedback:
        return answer.prompt_feedback.block_reason.value
    reason = answer.candidates[0].finish_reason
    return reason.value if reason else ""


@pytest.fixture
async def provider():
    async with ProviderStandIn() as running:
        yield running


@pytest.fixture
async def client(provider):
    """Return a function that makes clients, all closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def make(name, **others):
            made = CLIENTS[name](provider, **others)
            stack.push_async_callback(made.close)
            return made

        yield make


async def outcome(call: Callable[[], Awaitable[Said]]) -> str:
    """Return how a call ended, in a few words: an exception with what tells it apart, or a finish with its text."""
    try:
        said = await call()
    except openai.APIError as error:
        return _named(error, error.code or error.type)
    except anthropic.APIStatusError as error:
        return _named(error, error.type)
    except genai.errors.APIError as error:
        return _named(error, error.status)
    except Exception as error:  # noqa: BLE001  an SDK lets exceptions of three libraries through
        return type(error).__name__
    return f"{said.finish}: {said.text}"


def _named(error, detail):
    return f"{type(error).__name__} {detail}" if detail else type(error).__name__


@pytest.mark.parametrize("name", PROVIDERS)
async def test_answers_whole_and_in_pieces(client, provider, name):
    """The same text and the same usage both ways; the pieces cut words in two."""
    used, pieces = client(name), []

    whole, streamed = await used.chat(system="Be brief."), await used.stream(pieces=pieces)

    finish = {"openai": "stop", "anthropic": "end_turn", "gemini": "STOP"}[name]
    assert (whole.text, whole.finish) == (streamed.text, streamed.finish) == (ANSWER, finish)
    assert whole.usage["output"] == streamed.usage["output"] == tokens_in(ANSWER)
    assert [each.status for each in provider.requests] == [200, 200]
    assert pieces[:2] == ["This i", "s a pl"]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_usage_counts_what_was_sent_and_written(client, provider, name):
    """Reasoning is part of the output however the provider splits it; the log has the same counts."""
    provider.reasoning_tokens = 16
    provider.writer = lambda asked: "猫" * 12

    said = await client(name).chat(prompt="b" * 400, system="a" * 400)

    assert said.usage["reasoning"] == 16
    assert said.usage["output"] == 16 + 10
    assert 200 <= said.usage["input"] <= 210
    counted = provider.requests[0].counted
    assert (counted.input, counted.output, counted.reasoning) == (said.usage["input"], 26, 16)


@pytest.mark.parametrize("name", PROVIDERS)
async def test_log_says_what_was_asked(client, provider, name):
    await client(name).chat(prompt="Hi", system="Be brief.")

    received = provider.requests[0]
    assert (received.provider, received.model) == (name, CLIENTS[name].model)
    assert (received.asked.system, received.asked.messages) == ("Be brief.", (("user", "Hi"),))
    assert "model" in received.body or name == "gemini"


async def test_structured_answers_fit_their_schema(client, provider):
    """Each SDK parses the answer by itself."""
    chat = client("openai").sdk.chat.completions
    first = await chat.parse(model="gpt-6-luna", messages=[{"role": "user", "content": "Hi"}], response_format=Words)
    second = await client("anthropic").sdk.messages.parse(
        model="claude-haiku-5-5", max_tokens=99, messages=[{"role": "user", "content": "Hi"}], output_format=Words
    )
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Words)
    models = client("gemini").sdk.aio.models
    third = await models.generate_content(model="gemini-3.8-flash", contents="Hi", config=config)

    assert first.choices[0].message.parsed == second.parsed_output == third.parsed == Words(words=["text"], count=1)
    assert all(each.asked.schema for each in provider.requests)


async def test_openai_stream_tells_usage_only_when_asked(client):
    stream = await client("openai").sdk.chat.completions.create(
        model="gpt-6-luna", messages=[{"role": "user", "content": "Hi"}], stream=True
    )

    assert [chunk.usage for chunk in [each async for each in stream]] == [None] * 9


async def test_anthropic_usage_is_counted_from_the_start(client):
    """The last event repeats the input: adding both would count it twice."""
    stream = await client("anthropic").sdk.messages.create(
        model="claude-haiku-5-5", max_tokens=99, messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    events = [event async for event in stream]

    assert [event.type for event in events if event.type != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens == events[-2].usage.input_tokens == 2
    assert (events[0].message.usage.output_tokens, events[-2].usage.output_tokens) == (1, 10)


async def test_embeddings_of_openai(client, provider):
    """Vectors of the dimension asked for have length 1; alike texts lie nearer than others."""
    texts = ["low rank adaptation", "low rank adapters", "a street at night"]
    answer = await client("openai").sdk.embeddings.create(model="text-embedding-3-large", input=texts, dimensions=1024)
    first, second, third = (each.embedding for each in answer.data)

    assert provider.requests[0].body["encoding_format"] == "base64"
    assert (len(first), answer.usage.prompt_tokens) == (1024, sum(map(tokens_in, texts)))
    assert _dot(first, first) == pytest.approx(1, abs=1e-5)
    assert _dot(first, second) > _dot(first, third) + 0.2


async def test_embeddings_come_as_numbers_too(client, provider):
    embeddings = client("openai").sdk.embeddings
    packed = await embeddings.create(model="text-embedding-3-small", input="a", encoding_format="base64")
    plain = await embeddings.create(model="text-embedding-3-small", input="a", encoding_format="float")

    values = packed.data[0].embedding
    unpacked = struct.unpack("<1536f", base64.b64decode(values)) if isinstance(values, str) else values
    assert plain.data[0].embedding == pytest.approx(list(unpacked), abs=1e-6)


@pytest.mark.parametrize("texts", [[""], [], ["a"] * 2049, ["a" * 4 * 8193]], ids=["empty", "none", "many", "long"])
async def test_embeddings_that_openai_refuses(client, texts):
    embeddings = client("openai").sdk.embeddings
    with pytest.raises(openai.BadRequestError):
        await embeddings.create(model="text-embedding-3-large", input=texts)


async def test_embeddings_of_gemini(client):
    """A shortened vector is not of length 1, and texts given as parts of one content are one text."""
    models = client("gemini").sdk.aio.models
    config = types.EmbedContentConfig(output_dimensionality=1024)
    two = await models.embed_content(model="gemini-embedding-001", contents=["one text", "another"], config=config)
    one = await models.embed_content(model="gemini-embedding-2", contents=["one text", "another"], config=config)

    assert [len(each.values) for each in two.embeddings] == [1024, 1024]
    assert len(one.embeddings) == 1
    assert _dot(two.embeddings[0].values, two.embeddings[0].values) < 0.9
    with pytest.raises(genai.errors.ClientError, match="at most 100"):
        await models.embed_content(model="gemini-embedding-001", contents=["a"] * 101)


def _dot(left, right):
    return sum(one * other for one, other in zip(left, right, strict=True))


async def test_tokens_are_counted_by_one_rule(client):
    prompt = "four" * 10 + "猫" * 12
    messages = [{"role": "user", "content": prompt}]
    counted = await client("anthropic").sdk.messages.count_tokens(model="claude-haiku-5-5", messages=messages)
    other = await client("gemini").sdk.aio.models.count_tokens(model="gemini-3.8-flash", contents=prompt)

    assert tokens_in(prompt) == 20
    assert counted.input_tokens == other.total_tokens == 20 + 2  # and the role


REFUSED = [
    (
        rate_limited(retry_after=2),
        ("RateLimitError rate_limit_exceeded", "RateLimitError rate_limit_error", "ClientError RESOURCE_EXHAUSTED"),
        429,
    ),
    (
        quota_spent(),
        ("RateLimitError insufficient_quota", "PaymentRequiredError billing_error", "ClientError RESOURCE_EXHAUSTED"),
        None,
    ),
    (
        overloaded(),
        (
            "InternalServerError service_unavailable_error",
            "OverloadedError overloaded_error",
            "ServerError UNAVAILABLE",
        ),
        None,
    ),
    (
        server_error(),
        ("InternalServerError server_error", "InternalServerError api_error", "ServerError INTERNAL"),
        500,
    ),
    (html_502(), ("InternalServerError", "InternalServerError", "ServerError Bad Gateway"), 502),
    (
        refused_key(),
        (
            "AuthenticationError invalid_api_key",
            "AuthenticationError authentication_error",
            "ClientError INVALID_ARGUMENT",
        ),
        None,
    ),
    (
        unknown_model(),
        ("NotFoundError model_not_found", "NotFoundError not_found_error", "ClientError NOT_FOUND"),
        404,
    ),
    (
        bad_parameter("temperature"),
        (
            "BadRequestError unsupported_value",
            "BadRequestError invalid_request_error",
            "ClientError INVALID_ARGUMENT",
        ),
        400,
    ),
    (
        too_long(),
        (
            "BadRequestError context_length_exceeded",
            "BadRequestError invalid_request_error",
            "ClientError INVALID_ARGUMENT",
        ),
        400,
    ),
]


@pytest.mark.parametrize(("fault", "expected", "status"), REFUSED, ids=lambda value: getattr(value, "name", ""))
async def test_refused_requests(client, provider, fault, expected, status):
    """Whole or as a stream, each SDK raises what it raises for that refusal."""
    for name, wanted in zip(PROVIDERS, expected, strict=True):
        used = client(name)
        provider.script([fault, fault, None])

        assert await outcome(used.chat) == wanted
        assert await outcome(used.stream) == wanted
        assert (await used.chat()).text == ANSWER
    statuses = {each.status for each in provider.requests} - {200}
    assert statuses == ({status} if status else statuses)


ENDED = [
    pytest.param(refusal("No."), ("stop: No.", "refusal: No.", "PROHIBITED_CONTENT: None"), id="refusal"),
    pytest.param(
        length(), (f"length: {ANSWER[:19]}", f"max_tokens: {ANSWER[:19]}", f"MAX_TOKENS: {ANSWER[:19]}"), id="length"
    ),
    pytest.param(empty_length(), ("length: ", "max_tokens: ", "MAX_TOKENS: None"), id="empty_length"),
]


@pytest.mark.parametrize(("fault", "expected"), ENDED)
async def test_answers_that_end_otherwise(client, provider, fault, expected):
    """These are answers, not errors, and their tokens are paid for."""
    for name, wanted in zip(PROVIDERS, expected, strict=True):
        used = client(name)
        provider.script([fault, fault])

        said, streamed = await used.chat(), await used.stream()

        assert f"{said.finish}: {said.text}" == wanted
        assert (streamed.finish, bool(streamed.text)) == (said.finish, bool(said.text) and "No." not in said.text) or (
            name == "openai"
        )
        assert said.usage["output"] == streamed.usage["output"] > 0


BROKEN = [
    pytest.param(
        cut_stream(after=3),
        ("APIConnectionError", "APIConnectionError", "ClientPayloadError"),
        ("APIConnectionError", "ReadError", "ClientPayloadError"),
        id="cut",
    ),
    pytest.param(
        silent_end(after=3),
        ("JSONDecodeError", "JSONDecodeError", "JSONDecodeError"),
        (f"none: {BEGUN}", f"none: {BEGUN}", f"none: {BEGUN}"),
        id="silent end",
    ),
    pytest.param(
        stream_error(after=3),
        (
            "InternalServerError service_unavailable_error",
            "OverloadedError overloaded_error",
            "ServerError UNAVAILABLE",
        ),
        ("APIError server_error", "APIStatusError overloaded_error", "ServerError UNAVAILABLE"),
        id="error event",
    ),
    pytest.param(
        bad_stream_line(after=3),
        ("JSONDecodeError", "JSONDecodeError", "JSONDecodeError"),
        ("JSONDecodeError", "JSONDecodeError", "UnknownApiResponseError"),
        id="bad line",
    ),
    pytest.param(
        bad_body(),
        ("JSONDecodeError", "JSONDecodeError", "JSONDecodeError"),
        ("JSONDecodeError", "JSONDecodeError", "UnknownApiResponseError"),
        id="bad body",
    ),
]


@pytest.mark.parametrize(("fault", "whole", "streamed"), BROKEN)
async def test_broken_answers(client, provider, fault, whole, streamed):
    """A stream that ends early is no error for any SDK: only its missing reason tells."""
    for name, wanted, wanted_streamed in zip(PROVIDERS, whole, streamed, strict=True):
        used, pieces = client(name), []
        provider.script([fault, fault, None])

        assert await outcome(used.chat) == wanted
        assert await outcome(lambda used=used, pieces=pieces: used.stream(pieces=pieces)) == wanted_streamed
        assert "".join(pieces) == ("" if fault == bad_body() else BEGUN)
        assert (await used.chat()).text == ANSWER


async def test_silent_servers(client, provider):
    """A server that says nothing more is left after the time a client waits; what came before it is there."""
    expected = {
        "openai": ("APITimeoutError", "APITimeoutError"),
        "anthropic": ("APITimeoutError", "ReadTimeout"),
        "gemini": ("TimeoutError", "TimeoutError"),
    }
    for name, wanted in expected.items():
        used, pieces = client(name, patience_s=PATIENCE_S), []
        provider.script([stall(), stall(after=3)])

        assert await outcome(used.chat) == wanted[0]
        assert await outcome(lambda used=used, pieces=pieces: used.stream(pieces=pieces)) == wanted[1]
        assert "".join(pieces) == BEGUN


@pytest.fixture
def impatient_gemini(monkeypatch):
    """Gemini's SDK tries a second time by itself after 1 to 10 seconds, whatever it is told of retries."""
    monkeypatch.setattr("google.genai._api_client.random.randint", lambda least, most: -1)


async def test_dropped_connections(client, provider, impatient_gemini):
    """OpenAI's SDK takes them for a timeout, and Gemini's asks a second time by itself."""
    for name, wanted in {"openai": "APITimeoutError", "anthropic": "APIConnectionError"}.items():
        provider.script([drop_connection()])
        assert await outcome(client(name).chat) == wanted
    provider.script([drop_connection(), drop_connection()])
    assert await outcome(client("gemini").chat) == "ServerDisconnectedError"
    assert [each.status for each in provider.requests] == [0, 0, 0, 0]


async def test_refused_connections(client, impatient_gemini):
    """Nobody listens any more; OpenAI's SDK takes that for a timeout too."""
    async with ProviderStandIn() as gone:
        pass
    expected = {"openai": "APITimeoutError", "anthropic": "APIConnectionError", "gemini": "ClientConnectorError"}
    for name, wanted in expected.items():
        used = CLIENTS[name](gone)
        ended = await outcome(used.chat)
        await used.close()
        assert ended == wanted


async def test_times_to_wait_in_every_form(client, provider):
    """Each provider says how long to wait where it really does."""
    for form in ("seconds", "ms", "date", "retry_info", "reset_header"):
        provider.script([rate_limited(retry_after=2, form=form)] * 3)
        headers = {}
        for name in PROVIDERS:
            try:
                await client(name).chat()
            except (openai.RateLimitError, anthropic.RateLimitError, genai.errors.ClientError) as error:
                headers[name] = dict(error.response.headers)
                details = getattr(error, "details", None)
        if form in {"retry_info", "reset_header"}:
            assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"} in details["error"][
                "details"
            ]
        if form == "reset_header":
            assert headers["openai"]["x-ratelimit-remaining-requests"] == "0"
            assert headers["openai"]["x-ratelimit-reset-requests"] == "2s"
            assert headers["anthropic"]["anthropic-ratelimit-requests-remaining"] == "0"
            continue
        for name in PROVIDERS if form != "retry_info" else ("openai", "anthropic"):
            named = {key.lower(): value for key, value in headers[name].items()}
            if form == "ms":
                assert named["retry-after-ms"] == "2000"
            elif form == "date":
                date = parsedate_to_datetime(named["retry-after"])
                assert 1 <= (date - parsedate_to_datetime(named["date"])).total_seconds() <= 3
            else:
                assert named["retry-after"] == "2"


async def test_limit_turns_down_what_exceeds_it(client, provider):
    """The burst goes through, the rest is told to wait; another model has a limit of its own."""
    provider.limit(requests_per_s=0.01, burst=3)
    used = client("openai")

    ended = await asyncio.gather(*(outcome(used.chat) for _ in range(5)))

    assert sorted(ended) == ["RateLimitError rate_limit_exceeded"] * 2 + [f"stop: {ANSWER}"] * 3
    assert (await used.chat(model="gpt-6-sol")).text == ANSWER


@pytest.mark.parametrize("name", PROVIDERS)
async def test_limits_are_told_in_each_providers_way(client, provider, name):
    provider.limit(requests_per_s=0.1, burst=1)
    used = client(name)
    await used.chat()
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError, genai.errors.ClientError)) as failure:
        await used.chat()

    headers = failure.value.response.headers
    if name == "openai":
        assert headers["x-ratelimit-limit-requests"] == "1"
        assert headers["x-ratelimit-reset-requests"] in {"10s", "9.999s", "9.998s"} or (
            9 < float(headers["x-ratelimit-reset-requests"][:-1]) <= 10
        )
    elif name == "anthropic":
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    if name == "gemini":
        assert 9 < float(failure.value.details["error"]["details"][0]["retryDelay"][:-1]) <= 10
    else:
        assert headers["retry-after"] == "10"


async def test_limit_on_tokens(client, provider):
    provider.limit(requests_per_s=100, burst=100, tokens_per_s=1, token_burst=1000)
    used = client("openai")

    assert (await used.chat(prompt="a" * 3600)).text == ANSWER
    assert await outcome(lambda: used.chat(prompt="a" * 3600)) == "RateLimitError rate_limit_exceeded"


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_beginnings_are_cached_by_themselves(client, provider, name):
    """In blocks of 128 tokens from 1,024 on; a change at the front caches nothing, another model neither."""
    used, system = client(name), "word " * 1200  # 1,500 tokens
    first = await used.chat(system=system, prompt="one")
    second = await used.chat(system=system, prompt="two")
    changed = await used.chat(system=f"x{system}", prompt="two")
    short = [await used.chat(system="word " * 800, prompt=prompt) for prompt in ("one", "two")]
    other = await used.chat(
        system=system, prompt="two", model={"openai": "gpt-6-sol", "gemini": "gemini-2.5-flash"}[name]
    )

    assert first.usage["input"] == second.usage["input"]
    assert [each.usage["cached"] for each in (first, second, changed, other)] == [0, 1408, 0, 0]
    assert [each.usage["cached"] for each in short] == [0, 0]


async def test_nothing_is_cached_before_an_answer_begins(client, provider):
    """Calls that set out together do not help each other."""
    provider.latency_s = 0.05
    used, system = client("openai"), "word " * 1200

    together = await asyncio.gather(*(used.chat(system=system) for _ in range(3)))

    assert [each.usage["cached"] for each in together] == [0, 0, 0]
    assert (await used.chat(system=system)).usage["cached"] == 1408


async def test_anthropic_caches_up_to_a_mark(client, provider):
    """Without a mark nothing is cached; what is written once is read later."""
    used, text = client("anthropic"), "word " * 1200
    marked = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    short = [{"type": "text", "text": "word " * 800, "cache_control": {"type": "ephemeral"}}]
    for system, prompt in ((text, "one"), (marked, "one"), (marked, "two"), (short, "one"), (short, "one")):
        await used.chat(system=system, prompt=prompt)

    counts = [(each.counted.cache_write, each.counted.cached) for each in provider.requests]
    size = tokens_in(f"system\n{text}\n")
    assert counts == [(0, 0), (size, 0), (0, size), (0, 0), (0, 0)]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_wrong_keys_and_unknown_models(client, provider, name):
    provider.accepted_key, provider.models = "right", {"gpt-6-luna", "claude-haiku-5-5", "gemini-3.8-flash"}
    right = client(name, key="right")

    assert "KEY" not in await outcome(right.chat)
    assert await outcome(client(name, key="wrong").chat) in {
        "AuthenticationError invalid_api_key",
        "AuthenticationError authentication_error",
        "ClientError INVALID_ARGUMENT",
    }
    assert await outcome(lambda: right.chat(model="no-such-model")) in {
        "NotFoundError model_not_found",
        "NotFoundError not_found_error",
        "ClientError NOT_FOUND",
    }


@pytest.mark.parametrize(
    ("name", "model", "parameters", "named"),
    [
        pytest.param("openai", "gpt-6-luna", {"max_tokens": 9}, "max_tokens", id="max_tokens"),
        pytest.param("openai", "gpt-5-mini", {"temperature": 0}, "temperature", id="reasons"),
        pytest.param("openai", "gpt-6.1-sol", {"reasoning_effort": "none"}, "reasoning_effort", id="always reasons"),
        pytest.param("openai", "gpt-6-luna", {"reasoning_effort": "none", "temperature": 0}, "", id="does not reason"),
        pytest.param("openai", "gpt-5.4-mini", {"temperature": 0}, "", id="does not reason unless told"),
        pytest.param("openai", "gpt-4o", {"temperature": 0, "max_tokens": 99}, "", id="older"),
        pytest.param("openai", "gpt-4o", {"reasoning_effort": "low"}, "reasoning_effort", id="older has no effort"),
        pytest.param("anthropic", "claude-haiku-5-5", {"extra_body": {"temperature": 0}}, "temperature", id="claude"),
        pytest.param("anthropic", "claude-haiku-4-5", {"extra_body": {"temperature": 0}}, "", id="older claude"),
        pytest.param("gemini", "gemini-3.8-flash", {"temperature": 0}, "temperature", id="gemini"),
        pytest.param("gemini", "gemini-2.5-flash", {"temperature": 0}, "", id="older gemini"),
    ],
)
async def test_parameters_that_a_model_does_not_take(client, name, model, parameters, named):
    """The refusal names the parameter, so that a client can leave it out."""
    used = client(name)
    if not named:
        assert (await used.chat(model=model, **parameters)).text == ANSWER
        return
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError, genai.errors.ClientError), match=named):
        await used.chat(model=model, **parameters)


@pytest.mark.parametrize("name", PROVIDERS)
async def test_output_limit_cuts_a_text(client, provider, name):
    provider.writer = lambda asked: "word " * 100
    limit = {"openai": "max_completion_tokens", "anthropic": "max_tokens", "gemini": "max_output_tokens"}[name]

    said = await client(name).chat(**{limit: 10})

    assert said.finish in {"length", "max_tokens", "MAX_TOKENS"}
    assert said.usage["output"] == 10
    assert tokens_in(said.text) == 10


async def test_bodies_that_cannot_be_read(client):
    """A client's mistake is told as one, not as the server's failure."""
    with pytest.raises(openai.BadRequestError, match="the body is not one"):
        await client("openai").sdk.chat.completions.create(
            model="gpt-6-luna", messages=[], extra_body={"messages": {"role": "user"}}
        )


async def test_speed_of_a_stream(client, provider):
    """The first piece comes before the last one is written."""
    provider.tokens_per_s = 100
    stream = await client("openai").sdk.chat.completions.create(
        model="gpt-6-luna", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    arrivals = [time.monotonic() async for _ in stream]

    assert arrivals[-1] - arrivals[0] > 0.05


async def test_standing_fault_of_a_model(client, provider):
    """One model is down for good, the others answer."""
    provider.faults["gpt-6-luna"] = overloaded()
    used = client("openai")

    for _ in range(2):
        assert await outcome(used.chat) == "InternalServerError service_unavailable_error"
    assert (await used.chat(model="gpt-6-sol")).text == ANSWER


async def test_runs_in_a_process_of_its_own():
    with provider_process("--requests-per-s", "0.01", "--burst", "1", "--accepted-key", "key") as running:
        used = OpenAi(running)
        ended = [await outcome(used.chat), await outcome(used.chat)]
        await used.close()
        statuses = [each["status"] for each in running.requests()]

    assert ended == [f"stop: {ANSWER}", "RateLimitError rate_limit_exceeded"]
    assert statuses == [200, 429]


async def test_a_process_holds_answers_back_and_tells_of_requests_as_they_come():
    """Who kills processes says by it what had happened."""
    with provider_process() as running:
        used = OpenAi(running)
        running.hold("gpt-6-luna", after=1)
        first = await outcome(used.chat)
        second = asyncio.create_task(outcome(used.chat))
        asked = await asyncio.to_thread(running.requests, "gpt-6-luna", 2, 1)
        running.release("gpt-6-luna")
        ended = [first, await second]
        await used.close()
        answered = running.requests()

    assert [each["status"] for each in asked] == [200, 0]
    assert ended == [f"stop: {ANSWER}"] * 2
    assert len({each["digest"] for each in answered}) == 1
    assert len({each["answer_id"] for each in answered}) == 2
