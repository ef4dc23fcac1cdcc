"""Whatever is sent to the public services: an answer or a status that says what to do, never a bug, never silence.

10,000 requests over all public methods, and a thousand on PostgreSQL: messages drawn by hypothesis field by field, the
same with single bytes changed, and bytes that were never a message.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes, papers
from gateways import gateway_with
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paperroute.v1 import admin_service_pb2, survey_service_pb2, usage_service_pb2

SERVICES = [
    next(iter(module.DESCRIPTOR.services_by_name.values()))
    for module in (survey_service_pb2, usage_service_pb2, admin_service_pb2)
]
METHODS = [method for service in SERVICES for method in service.methods]
REQUESTS = {"sqlite": 10_000, "postgresql": 1_000}
AT_ONCE = 25
NEVER = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # it hangs
}
MAX_DEPTH = 4
TEXTS = st.one_of(
    st.sampled_from(["", "en", "default", "1", "openai:gpt-6-luna", "\x00", "x" * 5_000, "'; DROP TABLE survey"]),
    st.text(max_size=20),
)
EDGES = [0, 1, 2, 5, 100, 2**31 - 1]


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Return values of a field, those at the edges of its type more often than chance would."""
    kind = field.type
    simple = {
        FieldDescriptor.TYPE_STRING: TEXTS,
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_DOUBLE: st.floats(),
    }
    if kind in simple:
        return simple[kind]
    if kind == FieldDescriptor.TYPE_ENUM:
        return st.one_of(st.sampled_from([each.number for each in field.enum_type.values]), st.sampled_from([-1, 99]))
    if kind == FieldDescriptor.TYPE_MESSAGE:
        return messages(field.message_type, depth + 1)
    is_signed = kind in {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64}
    bits = 63 if kind in {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64} else 31
    return st.one_of(
        st.sampled_from(EDGES), st.integers(min_value=-(2**bits) if is_signed else 0, max_value=2**bits - 1)
    )


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Return messages of a type, of which some fields are set."""
    made = GetMessageClass(descriptor)
    if depth > MAX_DEPTH:
        return st.just(made())
    fields = {field.name: _field_values(field, depth) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: made(**chosen))


def _field_values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (values(each, depth) for each in field.message_type.fields)
        return st.dictionaries(key, value, max_size=3)
    one = values(field, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def payloads(method: Any) -> st.SearchStrategy[bytes]:
    """Return what is sent: a message, a message with a byte changed, or any bytes."""
    good = messages(method.input_type).map(lambda message: message.SerializeToString())

    def changed(drawn: tuple[bytes, int, int]) -> bytes:
        data, at, byte = drawn
        return data if not data else data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :]

    mutated = st.tuples(good, st.integers(0, 10_000), st.integers(0, 255)).map(changed)
    return st.one_of(good, good, mutated, st.binary(max_size=200))


@pytest.mark.timeout(600)
async def test_no_request_meets_a_bug(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_DATABASE_URL", database_url)
    wanted = REQUESTS["postgresql" if database_url else "sqlite"]
    drawn = {  # before anything runs beside hypothesis
        method.full_name: drawn_for(method, wanted // len(METHODS) + 1) for method in METHODS
    }
    async with gateway_with(Fakes(found=papers(3)), tmp_path, max_queued_surveys=100_000) as gateway:
        known = await gateway.create(request_id="known")
        sender = Sender(gateway.channel)
        for method in METHODS:
            await sender.send_all(method, named(method, drawn[method.full_name], known))
        survey = await gateway.finished()  # it still works

    assert survey.coverage.cited_count == 3
    assert sum(sender.seen.values()) >= wanted
    assert not sender.bugs
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND} <= set(sender.seen)


def drawn_for(method: Any, count: int) -> list[bytes]:
    """Return requests for one method."""
    drawn: list[bytes] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads(method))
    def draw(payload: bytes) -> None:
        drawn.append(payload)

    draw()
    while len(drawn) < count:  # a method without fields has few requests of its own
        drawn.append(drawn[len(drawn) % 7])
    return drawn


def named(method: Any, drawn: list[bytes], known: str) -> list[bytes]:
    """Return the requests, every fourth one naming a survey that exists."""
    return [_naming(method, each, known) if place % 4 == 0 else each for place, each in enumerate(drawn)]


def _naming(method: Any, payload: bytes, known: str) -> bytes:
    """Return the request with the id of a survey that exists, where it has such a field."""
    made = GetMessageClass(method.input_type)
    if "survey_id" not in made.DESCRIPTOR.fields_by_name:
        return payload
    try:
        message = made.FromString(payload)
    except DecodeError:
        return payload
    message.survey_id = known
    return message.SerializeToString()


@dataclass
class Sender:
    """Sends requests, some at one time, and notes what came back."""

    channel: grpc.aio.Channel
    seen: Counter[grpc.StatusCode] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)

    async def send_all(self, method: Any, payloads: list[bytes]) -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(payload: bytes) -> None:
            async with places:
                await self._send(method, payload)

        await asyncio.gather(*map(one, payloads))

    async def _send(self, method: Any, payload: bytes) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                async for _ in self.channel.unary_stream(path)(payload, timeout=30):
                    pass
            else:
                await self.channel.unary_unary(path)(payload, timeout=30)
            self.seen[grpc.StatusCode.OK] += 1
        except grpc.aio.AioRpcError as failure:
            self.seen[failure.code()] += 1
            if failure.code() in NEVER:
                self.bugs.append(f"{method.name}: {failure.code().name} {failure.details()} on {payload!r}")


async def test_a_message_that_is_too_large_is_refused(tmp_path: Path):
    async with gateway_with(Fakes(), tmp_path) as gateway:
        request = b"\x0a" * (70 * 1024 * 1024)
        call = gateway.channel.unary_unary("/paperroute.v1.SurveyService/GetSurvey")(request, timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
