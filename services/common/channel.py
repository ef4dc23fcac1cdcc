"""Channels to other services: client-side round robin, quick reconnects, retries where repeating is free."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from pydantic import SecretStr

from services.common.addresses import is_loopback_target
from services.common.guards import SERVICE_TOKEN_KEY
from services.common.settings import PREFIX, ClientSettings, SettingsError
from services.common.telemetry.propagation import StreamClientTracing, UnaryClientTracing
from services.common.tls import client_credentials

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""10,000 vectors of 1024 float32 are 40 MiB; grpc's own default is 4 MiB."""

FREE_TO_REPEAT: Mapping[str, Sequence[str]] = {
    "RetrievalService": ("SearchPapers",),
    "EmbeddingService": ("EmbedPapers", "FindPapers", "EmbedTexts", "ListEncoderCalls", "DeleteEncoderCalls"),
    "OrderingService": ("OrderPapers",),
    "GenerationService": ("PlanSearch", "WriteSection", "WriteFrame", "ListCalls", "DeleteCalls"),
    "SummarizationService": ("SummarizePaper",),
    "SurveyService": ("GetSurvey", "ListSurveys", "WatchSurvey", "CancelSurvey", "EstimateSurvey"),
    "UsageService": ("QueryUsage",),
    "AdminService": ("ListTenants", "UpdateTenant", "ListTokens", "RevokeToken", "ListAuditEvents"),
}
"""Methods whose second execution costs nothing and changes nothing; only these are tried again.

What writes is among them because a recorded model call is not paid for again. A stream is tried again only before its
first message.
"""


def open_channel(
    target: str, *, service_token: SecretStr | None = None, client: ClientSettings | None = None
) -> grpc.aio.Channel:
    """Return a channel to all addresses behind `target`; it connects when it is first used.

    Args:
        target: "host:port", looked up again as workers come and go, or any gRPC target with its scheme.
        service_token: what a service shows to another one; None shows nothing.
        client: certificates and token of a client of a gateway; None encrypts nothing and shows nothing.

    Raises:
        SettingsError: the client's settings cannot be used, or would send its token where others can read it.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(_service_config())),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),  # a restarted service is used again within a second
        # What another channel met at an address, perhaps before its port had a new owner, is not taken over.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if is_loopback_target(target):  # else a proxy of the environment would be asked for this very machine
        options.append(("grpc.enable_http_proxy", 0))
    interceptors: list[grpc.aio.ClientInterceptor] = [UnaryClientTracing(), StreamClientTracing()]
    credentials = client_credentials(client) if client else None
    headers = [(SERVICE_TOKEN_KEY, service_token.get_secret_value())] if service_token else []
    if client and client.token:
        _require_private(target, client, is_encrypted=credentials is not None)
        headers.append(("authorization", f"Bearer {client.token.get_secret_value()}"))
    if headers:
        interceptors += [_UnaryHeaders(headers), _StreamHeaders(headers)]
    full = target if "://" in target or target.startswith(("unix:", "ipv4:", "ipv6:")) else f"dns:///{target}"
    if credentials:
        return grpc.aio.secure_channel(full, credentials, options, interceptors=interceptors)
    return grpc.aio.insecure_channel(full, options, interceptors=interceptors)


def _require_private(target: str, client: ClientSettings, *, is_encrypted: bool) -> None:
    if not (is_encrypted or client.allow_insecure_token or is_loopback_target(target)):
        raise SettingsError(
            [
                f"{PREFIX}TOKEN: not sent to {target} without encryption; set {PREFIX}CA to the certificates it is "
                f'checked with, or to "system", or {PREFIX}ALLOW_INSECURE_TOKEN=true where the network is protected'
            ]
        )


class _Headers:
    """Puts headers into the metadata of calls whose request is one message, as all of ours are."""

    def __init__(self, headers: Sequence[tuple[str, str]]) -> None:
        self._headers = headers

    def _with_headers(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._headers)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


class _UnaryHeaders(_Headers, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(details), request)


class _StreamHeaders(_Headers, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(details), request)


def _service_config() -> dict[str, Any]:
    names = [
        {"service": f"paperroute.v1.{service}", "method": method}
        for service, methods in FREE_TO_REPEAT.items()
        for method in methods
    ]
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": retry}],
    }
