"""Of calls with one beginning the first goes ahead: only then can the provider's cache serve the others."""

import asyncio
from typing import Any

import pytest

from services.common.paid.usage import TokenUsage
from services.common.providers.chat import ChatReply, ChatRequest, Finish
from services.generation.llm import leading
from services.generation.llm.leading import Leading

LONG = "word " * 1_100


class HeldProvider:
    """Begins and ends each answer when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_begin, self.may_end = asyncio.Event(), asyncio.Event()

    async def chat(self, request: ChatRequest, sink: Any = None) -> ChatReply:
        self.asked.append(request.prompt)
        await self.may_begin.wait()
        if sink:
            sink.text("First words")
        await self.may_end.wait()
        return ChatReply(text="First words", finish=Finish.STOP, tokens=TokenUsage(), parameters={})


class Sink:
    def __init__(self) -> None:
        self.pieces: list[str] = []

    def text(self, piece: str) -> None:
        self.pieces.append(piece)

    def restart(self, reason: str) -> None:
        self.pieces.clear()


def request(prompt: str, shared: str = LONG) -> ChatRequest:
    return ChatRequest(model="m", system="Write.", shared=shared, prompt=prompt, max_output_tokens=10)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def started(provider: HeldProvider, shared: str = LONG) -> list[asyncio.Task[ChatReply]]:
    lead = Leading()
    tasks = [asyncio.create_task(lead.chat(provider, request(name, shared), Sink())) for name in ("a", "b", "c")]
    await settled()
    return tasks


async def test_the_others_begin_with_the_first_word_of_the_leader():
    provider = HeldProvider()
    tasks = await started(provider)
    assert provider.asked == ["a"]

    provider.may_begin.set()
    await settled()

    assert provider.asked == ["a", "b", "c"]
    provider.may_end.set()
    assert [reply.text for reply in await asyncio.gather(*tasks)] == ["First words"] * 3


async def test_a_beginning_too_short_to_be_cached_is_not_waited_for():
    provider = HeldProvider()
    tasks = await started(provider, shared="Short.")

    assert provider.asked == ["a", "b", "c"]
    provider.may_begin.set()
    provider.may_end.set()
    await asyncio.gather(*tasks)


async def test_a_leader_that_fails_holds_nobody_up():
    provider = HeldProvider()
    tasks = await started(provider)

    tasks[0].cancel()
    await settled()

    assert provider.asked == ["a", "b", "c"]
    for task in tasks:
        task.cancel()


async def test_a_slow_leader_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leading, "MAX_WAIT_S", 0.01)
    provider = HeldProvider()
    tasks = await started(provider)

    async with asyncio.timeout(5):
        while len(provider.asked) < 3:
            await asyncio.sleep(0.005)

    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_a_beginning_that_was_sent_of_late_needs_no_leader():
    provider = HeldProvider()
    provider.may_begin.set()
    provider.may_end.set()
    lead = Leading()
    await lead.chat(provider, request("a"), None)
    provider.may_begin.clear()

    tasks = [asyncio.create_task(lead.chat(provider, request(name), Sink())) for name in ("b", "c")]
    await settled()

    assert provider.asked == ["a", "b", "c"]
    for task in tasks:
        task.cancel()
