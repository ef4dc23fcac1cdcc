"""Where telemetry goes: an OTLP receiver, a Prometheus that scrapes. The only module that imports the SDK."""

from collections.abc import Callable

from opentelemetry import trace

from services.common.settings import SharedSettings


def configure(role: str, shared: SharedSettings) -> Callable[[], None]:
    """Send spans to an OTLP gRPC receiver from now on; return what ends it, flushing for at most 5 s.

    With nothing to export to the SDK is not imported.
    """
    if not shared.otlp_endpoint:
        return lambda: None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"paperroute-{role}"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=shared.otlp_endpoint, insecure=True, timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    return provider.shutdown
