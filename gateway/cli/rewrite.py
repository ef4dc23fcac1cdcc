"""`paperroute rewrite`: one section of a survey again, by another model."""

import re

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import survey_service_pb2_grpc as pb_grpc

from gateway.cli import report
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED
from services.common.errors import violations_in

TIMEOUT_S = 300
_PLACE = re.compile(r"([1-9]\d{0,2})\.([1-9]\d{0,2})")


async def run(survey_id: str, place: str, model: str, gateway: str) -> int:
    """Write the section again and print it; return the exit status."""
    numbers = _PLACE.fullmatch(place)
    if numbers is None:
        report.complain(f"SECTION: chapter and section such as 2.3, not {place[:20]!r}")
        return EXIT_BAD_ARGUMENTS
    chapter, section = (int(number) for number in numbers.groups())
    request = service_pb.RewriteSectionRequest(
        survey_id=survey_id, chapter_number=chapter, section_number=section, model=model
    )
    async with reached(gateway) as channel:
        stub: pb_grpc.SurveyServiceAsyncStub = pb_grpc.SurveyServiceStub(channel)
        try:
            answer = await stub.RewriteSection(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            return _explain(failure, gateway)
    _print(answer.survey, chapter, section)
    return EXIT_DONE


def _explain(failure: grpc.aio.AioRpcError, gateway: str) -> int:
    if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
        for violation in violations_in(failure):
            name = "--model" if violation.field == "model" else "SECTION"
            report.complain(f"{name}: {violation.description}")
        return EXIT_BAD_ARGUMENTS
    report.complain(report.explained(failure, gateway))
    return EXIT_FAILED


def _print(survey: pb.Survey, chapter: int, section: int) -> None:
    chosen = next(
        each for head in survey.chapters if head.number == chapter for each in head.sections if each.number == section
    )
    report.show_document(f"### {chapter}.{section} {chosen.title}\n\n{chosen.text}\n", is_markdown=True)
    report.show_stages(survey)
