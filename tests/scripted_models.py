"""A provider that answers as it is told, and a ledger in memory: for rules that need no wire."""

from collections.abc import Callable, Sequence
from typing import Any

from services.common.deadlines import Deadline
from services.common.paid.caller import Caller, Purse, Scope
from services.common.paid.calls import Answer, Outcome, PaidCall, PaidCalls, Reply, TextSink
from services.common.paid.usage import TokenUsage, Usage
from services.common.providers.chat import ChatReply, ChatRequest, Finish
from services.generation.llm.chat_model import ChatModel

TOKENS = TokenUsage(input_tokens=100, output_tokens=10)
PRICE = 5
"""Nano-US-dollars of every answered call."""

Told = str | ChatReply | Exception
Script = Sequence[Told] | Callable[[ChatRequest], Told]


def reply(text: str, finish: Finish = Finish.STOP, **fields: Any) -> ChatReply:
    return ChatReply(text=text, finish=finish, tokens=TOKENS, parameters={}, **fields)


CUT = reply("", Finish.LENGTH)
REFUSAL = reply("", Finish.REFUSED, refusal="I would rather not")


class ScriptedProvider:
    """Answers by a list, the last entry for ever, or by a function; an exception is raised."""

    endpoint = "http://scripted"
    key_variable = "SCRIPTED_API_KEY"

    def __init__(self, script: Script, name: str = "scripted") -> None:
        self.name = name
        self.requests: list[ChatRequest] = []
        self._script = script

    async def chat(self, request: ChatRequest, sink: TextSink | None = None) -> ChatReply:
        number = len(self.requests)
        self.requests.append(request)
        told = self._script(request) if callable(self._script) else self._script[min(number, len(self._script) - 1)]
        if isinstance(told, Exception):
            raise told
        answer = reply(told) if isinstance(told, str) else told
        if sink:
            for piece in answer.text.split(" "):
                sink.text(piece + " ")
        return answer

    async def embed(self, model: str, texts: tuple[str, ...], dimension: int) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing was opened."""


class MemoryCalls(PaidCalls):
    """Serves again what was answered well, and holds the caller's purse to `PRICE` a call."""

    def __init__(self) -> None:
        self.recorded: dict[tuple[object, ...], Reply] = {}
        self.calls: list[tuple[PaidCall, Caller]] = []
        """Those that were sent."""

    async def run(self, call: PaidCall, caller: Caller, send: Any, sink: TextSink | None = None) -> Answer:
        tenant = "" if call.scope is Scope.PUBLIC else caller.tenant
        key = (tenant, call.model, call.endpoint, call.payload, call.sample)
        if key in self.recorded:
            return _answer(call, self.recorded[key], is_recorded=True)
        caller.purse.reserve(call.model, PRICE)
        self.calls.append((call, caller))
        answered = await send(sink)
        if answered.outcome is Outcome.OK:
            self.recorded[key] = answered
        return _answer(call, answered, is_recorded=False)


def _answer(call: PaidCall, answered: Reply, *, is_recorded: bool) -> Answer:
    tokens = answered.tokens
    served = Usage(
        model=call.model,
        call_count=0,
        cost_nano_usd=0,
        avoided_cost_nano_usd=PRICE,
        served_call_count=1,
        served_input_tokens=tokens.input_tokens,
        served_output_tokens=tokens.output_tokens,
    )
    paid = Usage(
        model=call.model, input_tokens=tokens.input_tokens, output_tokens=tokens.output_tokens, cost_nano_usd=PRICE
    )
    usage = served if is_recorded else paid
    return Answer(body=answered.body, outcome=answered.outcome, usage=usage, is_recorded=is_recorded)


def model_of(script: Script, *, name: str = "scripted", calls: MemoryCalls | None = None) -> ChatModel:
    """Return a model "NAME:m"; its provider is `provider_of(model)`."""
    return ChatModel(ScriptedProvider(script, name), "m", calls or MemoryCalls())


def provider_of(model: ChatModel) -> ScriptedProvider:
    provider = model._provider
    assert isinstance(provider, ScriptedProvider)
    return provider


def caller_for(stage: str = "plan", *, limit: int | None = None, seconds: float = 60, **fields: Any) -> Caller:
    values = {"tenant": "t", "survey_id": "s", "item": "", **fields}
    return Caller(stage=stage, deadline=Deadline.after(seconds), purse=Purse(limit), **values)


class Sink:
    """Collects what is written."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def text(self, piece: str) -> None:
        self.pieces.append(piece)

    def restart(self, reason: str) -> None:
        self.pieces.clear()
