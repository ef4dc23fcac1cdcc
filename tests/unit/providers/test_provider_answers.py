"""What providers are known to answer beside the usual, word for word."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from providing import Texts, request_to
from pydantic import SecretStr

from services.common.paid.faults import FaultKind, ProviderFault
from services.common.providers.chat import Finish
from services.common.providers.registry import Providers
from services.common.providers.settings import ProviderSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROVIDERS = ("openai", "anthropic", "gemini", "ollama")
GOOGLE = "type.googleapis.com/google.rpc."


@dataclass
class Parrot:
    """Answers every request with the same words."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"

    async def answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status, body=self.body, content_type=self.content_type)

    def says(self, status: int, body: Any, content_type: str = "application/json") -> None:
        self.status, self.content_type = status, content_type
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parrot() -> AsyncIterator[tuple[Parrot, Providers]]:
    """The server and all providers at it."""
    made = Parrot()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = ProviderSettings(base_url=url, api_key=SecretStr("k"), timeout_s=5)
    providers = Providers(dict.fromkeys(PROVIDERS[:3], settings), {"ollama": settings})
    yield made, providers
    await providers.close()
    await runner.cleanup()


async def fault_of(parrot: tuple[Parrot, Providers], provider: str, sink: Texts | None = None) -> ProviderFault:
    with pytest.raises(ProviderFault) as raised:
        await parrot[1].find(provider).chat(request_to(provider), sink)
    return raised.value


def openai(message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def gemini(code: int, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": "X", "details": list(details)}}


def spent(period: str) -> dict[str, Any]:
    return {"@type": f"{GOOGLE}QuotaFailure", "violations": [{"quotaId": f"GenerateRequests{period}PerProject"}]}


RETRY = {"@type": f"{GOOGLE}RetryInfo", "retryDelay": "31s"}


@pytest.mark.parametrize(
    ("provider", "status", "body", "kind"),
    [
        ("openai", 429, openai("Request too large for gpt-6 on tokens per min (TPM)"), FaultKind.TOO_LONG),
        ("openai", 429, openai("Rate limit reached: exceeds 30000 tokens per min"), FaultKind.RATE_LIMIT),
        ("openai", 429, openai("No more money", "billing_hard_limit_reached"), FaultKind.QUOTA),
        ("openai", 403, openai("Country not supported"), FaultKind.KEY_REFUSED),
        ("openai", 400, openai("The model does not exist", "model_not_found"), FaultKind.NO_SUCH_MODEL),
        ("openai", 413, openai("Payload too large"), FaultKind.TOO_LONG),
        ("openai", 408, openai("Took too long"), FaultKind.TIMEOUT),
        ("openai", 402, openai("Pay first"), FaultKind.QUOTA),
        ("openai", 422, openai("top_k: not here", param="top_k"), FaultKind.BAD_REQUEST),
        ("ollama", 404, {"error": {"message": 'model "x" not found, try pulling it first'}}, FaultKind.NO_SUCH_MODEL),
        ("ollama", 500, {"error": "out of memory"}, FaultKind.OVERLOADED),
        (
            "anthropic",
            400,
            anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            FaultKind.QUOTA,
        ),
        ("anthropic", 403, anthropic("permission_error", "Not this model"), FaultKind.KEY_REFUSED),
        ("anthropic", 413, anthropic("request_too_large", "Too large"), FaultKind.TOO_LONG),
        ("anthropic", 504, anthropic("timeout_error", "Took too long"), FaultKind.OVERLOADED),
        ("anthropic", 418, anthropic("unheard_of", "Short and stout"), FaultKind.BAD_REQUEST),
        ("gemini", 429, gemini(429, "Quota exceeded", spent("PerMinute"), RETRY), FaultKind.RATE_LIMIT),
        ("gemini", 429, gemini(429, "Quota exceeded", spent("PerDay"), RETRY), FaultKind.QUOTA),
        ("gemini", 429, gemini(429, "Quota exceeded", spent("PerMinute")), FaultKind.QUOTA),
        ("gemini", 429, gemini(429, "Exhausted"), FaultKind.RATE_LIMIT),
        ("gemini", 403, gemini(403, "Unregistered"), FaultKind.KEY_REFUSED),
        ("gemini", 503, [gemini(503, "Overloaded")], FaultKind.OVERLOADED),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_errors_are_known_by_their_words(parrot, *, provider, status, body, kind, is_stream):
    parrot[0].says(status, body)

    fault = await fault_of(parrot, provider, Texts() if is_stream else None)

    assert fault.kind is kind, fault
    assert fault.retry_after_s == (31 if "retryDelay" in str(body) else None)
    assert fault.tokens is None


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param({}, "application/json", id="nothing"),
        pytest.param([], "application/json", id="list"),
        pytest.param(b"null", "application/json", id="null"),
        pytest.param(b'"text"', "application/json", id="text"),
        pytest.param({"choices": [], "content": [], "candidates": []}, "application/json", id="no choices"),
        pytest.param({"choices": [{}], "content": [{}], "candidates": [{}]}, "application/json", id="empty choice"),
        pytest.param({"choices": 1, "content": 1, "candidates": 1}, "application/json", id="other types"),
        pytest.param(b"<html>Log in</html>", "text/html", id="page of HTML"),
        pytest.param(b"\xff\xfe", "application/json", id="no text"),
        pytest.param(b"", "application/json", id="empty"),
    ],
)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_of_another_form_is_malformed(parrot, provider, body, content_type):
    """None of the libraries checks the form, so each of these comes out of them in another way."""
    parrot[0].says(200, body, content_type)

    assert (await fault_of(parrot, provider)).kind is FaultKind.MALFORMED


@pytest.mark.parametrize("code", ["content_policy_violation", "invalid_prompt", "content_filter"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_refusal_by_an_error_is_a_refusal(parrot, code, is_stream):
    """Another model may still write."""
    parrot[0].says(400, openai("Flagged as violating our usage policy.", code))

    reply = await parrot[1].find("openai").chat(request_to("openai"), Texts() if is_stream else None)

    assert (reply.finish, reply.text) == (Finish.REFUSED, "")
    assert "usage policy" in reply.refusal
    assert reply.tokens.is_estimated


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_long_words_are_cut(parrot, provider):
    parrot[0].says(500, b"<html>" + b"word " * 1_000, "text/html")

    assert len((await fault_of(parrot, provider)).problem) <= 300
