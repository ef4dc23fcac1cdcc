"""Ledgers to test with, in SQLite and in PostgreSQL, and callers, calls and a governor that lets everything through."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

import pytest
from postgres import database_url, postgres  # noqa: F401  # fixtures

from services.common.database import Database
from services.common.deadlines import Deadline
from services.common.paid.caller import Caller, Priority, Purse, Scope
from services.common.paid.calls import PaidCall, PaidCalls, Reply
from services.common.paid.faults import REACTIONS, ProviderFault
from services.common.paid.ledger import Ledger
from services.common.paid.ledger_schema import ledger_database
from services.common.paid.ledger_values import ListedCall
from services.common.paid.prices import PriceBook
from services.common.paid.usage import TokenUsage
from services.common.settings import SharedSettings

MODEL = "own:model"
PRICES = '{"own:*": {"input_mtok": 1, "output_mtok": 10}}'
"""A token in costs 1,000 nano-US-dollars, one out 10,000."""
TOKENS = TokenUsage(input_tokens=100, output_tokens=20)
COST = 300_000
WORST = TokenUsage(input_tokens=200, output_tokens=80)
WORST_COST = 1_000_000


def a_caller(  # the payer of most tests
    survey_id: str = "survey-1",
    *,
    tenant: str = "tenant-a",
    stage: str = "write",
    item: str = "2.3",
    seconds: float = 30.0,
    budget: int | None = None,
    cache_off: bool = False,
) -> Caller:
    return Caller(
        tenant=tenant,
        survey_id=survey_id,
        stage=stage,
        item=item,
        deadline=Deadline.after(seconds),
        purse=Purse(budget),
        cache_off=cache_off,
    )


def a_call(
    prompt: str = "a question", *, scope: Scope = Scope.TENANT, sample: str = "", model: str = MODEL
) -> PaidCall:
    return PaidCall(
        model=model,
        endpoint="http://127.0.0.1:1/v1",
        payload=prompt.encode(),
        sample=sample,
        scope=scope,
        prompt_id="section.v1@00000000",
        worst=WORST,
    )


def a_reply(text: str = "an answer", **changes: Any) -> Reply:
    return Reply(**({"body": text.encode(), "tokens": TOKENS, "response_id": "response-1"} | changes))


class OpenGovernor:
    """Lets every call go at once and tries again as `REACTIONS` says, without a pause."""

    mean_in_flight = 1.0

    async def run(
        self,
        send: Callable[[], Awaitable[Reply]],
        *,
        priority: Priority,
        worst: TokenUsage,
        deadline: Deadline,
        on_fault: Callable[[ProviderFault], Awaitable[None]],
    ) -> Reply:
        attempts = 0
        while True:
            try:
                return await send()
            except ProviderFault as fault:
                await on_fault(fault)
                attempts += 1
                if attempts > REACTIONS[fault.kind].max_retries:
                    raise


class OpenGovernors:
    """The same governor for every model."""

    def __init__(self, governor: Any = None) -> None:
        self.governor = governor or OpenGovernor()
        self.is_closed = False

    def of(self, model: str) -> Any:
        return self.governor

    async def close(self) -> None:
        self.is_closed = True


class Provider:
    """Answers as scripted, counts what it was asked, and holds its answers back while its gate is shut."""

    def __init__(self, replies: Sequence[Reply | Exception | str] = ()) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self._replies = list(replies)

    @classmethod
    def shut(cls, replies: Sequence[Reply | Exception | str] = ()) -> Self:
        made = cls(replies)
        made.gate.clear()
        return made

    async def send(self, sink: Any) -> Reply:
        self.count += 1
        self.asked.set()
        await self.gate.wait()
        reply = self._replies.pop(0) if self._replies else a_reply()
        if isinstance(reply, str):  # text that is written, and then the stream breaks or the reply follows
            sink.text(reply)
            reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


class Ledgers:
    """Opens ledgers on one database, as several processes would, and closes them at the end."""

    def __init__(self, shared: SharedSettings) -> None:
        self.shared = shared
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def database(self, owner: str = "generation") -> Database:
        opened = ledger_database(self.shared, owner)
        self._closers.append(opened.close)
        return opened

    def ledger(self, *, owner: str = "generation", retention_days: int = 90, max_answer_bytes: int = 10**9) -> Ledger:
        opened = Ledger(
            ledger_database(self.shared, owner),
            owner,
            retention_days=retention_days,
            max_answer_bytes=max_answer_bytes,
        )
        self._closers.append(opened.close)
        return opened

    def calls(self, governor: Any = None, *, prices: str = PRICES, **settings: Any) -> PaidCalls:
        opened = PaidCalls(self.ledger(**settings), PriceBook(prices), OpenGovernors(governor))
        self._closers.append(opened.close)
        return opened

    async def sql(self, statement: str, **values: Any) -> Sequence[Any]:
        """Run a statement on the tables, as only a test may; `call` stands for the table of calls."""
        from sqlalchemy import text

        database = self.database()

        def work(connection: Any) -> Sequence[Any]:
            result = connection.execute(text(statement.replace("{call}", "generation_call")), values)
            return result.mappings().all() if result.returns_rows else ()

        return await database.run(work)

    async def listed(self, survey_id: str = "survey-1", tenant: str = "tenant-a") -> tuple[ListedCall, ...]:
        return (await self.ledger().list_calls(tenant, survey_id)).calls

    async def close(self) -> None:
        for close in reversed(self._closers):
            await close()


@pytest.fixture
def shared(database_url: str, tmp_path: Any) -> SharedSettings:  # noqa: F811
    return SharedSettings(database_url=database_url, data_dir=tmp_path / "data")


@pytest.fixture
async def ledgers(shared: SharedSettings) -> AsyncIterator[Ledgers]:
    """Ledgers on an empty database, in SQLite and in PostgreSQL."""
    made = Ledgers(shared)
    yield made
    await made.close()


@pytest.fixture
async def file_ledgers(tmp_path: Any) -> AsyncIterator[Ledgers]:
    """Ledgers on an empty SQLite file, for what does not depend on the database."""
    made = Ledgers(SharedSettings(data_dir=tmp_path / "data"))
    yield made
    await made.close()
