"""Requests and responses of UsageService: every field rule, page tokens, sums as messages."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import usage_service_pb2 as usage_pb

from gateway.access.principal import Principal, Scope
from gateway.store.moments import limit_of
from gateway.store.usage import Dimension, UsageFilter, UsageQuery, UsageSum, Value
from services.common.errors import InvalidRequest, Violation
from services.common.fields import FieldChecks
from services.common.papers import check_moment

DEFAULT_PAGE_SIZE = 1_000
MAX_PAGE_SIZE = 10_000
MAX_NAME, MAX_MODEL = 128, 300
MAX_LABELS, MAX_KEY, MAX_VALUE = 20, 63, 255
MAX_TOKEN = 4_096
_DIMENSIONS = {usage_pb.UsageDimension.Value(f"USAGE_DIMENSION_{each.name}"): each for each in Dimension}
_BAD_TOKEN = Violation(field="page_token", description="next_page_token of the page before, asked with the same fields")


def query_of(request: usage_pb.QueryUsageRequest, who: Principal) -> UsageQuery | None:
    """Return what a request asks; None where it asks for what the caller may not see: there is nothing then.

    Raises:
        InvalidRequest: names every broken field.
    """
    checks = FieldChecks()
    _check_groups(checks, request)
    for name, most in (("survey_id", MAX_NAME), ("tenant", MAX_NAME), ("model", MAX_MODEL)):
        checks.length(name, getattr(request, name), 0, most)
    checks.enum("stage", request.stage, pb.Stage)
    checks.count("labels", len(request.labels), 0, MAX_LABELS)
    for key, value in request.labels.items():
        field = f"labels[{key[:MAX_KEY]!r}]"
        checks.length(field, key, 1, MAX_KEY)
        checks.length(field, value, 0, MAX_VALUE)
    created_from = _moment(checks, "created_from", request.created_from) if request.HasField("created_from") else None
    before = _moment(checks, "created_before", request.created_before) if request.HasField("created_before") else None
    checks.number("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    checks.length("page_token", request.page_token, 0, MAX_TOKEN)
    checks.finish()
    group_by = tuple(_DIMENSIONS[each] for each in request.group_by)
    after = _place_of(request, group_by) if request.page_token else None
    is_admin = who.scope >= Scope.ADMIN
    if not is_admin and request.tenant not in {"", who.tenant}:
        return None
    which = UsageFilter(
        tenant=(request.tenant or None) if is_admin else who.tenant,
        survey_id=request.survey_id or None,
        stage=request.stage or None,
        model=request.model or None,
        labels=tuple(sorted(request.labels.items())),
        created_from=created_from,
        created_before=before,
    )
    size = request.page_size or DEFAULT_PAGE_SIZE
    return UsageQuery(which=which, group_by=group_by, label_key=request.label_key, size=size, after=after)


def response_of(
    request: usage_pb.QueryUsageRequest, groups: Sequence[UsageSum], total: UsageSum, *, has_more: bool
) -> usage_pb.QueryUsageResponse:
    """Return a page of groups and the sum over all."""
    return usage_pb.QueryUsageResponse(
        rows=map(_row_of, groups),
        next_page_token=_token_of(request, groups[-1].place) if has_more else "",
        total=_row_of(total),
    )


def _check_groups(checks: FieldChecks, request: usage_pb.QueryUsageRequest) -> None:
    for position, dimension in enumerate(request.group_by[: len(_DIMENSIONS) + 1]):
        field = f"group_by[{position}]"
        if checks.enum(field, dimension, usage_pb.UsageDimension):
            checks.require(bool(dimension), field, "a dimension; none at all makes one group of everything")
    is_unique = len(set(request.group_by)) == len(request.group_by)
    checks.require(is_unique, "group_by", "each dimension at most once")
    if usage_pb.USAGE_DIMENSION_LABEL in request.group_by:
        checks.length("label_key", request.label_key, 1, MAX_KEY)
    else:
        checks.require(not request.label_key, "label_key", "nothing, unless `group_by` holds LABEL")


def _moment(checks: FieldChecks, field: str, timestamp: Timestamp) -> float | None:
    return limit_of(timestamp) if check_moment(checks, field, timestamp) else None


def _row_of(found: UsageSum) -> usage_pb.UsageRow:
    row = usage_pb.UsageRow()
    for name, count in found.counts.items():
        setattr(row, name, count)
    for dimension, value in found.values.items():
        setattr(row, "label_value" if dimension is Dimension.LABEL else dimension.value, value)
    return row


def _token_of(request: usage_pb.QueryUsageRequest, place: Sequence[Value]) -> str:
    token = json.dumps([_digest_of(request), *place], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(token.encode()).decode()


def _place_of(request: usage_pb.QueryUsageRequest, group_by: Sequence[Dimension]) -> tuple[Value, ...]:
    """Return the place that a page token names.

    Raises:
        InvalidRequest: it is not one of a page asked with the same fields.
    """
    try:
        digest, *place = json.loads(base64.b64decode(request.page_token.encode(), b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidRequest([_BAD_TOKEN]) from error
    kinds = [kind for each in group_by for kind in _KINDS.get(each, (str,))]
    is_whole = len(place) == len(kinds) and all(type(each) is kind for each, kind in zip(place, kinds, strict=True))
    if digest != _digest_of(request) or not is_whole or not place or not all(map(_is_storable, place)):
        raise InvalidRequest([_BAD_TOKEN])
    return tuple(place)


_KINDS: Mapping[Dimension, tuple[type, ...]] = {Dimension.STAGE: (int,), Dimension.LABEL: (int, str)}
"""What the places of groups hold besides texts."""
_LARGEST = 2**31 - 1


def _is_storable(value: Value) -> bool:
    """Return whether a value can be compared with a column; halves of characters and NUL cannot."""
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _digest_of(request: usage_pb.QueryUsageRequest) -> str:
    """Return what tells apart requests that differ in more than the page."""
    plain = usage_pb.QueryUsageRequest()
    plain.CopyFrom(request)
    plain.ClearField("page_size")
    plain.ClearField("page_token")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).hexdigest()[:16]
