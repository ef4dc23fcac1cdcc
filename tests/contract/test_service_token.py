"""Services prove each other that they belong together, and nobody listens to the world without protection."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import Fakes
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import (
    embedding_service_pb2,
    generation_service_pb2,
    ordering_service_pb2,
    retrieval_service_pb2,
    search_pb2,
    summarization_service_pb2,
)
from paperroute.v1 import embedding_service_pb2_grpc as embedding_grpc
from paperroute.v1 import retrieval_service_pb2_grpc as retrieval_grpc
from pydantic import SecretStr
from replicas import called, public_methods, replica
from survey_rows import Gateways

from gateway.access.access import protection_of
from gateway.embedded import embedded
from gateway.roles import ROLES
from gateway.services import connect
from gateway.settings import GatewaySettings
from services.common import errors
from services.common.channel import open_channel
from services.common.role import serve_role, service_protection
from services.common.server import Protection, RoleServer
from services.common.settings import ClientSettings, SettingsError, SharedSettings, load
from services.ordering.server import mount as mount_ordering
from services.ordering.settings import OrderingSettings
from services.retrieval.server import mount as mount_retrieval
from services.retrieval.settings import RetrievalSettings

TOKEN = SecretStr("what-all-services-share")
(CREATE_TENANT,) = (method for method in public_methods() if method.name == "CreateTenant")
FILES = {
    "retrieval": retrieval_service_pb2,
    "embedding": embedding_service_pb2,
    "ordering": ordering_service_pb2,
    "generation": generation_service_pb2,
    "summarization": summarization_service_pb2,
}


def methods_of(role: str) -> list[MethodDescriptor]:
    (service,) = FILES[role].DESCRIPTOR.services_by_name.values()
    return list(service.methods)


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return failure.code()
    return grpc.StatusCode.OK


@pytest.fixture
async def behind() -> AsyncIterator[tuple[RoleServer, Fakes]]:
    """The services behind the gateway, with the token that all share."""
    host, fakes = RoleServer("127.0.0.1:0", Protection(service_token=TOKEN)), Fakes()
    fakes.add_to(host)
    await host.start()
    yield host, fakes
    await host.stop(0)


@pytest.mark.parametrize("role", FILES)
async def test_a_role_with_a_token_refuses_who_does_not_show_it(role: str, tmp_path: Path):
    entry, shared = ROLES[role], SharedSettings(data_dir=tmp_path, service_token=TOKEN)
    settings = load(entry.settings())
    host = RoleServer("127.0.0.1:0", service_protection(settings, shared))
    entry.mount()(host, settings, shared)
    await host.start()
    async with open_channel(host.address) as stranger, open_channel(host.address, service_token=TOKEN) as friend:
        codes = {await code_of(called(stranger, method)) for method in methods_of(role)}
        known = await code_of(called(friend, methods_of(role)[0]))
        check = health_pb2_grpc.HealthStub(stranger).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert (await check).status == health_pb2.HealthCheckResponse.SERVING
    await host.stop(0)

    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert known is grpc.StatusCode.INVALID_ARGUMENT  # an empty request that was read


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param([("paperroute-service-token", "what-all-services-sharE")], id="wrong"),
        pytest.param([("paperroute-service-token", "")], id="empty"),
        pytest.param([("paperroute-service-token", TOKEN.get_secret_value()[:-1])], id="shorter"),
        pytest.param([("paperroute-service-token", TOKEN.get_secret_value() + "x")], id="longer"),
        pytest.param([("paperroute-service-token", TOKEN.get_secret_value())] * 2, id="twice"),
        pytest.param([("paperroute-service-token", "x" * 6_000)], id="huge"),
        pytest.param([("authorization", f"Bearer {TOKEN.get_secret_value()}")], id="as a bearer token"),
    ],
)
async def test_only_the_very_token_counts(behind: tuple[RoleServer, Fakes], metadata: Any):
    async with open_channel(behind[0].address) as channel:
        code = await code_of(called(channel, methods_of("ordering")[0], metadata))

    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_role_without_a_token_answers_everybody(tmp_path: Path):
    """On a laptop nothing needs to be set up."""
    settings, shared = OrderingSettings(), SharedSettings(data_dir=tmp_path)
    host = RoleServer("127.0.0.1:0", service_protection(settings, shared))
    mount_ordering(host, settings, shared)
    await host.start()
    async with open_channel(host.address) as channel:
        code = await code_of(called(channel, methods_of("ordering")[0]))
    await host.stop(0)

    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_gateway_shows_the_token_to_all_it_calls(behind: tuple[RoleServer, Fakes]):
    host, _ = behind
    settings = GatewaySettings(**dict.fromkeys(FILES, host.address))
    for token, expected in ((TOKEN, grpc.StatusCode.OK), (None, grpc.StatusCode.UNAUTHENTICATED)):
        services = connect(settings, token)
        plan = services.generation.PlanSearch(generation_service_pb2.PlanSearchRequest(question="x"), timeout=10)
        assert await code_of(plan) is expected
        search = services.retrieval.SearchPapers(retrieval_service_pb2.SearchPapersRequest(), timeout=10)
        assert await code_of(search.read()) is expected
        await services.close()


async def test_retrieval_shows_the_token_to_the_embedding_service(tmp_path: Path):
    asked = []

    class Embedding(embedding_grpc.EmbeddingServiceServicer):
        async def FindPapers(self, request, context):
            asked.append(request.text)
            return embedding_service_pb2.FindPapersResponse()

    inner = RoleServer("127.0.0.1:0", Protection(service_token=TOKEN))
    embedding_grpc.add_EmbeddingServiceServicer_to_server(Embedding(), inner.server)
    await inner.start()
    shared = SharedSettings(data_dir=tmp_path, service_token=TOKEN)
    host = RoleServer("127.0.0.1:0", Protection(service_token=TOKEN))
    mount_retrieval(host, RetrievalSettings(embedding=inner.address), shared)
    await host.start()
    request = retrieval_service_pb2.SearchPapersRequest(search_terms=["names"], source=search_pb2.SOURCE_STORE)
    async with open_channel(host.address, service_token=TOKEN) as channel:
        async for _ in retrieval_grpc.RetrievalServiceStub(channel).SearchPapers(request, timeout=20):
            pass
    await host.stop(0)
    await inner.stop(0)

    assert asked == ["names"]


# All roles on one port


async def test_the_services_behind_an_embedded_gateway_are_not_for_its_clients():
    async with embedded() as serving, open_channel(serving.address) as channel:
        codes = {await code_of(called(channel, method)) for role in FILES for method in methods_of(role)}
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)

    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_embedded_gateway_takes_the_service_token_that_is_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_SERVICE_TOKEN", TOKEN.get_secret_value())
    async with embedded() as serving, open_channel(serving.address, service_token=TOKEN) as channel:
        code = await code_of(called(channel, methods_of("ordering")[0]))

    assert code is grpc.StatusCode.INVALID_ARGUMENT


# Where a role may listen

SERVICE_TOKEN, AUTH = "PAPERROUTE_SERVICE_TOKEN", "PAPERROUTE_GATEWAY__AUTH=tokens"
CERT, KEY = "PAPERROUTE_GATEWAY__TLS_CERT", "PAPERROUTE_GATEWAY__TLS_KEY"


@pytest.mark.parametrize("role", FILES)
async def test_no_role_listens_beyond_loopback_without_the_service_token(role: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"PAPERROUTE_{role.upper()}__LISTEN", "0.0.0.0:0")

    with pytest.raises(SettingsError) as refusal:
        await ROLES[role].main()

    (line,) = refusal.value.problems
    assert line.startswith("0.0.0.0:0: refusing to listen beyond loopback without PAPERROUTE_SERVICE_TOKEN;")
    assert "PAPERROUTE_ALLOW_INSECURE_LISTEN" in line


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        pytest.param({}, [AUTH, CERT, KEY], id="nothing"),
        pytest.param({"auth": "tokens"}, [CERT, KEY], id="tokens only"),
        pytest.param({"tls_cert": Path("c"), "tls_key": Path("k")}, [AUTH], id="encryption only"),
        pytest.param({"auth": "tokens", "tls_cert": Path("c"), "tls_key": Path("k")}, [], id="both"),
    ],
)
def test_a_gateway_needs_tokens_and_encryption_beyond_loopback(settings: dict[str, Any], missing: list[str]):
    assert list(protection_of(GatewaySettings(**settings), SharedSettings()).missing) == missing


@pytest.mark.parametrize("given", [{"tls_cert": Path("c")}, {"tls_key": Path("k")}, {"tls_client_ca": Path("a")}])
def test_half_of_a_certificate_stops_the_start(given: dict[str, Any]):
    with pytest.raises(SettingsError, match=f"PAPERROUTE_GATEWAY__{next(iter(given)).upper()} is set"):
        protection_of(GatewaySettings(**given), SharedSettings())


@pytest.mark.parametrize(
    "protection", [Protection(missing=()), Protection(allow_insecure_listen=True)], ids=["protected", "told by name"]
)
async def test_a_protected_role_listens_everywhere(protection: Protection):
    host = RoleServer("0.0.0.0:0", protection)

    assert host.port > 0
    await host.stop(0)


async def test_everything_in_one_process_needs_what_the_gateway_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAPERROUTE_GATEWAY__LISTEN", "0.0.0.0:0")
    monkeypatch.setenv("PAPERROUTE_SERVICE_TOKEN", TOKEN.get_secret_value())

    with pytest.raises(SettingsError, match=f"without {AUTH}, {CERT}, {KEY};"):
        async with embedded(listen=None):
            pass


# Secrets stay secret

SECRETS = {
    "PAPERROUTE_SERVICE_TOKEN": "a-service-token-of-ours",
    "PAPERROUTE_GATEWAY__ADMIN_TOKEN": "an-admin-token-of-ours",
    "PAPERROUTE_TOKEN": "a-clients-token-of-ours",
}


READ_BY = dict(zip(SECRETS, (SharedSettings, GatewaySettings, ClientSettings), strict=True))


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize("value", ["too-short", "with a blank in the middle of it", "näive-but-long-enough-token"])
def test_a_token_that_cannot_be_used_is_named_but_not_shown(variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as refusal:
        load(READ_BY[variable])

    assert refusal.value.problems == [f"{variable}: at least 20 characters, ASCII without blanks"]
    assert refusal.value.__context__ is None  # no traceback shows it either


async def test_no_secret_is_in_a_repr_a_log_or_an_error(
    file_gateways: Gateways,
    behind: tuple[RoleServer, Fakes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    shared, given, client = load(SharedSettings), load(GatewaySettings), load(ClientSettings)
    protection = protection_of(given, shared)
    shown = [repr(each) for each in (shared, given, client, protection)] + [str(given), str(client.model_dump())]
    async with replica(file_gateways.database, protection=protection, admin_token=given.admin_token) as served:
        shown.append(repr(vars(served.access.tokens)))
        for secret in SECRETS.values():
            for address, method in (
                (served.host.address, CREATE_TENANT),
                (behind[0].address, methods_of("ordering")[0]),
            ):
                mine = ClientSettings(token=SecretStr(secret))
                async with open_channel(address, service_token=SecretStr(secret), client=mine) as channel:
                    shown += [repr(channel), await _failure(called(channel, method))]
    with pytest.raises(SettingsError) as refusal:
        open_channel("192.0.2.1:50050", client=client)
    shown.append(str(refusal.value))

    for secret in SECRETS.values():
        assert secret not in caplog.text
        assert not [text for text in shown if secret in text]


async def _failure(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    status = errors.status_in(failure.value)
    return f"{failure.value!r} {status}"


# The client's side


@pytest.mark.parametrize("target", ["192.0.2.1:50050", "gateway.example:443", "ipv4:127.0.0.1:1,192.0.2.1:1"])
async def test_a_token_is_not_sent_in_plain_text_unless_told_so(target: str):
    client = ClientSettings(token=SecretStr("a-clients-token-of-ours"))

    with pytest.raises(SettingsError, match=r"PAPERROUTE_CA .*PAPERROUTE_ALLOW_INSECURE_TOKEN=true"):
        open_channel(target, client=client)
    for allowed in (client.model_copy(update={"allow_insecure_token": True}), ClientSettings()):
        await open_channel(target, client=allowed).close()


@pytest.mark.parametrize("target", ["127.0.0.1:1", "localhost:1", "[::1]:1", "ipv4:127.0.0.1:1", "unix:/nowhere"])
async def test_on_one_machine_a_token_needs_no_encryption(target: str):
    await open_channel(target, client=ClientSettings(token=SecretStr("a-clients-token-of-ours"))).close()


async def test_calls_on_one_machine_pass_by_a_proxy(behind: tuple[RoleServer, Fakes], monkeypatch: pytest.MonkeyPatch):
    """Where the environment names one for the outside world, tokens still stay on the machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with open_channel(behind[0].address, service_token=TOKEN) as channel:
        code = await code_of(called(channel, methods_of("ordering")[0]))

    assert code is grpc.StatusCode.OK


async def test_a_served_role_reads_its_protection_from_the_settings(monkeypatch: pytest.MonkeyPatch):
    """The gateway hands its own rule to the function that serves every role."""
    monkeypatch.setenv("PAPERROUTE_GATEWAY__LISTEN", "0.0.0.0:0")

    with pytest.raises(SettingsError, match=AUTH):
        await serve_role("gateway", GatewaySettings, lambda *_: None, protection_of)
