"""Settings of the embedding service."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.common.settings import settings_config


class EmbeddingSettings(BaseSettings):
    """Settings of the embedding service; each is read from PAPERROUTE_EMBEDDING__<NAME>."""

    model_config = settings_config("embedding")

    listen: str = "127.0.0.1:50052"
    """host:port of the gRPC listener; port 0 picks a free one."""
    encoder: str = "wordllama:l2_supercat_256"
    """Encoder of requests that name none, "provider:model"; a provider's model that is not known by name has the length
    of its vectors behind it: "ollama:nomic-embed-text@768"."""
    store: str = Field(default="", pattern=r"^(:memory:|https?://\S+)?$")
    """Where vectors are kept: empty for the folder `vectors` in the data folder, ":memory:" for nowhere beyond the
    process, or the URL of a Qdrant server, whose port is 6333 unless it is named."""
    store_key: SecretStr = SecretStr("")
    """API key of the Qdrant server; empty for none."""
    memory_when_locked: bool = False
    """Whether to go on as with ":memory:", and a warning, when another process holds the folder."""
