"""Metrics and span events for OpenTelemetry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, cast

from paintkit import _arguments, _catalogue, observations
from paintkit._extras import Extra
from paintkit.histogram import since
from paintkit.monitor.details import on_one_line, plain
from paintkit.monitor.gathering import OTHER, checked, everyone, gather
from paintkit.monitor.performance import PerformanceMonitor
from paintkit.observations import Subscription

with Extra("opentelemetry"):
    from opentelemetry import trace
    from opentelemetry.metrics import Observation as Reading

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from paintkit.monitor.performance import Measured
    from paintkit.observations import Observation
    from paintkit.telemetry import Entry, HistogramSnapshot, Metric, Source

__all__ = ["instrument", "trace_observations"]

# What is measured under more names than that is recorded together.
_MOST_NAMES: Final = 1_000


def instrument(meter: Meter, *sources: Source) -> Subscription:
    """Show the sources' numbers through a meter: observable instruments, and histograms of durations.

    Counts and states are read when a reader collects. Durations are recorded one by one, for the interface of OpenTelemetry
    knows no other way: what monitors measure from now on when it ends, with the kind of an error as `error.type`; what
    pools measure from now on when a reader collects, and shown by the next collection at the latest.

    Args:
        meter: What OpenTelemetry's `get_meter(…)` returns.
        sources: Monitors, caches, registries, policies, database managers, buses, …: whatever has `telemetry()`.

    Returns:
        The registration: after `.cancel()` the instruments have nothing to tell.

    Raises:
        TypeError: `meter` is none, or something among the sources has no `telemetry()`.

    Example:
        >>> from opentelemetry.metrics import get_meter
        >>> from paintkit import CacheManager, PerformanceMonitor
        >>> shown = instrument(get_meter("studio"), CacheManager("paints"), PerformanceMonitor())
        >>> shown.cancel()
    """
    _arguments.having("meter", meter, "create_observable_counter", "what OpenTelemetry's get_meter() returns")
    given = checked(sources)
    instruments = _instruments(given)
    measured, *_ = _catalogue.MONITOR.entries
    histograms = {
        one.name: meter.create_histogram(one.name, one.unit, one.help)
        for one in instruments
        if one.kind == "histogram"
    }
    record = _recorder(histograms.pop(measured.name))
    readings = _Readings(given, histograms)
    for one in instruments:
        create = {
            "counter": meter.create_observable_counter,
            "gauge": meter.create_observable_up_down_counter,
        }.get(one.kind)
        if create is not None:
            create(one.name, [readings.of(one.name)], one.unit, one.help)
    monitors = [source for source in everyone(given) if isinstance(source, PerformanceMonitor)]
    subscriptions = ExitStack()
    subscriptions.callback(readings.stop)
    for monitor in monitors:
        subscriptions.enter_context(monitor.observe(record))
    return Subscription(subscriptions.close)


def trace_observations() -> Subscription:
    """Add every observation, from now on, as an event to the span that is current where it was made.

    Returns:
        The registration: `.cancel()` it, or use it as a context manager.

    Example:
        >>> from paintkit import retry
        >>> with trace_observations():
        ...     retry(on=OSError).call(len, "blue")
        4
    """
    return observations.observe(_add_event)


def _add_event(observation: Observation) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        attributes = {f"paintkit.{name}": value for name, value in plain(observation.details).items()}
        attributes["paintkit.source"] = on_one_line(observation.source)
        span.add_event(f"paintkit.{observation.kind}", attributes)


def _instruments(sources: tuple[Source, ...]) -> Iterable[Metric | Entry]:
    """What there may be to show, once each: an instrument has to be there before the first of its numbers."""
    found: dict[str, Metric | Entry] = {
        entry.name: entry for table in _catalogue.TABLES for entry in table.entries
    }
    return (found | {metric.name: metric for metric in gather(sources)}).values()


class _Readings:
    """What the sources say, asked once for all the instruments of one collection."""

    def __init__(self, sources: tuple[Source, ...], histograms: Mapping[str, Histogram]) -> None:
        self._sources = sources
        self._histograms = histograms
        self._recorded: dict[tuple[str, frozenset[tuple[str, str]]], HistogramSnapshot] = {}
        self._note(self._gathered(), tell=False)
        self._lock = threading.Lock()  # guards the two below
        self._metrics: dict[str, Metric] | None = None
        self._served: set[str] = set()  # the instruments that had their share of them

    def of(self, name: str) -> Callable[[CallbackOptions], Iterable[Reading]]:
        """Return the callback of one instrument."""
        return lambda _options: self._share(name)

    def stop(self) -> None:
        """Ask nobody any more."""
        self._sources = ()

    def _share(self, name: str) -> Iterator[Reading]:
        with self._lock:
            if self._metrics is None or name in self._served:  # a new collection has begun
                self._metrics = self._gathered()
                self._served = set()
                self._note(self._metrics, tell=True)
            self._served.add(name)
            metric = self._metrics.get(name)
        for labels, value in metric.samples if metric is not None else ():
            yield Reading(cast("float", value), labels)

    def _gathered(self) -> dict[str, Metric]:
        return {metric.name: metric for metric in gather(self._sources)}

    def _note(self, metrics: Mapping[str, Metric], *, tell: bool) -> None:
        """Record what histograms have got since the last time."""
        for name, histogram in self._histograms.items():
            for labels, value in metrics[name].samples if name in metrics else ():
                key, snapshot = (name, frozenset(labels.items())), cast("HistogramSnapshot", value)
                for seconds, count in since(snapshot, self._recorded.get(key)) if tell else ():
                    for _ in range(count):
                        histogram.record(seconds, labels)
                self._recorded[key] = snapshot


def _recorder(histogram: Histogram) -> Callable[[Measured], None]:
    """Return an observer of monitors."""
    known: set[str] = set()

    def record(measured: Measured) -> None:
        name = measured.name
        if name not in known:
            if len(known) < _MOST_NAMES:
                known.add(name)
            else:
                name = OTHER
        attributes = {"name": name}
        if measured.error is not None:
            attributes["error.type"] = type(measured.error).__name__
        histogram.record(measured.seconds, attributes)

    return record
