"""Channels to other services: client-side round robin, quick reconnects, retries where repeating is free."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from services.common.telemetry import StreamClientTracing, UnaryClientTracing

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""10,000 vectors of 1024 float32 are 40 MiB; grpc's own default is 4 MiB."""

FREE_TO_REPEAT: Mapping[str, Sequence[str]] = {
    "RetrievalService": ("SearchPapers",),
    "EmbeddingService": ("EmbedPapers", "FindPapers", "EmbedTexts", "ListEncoderCalls", "DeleteEncoderCalls"),
    "OrderingService": ("OrderPapers",),
    "GenerationService": ("PlanSearch", "WriteSection", "WriteFrame", "ListCalls", "DeleteCalls"),
    "SummarizationService": ("SummarizePaper",),
    "SurveyService": ("GetSurvey", "ListSurveys", "WatchSurvey", "CancelSurvey", "EstimateSurvey"),
}
"""Methods whose second execution costs nothing and changes nothing; only these are tried again.

What writes is among them because a recorded model call is not paid for again. A stream is tried again only before its
first message.
"""


def open_channel(target: str) -> grpc.aio.Channel:
    """Return a channel to all addresses behind `target`; it connects when it is first used.

    Args:
        target: "host:port", looked up again as workers come and go, or any gRPC target with its scheme.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(_service_config())),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),  # a restarted service is used again within a second
    ]
    interceptors: list[grpc.aio.ClientInterceptor] = [UnaryClientTracing(), StreamClientTracing()]
    full = target if "://" in target or target.startswith(("unix:", "ipv4:", "ipv6:")) else f"dns:///{target}"
    return grpc.aio.insecure_channel(full, options, interceptors=interceptors)


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
