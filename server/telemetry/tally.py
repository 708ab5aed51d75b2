"""Counts and times, kept here because adding to an SDK's instrument costs seven times as much during a call.

The SDK reads the counts through its observable counters. It has none for histograms, so `with_times` adds them to what
a reader of the SDK receives.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

OTHER: Final = "other"  # replaces a value that isn't one of ours
MOST_SERIES: Final = 10_000  # label sets of one name; all further ones count as one
Labels = tuple[tuple[str, str], ...]
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)


@dataclass(slots=True)
class Count:
    """How often something happened."""

    times: int = 0


@dataclass(slots=True)
class Times:
    """How long something took, in seconds: how often, in sum, and by bucket."""

    count: int = 0
    sum: float = 0.0
    least: float = float("inf")
    most: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.sum += seconds
        if seconds < self.least:  # `min` and `max` cost a call each
            self.least = seconds
        if seconds > self.most:
            self.most = seconds
        self.buckets[bisect_left(SECONDS, seconds)] += 1


class Tally:
    """What one process has counted and timed, by name and labels."""

    def __init__(self, texts: Mapping[str, tuple[str, str]]) -> None:
        """`texts`: the full name and the description of each thing that is timed."""
        self.counts: dict[str, dict[Labels, Count]] = {}
        self._texts = texts
        self._times: dict[str, dict[Labels, Times]] = {name: {} for name in texts}
        self._began = time.time_ns()

    def times(self, name: str, labels: Labels) -> Times:
        """What to add the times of that name and these labels to."""
        kept = self._times[name]
        if labels not in kept and len(kept) >= MOST_SERIES:
            labels = tuple((label, OTHER) for label, _ in labels)
        found = kept.get(labels)
        if found is None:
            found = kept[labels] = Times()
        return found

    def with_times(self, data: MetricsData, resource: Resource, scope: InstrumentationScope) -> MetricsData:
        """The data, with the histograms of this scope.

        They must be with the scope's other metrics: of several entries for a resource, OTLP's encoder sends only the
        last.
        """
        times = list(self._metrics())
        first, *others = data.resource_metrics or [ResourceMetrics(resource, [], "")]
        of_others = [one for one in first.scope_metrics if one.scope.name != scope.name]
        counts = [metric for one in first.scope_metrics if one.scope.name == scope.name for metric in one.metrics]
        merged = [ScopeMetrics(scope, [*counts, *times], ""), *of_others]
        return replace(data, resource_metrics=[replace(first, scope_metrics=merged), *others])

    def _metrics(self) -> Iterable[Metric]:
        now = time.time_ns()
        for name, kept in self._times.items():
            points = [
                HistogramDataPoint(
                    attributes=dict(labels),
                    start_time_unix_nano=self._began,
                    time_unix_nano=now,
                    count=one.count,
                    sum=one.sum,
                    bucket_counts=tuple(one.buckets),
                    explicit_bounds=SECONDS,
                    min=one.least,
                    max=one.most,
                )
                for labels, one in list(kept.items())
            ]
            if points:
                full, text = self._texts[name]
                yield Metric(full, text, "s", Histogram(points, AggregationTemporality.CUMULATIVE))
