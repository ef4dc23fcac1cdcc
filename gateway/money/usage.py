"""What surveys took and cost, kept for chargeback: it outlives the survey."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.document.assemble import PAID_COUNTS, SERVED_COUNTS
from gateway.document.draft import Draft
from gateway.jobs.values import Job

if TYPE_CHECKING:
    from sqlalchemy import Connection


def record(connection: "Connection", job: Job, draft: Draft) -> None:
    """Keep what a survey's stages took of which model, and charge its tenant's month; repeating it is free.

    What was kept of it before gives way: a call that seemed to be under way may have taken nothing.
    """
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
            **{name: getattr(each, name) for name in (*PAID_COUNTS, *SERVED_COUNTS)},
            "cost_nano_usd": each.cost_nano_usd if each.HasField("cost_nano_usd") else None,
            "paper_count": report.paper_count,
        }
        for stage, report in draft.reports.items()
        for each in report.usage
    ]
    usage.replace(connection, job.survey_id, rows)
    months.charge(connection, job.tenant, job.survey_id, cost_of(draft))


def cost_of(draft: Draft) -> int:
    """Return what a survey has cost as far as prices are known, in nano-US-dollars."""
    return sum(each.cost_nano_usd for report in draft.reports.values() for each in report.usage)
