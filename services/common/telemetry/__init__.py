"""Telemetry: what every stage and every model call took, for those who run PaperRoute.

`names` has every name; `spans`, `model_calls` and `propagation` make one trace of a survey across services; `metrics`
and `saturation` have instruments, `logs` writes the log, `export` sends it all. Only `sdk` imports the OpenTelemetry
SDK, and only where something is to be exported: all else stands on its API, which then does nothing.
"""
