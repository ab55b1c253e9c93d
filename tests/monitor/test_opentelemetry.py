"""The adapter for OpenTelemetry, read by its own SDK."""

import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paintkit import (
    CacheManager,
    ErrorRecoveryManager,
    PerformanceMonitor,
    backoff,
    bulkhead,
    observations,
    retry,
)
from paintkit.monitor import opentelemetry
from paintkit.monitor.gathering import OTHER, gather
from paintkit.monitor.opentelemetry import instrument, trace_observations
from paintkit.sqlalchemy import DatabaseConnectionManager
from paintkit.telemetry import Metric, Sample
from paintkit.testing import FakeClock


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def meter(reader):
    provider = MeterProvider([reader])
    yield provider.get_meter("studio")
    provider.shutdown()


def numbers(reader):
    """Return what a collection finds: values, or counts of a histogram, by name and attributes."""
    data = reader.get_metrics_data()
    return {
        (metric.name, *sorted(point.attributes.values())): getattr(point, "value", None)
        if hasattr(point, "value")
        else point.count
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_numbers_are_read_when_a_reader_collects(reader, meter):
    """Those of primitives that were busy before, and of what comes later."""
    cache, recovery = CacheManager("paints"), ErrorRecoveryManager()
    load = cache.cache_result()(abs)
    load(-1)
    instrument(meter, cache, recovery)
    assert 1 == numbers(reader)["paintkit.cache.misses", "never", "paints"]
    load(-1)
    recovery.add(bulkhead(3, name="printer"))
    found = numbers(reader)
    assert (1, 3) == (
        found["paintkit.cache.hits", "memory", "paints"],
        found["paintkit.bulkhead.limit", "printer"],
    )


def test_it_tells_what_every_exporter_tells(reader, meter):
    """The same names, the same numbers; durations are told one by one."""
    cache, recovery = CacheManager("paints"), ErrorRecoveryManager()
    recovery.add(bulkhead(3, name="printer"))
    cache.cache_result()(abs)(-1)
    instrument(meter, cache, recovery)
    expected = {
        (metric.name, *sorted(sample.labels.values())): sample.value
        for metric in gather([cache, recovery])
        for sample in metric.samples
    }
    assert expected == numbers(reader)


def test_a_collection_asks_every_source_once(reader, meter):
    """However many instruments it serves; the next asks anew."""

    class Queue:
        asked = 0

        def telemetry(self):
            self.asked += 1
            for name in ("waiting", "running"):
                yield Metric(f"studio.queue.{name}", "gauge", "{job}", "Jobs.", (Sample({}, self.asked),))

    queue = Queue()
    instrument(meter, queue)
    before = queue.asked
    for _ in range(3):
        found = numbers(reader)
        assert found["studio.queue.waiting",] == found["studio.queue.running",]
    assert 3 == queue.asked - before


def test_durations_are_recorded_with_names_and_kinds_of_errors(reader, meter):
    """By an observer of each monitor, also of one that another source holds."""

    class App:
        def __init__(self):
            self.monitor = PerformanceMonitor()

        def telemetry(self):
            return [self.monitor]

    app = App()
    instrument(meter, app)
    app.monitor.record("mix", 0.25)
    app.monitor.record("mix", 0.5, OSError())
    found = numbers(reader)
    assert (1, 1) == (found["paintkit.duration", "mix"], found["paintkit.duration", "OSError", "mix"])


def test_times_of_pools_are_shown_too(reader, meter):
    """Those from now on, as each pool keeps them."""
    with FakeClock() as clock:
        db = DatabaseConnectionManager("sqlite://")
        db.engine.connect().close()
        instrument(meter, db)
        for seconds in (2.0, 3.0, 3.0):
            with db.engine.connect():
                clock.advance(seconds)
        numbers(reader)
        with db.engine.connect():
            clock.advance(1.0)
        numbers(reader)
        data = reader.get_metrics_data()
        (uses,) = [
            point
            for scope in data.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            if metric.name == "db.client.connection.use_time"
            for point in metric.data.data_points
        ]
        assert 4 == uses.count
        assert abs(uses.sum - 9.0) < 0.09
        assert ["db.client.connection.pool.name"] == list(uses.attributes)
        db.close()


def test_names_of_durations_are_bounded(reader, meter, monkeypatch):
    """What comes after the first is recorded together, as in the monitor."""
    monkeypatch.setattr(opentelemetry, "_MOST_NAMES", 2)
    monitor = PerformanceMonitor()
    instrument(meter, monitor)
    for number in range(5):
        monitor.record(f"user {number}", 0.25)
    found = numbers(reader)
    assert 3 == found["paintkit.duration", OTHER]
    assert 3 == sum(name == "paintkit.duration" for name, *_ in found)


def test_cancelled_instruments_tell_nothing(reader, meter):
    """And nothing is recorded any more."""
    monitor, cache = PerformanceMonitor(), CacheManager("paints")
    with instrument(meter, monitor, cache):
        monitor.record("mix", 0.25)
        assert numbers(reader)
    monitor.record("mix", 0.25)
    assert {("paintkit.duration", "mix"): 1, ("paintkit.telemetry.failed",): 0} == numbers(reader)


def test_a_failing_histogram_breaks_no_call(meter, monkeypatch, caplog):
    """The call returns, the failure is in the log."""
    monitor = PerformanceMonitor()
    histogram = type(meter.create_histogram("probe"))
    monkeypatch.setattr(histogram, "record", lambda *_: 1 / 0)
    instrument(meter, monitor)
    with caplog.at_level(logging.ERROR, logger="paintkit.monitor"):
        assert 4 == monitor.measure("mix", lambda: 4)
    assert "ZeroDivisionError" in caplog.text


class TestSpanEvents:
    """Observations on the current span."""

    @pytest.fixture
    def exporter(self):
        return InMemorySpanExporter()

    @pytest.fixture
    def tracer(self, exporter):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        yield provider.get_tracer("studio")
        provider.shutdown()

    def test_a_retry_is_an_event_of_the_span_around_it(self, colour, tracer, exporter):
        """With its details as attributes, in both colours; an error without the passwords in its text."""
        answers = iter([ConnectionError("no redis://:s3cret@cache\nhere"), 7])

        def fetch():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        again = retry(on=ConnectionError, attempts=2, backoff=backoff.constant(0), name="supplier")
        with trace_observations(), tracer.start_as_current_span("page"):
            assert 7 == colour.call(again(colour.function(fetch)))
        (span,) = exporter.get_finished_spans()
        (event,) = span.events
        assert "paintkit.retry.waiting" == event.name
        assert "supplier" == event.attributes["paintkit.source"]
        assert 0 == event.attributes["paintkit.delay"]
        assert "ConnectionError: no redis://:***@cache\\nhere" == event.attributes["paintkit.error"]

    def test_without_a_span_nothing_happens(self):
        """Nor an error."""
        with trace_observations():
            observations.emit("retry.waiting", "supplier", delay=0.4)

    def test_after_the_end_nothing_is_added(self, tracer, exporter):
        """The registration is taken back."""
        with trace_observations():
            pass
        with tracer.start_as_current_span("page"):
            observations.emit("retry.waiting", "supplier", delay=0.4)
        assert () == exporter.get_finished_spans()[0].events


def test_what_is_no_meter_is_refused():
    """Before anything listens."""
    with pytest.raises(TypeError, match="meter must be what OpenTelemetry's get_meter"):
        instrument(5)
