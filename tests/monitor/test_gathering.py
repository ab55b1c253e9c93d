"""How the metrics of many sources become one list."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import PerformanceMonitor
from paintkit.histogram import Histogram
from paintkit.monitor import exposition
from paintkit.monitor.gathering import OTHER, checked, everyone, gather
from paintkit.telemetry import Metric, Sample


class Told:
    """A source that tells what it was given, and counts how often it was asked."""

    def __init__(self, *told):
        self.told = told
        self.asked = 0

    def telemetry(self):
        self.asked += 1
        return self.told


class Broken:
    def telemetry(self):
        yield counter("broken", {}, 1)
        raise OSError("no answer")


def counter(name, labels, value, kind="counter", unit=""):
    return Metric(name, kind, unit, "Help.", (Sample(labels, value),))


def numbers(*sources, **options):
    return {
        metric.name: {tuple(sample.labels.values()): sample.value for sample in metric.samples}
        for metric in gather(sources, **options)
        if metric.name != "paintkit.telemetry.failed"
    }


def failed(*sources):
    (found,) = [one.samples[0].value for one in gather(sources) if one.name == "paintkit.telemetry.failed"]
    return found


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 9))))
def test_equal_labels_add_up(parts):
    """Whichever source, and however often, they come from."""
    model = {}
    for name, label, value in parts:
        labels = model.setdefault(name, {})
        labels[label,] = labels.get((label,), 0) + value
    assert model == numbers(*(Told(counter(name, {"name": label}, value)) for name, label, value in parts))


def test_histograms_add_up_bucket_by_bucket():
    """As if one histogram had seen it all."""
    parts = [Histogram(), Histogram(), Histogram()]
    for seconds in (0.001, 0.5, 0.25):
        parts[0].record(seconds)
        parts[2].record(seconds)
    parts[1].record(0.75, OSError())
    parts[2].record(0.75, OSError())
    sources = [Told(counter("work", {}, one.snapshot(), "histogram")) for one in parts]
    assert numbers(sources[2]) == numbers(*sources[:2])


def test_a_source_is_asked_once_whoever_holds_it():
    """Even if two sources hold each other."""
    shared = Told(counter("jobs", {}, 1))
    first, second = Told(shared), Told(shared)
    first.told += (second,)
    second.told += (first,)
    assert {"jobs": {(): 1}} == numbers(first, second, shared)
    assert [1, 1, 1] == [one.asked for one in (first, second, shared)]
    assert {first, second, shared} == set(everyone([first]))


@pytest.mark.parametrize(
    "bad",
    [
        Broken(),
        Told("no metric"),
        Told(counter("Bad Name", {}, 1)),
        Told(counter("jobs", {"bad name": "x"}, 1)),
        Told(counter("jobs", {"queue.name": "x", "queue_name": "y"}, 1)),
        Told(counter("work", {"le": "x"}, Histogram().snapshot(), "histogram")),
        Told(counter("jobs", {}, 1, "gauge")),
        Told(counter("jobs", {}, 1, unit="s")),
        Told(counter("jobs", {}, "three")),
        Told(counter("jobs", {}, {"count": 1})),
        Told(counter("work", {}, 1, "histogram")),
        Told(counter("work", {}, {"count": 1}, "histogram")),
        None,
    ],
)
def test_a_bad_source_spoils_nothing(bad, caplog):
    """It is logged, counted and left out; the others are told."""
    good = Told(counter("jobs", {"queue": "a"}, 1))
    with caplog.at_level(logging.ERROR, logger="paintkit.monitor"):
        assert {"jobs": {("a",): 1}} == numbers(good, bad)
        assert 1 == failed(good, bad)
    assert all("cannot be read" in record.message for record in caplog.records)
    assert 2 == len(caplog.records)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("studio.jobs_waiting", "gauge"), ("studio.jobs.waiting", "gauge")),
        (("studio.jobs.total", "gauge"), ("studio.jobs", "counter")),
        (("studio.jobs", "gauge"), ("studio.jobs.total", "counter")),  # of one family, to OpenMetrics
        (("studio.work", "histogram"), ("studio.work.count", "gauge")),
        (("studio.work_sum", "gauge"), ("studio.work", "histogram")),
        (("paintkit.telemetry.failed", "gauge"), ("paintkit.telemetry_failed", "gauge")),
    ],
    ids=str,
)
def test_what_prometheus_cannot_tell_apart_is_not_mixed(one, other, caplog):
    """The first of two names that it spells alike is told; the other source is a bad one, and the error says why."""
    told = []
    for name, kind in (one, other):
        value = Histogram().snapshot() if kind == "histogram" else 1
        told.append(Told(counter(name, {}, value, kind)))
    assert {one[0], "paintkit.telemetry.failed"} == {metric.name for metric in gather(told)}
    assert f"{other[0]} and {one[0]} are both " in caplog.text
    text = exposition.render(gather(told))
    assert len(text.splitlines()) == len(set(text.splitlines()))


def test_words_between_dots_are_no_other_name():
    """What only begins alike is told apart."""
    names = {"studio.jobs", "studio.jobs.waiting", "studio.jobs.total_time", "studio.job"}
    assert names == set(numbers(*(Told(counter(name, {}, 1)) for name in names)))


def test_the_failures_of_those_who_gather_add_up():
    """A source may tell what it gathered itself, as `Workers` does: the number is told once."""
    inner = Told(*gather([Told(counter("Bad Name", {}, 1))]))
    assert 1 == failed(inner)
    assert 2 == failed(inner, None)
    assert [("paintkit.telemetry.failed", 1)] == [(one.name, len(one.samples)) for one in gather([inner])]


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_a_metric_without_numbers_spoils_nothing(kind):
    """There may be nothing to count yet: queues that are named as they come, say."""
    good = Told(counter("jobs", {"queue": "a"}, 1))
    empty = Told(Metric("queues", kind, "", "Queues.", ()))
    assert {"jobs": {("a",): 1}, "queues": {}} == numbers(good, empty)
    assert 0 == failed(good, empty)


def test_what_a_bad_source_told_before_its_mistake_is_left_out_too():
    """A half of a metric would be a wrong number."""
    half = Metric("jobs", "counter", "", "Jobs.", (Sample({"queue": "a"}, 1), Sample({"queue": "b"}, "two")))
    good = Told(counter("jobs", {"queue": "a"}, 1))
    assert {"jobs": {("a",): 1}} == numbers(Told(half), good)


def test_the_values_of_a_label_are_bounded():
    """What comes after the first few is added up under one name; other labels stay."""
    metric = Metric(
        "jobs",
        "counter",
        "",
        "Jobs.",
        tuple(
            Sample({"name": f"{number}", "state": state}, 1) for number in range(5) for state in ("ok", "bad")
        ),
    )
    found = numbers(Told(metric), max_values=2)["jobs"]
    assert {("0", "ok"): 1, ("1", "ok"): 1, (OTHER, "ok"): 3} == {
        key: found[key] for key in found if key[1] == "ok"
    }
    assert 10 == sum(found.values())


def test_values_of_labels_are_text_that_can_be_sent():
    """Half a surrogate pair cannot."""
    (found,) = numbers(Told(counter("jobs", {"name": "a\ud800"}, 1)))["jobs"]
    assert "a\\ud800" == found[0]


def test_what_is_no_source_is_refused():
    """With its type and what to do."""
    monitor = PerformanceMonitor()
    assert (monitor,) == checked([monitor])
    with pytest.raises(TypeError, match=r"telemetry\(\).* list .*one after the other"):
        checked([[monitor]])
