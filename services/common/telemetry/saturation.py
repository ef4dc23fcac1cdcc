"""Gauges of what holds calls back, read from the governors that are open when metrics are sent or scraped."""

import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from services.common.telemetry import names
from services.common.telemetry.metrics import models


class Governed(Protocol):
    """A governor as the gauges read it, in a thread of the exporter."""

    model: str
    """"provider:model"."""

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""

    @property
    def in_flight_count(self) -> int:
        """How many are."""

    @property
    def waiting_count(self) -> int:
        """How many wait for their turn."""

    @property
    def cooldown_s(self) -> float:
        """How long it still sends nothing after a refusal; 0 where it does not pause."""


_open: set["weakref.ref[Governed]"] = set()


def watch(governor: Governed) -> None:
    """Read a governor until it is forgotten, or gone."""
    _open.add(weakref.ref(governor, _open.discard))


def forget(governor: Governed) -> None:
    """Read it no more."""
    _open.discard(weakref.ref(governor))


Read = Callable[[Governed], float]


def _gauge(read: Read, together: Callable[[float, float], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return what observes one figure of each model; a process may have several governors of one."""

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        figures: dict[str, float] = {}
        for reference in tuple(_open):
            governor = reference()
            if governor is not None:
                model, figure = models.of(governor.model), read(governor)
                figures[model] = together(figures[model], figure) if model in figures else figure
        return [Observation(figure, {names.MODEL: model}) for model, figure in figures.items()]

    return observe


def _sum(one: float, other: float) -> float:
    return one + other


_meter = metrics.get_meter("paperroute")

limit = _meter.create_observable_gauge(
    names.GOVERNOR_LIMIT,
    [_gauge(lambda governor: governor.limit, _sum)],
    unit="{call}",
    description="Calls to a model that may be in flight, by model; it grows and shrinks with what the server takes.",
)
in_flight = _meter.create_observable_gauge(
    names.GOVERNOR_IN_FLIGHT,
    [_gauge(lambda governor: governor.in_flight_count, _sum)],
    unit="{call}",
    description="Calls to a model that are in flight, by model.",
)
waiting = _meter.create_observable_gauge(
    names.GOVERNOR_WAITING,
    [_gauge(lambda governor: governor.waiting_count, _sum)],
    unit="{call}",
    description="Calls that wait for their turn, by model.",
)
cooldown = _meter.create_observable_gauge(
    names.GOVERNOR_COOLDOWN,
    [_gauge(lambda governor: governor.cooldown_s, max)],
    unit="s",
    description="Time left of the pause after a refusal, by model; 0 where there is none.",
)
