"""Settings of the retrieval service."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings

from services.common.settings import settings_config

ARXIV_SPACING_S = 3.0
"""Least time between two requests to arXiv. Source: arXiv API terms of use, one request every three seconds."""


class RetrievalSettings(BaseSettings):
    """Settings of the retrieval service; each is read from PAPERROUTE_RETRIEVAL__<NAME>."""

    model_config = settings_config("retrieval")

    listen: str = "127.0.0.1:50051"
    """host:port of the gRPC listener; port 0 picks a free one."""
    arxiv_url: str = "https://export.arxiv.org/api/query"
    """Where arXiv's API is reached, without a query; another host serves tests and mirrors."""
    request_spacing_s: NonNegativeFloat = ARXIV_SPACING_S
    """Time between the starts of two requests of all replicas, in seconds; at least 3 towards arXiv's own hosts."""
    request_timeout_s: PositiveFloat = 30
    """Longest one request may take, in seconds."""
    cooldown_s: NonNegativeFloat = 5
    """Pause of all replicas after arXiv throttled one of them, in seconds; it doubles with each time in a row."""
    fresh_s: NonNegativeFloat = 86_400
    """How old a kept answer of arXiv may be to be used instead of a new one, in seconds."""
    max_cache_bytes: PositiveInt = 256 * 1024 * 1024
    """Most space that kept answers take."""
    max_wait_s: NonNegativeFloat = 20
    """Expected wait for arXiv from which on AUTO takes the local index, in seconds."""
    max_index_age_days: NonNegativeInt = 7
    """How long before the day a search looks back from the local index may end and still be asked before arXiv."""
    index_path: Path | None = None
    """The local index; arxiv_index.sqlite3 in the data folder when not set."""
    embedding: str = "127.0.0.1:50052"
    """gRPC target of the embedding service, whose store is the last resort."""
    max_results_per_term: int = Field(default=200, ge=1, le=2_000)
    """Results to take per search term when a request says nothing."""

    @field_validator("arxiv_url")
    @classmethod
    def _is_plain_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or any(each in value for each in "?#{} "):
            message = "an http or https address without a query"
            raise ValueError(message)
        return value

    @field_validator("request_spacing_s")
    @classmethod
    def _is_polite(cls, value: float, info: ValidationInfo) -> float:
        host = (urlsplit(info.data.get("arxiv_url", "")).hostname or "").rstrip(".")
        if value < ARXIV_SPACING_S and (host == "arxiv.org" or host.endswith(".arxiv.org")):
            message = f"at least {ARXIV_SPACING_S:g} towards arXiv's own hosts, as its terms ask"
            raise ValueError(message)
        return value
