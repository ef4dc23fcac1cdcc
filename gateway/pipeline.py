r"""The pipeline: a question becomes a survey. One function over three ports and the stubs of the services.

    plan -> retrieve -> embed -> order -> write     -> assemble
                     \-> summarize ----/ \-> frame -/

A section is written as soon as the route is known and its own papers are summarized.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_pb2, usage_pb2
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb

from gateway.assemble import Draft, KeyedPapers, SectionPlace, keyed_papers, route_keys, section_of, survey_of
from gateway.ports import Ports
from gateway.services import Services
from gateway.stage_run import StageRun, stage_run
from gateway.summaries import SummaryBoard
from services.common.citations import StreamRenderer
from services.common.deadlines import Deadline
from services.common.paid.caller import DEFAULT_TENANT
from services.common.papers import Paper, message_of

Result = TypeVar("Result")

MOST_S: Mapping[int, float] = {
    pb.STAGE_PLAN: 60,
    pb.STAGE_RETRIEVE: 300,
    pb.STAGE_EMBED: 120,
    pb.STAGE_ORDER: 60,
    pb.STAGE_SUMMARIZE: 90,
    pb.STAGE_WRITE: 180,
    pb.STAGE_FRAME: 180,
}
"""Longest one call of a stage may take, in seconds, however much of the survey's time is left."""


ORDERED_BY_QUESTION = {ordering_pb2.ORDERING_METHOD_SEMANTIC, ordering_pb2.ORDERING_METHOD_CHAIN}
"""Orders that begin with the papers nearest to the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of one survey is under way at one time."""

    summaries_in_flight: int
    sections_in_flight: int


@dataclass(kw_only=True, slots=True)
class Run:
    """What the stages of one run share."""

    draft: Draft
    services: Services
    ports: Ports
    limits: Limits
    deadline: Deadline
    attempts: dict[SectionPlace, int] = field(default_factory=dict)

    def timeout_s(self, stage: pb.Stage.ValueType) -> float:
        """Return how long the next call may take.

        Raises:
            TimeoutError: nothing is left of the survey's time.
        """
        timeout = self.deadline.timeout_s(MOST_S[stage])
        if timeout <= 0:
            raise TimeoutError
        return timeout

    def call(self) -> usage_pb2.CallContext:
        """Return for whom the services work and what they may spend."""
        spec = self.draft.spec
        limit = spec.max_cost_nano_usd if spec.HasField("max_cost_nano_usd") else None
        return usage_pb2.CallContext(
            tenant=DEFAULT_TENANT,
            survey_id=self.draft.survey_id,
            max_cost_nano_usd=limit,
            cache_off=spec.cache_off,
        )

    async def stage(self, stage: pb.Stage.ValueType, work: Callable[[StageRun], Awaitable[Result]]) -> Result:
        """Return what a stage's work brings, run once however often the survey is resumed.

        Raises:
            StageFailed: the work raised.
        """

        async def step() -> Result:
            async with stage_run(stage, self.draft.reports, self.ports.emit) as run:
                return await work(run)

        if self.ports.cancelled():
            raise asyncio.CancelledError
        return await self.ports.run_step(stage, step)


async def run_pipeline(run: Run) -> None:
    """Fill in the draft of a survey up to its last state but FAILED and CANCELLED, which the caller sets.

    Raises:
        StageFailed: a stage could not bring what the next ones need; the draft holds what was finished.
    """
    draft = run.draft
    plan = await run.stage(pb.STAGE_PLAN, lambda stage: _plan(run, stage))
    draft.search_terms, draft.language = list(plan.search_terms), plan.language
    draft.search = await run.stage(pb.STAGE_RETRIEVE, lambda stage: _retrieve(run, stage))
    if not draft.search.papers:
        draft.state = pb.SURVEY_STATE_NO_PAPERS
        return
    board = SummaryBoard([paper.paper_id for paper in draft.search.papers])
    await _side_by_side(
        run.stage(pb.STAGE_SUMMARIZE, lambda stage: _summarize(run, stage, board)), _route_and_write(run, board)
    )
    await run.stage(pb.STAGE_ASSEMBLE, lambda stage: _assemble(run, stage))
    draft.state = pb.SURVEY_STATE_DONE


async def _side_by_side(*branches: Awaitable[object]) -> None:
    """Await all branches; the first failure cancels the others and is raised by itself."""

    async def awaited(branch: Awaitable[object]) -> None:
        await branch

    try:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                group.create_task(awaited(branch))
    except BaseExceptionGroup as failures:
        raise _first_of(failures) from None


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def _plan(run: Run, stage: StageRun) -> generation_pb.PlanSearchResponse:
    spec = run.draft.spec
    stage.expect(1)
    response = await run.services.generation.PlanSearch(
        generation_pb.PlanSearchRequest(
            call=run.call(),
            model=spec.models.plan,
            question=spec.question,
            language=spec.language,
            sample_seed=spec.sample_seed,
            plan_candidates=spec.plan_candidates,
        ),
        timeout=run.timeout_s(pb.STAGE_PLAN),
    )
    stage.advance(response.usage)
    return response


async def _retrieve(run: Run, stage: StageRun) -> retrieval_pb.SearchResult:
    draft = run.draft
    request = retrieval_pb.SearchPapersRequest(
        call=run.call(),
        search_terms=draft.search_terms,
        source=draft.spec.source,
        max_papers=draft.spec.max_papers,
        as_of=draft.spec.as_of,
        match=draft.spec.match,
        cap_by=draft.spec.cap_by,
        categories=draft.spec.categories,
        published_from=draft.spec.published_from if draft.spec.HasField("published_from") else None,
        with_withdrawn=draft.spec.with_withdrawn,
    )
    stage.expect(len(draft.search_terms))
    async for message in run.services.retrieval.SearchPapers(request, timeout=run.timeout_s(pb.STAGE_RETRIEVE)):
        if message.WhichOneof("event") == "result":
            stage.report.paper_count = len(message.result.papers)
            return message.result
        progress = message.progress
        if progress.is_final:
            stage.report.done_count += 1
        stage.progress(progress.waiting_for or f"{progress.search_term}: {progress.found_count} found")
    raise EOFError("the stream ended without a result")


async def _route_and_write(run: Run, board: SummaryBoard) -> None:
    draft = run.draft
    vectors = await run.stage(pb.STAGE_EMBED, lambda stage: _embed(run, stage))
    draft.encoder = vectors.encoder
    draft.order = await run.stage(pb.STAGE_ORDER, lambda stage: _order(run, stage, vectors))
    keyed = keyed_papers(draft)
    branches = [run.stage(pb.STAGE_WRITE, lambda stage: _write(run, stage, keyed, board))]
    if draft.spec.writer != pb.WRITER_SINGLE:
        branches.append(run.stage(pb.STAGE_FRAME, lambda stage: _frame(run, stage, keyed, board)))
    await _side_by_side(*branches)


async def _embed(run: Run, stage: StageRun) -> embedding_pb.EmbedPapersResponse:
    draft = run.draft
    papers = draft.search.papers if draft.search else ()
    stage.report.paper_count = len(papers)
    stage.expect(1)
    response = await run.services.embedding.EmbedPapers(
        embedding_pb.EmbedPapersRequest(
            call=run.call(),
            encoder=draft.spec.models.embed,
            papers=papers,
            # Encoded anew each time, since a question is never kept: only where the order needs it.
            query=draft.spec.question if draft.spec.ordering in ORDERED_BY_QUESTION else "",
        ),
        timeout=run.timeout_s(pb.STAGE_EMBED),
    )
    stage.report.cached_count = response.cached_count
    stage.advance(response.usage)
    return response


async def _order(
    run: Run, stage: StageRun, vectors: embedding_pb.EmbedPapersResponse
) -> ordering_pb.OrderPapersResponse:
    draft = run.draft
    papers = draft.search.papers if draft.search else ()
    is_local = vectors.encoder.startswith("wordllama:")  # a small encoder: the papers' own words sharpen its vectors
    stage.report.paper_count = len(papers)
    stage.expect(1)
    response = await run.services.ordering.OrderPapers(
        ordering_pb.OrderPapersRequest(
            call=run.call(),
            paper_ids=[paper.paper_id for paper in papers],
            vectors=vectors.vectors,
            dimension=vectors.dimension,
            count=vectors.count,
            texts=[f"{paper.title}\n{paper.abstract}" for paper in papers] if is_local else (),
            method=draft.spec.ordering,
            query_vector=vectors.query_vector,
            published_s=[paper.published_at.seconds for paper in papers],
            max_section_papers=draft.spec.max_section_papers,
            chapter_count=min(draft.spec.chapter_count, len(papers)),
            seed=draft.spec.sample_seed,
        ),
        timeout=run.timeout_s(pb.STAGE_ORDER),
    )
    stage.advance()
    return response


async def _summarize(run: Run, stage: StageRun, board: SummaryBoard) -> None:
    """Summarize each paper by a call of its own; a paper that cannot be is dropped, unless none can be."""
    draft = run.draft
    papers = draft.search.papers if draft.search else ()
    places = asyncio.Semaphore(run.limits.summaries_in_flight)
    failures: dict[str, Exception] = {}
    stage.report.paper_count = len(papers)
    stage.expect(len(papers))

    async def summarize(request: summarization_pb.SummarizePaperRequest) -> None:
        paper_id = request.paper.paper_id
        async with places:
            try:
                timeout = run.timeout_s(pb.STAGE_SUMMARIZE)
                response = await run.services.summarization.SummarizePaper(request, timeout=timeout)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                failures[paper_id] = error
                return
        draft.summaries[paper_id], draft.summary_models[paper_id] = response.summary, response.model
        stage.advance(response.usage)
        board.post(paper_id, response.summary)

    async with asyncio.TaskGroup() as group:
        for paper in papers:
            request = summarization_pb.SummarizePaperRequest(
                call=run.call(),
                model=draft.spec.models.summarize,
                paper=paper,
                language=draft.language,
                summary_seconds=draft.spec.summary_seconds,
                style=draft.spec.summary_style,
            )
            group.create_task(summarize(request))
    if len(failures) == len(papers):
        raise next(iter(failures.values()))
    for paper_id, error in failures.items():  # told only now: had all failed, nothing would have been written
        draft.dropped[paper_id] = f"it could not be summarized: {_brief(error)}"
        stage.report.lost_count += 1
        board.post(paper_id, None)


async def _write(run: Run, stage: StageRun, keyed: KeyedPapers, board: SummaryBoard) -> None:
    """Write each section by a call of its own once its papers are summarized; one that fails lists its papers."""
    places = asyncio.Semaphore(run.limits.sections_in_flight)
    failures: list[Exception] = []
    every_place = route_keys(run.draft, keyed)
    stage.report.paper_count = len(keyed.papers)
    stage.expect(len(every_place))

    async def write(place: SectionPlace, keys: Sequence[str]) -> None:
        summaries = await board.all_of([keyed.papers[key].paper_id for key in keys])
        kept = [key for key in keys if keyed.papers[key].paper_id in summaries]
        if not kept:
            stage.advance()  # all its papers were dropped: the section goes with them
            return
        request = section_request(run, keyed, place, kept, summaries)
        async with places:
            try:
                run.draft.sections[place] = await streamed_section(run, keyed, place, request)
                stage.advance(run.draft.sections[place].usage)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                failures.append(error)
                run.draft.missing_sections[place] = f"it could not be written: {_brief(error)}"
                stage.report.lost_count += 1
        _tell_section(run, keyed, place, kept)

    async with asyncio.TaskGroup() as group:
        for place, keys in every_place.items():
            group.create_task(write(place, keys))
    if failures and not run.draft.sections:
        raise failures[0]


def section_request(
    run: Run, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str], summaries: Mapping[str, str]
) -> generation_pb.WriteSectionRequest:
    """Return the request for a section about the papers of `keys`; `summaries` are by paper_id."""
    draft = run.draft
    is_single = draft.spec.writer == pb.WRITER_SINGLE
    return generation_pb.WriteSectionRequest(
        call=run.call(),
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


async def streamed_section(
    run: Run, keyed: KeyedPapers, place: SectionPlace, request: generation_pb.WriteSectionRequest
) -> generation_pb.SectionText:
    """Return a section, telling the watchers of its text as it grows, links in place."""
    references = keyed.references([paper.key for paper in request.papers])
    renderer, offset = StreamRenderer(references), 0

    def tell(text: str) -> None:
        nonlocal offset
        if text:
            piece = service_pb.SectionProgress(
                chapter_number=place[0],
                section_number=place[1],
                attempt=run.attempts[place],
                offset=offset,
                text=text,
            )
            run.ports.emit(service_pb.WatchSurveyResponse(section_text=piece))
            offset += len(text)

    run.attempts[place] = run.attempts.get(place, 0) + 1
    stream = run.services.generation.WriteSection(request, timeout=run.timeout_s(pb.STAGE_WRITE))
    async for message in stream:
        match message.WhichOneof("event"):
            case "text_delta":
                tell(renderer.feed(message.text_delta))
            case "restarted":
                renderer, offset = StreamRenderer(references), 0
                run.attempts[place] += 1
            case "finished":
                tell(renderer.finish())
                return message.finished
    raise EOFError("the stream ended without a section")


def _tell_section(run: Run, keyed: KeyedPapers, place: SectionPlace, keys: Sequence[str]) -> None:
    section = section_of(run.draft, keyed, place, keys)
    finished = service_pb.SectionFinished(chapter_number=place[0], section=section)
    run.ports.emit(service_pb.WatchSurveyResponse(section_finished=finished))


async def _frame(run: Run, stage: StageRun, keyed: KeyedPapers, board: SummaryBoard) -> None:
    draft = run.draft
    stage.report.paper_count = len(keyed.papers)
    stage.expect(1)
    summaries = await board.all_of([paper.paper_id for paper in keyed.papers.values()])
    kept = [key for key, paper in keyed.papers.items() if paper.paper_id in summaries]
    request = generation_pb.WriteFrameRequest(
        call=run.call(),
        model=draft.spec.models.frame,
        question=draft.spec.question,
        language=draft.language,
        outline=_outline(route_keys(draft, keyed)),
        papers=_keyed_messages(keyed, kept, summaries),
        search_terms=draft.search_terms,
        sample_seed=draft.spec.sample_seed,
    )
    async for message in run.services.generation.WriteFrame(request, timeout=run.timeout_s(pb.STAGE_FRAME)):
        if message.WhichOneof("event") == "finished":
            draft.frame = message.finished
            stage.advance(message.finished.usage)
            return
        stage.progress(generation_pb.FramePartKind.Name(message.part.kind).removeprefix("FRAME_PART_KIND_").lower())
    raise EOFError("the stream ended without a frame")


async def _assemble(run: Run, stage: StageRun) -> None:
    """Assemble the survey and check what it promises: every kept paper is cited, listed or dropped with a reason."""
    stage.expect(1)
    coverage = survey_of(run.draft).coverage
    stage.report.paper_count = coverage.kept_count
    settled = coverage.cited_count + coverage.listed_count + coverage.dropped_count
    if settled != coverage.kept_count:
        raise ValueError(f"{coverage.kept_count} papers were kept, but only {settled} are accounted for")
    stage.advance()


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


def _brief(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "out of time"
