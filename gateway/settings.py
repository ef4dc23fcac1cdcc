"""Settings of the gateway."""

from pydantic import PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import settings_config


class GatewaySettings(BaseSettings):
    """Each is read from PAPERROUTE_GATEWAY__<NAME>."""

    model_config = settings_config("gateway")

    listen: str = "127.0.0.1:50050"
    """host:port of the gRPC listener; port 0 picks a free one."""
    retrieval: str = "127.0.0.1:50051"
    """gRPC target of the retrieval service."""
    embedding: str = "127.0.0.1:50052"
    """gRPC target of the embedding service."""
    ordering: str = "127.0.0.1:50053"
    """gRPC target of the ordering service."""
    generation: str = "127.0.0.1:50054"
    """gRPC target of the generation service."""
    summarization: str = "127.0.0.1:50055"
    """gRPC target of the summarization service; all addresses behind its name share the papers."""
    survey_timeout_s: PositiveInt = 600
    """Longest a survey may take when its request does not say."""
    max_running_surveys: PositiveInt = 32
    """Surveys under way at one time; another one is refused until one ends."""
    max_kept_surveys: PositiveInt = 1_000
    """Ended surveys kept for reading; the oldest goes first."""
    max_summaries_in_flight: PositiveInt = 160
    """Papers of one survey that are summarized at one time."""
    max_sections_in_flight: PositiveInt = 64
    """Sections of one survey that are written at one time."""
    allowed_models: str = "*"
    """Models a survey may name, as patterns separated by commas: "openai:*,extractive:builtin"."""
