"""The table of scopes, and what a call must carry."""

import pytest
from grpc_reflection.v1alpha import reflection
from replicas import path_of, public_methods
from survey_rows import Gateways

from gateway.access import limits, tokens
from gateway.access.access import access_of
from gateway.access.guard import LOOK_S, PATROL_S, SCOPES
from gateway.access.principal import LOCAL, Principal, Scope, acting, principal
from gateway.settings import GatewaySettings
from services.common.errors import Forbidden, Unauthenticated
from services.common.guards import IncomingCall

GET = "/paperroute.v1.SurveyService/GetSurvey"
SECRET = "pr_" + "a" * 43


def a_call(*metadata: tuple[str, str | bytes], method: str = GET, is_stream: bool = False) -> IncomingCall:
    return IncomingCall(method=method, metadata=metadata, is_stream=is_stream)


def test_every_public_method_has_a_scope_and_no_other_has_one():
    """A method that is forgotten is refused, so somebody would notice late; this test notices at once."""
    wanted = {path_of(method) for method in public_methods()}
    wanted.add(f"/{reflection.SERVICE_NAME}/ServerReflectionInfo")

    assert set(SCOPES) == wanted


def test_what_is_remembered_is_forgotten_in_the_time_that_is_promised():
    """5 s until a revoked token is refused everywhere, 10 s until its streams have ended."""
    assert max(tokens.MAX_AGE_S, limits.MAX_AGE_S) < 5
    assert tokens.MAX_AGE_S + PATROL_S + LOOK_S < 10


@pytest.mark.parametrize("auth", ["off", "tokens"])
async def test_a_method_that_the_table_does_not_know_is_refused(file_gateways: Gateways, auth: str):
    admin = "an-admin-token-of-the-settings"
    access = access_of(GatewaySettings(auth=auth, admin_token=admin), file_gateways.database)
    forgotten = a_call(("authorization", f"Bearer {admin}"), method="/paperroute.v1.SurveyService/Forgotten")

    with pytest.raises(Forbidden):
        await access.guard(forgotten)
    await access.close()


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="none"),
        pytest.param((("authorization", ""),), id="empty"),
        pytest.param((("authorization", "Bearer"),), id="scheme only"),
        pytest.param((("authorization", "Bearer "),), id="no token"),
        pytest.param((("authorization", SECRET),), id="no scheme"),
        pytest.param((("authorization", f"Basic {SECRET}"),), id="another scheme"),
        pytest.param((("authorization", f"Bearer {SECRET}x"),), id="too long"),
        pytest.param((("authorization", f"Bearer {SECRET} {SECRET}"),), id="two in one"),
        pytest.param((("authorization", f"Bearer {SECRET}"),) * 2, id="the same twice"),
        pytest.param((("authorization", f"Bearer {SECRET}"), ("authorization", "Bearer other")), id="two"),
        pytest.param((("authorization", b"Bearer \xff\x00"),), id="bytes"),
        pytest.param((("authorization", "Bearer \udcff"),), id="no unicode"),
        pytest.param((("authorization", "Bearer ｐｒ＿" + "a" * 43),), id="wide letters"),
        pytest.param((("authorization-bin", f"Bearer {SECRET}".encode()),), id="another key"),
        pytest.param((("authorization", "Bearer " + "x" * 1_000_000),), id="huge"),
    ],
)
async def test_what_is_no_token_is_refused_without_a_look_into_the_database(file_gateways: Gateways, metadata):
    access = access_of(GatewaySettings(auth="tokens"), file_gateways.database)
    await file_gateways.database.close()

    with pytest.raises(Unauthenticated):
        await access.guard(a_call(*metadata))
    await access.close()


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_the_scheme_is_read_in_any_case(file_gateways: Gateways, scheme: str):
    admin = "an-admin-token-of-the-settings"
    access = access_of(GatewaySettings(auth="tokens", admin_token=admin), file_gateways.database)

    around = await access.guard(a_call(("authorization", f"{scheme}{admin}")))
    async with around(None):
        assert principal() == Principal("default", "admin", Scope.ADMIN)
    assert principal() == LOCAL
    await access.close()


async def test_where_no_tokens_are_needed_everybody_is_local(file_gateways: Gateways):
    access = access_of(GatewaySettings(), file_gateways.database)

    around = await access.guard(a_call(("authorization", "nonsense")))
    with acting(Principal("somebody", "else", Scope.READ)):
        async with around(None):
            assert principal() == LOCAL
    await access.close()
