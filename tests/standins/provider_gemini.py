"""Gemini's way of saying things: content and embeddings."""

import re
from collections.abc import Mapping
from typing import Any

from standins.provider_limits import LimitState, retry_headers
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

MAX_TEXTS, MAX_TEXT_TOKENS = 100, 2_048
_WITHOUT_SAMPLING = re.compile(r"gemini-3\.(5-flash-lite|[678]-flash)")
_WITHOUT_THINKING = re.compile(r"gemini-(1|2\.0)")
_WITHOUT_LEVEL = re.compile(r"gemini-2\.5")
_SAMPLING = ("temperature", "topP", "topK")
_STATUSES = {
    Trouble.RATE_LIMIT: (429, "RESOURCE_EXHAUSTED"),
    Trouble.QUOTA: (429, "RESOURCE_EXHAUSTED"),
    Trouble.OVERLOADED: (503, "UNAVAILABLE"),
    Trouble.SERVER: (500, "INTERNAL"),
    Trouble.KEY: (400, "INVALID_ARGUMENT"),
    Trouble.NO_KEY: (403, "PERMISSION_DENIED"),
    Trouble.MODEL: (404, "NOT_FOUND"),
    Trouble.PARAMETER: (400, "INVALID_ARGUMENT"),
    Trouble.TOO_LONG: (400, "INVALID_ARGUMENT"),
    Trouble.INVALID: (400, "INVALID_ARGUMENT"),
}
_MESSAGES = {
    Trouble.RATE_LIMIT: "Resource has been exhausted (e.g. check quota).",
    Trouble.QUOTA: "You exceeded your current quota, please check your plan and billing details.",
    Trouble.OVERLOADED: "The model is overloaded. Please try again later.",
    Trouble.SERVER: "An internal error has occurred.",
    Trouble.KEY: "API key not valid. Please pass a valid API key.",
    Trouble.NO_KEY: "Method doesn't allow unregistered callers (callers without established identity).",
    Trouble.MODEL: "models/{model} is not found for API version v1, or is not supported for generateContent.",
    Trouble.PARAMETER: "{parameter} is not supported for this model.",
    Trouble.TOO_LONG: "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
}


class GeminiDialect:
    """Says things as Gemini does."""

    name = "gemini"
    is_cached_by_mark = False
    uncached_models = re.compile(r"gemini-(1|2\.0)")

    def key_problem(self, headers: Mapping[str, str], accepted_key: str | None) -> Problem | None:
        given = headers.get("x-goog-api-key", "")
        if accepted_key is None or given == accepted_key:
            return None
        return Problem(trouble=Trouble.KEY if given else Trouble.NO_KEY)

    def asked(self, model: str, body: dict[str, Any], *, is_stream: bool) -> Asked:
        config = body.get("generationConfig") or {}
        schema = config.get("responseJsonSchema") or config.get("responseSchema")
        system = text_of((body.get("systemInstruction") or {}).get("parts"))
        messages = [(_role(each), text_of(each["parts"])) for each in body["contents"]]
        blocks = [Block(text=compact(schema).decode())] if schema else []
        blocks += [Block(text=f"system\n{system}\n")] if system else []
        blocks += [Block(text=f"{role}\n{text}\n") for role, text in messages]
        return Asked(
            provider=self.name,
            model=model,
            system=system,
            messages=tuple(messages),
            schema=schema,
            is_json=config.get("responseMimeType") == "application/json",
            max_output_tokens=config.get("maxOutputTokens"),
            is_stream=is_stream,
            blocks=tuple(blocks),
        )

    def parameter_problem(self, model: str, body: dict[str, Any]) -> Problem | None:
        config = body.get("generationConfig") or {}
        thinking = config.get("thinkingConfig") or {}
        if _WITHOUT_SAMPLING.match(model):
            for name in _SAMPLING:
                if name in config:
                    return Problem(trouble=Trouble.PARAMETER, parameter=name)
        if _WITHOUT_THINKING.match(model) and thinking:
            return Problem(trouble=Trouble.PARAMETER, parameter="thinkingConfig")
        if _WITHOUT_LEVEL.match(model) and "thinkingLevel" in thinking:
            return Problem(trouble=Trouble.PARAMETER, parameter="thinkingLevel")
        return None

    def embedded(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Return the answer to a request for one embedding or for a batch, and its tokens."""
        if "requests" not in body:
            vector, tokens = _embedding(body)
            return {"embedding": vector}, tokens
        if not 0 < len(body["requests"]) <= MAX_TEXTS:
            message = f"BatchEmbedContentsRequest.requests: at most {MAX_TEXTS} requests can be in one batch"
            raise RequestRefused(Problem(trouble=Trouble.INVALID, message=message))
        made = [_embedding(each) for each in body["requests"]]
        return {"embeddings": [vector for vector, _ in made]}, sum(tokens for _, tokens in made)

    def answer(self, made: Made) -> dict[str, Any]:
        if made.finish is Finish.REFUSAL:
            return {**_tail(made), "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        content: dict[str, Any] = {"role": "model"}
        if made.text:
            content["parts"] = [{"text": made.text}]
        candidate = {"content": content, "index": 0, "finishReason": _reason(made)}
        return {"candidates": [candidate], **_tail(made)}

    def stream_head(self, made: Made) -> bytes:
        return b""

    def stream_piece(self, made: Made, text: str) -> bytes:
        content = {"role": "model", "parts": [{"text": text}]}
        usage = {"promptTokenCount": made.counted.input, "totalTokenCount": made.counted.input}
        return _event(
            {"candidates": [{"content": content, "index": 0}], **_name(made), "usageMetadata": usage},
        )

    def stream_tail(self, made: Made) -> bytes:
        if made.finish is Finish.REFUSAL:
            return _event(self.answer(made))
        content = {"role": "model", "parts": [{"text": ""}]}
        return _event({"candidates": [{"content": content, "index": 0, "finishReason": _reason(made)}], **_tail(made)})

    def stream_error(self) -> bytes:
        return _event(self.refusal(Problem(trouble=Trouble.OVERLOADED)).body)

    def bad_line(self) -> bytes:
        return b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n'

    def refusal(self, problem: Problem) -> Refusal:
        code, status = _STATUSES[problem.trouble]
        usual = _MESSAGES.get(problem.trouble, "").format(model=problem.model, parameter=problem.parameter)
        error = {
            "code": code,
            "message": problem.message or usual,
            "status": status,
            "details": _details(problem),
        }
        return Refusal(
            status=code,
            body={"error": error},
            headers=retry_headers(problem.retry_after_s, problem.retry_form),
        )

    def headers(self, state: LimitState) -> dict[str, str]:
        return {}  # Gemini says nothing of its limits


def _role(content: dict[str, Any]) -> str:
    return "assistant" if content.get("role") == "model" else "user"


def _reason(made: Made) -> str:
    return "MAX_TOKENS" if made.finish is Finish.LENGTH else "STOP"


def _name(made: Made) -> dict[str, Any]:
    return {"modelVersion": made.model, "responseId": made.answer_id}


def _tail(made: Made) -> dict[str, Any]:
    return {"usageMetadata": _usage(made.counted), **_name(made)}


def _usage(counted: Counted) -> dict[str, Any]:
    """Return the counts: the cached ones are part of the prompt's, the thoughts are beside the candidates'."""
    usage = {
        "promptTokenCount": counted.input,
        "candidatesTokenCount": counted.output - counted.reasoning,
        "totalTokenCount": counted.input + counted.output,
    }
    if counted.cached:
        usage["cachedContentTokenCount"] = counted.cached
    if counted.reasoning:
        usage["thoughtsTokenCount"] = counted.reasoning
    return usage


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + compact(data) + b"\r\n\r\n"


def _details(problem: Problem) -> list[dict[str, Any]]:
    kind = "type.googleapis.com/google.rpc."
    details: list[dict[str, Any]] = []
    if problem.trouble is Trouble.KEY:
        reason = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        details.append({"@type": f"{kind}ErrorInfo", **reason})
    if problem.trouble is Trouble.QUOTA:
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
            "quotaId": "GenerateRequestsPerDayPerProjectPerModel",
        }
        details.append({"@type": f"{kind}QuotaFailure", "violations": [violation]})
    if problem.retry_after_s is not None and problem.retry_form in {"retry_info", "reset_header"}:
        details.append({"@type": f"{kind}RetryInfo", "retryDelay": f"{problem.retry_after_s:g}s"})
    return details


def _embedding(request: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return one vector and its tokens; a longer text is cut without a word, a shortened vector is not of length 1."""
    text = text_of(request["content"]["parts"])
    dimension = request.get("outputDimensionality", FULL_DIMENSION)
    values = hashed_vector(text, dimension, is_normalized=False)
    return {"values": values}, min(tokens_in(text), MAX_TEXT_TOKENS)
