"""What the headers of an answer say: how long to wait, and what is left of the limits."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from services.common.paid.faults import RateState

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ANTHROPIC_TOKENS = ("input-tokens", "output-tokens")


def rate_state_of(headers: Mapping[str, str]) -> RateState | None:
    """Return what is left of the limits, from the headers of OpenAI or Anthropic; None when they say nothing.

    Anthropic limits input and output on their own; their sum stands for both.
    """
    requests = _bucket(headers, "x-ratelimit-{}-requests", "anthropic-ratelimit-requests-{}")
    tokens = _bucket(headers, "x-ratelimit-{}-tokens", "anthropic-ratelimit-tokens-{}")
    if tokens == _UNKNOWN:
        tokens = _sum(*(_bucket(headers, f"anthropic-ratelimit-{kind}-{{}}") for kind in _ANTHROPIC_TOKENS))
    if requests == _UNKNOWN and tokens == _UNKNOWN:
        return None
    return RateState(
        request_limit=requests[0],
        requests_remaining=requests[1],
        requests_reset_s=requests[2],
        token_limit=tokens[0],
        tokens_remaining=tokens[1],
        tokens_reset_s=tokens[2],
    )


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that retry-after-ms or retry-after (seconds or a date) asks to wait; None when neither does.

    Source: RFC 9110, section 10.2.3; retry-after-ms is OpenAI's.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    return seconds if seconds is not None else _seconds_until(value, parsedate_to_datetime)


def reset_after_of(rate: RateState | None) -> float | None:
    """Return the seconds until the most exhausted bucket is full again; for refusals that do not say how long."""
    if rate is None:
        return None
    buckets = [
        (rate.request_limit, rate.requests_remaining, rate.requests_reset_s),
        (rate.token_limit, rate.tokens_remaining, rate.tokens_reset_s),
    ]
    known = [(_share(limit, remaining), reset) for limit, remaining, reset in buckets if reset is not None]
    return min(known)[1] if known else None


def duration_s(text: str) -> float | None:
    """Return the seconds of "6m0s", "120ms", "1.5s"; None when it is no such duration."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


_Bucket = tuple[float | None, float | None, float | None]
_UNKNOWN: _Bucket = (None, None, None)


def _bucket(headers: Mapping[str, str], *forms: str) -> _Bucket:
    """Return limit, remaining and seconds to the reset, by the first form of names that is there."""
    for form in forms:
        reset = headers.get(form.format("reset"), "")
        reset_s = duration_s(reset)
        if reset_s is None:
            reset_s = _seconds_until(reset, datetime.fromisoformat)
        found = _number(headers.get(form.format("limit"))), _number(headers.get(form.format("remaining"))), reset_s
        if found != _UNKNOWN:
            return found
    return _UNKNOWN


def _sum(left: _Bucket, right: _Bucket) -> _Bucket:
    limit, remaining = (
        None if one is None and other is None else (one or 0) + (other or 0)
        for one, other in zip(left[:2], right[:2], strict=True)
    )
    resets = [reset for reset in (left[2], right[2]) if reset is not None]
    return limit, remaining, max(resets, default=None)


def _share(limit: float | None, remaining: float | None) -> float:
    if remaining is None:
        return 1.0
    return remaining / limit if limit else float(remaining > 0)


def _number(text: str | None) -> float | None:
    """Return a number of 0 or more; None when the text is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(text: str, moment_of: Callable[[str], datetime]) -> float | None:
    try:
        moment = moment_of(text)
    except (ValueError, TypeError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
