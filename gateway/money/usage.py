"""What surveys took and cost, kept for chargeback: it outlives the survey."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.document.draft import Draft
from gateway.jobs.values import Job

if TYPE_CHECKING:
    from sqlalchemy import Connection


def record(connection: "Connection", job: Job, draft: Draft) -> None:
    """Keep what a survey's stages took of which model, and charge its tenant's month; repeating it is free."""
    from gateway.store import months, usage

    day = datetime.fromtimestamp(job.created_at, UTC).strftime("%Y-%m-%d")
    rows = [
        {
            "survey_id": job.survey_id,
            "stage": stage,
            "model": each.model,
            "tenant": job.tenant,
            "created_at": job.created_at,
            "day": day,
            "call_count": each.call_count,
            "input_tokens": each.input_tokens,
            "cached_input_tokens": each.cached_input_tokens,
            "cache_write_tokens": each.cache_write_tokens,
            "output_tokens": each.output_tokens,
            "reasoning_tokens": each.reasoning_tokens,
            "cost_nano_usd": each.cost_nano_usd if each.HasField("cost_nano_usd") else None,
            "avoided_cost_nano_usd": each.avoided_cost_nano_usd,
            "paper_count": report.paper_count,
        }
        for stage, report in draft.reports.items()
        for each in report.usage
    ]
    usage.put(connection, rows)
    cost = sum(each.cost_nano_usd for report in draft.reports.values() for each in report.usage)
    months.charge(connection, job.tenant, job.survey_id, cost)
