"""Vectors of texts from the embedding service: what is asked, paid, and what its failures become."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from paperroute.v1 import embedding_service_pb2 as pb
from paperroute.v1 import embedding_service_pb2_grpc as pb_grpc
from paperroute.v1 import usage_pb2
from scripted_models import caller_for

from services.common.channel import open_channel
from services.common.errors import BudgetReached, UpstreamFailed
from services.common.paid.usage import Usage, summed, usage_message
from services.common.server import RoleServer
from services.generation.llm.text_vectors import EmbeddedTexts

PLACES = {"a": (1.0, 0.0), "b": (0.0, 1.0)}


class Embedding(pb_grpc.EmbeddingServiceServicer):
    """Answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[pb.EmbedTextsRequest] = []
        self.changes: dict[str, Any] = {}
        self.code: grpc.StatusCode | None = None
        self.error: Exception | None = None
        self.usage = usage_pb2.ModelUsage(model="fake:encoder", call_count=1, input_tokens=3, cost_nano_usd=7, source=1)

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Any) -> pb.EmbedTextsResponse:
        self.requests.append(request)
        if self.error:
            raise self.error
        if self.code:
            await context.abort(self.code, "as told")
        vectors = np.array([PLACES[text] for text in request.texts], dtype="<f4").tobytes()
        answer = {"encoder": "fake:encoder", "dimension": 2, "count": len(request.texts), "vectors": vectors}
        return pb.EmbedTextsResponse(**{**answer, **self.changes}, usage=[self.usage])


@pytest.fixture
def service() -> Embedding:
    return Embedding()


@pytest.fixture
async def texts(service: Embedding) -> AsyncIterator[EmbeddedTexts]:
    host = RoleServer("127.0.0.1:0")
    pb_grpc.add_EmbeddingServiceServicer_to_server(service, host.server)
    await host.start()
    channel = open_channel(host.address)
    yield EmbeddedTexts(pb_grpc.EmbeddingServiceStub(channel))
    await channel.close()
    await host.stop(0)


async def test_each_text_has_its_vector(texts: EmbeddedTexts):
    found = await texts.embed_texts(["b", "a"], caller_for())

    assert found.vectors.tolist() == [[0, 1], [1, 0]]
    assert [(each.model, each.cost_nano_usd, each.is_estimated) for each in found.usage] == [("fake:encoder", 7, False)]


async def test_service_is_told_who_pays_and_how_much_is_left(texts: EmbeddedTexts, service: Embedding):
    caller = caller_for(limit=100)
    caller.purse.reserve("m", 40)

    await texts.embed_texts(["a"], caller)

    call = service.requests[0].call
    assert (call.tenant, call.survey_id, call.max_cost_nano_usd) == ("t", "s", 60)
    assert call.call_scope == usage_pb2.CALL_SCOPE_TENANT
    assert caller.purse.left_nano_usd == 53


async def test_a_failure_keeps_what_it_may_have_cost(texts: EmbeddedTexts, service: Embedding):
    service.code = grpc.StatusCode.UNAVAILABLE
    caller = caller_for(limit=100)

    with pytest.raises(UpstreamFailed):
        await texts.embed_texts(["a"], caller)

    assert caller.purse.left_nano_usd == 0
    assert not caller.purse.is_reached


async def test_a_budget_that_does_not_allow_it_is_noted(texts: EmbeddedTexts, service: Embedding):
    """The plan then goes by spelling alone, and says why."""
    service.error = BudgetReached(100)
    caller = caller_for(limit=100)

    with pytest.raises(UpstreamFailed):
        await texts.embed_texts(["a"], caller)

    assert caller.purse.is_reached


async def test_without_a_limit_none_is_told(texts: EmbeddedTexts, service: Embedding):
    await texts.embed_texts(["a"], caller_for())

    assert not service.requests[0].call.HasField("max_cost_nano_usd")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL]
)
async def test_a_failure_is_one_error(texts: EmbeddedTexts, service: Embedding, code: grpc.StatusCode):
    """The caller compares by spelling instead, whatever it was."""
    service.code = code

    with pytest.raises(UpstreamFailed, match=code.name):
        await texts.embed_texts(["a"], caller_for())


@pytest.mark.parametrize("changes", [{"count": 3}, {"vectors": b"1234"}, {"dimension": 0, "vectors": b""}])
async def test_vectors_that_do_not_fit_are_not_used(texts: EmbeddedTexts, service: Embedding, changes: dict[str, Any]):
    service.changes = changes

    with pytest.raises(UpstreamFailed):
        await texts.embed_texts(["a", "b"], caller_for())


async def test_what_was_served_is_told_apart_from_what_was_paid(texts: EmbeddedTexts, service: Embedding):
    served = {"served_call_count": 2, "served_input_tokens": 30, "served_output_tokens": 4}
    service.usage = usage_pb2.ModelUsage(model="fake:encoder", cost_nano_usd=0, avoided_cost_nano_usd=9, **served)

    (usage,) = (await texts.embed_texts(["a"], caller_for())).usage

    assert usage == Usage(
        model="fake:encoder", call_count=0, cost_nano_usd=0, avoided_cost_nano_usd=9, is_estimated=False, **served
    )
    assert summed([usage, usage])[0].served_input_tokens == 60
    assert usage_message(usage).served_output_tokens == 4
