"""One section of an ended survey written again: fast first, better on demand."""

from paperroute.v1 import survey_pb2 as pb

from gateway.document.assemble import kept_keys, keyed_papers, total_usage
from gateway.document.draft import Part, PartKind, SectionPlace, place_name
from gateway.pipeline.run import Run
from gateway.pipeline.writing import section_request, written_section
from services.common.errors import NotFound


async def rewrite_section(run: Run, place: SectionPlace, models: str) -> list[Part]:
    """Replace a section of the draft and return what is to be kept; it stays as it is when the new one fails.

    Args:
        run: of a survey that has ended.
        place: chapter and section.
        models: who writes it now; empty for those of the survey.

    Raises:
        NotFound: the survey has no such section.
        grpc.aio.AioRpcError: the generation service's own failure.
    """
    draft = run.draft
    keyed = keyed_papers(draft)
    keys = kept_keys(draft, keyed).get(place)
    if keys is None or pb.STAGE_WRITE not in draft.reports:
        raise NotFound("section", place_name(place))
    count = draft.rewrite_counts.get(place, 0) + 1
    summaries = {paper_id: summary.summary for paper_id, summary in draft.summaries.items()}
    request = section_request(run, keyed, place, keys, summaries)
    request.model = models or request.model
    request.sample_seed += count  # asked again, it is to be written again
    section = await written_section(run, keyed, place, request)
    report = draft.reports[pb.STAGE_WRITE]
    usage = total_usage([*report.usage, *section.usage])
    del report.usage[:]
    report.usage.extend(usage)
    return [
        run.part(PartKind.SECTION, section, place_name(place)),
        run.part(PartKind.REWRITES, str(count), place_name(place)),
        run.part(PartKind.REPORT, report, str(pb.STAGE_WRITE)),
    ]
