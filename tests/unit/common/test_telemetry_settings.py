"""Where telemetry is to go: a bad address is told at start, by the name of its variable."""

import sys

import pytest

from services.common.settings import SettingsError, SharedSettings, load
from services.common.telemetry.export import configure


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PAPERROUTE_OTLP_ENDPOINT", "collector"),
        ("PAPERROUTE_OTLP_ENDPOINT", "collector:http"),
        ("PAPERROUTE_OTLP_ENDPOINT", "collector:0"),
        ("PAPERROUTE_OTLP_ENDPOINT", "collector:70000"),
        ("PAPERROUTE_OTLP_ENDPOINT", "grpc://collector:4317"),
        ("PAPERROUTE_OTLP_ENDPOINT", "http://collector:4317/v1/traces"),
        ("PAPERROUTE_OTLP_ENDPOINT", "::1:4317"),
        ("PAPERROUTE_METRICS_LISTEN", "9464"),
        ("PAPERROUTE_METRICS_LISTEN", ":9464"),
        ("PAPERROUTE_METRICS_LISTEN", "http://127.0.0.1:9464"),
        ("PAPERROUTE_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_is_told_by_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as failure:
        load(SharedSettings)

    (problem,) = failure.value.problems
    assert problem.startswith(f"{variable}={value!r}: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PAPERROUTE_OTLP_ENDPOINT", "otel-collector.monitoring.svc:4317"),
        ("PAPERROUTE_OTLP_ENDPOINT", "https://collector.example:443"),
        ("PAPERROUTE_OTLP_ENDPOINT", "[::1]:4317"),
        ("PAPERROUTE_METRICS_LISTEN", "127.0.0.1:0"),
        ("PAPERROUTE_METRICS_LISTEN", "[::1]:9464"),
    ],
)
def test_a_good_address_is_taken(variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)

    assert value in load(SharedSettings).model_dump().values()


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "[::]:9464", "metrics.example:9464"])
def test_metrics_are_not_shown_beyond_loopback_unasked(listen: str):
    with pytest.raises(SettingsError, match="refusing to listen beyond loopback") as failure:
        configure("ordering", SharedSettings(metrics_listen=listen))

    (problem,) = failure.value.problems
    assert problem.startswith(f"PAPERROUTE_METRICS_LISTEN={listen!r}")
    assert "PAPERROUTE_ALLOW_INSECURE_LISTEN=true" in problem


@pytest.mark.parametrize("setting", ["otlp_endpoint", "metrics_listen"])
def test_what_is_not_installed_is_told_by_what_asked_for_it(setting: str, monkeypatch: pytest.MonkeyPatch):
    """A container of one role may come without the extra `telemetry`."""
    monkeypatch.setitem(sys.modules, "services.common.telemetry.sdk", None)
    with pytest.raises(SettingsError, match=rf"PAPERROUTE_{setting.upper()}: .*paperroute\[telemetry\]"):
        configure("ordering", SharedSettings(**{setting: "127.0.0.1:4317"}))
