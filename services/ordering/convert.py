"""Messages of OrderingService to and from the domain, and every rule of its request."""

import numpy as np
from numpy.typing import NDArray
from paperroute.v1 import ordering_pb2
from paperroute.v1 import ordering_service_pb2 as pb

from services.common.fields import FieldChecks
from services.common.vectors import WIRE, vectors_of
from services.ordering.annealing import MAX_PAPERS as MAX_ANNEALED_PAPERS
from services.ordering.cuts import Limits
from services.ordering.order import Method, Order, Task

MAX_PAPERS = 10_000
MAX_DIMENSION = 4_096
MAX_SECTION_PAPERS = 50
DEFAULT_SECTION_PAPERS = 8

_METHODS = {
    ordering_pb2.ORDERING_METHOD_UNSPECIFIED: Method.ROUTE,
    ordering_pb2.ORDERING_METHOD_ROUTE: Method.ROUTE,
    ordering_pb2.ORDERING_METHOD_ROUTE_ANNEALING: Method.ROUTE_ANNEALING,
    ordering_pb2.ORDERING_METHOD_SEMANTIC: Method.SEMANTIC,
    ordering_pb2.ORDERING_METHOD_NEWEST: Method.NEWEST,
    ordering_pb2.ORDERING_METHOD_CHAIN: Method.CHAIN,
}
_NUMBERS = {method: number for number, method in _METHODS.items()}  # the last number of a method: never UNSPECIFIED


def task_of(request: pb.OrderPapersRequest) -> Task:
    """Return what a request asks for.

    Raises:
        InvalidRequest: fields break their rules; it names them all.
    """
    checks = FieldChecks()
    _check_papers(checks, request)
    _check_vectors(checks, request)
    _check_method(checks, request)
    _check_limits(checks, request)
    checks.finish()
    return Task(
        paper_ids=list(request.paper_ids),
        vectors=vectors_of(request.vectors, request.dimension),
        texts=list(request.texts),
        method=_METHODS[request.method],
        question=vectors_of(request.query_vector, request.dimension)[0] if request.query_vector else None,
        starts_at_question=request.starts_at_query,
        published_s=list(request.published_s),
        limits=Limits(
            max_section_papers=request.max_section_papers or DEFAULT_SECTION_PAPERS,
            chapter_count=request.chapter_count,
            section_count=request.section_count,
        ),
        seed=request.seed,
    )


def response_of(order: Order) -> pb.OrderPapersResponse:
    """Return the message of an order."""
    paper_ids = order.paper_ids
    return pb.OrderPapersResponse(
        paper_ids=paper_ids,
        chapters=[
            pb.RouteChapter(
                sections=[pb.RouteSection(paper_ids=paper_ids[section.start : section.stop]) for section in chapter]
            )
            for chapter in order.chapters
        ],
        points=[ordering_pb2.MapPoint(x=x, y=y) for x, y in order.points.tolist()],
        path_length=order.path_length,
        priced_length=order.priced_length,
        section_coherence=order.section_coherence,
        duration_ms=round(order.duration_s * 1_000),
        method=_NUMBERS[order.method],
    )


def _check_papers(checks: FieldChecks, request: pb.OrderPapersRequest) -> None:
    found = len(request.paper_ids)
    checks.count("paper_ids", found, 1, MAX_PAPERS)
    checks.unique("paper_ids", list(request.paper_ids))
    for field, values in (("texts", request.texts), ("published_s", request.published_s)):
        checks.require(
            len(values) in (0, found), field, f"none, or one for each of {found:,} papers, not {len(values):,}"
        )


def _check_vectors(checks: FieldChecks, request: pb.OrderPapersRequest) -> None:
    papers, count, dimension = len(request.paper_ids), request.count, request.dimension
    checks.require(count == papers, "count", f"that of paper_ids, {papers:,}, not {count:,}")
    if not checks.require(1 <= dimension <= MAX_DIMENSION, "dimension", f"1 to {MAX_DIMENSION:,}, not {dimension:,}"):
        return
    _check_rows(checks, "vectors", request.vectors, count, dimension)
    if request.query_vector:
        _check_rows(checks, "query_vector", request.query_vector, 1, dimension)


def _check_rows(checks: FieldChecks, field: str, data: bytes, count: int, dimension: int) -> None:
    wanted = count * dimension * WIRE.itemsize
    shape = f"{count:,} x {dimension:,} float32, {wanted:,} bytes"
    if not checks.require(len(data) == wanted, field, f"{shape}, not {len(data):,}"):
        return
    rows = vectors_of(data, dimension)
    _refuse(checks, field, np.flatnonzero(~np.isfinite(rows).all(axis=1)), "holds a number that is not finite")
    _refuse(checks, field, np.flatnonzero(~rows.any(axis=1)), "has length zero")


def _refuse(checks: FieldChecks, field: str, broken: NDArray[np.intp], how: str) -> None:
    if broken.size:
        checks.add(field, f"row {broken[0]:,} {how}")


def _check_method(checks: FieldChecks, request: pb.OrderPapersRequest) -> None:
    checks.enum("method", request.method, ordering_pb2.OrderingMethod)
    papers = len(request.paper_ids)
    if request.method == ordering_pb2.ORDERING_METHOD_ROUTE_ANNEALING:
        checks.require(
            papers <= MAX_ANNEALED_PAPERS,
            "method",
            f"route_annealing takes at most {MAX_ANNEALED_PAPERS} papers, not {papers:,}",
        )
    if request.method == ordering_pb2.ORDERING_METHOD_NEWEST:
        checks.require(bool(request.published_s), "published_s", "one for each paper: newest needs them")
    if request.method == ordering_pb2.ORDERING_METHOD_SEMANTIC or request.starts_at_query:
        checks.require(bool(request.query_vector), "query_vector", "needed by semantic and by starts_at_query")


def _check_limits(checks: FieldChecks, request: pb.OrderPapersRequest) -> None:
    papers = len(request.paper_ids)
    is_kept = checks.number("max_section_papers", request.max_section_papers, 1, MAX_SECTION_PAPERS)
    checks.number("chapter_count", request.chapter_count, 1, papers)
    if not checks.number("section_count", request.section_count, 1, papers) or not request.section_count:
        return
    checks.require(
        request.section_count >= request.chapter_count,
        "section_count",
        f"at least one for each of {request.chapter_count:,} chapters, not {request.section_count:,}",
    )
    if is_kept:
        longest = request.max_section_papers or DEFAULT_SECTION_PAPERS
        fewest = -(-papers // longest)
        checks.require(
            request.section_count >= fewest,
            "section_count",
            f"at least {fewest:,} sections of at most {longest} for {papers:,} papers, not {request.section_count:,}",
        )
