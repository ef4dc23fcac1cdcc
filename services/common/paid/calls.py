"""Paid calls: looked up in the ledger, priced, held to a budget, governed, sent, recorded.

Generation and embedding use it alike.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from services.common.errors import UpstreamFailed
from services.common.paid.caller import Caller, Scope
from services.common.paid.faults import FaultKind, ProviderFault, RateState
from services.common.paid.ledger import Ledger, key_of
from services.common.paid.ledger_values import Busy, CallPage, Claimed, Recorded, payer_of
from services.common.paid.prices import PriceBook
from services.common.paid.sending import Sending, worst_of
from services.common.paid.usage import TokenUsage, Usage
from services.common.paid.wanted import Wanted
from services.common.telemetry.model_calls import ModelCall

if TYPE_CHECKING:
    from services.common.paid.governor import Governors

DRAIN_S = 10.0
"""Longest the end of a service waits for calls under way; what they bring later is lost, though paid for."""
FIRST_POLL_S, MAX_POLL_S = 0.05, 1.0
"""How often a call is looked for that another process makes."""


class Outcome(Enum):
    """What became of a call that was answered."""

    OK = "ok"
    TRUNCATED = "truncated"
    """Cut by the limit on output tokens."""
    REFUSED = "refused"
    """The model declined; paid for, and not a fault."""
    MALFORMED = "malformed"
    """Not of the form asked for."""


class TextSink(Protocol):
    """Takes a text as it is written."""

    def text(self, piece: str) -> None:
        """Take the next piece."""

    def restart(self, reason: str) -> None:
        """Forget all pieces so far: the text begins anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaidCall:
    """A call as it would be sent."""

    model: str
    """"provider:model"."""
    endpoint: str
    """Address of the provider: another server may answer otherwise under the same model's name."""
    payload: bytes
    """Canonical JSON of whatever decides the answer: parameters and the full prompt."""
    sample: str = ""
    """Tells apart calls that are to be answered anew: candidate, repeat or repair number, seed."""
    scope: Scope
    prompt_id: str
    """Prompt template with its version and hash."""
    worst: TokenUsage
    """Most tokens it can take; the input is estimated, the output is the limit that is sent."""
    dimension: int = 0
    """Length of the vectors that are asked for; 0 for a text."""
    is_json: bool = False
    """Whether the text is to be JSON."""
    seed: int | None = None
    messages: tuple[tuple[str, str], ...] = ()
    """What is said to the model, each with who says it: "system", "user", "assistant". Shown where the operator wants
    prompts in traces, and nowhere else."""
    text_of: Callable[[bytes], str] = bytes.decode
    """Reads the text of an answer from what is recorded of it, to be shown likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What sending a call brought."""

    body: bytes
    """What is recorded and served again."""
    tokens: TokenUsage
    outcome: Outcome = Outcome.OK
    response_id: str = ""
    response_model: str = ""
    """What the provider calls the model that answered."""
    rate: RateState | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a caller gets: sent now, or recorded before."""

    body: bytes
    outcome: Outcome
    usage: Usage
    """Of this call for this caller: the payer sees what it paid, any other caller what it was served instead."""
    is_recorded: bool
    """Whether it was served from the ledger."""


Send = Callable[[TextSink | None], Awaitable[Reply]]
"""Sends a call once; raises ProviderFault."""


class PaidCalls:
    """The one way to a provider, for all calls of a process to one ledger."""

    def __init__(self, ledger: Ledger, prices: PriceBook, governors: "Governors") -> None:
        """Take what it closes in the end: ledger and governors."""
        self._ledger = ledger
        self._prices = prices
        self._governors = governors
        self._under_way: dict[str, asyncio.Task[Landed]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loading: asyncio.Task[None] | None = None

    async def run(self, call: PaidCall, caller: Caller, send: Send, sink: TextSink | None = None) -> Answer:
        """Return the answer to a call: the recorded one, or that of a call sent now and recorded.

        A call that was sent is finished into the ledger and billed to the caller even if the caller is cancelled or its
        deadline passes; nothing goes to its sink from then on.

        Args:
            call: what to ask.
            caller: who pays, and until when it waits.
            send: sends it once; raises ProviderFault, or one of our errors when it cannot be sent at all.
            sink: takes the text of a call sent now as it is written. A recorded text is not played into it.

        Raises:
            ProviderFault: there is no answer.
            BudgetReached: the call could cost more than is left.
            Unpriced: there is a limit and the model's price is not known.
            NotReady: the ledger cannot be opened, or what `send` raises.
            UpstreamFailed: the ledger does not answer.
        """
        key = key_of(call, caller)
        observed = ModelCall(call, caller, is_stream=sink is not None)
        while True:
            other = self._under_way.get(key)
            if other is None:
                return await self._lead(key, Wanted(call, caller, send, sink, observed))
            with observed.under_way():
                await _ended(other, caller, call.model)
            recorded = None if other.cancelled() or other.exception() else other.result().recorded
            if recorded is not None:
                return _served(recorded, caller, observed)

    async def list_calls(self, tenant: str, survey_id: str, page_size: int = 0, page_token: str = "") -> CallPage:
        """Return a page of the calls that a survey paid for; see `Ledger.list_calls`."""
        return await self._ledger.list_calls(tenant, survey_id, page_size, page_token)

    async def delete_calls(self, tenant: str, survey_id: str) -> int:
        """Remove what a survey's calls say of its question; see `Ledger.delete_calls`."""
        return await self._ledger.delete_calls(tenant, survey_id)

    async def close(self) -> None:
        """Let the calls under way end for a while, then give them up, and close the ledger."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_S)
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        await self._governors.close()
        await self._ledger.close()

    async def _lead(self, key: str, wanted: Wanted) -> Answer:
        """Get the answer for a caller, and for all others that ask the same meanwhile."""
        model = wanted.call.model
        wanted.task = task = asyncio.create_task(self._landed(key, wanted))
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key))  # before any other that waits for it goes on
        self._keep(task)
        try:
            await _ended(task, wanted.caller, model)
        finally:
            wanted.leave()
        if task.cancelled():
            raise UpstreamFailed(model, "the service is stopping", retry_after_s=1.0)
        return task.result().answer

    async def _landed(self, key: str, wanted: Wanted) -> "Landed":
        with wanted.observed.under_way():
            return await self._found_or_sent(key, wanted)

    async def _found_or_sent(self, key: str, wanted: Wanted) -> "Landed":
        await self._load_prices()
        call, caller = wanted.call, wanted.caller
        worst_nano_usd = worst_of(call, self._prices)
        found = await self._claimed(key, wanted, worst_nano_usd)
        if isinstance(found, Recorded):
            return Landed(answer=_served(found, caller, wanted.observed), recorded=found)
        caller.purse.settle(0, found.lost_nano_usd)
        governor = self._governors.of(call.model)
        sending = Sending(
            wanted,
            found,
            worst_nano_usd=worst_nano_usd,
            ledger=self._ledger,
            prices=self._prices,
            governor=governor,
            keep=self._keep,
        )
        sent = await sending.run()
        reply = sent.reply
        wanted.observed.answered(reply)
        answer = Answer(body=reply.body, outcome=reply.outcome, usage=sent.paid, is_recorded=False)
        is_kept = reply.outcome is Outcome.OK
        recorded = Recorded(body=reply.body, payer=payer_of(caller), paid=sent.answered) if is_kept else None
        return Landed(answer=answer, recorded=recorded)

    async def _claimed(self, key: str, wanted: Wanted, worst_nano_usd: int | None) -> Recorded | Claimed:
        """Return the recorded answer, or the claim to get it; wait while another process has that.

        What the survey itself has under way there, for a request that was made again, counts in the purse meanwhile.
        """
        pause_s, counted, purse = FIRST_POLL_S, 0, wanted.caller.purse
        while True:
            found = await self._ledger.claim(key, wanted.call, wanted.caller, worst_nano_usd)
            under_way = found.mine_nano_usd if isinstance(found, Busy) else 0
            purse.settle(counted, under_way)
            counted = under_way
            if isinstance(found, Recorded):
                return found
            if isinstance(found, Claimed):
                if wanted.has_left:
                    await self._ledger.release(found)
                wanted.stay()
                return found
            with wanted.waiting():
                await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_POLL_S)

    async def _load_prices(self) -> None:
        """Load the catalogue with the first call, in a thread: it takes a while."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._prices.load))
        await asyncio.shield(self._loading)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Own a task that may outlive who waits for it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


@dataclass(frozen=True, kw_only=True, slots=True)
class Landed:
    """How a call under way ended."""

    answer: Answer
    """For the one who led it."""
    recorded: Recorded | None
    """For all others that asked the same; None when they have to ask themselves."""


def _served(recorded: Recorded, caller: Caller, observed: ModelCall) -> Answer:
    """Return a recorded answer; what the payer gets back counts in its purse."""
    usage = recorded.usage_for(caller)
    caller.purse.settle(0, usage.cost_nano_usd or 0)
    answer = Answer(body=recorded.body, outcome=Outcome.OK, usage=usage, is_recorded=True)
    observed.served(answer)
    return answer


async def _ended(task: "asyncio.Task[Landed]", caller: Caller, model: str) -> None:
    """Wait until a call under way has ended, for as long as the caller can wait."""
    await asyncio.wait([task], timeout=caller.deadline.timeout_s(math.inf))
    if not task.done():
        raise ProviderFault(FaultKind.TIMEOUT, model, "no answer before the caller's deadline")
