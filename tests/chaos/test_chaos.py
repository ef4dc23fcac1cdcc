"""A survey whose processes are killed ends as if nothing had happened: the short form of `make chaos`."""

import asyncio
from typing import NamedTuple

import pytest
from chaos.arena import (
    Ended,
    arena,
    at_number,
    at_once,
    at_request,
    at_start_of,
    in_order,
    kill,
    kill_frozen,
    leave_to,
    side_by_side,
    undisturbed,
)
from chaos.cancelling import Cancelled, cancelled_elsewhere
from paperroute.v1 import survey_pb2 as pb
from postgres import new_database, postgres  # noqa: F401  # fixture

pytestmark = pytest.mark.timeout(300)

KILLED_GATEWAY = in_order(
    kill("gateway", at_number(5)), kill("gateway", at_request("summarize", 12)), kill("gateway", at_request("write", 2))
)
KILLED_SERVICES = side_by_side(
    kill_frozen("retrieval", at_once, pb.STAGE_RETRIEVE),
    kill_frozen("embedding", at_once, pb.STAGE_EMBED),
    kill_frozen("summarization", at_once, pb.STAGE_SUMMARIZE),
    kill_frozen("ordering", at_once, pb.STAGE_ORDER),
    kill_frozen("generation", at_start_of(pb.STAGE_RETRIEVE), pb.STAGE_WRITE),
)


class Surveys(NamedTuple):
    """Of one cluster on files."""

    whole: Ended
    """That nobody disturbed."""
    gateway_killed: Ended
    services_killed: Ended


@pytest.fixture(scope="module")
def surveys(tmp_path_factory: pytest.TempPathFactory) -> Surveys:
    async def run() -> Surveys:
        async with arena(tmp_path_factory.mktemp("chaos")) as here:
            return Surveys(*[await here.survey(each) for each in (undisturbed, KILLED_GATEWAY, KILLED_SERVICES)])

    return asyncio.run(run())


def test_undisturbed_every_answer_is_recorded_and_every_paper_cited(surveys: Surveys):
    """What the others are compared with."""
    whole = surveys.whole

    assert whole.faults(whole, kill_count=0) == []
    assert whole.survey.coverage.cited_count == whole.survey.coverage.kept_count > 20
    assert min(whole.asked.values()) > 0
    assert whole.payments.unrecorded_count == 0


def test_a_gateway_that_is_killed_in_three_stages_goes_on_where_it_was(surveys: Surveys):
    killed = surveys.gateway_killed

    assert killed.faults(surveys.whole, kill_count=3) == []
    assert killed.survey.attempt == 4
    assert killed.payments == surveys.whole.payments


def test_services_that_are_killed_in_their_stages_are_asked_again(surveys: Surveys):
    killed = surveys.services_killed

    assert sorted(name for name, _ in killed.kills) == [
        "embedding", "generation", "ordering", "retrieval", "summarization",
    ]  # fmt: skip
    assert killed.faults(surveys.whole, kill_count=5) == []


class Replicated(NamedTuple):
    """Surveys of two gateways on PostgreSQL."""

    cancelled: Cancelled
    """By the gateway that did not run it."""
    killed: Ended
    """With the gateway that ran it."""


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Replicated:  # noqa: F811
    disturb = in_order(kill("gateway", at_number(5)), leave_to("gateway-2", "write", 2))

    async def run() -> Replicated:
        async with arena(tmp_path_factory.mktemp("chaos"), new_database(postgres), gateways=2) as here:
            cancelled = await cancelled_elsewhere(here, "gateway-2")
            await here.cluster.stop("gateway-2")
            return Replicated(cancelled, await here.survey(disturb, ("gateway", "gateway-2")))

    return asyncio.run(run())


def test_on_postgresql_another_gateway_goes_on(replicated: Replicated, surveys: Surveys):
    assert replicated.killed.faults(surveys.whole, kill_count=2) == []
    assert replicated.killed.survey.attempt == 3


def test_a_survey_that_another_gateway_cancels_calls_no_model_any_more(replicated: Replicated):
    """Nor does it when the answers come that it waited for; they are on its bill."""
    cancelled = replicated.cancelled

    assert cancelled.survey.state == pb.SURVEY_STATE_CANCELLED
    assert cancelled.under_way_count > 0
    assert (cancelled.later_count, cancelled.unbilled_count) == (0, 0)
