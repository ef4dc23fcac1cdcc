"""Anthropic's way of saying things: messages."""

import re
import time
from collections.abc import Mapping
from typing import Any

from standins.provider_limits import LimitState, retry_headers, rfc3339_in
from standins.provider_wire import (
    Asked,
    Block,
    Counted,
    Finish,
    Made,
    Problem,
    Refusal,
    RequestRefused,
    Trouble,
    compact,
    text_of,
)

_WITHOUT_SAMPLING = re.compile(r"claude-(opus-4-[78]|opus-5|sonnet-5|haiku-5|fable|mythos)")
_WITHOUT_PREFILL = re.compile(r"claude-(opus-4-[678]|sonnet-4-6|opus-5|sonnet-5|haiku-5|fable|mythos)")
_WITHOUT_OUTPUT_CONFIG = re.compile(r"claude-3|claude-(opus|sonnet)-4-(0|2025)")
_STATUSES = {
    Trouble.RATE_LIMIT: (429, "rate_limit_error"),
    Trouble.QUOTA: (402, "billing_error"),
    Trouble.OVERLOADED: (529, "overloaded_error"),
    Trouble.SERVER: (500, "api_error"),
    Trouble.KEY: (401, "authentication_error"),
    Trouble.NO_KEY: (401, "authentication_error"),
    Trouble.MODEL: (404, "not_found_error"),
    Trouble.PARAMETER: (400, "invalid_request_error"),
    Trouble.TOO_LONG: (400, "invalid_request_error"),
    Trouble.INVALID: (400, "invalid_request_error"),
}
_MESSAGES = {
    Trouble.RATE_LIMIT: "This request would exceed your account's rate limit. Please try again later.",
    Trouble.QUOTA: "Your credit balance is too low to access the API.",
    Trouble.OVERLOADED: "Overloaded",
    Trouble.SERVER: "Internal server error",
    Trouble.KEY: "invalid bearer token",
    Trouble.NO_KEY: "authentication required: no bearer token was sent",
    Trouble.MODEL: "model: {model}",
    Trouble.PARAMETER: "`{parameter}` is deprecated for this model.",
    Trouble.TOO_LONG: "prompt is too long: 210000 tokens > 200000 maximum",
}


class AnthropicDialect:
    """Says things as Anthropic does."""

    name = "anthropic"
    is_cached_by_mark = True
    uncached_models = re.compile(r"claude-3-sonnet")

    def key_problem(self, headers: Mapping[str, str], accepted_key: str | None) -> Problem | None:
        given = headers.get("Authorization", "")
        if not given.startswith("Bearer "):
            return Problem(trouble=Trouble.NO_KEY)
        if accepted_key is not None and given != f"Bearer {accepted_key}":
            return Problem(trouble=Trouble.KEY)
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", headers.get("anthropic-version", "")):
            return Problem(trouble=Trouble.INVALID, message="anthropic-version: header is required")
        return None

    def asked(self, model: str, body: dict[str, Any], *, is_stream: bool) -> Asked:
        if not body["messages"] or body["messages"][0]["role"] != "user":
            raise RequestRefused(
                Problem(trouble=Trouble.INVALID, message="messages: first message must use the user role")
            )
        form = (body.get("output_config") or {}).get("format") or {}
        schema = form.get("schema")
        blocks = [Block(text=compact(schema).decode())] if schema else []
        blocks += _blocks("system", body.get("system", ""))
        for message in body["messages"]:
            blocks += _blocks(message["role"], message["content"])
        return Asked(
            provider=self.name,
            model=model,
            system=text_of(body.get("system", "")),
            messages=tuple((each["role"], text_of(each["content"])) for each in body["messages"]),
            schema=schema,
            is_json=bool(schema),
            max_output_tokens=body.get("max_tokens"),
            is_stream=is_stream,
            blocks=tuple(blocks),
        )

    def parameter_problem(self, model: str, body: dict[str, Any]) -> Problem | None:
        if "max_tokens" not in body:
            return Problem(trouble=Trouble.INVALID, message="max_tokens: Field required")
        if _WITHOUT_SAMPLING.match(model):
            for name in ("temperature", "top_p", "top_k"):
                if name in body:
                    return Problem(trouble=Trouble.PARAMETER, parameter=name)
        if _WITHOUT_PREFILL.match(model) and body["messages"][-1]["role"] == "assistant":
            message = (
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
            return Problem(trouble=Trouble.INVALID, message=message)
        if _WITHOUT_OUTPUT_CONFIG.match(model) and "output_config" in body:
            return Problem(trouble=Trouble.INVALID, message="output_config: this model does not support output_config.")
        return None

    def answer(self, made: Made) -> dict[str, Any]:
        content = [{"type": "text", "text": made.text}] if made.text else []
        return {**_message(made, content), **_stop(made), "usage": _usage(made.counted)}

    def stream_head(self, made: Made) -> bytes:
        empty = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
        usage = {**_usage(made.counted), "output_tokens": 1}
        head = _event("message_start", {"message": {**_message(made, []), **empty, "usage": usage}})
        if made.text:
            head += _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
        return head + _event("ping", {})

    def stream_piece(self, made: Made, text: str) -> bytes:
        return _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})

    def stream_tail(self, made: Made) -> bytes:
        stop = _event("content_block_stop", {"index": 0}) if made.text else b""
        # The usage at the end counts everything: nothing of it is to be added to that of the beginning.
        last = _event("message_delta", {"delta": _stop(made), "usage": _usage(made.counted)})
        return stop + last + _event("message_stop", {})

    def stream_error(self) -> bytes:
        return _event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})

    def bad_line(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"del\n\n'

    def refusal(self, problem: Problem) -> Refusal:
        status, kind = _STATUSES[problem.trouble]
        usual = _MESSAGES.get(problem.trouble, "").format(model=problem.model, parameter=problem.parameter)
        error = {"type": kind, "message": problem.message or usual}
        form = "seconds" if problem.retry_form == "retry_info" else problem.retry_form
        headers = retry_headers(problem.retry_after_s, form)
        if problem.retry_form == "reset_header" and problem.retry_after_s is not None:
            headers["anthropic-ratelimit-requests-remaining"] = "0"
            headers["anthropic-ratelimit-requests-reset"] = rfc3339_in(problem.retry_after_s)
        return Refusal(
            status=status, body={"type": "error", "error": error, "request_id": _request_id()}, headers=headers
        )

    def headers(self, state: LimitState) -> dict[str, str]:
        named = {"request-id": _request_id()}
        for kind, limit, remaining, reset_s in (
            ("requests", state.request_limit, state.requests_remaining, state.requests_reset_s),
            ("input-tokens", state.token_limit, state.tokens_remaining, state.tokens_reset_s),
            ("output-tokens", state.token_limit, state.token_limit, 0.0),
        ):
            named[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
            named[f"anthropic-ratelimit-{kind}-remaining"] = str(remaining)
            named[f"anthropic-ratelimit-{kind}-reset"] = rfc3339_in(reset_s)
        return named


def _request_id() -> str:
    return f"req_{time.monotonic_ns():x}"


def _blocks(role: str, content: object) -> list[Block]:
    """Return the blocks of a message; the role is part of what is cached."""
    if isinstance(content, str):
        return [Block(text=f"{role}\n{content}\n")] if content else []
    parts = content if isinstance(content, list) else []
    return [Block(text=f"{role}\n{part['text']}\n", is_marked=bool(part.get("cache_control"))) for part in parts]


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + compact({"type": name, **data}) + b"\n\n"


def _message(made: Made, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{made.answer_id}",
        "type": "message",
        "role": "assistant",
        "model": made.model,
        "content": content,
    }


def _stop(made: Made) -> dict[str, Any]:
    reason = {Finish.STOP: "end_turn", Finish.LENGTH: "max_tokens", Finish.REFUSAL: "refusal"}[made.finish]
    details = None
    if made.finish is Finish.REFUSAL:
        details = {"type": "refusal", "category": "frontier_llm", "explanation": made.refusal}
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": details}


def _usage(counted: Counted) -> dict[str, Any]:
    return {
        "input_tokens": counted.input - counted.cached - counted.cache_write,
        "cache_creation_input_tokens": counted.cache_write,
        "cache_read_input_tokens": counted.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counted.cache_write,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": counted.output,
        "output_tokens_details": {"thinking_tokens": counted.reasoning},
        "service_tier": "standard",
    }
