"""Settings of the two roles that write; which model does what is in `services.common.paid.settings`."""

from pydantic import PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import settings_config


class GenerationSettings(BaseSettings):
    """Settings of the generation service; each is read from PAPERROUTE_GENERATION__<NAME>."""

    model_config = settings_config("generation")

    listen: str = "127.0.0.1:50054"
    """host:port of the gRPC listener; port 0 picks a free one."""
    embedding: str = "127.0.0.1:50052"
    """gRPC target of the embedding service, which compares the candidates of a plan."""


class SummarizationSettings(BaseSettings):
    """Settings of the summarization service; each is read from PAPERROUTE_SUMMARIZATION__<NAME>."""

    model_config = settings_config("summarization")

    listen: str = "127.0.0.1:50055"
    """host:port of the gRPC listener; port 0 picks a free one."""
    max_papers_in_flight: PositiveInt = 128
    """Papers this worker has in hand at one time; half as many may wait, and what comes then is sent to another worker.
    With a model that takes 2 s they keep about half a core busy."""
