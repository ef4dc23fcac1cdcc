"""What headers say, and how tokens are counted where nobody does."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.common.paid.faults import RateState
from services.common.providers.exchange import is_too_long, kind_of_status, public_address, without_keys
from services.common.providers.headers import duration_s, rate_state_of, reset_after_of, retry_after_of
from services.common.providers.tokens import estimated_tokens


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("6m0s", 360),
        ("1h2m3s", 3_723),
        ("1.5s", 1.5),
        ("0s", 0),
        ("2s", 2),
        ("", None),
        ("soon", None),
        ("6", None),
        ("-1s", None),
        ("1s!", None),
    ],
)
def test_durations(text, seconds):
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers, seconds):
    assert retry_after_of(headers) == seconds


@pytest.mark.parametrize(("ahead_s", "seconds"), [(60, 60), (-60, 0)])
def test_a_date_to_wait_for(ahead_s, seconds):
    headers = {"retry-after": format_datetime(in_seconds(ahead_s), usegmt=True)}

    assert retry_after_of(headers) == pytest.approx(seconds, abs=1.1)


def test_openais_limits():
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "10000",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    assert rate_state_of(headers) == RateState(
        request_limit=500,
        requests_remaining=499,
        requests_reset_s=pytest.approx(0.12),
        token_limit=30_000,
        tokens_remaining=10_000,
        tokens_reset_s=360,
    )


def test_anthropics_limits_on_input_and_output_are_added():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": in_seconds(30).isoformat(),
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "30000",
        "anthropic-ratelimit-input-tokens-reset": in_seconds(10).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": in_seconds(40).isoformat(),
    }

    rate = rate_state_of(headers)

    assert rate
    assert (rate.request_limit, rate.requests_remaining) == (50, 49)
    assert rate.requests_reset_s == pytest.approx(30, abs=1.1)
    assert (rate.token_limit, rate.tokens_remaining) == (48_000, 30_000)
    assert rate.tokens_reset_s == pytest.approx(40, abs=1.1)


def test_headers_that_say_nothing_give_nothing():
    assert rate_state_of({"content-type": "text/html", "x-ratelimit-limit-requests": "many"}) is None


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (RateState(requests_remaining=0, requests_reset_s=3, tokens_remaining=5, tokens_reset_s=60), 3),
        (RateState(request_limit=9, requests_remaining=8, requests_reset_s=3), 3),
        (
            RateState(
                request_limit=500,
                requests_remaining=499,
                requests_reset_s=0.1,
                token_limit=30_000,
                tokens_remaining=200,
                tokens_reset_s=58,
            ),
            58,
        ),
        (RateState(request_limit=9), None),
        (None, None),
    ],
)
def test_the_most_exhausted_limit_says_how_long(rate, seconds):
    assert reset_after_of(rate) == seconds


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [((), 0), (("",), 0), (("abcd",), 1), (("abcd", "efgh"), 2), (("画像生成中身",), 5), (("abcd画像生成中身",), 6)],
)
def test_estimated_tokens(texts, tokens):
    assert estimated_tokens(*texts) == tokens


@pytest.mark.parametrize(
    "problem",
    [
        "This model's maximum context length is 128000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Request too large for gpt-6-luna on tokens per min (TPM): Limit 30000, Requested 50000.",
        "input length and `max_tokens` exceed context limit: 190000 + 16000 > 200000 tokens",
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_the_words(problem):
    assert is_too_long(problem)
    assert kind_of_status(400, problem).name == "TOO_LONG"


@pytest.mark.parametrize("problem", ["temperature: not with this model", "max_tokens: 0 is too small"])
def test_other_words_are_a_bad_request(problem):
    assert kind_of_status(400, problem).name == "BAD_REQUEST"


def test_words_are_told_in_one_short_line_without_keys_and_tags():
    words = "<html>\r\n<b>Incorrect</b> key: sk-proj-abcdef123 and AIzaSyA1234567890 and my-own-key\n" + "x" * 400

    told = without_keys(words, "my-own-key")

    assert told.startswith("Incorrect key: *** and *** and *** xxx")
    assert len(told) == 300


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("http://user:word@host:8000/v1", "http://host:8000/v1"),
        ("http://[::1]:11434/v1", "http://[::1]:11434/v1"),
    ],
)
def test_addresses_are_told_without_passwords(address, public):
    assert public_address(address) == public
