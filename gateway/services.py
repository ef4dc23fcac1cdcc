"""The stubs of the services behind the gateway, and what a failed call to one of them means for a survey."""

from dataclasses import dataclass

import grpc
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import generation_service_pb2_grpc as generation_grpc
from paperroute.v1 import ordering_service_pb2_grpc as ordering_grpc
from paperroute.v1 import retrieval_service_pb2_grpc as retrieval_grpc
from paperroute.v1 import summarization_service_pb2_grpc as summarization_grpc
from paperroute.v1 import survey_pb2 as pb
from pydantic import SecretStr

from gateway.settings import GatewaySettings
from services.common.channel import open_channel
from services.common.errors import PaperRouteError, reason_in

SERVICE_OF = {
    pb.STAGE_PLAN: "generation",
    pb.STAGE_RETRIEVE: "retrieval",
    pb.STAGE_EMBED: "embedding",
    pb.STAGE_ORDER: "ordering",
    pb.STAGE_SUMMARIZE: "summarization",
    pb.STAGE_WRITE: "generation",
    pb.STAGE_FRAME: "generation",
    pb.STAGE_ASSEMBLE: "survey",
}
"""Which service a stage calls; `assemble` is the gateway's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """One stub for each service behind the gateway, each on a channel of its own."""

    retrieval: "retrieval_grpc.RetrievalServiceAsyncStub"
    embedding: "embedding_grpc.EmbeddingServiceAsyncStub"
    ordering: "ordering_grpc.OrderingServiceAsyncStub"
    generation: "generation_grpc.GenerationServiceAsyncStub"
    summarization: "summarization_grpc.SummarizationServiceAsyncStub"
    targets: dict[str, str]
    """gRPC target by service name, for messages."""
    channels: tuple[grpc.aio.Channel, ...]

    async def close(self) -> None:
        """Close the channels."""
        for channel in self.channels:
            await channel.close()


def connect(settings: GatewaySettings, service_token: SecretStr | None = None) -> Services:
    """Return stubs for the targets of the settings; nothing is connected until the first call."""
    names = ("retrieval", "embedding", "ordering", "generation", "summarization")
    targets = {name: str(getattr(settings, name)) for name in names}
    by_target = {target: open_channel(target, service_token=service_token) for target in targets.values()}
    return Services(
        retrieval=retrieval_grpc.RetrievalServiceStub(by_target[settings.retrieval]),
        embedding=embedding_grpc.EmbeddingServiceStub(by_target[settings.embedding]),
        ordering=ordering_grpc.OrderingServiceStub(by_target[settings.ordering]),
        generation=generation_grpc.GenerationServiceStub(by_target[settings.generation]),
        summarization=summarization_grpc.SummarizationServiceStub(by_target[settings.summarization]),
        targets=targets,
        channels=tuple(by_target.values()),
    )


def failure_of(stage: pb.Stage.ValueType, error: BaseException, targets: dict[str, str]) -> pb.Failure:
    """Return why a stage failed, with the service it called and what to do."""
    name = SERVICE_OF[stage]
    failure = pb.Failure(stage=stage, service=f"paperroute.v1.{name.capitalize()}Service")
    if isinstance(error, grpc.aio.AioRpcError):
        failure.status = error.code().name
        failure.reason = reason_in(error)
        failure.message = _advice(error, name, targets.get(name, ""))
    elif isinstance(error, PaperRouteError):
        failure.status, failure.reason, failure.message = error.code.name, error.reason, error.message
    elif isinstance(error, TimeoutError):
        failure.status = failure.reason = "DEADLINE_EXCEEDED"
        failure.message = "the survey's time was over; ask for fewer papers or allow more time (timeout_ms)"
    else:
        failure.status = failure.reason = "INTERNAL"
        failure.message = "internal error; the gateway's log says more"
    return failure


def _advice(error: grpc.aio.AioRpcError, name: str, target: str) -> str:
    if error.code() is grpc.StatusCode.UNAVAILABLE and reason_in(error) == "UNAVAILABLE":  # grpc's own, not a service's
        return f"the {name} service at {target} does not answer; is `paperroute serve {name}` running there?"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the {name} service at {target} did not answer in time"
    return error.details() or error.code().name
