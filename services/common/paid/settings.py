"""Settings of which models do what, and of paid calls."""

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import settings_config

BUILTIN = "extractive:builtin"
"""The engine that needs no key and no network."""
MODELS = r"^[a-z0-9_-]+:[^\s,]{1,200}(,[a-z0-9_-]+:[^\s,]{1,200})*$"
"""One "provider:model", or several in order, separated by commas."""


class ModelSettings(BaseSettings):
    """Which model does what when a request names none; each is read from PAPERROUTE_MODELS__<NAME>.

    Several in order, separated by commas, stand in for each other; the extractive engine stands in at last.
    """

    model_config = settings_config("models")

    plan: str = Field(default=BUILTIN, pattern=MODELS)
    """Turns a question into search terms."""
    summarize: str = Field(default=BUILTIN, pattern=MODELS)
    """Summarizes a paper."""
    write: str = Field(default=BUILTIN, pattern=MODELS)
    """Writes a section."""
    frame: str = Field(default=BUILTIN, pattern=MODELS)
    """Writes title, introduction, chapter heads and closing."""


class PaidSettings(BaseSettings):
    """Settings of paid calls and their ledger; each is read from PAPERROUTE_PAID__<NAME>."""

    model_config = settings_config("paid")

    replicas: PositiveInt = 1
    """Workers that call providers with the same key: each keeps to its share of the configured limits. Workers that
    share a database also count each other."""
    retention_days: PositiveInt = 90
    """Age from which a recorded answer is removed; what it cost is kept."""
    max_answer_bytes: PositiveInt = 2 * 1024**3
    """Most bytes of recorded answers; those not used for longest go first."""
    prices: str = ""
    """Own prices, as JSON: {"openai:my-model": {"input_mtok": 0.5, "output_mtok": 2}, "ollama:*": {"gpu_usd_per_hour":
    1.2}}; USD per million tokens, or per hour of GPU."""
