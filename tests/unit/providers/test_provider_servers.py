"""What depends on where a server is, and reasons that no text ends for."""

import pytest
from providing import request_to

from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers import anthropic, gemini, openai
from services.common.providers.exchange import Exchange
from services.common.providers.settings import ProviderKey, ProviderSettings


@pytest.mark.parametrize(
    ("address", "is_openai"),
    [
        ("", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.example.org/v1", False),
        ("https://proxy.example.org/api.openai.com/v1", False),
    ],
)
def test_openai_is_known_by_its_host(address, is_openai):
    settings = ProviderSettings(base_url=address)
    provider = openai.make("openai", settings, ProviderKey("openai", settings, variable="X"))
    model = openai.TABLE[-1][1]

    sent = provider._parameters(request_to("openai", cache_key="survey-1"), model, is_stream=True)

    assert ("prompt_cache_key" in sent) is is_openai
    assert "survey-1" not in str(sent)  # it is nobody's business
    assert ("include_obfuscation" in sent["stream_options"]) is is_openai


async def test_the_ids_of_an_organization_stay_with_openai(connect, server, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    providers = connect()

    await providers.find("openai").chat(request_to("openai"))
    await providers.find("ollama").chat(request_to("ollama"))

    at_openai, elsewhere = (
        {name.lower(): value for name, value in received.headers.items()} for received in server.requests
    )
    assert at_openai["openai-organization"] == "org-private"
    assert "openai-organization" not in elsewhere


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        pytest.param(openai, "tool_calls", id="openai"),
        pytest.param(anthropic, "pause_turn", id="anthropic"),
        pytest.param(gemini, "MALFORMED_RESPONSE", id="gemini"),
    ],
)
def test_a_reason_that_no_text_has_is_malformed(module, reason):
    answer = module._Answer(Exchange("p:m", "", 1, lambda error: None), {})
    answer.reason = reason

    with pytest.raises(ProviderFault) as raised:
        answer.reply()

    assert raised.value.kind is FaultKind.MALFORMED
