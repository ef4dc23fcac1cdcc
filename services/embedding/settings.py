"""Settings of the embedding service."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.common.settings import settings_config


class EmbeddingSettings(BaseSettings):
    """Settings of the embedding service; each is read from PAPERROUTE_EMBEDDING__<NAME>."""

    model_config = settings_config("embedding")

    listen: str = "127.0.0.1:50052"
    """host:port of the gRPC listener; port 0 picks a free one."""
    encoder: str = "wordllama:l2_supercat_256"
    """Encoder of requests that name none, "provider:model"."""
    store: str = Field(default="", pattern=r"^(:memory:|https?://\S+)?$")
    """Where vectors are kept: empty for the folder `qdrant` in the data folder, ":memory:", or a server's URL."""
    memory_when_locked: bool = False
    """Whether to go on with a store in memory, and a warning, when another process holds the folder."""
