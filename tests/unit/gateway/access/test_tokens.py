"""Tokens: what is stored of them, and until when they are good."""

import asyncio
import contextlib
import re
from typing import Any

import pytest
from paperroute.v1 import admin_service_pb2 as pb
from pydantic import SecretStr
from survey_rows import Gateways

from gateway.access.principal import Principal, Scope
from gateway.access.tokens import ADMIN_TOKEN_ID, Tokens, digest_of, new_secret, new_token_id
from gateway.store import tokens as rows
from gateway.store.tokens import NewToken, StoredToken
from services.common.database import clock_s
from services.common.errors import NotFound, Unauthenticated, UpstreamFailed

ADMIN = SecretStr("an-admin-token-of-the-settings")


async def made(gateways: Gateways, *, tenant: str = "team", name: str = "", **fields: Any) -> tuple[StoredToken, str]:
    """Make a token and return it with its secret."""
    secret = new_secret()
    new = NewToken(
        token_id=new_token_id(),
        tenant=tenant,
        name=name,
        scope=fields.get("scope", pb.TOKEN_SCOPE_READ),
        hash=digest_of(secret),
        expires_at=fields.get("expires_at"),
    )
    return await gateways.database.run(lambda connection: rows.create(connection, new)), secret


async def now_of(gateways: Gateways) -> float:
    return await gateways.database.read(clock_s)


def known(gateways: Gateways, **options: Any) -> Tokens:
    return gateways.closing(Tokens(gateways.database, ADMIN, **options))


async def who_is(tokens: Tokens, secret: str) -> Principal:
    return await tokens.principal_of(tokens.digest_in(secret.encode()))


async def refused(tokens: Tokens, secret: str) -> None:
    """Wait until a secret that was good is not any more."""
    async with asyncio.timeout(30):
        with contextlib.suppress(Unauthenticated):
            while True:
                await who_is(tokens, secret)
                await asyncio.sleep(0.02)


def test_secrets_are_long_random_and_safe_in_a_header_and_a_shell():
    secrets = {new_secret() for _ in range(1_000)}

    assert len(secrets) == 1_000
    assert all(re.fullmatch(r"pr_[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert all(re.fullmatch(r"tk_[0-9a-f]{16}", new_token_id()) for _ in range(100))


async def test_a_secret_leads_to_its_tenant_and_scope(gateways: Gateways):
    token, secret = await made(gateways, scope=pb.TOKEN_SCOPE_WRITE)

    assert await who_is(known(gateways), secret) == Principal("team", token.token_id, Scope.WRITE)


async def test_nothing_that_is_stored_holds_a_secret(gateways: Gateways):
    token, secret = await made(gateways)
    _, rotated = await rotate(gateways, token.token_id)

    (row,) = await gateways.sql("SELECT * FROM token")
    stored = " ".join(map(str, row.values()))
    assert secret not in stored
    assert rotated not in stored
    assert secret[3:] not in repr(token)


async def rotate(gateways: Gateways, token_id: str, grace_s: int = 0) -> tuple[StoredToken, str]:
    secret = new_secret()
    token = await gateways.database.run(
        lambda connection: rows.rotate(connection, token_id, digest_of(secret), grace_s)
    )
    return token, secret


async def test_the_old_secret_is_good_for_the_grace_time_only(gateways: Gateways):
    token, old = await made(gateways)
    _, new = await rotate(gateways, token.token_id, grace_s=1_000)
    mine = known(gateways)

    assert (await who_is(mine, old)).is_old_secret
    assert not (await who_is(mine, new)).is_old_secret

    await gateways.sql("UPDATE token SET old_until = old_until - 1001")
    mine.forget()
    with pytest.raises(Unauthenticated):
        await who_is(mine, old)
    assert await who_is(mine, new)


async def test_without_a_grace_time_the_old_secret_ends_at_once(gateways: Gateways):
    token, old = await made(gateways)
    _, new = await rotate(gateways, token.token_id)

    with pytest.raises(Unauthenticated):
        await who_is(known(gateways), old)
    assert await who_is(known(gateways), new)


async def test_of_two_rotations_only_the_last_secret_but_one_has_grace(gateways: Gateways):
    token, first = await made(gateways)
    _, second = await rotate(gateways, token.token_id, grace_s=1_000)
    _, third = await rotate(gateways, token.token_id, grace_s=1_000)
    mine = known(gateways)

    assert (await who_is(mine, second)).is_old_secret
    assert not (await who_is(mine, third)).is_old_secret
    with pytest.raises(Unauthenticated):
        await who_is(mine, first)


async def test_rotations_at_the_same_time_leave_one_secret_that_is_good(gateways: Gateways):
    token, _ = await made(gateways)

    secrets = [secret for _, secret in await asyncio.gather(*(rotate(gateways, token.token_id) for _ in range(5)))]

    mine = known(gateways)
    ends = await asyncio.gather(*(who_is(mine, secret) for secret in secrets), return_exceptions=True)
    assert sorted(isinstance(end, Principal) for end in ends) == [False] * 4 + [True]


async def test_a_token_expires_by_the_clock_of_the_database_also_while_it_is_remembered(gateways: Gateways):
    _, secret = await made(gateways, expires_at=await now_of(gateways) + 1.5)
    mine = known(gateways)
    assert await who_is(mine, secret)

    await refused(mine, secret)
    assert await now_of(gateways) >= (await gateways.sql("SELECT expires_at FROM token"))[0]["expires_at"] - 0.1


async def test_a_revoked_token_is_refused_by_a_replica_that_remembers_it(gateways: Gateways):
    token, secret = await made(gateways)
    other = known(gateways, max_age_s=0.2)
    assert await who_is(other, secret)

    ended, is_new = await gateways.database.run(lambda connection: rows.revoke(connection, token.token_id))

    assert is_new
    assert ended.revoked_at is not None
    await refused(other, secret)


async def test_revoking_again_changes_nothing(gateways: Gateways):
    token, _ = await made(gateways)
    first, _ = await gateways.database.run(lambda connection: rows.revoke(connection, token.token_id))

    again, is_new = await gateways.database.run(lambda connection: rows.revoke(connection, token.token_id))

    assert not is_new
    assert again == first


async def test_a_revoked_token_gets_no_new_secret(gateways: Gateways):
    token, _ = await made(gateways)
    await gateways.database.run(lambda connection: rows.revoke(connection, token.token_id))

    with pytest.raises(NotFound):
        await rotate(gateways, token.token_id)


@pytest.mark.parametrize("act", ["rotate", "revoke"])
async def test_a_token_that_is_not_there_is_named(gateways: Gateways, act: str):
    def work(connection: Any) -> object:
        if act == "revoke":
            return rows.revoke(connection, "tk_0000000000000000")
        return rows.rotate(connection, "tk_0000000000000000", "0" * 64, 0)

    with pytest.raises(NotFound, match="tk_0000000000000000"):
        await gateways.database.run(work)


async def test_tokens_are_listed_newest_first(gateways: Gateways):
    tokens = []
    for number, tenant in enumerate(["a", "b", "a"]):
        token, _ = await made(gateways, tenant=tenant, name=str(number))
        tokens.append(token)
        await gateways.sql("UPDATE token SET created_at = created_at - 10")

    for tenant, expected in (("", ["2", "1", "0"]), ("a", ["2", "0"]), ("c", [])):
        found = await gateways.database.read(lambda connection, tenant=tenant: rows.every(connection, tenant))
        assert [token.name for token in found] == expected


@pytest.mark.parametrize("secret", [b"", b"pr_", b"pr_" + b"a" * 42, b"pr_" + b"\xff" * 43, b"x" * 10_000])
async def test_what_cannot_be_a_secret_is_not_looked_up(file_gateways: Gateways, secret: bytes):
    with pytest.raises(Unauthenticated):
        known(file_gateways).digest_in(secret)


async def test_the_token_of_the_settings_needs_no_database(tmp_path: Any, file_gateways: Gateways):
    mine = known(file_gateways)
    await file_gateways.database.close()

    assert await who_is(mine, ADMIN.get_secret_value()) == Principal("default", ADMIN_TOKEN_ID, Scope.ADMIN)


async def test_without_that_setting_nobody_is_admin(file_gateways: Gateways):
    mine = file_gateways.closing(Tokens(file_gateways.database, None))

    for secret in (b"", ADMIN.get_secret_value().encode()):
        with pytest.raises(Unauthenticated):
            mine.digest_in(secret)


async def test_all_refusals_are_the_same(gateways: Gateways):
    """Nobody learns whether a token was ever there."""
    revoked, revoked_secret = await made(gateways)
    await gateways.database.run(lambda connection: rows.revoke(connection, revoked.token_id))
    _, expired_secret = await made(gateways, expires_at=await now_of(gateways) - 1)
    mine = known(gateways)

    messages = set()
    for secret in (revoked_secret, expired_secret, new_secret(), "nonsense"):
        with pytest.raises(Unauthenticated) as refusal:
            await who_is(mine, secret)
        messages.add((refusal.value.message, str(refusal.value.metadata)))
    assert len(messages) == 1


async def test_the_minute_of_the_last_use_is_written_down_in_one_transaction(gateways: Gateways):
    made_tokens = [await made(gateways) for _ in range(20)]
    mine = known(gateways)
    before = await now_of(gateways)
    for _ in range(5):
        await asyncio.gather(*(who_is(mine, secret) for _, secret in made_tokens))
    assert {row["last_used_at"] for row in await gateways.sql("SELECT last_used_at FROM token")} == {None}

    runs = counted(gateways)
    await mine.close()

    assert runs == ["run"]
    used = {row["last_used_at"] for row in await gateways.sql("SELECT last_used_at FROM token")}
    assert all(moment % 60 == 0 and before - 60 <= moment <= before + 60 for moment in used)


def counted(gateways: Gateways) -> list[str]:
    """Note from now on what the database is asked for."""
    asked: list[str] = []
    for name in ("run", "read"):
        plain = getattr(gateways.database, name)

        async def counting(work: Any, name: str = name, plain: Any = plain) -> Any:
            asked.append(name)
            return await plain(work)

        setattr(gateways.database, name, counting)
    return asked


async def test_use_is_written_down_while_the_gateway_runs_and_again_after_a_failure(
    file_gateways: Gateways, monkeypatch: pytest.MonkeyPatch
):
    from gateway.access import tokens as module

    monkeypatch.setattr(module, "WRITE_EVERY_S", 0.05)
    _, secret = await made(file_gateways)
    mine = known(file_gateways)
    plain, failures = file_gateways.database.run, [1, 2]

    async def failing(work: Any) -> Any:
        if failures:
            failures.pop()
            raise UpstreamFailed("the gateway's database", "is away", retry_after_s=1)
        return await plain(work)

    file_gateways.database.run = failing  # type: ignore[method-assign]
    await who_is(mine, secret)

    async with asyncio.timeout(10):
        while True:
            if (await file_gateways.database.read(lambda connection: rows.every(connection, "")))[0].last_used_at:
                break
            await asyncio.sleep(0.02)
    assert not failures


async def test_an_earlier_use_does_not_replace_a_later_one(gateways: Gateways):
    """Replicas write in any order."""
    token, _ = await made(gateways)
    for moment in (600, 1_200, 60):
        await gateways.database.run(lambda connection, moment=moment: rows.touch(connection, {token.token_id: moment}))

    assert [row["last_used_at"] for row in await gateways.sql("SELECT last_used_at FROM token")] == [1_200]


async def test_guesses_are_few_readings_and_known_tokens_are_admitted_meanwhile(gateways: Gateways):
    _, secret = await made(gateways)
    mine = known(gateways)
    await who_is(mine, secret)
    asked = counted(gateways)

    guesses = await asyncio.gather(*(who_is(mine, new_secret()) for _ in range(2_000)), return_exceptions=True)

    assert {type(guess) for guess in guesses} == {Unauthenticated}
    assert len(asked) <= 6
    assert await who_is(mine, secret)
