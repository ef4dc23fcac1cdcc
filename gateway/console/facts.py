"""What is known of a survey that is under way: papers found, tokens and cost so far."""

from collections.abc import Iterable

from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_pb2

from services.common.paid.money import shown


def facts_of(reports: Iterable[pb.StageReport]) -> str:
    """Return one line about the stages so far; empty where nothing is known."""
    known = list(reports)
    paper_count = max((each.paper_count for each in known if each.stage == pb.STAGE_RETRIEVE), default=0)
    usages = [usage for each in known for usage in each.usage]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
    pieces = [f"{paper_count:,} papers found"] if paper_count else []
    if usages:
        pieces += [f"{tokens:,} tokens", f"{cost_of(usages)} so far"]
    return " · ".join(pieces)


def cost_of(usages: Iterable[usage_pb2.ModelUsage]) -> str:
    """Return what calls cost; what is missing for want of a price is said."""
    rows = list(usages)
    known = f"${shown(sum(row.cost_nano_usd for row in rows))}"
    return known if all(row.HasField("cost_nano_usd") for row in rows) else f"≥ {known}"
