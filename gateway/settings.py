"""Settings of the gateway."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings

from services.common.settings import TokenSecret, settings_config


class GatewaySettings(BaseSettings):
    """Each is read from PAPERROUTE_GATEWAY__<NAME>."""

    model_config = settings_config("gateway")

    listen: str = "127.0.0.1:50050"
    """host:port of the gRPC listener; port 0 picks a free one."""
    console_listen: str = Field(default="", pattern=r"^(\S+:\d{1,5})?$")
    """host:port of the console, for browsers, with the certificate and the tokens of the gateway; port 0 picks a free
    one. Empty serves none, but for `paperroute up`, which then serves it at 127.0.0.1:50080."""
    console_hosts: str = ""
    """Names by which browsers reach the console, separated by commas, besides the host it listens on."""
    auth: Literal["off", "tokens"] = "off"
    """tokens: each request needs one, which says whose tenant it acts for. off: everybody is the tenant "default"."""
    admin_token: TokenSecret | None = None
    """A token of the tenant "default" with the scope admin, with which the first tenants and tokens are made. At least
    20 characters."""
    tls_cert: Path | None = None
    """PEM file of the listener's certificate with its chain, read again when it changes. None encrypts nothing."""
    tls_key: Path | None = None
    """PEM file of that certificate's key, without a password."""
    tls_client_ca: Path | None = None
    """PEM file of certificates, one of which must have signed that of every client; None asks clients for none."""
    max_requests_per_s: float = Field(default=50.0, gt=0, le=100_000)
    """Requests a second that one token may make, on each replica, where its tenant has no limit of its own; short
    bursts may be twice that."""
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
    service_absence_s: float = Field(default=15.0, ge=0, le=600)
    """Longest a survey waits for a service that is away, such as one that is started again; then its stage fails."""
    max_running_surveys: PositiveInt = 32
    """Surveys under way in this gateway at one time; others wait for their turn."""
    max_running_surveys_per_tenant: PositiveInt = 32
    """Surveys of one tenant under way at one time, in all gateways, where the tenant has no limit of its own."""
    max_queued_surveys_per_tenant: PositiveInt = 1_000
    """Surveys of one tenant that may wait for their turn, where the tenant has no limit of its own."""
    max_queued_surveys: PositiveInt = 10_000
    """Surveys of all tenants that may wait for their turn."""
    retention_days: PositiveInt = 90
    """Age from which ended surveys are removed with their questions and texts; what they cost is kept."""
    take_over: bool = True
    """Whether it goes on with surveys that other gateways on its database left behind when they died."""
    max_interruptions: PositiveInt = 20
    """How often a survey may be interrupted without finishing a stage or a section: then it may be what ends the
    processes, and fails."""
    own_only: bool = False
    """Whether it runs only surveys that it was asked for itself."""
    max_summaries_in_flight: PositiveInt = 160
    """Papers of one survey that are summarized at one time."""
    max_sections_in_flight: PositiveInt = 64
    """Sections of one survey that are written at one time."""
    allowed_models: str = "*"
    """Models a survey may name, as patterns separated by commas: "openai:*,extractive:builtin"."""
