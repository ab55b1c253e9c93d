"""The performance monitor: it counts everything once, and changes nothing of what it measures."""

import asyncio
import inspect
import json
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paintkit import clock
from paintkit.monitor.performance import OTHER, Measured, PerformanceMonitor
from paintkit.testing import FakeClock
from tests.colours import Colour


@pytest.fixture
def fake():
    with FakeClock() as fake_clock:
        yield fake_clock


def facts(monitor, name="work"):
    metrics = monitor.get_metrics()[name]
    return metrics["count"], metrics["total_time"], metrics["errors"]


def work_in(form, monitor, body):
    """Run `body` measured as `work`, in one of the three forms."""
    if form == "call":
        return monitor.measure("work", body)
    if form == "decorator":
        return monitor.measure("work")(body)()
    with monitor.measure("work"):
        return body()


FORMS = pytest.mark.parametrize("form", ["call", "decorator", "block"])


@FORMS
def test_the_result_passes_and_the_time_is_recorded(form, fake):
    """Three forms, one meaning."""
    monitor, result = PerformanceMonitor(), object()

    def body():
        clock.sleep(1.5)
        return result

    assert result is work_in(form, monitor, body)
    assert (1, 1.5, 0) == facts(monitor)


@FORMS
@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr
)
def test_an_error_passes_as_it_is_and_counts_once(form, error, fake):
    """Whatever ends a run with an exception counts, interrupts included."""
    monitor = PerformanceMonitor()

    def body():
        clock.sleep(0.5)
        raise error

    with pytest.raises(type(error)) as caught:
        work_in(form, monitor, body)
    assert error is caught.value
    assert (1, 0.5, 1) == facts(monitor)


@FORMS
@pytest.mark.parametrize("fails", [False, True])
def test_a_coroutine_is_measured_to_its_end(form, fails, fake):
    """Not the making of the coroutine is measured, but its run; its errors count."""
    monitor = PerformanceMonitor()

    async def body():
        await asyncio.sleep(2.0)
        if fails:
            raise ValueError("bad")
        return 7

    async def main():
        if form == "block":
            with monitor.measure("work"):
                return await body()
        return await work_in(form, monitor, body)

    if fails:
        with pytest.raises(ValueError, match="bad"):
            fake.run(main())
    else:
        assert 7 == fake.run(main())
    assert (1, 2.0, int(fails)) == facts(monitor)


def test_a_cancelled_coroutine_counts_as_an_error():
    """Cancellation ends a run, too."""
    monitor = PerformanceMonitor()

    @monitor.measure("work")
    async def forever():
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert (1, 1) == facts(monitor)[::2]


def test_the_decorator_keeps_the_signature(colour: Colour):
    """Names, defaults and colour are those of the function."""
    monitor = PerformanceMonitor()

    def mix(red, /, green=1, *, blue, **rest):
        """Mix colours."""
        return red, green, blue, rest

    function = colour.function(mix)
    measured = monitor.measure("work")(function)
    assert inspect.signature(function) == inspect.signature(measured)
    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(measured)
    assert (1, 1, 2, {"x": 3}) == colour.call(measured, 1, blue=2, x=3)
    assert 1 == facts(monitor)[0]


def test_a_generator_function_is_refused():
    """What cannot be measured by its call is refused at decoration."""
    monitor = PerformanceMonitor()

    def numbers():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        monitor.measure("work")(numbers)


def test_a_measurement_runs_one_block_at_a_time():
    """An object used twice at once would lose its first beginning; in turn it may."""
    monitor = PerformanceMonitor()
    measurement = monitor.measure("work")
    with measurement, pytest.raises(RuntimeError, match="anew"):
        measurement.__enter__()
    with measurement:
        pass
    assert 2 == facts(monitor)[0]


def test_names_are_bounded(caplog):
    """What comes after the last name that fits is recorded together."""
    monitor = PerformanceMonitor(max_names=2)
    for name in ("a", "b", "c", "d", "a"):
        monitor.record(name, 1.0)
    assert {"a": 2, "b": 1, OTHER: 2} == {name: one["count"] for name, one in monitor.get_metrics().items()}


def test_an_observer_sees_every_run():
    """With its name, time and error, until it is cancelled."""
    monitor, seen, error = PerformanceMonitor(), [], ValueError()
    with monitor.observe(seen.append):
        monitor.record("work", 1.0)
        monitor.record("work", 2.0, error)
    monitor.record("work", 3.0)
    assert [Measured("work", 1.0, None), Measured("work", 2.0, error)] == seen


def test_an_observer_that_fails_spoils_nothing(caplog):
    """The result is kept, the run is counted once, the others see it."""
    monitor, seen = PerformanceMonitor(), []

    def fail(measured):
        raise RuntimeError("observer")

    monitor.observe(fail)
    monitor.observe(seen.append)
    assert 7 == monitor.measure("work", lambda: 7)
    assert (1, 1, 0) == (len(seen), facts(monitor)[0], facts(monitor)[2])
    assert ["paintkit.monitor"] == [record.name for record in caplog.records]


def test_metrics_are_json():
    """No infinity, nothing that a strict writer refuses."""
    monitor = PerformanceMonitor()
    monitor.record("work", 0.0)
    assert monitor.get_metrics() == json.loads(json.dumps(monitor.get_metrics(), allow_nan=False))


def test_a_monitor_merges_what_another_recorded():
    """Counts add up, names of both are there, the bound holds."""
    left, right = PerformanceMonitor(max_names=2), PerformanceMonitor()
    for name in ("a", "b"):
        left.record(name, 1.0)
    for name in ("b", "c"):
        right.record(name, 3.0, ValueError())
    left.merge(json.loads(json.dumps(right.snapshot())))
    assert {"a": (1, 1.0, 0), "b": (2, 4.0, 1), OTHER: (1, 3.0, 1)} == {
        name: facts(left, name) for name in left.get_metrics()
    }


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"version": 2, "histograms": {}},
        {"version": 1},
        {"version": 1, "histograms": []},
        {"version": 1, "histograms": {"": {}}},
    ],
)
def test_what_is_no_snapshot_is_refused_whole(broken):
    """Nothing of it is added."""
    monitor = PerformanceMonitor()
    with pytest.raises(ValueError, match="not a snapshot"):
        monitor.merge(broken)
    assert {} == monitor.get_metrics()


def test_a_half_broken_snapshot_adds_nothing():
    """All of it is checked before any of it counts."""
    other = PerformanceMonitor()
    other.record("good", 1.0)
    snapshot = other.snapshot()
    snapshot["histograms"]["bad"] = {"count": 1}
    monitor = PerformanceMonitor()
    with pytest.raises(ValueError, match="not a snapshot"):
        monitor.merge(snapshot)
    assert {} == monitor.get_metrics()


def test_a_clock_that_is_exchanged_meanwhile_breaks_no_call():
    """A run that began on another clock counts as no time rather than as an error."""
    monitor = PerformanceMonitor()
    with monitor.measure("work"), FakeClock():
        monitor.measure("work", lambda: None)
        with monitor.measure("inner"):
            pass
    with FakeClock(start=1e6):
        measurement = monitor.measure("late")
        measurement.__enter__()
    with FakeClock():
        measurement.__exit__(None, None, None)
    assert (1, 0.0, 0) == facts(monitor, "late")


@pytest.mark.parametrize(
    ("name", "kind"), [("", ValueError), (None, TypeError), (7, TypeError), ([], TypeError)]
)
def test_a_name_is_a_string_with_something_in_it(name, kind):
    """In every form."""
    monitor = PerformanceMonitor()
    for use in (
        monitor.measure,
        lambda name: monitor.measure(name, int),
        lambda name: monitor.record(name, 1.0),
    ):
        with pytest.raises(kind, match="name"):
            use(name)


def test_what_is_measured_is_a_function():
    """A result in its place (`measure("mix", mix())`) is told as the mistake that it is, and recorded nowhere."""
    monitor = PerformanceMonitor()
    with pytest.raises(TypeError, match="fn must be callable, not 42"):
        monitor.measure("mix", 42)
    assert {} == monitor.get_metrics()


@pytest.mark.parametrize(("bound", "kind"), [(0, ValueError), (True, TypeError), (1.5, TypeError)])
def test_the_bound_is_a_whole_number(bound, kind):
    """Refused at construction."""
    with pytest.raises(kind, match="max_names"):
        PerformanceMonitor(max_names=bound)


def test_the_text_is_what_prometheus_reads():
    """Cumulative buckets, sum and count, and the errors beside them."""
    monitor = PerformanceMonitor()
    for seconds in (0.25, 0.5, 0.75, 100.0):
        monitor.record("data base", seconds, ValueError() if seconds > 1 else None)
    families = {family.name: family for family in text_string_to_metric_families(monitor.as_text())}
    duration = families["paintkit_duration_seconds"]
    assert "histogram" == duration.type
    values = {
        (one.name.removeprefix(duration.name), one.labels.get("le")): one.value for one in duration.samples
    }
    assert (1, 2, 3, 3, 4) == tuple(
        values["_bucket", bound] for bound in ("0.25", "0.5", "1.0", "32.0", "+Inf")
    )
    assert (4, 101.5) == (values["_count", None], values["_sum", None])
    assert {"data base"} == {one.labels["name"] for one in duration.samples}
    assert [1.0] == [one.value for one in families["paintkit_duration_errors"].samples]


def test_threads_share_names_without_losing_runs():
    """Many threads that meet a new name at once record into one histogram."""
    monitor, start = PerformanceMonitor(), threading.Barrier(4)

    def work():
        start.wait()
        for number in range(200):
            monitor.record(f"name {number}", 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {4} == {metrics["count"] for metrics in monitor.get_metrics().values()}
