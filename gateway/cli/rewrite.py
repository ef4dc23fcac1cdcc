"""`paperroute rewrite`: one section of a survey again, by another model."""

import re

from paperroute.v1 import survey_pb2 as pb

from gateway.cli import report
from gateway.cli.reaching import reached
from gateway.cli.running import EXIT_BAD_ARGUMENTS, EXIT_DONE
from gateway.client import RequestFailed

_PLACE = re.compile(r"([1-9]\d{0,2})\.([1-9]\d{0,2})")


async def run(survey_id: str, place: str, model: str, gateway: str) -> int:
    """Write the section again and print it; return the exit status."""
    numbers = _PLACE.fullmatch(place)
    if numbers is None:
        report.complain(f"SECTION: chapter and section such as 2.3, not {place[:20]!r}")
        return EXIT_BAD_ARGUMENTS
    chapter, section = (int(number) for number in numbers.groups())
    async with reached(gateway) as client:
        try:
            survey = await client.rewrite_section(survey_id, chapter, section, model)
        except RequestFailed as failure:
            return report.refused(failure, _line_of)
    _print(survey, chapter, section)
    return EXIT_DONE


def _line_of(field: str, description: str) -> str:
    return f"{'--model' if field == 'model' else 'SECTION'}: {description}"


def _print(survey: pb.Survey, chapter: int, section: int) -> None:
    chosen = next(
        each for head in survey.chapters if head.number == chapter for each in head.sections if each.number == section
    )
    report.show_document(f"### {chapter}.{section} {chosen.title}\n\n{chosen.text}\n", is_markdown=True)
    report.show_stages(survey)
