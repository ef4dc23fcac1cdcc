"""What the span of an ordering tells."""

import numpy as np
import pytest
from paperroute.v1 import ordering_pb2, ordering_service_pb2_grpc
from paperroute.v1 import ordering_service_pb2 as pb
from serving import serving
from telemetered import telemetered

from services.common.telemetry import names
from services.ordering import server
from services.ordering.settings import OrderingSettings


async def test_the_span_tells_how_many_papers_lie_on_how_long_a_path():
    vectors = np.random.default_rng(1).normal(size=(12, 8)).astype("<f4")
    request = pb.OrderPapersRequest(
        paper_ids=[f"2401.{number:05d}" for number in range(12)],
        vectors=vectors.tobytes(),
        dimension=8,
        count=12,
        method=ordering_pb2.ORDERING_METHOD_CHAIN,
    )
    with telemetered() as seen:
        async with serving(server.mount, OrderingSettings()) as channel:
            response = await ordering_service_pb2_grpc.OrderingServiceStub(channel).OrderPapers(request, timeout=30)

    (span,) = (span for span in seen.spans if span.name == "paperroute.v1.OrderingService/OrderPapers")
    assert (span.attributes[names.PAPER_COUNT], span.attributes[names.METHOD]) == (12, "chain")
    assert span.attributes[names.PATH_LENGTH] == pytest.approx(response.path_length)
