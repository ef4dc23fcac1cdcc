"""The public port encrypted: certificates of the gateway, of its clients, and their renewal."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Certificate
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paperroute.v1 import search_pb2
from paperroute.v1 import survey_pb2 as survey_pb
from paperroute.v1 import survey_service_pb2 as pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc
from pydantic import SecretStr
from replicas import ADMIN_TOKEN, Replica, replica
from survey_rows import Gateways

from gateway.access.access import protection_of
from gateway.embedded import embedded
from gateway.settings import GatewaySettings
from services.common.channel import open_channel
from services.common.server import Protection, RoleServer
from services.common.settings import ClientSettings, SettingsError, SharedSettings
from services.common.tls import ServerTls, client_credentials

PREFIX = "PAPERROUTE_GATEWAY__TLS_"


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return Certificate.authority()


@pytest.fixture(scope="module")
def stranger() -> Certificate:
    return Certificate.authority("stranger")


@pytest.fixture
def files(authority: Certificate, stranger: Certificate, tmp_path: Path) -> Path:
    """A folder with the gateway's certificate, the authorities, and a client's certificate of each."""
    authority.sign().write(tmp_path / "gateway")
    authority.sign("client").write(tmp_path / "client")
    stranger.sign("client").write(tmp_path / "other client")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "strange ca.pem").write_bytes(stranger.pem)
    return tmp_path


def tls_of(files: Path, *, client_ca: bool = False) -> ServerTls:
    folder = files / "gateway"
    return ServerTls(
        cert=folder / "cert.pem",
        key=folder / "key.pem",
        client_ca=files / "ca.pem" if client_ca else None,
        prefix=PREFIX,
    )


def client_of(files: Path, *, ca: str = "ca.pem", own: str = "") -> ClientSettings:
    cert, key = (files / own / "cert.pem", files / own / "key.pem") if own else (None, None)
    return ClientSettings(ca=str(files / ca) if ca else "", client_cert=cert, client_key=key)


async def answers(address: str, client: ClientSettings | None) -> bool:
    """Return whether a new connection is answered."""
    async with open_channel(address, client=client) as channel:
        code = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    return code is grpc.StatusCode.OK


@pytest.fixture
async def host(files: Path) -> AsyncIterator[RoleServer]:
    made = RoleServer("127.0.0.1:0", Protection(tls=tls_of(files)))
    await made.start()
    yield made
    await made.stop(0)


async def test_who_trusts_the_certificate_is_answered_and_nobody_else(host: RoleServer, files: Path):
    assert await answers(host.address, client_of(files))
    assert await answers(host.address, client_of(files, own="client"))  # it asks for none, and takes no offence
    assert not await answers(host.address, client_of(files, ca="strange ca.pem"))
    assert not await answers(host.address, None)
    assert not await answers(host.address, ClientSettings(ca="system"))


async def test_clients_must_show_a_certificate_where_that_is_asked_for(files: Path):
    host = RoleServer("127.0.0.1:0", Protection(tls=tls_of(files, client_ca=True)))
    await host.start()

    assert await answers(host.address, client_of(files, own="client"))
    assert not await answers(host.address, client_of(files))
    assert not await answers(host.address, client_of(files, own="other client"))
    await host.stop(0)


async def test_a_new_certificate_is_used_without_a_restart(
    host: RoleServer, files: Path, authority: Certificate, stranger: Certificate
):
    assert await answers(host.address, client_of(files))

    stranger.sign().write(files / "gateway")

    assert await answers(host.address, client_of(files, ca="strange ca.pem"))
    assert not await answers(host.address, client_of(files))


async def test_a_call_under_way_outlives_the_renewal(
    files: Path,
    stranger: Certificate,
    file_gateways: Gateways,
):
    protection = Protection(tls=tls_of(files))
    async with replica(file_gateways.database, protection=protection) as served:
        client = client_of(files).model_copy(update={"token": SecretStr(ADMIN_TOKEN)})
        async with open_channel(served.host.address, client=client) as channel:
            watch = pb_grpc.SurveyServiceStub(channel).WatchSurvey(pb.WatchSurveyRequest(), timeout=30)
            await watch.read()
            stranger.sign().write(files / "gateway")
            assert await answers(served.host.address, client_of(files, ca="strange ca.pem"))
            served.callers.let_go.set()
            assert await watch.read() != grpc.aio.EOF


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem", "both", "missing"])
async def test_a_new_certificate_that_cannot_be_used_changes_nothing(
    host: RoleServer, files: Path, stranger: Certificate, broken: str, caplog: pytest.LogCaptureFixture
):
    """Half a renewal, or a broken one, must not take the gateway off the network."""
    caplog.set_level(logging.INFO)
    other = stranger.sign()
    match broken:
        case "cert.pem":  # the key has not come yet
            (files / "gateway/cert.pem").write_bytes(other.pem)
        case "key.pem":
            (files / "gateway/key.pem").write_bytes(other.key_pem())
        case "both":
            for name in ("cert.pem", "key.pem"):
                (files / "gateway" / name).write_bytes(b"no certificate")
        case _:
            (files / "gateway/key.pem").unlink()

    for _ in range(3):
        assert await answers(host.address, client_of(files))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == (broken != "missing")  # a file may be gone for a moment
    assert "PRIVATE KEY" not in caplog.text

    other.write(files / "gateway")
    assert await answers(host.address, client_of(files, ca="strange ca.pem"))


async def test_a_new_authority_of_clients_is_used_without_a_restart(files: Path, stranger: Certificate):
    host = RoleServer("127.0.0.1:0", Protection(tls=tls_of(files, client_ca=True)))
    await host.start()
    original = (files / "ca.pem").read_bytes()
    (files / "gateway ca.pem").write_bytes(original)
    (files / "ca.pem").write_bytes(stranger.pem)

    assert await answers(host.address, client_of(files, ca="gateway ca.pem", own="other client"))
    assert not await answers(host.address, client_of(files, ca="gateway ca.pem", own="client"))
    await host.stop(0)


def sealed(files: Path, authority: Certificate) -> None:
    certificate = authority.sign()
    (files / "gateway/cert.pem").write_bytes(certificate.pem)
    (files / "gateway/key.pem").write_bytes(certificate.key_pem(b"a password"))


@pytest.mark.parametrize(
    ("spoil", "variable", "problem"),
    [
        pytest.param(lambda f, a: (f / "gateway/cert.pem").unlink(), "CERT", "cannot be read", id="no certificate"),
        pytest.param(lambda f, a: (f / "gateway/key.pem").unlink(), "KEY", "cannot be read", id="no key"),
        pytest.param(lambda f, a: (f / "ca.pem").unlink(), "CLIENT_CA", "cannot be read", id="no authority"),
        pytest.param(
            lambda f, a: (f / "gateway/cert.pem").write_text("x"), "CERT", "holds no certificate", id="not PEM"
        ),
        pytest.param(
            lambda f, a: (f / "gateway/cert.pem").write_bytes(b""), "CERT", "holds no certificate", id="empty"
        ),
        pytest.param(lambda f, a: (f / "ca.pem").write_bytes(b"\xff"), "CLIENT_CA", "holds no certificate", id="bytes"),
        pytest.param(lambda f, a: (f / "gateway/key.pem").write_text("x"), "KEY", "holds no private key", id="bad key"),
        pytest.param(
            lambda f, a: (f / "gateway/key.pem").write_bytes((f / "gateway/cert.pem").read_bytes()),
            "KEY",
            "holds no private key",
            id="certificate as key",
        ),
        pytest.param(
            lambda f, a: (f / "gateway/key.pem").write_bytes(a.key_pem()),
            "KEY",
            "is not the key of the certificate",
            id="another key",
        ),
        pytest.param(sealed, "KEY", "without a password", id="key with a password"),
        pytest.param(
            lambda f, a: ((f / "gateway/key.pem").unlink(), (f / "gateway/key.pem").mkdir()),
            "KEY",
            "",
            id="a folder",
        ),
    ],
)
async def test_files_that_cannot_be_used_stop_the_start_by_name(
    files: Path, authority: Certificate, spoil: Any, variable: str, problem: str
):
    spoil(files, authority)

    with pytest.raises(SettingsError) as refusal:
        RoleServer("127.0.0.1:0", Protection(tls=tls_of(files, client_ca=True)))

    (line,) = refusal.value.problems
    assert line.startswith(f"{PREFIX}{variable}=")
    assert problem in line


async def test_the_gateways_settings_become_its_certificates(files: Path):
    folder = files / "gateway"
    settings = GatewaySettings(
        tls_cert=folder / "cert.pem", tls_key=folder / "key.pem", tls_client_ca=files / "ca.pem", auth="tokens"
    )

    protection = protection_of(settings, SharedSettings())

    assert protection.tls == tls_of(files, client_ca=True)
    host = RoleServer("127.0.0.1:0", protection)
    await host.start()
    assert await answers(host.address, client_of(files, own="client"))
    await host.stop(0)


# Clients


@pytest.mark.parametrize(
    ("client", "variable"),
    [
        pytest.param({"ca": "nowhere.pem"}, "PAPERROUTE_CA='", id="no file"),
        pytest.param({"ca": "client/key.pem"}, "PAPERROUTE_CA='", id="a key"),
        pytest.param({"client_cert": "client/cert.pem"}, "PAPERROUTE_CLIENT_CERT, PAPERROUTE_CLIENT_KEY", id="no key"),
        pytest.param(
            {"client_key": "client/key.pem"}, "PAPERROUTE_CLIENT_CERT, PAPERROUTE_CLIENT_KEY", id="no certificate"
        ),
        pytest.param(
            {"client_cert": "ca.pem", "client_key": "client/key.pem"}, "PAPERROUTE_CLIENT_KEY='", id="another's key"
        ),
        pytest.param(
            {"client_cert": "nowhere", "client_key": "client/key.pem"}, "PAPERROUTE_CLIENT_CERT='", id="no such file"
        ),
    ],
)
def test_a_clients_files_that_cannot_be_used_are_named(files: Path, client: dict[str, str], variable: str):
    given = ClientSettings(**{name: str(files / path) for name, path in client.items()})

    with pytest.raises(SettingsError) as refusal:
        client_credentials(given)

    assert refusal.value.problems[0].startswith(variable)


def test_without_certificates_nothing_is_encrypted():
    assert client_credentials(ClientSettings()) is None


async def test_a_token_travels_encrypted_to_any_host(files: Path):
    client = client_of(files).model_copy(update={"token": SecretStr(ADMIN_TOKEN)})

    await open_channel("gateway.example:443", client=client).close()


# Roles on one encrypted port


@pytest.fixture
async def encrypted(files: Path, file_gateways: Gateways) -> AsyncIterator[Replica]:
    async with replica(file_gateways.database, protection=Protection(tls=tls_of(files))) as served:
        yield served


async def test_roles_on_an_encrypted_server_reach_each_other_on_a_socket_of_their_own(files: Path):
    """The certificate names the public host, and clients may need one: neither is for calls within the process."""
    host = RoleServer("127.0.0.1:0", Protection(tls=tls_of(files, client_ca=True)))
    inner = host.inner_address()
    await host.start()
    folder = Path(inner.removeprefix("unix:")).parent

    assert inner == host.inner_address()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert await answers(inner, None)
    await host.stop(0)
    assert not folder.exists()


async def test_without_encryption_roles_reach_each_other_where_everybody_does():
    host = RoleServer("127.0.0.1:0")

    assert host.inner_address() == host.address
    await host.stop(0)


async def test_the_guard_stands_behind_the_encryption(encrypted: Replica, files: Path):
    async with open_channel(encrypted.host.address, client=client_of(files)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await pb_grpc.SurveyServiceStub(channel).GetSurvey(pb.GetSurveyRequest(survey_id="x"), timeout=10)
    client = client_of(files).model_copy(update={"token": SecretStr(ADMIN_TOKEN)})
    async with open_channel(encrypted.host.address, client=client) as channel:
        await pb_grpc.SurveyServiceStub(channel).GetSurvey(pb.GetSurveyRequest(survey_id="x"), timeout=10)

    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_survey_is_written_behind_one_encrypted_port_for_clients_with_certificate_and_token(
    files: Path, monkeypatch: pytest.MonkeyPatch
):
    """All roles in one process, open to the network: what protects the port does not stand between the roles."""
    variables = {
        "LISTEN": "0.0.0.0:0",
        "AUTH": "tokens",
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "TLS_CERT": str(files / "gateway/cert.pem"),
        "TLS_KEY": str(files / "gateway/key.pem"),
        "TLS_CLIENT_CA": str(files / "ca.pem"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"PAPERROUTE_GATEWAY__{name}", value)
    client = client_of(files, own="client").model_copy(update={"token": SecretStr(ADMIN_TOKEN)})
    spec = survey_pb.SurveySpec(question="How is LoRA used?", source=search_pb2.SOURCE_SAMPLE, max_papers=10)
    async with embedded(listen=None) as serving:
        port = serving.address.rpartition(":")[2]
        async with open_channel(f"127.0.0.1:{port}", client=client) as channel:
            stub = pb_grpc.SurveyServiceStub(channel)
            made = await stub.CreateSurvey(pb.CreateSurveyRequest(spec=spec), timeout=30)
            watch = stub.WatchSurvey(pb.WatchSurveyRequest(survey_id=made.survey.survey_id), timeout=60)
            last = [event async for event in watch][-1]

    assert last.finished.state == survey_pb.SURVEY_STATE_DONE
