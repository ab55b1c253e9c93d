"""The collector for the client library of Prometheus."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from paintkit import CacheManager, ErrorRecoveryManager, EventBus, PerformanceMonitor, bulkhead
from paintkit.monitor import exposition
from paintkit.monitor.gathering import gather
from paintkit.monitor.prometheus import TelemetryCollector
from paintkit.telemetry import Metric, Sample


def scene():
    """Some of everything, with something to tell."""
    monitor, cache, recovery, bus = (
        PerformanceMonitor(),
        CacheManager("paints"),
        ErrorRecoveryManager(),
        EventBus("studio"),
    )
    recovery.add(bulkhead(3, name="printer"))
    load = cache.cache_result()(abs)
    assert [load(-1), load(-1)] == [1, 1]
    for seconds in (0.001, 0.25, 40.0):
        monitor.record('mix "red"\n', seconds, OSError() if seconds > 1 else None)
    bus.publish("paint.created")
    return monitor, cache, recovery, bus


def numbers(text):
    return {
        (family.name, family.type, sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_library_writes_what_we_write_ourselves():
    """One source, two exporters, the same page."""
    sources, registry = scene(), CollectorRegistry()
    registry.register(TelemetryCollector(*sources))
    ours = numbers(exposition.render(gather(sources)))
    assert ours == numbers(generate_latest(registry).decode())
    assert len(ours) > 40


def test_a_gauge_may_be_called_total():
    """The library takes the word for its own only where it is a counter's."""

    class Jobs:
        def telemetry(self):
            return [Metric("studio.jobs.total", "gauge", "", "Jobs.", (Sample({}, 3),))]

    registry = CollectorRegistry()
    registry.register(TelemetryCollector(Jobs()))
    assert (
        generate_latest(registry)
        .decode()
        .startswith("# HELP studio_jobs_total Jobs.\n# TYPE studio_jobs_total gauge\nstudio_jobs_total 3.0\n")
    )


def test_a_number_that_was_forgotten_is_noticed():
    """The comparison above sees a single missing source."""
    sources, registry = scene(), CollectorRegistry()
    registry.register(TelemetryCollector(*sources[1:]))
    assert numbers(exposition.render(gather(sources))) != numbers(generate_latest(registry).decode())


def test_durations_are_a_histogram_that_adds_up_over_processes():
    """Buckets within exact bounds, no percentiles."""
    registry = CollectorRegistry()
    monitor, *_ = scene()
    registry.register(TelemetryCollector(monitor))
    labels = {"name": 'mix "red"\n'}
    within = {
        bound: registry.get_sample_value("paintkit_duration_seconds_bucket", {**labels, "le": bound})
        for bound in ("0.0009765625", "0.25", "32.0", "+Inf")
    }
    assert {"0.0009765625": 0, "0.25": 2, "32.0": 2, "+Inf": 3} == within
    assert 1 == registry.get_sample_value("paintkit_duration_errors_total", labels)


def test_registering_reads_nothing():
    """A database need not answer while an app is put together."""

    class Silent:
        def telemetry(self):
            raise AssertionError

    CollectorRegistry(auto_describe=True).register(TelemetryCollector(Silent()))


def test_what_is_no_source_is_refused():
    """When the collector is made."""
    with pytest.raises(TypeError, match=r"telemetry\(\)"):
        TelemetryCollector("paints")
