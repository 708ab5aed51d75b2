"""The sections `telemetry` and `logs`: where metrics and traces go, and the form of log records."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from server.provider_settings import Section

LogForm = Literal["auto", "json", "console"]


class LogSettings(Section):
    """The log of `serve`, on standard error."""

    format: LogForm = Field(
        default="auto", description="auto | json | console: auto is console on a terminal, JSON elsewhere"
    )


class TelemetrySettings(Section):
    """Metrics and traces; turned off unless an address is set. Needs the extra `telemetry`."""

    prometheus: str | None = Field(
        default=None,
        description="Address that serves /metrics for Prometheus, as 127.0.0.1:9464",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="Collector that gets metrics and traces (OTLP over HTTP), as http://localhost:4318",
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is measured."""
        return self.prometheus is not None or self.otlp_endpoint is not None

    @field_validator("prometheus")
    @classmethod
    def _is_listener(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("use the form HOST:PORT, for example 127.0.0.1:9464")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_collector(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError("use the form http://host:4318, and OTEL_EXPORTER_OTLP_HEADERS for credentials")
        return value.rstrip("/")
