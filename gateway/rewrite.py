"""One section of an ended survey written again: fast first, better on demand."""

from paperroute.v1 import survey_pb2 as pb

from gateway.assemble import SectionPlace, kept_keys, keyed_papers, total_usage, usage_of
from gateway.pipeline import Run, section_request, streamed_section
from services.common.errors import NotFound


async def rewrite_section(run: Run, place: SectionPlace, models: str) -> None:
    """Replace a section of the draft; it stays as it is when the new one fails.

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
        raise NotFound("section", f"{place[0]}.{place[1]}")
    request = section_request(run, keyed, place, keys, draft.summaries)
    request.model = models or request.model
    draft.rewrite_counts[place] = draft.rewrite_counts.get(place, 0) + 1
    request.sample_seed += draft.rewrite_counts[place]  # asked again, it is to be written again
    if draft.spec.HasField("max_cost_nano_usd"):
        spent = sum(usage.cost_nano_usd for usage in usage_of(draft))
        request.call.max_cost_nano_usd = max(0, draft.spec.max_cost_nano_usd - spent)
    section = await streamed_section(run, keyed, place, request)
    draft.sections[place] = section
    draft.missing_sections.pop(place, None)
    report = draft.reports[pb.STAGE_WRITE]
    usage = total_usage([*report.usage, *section.usage])
    del report.usage[:]
    report.usage.extend(usage)
