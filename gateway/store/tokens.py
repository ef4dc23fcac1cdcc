"""Rows of the table `token`, as functions of a connection within the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paperroute.v1 import admin_service_pb2 as pb

from services.common.database import clock_s
from services.common.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredToken:
    """A row. Moments are seconds since 1970 by the database's clock, hashes SHA-256 in hexadecimal digits."""

    token_id: str
    tenant: str
    name: str
    scope: pb.TokenScope.ValueType
    hash: str
    old_hash: str | None
    """Of the secret before the last rotation."""
    old_until: float | None
    """Until when that one is good."""
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    """A token to be made; its tenant is there."""

    token_id: str
    tenant: str
    name: str
    scope: pb.TokenScope.ValueType
    hash: str
    expires_at: float | None


def create(connection: "Connection", new: NewToken) -> StoredToken:
    """Make a token."""
    from sqlalchemy import insert

    from gateway.store.tables import TOKEN

    values = {
        "token_id": new.token_id,
        "tenant": new.tenant,
        "name": new.name,
        "scope": int(new.scope),
        "hash": new.hash,
        "expires_at": new.expires_at,
        "created_at": clock_s(connection),
    }
    return _token_of(connection.execute(insert(TOKEN).values(values).returning(*TOKEN.c)).one())


def every(connection: "Connection", tenant: str) -> list[StoredToken]:
    """Return the tokens of a tenant, of all if it is empty, newest first."""
    from sqlalchemy import select

    from gateway.store.tables import TOKEN

    query = select(TOKEN).order_by(TOKEN.c.created_at.desc(), TOKEN.c.token_id)
    if tenant:
        query = query.where(TOKEN.c.tenant == tenant)
    return [_token_of(row) for row in connection.execute(query)]


def with_hashes(connection: "Connection", hashes: Sequence[str]) -> list[StoredToken]:
    """Return the tokens that have one of these hashes now, or had it before the last rotation."""
    from sqlalchemy import or_, select

    from gateway.store.tables import TOKEN

    query = select(TOKEN).where(or_(TOKEN.c.hash.in_(hashes), TOKEN.c.old_hash.in_(hashes)))
    return [_token_of(row) for row in connection.execute(query)]


def rotate(connection: "Connection", token_id: str, new_hash: str, grace_s: int) -> StoredToken:
    """Give a token another hash and return it; the one it had is good for `grace_s`.

    Raises:
        NotFound: there is no such token, or it is revoked.
    """
    from sqlalchemy import null, update

    from gateway.store.tables import TOKEN

    old = {"old_hash": TOKEN.c.hash, "old_until": clock_s(connection) + grace_s}
    values = {"hash": new_hash, **(old if grace_s else {"old_hash": null(), "old_until": null()})}
    query = update(TOKEN).where(TOKEN.c.token_id == token_id, TOKEN.c.revoked_at.is_(None)).values(values)
    row = connection.execute(query.returning(*TOKEN.c)).one_or_none()
    if row is None:
        raise NotFound("token", token_id)
    return _token_of(row)


def revoke(connection: "Connection", token_id: str) -> tuple[StoredToken, bool]:
    """End a token; return it and whether it was not ended before.

    Raises:
        NotFound: there is no such token.
    """
    from sqlalchemy import select, update

    from gateway.store.tables import TOKEN

    query = update(TOKEN).where(TOKEN.c.token_id == token_id, TOKEN.c.revoked_at.is_(None))
    ended = connection.execute(query.values(revoked_at=clock_s(connection)).returning(*TOKEN.c)).one_or_none()
    if ended is not None:
        return _token_of(ended), True
    row = connection.execute(select(TOKEN).where(TOKEN.c.token_id == token_id)).one_or_none()
    if row is None:
        raise NotFound("token", token_id)
    return _token_of(row), False


def touch(connection: "Connection", used: Mapping[str, int]) -> None:
    """Write down when tokens were used last, by token_id; a moment before the one that is there changes nothing."""
    from sqlalchemy import bindparam, or_, update

    from gateway.store.tables import TOKEN

    is_earlier = or_(TOKEN.c.last_used_at.is_(None), TOKEN.c.last_used_at < bindparam("at"))
    query = update(TOKEN).where(TOKEN.c.token_id == bindparam("id_"), is_earlier).values(last_used_at=bindparam("at"))
    # In one order everywhere, so that two replicas do not wait for each other's rows.
    connection.execute(query, [{"id_": token_id, "at": float(used[token_id])} for token_id in sorted(used)])


def _token_of(row: "Row[Any]") -> StoredToken:
    return StoredToken(**row._asdict())
