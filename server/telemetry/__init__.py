"""Metrics and traces, for operators who set `telemetry`: OpenTelemetry over OTLP, and a page for Prometheus.

Loaded only where it is set. `instrumentation` wraps the database and the HTTP client, `meters` counts, `gauges` reads
the vault's state, and `export` sends. The names follow OpenTelemetry's semantic conventions where they have one.
"""
