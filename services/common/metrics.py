"""The metrics: each instrument once, with its name and unit. Only the API is imported; without the SDK none is kept."""

from opentelemetry import metrics

_meter = metrics.get_meter("paperroute")

summaries_pending = _meter.create_up_down_counter(
    "paperroute.summaries.pending",
    unit="{paper}",
    description="Papers that wait for a place: one of their survey's, or one at a summarization worker.",
)
"""Says how many more summarization workers there is work for; without attributes, so that one series tells all."""
