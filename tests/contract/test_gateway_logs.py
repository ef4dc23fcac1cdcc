"""What a gateway logs of surveys: each line names its survey, none holds a question."""

import logging
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes
from gateways import gateway_with
from paperroute.v1 import survey_pb2 as pb
from sqlalchemy import text

from gateway.jobs.durable import Durable
from gateway.store.schema import gateway_database
from services.common.errors import UpstreamFailed
from services.common.settings import SharedSettings

SECRET = "Which secret names?"


async def test_a_stage_that_fails_by_a_bug_is_logged_with_its_survey(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A search whose stream ends without a result is none of the faults that are known."""

    class Wrong(Fakes):
        async def SearchPapers(self, request: Any, context: Any) -> Any:
            return
            yield

    with caplog.at_level(logging.INFO):
        async with gateway_with(Wrong(), tmp_path) as gateway:
            survey_id = await gateway.create(pb.SurveySpec(question=SECRET))
            await gateway.events(survey_id)

    (record,) = [each for each in caplog.records if each.name.startswith("gateway.") and each.exc_info]
    assert survey_id in record.getMessage()
    assert "EOFError" in caplog.text  # the way to the bug is there
    assert SECRET not in caplog.text


async def test_a_database_that_breaks_off_does_not_bring_a_question_into_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A driver names the values of the statement that failed, and they are in the chain of causes."""
    database = gateway_database(SharedSettings(data_dir=tmp_path))
    broken = text("INSERT INTO survey (question) VALUES (:question)")
    with pytest.raises(UpstreamFailed) as failure:
        await database.run(lambda connection: connection.execute(broken, {"question": SECRET}))
    logging.getLogger("test").error("it broke", exc_info=failure.value)
    await database.close()

    assert "OperationalError" in caplog.text
    assert SECRET not in caplog.text


async def test_an_interruption_by_a_known_fault_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def run(survey_id: str, run: int, steps: Any) -> None:
        raise UpstreamFailed("the gateway's database", "OperationalError") from ValueError(SECRET)

    durable = Durable(SharedSettings(data_dir=tmp_path), run, "me")
    await durable.launch()
    await durable.start("survey-1", 1)
    await durable.close()

    (record,) = [each for each in caplog.records if each.name == "gateway.jobs.durable"]
    assert record.getMessage().startswith("survey survey-1 was interrupted: ")
    assert record.exc_info is None
    assert SECRET not in caplog.text
