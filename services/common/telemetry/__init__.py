"""Telemetry: what every stage and every model call took, for those who run PaperRoute.

`names` has every name, `spans` and `propagation` make one trace of a survey across services, `metrics` has every
instrument, `logs` writes the log, `export` sends it all. Only `export` imports the OpenTelemetry SDK, and only where
something is to be exported: all else stands on its API, which then does nothing.
"""
