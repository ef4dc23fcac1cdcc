"""A client that knows an address and the reflection service, and nothing else of PaperRoute: run by test_reflection.

Arguments: the address, and a token or nothing. What it learned is printed as JSON.
"""

import json
import sys
from collections.abc import Iterator

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

TIMEOUT_S = 60


class Stranger:
    """Calls methods that it finds out about as it goes."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._pool = DescriptorPool()
        self._known: set[str] = set()

    def services(self) -> list[str]:
        """Return the names of the services."""
        answer = self._reflected(reflection_pb2.ServerReflectionRequest(list_services=""))
        return sorted(each.name for each in answer.list_services_response.service)

    def methods(self, service: str) -> list[str]:
        """Return the names of a service's methods, having learned its messages."""
        self._learn(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service))
        return [method.name for method in self._pool.FindServiceByName(service).methods]

    def call(self, service: str, method: str, **fields: object) -> dict[str, object]:
        """Return the answer of a method that answers once."""
        path, request, read = self._prepared(service, method, fields)
        call = self._channel.unary_unary(path, type(request).SerializeToString, read)
        return MessageToDict(call(request, timeout=TIMEOUT_S, metadata=self._metadata))

    def stream(self, service: str, method: str, **fields: object) -> Iterator[dict[str, object]]:
        """Yield the answers of a method that streams."""
        path, request, read = self._prepared(service, method, fields)
        call = self._channel.unary_stream(path, type(request).SerializeToString, read)
        yield from map(MessageToDict, call(request, timeout=TIMEOUT_S, metadata=self._metadata))

    def _prepared(self, service: str, method: str, fields: dict[str, object]):
        found = self._pool.FindServiceByName(service).FindMethodByName(method)
        request = message_factory.GetMessageClass(found.input_type)()
        return (
            f"/{service}/{method}",
            ParseDict(fields, request),
            message_factory.GetMessageClass(found.output_type).FromString,
        )

    def _learn(self, request: reflection_pb2.ServerReflectionRequest) -> None:
        """Add the files of an answer to what is known, after those that they import."""
        for data in self._reflected(request).file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            if file.name in self._known:
                continue
            self._known.add(file.name)
            for name in file.dependency:
                self._learn(reflection_pb2.ServerReflectionRequest(file_by_filename=name))
            self._pool.Add(file)

    def _reflected(self, request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S, metadata=self._metadata)
        return answer


def main(address: str, token: str = "") -> None:
    """Look round, make a survey, watch it and read it."""
    stranger = Stranger(address, token)
    try:
        services = stranger.services()
    except grpc.RpcError as failure:
        sys.stdout.write(json.dumps({"refused": failure.code().name}))
        return
    public = ("SurveyService", "UsageService", "AdminService")
    methods = {name: stranger.methods(f"paperroute.v1.{name}") for name in public}
    surveys = "paperroute.v1.SurveyService"
    spec = {"question": "RAG evaluation", "source": "SOURCE_SAMPLE", "maxPapers": 10}
    survey_id = stranger.call(surveys, "CreateSurvey", spec=spec)["survey"]["surveyId"]
    events = list(stranger.stream(surveys, "WatchSurvey", surveyId=survey_id))
    survey = stranger.call(surveys, "GetSurvey", surveyId=survey_id)["survey"]
    usage = stranger.call("paperroute.v1.UsageService", "QueryUsage", surveyId=survey_id)
    learned = {
        "services": services,
        "methods": methods,
        "events": events,
        "survey": survey,
        "usage": usage,
        "has_our_modules": any(name.partition(".")[0] in {"paperroute", "gateway", "services"} for name in sys.modules),
    }
    sys.stdout.write(json.dumps(learned))


if __name__ == "__main__":
    main(*sys.argv[1:])
