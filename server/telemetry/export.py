"""Where the figures go: an OTLP collector, and a page for Prometheus on a listener of its own.

Everything but the address stands in OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`,
`OTEL_TRACES_SAMPLER`, ...); the SDK reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, ProcessCollector

from providers.outbound.client import Outbound
from server.live_providers import LiveProviders
from server.runtime.version import VERSION
from server.telemetry.figures_page import figures_page
from server.telemetry.gauges import Gauges
from server.telemetry.meters import Meters
from server.telemetry.observed import ObservedDatabase, ObservedOutbound
from server.telemetry_settings import TelemetrySettings
from vault import spans
from vault.storage.database import Database

if TYPE_CHECKING:
    from server.deployment import Deployment

_NAME = "token_vault"


class Telemetry:
    """The providers of one process."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self._settings = settings
        resource = Resource.create({"service.name": "token-vault", "service.version": VERSION})
        self.registry = CollectorRegistry()
        readers: list[MetricReader] = []
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        if settings.prometheus:
            ProcessCollector(registry=self.registry)
            readers.append(PrometheusMetricReader(registry=self.registry))
        if settings.otlp_endpoint is not None:
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(f"{settings.otlp_endpoint}/v1/metrics")))
            exporter = OTLPSpanExporter(f"{settings.otlp_endpoint}/v1/traces")
            self._tracers.add_span_processor(BatchSpanProcessor(exporter))
            trace.set_tracer_provider(self._tracers)  # for the spans of the MCP SDK
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)

    outbound_kind = ObservedOutbound

    def watch(self, database: Database, outbound: Outbound, live: LiveProviders) -> Database:
        """Measure what goes through these and `vault.spans` from now on; use the database that this returns."""
        meters = Meters(
            self._meters.get_meter(_NAME, VERSION),
            self._tracers.get_tracer(_NAME, VERSION),
            is_provider=lambda name: name in live.policies,
            is_tool=lambda name: any(spec.name == name for spec in live.current.tools),
        )
        spans.listen(meters.span)
        if isinstance(outbound, ObservedOutbound):
            outbound.meters = meters
        return ObservedDatabase(database, meters)

    async def close(self) -> None:
        """Send what is left, within a few seconds."""
        spans.listen(None)
        await asyncio.to_thread(self._tracers.shutdown)
        await asyncio.to_thread(self._meters.shutdown)

    @asynccontextmanager
    async def run(self, deployment: Deployment) -> AsyncGenerator[None]:
        """Read the gauges and serve `/metrics` while the block runs. Raises SettingsRefused."""
        gauges = Gauges(self._meters.get_meter(_NAME, VERSION), deployment)
        task = asyncio.create_task(gauges.run(), name="gauges")
        address = self._settings.prometheus
        try:
            async with nullcontext() if address is None else figures_page(address, self.registry):
                yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
