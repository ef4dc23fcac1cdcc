"""One client for the life of the process, closed when it is done with."""

import asyncio

import pytest
from providing import Texts, request_to

from services.common.providers.clients import KeyedClients


class Client:
    def __init__(self, key: str) -> None:
        self.key = key
        self.is_closed = False


class Clients:
    """Opens and closes clients, and remembers them."""

    def __init__(self) -> None:
        self.key = "first"
        self.opened: list[Client] = []
        self.clients = KeyedClients(lambda: self.key, self.open, self.close)

    async def open(self, key: str) -> Client:
        await asyncio.sleep(0)
        self.opened.append(Client(key))
        return self.opened[-1]

    async def close(self, client: Client) -> None:
        assert not client.is_closed
        client.is_closed = True


async def test_calls_at_once_share_one_client():
    made = Clients()

    async def use() -> Client:
        async with made.clients.use() as (client, key):
            assert key == "first"
            await asyncio.sleep(0)
            return client

    used = await asyncio.gather(*(use() for _ in range(5)))
    await made.clients.close()

    assert set(used) == set(made.opened)
    assert [client.is_closed for client in made.opened] == [True]


async def test_the_client_of_an_old_key_is_closed_after_its_calls():
    made = Clients()
    async with made.clients.use() as (first, _):
        made.key = "second"
        async with made.clients.use() as (second, key):
            assert (second.key, key) == ("second", "second")
            assert not first.is_closed
    assert first.is_closed
    assert not second.is_closed
    await made.clients.close()
    assert second.is_closed


async def test_a_client_nobody_uses_is_closed_at_once_when_its_key_is_old():
    made = Clients()
    async with made.clients.use() as (first, _):
        pass
    made.key = "second"
    async with made.clients.use():
        assert first.is_closed
    await made.clients.close()


async def test_a_client_in_use_is_closed_once_it_is_free():
    made = Clients()
    async with made.clients.use() as (client, _):
        await made.clients.close()
        assert not client.is_closed
    assert client.is_closed


async def test_closing_opens_nothing():
    made = Clients()

    await made.clients.close()

    assert made.opened == []


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_many_calls_at_once_use_one_client_and_all_are_answered(connect, server, monkeypatch, provider):
    """Connections of clients that were dropped without being closed can make those of others deaf."""
    found = connect(timeout_s=20).find(provider)
    opened = []
    open_client = found._clients._open

    async def counted(key: str):
        opened.append(key)
        return await open_client(key)

    monkeypatch.setattr(found._clients, "_open", counted)
    server.latency_s = 0.05

    sinks = [Texts() if number % 2 else None for number in range(60)]
    replies = await asyncio.gather(*(found.chat(request_to(provider), sink) for sink in sinks))

    assert len({reply.text for reply in replies}) == 1
    assert len(opened) == 1
    assert server.most_at_once > 1


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_no_more_connections_than_calls_may_be_in_flight(connect, server, provider):
    server.latency_s = 0.02
    found = connect(max_in_flight=3, timeout_s=20).find(provider)

    await asyncio.gather(*(found.chat(request_to(provider)) for _ in range(12)))

    assert server.most_at_once <= 3
