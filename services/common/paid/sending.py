"""A claimed call on its way: its attempts, what broke, what it cost, and its end in the ledger."""

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services.common.errors import PaperRouteError
from services.common.paid.faults import MAY_BE_PAID, FaultKind, ProviderFault
from services.common.paid.ledger import Ledger
from services.common.paid.ledger_values import CallState, Claimed
from services.common.paid.prices import NOT_KNOWN, PriceBook, Priced, PriceSource
from services.common.paid.usage import TokenUsage, Usage, plausible, summed

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.paid.calls import PaidCall, Reply
    from services.common.paid.governor import Governor
    from services.common.paid.wanted import Wanted

logger = logging.getLogger(__name__)

MAX_CALL_S = 180.0
"""Longest one attempt may take, whether or not its caller still waits."""
BYTES_STEP = 64
"""To which multiple the bytes of a prompt are rounded up: calls then share their worst cases, which are kept."""
_BROKEN_STATES = {FaultKind.TRUNCATED: CallState.TRUNCATED, FaultKind.MALFORMED: CallState.MALFORMED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A call that was answered now."""

    reply: "Reply"
    answered: Usage
    """Of the attempt that was answered: what the ledger keeps with the answer."""
    paid: Usage
    """With those that broke before it."""


class Sending:
    """Makes one claimed call."""

    def __init__(
        self,
        wanted: "Wanted",
        claimed: Claimed,
        *,
        worst_nano_usd: int | None,
        ledger: Ledger,
        prices: PriceBook,
        governor: "Governor",
        keep: "Callable[[asyncio.Task[Reply]], object]",
    ) -> None:
        """Prepare it; nothing is sent yet.

        Args:
            wanted: the call.
            claimed: its claim.
            worst_nano_usd: the most that one attempt can cost; None where its price is unknown.
            ledger: where it was claimed.
            prices: what it costs.
            governor: of its model.
            keep: takes a task that may outlive its caller.
        """
        self._wanted = wanted
        self._claimed = claimed
        self._worst_nano_usd = worst_nano_usd
        self._ledger = ledger
        self._prices = prices
        self._governor = governor
        self._keep = keep
        self._at = datetime.fromtimestamp(claimed.started_at, UTC)
        self._attempt: asyncio.Task[Reply] | None = None
        self._reserved: int | None = None  # for the attempt under way
        self._seconds = 0.0  # of the last attempt
        self._restart_reason = ""
        self._owes_row = False  # an attempt was made that no row tells of yet
        self._broken: list[Usage] = []

    async def run(self) -> "Sent":
        """Reserve, send and record; whatever comes in between is recorded too.

        Raises:
            BudgetReached: the call could cost more than is left.
            Unpriced: there is a limit and the price is not known.
            ProviderFault: there is no answer.
            CallerLeft: the caller went before anything was sent again.
        """
        try:
            self._reserve()
            reply = await self._reply()
        except BaseException:
            await self._drop()
            raise
        state, tokens = CallState(reply.outcome.value), self._counted(reply.tokens)
        priced = self._priced(tokens)
        self._settle(priced)
        self._bill(state, tokens, priced)
        await self._ledger.finish(
            self._claimed,
            state=state,
            tokens=tokens,
            priced=priced,
            body=reply.body,
            response_id=reply.response_id,
        )
        usage = self._usage(tokens, priced)
        return Sent(reply=reply, answered=usage, paid=summed([usage, *self._broken])[0])

    def _reserve(self) -> None:
        """Set aside the most that the next attempt can cost."""
        self._reserved = self._wanted.caller.purse.reserve(self._wanted.call.model, self._worst_nano_usd)

    def _settle(self, spent: Priced | None) -> None:
        """Replace what is set aside by what was spent; None for nothing. Where nobody knows it stays set aside."""
        reserved = self._reserved or 0
        cost = spent.cost_nano_usd if spent else 0
        self._wanted.caller.purse.settle(reserved, reserved if cost is None else cost)
        self._reserved = None

    async def _reply(self) -> "Reply":
        """Return the answer, asked for as often as the governor thinks right."""
        caller = self._wanted.caller
        try:
            with self._wanted.waiting():
                return await self._governor.run(
                    self._send,
                    priority=caller.priority,
                    worst=self._wanted.call.worst,
                    deadline=caller.deadline,
                    on_fault=self._note,
                )
        except ProviderFault:
            if self._attempt is None or _has_failed(self._attempt):
                raise
            return await self._attempt  # the caller's time is over, but what was sent is paid for

    async def _send(self) -> "Reply":
        """Make an attempt; one that was sent goes on when this is cancelled."""
        self._wanted.stay()
        if self._reserved is None:
            self._reserve()
        if self._wanted.live is not None:
            self._wanted.live.restart(self._restart_reason)
        self._attempt = asyncio.create_task(self._try())
        self._keep(self._attempt)
        with self._wanted.under_way():
            return await asyncio.shield(self._attempt)

    async def _try(self) -> "Reply":
        self._owes_row = True
        observed, live = self._wanted.observed, self._wanted.live
        observed.attempted()
        began = time.monotonic()
        try:
            reply = await self._bounded_send()
        except PaperRouteError:
            self._owes_row = False  # it was not sent: the key is missing
            raise
        except ProviderFault as fault:
            self._seconds = time.monotonic() - began
            observed.broke(fault)
            await self._broke(fault)
            raise
        else:
            if live is not None and live.first_at_s is not None:
                observed.first_chunk(live.first_at_s - began)
            return reply
        finally:
            self._seconds = time.monotonic() - began

    async def _bounded_send(self) -> "Reply":
        try:
            async with asyncio.timeout(MAX_CALL_S):
                return await self._wanted.send(self._wanted.live)
        except TimeoutError as error:
            problem = f"no answer within {MAX_CALL_S:.0f} s"
            raise ProviderFault(FaultKind.TIMEOUT, self._wanted.call.model, problem) from error

    async def _broke(self, fault: ProviderFault) -> None:
        """Record what an attempt cost that brought no answer, or that it may have cost something."""
        self._restart_reason = fault.kind.value
        if fault.tokens is None and fault.kind not in MAY_BE_PAID:
            return
        tokens = self._counted(fault.tokens or TokenUsage())
        priced = self._priced(tokens)
        if fault.tokens is None and priced.source is not PriceSource.GPU_TIME:
            priced = NOT_KNOWN
        self._settle(priced)
        if fault.tokens is not None:
            self._broken.append(replace(self._usage(tokens, priced), call_count=0))
        state = _BROKEN_STATES.get(fault.kind, CallState.FAILED)
        self._bill(state, tokens, priced)
        await self._ledger.add_broken(self._claimed, state=state, tokens=tokens, priced=priced, seconds=self._seconds)
        self._owes_row = False

    async def _drop(self) -> None:
        """Finish a call without an answer: as failed if an attempt was made, else as if it had never been.

        An attempt cut short by the end of the process may have been paid for: its row is left to its lease, to be lost.
        """
        if self._attempt is not None and (not self._attempt.done() or self._attempt.cancelled()):
            self._bill(CallState.LOST, TokenUsage(), NOT_KNOWN)
            self._wanted.observed.lost()
            return
        if not self._owes_row:
            self._settle(None)
            await self._ledger.release(self._claimed)
            return
        priced = self._priced(TokenUsage())
        self._settle(priced)
        self._bill(CallState.FAILED, TokenUsage(), priced)
        await self._ledger.finish(self._claimed, state=CallState.FAILED, tokens=TokenUsage(), priced=priced)

    def _bill(self, state: CallState, tokens: TokenUsage, priced: Priced) -> None:
        """Count a row of the ledger as the gateway does: at its worst case where nobody knows what it cost."""
        is_known = priced.cost_nano_usd is not None
        cost = priced.cost_nano_usd if is_known else self._worst_nano_usd
        if state is CallState.FAILED and not (tokens.input_tokens or tokens.output_tokens or cost):
            return  # it took nothing
        is_estimated = tokens.is_estimated or (not is_known and cost is not None)
        self._wanted.observed.billed(tokens, cost, is_estimated=is_estimated)

    async def _note(self, fault: ProviderFault) -> None:
        logger.info("%s for %s: %s", self._wanted.caller.stage, self._wanted.caller.survey_id, fault)

    def _counted(self, tokens: TokenUsage) -> TokenUsage:
        """Return counts as they can be; where they are estimated, no more than was sent and asked for."""
        counted = plausible(tokens)
        if not counted.is_estimated:
            return counted
        limit = token_limit_of(self._wanted.call)
        return plausible(
            replace(
                counted,
                input_tokens=min(counted.input_tokens, limit.input_tokens),
                output_tokens=min(counted.output_tokens, limit.output_tokens),
            )
        )

    def _priced(self, tokens: TokenUsage) -> Priced:
        return self._prices.price(
            self._wanted.call.model,
            tokens,
            at=self._at,
            seconds=self._seconds,
            mean_in_flight=self._governor.mean_in_flight,
        )

    def _usage(self, tokens: TokenUsage, priced: Priced) -> Usage:
        return Usage(
            model=self._wanted.call.model,
            input_tokens=tokens.input_tokens,
            cached_input_tokens=tokens.cached_input_tokens,
            cache_write_tokens=tokens.cache_write_tokens,
            output_tokens=tokens.output_tokens,
            reasoning_tokens=tokens.reasoning_tokens,
            cost_nano_usd=priced.cost_nano_usd,
            is_estimated=tokens.is_estimated,
        )


def worst_of(call: "PaidCall", prices: PriceBook) -> int | None:
    """Return the most that one attempt of a call can cost, in nano-US-dollars; None where its price is unknown."""
    return prices.worst(call.model, token_limit_of(call), at=datetime.now(UTC), seconds=MAX_CALL_S)


def token_limit_of(call: "PaidCall") -> TokenUsage:
    """Return the most tokens that one attempt of a call can take: of its prompt no more than that has bytes."""
    byte_count = -(-len(call.payload) // BYTES_STEP) * BYTES_STEP
    return replace(call.worst, input_tokens=max(call.worst.input_tokens, byte_count))


def _has_failed(attempt: "asyncio.Task[Reply]") -> bool:
    return attempt.done() and (attempt.cancelled() or attempt.exception() is not None)
