"""Encoders of providers: what is asked, what is paid, what is made of the answers."""

import asyncio
import json

import numpy as np
import pytest
from ledgers import Ledgers, a_caller, file_ledgers  # noqa: F401  # a fixture
from pydantic import SecretStr

from services.common.errors import BudgetReached, NotReady, Unpriced, UpstreamFailed
from services.common.paid.faults import REACTIONS, FaultKind, ProviderFault
from services.common.paid.ledger_values import CallState
from services.common.paid.usage import TokenUsage
from services.common.providers.chat import EmbeddingReply
from services.common.providers.registry import Providers
from services.common.providers.settings import ProviderSettings
from services.embedding.remote_encoder import MAX_TEXT_BYTES, RemoteEncoder, encoder_of

PRICES = '{"far:*": {"input_mtok": 1, "output_mtok": 1}}'
"""A token costs 1,000 nano-US-dollars."""


class FarProvider:
    """Makes a vector of a text's length and first character; does first what it was told to."""

    name = "far"
    endpoint = "http://far"
    key_variable = "FAR_API_KEY"

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.faults: list[Exception | None] = []
        self.vector_of = lambda text: (float(len(text)), float(ord(text[0])), 2.0)
        self.together: asyncio.Barrier | None = None
        self.counts = True

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:
        assert (model, dimension) == ("model", 3)
        self.asked.append(texts)
        if self.together:
            await self.together.wait()
        fault = self.faults.pop(0) if self.faults else None
        if fault:
            raise fault
        tokens = TokenUsage(input_tokens=10 * len(texts))
        return EmbeddingReply(vectors=tuple(map(self.vector_of, texts)), tokens=tokens, response_id="answer-1")


@pytest.fixture
def provider() -> FarProvider:
    return FarProvider()


@pytest.fixture
def encoder(provider, file_ledgers) -> RemoteEncoder:  # noqa: F811
    return RemoteEncoder(provider, "model", 3, file_ledgers.calls(prices=PRICES, owner="embedding"))


def fault(kind: FaultKind, **parts: object) -> ProviderFault:
    return ProviderFault(kind, "far:model", "said so", **parts)


def row(text: str) -> np.ndarray:
    whole = np.array([len(text), ord(text[0]), 2.0], dtype=np.float32)
    return whole / np.linalg.norm(whole)


async def test_rows_are_unit_vectors_of_the_papers_and_then_of_the_texts(encoder, provider):
    """Some providers shorten their vectors and do not scale them again."""
    encoded = await encoder.encode(["paper b", "paper"], ["why?"], a_caller())

    assert np.allclose(encoded.rows, [row("paper b"), row("paper"), row("why?")], atol=1e-6)
    assert encoded.rows.dtype == np.float32
    assert sorted(provider.asked) == [("paper b", "paper"), ("why?",)]


async def test_what_was_paid_is_told(encoder, file_ledgers):  # noqa: F811
    (usage,) = (await encoder.encode(["a", "b"], ["c"], a_caller())).usage

    assert (usage.model, usage.call_count, usage.input_tokens, usage.cost_nano_usd) == ("far:model", 2, 30, 30_000)
    assert not usage.is_estimated
    listed = await file_ledgers.ledger(owner="embedding").list_calls("tenant-a", "survey-1")
    assert sorted(call.item for call in listed.calls) == ["2.3 papers 1", "2.3 texts 1"]
    assert {call.prompt_id for call in listed.calls} == {"embedding.v1"}
    assert {call.response_id for call in listed.calls} == {"answer-1"}


async def test_recorded_vectors_of_papers_serve_everybody_and_those_of_texts_their_tenant(encoder, provider):
    first = await encoder.encode(["paper"], ["why?"], a_caller())
    mine = await encoder.encode(["paper"], ["why?"], a_caller("survey-2"))
    others = await encoder.encode(["paper"], ["why?"], a_caller("survey-3", tenant="tenant-b"))

    assert np.array_equal(first.rows, mine.rows)
    assert np.array_equal(first.rows, others.rows)
    assert provider.asked[2:] == [("why?",)]
    assert (mine.usage[0].cost_nano_usd, mine.usage[0].avoided_cost_nano_usd) == (0, 20_000)
    assert (others.usage[0].cost_nano_usd, others.usage[0].avoided_cost_nano_usd) == (10_000, 10_000)


async def test_many_texts_go_side_by_side_in_requests_of_a_hundred(encoder, provider):
    provider.together = asyncio.Barrier(3)
    texts = [f"{chr(97 + number % 26)} {number}" for number in range(250)]

    encoded = await encoder.encode(texts, [], a_caller())

    assert sorted(map(len, provider.asked)) == [50, 100, 100]
    assert np.allclose(encoded.rows, [row(text) for text in texts], atol=1e-6)


async def test_long_texts_go_in_requests_of_bounded_length(encoder, provider):
    """Japanese has more tokens than letters; 60 of these are more than a request may have."""
    texts = [f"{number:02}" + "画" * 2_600 for number in range(60)]

    await encoder.encode(texts, [], a_caller())

    assert sorted(map(len, provider.asked)) == [14, 46]
    assert sorted(text for asked in provider.asked for text in asked) == texts


@pytest.mark.parametrize("text", ["x" * 200_000, "画" * 60_000, "a" + "画" * 60_000, "\ud800" * 60_000])
async def test_an_endless_text_is_cut_and_not_refused(encoder, provider, text):
    await encoder.encode([text], [], a_caller())

    ((asked,),) = provider.asked
    assert MAX_TEXT_BYTES - 3 <= len(asked.encode()) <= MAX_TEXT_BYTES
    assert text.startswith(asked) or "\ud800" in text


@pytest.mark.parametrize("kind", FaultKind)
async def test_a_fault_becomes_what_its_reaction_says(encoder, provider, kind):
    provider.faults = [fault(kind, retry_after_s=7)] * 20
    is_upstream = REACTIONS[kind].stands_in

    with pytest.raises(UpstreamFailed if is_upstream else NotReady, match=r"^far:model: .*said so") as raised:
        await encoder.encode(["a"], [], a_caller())

    if is_upstream:
        assert raised.value.retry_after_s == 7
    else:
        assert ("FAR_API_KEY" if kind is FaultKind.KEY_REFUSED else "PAPERROUTE_EMBEDDING__ENCODER") in str(
            raised.value
        )


@pytest.mark.parametrize(
    ("vector_of", "problem"),
    [
        pytest.param(lambda text: (float("nan"), 1.0, 1.0), "no number", id="nan"),
        pytest.param(lambda text: (1.0, float("inf"), 1.0), "no number", id="inf"),
        pytest.param(lambda text: (1.0,) * len(text), "2 vectors wanted", id="lengths differ"),
    ],
)
async def test_vectors_that_cannot_be_used_are_a_fault(encoder, provider, vector_of, problem):
    """It may be better at the second try."""
    provider.vector_of = vector_of

    with pytest.raises(UpstreamFailed, match=problem):
        await encoder.encode(["a", "bb"], [], a_caller())

    assert len(provider.asked) == 3


async def test_too_few_vectors_are_a_fault(encoder, provider):
    async def short(model: str, texts: tuple[str, ...], dimension: int) -> EmbeddingReply:
        return EmbeddingReply(vectors=((1.0, 1.0, 1.0),), tokens=TokenUsage())

    provider.embed = short

    with pytest.raises(UpstreamFailed, match="2 vectors wanted, not 1"):
        await encoder.encode(["a", "b"], [], a_caller())


async def test_vectors_of_another_length_are_told_with_the_right_name_and_paid_for(
    encoder,
    provider,
    file_ledgers,  # noqa: F811
):
    """The setting is to be changed, but the provider bills what it did."""
    provider.vector_of = lambda text: (1.0,) * 768

    with pytest.raises(NotReady, match="768 numbers; name it far:model@768"):
        await encoder.encode(["a", "b"], [], a_caller())

    (call,) = (await file_ledgers.ledger(owner="embedding").list_calls("tenant-a", "survey-1")).calls
    assert (call.state, call.usage.cost_nano_usd) == (CallState.MALFORMED, 20_000)


async def test_a_budget_stops_it_before_anything_is_sent(encoder, provider):
    with pytest.raises(BudgetReached):
        await encoder.encode(["a" * 1_000], [], a_caller(budget=1_000))
    assert provider.asked == []


async def test_a_budget_needs_a_price(provider, file_ledgers):  # noqa: F811
    unpriced = RemoteEncoder(provider, "model", 3, file_ledgers.calls(prices=""))

    with pytest.raises(Unpriced):
        await unpriced.encode(["a"], [], a_caller(budget=10**9))
    (usage,) = (await unpriced.encode(["a"], [], a_caller())).usage

    assert usage.cost_nano_usd is None
    assert len(provider.asked) == 1


async def test_what_was_paid_before_a_failure_is_not_paid_again(encoder, provider):
    """One of three requests is refused for good; the other two are recorded."""
    provider.together = asyncio.Barrier(3)
    provider.faults = [None, fault(FaultKind.QUOTA), None]
    texts = [f"a {number}" for number in range(250)]
    with pytest.raises(UpstreamFailed):
        await encoder.encode(texts, [], a_caller())
    provider.together = None

    encoded = await encoder.encode(texts, [], a_caller())

    assert len(provider.asked) == 4
    assert np.allclose(encoded.rows, [row(text) for text in texts], atol=1e-6)
    assert encoded.usage[0].cost_nano_usd == 2_500_000


async def test_what_is_asked_decides_what_is_served_again(provider, file_ledgers):  # noqa: F811
    calls = file_ledgers.calls(prices=PRICES)

    class Wider(FarProvider):
        async def embed(self, model, texts, dimension):
            self.asked.append(texts)
            return EmbeddingReply(vectors=((1.0,) * dimension,) * len(texts), tokens=TokenUsage(input_tokens=1))

    wide = Wider()
    for dimension in (4, 5, 4):
        await RemoteEncoder(wide, "model", dimension, calls).encode(["a"], [], a_caller())

    assert len(wide.asked) == 2


def providers() -> Providers:
    settings = ProviderSettings(api_key=SecretStr("k"))
    own = dict.fromkeys(("openai", "gemini", "anthropic"), settings)
    return Providers(own, {"ollama": ProviderSettings(base_url="http://127.0.0.1:1/v1")})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("openai:text-embedding-3-large", ("openai:text-embedding-3-large", 1_024)),
        ("openai:text-embedding-3-large@1024", ("openai:text-embedding-3-large", 1_024)),
        ("openai:text-embedding-3-large@256", ("openai:text-embedding-3-large@256", 256)),
        ("openai:text-embedding-3-small", ("openai:text-embedding-3-small", 1_536)),
        ("gemini:gemini-embedding-001", ("gemini:gemini-embedding-001", 1_024)),
        ("ollama:nomic-embed-text:v1.5@768", ("ollama:nomic-embed-text:v1.5@768", 768)),
        ("ollama:nomic-embed-text", None),
        ("ollama:nomic-embed-text@0", None),
        ("ollama:nomic-embed-text@4097", None),
        ("ollama:nomic-embed-text@many", None),
        ("ollama:@768", None),
        ("ollama:", None),
        ("nobody:model@768", None),
    ],
)
async def test_encoders_are_named_by_model_and_dimension(name, found, file_ledgers):  # noqa: F811
    made = encoder_of(name, providers(), file_ledgers.calls())

    assert (made and (made.name, made.dimension)) == found


async def test_what_is_recorded_names_the_text_and_nothing_else(encoder, file_ledgers: Ledgers):  # noqa: F811
    """A question must leave the ledger with its survey."""
    await encoder.encode(["paper"], ["why?"], a_caller())

    ledger = file_ledgers.ledger(owner="embedding")
    assert await ledger.delete_calls("tenant-a", "survey-1") == 1
    assert json.dumps("why?") not in str((await ledger.list_calls("tenant-a", "survey-1")).calls)
