"""The log: to stderr, a line for each event, as text or as JSON, without keys.

What a message holds may come from a question, a paper or a provider. It cannot begin a line of its own, and nothing in
it that a terminal would obey is written as it is.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from opentelemetry import trace

from services.common.settings import PREFIX, SettingsError, SharedSettings

LEVELS = ("debug", "info", "warning", "error")
ROOMS = ("services", "gateway")
"""Packages of ours. Other libraries log warnings and errors only: their lower levels hold prompts and headers."""
_SECRET_VARIABLE = re.compile(rf"{PREFIX}.*(?:API_KEY|TOKEN)|[A-Z]+_API_KEY")
_MIN_SECRET_LENGTH = 8
_SECRETS = re.compile(
    r"""\b(?:sk|pk|rk|gsk|xai)-[\w*-]{6,}|\bAIza[\w-]{10,}|\bpr_[\w-]{40,}|\bBearer\s+\S+"""
    r"""|\b(?:x-)?(?:goog-)?api[-_]?key["']?\s*[:=]\s*["']?[^\s"',&]+|(?<=[?&]key=)[^\s"'&]+"""
    r"""|(?<=://)[^\s/@]+:[^\s/@]+(?=@)""",
    re.IGNORECASE,
)
"""What looks like a key, a token of a gateway, or the password in an address."""


def configure_logging(shared: SharedSettings, environment: Mapping[str, str] | None = None) -> None:
    """Send log records of the wanted level and above to stderr, in the wanted format.

    Args:
        shared: has level and format.
        environment: values of its keys and tokens are never written; None stands for that of the process.

    Raises:
        SettingsError: there is no such level.
    """
    level = shared.log_level
    if level not in LEVELS:
        raise SettingsError([f"{PREFIX}LOG_LEVEL={level!r}: one of {', '.join(LEVELS)}"])
    secrets = _secrets_of(os.environ if environment is None else environment)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(secrets) if shared.log_format == "json" else TextLines(secrets))
    logging.basicConfig(level="ERROR" if level == "error" else "WARNING", handlers=[handler], force=True)
    logging.captureWarnings(shared.log_format == "json")  # else they would stand between the objects
    for room in ROOMS:
        logging.getLogger(room).setLevel(level.upper())


class _Lines(logging.Formatter):
    """Leaves secrets out of what is written."""

    def __init__(self, secrets: re.Pattern[str] | None, form: str | None = None) -> None:
        super().__init__(form)
        self._known = secrets

    def cleaned(self, text: str) -> str:
        """Return a text without the secrets of this process and without anything like one."""
        return _SECRETS.sub("***", self._known.sub("***", text) if self._known else text)


class TextLines(_Lines):
    """A line for each record; a traceback follows in lines that begin with "  | "."""

    def __init__(self, secrets: re.Pattern[str] | None = None) -> None:
        super().__init__(secrets, "%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, with those of its traceback."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [_escaped(self.cleaned(self.formatMessage(record)))]
        if record.exc_info:
            traceback = self.cleaned(self.formatException(record.exc_info))
            lines += [f"  | {_escaped(line)}" for line in traceback.split("\n")]
        return "\n".join(lines)


class JsonLines(_Lines):
    """An object for each record: time, level, logger, message; trace_id and span_id in a trace; exception."""

    def __init__(self, secrets: re.Pattern[str] | None = None) -> None:
        super().__init__(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return the object of a record, in one line of ASCII."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.cleaned(record.getMessage()),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            fields["trace_id"] = trace.format_trace_id(context.trace_id)
            fields["span_id"] = trace.format_span_id(context.span_id)
        if record.exc_info:
            fields["exception"] = self.cleaned(self.formatException(record.exc_info))
        return json.dumps(fields)


def _secrets_of(environment: Mapping[str, str]) -> re.Pattern[str] | None:
    found = {value.strip() for name, value in environment.items() if _SECRET_VARIABLE.fullmatch(name)}
    secrets = sorted((re.escape(value) for value in found if len(value) >= _MIN_SECRET_LENGTH), key=len, reverse=True)
    return re.compile("|".join(secrets)) if secrets else None


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\u3000" else each.encode("unicode_escape").decode() for each in text
    )
