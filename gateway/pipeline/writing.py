"""Stages `write` and `frame`: a call for each section, one for what stands around them."""

import asyncio
from collections.abc import Mapping, Sequence

from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.document.assemble import KeyedPapers, route_keys, section_of
from gateway.document.draft import Part, PartKind, SectionPlace, place_name
from gateway.pipeline.run import Failed, Run
from gateway.pipeline.stage_run import StageRun
from gateway.pipeline.summaries import SummaryBoard
from services.common.citations import StreamRenderer
from services.common.papers import Paper, message_of

ATTEMPTS_A_RUN = 1_000
"""More often than that no run begins the text of one section."""


async def write_sections(run: Run, stage: StageRun, keyed: KeyedPapers, board: SummaryBoard) -> None:
    """Write each section by a call of its own once its papers are summarized; one that fails lists its papers."""
    draft = run.draft
    places = asyncio.Semaphore(run.sections_in_flight)
    failures: list[Exception] = []
    every_place = route_keys(draft, keyed)
    stage.report.paper_count = len(keyed.papers)
    for section in draft.sections.values():
        stage.took(section.usage, budget_reached=section.budget_reached)
    stage.expect(len(every_place), done=len(draft.sections))

    async def write(place: SectionPlace, keys: Sequence[str]) -> None:
        summaries = await board.all_of([keyed.papers[key].paper_id for key in keys])
        kept = [key for key in keys if keyed.papers[key].paper_id in summaries]
        if not kept:
            stage.advance()  # all its papers were dropped: the section goes with them
            return
        async with places:
            try:
                request = section_request(run, keyed, place, kept, summaries)
                written = await written_section(run, keyed, place, request)
            except Failed as error:
                failures.append(error)
                missing = f"it could not be written: {run.why_lost(error)}"
                stage.report.lost_count += 1
                _tell_section(run, keyed, place, kept, run.part(PartKind.MISSING, missing, place_name(place)))
                return
        _tell_section(run, keyed, place, kept, run.part(PartKind.SECTION, written, place_name(place)))
        stage.advance(written.usage, budget_reached=written.budget_reached)

    async with asyncio.TaskGroup() as group:
        for place, keys in every_place.items():
            if place not in draft.sections:
                group.create_task(write(place, keys))
    if failures and not draft.sections:
        raise failures[0]


def section_request(
    run: Run, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str], summaries: Mapping[str, str]
) -> generation_pb.WriteSectionRequest:
    """Return the request for a section about the papers of `keys`; `summaries` are by paper_id."""
    draft = run.draft
    is_single = draft.spec.writer == pb.WRITER_SINGLE
    return generation_pb.WriteSectionRequest(
        model=draft.spec.models.write,
        question=draft.spec.question,
        language=draft.language,
        outline=_outline(route_keys(draft, keyed)),
        chapter_number=place[0],
        section_number=place[1],
        papers=_keyed_messages(keyed, keys, summaries),
        route_titles=[paper.title for paper in keyed.papers.values()],
        sample_seed=draft.spec.sample_seed,
        form=generation_pb.SECTION_FORM_SINGLE if is_single else generation_pb.SECTION_FORM_SECTION,
    )


async def written_section(
    run: Run, keyed: KeyedPapers, place: SectionPlace, request: generation_pb.WriteSectionRequest
) -> generation_pb.SectionText:
    """Return a section, telling the watchers of its text as it grows, links in place.

    Raises:
        grpc.aio.AioRpcError, TimeoutError, UpstreamFailed: it cannot be written.
    """

    async def ask(request: generation_pb.WriteSectionRequest) -> generation_pb.SectionText:
        return await _streamed_section(run, keyed, place, request)

    return await run.paid(pb.STAGE_WRITE, request, ask)


async def _streamed_section(
    run: Run, keyed: KeyedPapers, place: SectionPlace, request: generation_pb.WriteSectionRequest
) -> generation_pb.SectionText:
    references = keyed.references([paper.key for paper in request.papers])
    renderer, pieces = StreamRenderer(references), list[str]()

    def text() -> service_pb.WatchSurveyResponse:
        progress = service_pb.SectionProgress(
            chapter_number=place[0], section_number=place[1], attempt=run.attempts[place], text="".join(pieces)
        )
        return service_pb.WatchSurveyResponse(section_text=progress)

    def tell(piece: str) -> None:
        pieces.append(piece)
        run.ports.show(f"section {place_name(place)}", text)

    # Watchers tell texts apart by the attempt: a run that goes on after a kill counts above what those before it used.
    first = max(0, run.draft.attempt - 1) * ATTEMPTS_A_RUN
    run.attempts[place] = run.attempts.get(place, first) + 1
    stream = run.services.generation.WriteSection(request, timeout=run.timeout_s(pb.STAGE_WRITE))
    async for message in stream:
        match message.WhichOneof("event"):
            case "text_delta":
                tell(renderer.feed(message.text_delta))
            case "restarted":
                renderer, pieces = StreamRenderer(references), []
                run.attempts[place] += 1
                tell("")
            case "finished":
                return message.finished
    raise EOFError("the stream ended without a section")


def _tell_section(run: Run, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str], part: Part) -> None:
    """Keep a section and tell of it as it stands now, its text or why it has none."""
    section = section_of(run.draft, keyed, place, keys)
    finished = service_pb.SectionFinished(chapter_number=place[0], section=section)
    run.ports.emit(service_pb.WatchSurveyResponse(section_finished=finished), part)


async def write_frame(run: Run, stage: StageRun, keyed: KeyedPapers, board: SummaryBoard) -> None:
    """Write title, introduction, chapter heads and closing; without them when only the survey's time was too short."""
    draft = run.draft
    stage.report.paper_count = len(keyed.papers)
    stage.expect(1)
    if draft.frame:
        stage.advance(draft.frame.usage, budget_reached=draft.frame.budget_reached)
        return
    summaries = await board.all_of([paper.paper_id for paper in keyed.papers.values()])
    kept = [key for key, paper in keyed.papers.items() if paper.paper_id in summaries]
    request = generation_pb.WriteFrameRequest(
        model=draft.spec.models.frame,
        question=draft.spec.question,
        language=draft.language,
        outline=_outline(route_keys(draft, keyed)),
        papers=_keyed_messages(keyed, kept, summaries),
        search_terms=draft.plan.search_terms if draft.plan else (),
        sample_seed=draft.spec.sample_seed,
    )
    try:
        written = await run.paid(pb.STAGE_FRAME, request, lambda asked: _streamed_frame(run, stage, asked))
    except Failed:
        if not run.deadline.is_over:
            raise
        stage.report.lost_count += 1  # the sections are worth reading without it
        return
    run.keep(PartKind.FRAME, written)
    stage.advance(written.usage, budget_reached=written.budget_reached)


async def _streamed_frame(
    run: Run, stage: StageRun, request: generation_pb.WriteFrameRequest
) -> generation_pb.FrameText:
    async for message in run.services.generation.WriteFrame(request, timeout=run.timeout_s(pb.STAGE_FRAME)):
        if message.WhichOneof("event") == "finished":
            return message.finished
        stage.progress(generation_pb.FramePartKind.Name(message.part.kind).removeprefix("FRAME_PART_KIND_").lower())
    raise EOFError("the stream ended without a frame")


def _outline(keys_by_place: Mapping[SectionPlace, Sequence[str]]) -> list[generation_pb.OutlineChapter]:
    chapters: dict[int, generation_pb.OutlineChapter] = {}
    for place, keys in keys_by_place.items():
        chapter = chapters.setdefault(place[0], generation_pb.OutlineChapter())
        chapter.sections.append(generation_pb.OutlineSection(keys=keys))
    return list(chapters.values())


def _keyed_messages(
    keyed: KeyedPapers, keys: Sequence[str], summaries: Mapping[str, str]
) -> list[generation_pb.KeyedPaper]:
    return [_keyed_message(key, keyed.papers[key], summaries) for key in keys]


def _keyed_message(key: str, paper: Paper, summaries: Mapping[str, str]) -> generation_pb.KeyedPaper:
    return generation_pb.KeyedPaper(key=key, paper=message_of(paper), summary=summaries[paper.paper_id])
