"""Who a call is made for. The guard says so; the servicers ask `principal()`."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum


class Scope(IntEnum):
    """What a token allows; each includes those before it. The numbers are those of `paperroute.v1.TokenScope`."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant, and the token with which it calls."""

    tenant: str
    token_id: str
    """Empty where no tokens are needed."""
    scope: Scope
    is_old_secret: bool = False
    """Whether the token was rotated and the secret before that, in its grace time, was sent."""


LOCAL = Principal("default", "", Scope.ADMIN)
"""Everybody, where no tokens are needed."""

_current: ContextVar[Principal] = ContextVar("principal", default=LOCAL)


def principal() -> Principal:
    """Return who the call under way is made for."""
    return _current.get()


@contextlib.contextmanager
def acting(who: Principal) -> Iterator[None]:
    """Make `who` the principal of what runs inside, tasks that are started there included."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)
