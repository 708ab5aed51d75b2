"""Export of the metrics: to an OTLP collector, and on a page for Prometheus with a separate listener.

Everything except the address is set in OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_HEADERS`,
`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, ...); the SDK reads them. Without a sampler there, one trace in fifty is
recorded, plus all those that the caller records.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, ProcessCollector

from providers.outbound.client import Outbound
from server.live_providers import LiveProviders
from server.runtime.version import VERSION
from server.telemetry.figures_page import figures_page
from server.telemetry.gauges import Gauges
from server.telemetry.instrumentation import ObservedDatabase, ObservedOutbound
from server.telemetry.meters import TIMES, Meters
from server.telemetry.recorder import Recorder
from server.telemetry.tally import Tally
from server.telemetry_settings import TelemetrySettings
from vault import spans
from vault.storage.database import Database

if TYPE_CHECKING:
    from server.deployment import Deployment

_NAME: Final = "token_vault"
_SCOPE: Final = InstrumentationScope(_NAME, VERSION)
_SAMPLED: Final = 0.02  # share of the traces that begin here


class Telemetry:
    """The providers of one process."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self._settings = settings
        named = OTELResourceDetector().detect().attributes  # the SDK would prefer ours to those of the environment
        resource = Resource.create({"service.name": "token-vault", "service.version": VERSION, **named})
        self._tally = Tally(TIMES)
        self.registry = CollectorRegistry()
        readers: list[MetricReader] = []
        self._tracers: TracerProvider | None = None
        if settings.prometheus:
            ProcessCollector(registry=self.registry)
            readers.append(_PageReader(self._tally, resource, registry=self.registry))
        if settings.otlp_endpoint is not None:
            metrics = OTLPMetricExporter(f"{settings.otlp_endpoint}/v1/metrics")
            readers.append(_SendingReader(self._tally, resource, metrics))
            self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            exporter = OTLPSpanExporter(f"{settings.otlp_endpoint}/v1/traces")
            self._sending = BatchSpanProcessor(exporter)
            self._tracers.add_span_processor(self._sending)
            trace.set_tracer_provider(self._tracers)  # for the spans of the MCP SDK
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)

    outbound_kind = ObservedOutbound

    def watch(self, database: Database, outbound: Outbound, live: LiveProviders) -> Database:
        """Start measuring these objects and `vault.spans`; use the returned database."""
        share = None if "OTEL_TRACES_SAMPLER" in os.environ else _SAMPLED
        meters = Meters(
            self._meters.get_meter(_NAME, VERSION),
            None if self._tracers is None else Recorder(self._tracers, self._sending, _SCOPE, share=share),
            self._tally,
            is_provider=lambda name: name in live.policies,
            is_tool=_ToolNames(live).has,
        )
        spans.listen(meters.span)
        if isinstance(outbound, ObservedOutbound):
            outbound.meters = meters
        return ObservedDatabase(database, meters)

    async def close(self) -> None:
        """Send what is left, within a few seconds."""
        spans.listen(None)
        if self._tracers is not None:
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


class _ToolNames:
    """The names of the tools, as the providers are now."""

    def __init__(self, live: LiveProviders) -> None:
        self._live = live
        self._of = live.current
        self._names = frozenset(spec.name for spec in self._of.tools)

    def has(self, name: str) -> bool:
        if self._live.current is not self._of:
            self._of = self._live.current
            self._names = frozenset(spec.name for spec in self._of.tools)
        return name in self._names


class _PageReader(PrometheusMetricReader):
    """The SDK's metrics page, including the histograms of the tally."""

    def __init__(self, tally: Tally, resource: Resource, *, registry: CollectorRegistry) -> None:
        self._tally = tally
        self._resource = resource
        super().__init__(registry=registry)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object) -> None:
        data = self._tally.with_times(metrics_data, self._resource, _SCOPE)
        super()._receive_metrics(data, timeout_millis)  # pyright: ignore[reportUnknownMemberType] -- untyped options


class _SendingReader(PeriodicExportingMetricReader):
    """The SDK's exporter, including the histograms of the tally."""

    def __init__(self, tally: Tally, resource: Resource, exporter: OTLPMetricExporter) -> None:
        self._tally = tally
        self._resource = resource
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: object) -> None:
        data = self._tally.with_times(metrics_data, self._resource, _SCOPE)
        super()._receive_metrics(data, timeout_millis)  # pyright: ignore[reportUnknownMemberType] -- untyped options
