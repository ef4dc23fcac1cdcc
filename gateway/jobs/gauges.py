"""Gauges of what all replicas have to do. They are read from memory: a scrape must not wait for the database."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from gateway.store.backlog import Backlog, backlog
from services.common.database import Database
from services.common.errors import PaperRouteError
from services.common.telemetry import names
from services.common.telemetry.metrics import MAX_VALUES

logger = logging.getLogger(__name__)
REFRESH_S = 5.0
"""How old what the gauges tell may be."""


class Gauges:
    """Reads what the gauges tell, again and again, from its start to its end."""

    def __init__(self, database: Database) -> None:
        """Take the gateway's database; nothing is read before `start`."""
        self.latest: Backlog | None = None
        """None where it is not known: there is no series then, rather than an old value."""
        self._database = database
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read; to be called only where metrics are exported."""
        _all.add(self)
        self._task = asyncio.create_task(self._refresh_again_and_again())

    async def close(self) -> None:
        """End it; the gauges tell nothing more."""
        _all.discard(self)
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _refresh_again_and_again(self) -> None:
        while True:
            try:
                self.latest = await self._database.read(lambda connection: backlog(connection, MAX_VALUES))
            except PaperRouteError as error:
                if self.latest:
                    logger.warning("the gauges of the queue tell nothing for now: %s", error)
                self.latest = None
            await asyncio.sleep(REFRESH_S)


_all: WeakSet[Gauges] = WeakSet()
"""Those of the gateways in this process: one, but in tests."""
_meter = metrics.get_meter("paperroute")


def _reading(values: Callable[[Backlog], Iterable[Observation]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_options: CallbackOptions) -> Iterable[Observation]:
        for gauges in list(_all):
            if gauges.latest:
                yield from values(gauges.latest)

    return observed


queue_depth = _meter.create_observable_gauge(
    names.QUEUE_DEPTH,
    callbacks=[_reading(lambda known: [Observation(known.queued_count)])],
    unit="{survey}",
    description="Surveys that wait for their turn, of all replicas: each tells the same, so take the largest.",
)
surveys_running = _meter.create_observable_gauge(
    names.SURVEYS_RUNNING,
    callbacks=[_reading(lambda known: [Observation(known.running_count)])],
    unit="{survey}",
    description="Surveys that have had their turn and have not ended, of all replicas: each tells the same.",
)
survey_silence = _meter.create_observable_gauge(
    names.SURVEY_SILENCE,
    callbacks=[_reading(lambda known: [Observation(known.silence_s)])],
    unit="s",
    description="Since the last event of the running survey that has been silent longest, 0 without one, of all "
    "replicas: each tells the same.",
)
budget_spent = _meter.create_observable_gauge(
    names.BUDGET_SPENT,
    callbacks=[
        _reading(lambda known: [Observation(part, {names.TENANT: each}) for each, part in known.spent_parts.items()])
    ],
    unit="1",
    description="Part of this month's limit that a tenant has spent, by paperroute.tenant, of the 100 nearest to their "
    "limits: each replica tells the same.",
)
