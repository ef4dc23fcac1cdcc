r"""The pipeline: a question becomes a survey. One function over the ports and the stubs of the services.

    plan -> retrieve -> embed -> order -> write     -> assemble
                     \-> summarize ----/ \-> frame -/

A section is written as soon as the route is known and its own papers are summarized. What a stage brings goes into the
draft piece by piece; a stage that begins again, after a kill or in a resumed survey, goes on at what is there.
"""

import asyncio
from collections.abc import Awaitable, Sequence

import grpc
from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_pb2, paper_pb2
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb

from gateway.document.assemble import keyed_papers, survey_of
from gateway.document.draft import Draft, PartKind
from gateway.pipeline.run import MOST_S, OUT_OF_TIME, Failed, Run
from gateway.pipeline.stage_run import StageRun
from gateway.pipeline.summaries import SummaryBoard
from gateway.pipeline.writing import write_frame, write_sections
from services.common.errors import BudgetReached, reason_in

ORDERED_BY_QUESTION = {ordering_pb2.ORDERING_METHOD_SEMANTIC, ordering_pb2.ORDERING_METHOD_CHAIN}
"""Orders that begin with the papers nearest to the question."""
FREE_ENCODER = "wordllama:l2_supercat_256"
"""Encodes where the budget does not allow the encoder asked for."""


async def run_pipeline(run: Run) -> pb.SurveyState.ValueType:
    """Fill in the draft of a survey and return its last state: DONE, PARTIAL or NO_PAPERS.

    Raises:
        StageFailed: a stage could not bring what the next ones need; the draft holds what was finished.
    """
    draft = run.draft
    await run.stage(pb.STAGE_PLAN, lambda stage: _plan(run, stage))
    await run.stage(pb.STAGE_RETRIEVE, lambda stage: _retrieve(run, stage))
    if not _found(draft):
        return pb.SURVEY_STATE_NO_PAPERS
    board = SummaryBoard([paper.paper_id for paper in _found(draft)])
    for paper_id, summary in draft.summaries.items():
        board.post(paper_id, summary.summary)
    for paper_id in draft.dropped:
        board.post(paper_id, None)
    await _side_by_side(
        run.stage(pb.STAGE_SUMMARIZE, lambda stage: _summarize(run, stage, board)), _route_and_write(run, board)
    )
    await run.stage(pb.STAGE_ASSEMBLE, lambda stage: _assemble(run, stage))
    return pb.SURVEY_STATE_PARTIAL if _is_cut(draft) else pb.SURVEY_STATE_DONE


def _found(draft: Draft) -> Sequence[paper_pb2.Paper]:
    return draft.search.papers if draft.search else ()


def _is_cut(draft: Draft) -> bool:
    """Return whether something was left out because the survey's time was over."""
    reasons = (*draft.dropped.values(), *draft.missing_sections.values())
    has_frame = draft.frame is not None or draft.spec.writer == pb.WRITER_SINGLE
    return not has_frame or any(reason.endswith(OUT_OF_TIME) for reason in reasons)


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


async def _plan(run: Run, stage: StageRun) -> None:
    spec = run.draft.spec
    stage.expect(1)
    request = generation_pb.PlanSearchRequest(
        model=spec.models.plan,
        question=spec.question,
        language=spec.language,
        sample_seed=spec.sample_seed,
        plan_candidates=spec.plan_candidates,
    )

    async def ask(request: generation_pb.PlanSearchRequest) -> generation_pb.PlanSearchResponse:
        return await run.services.generation.PlanSearch(request, timeout=run.timeout_s(pb.STAGE_PLAN))

    response = await run.paid(pb.STAGE_PLAN, request, ask)
    run.keep(PartKind.PLAN, response)
    stage.advance(response.usage, budget_reached=response.budget_reached)


async def _retrieve(run: Run, stage: StageRun) -> None:
    draft = run.draft
    search_terms = draft.plan.search_terms if draft.plan else ()
    request = retrieval_pb.SearchPapersRequest(
        search_terms=search_terms,
        source=draft.spec.source,
        max_papers=draft.spec.max_papers,
        as_of=draft.spec.as_of,
        match=draft.spec.match,
        cap_by=draft.spec.cap_by,
        categories=draft.spec.categories,
        published_from=draft.spec.published_from if draft.spec.HasField("published_from") else None,
        with_withdrawn=draft.spec.with_withdrawn,
    )
    result = await run.paid(pb.STAGE_RETRIEVE, request, lambda request: _searched(run, stage, request))
    stage.report.paper_count = len(result.papers)
    stage.took(result.usage)
    run.keep(PartKind.SEARCH, result)


async def _searched(run: Run, stage: StageRun, request: retrieval_pb.SearchPapersRequest) -> retrieval_pb.SearchResult:
    stage.expect(len(request.search_terms))
    async for message in run.services.retrieval.SearchPapers(request, timeout=run.timeout_s(pb.STAGE_RETRIEVE)):
        if message.WhichOneof("event") == "result":
            return message.result
        progress = message.progress
        if progress.is_final:
            stage.report.done_count += 1
        stage.progress(progress.waiting_for or f"{progress.search_term}: {progress.found_count} found")
    raise EOFError("the stream ended without a result")


async def _route_and_write(run: Run, board: SummaryBoard) -> None:
    draft = run.draft
    await run.stage(pb.STAGE_EMBED, lambda stage: _embed(run, stage))
    await run.stage(pb.STAGE_ORDER, lambda stage: _order(run, stage))
    keyed = keyed_papers(draft)
    branches = [run.stage(pb.STAGE_WRITE, lambda stage: write_sections(run, stage, keyed, board))]
    if draft.spec.writer != pb.WRITER_SINGLE:
        branches.append(run.stage(pb.STAGE_FRAME, lambda stage: write_frame(run, stage, keyed, board)))
    await _side_by_side(*branches)


async def _embed(run: Run, stage: StageRun) -> None:
    stage.report.paper_count = len(_found(run.draft))
    stage.expect(1)
    try:
        response = await _embedded(run, run.draft.spec.models.embed)
    except grpc.aio.AioRpcError as failure:
        if reason_in(failure) != BudgetReached.reason:
            raise
        stage.report.budget_reached = True
        response = await _embedded(run, FREE_ENCODER)
    kept = embedding_pb.EmbedPapersResponse()
    kept.CopyFrom(response)
    kept.ClearField("vectors")
    kept.ClearField("query_vector")
    run.keep(PartKind.VECTORS, kept)
    stage.report.cached_count = response.cached_count
    stage.advance(response.usage)


async def _embedded(run: Run, encoder: str) -> embedding_pb.EmbedPapersResponse:
    """Return the papers' vectors, which the embedding service keeps: asking again is free."""
    draft = run.draft
    request = embedding_pb.EmbedPapersRequest(
        encoder=encoder,
        papers=_found(draft),
        # Encoded anew each time, since a question is never kept: only where the order needs it.
        query=draft.spec.question if draft.spec.ordering in ORDERED_BY_QUESTION else "",
    )

    async def ask(request: embedding_pb.EmbedPapersRequest) -> embedding_pb.EmbedPapersResponse:
        return await run.services.embedding.EmbedPapers(request, timeout=run.timeout_s(pb.STAGE_EMBED))

    run.vectors = await run.paid(pb.STAGE_EMBED, request, ask)
    return run.vectors


async def _order(run: Run, stage: StageRun) -> None:
    draft = run.draft
    papers = _found(draft)
    stage.report.paper_count = len(papers)
    stage.expect(1)
    # After a restart only the draft tells which encoder it was.
    vectors = run.vectors or await _embedded(run, draft.vectors.encoder if draft.vectors else "")
    is_local = vectors.encoder.startswith("wordllama:")  # a small encoder: the papers' own words sharpen its vectors
    request = ordering_pb.OrderPapersRequest(
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
    )

    async def ask() -> ordering_pb.OrderPapersResponse:
        return await run.services.ordering.OrderPapers(request, timeout=run.timeout_s(pb.STAGE_ORDER))

    response = await run.answered(ask)
    run.keep(PartKind.ORDER, response)
    stage.advance()


async def _summarize(run: Run, stage: StageRun, board: SummaryBoard) -> None:
    """Summarize each paper by a call of its own; a paper that cannot be is dropped, unless none can be."""
    draft = run.draft
    papers = _found(draft)
    failures: dict[str, Exception] = {}
    stage.report.paper_count = len(papers)
    for summary in draft.summaries.values():
        stage.took(summary.usage, budget_reached=summary.budget_reached)
        stage.report.cached_count += _was_served(summary)
    stage.expect(len(papers), done=len(draft.summaries))

    async def summarize(paper: paper_pb2.Paper) -> None:
        try:
            response = await _summary(run, paper)
        except Failed as error:
            failures[paper.paper_id] = error
            return
        run.keep(PartKind.SUMMARY, response, paper.paper_id)
        stage.report.cached_count += _was_served(response)
        stage.advance(response.usage, budget_reached=response.budget_reached)
        board.post(paper.paper_id, response.summary)

    async with asyncio.TaskGroup() as group:
        for paper in papers:
            if paper.paper_id not in draft.summaries:
                group.create_task(summarize(paper))
    if len(failures) == len(papers):
        raise next(iter(failures.values()))
    for paper_id, error in failures.items():  # told only now: had all failed, nothing would have been written
        run.keep(PartKind.DROPPED, f"it could not be summarized: {run.why_lost(error)}", paper_id)
        stage.report.lost_count += 1
        board.post(paper_id, None)


async def _summary(run: Run, paper: paper_pb2.Paper) -> summarization_pb.SummarizePaperResponse:
    spec = run.draft.spec
    request = summarization_pb.SummarizePaperRequest(
        model=spec.models.summarize,
        paper=paper,
        language=run.draft.language,
        summary_seconds=spec.summary_seconds,
        style=spec.summary_style,
    )

    async def ask(request: summarization_pb.SummarizePaperRequest) -> summarization_pb.SummarizePaperResponse:
        async def make(timeout_s: float) -> summarization_pb.SummarizePaperResponse:
            return await run.services.summarization.SummarizePaper(request, timeout=timeout_s)

        return await run.patience.call(run.draft.survey_id, make, run.deadline, MOST_S[pb.STAGE_SUMMARIZE])

    return await run.paid(pb.STAGE_SUMMARIZE, request, ask)


def _was_served(summary: summarization_pb.SummarizePaperResponse) -> bool:
    """Return whether a paper cost no call, because the ledger held the answer."""
    served = any(usage.served_call_count for usage in summary.usage)
    return served and not any(usage.call_count for usage in summary.usage)


async def _assemble(run: Run, stage: StageRun) -> None:
    """Assemble the survey and check what it promises: every kept paper is cited, listed or dropped with a reason."""
    stage.expect(1)
    coverage = survey_of(run.draft).coverage
    stage.report.paper_count = coverage.kept_count
    settled = coverage.cited_count + coverage.listed_count + coverage.dropped_count
    if settled != coverage.kept_count:
        raise ValueError(f"{coverage.kept_count} papers were kept, but only {settled} are accounted for")
    stage.advance()
