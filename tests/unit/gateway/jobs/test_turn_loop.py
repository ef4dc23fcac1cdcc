"""Turns and takeovers on one replica and on several, in SQLite and in PostgreSQL."""

from pathlib import Path

from postgres import database_url, postgres  # noqa: F401  # fixtures
from replica_process import FAN_OUT, Log, Replicas, forker, replicas, settings  # noqa: F401
from survey_rows import Gateways, a_request

from services.common.settings import SharedSettings


async def test_surveys_of_killed_gateways_end_on_others(replicas: Replicas, settings: SharedSettings) -> None:  # noqa: F811
    """Through channels of the loop that serves: a recovered step on another loop would end a survey for good."""
    log, rows = replicas.log, Gateways(settings)
    survey_id = (await rows.create(a_request(timeout_ms=60_000))).survey_id
    first = await replicas.gateway(turns_of=1)
    await log.wait_for(lambda log: len(log.lines("asked", survey_id, "summarize")) == FAN_OUT)
    await log.wait_for(lambda log: "write" in log.steps(survey_id))
    second = await replicas.gateway(turns_of=1)
    replicas.let_go.set()
    replicas.deadly.add("assemble")  # its work is done, but no marker says so when the process dies
    await first.kill()
    seconds = await log.wait_for(lambda log: bool(log.lines("begun", survey_id, second.owner)))
    print("takeover", seconds)
    await second.ended()
    third = await replicas.gateway(turns_of=1)
    await log.wait_for(lambda log: bool(log.lines("finished", survey_id, third.owner)))

    steps = log.steps(survey_id)
    assert {steps[name] for name in ("plan", "retrieve", "embed", "order")} == {1}
    assert {steps[name] for name in ("summarize", "assemble")} == {2}
    assert len(log.lines("asked", survey_id, "summarize")) == 2 * FAN_OUT
    print(replicas.errors.read_text())
    await third.stop()
    await rows.close()
