"""A survey that one gateway runs and another one is asked to cancel."""

import asyncio
from dataclasses import dataclass

from chaos.arena import Arena, created
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

HELD_AFTER = 12
"""Summaries that are answered before the survey is cancelled."""
GRACE_S = 1.0
"""What a cancel may take until no new call begins, on whichever gateway."""
BILLING_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """What became of it."""

    survey: pb.Survey
    under_way_count: int
    """Calls whose answers came only after the grace, when the survey could have gone on with them."""
    later_count: int
    """Calls that began after the grace."""
    unbilled_count: int
    """Calls that are missing on its bill."""


async def cancelled_elsewhere(here: Arena, other: str) -> Cancelled:
    """Run a survey at the first gateway, start another one and cancel the survey there."""
    models = here.models()
    held, names = models["summarize"], set(models.values())

    async def requests() -> int:
        return sum(each["model"] in names for each in await here.requests())

    here.provider.hold(held, HELD_AFTER)
    try:
        async with here.stub("gateway") as stub:
            survey_id = await created(stub, models)
        await asyncio.to_thread(here.provider.requests, held, HELD_AFTER + 1, HELD_AFTER)
        await here.cluster.start([other])
        async with here.stub(other) as stub:
            await stub.CancelSurvey(service_pb.CancelSurveyRequest(survey_id=survey_id), timeout=20)
            await asyncio.sleep(GRACE_S)
            before = await requests()
    finally:
        here.provider.release(held)
    async with here.stub(other) as stub:
        survey = await _billed(stub, survey_id, before)
    after = await requests()
    return Cancelled(
        survey=survey,
        under_way_count=survey.coverage.kept_count - HELD_AFTER,
        later_count=after - before,
        unbilled_count=after - _call_count(survey),
    )


async def _billed(stub: object, survey_id: str, call_count: int) -> pb.Survey:
    """Return the survey once so many calls are on its bill, or as it is after a while."""
    request = service_pb.GetSurveyRequest(survey_id=survey_id)
    for _ in range(BILLING_S * 10):
        survey = (await stub.GetSurvey(request, timeout=20)).survey
        if _call_count(survey) >= call_count:
            break
        await asyncio.sleep(0.1)
    return survey


def _call_count(survey: pb.Survey) -> int:
    return sum(usage.call_count for usage in survey.usage)
