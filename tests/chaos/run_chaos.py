"""`make chaos`: surveys on a cluster of real processes, killed in every way, against one that nobody disturbs.

On SQLite and on PostgreSQL: the gateway is killed once a survey, at 30 points spread over it, and again and again in
one; each other role once in each stage it takes part in, with requests under way and held back. On PostgreSQL a second
gateway takes over from one that is killed for good, and cancels a survey that another one runs. What was killed is
started again at once.
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.bench_table import Target, finish, print_table
from chaos.arena import (
    Arena,
    Disturbance,
    Ended,
    Moment,
    arena,
    at_number,
    at_once,
    at_request,
    in_order,
    kill,
    kill_frozen,
    kill_while_asking,
    leave_to,
    undisturbed,
)
from chaos.cancelling import cancelled_elsewhere
from paperroute.v1 import survey_pb2 as pb
from postgres import new_database, postgres_server

DATABASES = ("sqlite", "postgresql")
NUMBERS = range(1, 21)
"""Events at which the gateway is killed; the three that follow end the survey."""
REQUESTS = (
    ("plan", 1),
    ("embed", 1),
    *(("summarize", count) for count in (1, 8, 16, 24)),
    *(("write", count) for count in (1, 2, 4)),
    ("frame", 1),
)
"""Requests at which the gateway is killed."""
AGAIN_AND_AGAIN = range(3, 21, 4)
ROLES: Mapping[str, Disturbance] = {
    "retrieval in retrieve": kill_frozen("retrieval", at_once, pb.STAGE_RETRIEVE),
    "ordering in order": kill_frozen("ordering", at_once, pb.STAGE_ORDER),
    "embedding in embed": kill_while_asking("embedding", "embed", 1),
    "summarization in summarize": kill_while_asking("summarization", "summarize", 12),
    "generation in plan": kill_while_asking("generation", "plan", 1),
    "generation in write": kill_while_asking("generation", "write", 2),
    "generation in frame": kill_while_asking("generation", "frame", 1),
}
"""Who is killed in which stage, and how."""
TAKEOVERS = (("plan", 1), ("embed", 1), ("summarize", 12), ("write", 2), ("frame", 1))
TAKEOVER_S = 5
MIN_POINTS = 25


@dataclass(kw_only=True)
class Tally:
    """What surveys of one kind came to."""

    surveys: int = 0
    kills: int = 0
    other_endings: int = 0
    other_citations: int = 0
    paid_twice: int = 0
    lost_events: int = 0
    """Numbers with a gap or repeated, sections finished twice, gaps in texts."""
    unrecorded: int = 0
    recovery_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def add(self, label: str, ended: Ended, whole: Ended, kill_count: int) -> None:
        """Count a survey and say at once what was wrong with it."""
        faults = ended.faults(whole, kill_count)
        self.surveys += 1
        self.kills += len(ended.kills)
        self.other_endings += ended.survey.state != pb.SURVEY_STATE_DONE
        self.other_citations += ended.has_other_citations(whole)
        self.paid_twice += ended.payments.paid_twice_count
        self.lost_events += ended.watcher.fault_count
        self.unrecorded += ended.payments.unrecorded_count
        self.recovery_s = max(self.recovery_s, ended.recovery_s)
        self.faults += [f"{label}: {fault}" for fault in faults]
        _say(f"  {label}: {'; '.join(faults) or 'as undisturbed'} ({ended.seconds:.1f} s)")


class Chaos:
    """All surveys on one database."""

    def __init__(self, name: str, here: Arena, step: int) -> None:
        self._name = name
        self._here = here
        self._step = step
        self.tallies: dict[str, Tally] = {}

    async def run(self) -> None:
        """Run every survey there is to run."""
        _say(self._name)
        await self._here.survey(undisturbed)  # loads what the first survey loads
        self._whole = await self._here.survey(undisturbed)
        await self._gateway()
        for label, disturb in ROLES.items():
            await self._one("other roles killed", label, disturb)
        if self._name == "postgresql":
            for stage, count in TAKEOVERS:
                await self._take_over(stage, count)
            await self._cancel()

    async def _gateway(self) -> None:
        points: dict[str, Moment] = {f"event {number}": at_number(number) for number in NUMBERS}
        points |= {f"{stage} request {count}": at_request(stage, count) for stage, count in REQUESTS}
        for label, moment in list(points.items())[:: self._step]:
            await self._one("gateway killed", f"gateway at {label}", kill("gateway", moment))
        often = in_order(*(kill("gateway", at_number(number)) for number in AGAIN_AND_AGAIN))
        await self._one("gateway killed again and again", "gateway again and again", often, len(AGAIN_AND_AGAIN))

    async def _take_over(self, stage: str, count: int) -> None:
        disturb = leave_to("gateway-2", stage, count)
        ended = await self._here.survey(disturb, ("gateway", "gateway-2"))
        self._tally("taken over").add(f"taken over at {stage} request {count}", ended, self._whole, 1)
        await self._here.cluster.stop("gateway-2")
        await self._here.cluster.start(["gateway"])

    async def _cancel(self) -> None:
        found = await cancelled_elsewhere(self._here, "gateway-2")
        faults = {
            f"ended {pb.SurveyState.Name(found.survey.state)}": found.survey.state != pb.SURVEY_STATE_CANCELLED,
            f"{found.later_count} calls after the grace": found.later_count != 0,
            f"{found.unbilled_count} calls not billed": found.unbilled_count != 0,
            "no call was under way": found.under_way_count == 0,
        }
        tally = self._tally("cancelled elsewhere")
        tally.surveys, tally.faults = 1, [fault for fault, is_so in faults.items() if is_so]
        _say(f"  cancelled at another gateway: {'; '.join(tally.faults) or 'no call began after 1 s, all billed'}")

    async def _one(self, kind: str, label: str, disturb: Disturbance, kill_count: int = 1) -> None:
        self._tally(kind).add(label, await self._here.survey(disturb), self._whole, kill_count)

    def _tally(self, kind: str) -> Tally:
        return self.tallies.setdefault(f"{self._name}, {kind}", Tally())


@contextlib.contextmanager
def _database(name: str) -> Iterator[str]:
    if name == "sqlite":
        yield ""
        return
    with postgres_server() as socket_folder:
        yield new_database(socket_folder)


async def _run(names: list[str], step: int) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder, _database(name) as url:
            async with arena(Path(folder), url, gateways=2) as here:
                chaos = Chaos(name, here, step)
                await chaos.run()
                tallies |= chaos.tallies
    return tallies


def _targets(tallies: Mapping[str, Tally], step: int) -> list[Target]:
    def total(name: str) -> int:
        return sum(int(getattr(tally, name)) for tally in tallies.values())

    targets = [
        Target(name="surveys that did not end DONE", figure=total("other_endings"), most=0),
        Target(name="surveys with other citations", figure=total("other_citations"), most=0),
        Target(name="recorded calls paid twice", figure=total("paid_twice"), most=0),
        Target(name="events with a gap or a repeat", figure=total("lost_events"), most=0),
        Target(name="faults of all kinds", figure=sum(len(tally.faults) for tally in tallies.values()), most=0),
    ]
    for name, tally in tallies.items():
        if name.endswith("gateway killed") and step == 1:
            targets.append(Target(name=f"{name}: points missing", figure=max(0, MIN_POINTS - tally.kills), most=0))
        if name.endswith("taken over"):
            targets.append(Target(name=f"{name} after, in s", figure=tally.recovery_s, most=TAKEOVER_S))
    return targets


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # what it is run for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one")
    parser.add_argument("--step", type=int, default=1, help="kill the gateway at every so-manieth point only")
    given = parser.parse_args()
    tallies = asyncio.run(_run(given.database or list(DATABASES), given.step))
    _say("")
    print_table(
        ["", "surveys", "kills", "not DONE", "cites otherwise", "paid twice", "events", "unrecorded", "recovery s"],
        [
            [
                name,
                *(
                    str(each)
                    for each in (
                        tally.surveys,
                        tally.kills,
                        tally.other_endings,
                        tally.other_citations,
                        tally.paid_twice,
                        tally.lost_events,
                        tally.unrecorded,
                    )
                ),
                f"{tally.recovery_s:.2f}",
            ]
            for name, tally in tallies.items()
        ],
    )
    finish(_targets(tallies, given.step), {name: vars(tally) for name, tally in tallies.items()})


if __name__ == "__main__":
    main()
