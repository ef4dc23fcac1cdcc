"""Keys and prompts stay out of logs, whatever the level."""

import contextlib
import logging

import pytest
from providing import KEY, Texts, request_to
from standins.provider_server import overloaded, refused_key

from services.common.paid.faults import ProviderFault

PROMPT = "Nobody else may read this question."


@pytest.mark.parametrize("fault", [None, refused_key(), overloaded()], ids=["answered", "key refused", "overloaded"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "ollama"])
async def test_no_log_shows_a_key_or_a_prompt(connect, server, caplog, provider, fault):
    """The libraries write whole requests when the log is set to "debug"."""
    caplog.set_level(logging.DEBUG)
    found = connect().find(provider)
    for sink in (None, Texts()):
        server.script([fault])
        with contextlib.suppress(ProviderFault):
            await found.chat(request_to(provider, prompt=PROMPT), sink)

    assert len(server.requests) == 2
    assert KEY not in caplog.text
    assert PROMPT not in caplog.text
