"""One model as the tasks ask it: paid for, recorded, and held to a form where one is wanted.

What is recorded how: an answer that does not fit its form is recorded like any other, because the correction that
follows holds it and is looked up by it, so a rerun pays for neither. A correction that does not fit either is recorded
as malformed and never served again, so a rerun asks for it anew and is not stuck with it. The same holds for an empty
answer and for one that was cut.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from services.common.paid.caller import Caller, Scope
from services.common.paid.calls import Outcome, PaidCall, PaidCalls, Reply, TextSink
from services.common.paid.faults import REACTIONS, ProviderFault
from services.common.paid.usage import TokenUsage, Usage, summed
from services.common.providers.advice import unusable
from services.common.providers.chat import ChatReply, ChatRequest, Finish, Provider, Turn
from services.generation.llm.leading import Leading

Form = TypeVar("Form", bound=BaseModel)

BYTES_PER_TOKEN = 2
"""For the most a prompt can take: English has about four bytes of UTF-8 a token, Japanese about three."""
OVERHEAD_TOKENS = 200
"""What a provider adds around a prompt, at most."""
MAX_SEED = 2**31
"""Providers take seeds below it."""
_OUTCOMES = {Finish.STOP: Outcome.OK, Finish.LENGTH: Outcome.TRUNCATED, Finish.REFUSED: Outcome.REFUSED}


class Refused(Exception):
    """The model declined to answer; another one may stand in. `usage` was paid all the same."""

    def __init__(self, model: str, reason: str, usage: Usage) -> None:
        super().__init__(f"{model} declined to answer{': ' if reason else ''}{reason[:200]}")
        self.usage = usage


class Unusable(Exception):
    """The model did not answer in the form asked for, not even after it was told what was wrong."""

    def __init__(self, model: str, problem: str, usage: tuple[Usage, ...], text: str = "") -> None:
        super().__init__(f"{model} did not answer in the form asked for: {problem[:300]}")
        self.model = model
        self.usage = usage
        self.text = text
        """Its last answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What a model wrote."""

    text: str
    """May be empty, with nothing but blanks in it."""
    is_truncated: bool
    usage: Usage
    """Of both calls, where the limit on output tokens had to be raised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Formed(Generic[Form]):
    """What a model answered in a form."""

    value: Form
    usage: tuple[Usage, ...]


class Tally:
    """Collects what the answered calls of a task took, so that nothing is lost when the task fails halfway."""

    def __init__(self) -> None:
        self.usages: list[Usage] = []


class ChatModel:
    """Asks one model."""

    def __init__(
        self,
        provider: Provider,
        model: str,
        calls: PaidCalls,
        tally: Tally | None = None,
        leading: Leading | None = None,
    ) -> None:
        """Name the model.

        Args:
            provider: who has it.
            model: its name, without the provider.
            calls: pays and records.
            tally: collects what answered calls took.
            leading: lets the first of many calls with one beginning go ahead.
        """
        self.name = f"{provider.name}:{model}"
        self._provider = provider
        self._model = model
        self._calls = calls
        self._tally = tally
        self._leading = leading or Leading()

    def tallied(self, tally: Tally) -> "ChatModel":
        """Return the same model with a tally of its own, for one task."""
        return ChatModel(self._provider, self._model, self._calls, tally, self._leading)

    async def ask(
        self,
        request: ChatRequest,
        caller: Caller,
        *,
        scope: Scope,
        prompt_id: str,
        sample: str = "",
        sink: TextSink | None = None,
    ) -> Text:
        """Return what the model writes; with a sink, it gets the text as it is written, a recorded one whole.

        An answer of no use because the limit on output tokens cut it (reasoning took all, JSON without its end) is
        asked for once more with twice the limit.

        Args:
            request: what to ask; its model is filled in.
            caller: who pays.
            scope: who may be served the recorded answer.
            prompt_id: of the prompt's template.
            sample: tells apart calls that are to be answered anew.
            sink: takes the pieces.

        Raises:
            Refused: the model declined.
            ProviderFault: it does not answer, and another model may stand in.
            NotReady: it cannot be used; the message names the setting.
            BudgetReached, Unpriced: the caller's purse does not allow it.
        """
        return await self._ask(request, caller, _Call(scope=scope, prompt_id=prompt_id, sample=sample, sink=sink))

    async def ask_form(
        self, request: ChatRequest, form: type[Form], caller: Caller, *, scope: Scope, prompt_id: str, sample: str = ""
    ) -> Formed[Form]:
        """Return the answer as a `form`; one that breaks its rules is sent back once with what is wrong.

        Raises:
            Unusable: the second answer is no better.
            Refused, ProviderFault, NotReady, BudgetReached, Unpriced: as `ask`.
        """
        request = replace(request, schema=form)
        call = _Call(scope=scope, prompt_id=prompt_id, sample=sample)
        first = await self._ask(request, caller, call)
        try:
            return Formed(value=parsed(first.text, form), usage=(first.usage,))
        except ValidationError as error:
            problem = _explained(error)
        correction = f"That does not fit the form: {problem}. Answer again with the corrected JSON only."
        again = replace(request, turns=(*request.turns, Turn(answer=first.text, correction=correction)))
        second = await self._ask(again, caller.for_step("correction"), replace(call, last_form=form))
        usage = summed((first.usage, second.usage))
        try:
            return Formed(value=parsed(second.text, form), usage=usage)
        except ValidationError as error:
            raise Unusable(self.name, _explained(error), usage, second.text) from error

    async def _ask(self, request: ChatRequest, caller: Caller, call: "_Call") -> Text:
        text = await self._ask_once(request, caller, call)
        if not text.is_truncated or (text.text.strip() and request.schema is None):
            return text
        roomier = replace(request, max_output_tokens=2 * request.max_output_tokens)
        again = await self._ask_once(roomier, caller.for_step("more room"), call)
        return replace(again, usage=summed((text.usage, again.usage))[0])

    async def _ask_once(self, request: ChatRequest, caller: Caller, call: "_Call") -> Text:
        request = replace(request, model=self._model, cache_key=caller.survey_id)

        async def send(live: TextSink | None) -> Reply:
            return _reply_of(await self._leading.chat(self._provider, request, live), call.last_form)

        paid = PaidCall(
            model=self.name,
            endpoint=self._provider.endpoint,
            payload=_payload_of(request),
            sample=call.sample,
            scope=Scope.TENANT if caller.is_private else call.scope,
            prompt_id=call.prompt_id,
            worst=_worst_of(request),
            is_json=request.schema is not None,
            seed=request.seed,
            messages=_messages_of(request),
            text_of=_text_of,
        )
        try:
            answer = await self._calls.run(paid, caller, send, call.sink)
        except ProviderFault as fault:
            if REACTIONS[fault.kind].stands_in:
                raise
            raise unusable(fault, self._provider, setting_of(caller.stage)) from fault
        if self._tally is not None:
            self._tally.usages.append(answer.usage)
        body = json.loads(answer.body)
        if answer.outcome is Outcome.REFUSED:
            raise Refused(self.name, body["refusal"], answer.usage)
        text: str = body["text"]
        if answer.is_recorded and call.sink is not None and text:
            call.sink.text(text)
        return Text(text=text, is_truncated=answer.outcome is Outcome.TRUNCATED, usage=answer.usage)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """How a request is paid, recorded and shown."""

    scope: Scope
    prompt_id: str
    sample: str
    sink: TextSink | None = None
    last_form: type[BaseModel] | None = None
    """Form without which the answer is recorded as malformed."""


def parsed(text: str, form: type[Form]) -> Form:
    """Return the JSON of an answer as a form; what stands before and behind its braces is left aside.

    Raises:
        ValidationError: it breaks a rule of the form, or is no JSON.
    """
    start, end = text.find("{"), text.rfind("}")
    return form.model_validate_json(text[start : end + 1] if 0 <= start < end else text)


def setting_of(stage: str) -> str:
    """Return the variable that names the default models of a stage."""
    return f"PAPERROUTE_MODELS__{stage.upper()}"


def _explained(error: ValidationError) -> str:
    problems = [f"{'.'.join(map(str, each['loc'])) or 'answer'}: {each['msg']}" for each in error.errors()[:5]]
    return "; ".join(problems)


def _reply_of(reply: ChatReply, form: type[BaseModel] | None) -> Reply:
    body = {"text": reply.text, "refusal": reply.refusal, "parameters": dict(reply.parameters)}
    outcome = _OUTCOMES[reply.finish]
    if outcome is Outcome.OK and not _is_of_use(reply.text, form):
        outcome = Outcome.MALFORMED
    return Reply(
        body=_encoded(body),
        tokens=reply.tokens,
        outcome=outcome,
        response_id=reply.response_id,
        response_model=reply.model,
        rate=reply.rate,
    )


def _is_of_use(text: str, form: type[BaseModel] | None) -> bool:
    if form is None:
        return bool(text.strip())
    try:
        parsed(text, form)
    except ValidationError:
        return False
    return True


def _messages_of(request: ChatRequest) -> tuple[tuple[str, str], ...]:
    said = [("system", request.system), ("user", request.shared), ("user", request.prompt)]
    for turn in request.turns:
        said += [("assistant", turn.answer), ("user", turn.correction)]
    return tuple((role, text) for role, text in said if text)


def _text_of(body: bytes) -> str:
    """Return what a model said: its text, or why it declined."""
    told = json.loads(body)
    return str(told["text"] or told["refusal"])


def _payload_of(request: ChatRequest) -> bytes:
    """Return whatever decides the answer, in one form."""
    what = {
        "system": request.system,
        "shared": request.shared,
        "prompt": request.prompt,
        "turns": [[turn.answer, turn.correction] for turn in request.turns],
        "schema": request.schema.model_json_schema() if request.schema else None,
        "max_output_tokens": request.max_output_tokens,
        "thinking": request.thinking.value,
        "seed": request.seed,
    }
    return _encoded(what)


def _worst_of(request: ChatRequest) -> TokenUsage:
    return TokenUsage(
        input_tokens=len(_payload_of(request)) // BYTES_PER_TOKEN + OVERHEAD_TOKENS,
        output_tokens=request.max_output_tokens,
        is_estimated=True,
    )


def _encoded(what: Mapping[str, object]) -> bytes:
    """Return canonical JSON; half of a character, as a stream cut in two may leave, becomes a question mark."""
    return json.dumps(what, ensure_ascii=False, sort_keys=True).encode(errors="replace")
