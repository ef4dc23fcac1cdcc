"""Who may call what: tokens, scopes, rates, streams that outlive their token, and services among themselves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paperroute.v1 import admin_service_pb2 as admin_pb
from paperroute.v1 import survey_service_pb2 as survey_pb
from paperroute.v1 import survey_service_pb2_grpc as survey_grpc
from raw_http2 import grpc_status
from replicas import ADMIN_TOKEN, PUBLIC, Callers, Replica, called, path_of, public_methods, replica
from survey_rows import Gateways

from gateway.access.guard import SCOPES
from gateway.access.principal import LOCAL, Principal, Scope
from gateway.access.tokens import new_secret
from services.common import errors
from services.common.channel import open_channel
from services.common.server import RoleServer

METHODS = [pytest.param(method, id=path_of(method).rpartition(".")[2]) for method in public_methods()]
BY_NAME = {method.name: method for method in public_methods()}
GET = survey_pb.GetSurveyRequest(survey_id="x")
READ, WRITE, ADMIN = admin_pb.TOKEN_SCOPE_READ, admin_pb.TOKEN_SCOPE_WRITE, admin_pb.TOKEN_SCOPE_ADMIN


@pytest.fixture
async def served(file_gateways: Gateways) -> AsyncIterator[Replica]:
    async with replica(file_gateways.database, max_requests_per_s=1_000) as made:
        yield made


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value


async def refused(call: Any, within_s: float = 10.0) -> grpc.aio.AioRpcError:
    """Return the failure of a call that goes through for a while and then no more; `call` makes it anew."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as failure:
                return failure
            await asyncio.sleep(0.02)


def detail_in(failure: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = errors.status_in(failure)
    assert status is not None
    detail = kind()
    (packed,) = [each for each in status.details if each.Is(kind.DESCRIPTOR)]
    packed.Unpack(detail)
    return detail


# Tokens and scopes


@pytest.mark.parametrize("method", METHODS)
async def test_no_method_answers_without_a_token(served: Replica, method: MethodDescriptor):
    failure = await failure_of(called(served.channel(), method))

    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    assert detail_in(failure, error_details_pb2.ErrorInfo).reason == "UNAUTHENTICATED"
    assert served.callers.seen == []


async def test_every_method_asks_for_its_scope_and_names_it(served: Replica):
    await served.tenant("team")
    for given_scope in (READ, WRITE, ADMIN):
        channel = served.channel((await served.token("team", given_scope)).secret)
        for method in public_methods():
            if method.name == "RotateToken":
                continue  # a token may rotate itself, whatever its scope
            needed = SCOPES[path_of(method)]
            try:
                await called(channel, method)
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as failure:
                code = failure.code()
                if code is grpc.StatusCode.PERMISSION_DENIED:
                    info = detail_in(failure, error_details_pb2.ErrorInfo)
                    assert (info.reason, info.metadata["scope"]) == ("FORBIDDEN", needed.name.lower())
            assert (code is grpc.StatusCode.PERMISSION_DENIED) == (given_scope < needed), (method.name, given_scope)
            assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAUTHENTICATED}


async def test_the_servicer_learns_whose_token_it_is(served: Replica):
    await served.tenant("team")
    token = await served.token("team", WRITE)
    await called(served.channel(token.secret), BY_NAME["CreateSurvey"])
    await called(served.channel(token.secret), BY_NAME["WatchSurvey"])

    who = Principal("team", token.token.token_id, Scope.WRITE)
    assert served.callers.seen == [("CreateSurvey", who), ("WatchSurvey", who)]


async def test_calls_at_the_same_time_keep_their_callers_apart(served: Replica):
    tokens = []
    for name in "abcdefgh":
        await served.tenant(name)
        tokens.append((await served.token(name)).secret)
    surveys = [served.surveys(secret) for secret in tokens]

    await asyncio.gather(*(stub.GetSurvey(GET, timeout=20) for stub in surveys for _ in range(25)))

    seen = [who.tenant for _, who in served.callers.seen]
    assert sorted(seen) == sorted("abcdefgh" * 25)


async def test_every_refusal_looks_the_same(served: Replica):
    """Nobody learns from it whether there is a token, or was."""
    await served.tenant("team")
    revoked = await served.token("team")
    await served.admin().RevokeToken(admin_pb.RevokeTokenRequest(token_id=revoked.token.token_id), timeout=10)
    rotated = await served.token("team")
    await served.admin().RotateToken(admin_pb.RotateTokenRequest(token_id=rotated.token.token_id), timeout=10)

    seen = set()
    for secret in ("", "nonsense-that-is-long-enough", new_secret(), revoked.secret, rotated.secret):
        failure = await failure_of(served.surveys(secret).GetSurvey(GET, timeout=10))
        status = errors.status_in(failure)
        seen.add((failure.code(), failure.details(), status.SerializeToString() if status else b""))
    assert len(seen) == 1


async def test_a_token_that_is_revoked_on_one_replica_ends_on_the_others(gateways: Gateways):
    async with replica(gateways.database) as one, replica(gateways.another_database()) as other:
        await one.tenant("team")
        token = await one.token("team")
        surveys = other.surveys(token.secret)
        await surveys.GetSurvey(GET, timeout=10)

        await one.admin().RevokeToken(admin_pb.RevokeTokenRequest(token_id=token.token.token_id), timeout=10)

        here = await failure_of(one.surveys(token.secret).GetSurvey(GET, timeout=10))
        there = await refused(lambda: surveys.GetSurvey(GET, timeout=10))
    assert here.code() is there.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_new_token_is_good_on_every_replica_at_once(gateways: Gateways):
    async with replica(gateways.database) as one, replica(gateways.another_database()) as other:
        await one.tenant("team")
        for _ in range(5):
            token = await one.token("team")
            await other.surveys(token.secret).GetSurvey(GET, timeout=10)


async def test_without_its_database_the_gateway_says_that_it_cannot_tell(file_gateways: Gateways):
    """Neither that the token is bad, which would make clients throw it away, nor INTERNAL."""
    async with replica(file_gateways.database) as served:
        served.access.tokens._recent._read = _away
        failure = await failure_of(served.surveys(new_secret()).GetSurvey(GET, timeout=10))

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert detail_in(failure, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


async def _away(_keys: Any) -> Any:
    raise errors.UpstreamFailed("the gateway's database", "is away", retry_after_s=1)


# Rates


async def test_who_calls_too_often_is_told_when_to_come_back(file_gateways: Gateways):
    async with replica(file_gateways.database) as served:
        await served.tenant("slow", max_requests_per_s=0.5)
        await served.tenant("quick", max_requests_per_s=1_000)
        slow, quick = [served.surveys((await served.token(name)).secret) for name in ("slow", "quick")]
        await slow.GetSurvey(GET, timeout=10)

        failure = await failure_of(slow.GetSurvey(GET, timeout=10))
        await asyncio.gather(*(quick.GetSurvey(GET, timeout=10) for _ in range(50)))

    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert errors.reason_in(failure) == "RATE_LIMITED"
    assert 0 < detail_in(failure, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() <= 2_000


async def test_watching_counts_once_and_refused_calls_count_too(file_gateways: Gateways):
    async with replica(file_gateways.database) as served:
        await served.tenant("team", max_requests_per_s=2)
        secret = (await served.token("team")).secret
        surveys = served.surveys(secret)
        watch = surveys.WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=20)
        await watch.read()
        served.callers.let_go.set()
        await watch.read()
        forbidden = await failure_of(called(served.channel(secret), BY_NAME["CreateSurvey"]))
        failure = await failure_of(surveys.GetSurvey(GET, timeout=10))

    assert forbidden.code() is grpc.StatusCode.PERMISSION_DENIED
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Streams


async def test_a_stream_ends_with_its_token(gateways: Gateways):
    """A watcher whose token is revoked, here or on another replica, sees nothing more."""
    async with replica(gateways.database) as one, replica(gateways.another_database()) as other:
        await one.tenant("team")
        ended, kept = [await one.token("team") for _ in range(2)]
        watches = [
            each.surveys(token.secret).WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=30)
            for each in (one, other)
            for token in (ended, kept)
        ]
        for watch in watches:
            await watch.read()

        await one.admin().RevokeToken(admin_pb.RevokeTokenRequest(token_id=ended.token.token_id), timeout=10)

        for watch in (watches[0], watches[2]):
            failure = await failure_of(watch.read())
            assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
            assert errors.reason_in(failure) == "UNAUTHENTICATED"
        for each in (one, other):
            each.callers.let_go.set()
        for watch in (watches[1], watches[3]):
            assert await watch.read() != grpc.aio.EOF
            assert await watch.read() == grpc.aio.EOF


async def test_a_stream_ends_when_its_token_expires(gateways: Gateways):
    async with replica(gateways.database, max_age_s=60) as served:
        await served.tenant("team")
        token = await served.token("team")
        watch = served.surveys(token.secret).WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=30)
        await watch.read()
        await gateways.sql("UPDATE token SET expires_at = created_at")
        served.access.tokens.forget()

        failure = await failure_of(watch.read())

    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_whose_token_cannot_be_checked_ends_and_may_come_back(
    file_gateways: Gateways,
):
    async with replica(file_gateways.database) as served:
        watch = served.surveys(ADMIN_TOKEN).WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=30)
        await watch.read()
        await served.tenant("team")
        secret = (await served.token("team")).secret
        checked = served.surveys(secret).WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=30)
        await checked.read()
        served.access.tokens._recent._read = _away

        failure = await failure_of(checked.read())
        served.callers.let_go.set()

        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert await watch.read() != grpc.aio.EOF  # the token of the settings needs no database


async def test_a_client_that_goes_away_leaves_nothing_behind(served: Replica):
    watch = served.surveys(ADMIN_TOKEN).WatchSurvey(survey_pb.WatchSurveyRequest(), timeout=30)
    await watch.read()
    watch.cancel()

    async with asyncio.timeout(10):
        await served.callers.left.wait()
        while served.access.guard._streams:
            await asyncio.sleep(0.01)


# What is open


async def test_health_is_open_and_reflection_needs_a_token(served: Replica):
    stub = health_pb2_grpc.HealthStub(served.channel())
    for name in ("", "paperroute.v1.SurveyService"):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)).status == 1

    assert await _reflected(served) == grpc.StatusCode.UNAUTHENTICATED.value[0]
    await served.tenant("team")
    secret = (await served.token("team")).secret
    assert await _reflected(served, secret) == grpc.StatusCode.OK.value[0]


async def _reflected(served: Replica, secret: str = "") -> int | str:
    """Ask for the list of services. By hand: grpc's client says INTERNAL of itself when it writes to a refused call."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    headers = [(b"authorization", f"Bearer {secret}".encode())] if secret else []
    path = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
    return await grpc_status(served.host.address, path, headers, asked)


async def test_where_no_tokens_are_needed_everybody_is_the_local_admin(file_gateways: Gateways):
    async with replica(file_gateways.database, auth="off") as served:
        await served.surveys().GetSurvey(GET, timeout=10)
        await served.surveys(new_secret()).GetSurvey(GET, timeout=10)
        await called(served.channel(), BY_NAME["ListTenants"])
        assert await _reflected(served) == grpc.StatusCode.OK.value[0]

    assert served.callers.seen == [("GetSurvey", LOCAL)] * 2


async def test_a_method_that_is_not_there_is_unimplemented(served: Replica):
    call = served.channel().unary_unary("/paperroute.v1.SurveyService/Nothing")

    assert (await failure_of(call(b"", timeout=10))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_message_are_not_even_read_without_a_token(served: Replica):
    path = path_of(BY_NAME["GetSurvey"])
    good = ((b"authorization", f"Bearer {ADMIN_TOKEN}".encode()),)

    assert await grpc_status(served.host.address, path, (), b"\xff\xff") == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert await grpc_status(served.host.address, path, good, b"\xff\xff") == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_guard_with_a_bug_lets_nobody_in(caplog: pytest.LogCaptureFixture):
    async def broken(call: Any) -> None:
        raise ZeroDivisionError("a secret")

    host, callers = RoleServer("127.0.0.1:0"), Callers()
    survey_grpc.add_SurveyServiceServicer_to_server(
        callers.servicer(survey_grpc.SurveyServiceServicer, PUBLIC[0]), host.server
    )
    host.mounted(PUBLIC[0].full_name, guard=broken)
    await host.start()
    async with open_channel(host.address) as channel:
        for name in ("CreateSurvey", "WatchSurvey"):
            failure = await failure_of(called(channel, BY_NAME[name]))
            assert (failure.code(), failure.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    await host.stop(0)

    assert callers.seen == []
    assert "ZeroDivisionError" in caplog.text


# Garbage

GOOD = f"Bearer {ADMIN_TOKEN}".encode()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"authorization", b"Bearer \xff\xfe\x80")], id="binary"),
        pytest.param([(b"authorization", b"\x00\x01\x02")], id="control"),
        pytest.param([(b"authorization", b"Bearer " + b"x" * 7_000)], id="large"),
        pytest.param([(b"authorization", b"Bearer " + b"x" * 60_000)], id="huge"),
        pytest.param([(b"authorization", GOOD), (b"authorization", GOOD)], id="twice"),
        pytest.param([(b"authorization", b"Bearer %d" % number) for number in range(3_000)], id="very many"),
        pytest.param([(b"authorization", b"")], id="empty"),
        pytest.param([(b"authorization", "Bearer ｐｒ".encode())], id="wide letters"),
        pytest.param([(b"authorization-bin", b"AAAA")], id="the binary key"),
    ],
)
async def test_a_garbage_header_is_refused_like_any_other(served: Replica, headers: Any):
    status = await grpc_status(served.host.address, path_of(BY_NAME["GetSurvey"]), headers)

    # Headers that are long in all are refused before the guard: by grpc, and between its two limits by chance.
    refusals = [grpc.StatusCode.UNAUTHENTICATED, *([grpc.StatusCode.RESOURCE_EXHAUSTED] if len(headers) > 2 else [])]
    assert status in [each.value[0] for each in refusals]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_mutation_of_a_header_is_a_bug(data: st.DataObject, served: Replica):
    """Whatever bytes stand in the header, the guard says why it refuses them, and nothing else happens."""
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["set", "insert", "remove", "repeat"])):
            case "set":
                mutated[position] = data.draw(st.integers(0, 255))
            case "insert":
                mutated[position:position] = data.draw(st.binary(max_size=40))
            case "remove":
                del mutated[position : position + data.draw(st.integers(1, 10))]
            case _:
                mutated *= 2
        if not mutated:
            break
    copies = data.draw(st.integers(1, 3))

    headers = [(b"authorization", bytes(mutated))] * copies
    status = await grpc_status(served.host.address, path_of(BY_NAME["GetSurvey"]), headers)

    expected = {0, 16} if bytes(mutated).strip().lower().startswith(b"bearer") and copies == 1 else {16}
    assert status in expected
