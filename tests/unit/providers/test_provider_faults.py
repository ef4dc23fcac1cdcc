"""Every row of the fault table, with each provider's real library, in one piece and as a stream."""

import asyncio
import traceback
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from providing import KEY, Texts, providers_at, request_to
from standins import provider_server as standin
from standins.provider_server import Fault, ProviderStandIn

from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers.chat import ChatReply, Finish
from services.common.providers.registry import Providers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROVIDERS = ("openai", "anthropic", "gemini", "ollama")
TEXT = "LoRA adapts a few weights of a large model."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[ProviderStandIn]:
    async with ProviderStandIn(writer=lambda asked: TEXT) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def providers(server: ProviderStandIn) -> AsyncIterator[Providers]:
    made = providers_at(server)
    yield made
    await made.close()


async def outcome(
    providers: Providers, server: ProviderStandIn, provider: str, fault: Fault, sink: Texts | None
) -> ChatReply | ProviderFault:
    found = providers.find(provider)
    assert found
    server.requests.clear()
    server.script([fault])
    try:
        return await found.chat(request_to(provider), sink)
    except ProviderFault as raised:
        return raised


def each_way(*rows):
    """Return a table with each row for each provider, in one piece and as a stream."""
    return pytest.mark.parametrize(
        ("provider", "is_stream", "fault", *rows[0]),
        [
            pytest.param(
                provider, is_stream, fault, *wanted, id=f"{name}-{provider}-{'stream' if is_stream else 'whole'}"
            )
            for name, fault, *wanted in rows[1:]
            for provider in PROVIDERS
            for is_stream in (False, True)
        ],
    )


@each_way(
    ("kind",),
    ("rate limit", standin.rate_limited(retry_after=2), FaultKind.RATE_LIMIT),
    ("quota spent", standin.quota_spent(), FaultKind.QUOTA),
    ("overloaded", standin.overloaded(), FaultKind.OVERLOADED),
    ("server error", standin.server_error(), FaultKind.OVERLOADED),
    ("page of HTML", standin.html_502(), FaultKind.OVERLOADED),
    ("key refused", standin.refused_key(), FaultKind.KEY_REFUSED),
    ("unknown model", standin.unknown_model(), FaultKind.NO_SUCH_MODEL),
    ("parameter we did not send", standin.bad_parameter("logit_bias"), FaultKind.BAD_REQUEST),
    ("prompt too long", standin.too_long(), FaultKind.TOO_LONG),
    ("connection dropped", standin.drop_connection(), FaultKind.UNREACHABLE),
    ("no JSON", standin.bad_body(), FaultKind.MALFORMED),
)
async def test_a_failed_request_is_told_by_its_kind(providers, server, *, provider, is_stream, fault, kind):
    """Nothing is tried again here: the libraries' own retries are off."""
    found = await outcome(providers, server, provider, fault, Texts() if is_stream else None)

    assert isinstance(found, ProviderFault)
    assert found.kind is kind, found
    assert found.model == f"{provider}:{request_to(provider).model}"
    assert 0 < len(found.problem) <= 300
    assert (found.tokens is not None) == (kind is FaultKind.MALFORMED)
    assert len(server.requests) == 1


@each_way(
    ("whole", "stream"),
    ("cut", standin.cut_stream(after=3), FaultKind.MALFORMED, FaultKind.TRUNCATED),
    ("cut at once", standin.cut_stream(after=0), FaultKind.MALFORMED, FaultKind.TRUNCATED),
    ("ended without a reason", standin.silent_end(after=3), FaultKind.MALFORMED, FaultKind.TRUNCATED),
    ("ended at once", standin.silent_end(after=0), FaultKind.MALFORMED, FaultKind.TRUNCATED),
    ("error as an event", standin.stream_error(after=3), FaultKind.OVERLOADED, FaultKind.OVERLOADED),
    ("line that is no JSON", standin.bad_stream_line(after=3), FaultKind.MALFORMED, FaultKind.MALFORMED),
)
async def test_a_broken_answer_is_a_fault_that_tells_what_was_paid(
    providers, server, *, provider, is_stream, fault, whole, stream
):
    """None of the three libraries minds a stream that just ends."""
    sink = Texts()

    found = await outcome(providers, server, provider, fault, sink if is_stream else None)

    assert isinstance(found, ProviderFault)
    assert found.kind is (stream if is_stream else whole), found
    if is_stream:
        assert found.tokens
        assert found.tokens.is_estimated
        assert found.tokens.input_tokens > 0
        assert TEXT.startswith("".join(sink.pieces))
        assert (found.tokens.output_tokens > 0) == bool(sink.pieces)


@each_way(
    ("finish", "text"),
    ("refusal", standin.refusal(), Finish.REFUSED, ""),
    ("length", standin.length(), Finish.LENGTH, TEXT[: len(TEXT) // 2]),
    ("nothing but reasoning", standin.empty_length(), Finish.LENGTH, ""),
)
async def test_a_refusal_and_a_reached_limit_are_replies(
    providers, server, *, provider, is_stream, fault, finish, text
):
    sink = Texts()

    found = await outcome(providers, server, provider, fault, sink if is_stream else None)

    assert isinstance(found, ChatReply)
    assert (found.finish, found.text) == (finish, text)
    assert bool(found.refusal) == (finish is Finish.REFUSED)
    assert found.tokens.input_tokens > 0
    assert not found.tokens.is_estimated
    assert not is_stream or "".join(sink.pieces) == text


@pytest.mark.parametrize("form", ["seconds", "ms", "date", "retry_info", "reset_header"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_time_to_wait_is_read_in_every_form(providers, server, provider, form):
    """A date and a moment have whole seconds, which the server rounds up."""
    found = await outcome(providers, server, provider, standin.rate_limited(retry_after=20, form=form), None)

    assert isinstance(found, ProviderFault)
    assert found.retry_after_s == pytest.approx(20, abs=1.5)
    is_exact = form in {"seconds", "ms", "retry_info"}
    assert not is_exact or found.retry_after_s == 20


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_for_the_rate_tells_what_is_left(providers, server, provider):
    found = await outcome(providers, server, provider, standin.rate_limited(retry_after=1), None)

    assert isinstance(found, ProviderFault)
    if provider == "gemini":  # says nothing of its limits
        assert found.rate is None
    else:
        assert found.rate
        assert found.rate.request_limit == 30_000


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_silence_is_a_timeout(server, provider, is_stream):
    providers = providers_at(server, timeout_s=0.3)

    found = await outcome(providers, server, provider, standin.stall(after=2), Texts() if is_stream else None)
    await providers.close()

    assert isinstance(found, ProviderFault)
    assert found.kind is FaultKind.TIMEOUT, found
    assert found.problem == "silent for 0.3 s"
    assert (found.tokens is not None) == is_stream


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_server_that_is_not_there_is_unreachable(unused_tcp_port, provider, is_stream):
    """Google's library would otherwise wait up to ten seconds and try again."""
    nobody = ProviderStandIn()
    nobody._url = f"http://127.0.0.1:{unused_tcp_port}"
    providers = providers_at(nobody)
    found = providers.find(provider)
    assert found

    with pytest.raises(ProviderFault) as raised:
        async with asyncio.timeout(5):
            await found.chat(request_to(provider), Texts() if is_stream else None)
    await providers.close()

    assert raised.value.kind is FaultKind.UNREACHABLE
    assert raised.value.tokens is None


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_cancelled_call_ends_as_cancelled(providers, server, provider, is_stream):
    """Before its answer, and in the middle of a stream."""
    found = providers.find(provider)
    assert found
    reached = asyncio.Event()

    def written(asked: object) -> str:
        reached.set()
        return TEXT

    class Waiting(Texts):
        def text(self, piece: str) -> None:
            reached.set()

    if is_stream:
        server.script([standin.stall(after=2)])
    else:
        server.writer, server.latency_s = written, 60
    call = asyncio.create_task(found.chat(request_to(provider), Waiting() if is_stream else None))
    await reached.wait()
    server.writer, server.latency_s = lambda asked: TEXT, 0

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_a_sink_raises_passes_through(providers, server, provider):
    """A sink is ours: its failure is no fault of the provider."""

    class Full(Texts):
        def text(self, piece: str) -> None:
            raise BufferError("full")

    found = providers.find(provider)
    assert found
    with pytest.raises(BufferError):
        await found.chat(request_to(provider), Full())


@pytest.mark.parametrize("fault", [standin.refused_key(), standin.html_502(), standin.drop_connection()])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_no_fault_shows_the_key(providers, server, provider, fault):
    """Nor does what a traceback would print of it."""
    found = await outcome(providers, server, provider, fault, None)

    assert isinstance(found, ProviderFault)
    assert KEY not in f"{found!r} {found} {''.join(traceback.format_exception(found))}"
