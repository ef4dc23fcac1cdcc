"""What is known of a survey so far: the parts its stages brought. A survey is computed from them whenever it is read.

A part is a message with a place; the same parts make the same draft, whoever reads them and when.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from paperroute.v1 import embedding_service_pb2 as embedding_pb
from paperroute.v1 import generation_service_pb2 as generation_pb
from paperroute.v1 import ordering_service_pb2 as ordering_pb
from paperroute.v1 import retrieval_service_pb2 as retrieval_pb
from paperroute.v1 import summarization_service_pb2 as summarization_pb
from paperroute.v1 import survey_pb2 as pb

SectionPlace = tuple[int, int]
"""Chapter number and section number, both from 1."""

ENDED = frozenset(
    {
        pb.SURVEY_STATE_DONE,
        pb.SURVEY_STATE_PARTIAL,
        pb.SURVEY_STATE_FAILED,
        pb.SURVEY_STATE_CANCELLED,
        pb.SURVEY_STATE_NO_PAPERS,
    }
)
"""States of a survey that is neither queued nor running."""


class PartKind(Enum):
    """What a part is; its place is given behind it."""

    PLAN = "plan"
    """PlanSearchResponse."""
    SEARCH = "search"
    """SearchResult."""
    VECTORS = "vectors"
    """EmbedPapersResponse without its vectors: they stay with the embedding service."""
    ORDER = "order"
    """OrderPapersResponse."""
    SUMMARY = "summary"
    """SummarizePaperResponse, by paper_id."""
    DROPPED = "dropped"
    """Why a paper had to be left out, by paper_id; UTF-8."""
    SECTION = "section"
    """SectionText, by "2.3"."""
    MISSING = "missing"
    """Why a section has no text, by "2.3"; UTF-8."""
    FRAME = "frame"
    """FrameText."""
    REPORT = "report"
    """StageReport, by the number of the stage."""
    FAILURE = "failure"
    """Failure."""
    REWRITES = "rewrites"
    """How often a section was written again on demand, by "2.3"; decimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of a draft. A later one of the same kind and place takes its place."""

    kind: PartKind
    place: str = ""
    payload: bytes


@dataclass(kw_only=True, slots=True, eq=False)
class Draft:
    """The parts of a survey, read. The pipeline adds to it; only a resumed survey loses some."""

    survey_id: str
    spec: pb.SurveySpec
    labels: Mapping[str, str]
    state: pb.SurveyState.ValueType = pb.SURVEY_STATE_QUEUED
    attempt: int = 0
    queue_position: int = 0
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    plan: generation_pb.PlanSearchResponse | None = None
    search: retrieval_pb.SearchResult | None = None
    vectors: embedding_pb.EmbedPapersResponse | None = None
    order: ordering_pb.OrderPapersResponse | None = None
    summaries: dict[str, summarization_pb.SummarizePaperResponse] = field(default_factory=dict)
    """By paper_id."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Why a paper had to be left out, by paper_id."""
    sections: dict[SectionPlace, generation_pb.SectionText] = field(default_factory=dict)
    missing_sections: dict[SectionPlace, str] = field(default_factory=dict)
    """Why a section has no text."""
    rewrite_counts: dict[SectionPlace, int] = field(default_factory=dict)
    """How often a section was written again on demand."""
    frame: generation_pb.FrameText | None = None
    reports: dict[int, pb.StageReport] = field(default_factory=dict)
    """By stage."""
    failure: pb.Failure | None = None

    @property
    def language(self) -> str:
        """The language to write in, a BCP 47 primary subtag; as asked for until the plan is made."""
        return self.plan.language if self.plan else self.spec.language

    def summary_of(self, paper_id: str) -> str:
        """Return a paper's summary; empty when it has none."""
        summary = self.summaries.get(paper_id)
        return summary.summary if summary else ""

    def add(self, part: Part) -> None:
        """Read a part into the draft."""
        match part.kind:
            case PartKind.SUMMARY:
                self.summaries[part.place] = summarization_pb.SummarizePaperResponse.FromString(part.payload)
            case PartKind.DROPPED:
                self.dropped[part.place] = part.payload.decode()
            case PartKind.SECTION:
                place = place_of(part.place)
                self.sections[place] = generation_pb.SectionText.FromString(part.payload)
                self.missing_sections.pop(place, None)
            case PartKind.MISSING:
                self.missing_sections[place_of(part.place)] = part.payload.decode()
            case PartKind.REWRITES:
                self.rewrite_counts[place_of(part.place)] = int(part.payload)
            case PartKind.REPORT:
                self.reports[int(part.place)] = pb.StageReport.FromString(part.payload)
            case _:
                setattr(self, part.kind.value, _SINGLE[part.kind].FromString(part.payload))

    def is_done(self, stage: pb.Stage.ValueType) -> bool:
        """Return whether a stage has finished and need not run again."""
        report = self.reports.get(stage)
        return report is not None and report.state == pb.STAGE_STATE_DONE


_SINGLE: Mapping[PartKind, type[Any]] = {  # Any: protobuf's generated classes share no typed FromString
    PartKind.PLAN: generation_pb.PlanSearchResponse,
    PartKind.SEARCH: retrieval_pb.SearchResult,
    PartKind.VECTORS: embedding_pb.EmbedPapersResponse,
    PartKind.ORDER: ordering_pb.OrderPapersResponse,
    PartKind.FRAME: generation_pb.FrameText,
    PartKind.FAILURE: pb.Failure,
}
"""The message of each kind that a survey has one of."""


def place_of(text: str) -> SectionPlace:
    """Return the place that "2.3" names."""
    chapter, _, section = text.partition(".")
    return int(chapter), int(section)


def place_name(place: SectionPlace) -> str:
    """Return "2.3"."""
    return f"{place[0]}.{place[1]}"


def parts_to_redo(draft: Draft) -> Iterable[tuple[PartKind, str]]:
    """Return kind and place of the parts that a resumed survey lets go of: what failed, was lost or came too late.

    Such a stage runs again and finds what it had finished.
    """
    if draft.failure:
        yield PartKind.FAILURE, ""
    for paper_id in draft.dropped:
        yield PartKind.DROPPED, paper_id
    for place in draft.missing_sections:
        yield PartKind.MISSING, place_name(place)
    for stage, report in draft.reports.items():
        if report.lost_count or report.state != pb.STAGE_STATE_DONE or stage == pb.STAGE_ASSEMBLE:
            yield PartKind.REPORT, str(stage)
