"""Settings of the two roles that write."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.common.settings import settings_config

BUILTIN = "extractive:builtin"
"""The engine that needs no key and no network."""
_MODEL = r"^[a-z0-9_-]+:\S{1,200}$"


class GenerationSettings(BaseSettings):
    """Settings of the generation service; each is read from PAPERROUTE_GENERATION__<NAME>."""

    model_config = settings_config("generation")

    listen: str = "127.0.0.1:50054"
    """host:port of the gRPC listener; port 0 picks a free one."""
    model_plan: str = Field(default=BUILTIN, pattern=_MODEL)
    """"provider:model" that plans a search when a request names none."""
    model_write: str = Field(default=BUILTIN, pattern=_MODEL)
    """"provider:model" that writes a section when a request names none."""
    model_frame: str = Field(default=BUILTIN, pattern=_MODEL)
    """"provider:model" that writes the frame when a request names none."""


class SummarizationSettings(BaseSettings):
    """Settings of the summarization service; each is read from PAPERROUTE_SUMMARIZATION__<NAME>."""

    model_config = settings_config("summarization")

    listen: str = "127.0.0.1:50055"
    """host:port of the gRPC listener; port 0 picks a free one."""
    model_summarize: str = Field(default=BUILTIN, pattern=_MODEL)
    """"provider:model" that summarizes when a request names none."""
