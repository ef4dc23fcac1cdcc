"""OpenAI's way of saying things: chat completions and embeddings."""

import base64
import re
import struct
import time
from collections.abc import Mapping
from typing import Any

from standins.provider_limits import LimitState, go_duration, retry_headers
from standins.provider_vectors import FULL_DIMENSION, hashed_vector
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
    tokens_in,
)

MAX_TEXTS, MAX_TEXT_TOKENS, MAX_REQUEST_TOKENS = 2_048, 8_192, 300_000
_REASONING = re.compile(r"gpt-[5-9]|o[1-9]")
_NO_EFFORT_BY_DEFAULT = re.compile(r"gpt-5\.4(-mini)?$")
_NEVER_WITHOUT_EFFORT = re.compile(r"gpt-5(-|$)|gpt-5\.\d-pro|gpt-6-astra|gpt-6\.1-sol|o[1-9]")
_WITHOUT_SCHEMA = re.compile(r"gpt-3\.5|gpt-4-|gpt-4o-2024-05-13")
_STATUSES = {
    Trouble.RATE_LIMIT: (429, "requests", "rate_limit_exceeded"),
    Trouble.QUOTA: (429, "insufficient_quota", "insufficient_quota"),
    Trouble.OVERLOADED: (503, "service_unavailable_error", None),
    Trouble.SERVER: (500, "server_error", None),
    Trouble.KEY: (401, "invalid_request_error", "invalid_api_key"),
    Trouble.NO_KEY: (401, "invalid_request_error", None),
    Trouble.MODEL: (404, "invalid_request_error", "model_not_found"),
    Trouble.PARAMETER: (400, "invalid_request_error", "unsupported_value"),
    Trouble.TOO_LONG: (400, "invalid_request_error", "context_length_exceeded"),
    Trouble.INVALID: (400, "invalid_request_error", None),
}
_MESSAGES = {
    Trouble.RATE_LIMIT: "Rate limit reached for {model} on requests per min (RPM). Please try again later.",
    Trouble.QUOTA: "You exceeded your current quota, please check your plan and billing details.",
    Trouble.OVERLOADED: "The server is currently overloaded with other requests. Please try again later.",
    Trouble.SERVER: "The server had an error while processing your request.",
    Trouble.KEY: "Incorrect API key provided: wro**key.",
    Trouble.NO_KEY: "You didn't provide an API key.",
    Trouble.MODEL: "The model `{model}` does not exist or you do not have access to it.",
    Trouble.PARAMETER: (
        "Unsupported value: '{parameter}' does not support this value with this model. Only the default is supported."
    ),
    Trouble.TOO_LONG: "This model's maximum context length is 128000 tokens. Please reduce the length of the messages.",
}


class OpenAiDialect:
    """Says things as OpenAI does."""

    name = "openai"
    is_cached_by_mark = False
    uncached_models = re.compile(r"gpt-3\.5|gpt-4-|gpt-4o-2024-05-13")

    def key_problem(self, headers: Mapping[str, str], accepted_key: str | None) -> Problem | None:
        given = headers.get("Authorization", "")
        if accepted_key is None or given == f"Bearer {accepted_key}":
            return None
        return Problem(trouble=Trouble.KEY if given.startswith("Bearer ") else Trouble.NO_KEY)

    def asked(self, model: str, body: dict[str, Any], *, is_stream: bool) -> Asked:
        messages = [(each["role"], text_of(each["content"])) for each in body["messages"]]
        form = body.get("response_format") or {}
        schema = form["json_schema"]["schema"] if form.get("type") == "json_schema" else None
        # A schema stands before everything else in what is cached.
        blocks = [Block(text=compact(schema).decode())] if schema else []
        blocks += [Block(text=f"{role}\n{text}\n") for role, text in messages]
        return Asked(
            provider=self.name,
            model=model,
            system="\n\n".join(text for role, text in messages if role in {"system", "developer"}),
            messages=tuple((role, text) for role, text in messages if role in {"user", "assistant"}),
            schema=schema,
            is_json=form.get("type") in {"json_schema", "json_object"},
            max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            is_stream=is_stream,
            includes_usage=not is_stream or bool((body.get("stream_options") or {}).get("include_usage")),
            blocks=tuple(blocks),
        )

    def parameter_problem(self, model: str, body: dict[str, Any]) -> Problem | None:
        if _WITHOUT_SCHEMA.match(model) and (body.get("response_format") or {}).get("type") == "json_schema":
            message = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
            return Problem(trouble=Trouble.PARAMETER, parameter="response_format", message=message, code="")
        if not _REASONING.match(model):
            return _unknown("reasoning_effort") if "reasoning_effort" in body else None
        return _reasoning_problem(model, body)

    def embedded(self, model: str, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Return the answer to an embeddings request and its tokens."""
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        tokens = [tokens_in(text) for text in texts]
        _check_texts(texts, tokens)
        full = 1_536 if "small" in model else FULL_DIMENSION
        dimension = body.get("dimensions", full)
        data = []
        for index, text in enumerate(texts):
            vector: list[float] | str = hashed_vector(text, dimension, is_normalized=True)
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{dimension}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        return {"object": "list", "data": data, "model": model, "usage": usage}, sum(tokens)

    def answer(self, made: Made) -> dict[str, Any]:
        message = {"role": "assistant", "content": made.text, "refusal": None, "annotations": []}
        if made.finish is Finish.REFUSAL:
            message |= {"content": None, "refusal": made.refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(made)}
        return {**_head(made, "chat.completion"), "choices": [choice], "usage": _usage(made.counted)}

    def stream_head(self, made: Made) -> bytes:
        return _chunk(made, {"role": "assistant", "content": "", "refusal": None}, obfuscation="aB3")

    def stream_piece(self, made: Made, text: str) -> bytes:
        return _chunk(made, {"content": text})

    def stream_tail(self, made: Made) -> bytes:
        refused = _chunk(made, {"refusal": made.refusal}) if made.finish is Finish.REFUSAL else b""
        tail = refused + _chunk(made, {}, reason=_reason(made))
        if made.includes_usage:
            last = {**_head(made, "chat.completion.chunk"), "choices": [], "usage": _usage(made.counted)}
            tail += b"data: " + compact(last) + b"\n\n"
        return tail + b"data: [DONE]\n\n"

    def stream_error(self) -> bytes:
        error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
        return b"data: " + compact({"error": error}) + b"\n\n"

    def bad_line(self) -> bytes:
        return b'data: {"id":"chatcmpl-1","choices":[{"delta":{"con\n\n'

    def refusal(self, problem: Problem) -> Refusal:
        status, kind, code = _STATUSES[problem.trouble]
        usual = _MESSAGES.get(problem.trouble, "").format(model=problem.model, parameter=problem.parameter)
        error = {
            "message": problem.message or usual,
            "type": kind,
            "param": problem.parameter or None,
            "code": (problem.code or None) if problem.code is not None else code,
        }
        headers = retry_headers(problem.retry_after_s, _form(problem))
        if problem.retry_form == "reset_header" and problem.retry_after_s is not None:
            headers["x-ratelimit-remaining-requests"] = "0"
            headers["x-ratelimit-reset-requests"] = go_duration(problem.retry_after_s)
        return Refusal(status=status, body={"error": error}, headers=headers)

    def headers(self, state: LimitState) -> dict[str, str]:
        return {
            "x-request-id": f"req_{time.monotonic_ns():x}",
            "openai-processing-ms": "1",
            "x-ratelimit-limit-requests": str(state.request_limit),
            "x-ratelimit-remaining-requests": str(state.requests_remaining),
            "x-ratelimit-reset-requests": go_duration(state.requests_reset_s),
            "x-ratelimit-limit-tokens": str(state.token_limit),
            "x-ratelimit-remaining-tokens": str(state.tokens_remaining),
            "x-ratelimit-reset-tokens": go_duration(state.tokens_reset_s),
        }


def _form(problem: Problem) -> str:
    """Return the form of the waiting time; the one that only Gemini has becomes seconds."""
    return "seconds" if problem.retry_form == "retry_info" else problem.retry_form


def _reason(made: Made) -> str:
    return "length" if made.finish is Finish.LENGTH else "stop"


def _head(made: Made, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{made.answer_id}",
        "object": kind,
        "created": int(time.time()),
        "model": made.model,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _chunk(made: Made, delta: dict[str, Any], reason: str | None = None, obfuscation: str = "") -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    chunk = {**_head(made, "chat.completion.chunk"), "choices": [choice]}
    if made.includes_usage:
        chunk["usage"] = None
    if obfuscation:
        chunk["obfuscation"] = obfuscation
    return b"data: " + compact(chunk) + b"\n\n"


def _usage(counted: Counted) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.input,
        "completion_tokens": counted.output,
        "total_tokens": counted.input + counted.output,
        "prompt_tokens_details": {
            "cached_tokens": counted.cached,
            "cache_write_tokens": counted.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counted.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _reasoning_problem(model: str, body: dict[str, Any]) -> Problem | None:
    """Return the first parameter that a reasoning model does not take."""
    if "max_tokens" in body:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        code = "unsupported_parameter"
        return Problem(trouble=Trouble.PARAMETER, parameter="max_tokens", message=message, code=code)
    effort = body.get("reasoning_effort") or ("none" if _NO_EFFORT_BY_DEFAULT.match(model) else "medium")
    if effort == "none" and _NEVER_WITHOUT_EFFORT.match(model):
        return _unsupported("reasoning_effort", effort)
    for name in ("temperature", "top_p"):
        if body.get(name, 1) != 1 and effort != "none":
            return _unsupported(name, body[name])
    return None


def _unsupported(parameter: str, value: object) -> Problem:
    message = (
        f"Unsupported value: '{parameter}' does not support {value} with this model. "
        "Only the default (1) value is supported."
    )
    return Problem(trouble=Trouble.PARAMETER, parameter=parameter, message=message)


def _unknown(parameter: str) -> Problem:
    message = f"Unrecognized request argument supplied: {parameter}"
    return Problem(trouble=Trouble.INVALID, message=message)


def _check_texts(texts: list[str], tokens: list[int]) -> None:
    problem = ""
    if not texts or not all(texts):
        problem = "'$.input' is invalid. Please check the API reference."
    elif len(texts) > MAX_TEXTS:
        problem = f"'$.input' is invalid: at most {MAX_TEXTS} items."
    elif max(tokens) > MAX_TEXT_TOKENS:
        problem = (
            f"This model's maximum context length is {MAX_TEXT_TOKENS} tokens, however you requested {max(tokens)}."
        )
    elif sum(tokens) > MAX_REQUEST_TOKENS:
        problem = f"Requested {sum(tokens)} tokens, max {MAX_REQUEST_TOKENS} tokens per request."
    if problem:
        raise RequestRefused(Problem(trouble=Trouble.INVALID, message=problem))
