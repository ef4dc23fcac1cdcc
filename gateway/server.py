"""Builds the gateway; `paperroute serve gateway` runs its main()."""

from paperroute.v1 import admin_service_pb2_grpc as admin_grpc
from paperroute.v1 import survey_service_pb2_grpc as survey_grpc
from paperroute.v1 import usage_service_pb2_grpc as usage_grpc

from gateway.access.access import access_of, protection_of
from gateway.api.admin_service import AdminService
from gateway.api.survey_service import SurveyService
from gateway.api.usage_service import UsageService
from gateway.console.mounting import mount_console
from gateway.jobs.counting import begin_counting
from gateway.jobs.desk import Desk
from gateway.jobs.durable import Durable
from gateway.jobs.gauges import Gauges
from gateway.jobs.replicas import replica_locks
from gateway.jobs.runs import Runs
from gateway.jobs.turns import TurnLimits, Turns
from gateway.jobs.upkeep import Upkeep
from gateway.jobs.watching import WatchHub
from gateway.jobs.writer import SurveyWriter
from gateway.money.budget import Budgets
from gateway.pipeline.patience import Patience
from gateway.services import connect
from gateway.settings import GatewaySettings
from gateway.store.schema import gateway_database
from services.common.paid.prices import PriceBook
from services.common.paid.settings import ModelSettings, PaidSettings
from services.common.role import serve_role
from services.common.server import RoleServer
from services.common.settings import SharedSettings, load

SURVEYS = "paperroute.v1.SurveyService"
USAGE = "paperroute.v1.UsageService"
ADMIN = "paperroute.v1.AdminService"


def mount(host: RoleServer, settings: GatewaySettings, shared: SharedSettings) -> None:
    """Add the public services to a server, with channels to the services of the settings.

    Raises:
        SettingsError: prices, models or the console's address in the settings cannot be used.
    """
    prices, models = PriceBook(load(PaidSettings).prices), load(ModelSettings)
    host.opening(lambda: _open(host, settings, shared, prices, models))
    mount_console(host, settings, shared)


async def _open(
    host: RoleServer, settings: GatewaySettings, shared: SharedSettings, prices: PriceBook, models: ModelSettings
) -> None:
    """Make the gateway's objects in the loop that serves: what is resumed runs on it, over its channels."""
    database = gateway_database(shared)
    services = connect(settings, shared.service_token)
    access = access_of(settings, database)
    budgets = Budgets(database, services, prices)
    hub = WatchHub(database)
    writer = SurveyWriter(database, hub)
    locks = replica_locks(shared)
    upkeep = Upkeep(database, services, retention_days=settings.retention_days)
    runs = Runs(
        database=database,
        writer=writer,
        services=services,
        patience=Patience(settings.max_summaries_in_flight),
        budgets=budgets,
        tenants=access.limits,
        sections_in_flight=settings.max_sections_in_flight,
        absence_s=settings.service_absence_s,
        max_interruptions=settings.max_interruptions,
        owner=await locks.acquire(),
        changed=hub.changed,
        settle_soon=upkeep.settle_soon,
    )
    durable = Durable(shared, runs.run, runs.owner)
    turns = Turns(database, durable, locks, _turn_limits(settings), runs=runs, changed=hub.changed)
    gauges = Gauges(database)
    desk = Desk(database=database, hub=hub, turns=turns, runs=runs, durable=durable, upkeep=upkeep)

    async def close() -> None:
        """Stop what runs here, the last one made first; surveys under way are left for others to take over."""
        await gauges.close()
        await upkeep.close()
        await turns.close()
        await durable.close()
        await writer.close()
        await locks.close()
        await access.close()
        await services.close()
        await database.close()

    surveys = SurveyService(settings, desk, tenants=access.limits, budgets=budgets, models=models, prices=prices)
    survey_grpc.add_SurveyServiceServicer_to_server(surveys, host.server)
    usage_grpc.add_UsageServiceServicer_to_server(UsageService(database), host.server)
    admin_grpc.add_AdminServiceServicer_to_server(AdminService(database, access), host.server)
    host.mounted(SURVEYS, close, access.guard)
    host.mounted(USAGE, None, access.guard)
    host.mounted(ADMIN, None, access.guard)
    host.draining(hub.close)
    await durable.launch()
    await turns.start()
    upkeep.start()
    if shared.otlp_endpoint or shared.metrics_listen:
        begin_counting()
        gauges.start()


def _turn_limits(settings: GatewaySettings) -> TurnLimits:
    return TurnLimits(
        max_running=settings.max_running_surveys,
        max_running_per_tenant=settings.max_running_surveys_per_tenant,
        can_recover=settings.take_over,
        own_only=settings.own_only,
    )


async def main() -> None:
    """Serve the gateway until a signal."""
    await serve_role("gateway", GatewaySettings, mount, protection_of)
