"""The histogram: quantiles within their bound, merging that loses nothing, sound snapshots only."""

import json
import math
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import histogram as recorder
from paintkit.histogram import Histogram

DURATIONS = st.lists(
    st.one_of(st.floats(1e-9, 1e12), st.floats(1e-6, 100.0), st.sampled_from([1e-9, 0.5, 1.0, 2.0, 1e12])),
    min_size=1,
)
SHARES = st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0])


def recorded(durations, kind=Histogram):
    histogram = kind()
    for seconds in durations:
        histogram.record(seconds)
    return histogram


def check_quantile(durations, share, kind=Histogram):
    """The nearest-rank quantile of the sorted list, within 1/128."""
    exact = sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]
    found = recorder.quantile(recorded(durations, kind).snapshot(), share)
    assert found == pytest.approx(exact, rel=1 / 128 + 1e-12)


@given(durations=DURATIONS, share=SHARES)
def test_every_quantile_is_within_its_bound(durations, share):
    """No duration list, however skewed, is off by more than 1/128."""
    check_quantile(durations, share)


class _Coarse(Histogram):
    """A mutant: forgets every second bit of the mantissa's top six."""

    def record(self, seconds, error=None):
        mantissa, exponent = math.frexp(seconds)
        super().record(math.ldexp(math.floor(mantissa * 32) / 32, exponent), error)


def test_the_quantile_check_catches_coarse_buckets():
    """The check above has teeth."""
    randomness = random.Random(1)
    durations = [randomness.lognormvariate(-5, 1) for _ in range(100)]
    check_quantile(durations, 0.5)
    with pytest.raises(AssertionError):
        check_quantile(durations, 0.5, _Coarse)


@given(left=DURATIONS, right=DURATIONS)
def test_merging_is_the_same_as_recording_all(left, right):
    """Nothing is lost between processes, also by way of JSON."""
    merged = recorded(left)
    merged.merge(json.loads(json.dumps(recorded(right).snapshot())))
    whole = recorded([*left, *right])
    found, expected = merged.snapshot(), whole.snapshot()
    assert pytest.approx(expected.pop("total")) == found.pop("total")
    assert expected == found


@given(durations=DURATIONS, octave=st.integers(-13, 5))
def test_counts_up_to_a_power_of_two_are_exact(durations, octave):
    """The bound itself belongs to the count, as Prometheus means it."""
    snapshot = recorded(durations).snapshot()
    assert sum(seconds <= 2.0**octave for seconds in durations) == recorder.count_within(snapshot, octave)


def test_an_empty_histogram_is_all_zeros():
    """No infinity, no division by zero."""
    assert {0} == set(Histogram().metrics().values())


def test_the_summary_says_what_was_recorded():
    """Counts, sum, extremes, mean and errors are exact."""
    histogram = Histogram()
    histogram.record(0.25)
    histogram.record(0.75, ValueError())
    metrics = histogram.metrics()
    expected = (2, 1.0, 0.25, 0.75, 0.5, 1, 0.5)
    names = ("count", "total_time", "min_time", "max_time", "avg_time", "errors", "error_rate")
    assert expected == tuple(metrics[name] for name in names)


def test_no_time_at_all_is_a_duration():
    """Zero is recorded, and stays zero."""
    metrics = recorded([0.0]).metrics()
    assert (1, 0.0, 0.0) == (metrics["count"], metrics["p50"], metrics["max_time"])


@pytest.mark.parametrize("seconds", [-1e-9, math.nan, math.inf, -math.inf, 2e12])
def test_what_is_no_duration_is_refused(seconds):
    """And leaves nothing behind."""
    histogram = Histogram()
    with pytest.raises(ValueError, match="seconds"):
        histogram.record(seconds)
    assert 0 == histogram.metrics()["count"]


@pytest.mark.parametrize("seconds", ["1", None, []], ids=repr)
def test_what_is_no_number_is_refused(seconds):
    """By the name of the argument."""
    histogram = Histogram()
    with pytest.raises(TypeError, match="seconds must be a number"):
        histogram.record(seconds)
    assert 0 == histogram.metrics()["count"]


SOUND = recorded([0.5, 1.0]).snapshot()


@pytest.mark.parametrize(
    "broken",
    [
        {},
        None,
        [],
        {**SOUND, "count": 3},
        {**SOUND, "count": "2"},
        {**SOUND, "errors": -1},
        {**SOUND, "errors": True},
        {**SOUND, "total": math.inf},
        {**SOUND, "total": None},
        {**SOUND, "shortest": -1.0},
        {**SOUND, "buckets": {"x": 2}},
        {**SOUND, "buckets": {"99999999": 2}},
        {**SOUND, "buckets": [2]},
    ],
)
def test_only_a_sound_snapshot_is_merged(broken):
    """A broken one is refused and changes nothing."""
    histogram = recorded([2.0])
    before = histogram.snapshot()
    with pytest.raises(ValueError, match="not a snapshot"):
        histogram.merge(broken)
    assert before == histogram.snapshot()


def test_memory_is_bounded_whatever_is_recorded():
    """The buckets of all durations there are."""
    assert recorder._LAST - recorder._FIRST < 4600


def test_threads_lose_nothing():
    """Every duration is counted."""
    histogram, start = Histogram(), threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(500):
            histogram.record(0.5, ValueError())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = histogram.metrics()
    assert (2000, 2000, 1000.0) == (metrics["count"], metrics["errors"], metrics["total_time"])


@given(before=DURATIONS, after=DURATIONS)
def test_what_came_after_a_snapshot_is_known(before, after):
    """How many, and how long within 1/128; nothing of what came before."""
    histogram = recorded(before)
    earlier = histogram.snapshot()
    for seconds in after:
        histogram.record(seconds)
    fresh = [
        seconds for seconds, count in recorder.since(histogram.snapshot(), earlier) for _ in range(count)
    ]
    assert sorted(after) == pytest.approx(fresh, rel=1 / 128 + 1e-12)
    assert len(before) + len(after) == sum(count for _, count in recorder.since(histogram.snapshot(), None))
