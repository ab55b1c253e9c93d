"""The text format: what Prometheus' own reader would make of it."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paintkit.histogram import Histogram
from paintkit.monitor.exposition import prometheus_name, render
from paintkit.telemetry import Metric, Sample

ONE = Sample({}, 1)


def metric(name="x", kind="gauge", unit="", text="X.", samples=(ONE,)):
    return Metric(name, kind, unit, text, tuple(samples))


def test_labels_and_help_survive_a_round_trip():
    """Quotes, backslashes and line ends are escaped as the reader expects."""
    hostile = 'a "quoted" \\ back\nslash {x="y"} 1'
    text = render(
        [metric("odd", "counter", text="Help with \\ and\nlines.", samples=[Sample({"name": hostile}, 3)])]
    )
    (family,) = text_string_to_metric_families(text)
    assert ("odd", "counter", "Help with \\ and\nlines.") == (family.name, family.type, family.documentation)
    assert [({"name": hostile}, 3.0)] == [(sample.labels, sample.value) for sample in family.samples]


@pytest.mark.parametrize(
    ("name", "kind", "unit", "spelt"),
    [
        ("paintkit.cache.hits", "counter", "{call}", "paintkit_cache_hits_total"),
        ("paintkit.cache.load_time", "counter", "s", "paintkit_cache_load_time_seconds_total"),
        ("paintkit.cache.estimated_size", "gauge", "By", "paintkit_cache_estimated_size_bytes"),
        ("db.client.connection.wait_time", "histogram", "s", "db_client_connection_wait_time_seconds"),
        ("paintkit.circuit_breaker.state", "gauge", "", "paintkit_circuit_breaker_state"),
        ("studio.sales.total", "counter", "", "studio_sales_total"),
        ("studio.waited.seconds.total", "counter", "s", "studio_waited_seconds_total"),
        ("studio.wait.seconds", "gauge", "s", "studio_wait_seconds"),
        ("studio.jobs.total", "gauge", "", "studio_jobs_total"),
    ],
)
def test_a_name_is_spelt_as_opentelemetry_translates_it(name, kind, unit, spelt):
    """Units in full, what is counted left out, `_total` for what only grows; what the name says already is not said twice."""
    assert spelt == prometheus_name(metric(name, kind, unit))


def test_a_histogram_is_written_in_buckets_that_add_up():
    """Counts within bounds, up to infinity; the bounds are exact, so a duration on one is within it."""
    histogram = Histogram()
    for seconds in (0.5, 0.5000001, 100.0):
        histogram.record(seconds)
    (family,) = text_string_to_metric_families(
        render([metric("work", "histogram", "s", samples=[Sample({"name": "a"}, histogram.snapshot())])])
    )
    buckets = {one.labels["le"]: one.value for one in family.samples if one.name.endswith("_bucket")}
    assert (1, 2, 2, 3) == (buckets["0.5"], buckets["1.0"], buckets["32.0"], buckets["+Inf"])
    assert [101.0000001, 3] == [one.value for one in family.samples if one.name.endswith(("_sum", "_count"))]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "1"), (0.5, "0.5"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_numbers_are_written_as_the_format_wants(value, text):
    """Special values have their own spelling."""
    assert f"x {text}" == render([metric(samples=[Sample({}, value)])]).splitlines()[-1]


def test_a_metric_without_numbers_is_left_out():
    """No empty head."""
    assert "" == render([metric(samples=())])


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "ä"])
def test_a_name_that_the_format_forbids_is_refused(name):
    """Of a metric and of a label."""
    with pytest.raises(ValueError, match="name"):
        render([metric(name)])
    with pytest.raises(ValueError, match="name"):
        render([metric(samples=[Sample({name: "1"}, 1)])])
