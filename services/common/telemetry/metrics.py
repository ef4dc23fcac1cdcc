"""The metrics: each instrument once, with its unit and what its attributes can be. No attribute names a survey.

Attributes have few values, or a scrape grows without end: models and tenants are named by callers, so that only the
first ones are told apart (`Bounded`).
"""

from collections.abc import Iterable

from opentelemetry import metrics
from opentelemetry.metrics import Counter

from services.common.telemetry import names

_meter = metrics.get_meter("paperroute")

MAX_VALUES = 100
OTHER = "other"


class Bounded:
    """Values of an attribute: the first ones as they are, all others as one."""

    def __init__(self, most: int = MAX_VALUES) -> None:
        """Know none yet.

        Args:
            most: how many are told apart.
        """
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """Return what stands for a value."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


def begin(counter: Counter, attribute: str, values: Iterable[str]) -> None:
    """Let a counter tell 0 for each value: what a scrape sees first is no increase, and the first failure is one."""
    for value in values:
        counter.add(0, {attribute: value})


models = Bounded()
"""Of all instruments of a process, "provider:model"."""

# Calls to models, in the services that make them. gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model;
# of ours: paperroute.stage and paperroute.model.
operation_duration = _meter.create_histogram(
    names.OPERATION_DURATION,
    unit="s",
    description="A call to a model with all its retries; error.type where it brought no answer.",
    explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS_S,
)
token_usage = _meter.create_histogram(
    names.TOKEN_USAGE,
    unit="{token}",
    description="Tokens of a call to a model, by gen_ai.token.type, paid for now; answers of the ledger are not in it.",
    explicit_bucket_boundaries_advisory=names.TOKEN_BOUNDS,
)
time_to_first_chunk = _meter.create_histogram(
    names.TIME_TO_FIRST_CHUNK,
    unit="s",
    description="From the sending of a streamed call to the first piece of its text.",
    explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS_S,
)
cost = _meter.create_counter(
    names.COST,
    unit="USD",
    description="What calls to models cost, by stage and model; one whose cost nobody knows counts at its worst case.",
)
avoided_cost = _meter.create_counter(
    names.AVOIDED_COST, unit="USD", description="What answers of the ledger would have cost, by stage and model."
)
calls = _meter.create_counter(
    names.CALLS, unit="{call}", description="Calls by stage, model and outcome; those the ledger answered are 'served'."
)
calls_unpriced = _meter.create_counter(
    names.CALLS_UNPRICED, unit="{call}", description="Paid calls whose model has no known price, by model."
)
retries = _meter.create_counter(
    names.RETRIES, unit="{attempt}", description="Attempts that brought no answer, by model and error.type."
)

# Surveys, in the gateway.
surveys = _meter.create_counter(names.SURVEYS, unit="{survey}", description="Surveys that ended, by paperroute.state.")
survey_cost = _meter.create_histogram(
    names.SURVEY_COST,
    unit="USD",
    description="What ended surveys cost, once no call of theirs is under way any more, by paperroute.state.",
    explicit_bucket_boundaries_advisory=names.COST_BOUNDS_USD,
)
survey_duration = _meter.create_histogram(
    names.SURVEY_DURATION,
    unit="s",
    description="From the turn of a survey to its end, by paperroute.state.",
    explicit_bucket_boundaries_advisory=names.LONG_DURATION_BOUNDS_S,
)
stage_duration = _meter.create_histogram(
    names.STAGE_DURATION,
    unit="s",
    description="Stages of surveys, by paperroute.stage and paperroute.state.",
    explicit_bucket_boundaries_advisory=names.LONG_DURATION_BOUNDS_S,
)
queue_wait = _meter.create_histogram(
    names.QUEUE_WAIT,
    unit="s",
    description="From the creation of a survey, or from its resumption, to its turn.",
    explicit_bucket_boundaries_advisory=names.LONG_DURATION_BOUNDS_S,
)

# Saturation.
summaries_pending = _meter.create_up_down_counter(
    names.SUMMARIES_PENDING,
    unit="{paper}",
    description="Papers that wait for a place: one of their survey's, or one at a summarization worker.",
)
"""Says how many more summarization workers there is work for; without attributes, so that one series tells all."""
summaries_in_flight = _meter.create_up_down_counter(
    names.SUMMARIES_IN_FLIGHT, unit="{paper}", description="Papers that a summarization worker has in hand."
)
arxiv_requests = _meter.create_counter(
    names.ARXIV_REQUESTS,
    unit="{request}",
    description="Requests to arXiv's API by paperroute.outcome; 'cached' and 'stale' are pages that were kept instead.",
)
arxiv_wait = _meter.create_histogram(
    names.ARXIV_WAIT,
    unit="s",
    description="How long a request to arXiv's API waited for its turn.",
    explicit_bucket_boundaries_advisory=names.LONG_DURATION_BOUNDS_S,
)
