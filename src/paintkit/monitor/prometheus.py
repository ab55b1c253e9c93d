"""Metrics for the client library of Prometheus, beside those that an application has there already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paintkit._extras import Extra
from paintkit.monitor import exposition
from paintkit.monitor.gathering import checked, gather

with Extra("prometheus"):
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from paintkit.telemetry import Source

__all__ = ["TelemetryCollector"]


class TelemetryCollector(Collector):
    """Reads sources whenever Prometheus asks; nothing is counted twice, and nothing in between.

    Args:
        sources: Monitors, caches, registries, policies, database managers, buses, …: whatever has `telemetry()`.

    Raises:
        TypeError: Something among them has no `telemetry()`.

    Example:
        >>> from paintkit import PerformanceMonitor
        >>> from prometheus_client import CollectorRegistry
        >>> monitor, registry = PerformanceMonitor(), CollectorRegistry()
        >>> registry.register(TelemetryCollector(monitor))
        >>> monitor.record("mix", 0.25)
        >>> registry.get_sample_value("paintkit_duration_seconds_count", {"name": "mix"})
        1
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = checked(sources)

    def collect(self) -> Iterator[Family]:
        """Return what the sources know at this moment."""
        for metric in gather(self._sources):
            # The library adds `_total` to the names of counters by itself, and wants their family without it.
            name = exposition.prometheus_name(metric)
            family = Family(
                name.removesuffix("_total") if metric.kind == "counter" else name, metric.help, metric.kind
            )
            for suffix, labels, value in exposition.points(metric):
                family.add_sample(name + suffix, dict(labels), value)
            yield family

    def describe(self) -> list[Family]:
        """Return nothing, so that registering reads no source: what there will be is not known yet."""
        return []
