"""When a slow call gets a second try, and how slow is slow."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.hedging import HedgePlan, Quantile

steps = st.lists(st.sampled_from(["nap", "nap", "fail", "launch", "stop"]), max_size=30)


def differ(kind: type[HedgePlan], most: int, delay: float | None, script: list[str], start: float) -> bool:
    """Whether a plan and a model of a few words disagree on a script."""
    plan, now = kind(most, delay), start
    most = 1 if delay is None else most
    launched, failed, due = 1, 0, start + (delay or 0.0)
    plan.launch(now)
    for step in script:
        if step == "nap":
            now += 0.5
        elif step == "fail" and failed < launched:
            plan.fail()
            failed, due = failed + 1, start
        elif step == "launch" and plan.is_due(now):
            plan.launch(now)
            launched, due = launched + 1, now + (delay or 0.0)
        elif step == "stop":
            plan.stop()
            most = launched
        ready = launched < most and now >= due
        patience = None if launched >= most else max(0.0, due - now)
        lost = failed == launched and launched >= most
        if (ready, patience, lost, launched) != (
            plan.is_due(now),
            plan.patience(now),
            plan.is_lost,
            plan.launched,
        ):
            return True
    return False


class NeverHurries(HedgePlan):
    """Waits for the delay although a try has failed."""

    def fail(self) -> None:
        self._failed += 1


@given(
    st.integers(1, 4), st.none() | st.sampled_from([0.25, 1.0, 2.0]), steps, st.sampled_from([-5.0, 0.0, 1e6])
)
def test_a_plan_does_what_the_model_does(most, delay, script, start):
    """A try is due after the delay, or at once when one has failed; all failed and none to come is lost."""
    assert not differ(HedgePlan, most, delay, script, start)


def test_the_model_catches_a_plan_that_never_hurries():
    """A failure must start the next try at once."""
    assert differ(NeverHurries, 2, 10.0, ["fail"], 0.0)


@given(st.lists(st.floats(0, 100), min_size=50, max_size=50), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_one_of_the_durations(durations, share):
    """No more than its share of them is longer."""
    quantile = Quantile(share)
    for duration in durations[:-1]:
        quantile.note(duration)
    assert quantile.value is None
    quantile.note(durations[-1])

    assert quantile.value in durations
    assert sum(one > quantile.value for one in durations) <= (1 - share) * len(durations) + 1e-9
    assert sum(one >= quantile.value for one in durations) >= (1 - share) * len(durations) - 1e-9


def test_a_quantile_follows_the_times():
    """It looks at the latest durations only."""
    quantile, rng = Quantile(0.95), random.Random(1)
    for scale in (1.0, 10.0):
        durations = [scale * rng.random() for _ in range(1000)]
        for duration in durations:
            quantile.note(duration)
        assert statistics.quantiles(durations, n=20)[-1] == pytest.approx(quantile.value, rel=0.1)
    assert len(quantile._durations) == 500


@pytest.mark.parametrize("now", [-5.0, 0.0, 1e6])
def test_the_first_try_is_due_at_once(now):
    """Whatever the time and the delay."""
    plan = HedgePlan(2, 10.0)

    assert plan.is_due(now)
    assert 0.0 == plan.patience(now)


@pytest.mark.parametrize("delay", [0.0, 0.25])
def test_the_next_try_is_due_when_its_delay_is_over(delay):
    """At that very instant; no delay is none."""
    plan = HedgePlan(2, delay)
    plan.launch(1.0)

    assert plan.is_due(1.0 + delay)
    assert 0.0 == plan.patience(1.0 + delay)
    assert delay == plan.patience(1.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 50.0), (0.95, 95.0), (1.0, 99.0)])
def test_a_quantile_reaches_from_the_shortest_to_the_longest(share, expected):
    """All of the way: 0 is the shortest duration, 1 the longest."""
    quantile = Quantile(share, least=100, size=100)
    for duration in reversed(range(100)):
        quantile.note(float(duration))

    assert expected == quantile.value
