"""Where telemetry goes: an OTLP receiver, a Prometheus that scrapes. With neither, the SDK is not imported."""

from collections.abc import Callable

from services.common.addresses import is_loopback
from services.common.settings import PREFIX, SettingsError, SharedSettings


def configure(role: str, shared: SharedSettings) -> Callable[[], None]:
    """Send traces and metrics from now on; return what ends it, which blocks for at most 5 s.

    Raises:
        SettingsError: metrics cannot be served where they are to be, or what sends them is not installed.
    """
    listen = shared.metrics_listen
    if not (shared.otlp_endpoint or listen):
        return lambda: None
    if listen and not (shared.allow_insecure_listen or is_loopback(listen)):
        raise SettingsError(
            [
                f"{PREFIX}METRICS_LISTEN={listen!r}: refusing to listen beyond loopback, where anybody could read the "
                f"metrics; set {PREFIX}ALLOW_INSECURE_LISTEN=true only where the network itself is protected"
            ]
        )
    try:
        from services.common.telemetry.sdk import Exports
    except ImportError as error:
        name = f"{PREFIX}OTLP_ENDPOINT" if shared.otlp_endpoint else f"{PREFIX}METRICS_LISTEN"
        raise SettingsError([f"{name}: {error.name} is not installed; install paperroute[telemetry]"]) from error
    exports = Exports(role, endpoint=shared.otlp_endpoint, listen=listen)
    exports.become_global()
    if shared.trace_content:
        from services.common.telemetry.model_calls import trace_content

        trace_content(is_on=True)
    return exports.end
