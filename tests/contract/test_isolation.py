"""Two tenants on one gateway: over every public method, the other one sees, changes and learns nothing."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes, papers
from gateways import Gateway, gateway_with
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_service_pb2 as usage_pb
from pydantic import SecretStr

from services.common.errors import status_in

ADMIN = "admin-token-of-this-test-0123456789"
SECRET_QUESTION = "What does only tenant A know about Zyx?"
SERVICES = [next(iter(module.DESCRIPTOR.services_by_name.values())) for module in (service_pb, usage_pb, admin_pb)]
OWN = {"CreateSurvey", "ListSurveys", "EstimateSurvey", "QueryUsage"}
"""Methods that name nothing of anybody's: B gets an answer, and A is not in it."""


class Tenant:
    """A caller with a token of its own."""

    def __init__(self, gateway: Gateway, secret: str) -> None:
        self._channel, self._metadata = gateway.channel, (("authorization", f"Bearer {secret}"),)

    async def call(self, method: MethodDescriptor, request: Any) -> Any:
        """Return the answer, for a stream the list of its messages."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = GetMessageClass(method.output_type)
        options = {"request_serializer": type(request).SerializeToString, "response_deserializer": answer.FromString}
        if method.server_streaming:
            stream = self._channel.unary_stream(path, **options)(request, timeout=20, metadata=self._metadata)
            return [message async for message in stream]
        return await self._channel.unary_unary(path, **options)(request, timeout=20, metadata=self._metadata)


def method_of(name: str) -> MethodDescriptor:
    return next(method for service in SERVICES for method in service.methods if method.name == name)


async def tenant(gateway: Gateway, name: str, scope: int) -> Tenant:
    stub = admin_grpc.AdminServiceStub(gateway.channel)
    metadata = (("authorization", f"Bearer {ADMIN}"),)
    made = admin_pb.CreateTenantRequest(tenant=admin_pb.Tenant(tenant=name))
    await stub.CreateTenant(made, metadata=metadata, timeout=5)
    token = admin_pb.CreateTokenRequest(tenant=name, scope=scope)
    return Tenant(gateway, (await stub.CreateToken(token, metadata=metadata, timeout=5)).secret)


@pytest.fixture
async def tenants(tmp_path: Path):
    """Yield tenant A, its finished survey, and tenant B."""
    settings = {"auth": "tokens", "admin_token": SecretStr(ADMIN), "max_requests_per_s": 10_000.0}
    async with gateway_with(Fakes(found=papers(3)), tmp_path, **settings) as gateway:
        a, b = [await tenant(gateway, name, admin_pb.TOKEN_SCOPE_WRITE) for name in ("a", "b")]
        request = service_pb.CreateSurveyRequest(
            spec=pb.SurveySpec(question=SECRET_QUESTION), request_id="r1", labels={"team": "zyx"}
        )
        survey = (await a.call(method_of("CreateSurvey"), request)).survey
        await a.call(method_of("WatchSurvey"), service_pb.WatchSurveyRequest(survey_id=survey.survey_id))
        yield a, survey.survey_id, b


def requests_naming(method: MethodDescriptor, survey_id: str) -> Any:
    """Return a good request that names A's survey, A, or whatever else of A's the method takes."""
    request = GetMessageClass(method.input_type)()
    fields = request.DESCRIPTOR.fields_by_name
    for name, value in {"survey_id": survey_id, "tenant": "a", "chapter_number": 1, "section_number": 1}.items():
        if name in fields and fields[name].message_type is None:
            setattr(request, name, value)
    return request


NAMING = [
    method for service in SERVICES for method in service.methods
    if method.name not in OWN and method.containing_service.name != "AdminService"
]  # fmt: skip


@pytest.mark.parametrize("method", NAMING, ids=lambda method: method.name)
async def test_what_is_anothers_is_not_found(tenants: tuple[Tenant, str, Tenant], method: MethodDescriptor):
    """The same words as for what was never there."""
    a, survey_id, b = tenants
    found, absent = [], "f" * len(survey_id)
    for each in (survey_id, absent):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await b.call(method, requests_naming(method, each))
        found.append((failure.value.code(), str(status_in(failure.value)).replace(each, "ID")))

    assert found[0] == found[1]
    assert found[0][0] is grpc.StatusCode.NOT_FOUND
    survey = (await a.call(method_of("GetSurvey"), service_pb.GetSurveyRequest(survey_id=survey_id))).survey
    assert survey.state == pb.SURVEY_STATE_DONE


@pytest.mark.parametrize("name", sorted(OWN))
async def test_what_names_nothing_shows_nothing_of_another(tenants: tuple[Tenant, str, Tenant], name: str):
    _, survey_id, b = tenants
    requests = {
        "CreateSurvey": service_pb.CreateSurveyRequest(spec=pb.SurveySpec(question="Mine?"), request_id="r1"),
        "ListSurveys": service_pb.ListSurveysRequest(),
        "EstimateSurvey": service_pb.EstimateSurveyRequest(spec=pb.SurveySpec(question="Mine?")),
        "QueryUsage": usage_pb.QueryUsageRequest(tenant="a"),
    }
    answer = await b.call(method_of(name), requests[name])

    assert "Zyx" not in str(answer)
    assert survey_id not in str(answer)
    if name == "ListSurveys":
        assert not answer.surveys
    if name == "QueryUsage":
        assert not answer.rows


@pytest.mark.parametrize(
    "filters",
    [
        pytest.param({"group_by": [usage_pb.USAGE_DIMENSION_TENANT]}, id="by tenant"),
        pytest.param({"group_by": [usage_pb.USAGE_DIMENSION_LABEL], "label_key": "team"}, id="by label"),
        pytest.param({"labels": {"team": "zyx"}}, id="with its label"),
    ],
)
async def test_usage_of_another_is_in_no_sum(tenants: tuple[Tenant, str, Tenant], filters: dict[str, Any]):
    a, _, b = tenants
    request = usage_pb.QueryUsageRequest(**filters)

    assert (await a.call(method_of("QueryUsage"), request)).total.call_count > 0
    assert (await b.call(method_of("QueryUsage"), request)).total.call_count == 0


@pytest.mark.parametrize("method", list(SERVICES[2].methods), ids=lambda method: method.name)
async def test_tenants_are_not_set_up_without_the_scope(tenants: tuple[Tenant, str, Tenant], method: MethodDescriptor):
    """A token may only be rotated by itself."""
    _, survey_id, b = tenants
    request = requests_naming(method, survey_id)
    if "token_id" in request.DESCRIPTOR.fields_by_name:
        request.token_id = "tk_of_somebody_else"

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await b.call(method, request)

    assert failure.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND}
    assert "Zyx" not in str(failure.value.details())


async def test_the_same_request_id_belongs_to_each_of_them(tenants: tuple[Tenant, str, Tenant]):
    a, survey_id, b = tenants
    request = service_pb.CreateSurveyRequest(
        spec=pb.SurveySpec(question=SECRET_QUESTION), request_id="r1", labels={"team": "zyx"}
    )

    again = await a.call(method_of("CreateSurvey"), request)
    other = await b.call(method_of("CreateSurvey"), request)

    assert again.survey.survey_id == survey_id
    assert other.survey.survey_id != survey_id
