"""Vectors of texts from each provider."""

import pytest
from standins import provider_server as standin
from standins.provider_server import tokens_in

from services.common.errors import NotReady
from services.common.paid.faults import FaultKind, ProviderFault

TEXTS = ("LoRA adapts few weights.", "画像生成の動向", "LoRA adapts few weights.")
MODELS = {"openai": "text-embedding-3-large", "gemini": "gemini-embedding-001", "ollama": "nomic-embed-text"}


@pytest.mark.parametrize("provider", MODELS)
async def test_each_text_gets_its_vector(connect, provider):
    """One model of Gemini makes one vector of all texts that stand in one content."""
    found = connect().find(provider)

    reply = await found.embed(MODELS[provider], TEXTS, 1_024)

    first, second, third = reply.vectors
    assert first == third != second
    assert len(first) == (3_072 if provider == "ollama" else 1_024)


async def test_openai_counts_tokens_and_gemini_is_counted_for(connect):
    providers = connect()

    by_openai = await providers.find("openai").embed(MODELS["openai"], TEXTS, 32)
    by_gemini = await providers.find("gemini").embed(MODELS["gemini"], TEXTS, 32)

    assert by_openai.tokens.input_tokens == sum(map(tokens_in, TEXTS))
    assert not by_openai.tokens.is_estimated
    assert by_openai.rate
    assert by_gemini.tokens.is_estimated
    assert by_gemini.tokens.input_tokens == pytest.approx(sum(map(tokens_in, TEXTS)), abs=3)
    assert by_openai.tokens.output_tokens == by_gemini.tokens.output_tokens == 0


async def test_what_is_asked(connect, server):
    providers = connect()
    for provider, model in MODELS.items():
        await providers.find(provider).embed(model, TEXTS[:1], 32)

    openai, gemini, ollama = (received.body for received in server.requests)
    assert (openai["dimensions"], openai["encoding_format"]) == (32, "base64")
    assert "dimensions" not in ollama
    assert ollama["encoding_format"] == "float"
    assert [(each["taskType"], each["outputDimensionality"]) for each in gemini["requests"]] == [("CLUSTERING", 32)]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (standin.rate_limited(retry_after=2), FaultKind.RATE_LIMIT),
        (standin.refused_key(), FaultKind.KEY_REFUSED),
        (standin.unknown_model(), FaultKind.NO_SUCH_MODEL),
        (standin.overloaded(), FaultKind.OVERLOADED),
        (standin.html_502(), FaultKind.OVERLOADED),
        (standin.bad_body(), FaultKind.MALFORMED),
        (standin.cut_stream(), FaultKind.MALFORMED),
        (standin.drop_connection(), FaultKind.UNREACHABLE),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_faults_are_those_of_the_table(connect, server, provider, fault, kind):
    server.script([fault])

    with pytest.raises(ProviderFault) as raised:
        await connect().find(provider).embed(MODELS[provider], TEXTS[:1], 32)

    assert raised.value.kind is kind


async def test_anthropic_has_none(connect, server):
    with pytest.raises(NotReady, match="no embeddings"):
        await connect().find("anthropic").embed("claude", TEXTS[:1], 32)
    assert server.requests == []
