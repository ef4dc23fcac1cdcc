"""The paid calls of a process: one ledger, one set of governors, shared by the roles that run in it."""

from services.common.paid.calls import PaidCalls
from services.common.paid.governor import Governors
from services.common.paid.ledger import Ledger
from services.common.paid.ledger_schema import ledger_database
from services.common.paid.prices import PriceBook
from services.common.paid.settings import PaidSettings
from services.common.paid.shared_limits import SharedLimits
from services.common.providers.registry import providers_of
from services.common.server import RoleServer
from services.common.settings import SharedSettings


def paid_calls_of(host: RoleServer, shared: SharedSettings, paid: PaidSettings, owner: str) -> PaidCalls:
    """Return the paid calls that the roles of a server share; nothing is opened before the first of them.

    Args:
        host: closes them at the end, before the providers.
        shared: where the ledger is.
        paid: prices, limits and how long answers are kept.
        owner: of the ledger: "generation" or "embedding".

    Raises:
        SettingsError: the prices or the address of the database cannot be used.
    """

    def make() -> PaidCalls:
        database = ledger_database(shared, owner)
        ledger = Ledger(database, owner, retention_days=paid.retention_days, max_answer_bytes=paid.max_answer_bytes)
        limits_of = providers_of(host).limits_of
        governors = Governors(limits_of, SharedLimits(database, owner), replicas=paid.replicas)
        return PaidCalls(ledger, PriceBook(paid.prices), governors)

    return host.once(f"paid calls of {owner}", make, PaidCalls.close)
