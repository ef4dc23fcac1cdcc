"""What both roles are made of: providers, paid calls, engines. Nothing of it is opened before it is used."""

from dataclasses import dataclass

from services.common.paid.calls import PaidCalls
from services.common.paid.process import paid_calls_of
from services.common.paid.settings import ModelSettings, PaidSettings
from services.common.providers.registry import Providers, providers_of
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load

OWNER = "generation"
"""Whose ledger: both roles keep one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a role builds its engines of."""

    models: ModelSettings
    providers: Providers
    calls: PaidCalls


def parts_of(host: RoleServer, shared: SharedSettings) -> Parts:
    """Return the parts; two roles on one server share providers and calls.

    Raises:
        SettingsError: a variable has a bad value.
    """
    providers = providers_of(host)
    calls = paid_calls_of(host, shared, load(PaidSettings), OWNER)
    return Parts(models=load(ModelSettings), providers=providers, calls=calls)
