"""Calls to models as telemetry has them: the span of each, over all its attempts, and its part in the metrics.

What a call cost is told row by row, as the ledger writes it, so that spans, metrics and the ledger say the same.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.common.errors import NotReady, UpstreamFailed
from services.common.paid.faults import ProviderFault
from services.common.telemetry import metrics, names
from services.common.telemetry.spans import NANO, begun

if TYPE_CHECKING:
    from services.common.paid.caller import Caller
    from services.common.paid.calls import Answer, PaidCall, Reply
    from services.common.paid.usage import TokenUsage

PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}
"""What the conventions call our providers. Servers of the operator's own are "custom"."""
FINISH_REASONS = {"truncated": "length", "refused": "content_filter"}
"""Why an answer of an outcome ended; all others ended by themselves."""
SERVED, FAILED, LOST = "served", "failed", "lost"
PORTS = {"https": 443, "http": 80}
MAX_NAME_CHARACTERS = 300
"""Of what a provider calls its answer."""
_FAULTS = (ProviderFault, NotReady, UpstreamFailed)
"""Errors of calls that could not be made; any other one says that a call was not to be made."""

Attributes = dict[str, str | int | float | bool | list[str]]


class _Content:
    is_shown = False


def trace_content(is_on: bool) -> None:
    """Let spans of model calls hold prompts and answers from now on, or not."""
    _Content.is_shown = is_on


class ModelCall:
    """One call, from the moment somebody asks for it to its end, whether or not anybody still waits for it.

    It begins when it is made and ends with `served`, `answered`, or with what passes through `under_way`.
    """

    def __init__(self, call: "PaidCall", caller: "Caller", *, is_stream: bool) -> None:
        """Begin.

        Args:
            call: what is asked.
            caller: for whom.
            is_stream: whether the text is wanted as it is written.
        """
        self._call = call
        self._caller = caller
        self._operation = "embeddings" if call.dimension else "chat"
        self._began_s = time.monotonic()
        self._attempt_count = 0
        self._fault = ""  # of the last attempt
        self._broke_s = 0.0
        self._is_lost = False
        self._first_chunk_s: float | None = None
        self._bill = _Bill()
        self._span = begun(f"{self._operation} {_model_in(call.model)}", SpanKind.CLIENT)
        if self._span.is_recording():
            self._span.set_attributes(self._asked(is_stream=is_stream))

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Hold the span as the current one; what is raised ends the call."""
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except BaseException as error:
                self._failed(error)
                raise

    def attempted(self) -> None:
        """Note that an attempt begins."""
        self._attempt_count += 1
        if self._attempt_count > 1 and self._span.is_recording():
            waited_s = time.monotonic() - self._broke_s
            about: Attributes = {names.ERROR_TYPE: self._fault, names.ATTEMPT: self._attempt_count}
            self._span.add_event(names.RETRY, about | {names.WAIT_S: waited_s})

    def broke(self, fault: ProviderFault) -> None:
        """Note that an attempt brought no answer."""
        self._fault, self._broke_s = _kind_of(fault), time.monotonic()
        named = {names.MODEL: metrics.models.of(self._call.model), names.ERROR_TYPE: self._fault}
        metrics.retries.add(1, named)

    def first_chunk(self, after_s: float) -> None:
        """Note when the answer began, in seconds from the beginning of its attempt."""
        self._first_chunk_s = after_s

    def billed(self, tokens: "TokenUsage", cost_nano_usd: int | None, *, is_estimated: bool) -> None:
        """Count a row of the ledger that is part of the bill.

        Args:
            tokens: what it took.
            cost_nano_usd: what it cost; where nobody knows, its worst case; None where the price is unknown.
            is_estimated: whether tokens or cost are not the provider's word.
        """
        self._bill.add(tokens, cost_nano_usd, is_estimated=is_estimated)

    def lost(self) -> None:
        """Note that the call goes down with the process: its end will not be known."""
        self._is_lost = True

    def served(self, answer: "Answer") -> None:
        """End with an answer of the ledger."""
        avoided_usd = answer.usage.avoided_cost_nano_usd / NANO
        named = self._named()
        metrics.calls.add(1, named | {names.OUTCOME: SERVED})
        if avoided_usd:
            metrics.avoided_cost.add(avoided_usd, named)
        if self._span.is_recording():
            self._span.set_attributes({names.OUTCOME: SERVED, names.AVOIDED_COST_USD: avoided_usd})
            self._show(answer.body, answer.outcome.value)
        self._span.end()

    def answered(self, reply: "Reply") -> None:
        """End with an answer that was sent for."""
        outcome = reply.outcome.value
        self._measure(outcome, {})
        if self._span.is_recording():
            self._span.set_attributes({names.OUTCOME: outcome, **_named_in(reply), **self._bill.attributes(self._call)})
            if self._operation == "chat":
                self._span.set_attribute(names.FINISH_REASONS, [FINISH_REASONS.get(outcome, "stop")])
            if self._first_chunk_s is not None:
                self._span.set_attribute(names.RESPONSE_FIRST_CHUNK_S, self._first_chunk_s)
            self._show(reply.body, outcome)
        self._span.end()

    def _failed(self, error: BaseException) -> None:
        """End without an answer; a call that was never to be made, as beyond a budget, is no call in the metrics."""
        outcome = LOST if self._is_lost else FAILED
        is_call = self._attempt_count > 0 or isinstance(error, _FAULTS)
        kind = _kind_of(error)
        if is_call:
            self._measure(outcome, {names.ERROR_TYPE: kind})
        if self._span.is_recording():
            ended = {names.OUTCOME: outcome} if is_call else {}
            self._span.set_attributes({names.ERROR_TYPE: kind, **ended, **self._bill.attributes(self._call)})
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _measure(self, outcome: str, error: Mapping[str, str]) -> None:
        named = self._named()
        metrics.calls.add(1, named | {names.OUTCOME: outcome})
        asked = named | {
            names.OPERATION_NAME: self._operation,
            names.PROVIDER_NAME: _provider_of(self._call.model),
            names.REQUEST_MODEL: _model_in(named[names.MODEL]),
        }
        metrics.operation_duration.record(time.monotonic() - self._began_s, {**asked, **error})
        if self._first_chunk_s is not None:
            metrics.time_to_first_chunk.record(self._first_chunk_s, asked)
        bill = self._bill
        if bill.input_tokens:
            metrics.token_usage.record(bill.input_tokens, asked | {names.TOKEN_TYPE: "input"})
        if bill.output_tokens:
            metrics.token_usage.record(bill.output_tokens, asked | {names.TOKEN_TYPE: "output"})
        if bill.cost_nano_usd is not None:
            metrics.cost.add(bill.cost_nano_usd / NANO, named)
        if bill.is_unpriced:
            metrics.calls_unpriced.add(1, {names.MODEL: named[names.MODEL]})

    def _named(self) -> dict[str, str]:
        return {names.STAGE: self._caller.stage, names.MODEL: metrics.models.of(self._call.model)}

    def _asked(self, *, is_stream: bool) -> Attributes:
        call, caller = self._call, self._caller
        asked: Attributes = {
            names.OPERATION_NAME: self._operation,
            names.PROVIDER_NAME: _provider_of(call.model),
            names.REQUEST_MODEL: _model_in(call.model),
            names.MODEL: call.model,
            names.STAGE: caller.stage,
            names.SURVEY_ID: caller.survey_id,
            names.TENANT: caller.tenant,
            names.ITEM: caller.item,
            names.PROMPT_ID: call.prompt_id,
            **_server_of(call.endpoint),
        }
        if call.dimension:
            return asked | {names.EMBEDDING_DIMENSION: call.dimension}
        asked[names.REQUEST_MAX_TOKENS] = call.worst.output_tokens
        asked[names.OUTPUT_TYPE] = "json" if call.is_json else "text"
        asked[names.REQUEST_STREAM] = is_stream
        if call.seed is not None:
            asked[names.REQUEST_SEED] = call.seed
        if _Content.is_shown:
            asked[names.INPUT_MESSAGES] = _messages_of(call)
        return asked

    def _show(self, body: bytes, outcome: str) -> None:
        if _Content.is_shown and self._operation == "chat":
            part = {"type": "text", "content": self._call.text_of(body)}
            reason = FINISH_REASONS.get(outcome, "stop")
            self._span.set_attribute(
                names.OUTPUT_MESSAGES, _json([{"role": "assistant", "parts": [part], "finish_reason": reason}])
            )


class _Bill:
    """What the rows of a call come to."""

    def __init__(self) -> None:
        self.cost_nano_usd: int | None = None
        self.is_unpriced = False
        self.input_tokens = self.output_tokens = 0
        self._row_count = 0
        self._is_estimated = False
        self._cached = self._written = self._reasoning = 0

    def add(self, tokens: "TokenUsage", cost_nano_usd: int | None, *, is_estimated: bool) -> None:
        """Count a row."""
        self._row_count += 1
        self._is_estimated |= is_estimated
        self.input_tokens += tokens.input_tokens
        self.output_tokens += tokens.output_tokens
        self._cached += tokens.cached_input_tokens
        self._written += tokens.cache_write_tokens
        self._reasoning += tokens.reasoning_tokens
        if cost_nano_usd is None:
            self.is_unpriced = True
        else:
            self.cost_nano_usd = (self.cost_nano_usd or 0) + cost_nano_usd

    def attributes(self, call: "PaidCall") -> Attributes:
        """Return it as a span has it; nothing of a call that took nothing."""
        if not self._row_count:
            return {}
        found: Attributes = {
            names.CALL_COUNT: self._row_count,
            names.INPUT_TOKENS: self.input_tokens,
            names.OUTPUT_TOKENS: self.output_tokens,
            names.CACHE_READ_TOKENS: self._cached,
            names.CACHE_WRITE_TOKENS: self._written,
            names.REASONING_TOKENS: self._reasoning,
            names.IS_ESTIMATED: self._is_estimated,
        }
        if self.cost_nano_usd is not None:
            found[names.COST_USD] = self.cost_nano_usd / NANO
        if self.is_unpriced:
            found[names.UNPRICED] = [call.model]
        return found


def _provider_of(model: str) -> str:
    return PROVIDERS.get(model.partition(":")[0], "custom")


def _model_in(model: str) -> str:
    """Return a model's name without its provider; all of what is no "provider:model"."""
    return model.partition(":")[2] or model


@lru_cache(maxsize=64)
def _server_of(endpoint: str) -> Mapping[str, str | int]:
    parts = urlsplit(endpoint)
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:  # no such port: the call itself will say so
        port = None
    return {names.SERVER_ADDRESS: parts.hostname, names.SERVER_PORT: port} if parts.hostname and port else {}


def _named_in(reply: "Reply") -> Attributes:
    """Return what a provider calls its answer and its model, in characters that can be sent on."""
    told = {names.RESPONSE_ID: reply.response_id, names.RESPONSE_MODEL: reply.response_model}
    return {name: _sendable(text)[:MAX_NAME_CHARACTERS] for name, text in told.items() if text}


def _kind_of(error: BaseException) -> str:
    """Return the kind of a fault, "rate_limit", or the name of an error: few values, and none of an error's words."""
    return error.kind.name.lower() if isinstance(error, ProviderFault) else type(error).__name__


def _messages_of(call: "PaidCall") -> str:
    """Return what is asked as the convention has it; what one says in a row is one message."""
    messages: list[dict[str, object]] = []
    parts: list[dict[str, str]] = []
    for role, text in call.messages:
        if not messages or messages[-1]["role"] != role:
            parts = []
            messages.append({"role": role, "parts": parts})
        parts.append({"type": "text", "content": text})
    return _json(messages)


def _json(what: object) -> str:
    return _sendable(json.dumps(what, ensure_ascii=False))


def _sendable(text: str) -> str:
    """Return a text without halves of characters: an exporter would drop all spans that go with it."""
    return text.encode(errors="replace").decode()
