"""Recorded calls as messages."""

from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import usage_pb2

from services.common.paid.ledger_values import CallState, ListedCall
from services.common.paid.prices import PriceSource
from services.common.paid.usage import usage_message

_OUTCOMES: Mapping[CallState, usage_pb2.CallOutcome.ValueType] = {
    state: usage_pb2.CallOutcome.Value(f"CALL_OUTCOME_{state.name}") for state in CallState
}
_SOURCES: Mapping[PriceSource, usage_pb2.PriceSource.ValueType] = {
    PriceSource.UNPRICED: usage_pb2.PRICE_SOURCE_UNSPECIFIED,
    PriceSource.CATALOGUE: usage_pb2.PRICE_SOURCE_CATALOGUE,
    PriceSource.OVERRIDE: usage_pb2.PRICE_SOURCE_OVERRIDE,
    PriceSource.GPU_TIME: usage_pb2.PRICE_SOURCE_GPU_TIME,
}


def call_messages(calls: Iterable[ListedCall]) -> list[usage_pb2.RecordedCall]:
    """Return a message for each call, in the same order."""
    return [_message_of(call) for call in calls]


def _message_of(call: ListedCall) -> usage_pb2.RecordedCall:
    return usage_pb2.RecordedCall(
        call_id=call.call_id,
        survey_id=call.survey_id,
        stage=call.stage,
        item=call.item,
        model=call.usage.model,
        outcome=_OUTCOMES[call.state],
        started_at=_moment(call.started_at),
        finished_at=None if call.finished_at is None else _moment(call.finished_at),
        usage=usage_message(call.usage),
        price_source=_SOURCES[call.price_source],
        price_version=call.price_version,
        prompt_id=call.prompt_id,
        response_id=call.response_id,
        worst_cost_nano_usd=call.worst_nano_usd,
    )


def _moment(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromMilliseconds(round(seconds * 1_000))
    return moment
