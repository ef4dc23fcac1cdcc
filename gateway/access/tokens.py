"""Tokens: who sends one, and whether it is still good."""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

from gateway.access.principal import Principal, Scope
from gateway.access.recent import Recent
from gateway.store import tokens
from gateway.store.tokens import StoredToken
from services.common.database import Database, clock_s
from services.common.errors import PaperRouteError, Unauthenticated

logger = logging.getLogger(__name__)

MAX_AGE_S = 4.0
"""How old the knowledge of a token may be: revoking one is in force everywhere within 5 s."""
UNKNOWN_AGE_S = 60.0
"""How long a secret stays unknown: none that was tried in vain is ever given out."""
WRITE_EVERY_S = 20.0
"""How long it may take until the table says that a token was used."""
MINUTE_S = 60
MAX_NOTED = 100_000
ADMIN_TOKEN_ID = "admin"  # noqa: S105 - its name, not its secret
"""Stands for the token that is a setting; no token of the table is called so."""
REFUSAL = "this needs a valid token; send it as: authorization: Bearer TOKEN"
"""One message for all: nobody learns whether a token is missing, unknown, expired or revoked."""
_SECRET = re.compile(rb"pr_[A-Za-z0-9_-]{43}")


def new_secret() -> str:
    """Return a new secret: "pr_" and 43 url-safe characters, 256 random bits."""
    return f"pr_{secrets.token_urlsafe(32)}"


def new_token_id() -> str:
    """Return a new name: "tk_" and 16 characters."""
    return f"tk_{secrets.token_hex(8)}"


def digest_of(secret: str | bytes) -> str:
    """Return what is stored of a secret.

    A fast hash is enough: 256 random bits cannot be guessed, however fast guesses are checked. Slow hashes protect what
    people choose, and would cost every request their time.
    """
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


class Tokens:
    """Knows tokens as they were at most 5 s ago, and writes down when they were used."""

    def __init__(self, database: Database, admin_token: SecretStr | None, *, max_age_s: float = MAX_AGE_S) -> None:
        """Take the database, and the token of the first admin, which is none of the table's."""
        self._database = database
        self._admin_digest = digest_of(admin_token.get_secret_value()) if admin_token else ""
        self._recent = Recent(self._read, max_age_s=max_age_s, unknown_age_s=UNKNOWN_AGE_S)
        self._ahead_s = 0.0  # the database's clock less the monotonic one
        self._noted: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._writing: asyncio.Task[None] | None = None

    def digest_in(self, secret: bytes) -> str:
        """Return the digest of what a client sent.

        Raises:
            Unauthenticated: it cannot be a token.
        """
        digest = digest_of(secret)
        if not (self._is_admin(digest) or _SECRET.fullmatch(secret)):
            raise Unauthenticated(REFUSAL)
        return digest

    async def principal_of(self, digest: str) -> Principal:
        """Return who the secret with this digest acts for.

        Raises:
            Unauthenticated: it is no token's, or the token has expired or is revoked.
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        if self._is_admin(digest):
            return Principal("default", ADMIN_TOKEN_ID, Scope.ADMIN)
        token = await self._recent.get(digest)
        now = time.monotonic() + self._ahead_s
        if token is None or not _is_good(token, digest, now):
            raise Unauthenticated(REFUSAL)
        self._note(token, now)
        return Principal(token.tenant, token.token_id, Scope(token.scope), not _is_same(token.hash, digest))

    def forget(self) -> None:
        """Read tokens again: some were changed here."""
        self._recent.forget()

    async def close(self) -> None:
        """Write down which were used, and end what is under way."""
        await self._recent.close()
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        await self._write()

    def _is_admin(self, digest: str) -> bool:
        return bool(self._admin_digest) and _is_same(self._admin_digest, digest)

    async def _read(self, digests: Sequence[str]) -> Mapping[str, StoredToken]:
        now, found = await self._database.read(
            lambda connection: (clock_s(connection), tokens.with_hashes(connection, digests))
        )
        self._ahead_s = now - time.monotonic()
        by_digest = {token.old_hash: token for token in found if token.old_hash}
        return by_digest | {token.hash: token for token in found}

    def _note(self, token: StoredToken, now: float) -> None:
        minute = int(now) // MINUTE_S * MINUTE_S
        if self._noted.get(token.token_id) == minute:
            return
        if len(self._noted) >= MAX_NOTED:
            self._noted.clear()
        self._noted[token.token_id] = self._used[token.token_id] = minute
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_later())

    async def _write_later(self) -> None:
        while self._used:
            await asyncio.sleep(WRITE_EVERY_S)
            await self._write()

    async def _write(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._database.run(lambda connection: tokens.touch(connection, used))
        except PaperRouteError as error:
            self._used = used | self._used  # the next time brings them in
            logger.warning("the use of %d tokens was not written down: %s", len(used), error)


def _is_good(token: StoredToken, digest: str, now: float) -> bool:
    if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now):
        return False
    is_old = token.old_hash is not None and _is_same(token.old_hash, digest)
    return _is_same(token.hash, digest) or (is_old and token.old_until is not None and now < token.old_until)


def _is_same(digest: str, other: str) -> bool:
    return hmac.compare_digest(digest, other)
