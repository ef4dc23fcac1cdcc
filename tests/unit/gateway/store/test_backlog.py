"""What the gauges of the queue are read from, on both databases."""

from typing import Any

import pytest
from paperroute.v1 import admin_service_pb2 as admin_pb
from survey_rows import Gateways, progress, stage_started

from gateway.store import months, run_rows, surveys, tenants
from gateway.store.backlog import Backlog, backlog
from gateway.store.run_rows import Handed


async def now_known(gateways: Gateways, most: int = 100) -> Backlog:
    return await gateways.database.read(lambda connection: backlog(connection, most))


async def age(gateways: Gateways, survey_id: str, seconds: float) -> None:
    await gateways.sql("UPDATE survey SET told_at = told_at - :age WHERE survey_id = :id", age=seconds, id=survey_id)


async def test_without_surveys_there_is_nothing(gateways: Gateways):
    assert await now_known(gateways) == Backlog(queued_count=0, running_count=0, silence_s=0.0, spent_parts={})


async def test_surveys_are_counted_and_the_most_silent_one_that_runs_is_told(gateways: Gateways):
    running, silent, ended = [await gateways.running() for _ in range(3)]
    waiting = [await gateways.create() for _ in range(2)]
    await gateways.ended(ended)
    for job, seconds in ((running, 30.0), (silent, 70.0), (ended, 900.0), (waiting[0], 800.0)):
        await age(gateways, job.survey_id, seconds)
    known = await now_known(gateways)

    assert (known.queued_count, known.running_count) == (2, 2)
    assert known.silence_s == pytest.approx(70.0, abs=5)


@pytest.mark.parametrize("what", [{"events": [stage_started()]}, {"live": {"stage 5": progress(3)}}], ids=list)
async def test_whatever_is_told_of_a_survey_ends_its_silence(gateways: Gateways, what: dict[str, Any]):
    job = await gateways.running()
    await age(gateways, job.survey_id, 600.0)
    handed = Handed(survey_id=job.survey_id, attempt=1, **what)
    await gateways.database.run(lambda connection: run_rows.write(connection, [handed]))

    assert (await now_known(gateways)).silence_s < 60.0


async def test_a_survey_is_not_silent_for_having_waited(gateways: Gateways):
    from gateway.store import turns

    job = await gateways.create()
    await age(gateways, job.survey_id, 600.0)
    await gateways.database.run(lambda connection: turns.claim(connection, "me", 1, 9))

    assert (await now_known(gateways)).silence_s < 60.0


async def test_parts_of_limits_are_those_of_the_tenants_nearest_to_them(gateways: Gateways):
    limits = {"a": 1_000, "b": 1_000, "c": 1_000, "free": None, "never": 0}

    def fill(connection: Any) -> None:
        for name, limit in limits.items():
            tenants.create(connection, admin_pb.Tenant(tenant=name, max_month_cost_nano_usd=limit))
        for name, cost in (("a", 250), ("b", 1_500), ("free", 9_000), ("nobody", 9_000)):
            months.charge(connection, name, f"survey-{name}", cost)
        connection.exec_driver_sql("INSERT INTO tenant_month VALUES ('c', '2020-01', 900, 0)")

    await gateways.database.run(fill)

    assert (await now_known(gateways)).spent_parts == {"a": 0.25, "b": 1.5, "c": 0.0, "never": 1.0}
    assert (await now_known(gateways, 2)).spent_parts == {"b": 1.5, "never": 1.0}


async def test_the_run_before_is_known_when_the_next_one_begins(gateways: Gateways):
    job = await gateways.running()
    await gateways.database.run(lambda connection: surveys.keep_run_trace(connection, job.survey_id, "00-first"))
    again = await gateways.begun(job.survey_id, "another-replica")

    assert (job.run_trace, again.run_trace, again.attempt) == ("", "00-first", 2)
