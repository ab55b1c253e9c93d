"""Backoff: bounded, never shrinking without jitter, spread with it, repeatable, and safe at any attempt."""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice, pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import backoff
from paintkit.testing.strategies import backoffs, durations

DAY = backoff.LONGEST_DELAY


def first(schedule: backoff.Schedule, count: int) -> list[float]:
    return list(islice(schedule.delays(), count))


# The laws, as functions, so that a planted fault can be held against them.


def is_capped(schedule: Any) -> None:
    assert all(0 <= delay <= min(schedule.cap, DAY) for delay in first(schedule, 60))


def never_shrinks(schedule: backoff.Schedule) -> None:
    assert all(earlier <= later for earlier, later in pairwise(first(schedule, 60)))


def is_spread_at_the_cap(schedule: backoff.Schedule) -> None:
    assert len(set(islice(schedule.delays(), 200, 220))) > 10


def does_not_overflow(schedule: Any) -> None:
    assert 0 <= next(islice(schedule.delays(), 9_999, None)) <= schedule.cap


def is_fresh_for_every_call(schedule: backoff.Schedule) -> None:
    one = schedule.delays()
    beginning = [next(one), next(one)]
    other = schedule.delays()
    assert beginning == [next(other), next(other)]


class TestLaws:
    @given(backoffs(jitters=["none", "full", "equal"]))
    def test_bounded_by_the_cap(self, schedule):
        """No delay is negative or longer than the cap."""
        is_capped(schedule)

    @given(backoffs(jitters=["additive"]))
    def test_additive_jitter_exceeds_the_cap_by_the_first_delay_at_most(self, schedule):
        """Nor anything a day."""
        assert all(0 <= delay <= min(schedule.cap + schedule.start, DAY) for delay in first(schedule, 60))

    @given(backoffs(jitters=["none"]))
    def test_monotone_without_jitter(self, schedule):
        """No delay is shorter than the one before it."""
        never_shrinks(schedule)

    @given(backoffs(jitters=["none"]))
    def test_no_overflow(self, schedule):
        """At attempt 10,000."""
        does_not_overflow(schedule)

    @given(backoffs(jitters=["none"]))
    def test_every_call_starts_anew(self, schedule):
        """Two calls in turns do not share a position."""
        is_fresh_for_every_call(schedule)

    @given(st.sampled_from(["full", "equal", "additive"]), st.integers(0, 2**32))
    def test_jitter_survives_the_cap(self, jitter, seed):
        """Clients that have reached the cap do not come back together."""
        is_spread_at_the_cap(backoff.exponential(0.1, cap=10.0, jitter=jitter, rng=Random(seed)))

    @given(st.integers(0, 2**32))
    def test_decorrelated_jitter_survives_the_cap(self, seed):
        """It is drawn below the cap, not cut off there."""
        is_spread_at_the_cap(backoff.decorrelated(0.1, cap=10.0, rng=Random(seed)))

    @given(durations(0.001, 60.0), durations(60.0, 3600.0), st.integers(0, 2**32))
    def test_decorrelated_delays_grow_threefold_at_most(self, base, cap, seed):
        """Between the base and three times the delay before, below the cap."""
        delays = [base, *first(backoff.decorrelated(base, cap=cap, rng=Random(seed)), 60)]

        assert all(base <= later <= min(cap, 3 * earlier) for earlier, later in pairwise(delays))

    @given(st.sampled_from(["full", "equal", "additive"]), st.integers(0, 2**32), durations(0.001, 10.0))
    def test_jitter_keeps_to_its_range(self, jitter, seed, base):
        """Full below the ceiling, equal in its upper half, additive above it."""
        ceilings = first(backoff.exponential(base, cap=3600.0, jitter="none"), 30)
        delays = first(backoff.exponential(base, cap=3600.0, jitter=jitter, rng=Random(seed)), 30)
        least, most = {
            "full": (lambda ceiling: 0.0, lambda ceiling: ceiling),
            "equal": (lambda ceiling: ceiling / 2, lambda ceiling: ceiling),
            "additive": (lambda ceiling: ceiling, lambda ceiling: ceiling + base),
        }[jitter]

        assert all(least(c) <= delay <= most(c) for c, delay in zip(ceilings, delays, strict=True))

    @given(st.integers(0, 2**32))
    def test_a_seed_repeats_the_delays(self, seed):
        """The same seed, the same delays; of every shape."""
        for shape in (backoff.exponential, backoff.fibonacci, backoff.decorrelated):
            assert first(shape(0.1, rng=Random(seed)), 20) == first(shape(0.1, rng=Random(seed)), 20)

    @given(backoffs(), st.integers(1, 50))
    def test_the_total_is_bounded(self, schedule, retries):
        """By as many times the longest delay."""
        longest = schedule.cap + (schedule.start if schedule.jitter == "additive" else 0.0)

        assert sum(first(schedule, retries)) <= retries * longest * (1 + 1e-9)


class Faulty:
    """A schedule with a planted fault."""

    cap = 10.0

    def __init__(self, delays: Callable[[Random], Iterator[float]]) -> None:
        self._delays = delays
        self._rng = Random(7)

    def delays(self) -> Iterator[float]:
        return self._delays(self._rng)


def cap_before_factor(_: Random) -> Iterator[float]:
    ceiling = 0.1
    while True:
        yield ceiling
        ceiling = min(10.0, ceiling) * 2


def jitter_before_cap(rng: Random) -> Iterator[float]:
    for n in range(1000):
        yield min(10.0, 2.0 ** min(n, 50) + rng.random())


def naive_power(_: Random) -> Iterator[float]:
    for n in range(20_000):
        yield min(10.0, 0.1 * 2.0**n)


def jitter_all_the_same(rng: Random) -> Iterator[float]:
    while True:
        yield rng.random()


@pytest.mark.parametrize(
    ("law", "fault", "error"),
    [
        (is_capped, cap_before_factor, AssertionError),
        (never_shrinks, jitter_all_the_same, AssertionError),
        (is_spread_at_the_cap, jitter_before_cap, AssertionError),
        (does_not_overflow, naive_power, OverflowError),
        (is_fresh_for_every_call, jitter_all_the_same, AssertionError),
    ],
)
def test_the_laws_notice_a_planted_fault(law, fault, error):
    """Each of them fails on a schedule that breaks it."""
    with pytest.raises(error):
        law(Faulty(fault))


class TestShapes:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            (backoff.constant(0.5), [0.5, 0.5, 0.5, 0.5]),
            (backoff.constant(0), [0, 0, 0, 0]),
            (backoff.linear(1.0), [1, 2, 3, 4]),
            (backoff.linear(1.0, step=0.5, cap=2.0), [1, 1.5, 2, 2]),
            (backoff.linear(1.0, step=0), [1, 1, 1]),
            (backoff.exponential(1.0, jitter="none"), [1, 2, 4, 8, 10, 10]),
            (backoff.exponential(1.0, factor=3, cap=20.0, jitter="none"), [1, 3, 9, 20]),
            (backoff.exponential(1.0, factor=1, jitter="none"), [1, 1, 1, 1]),
            (
                backoff.exponential(timedelta(minutes=1), cap=timedelta(hours=1), jitter="none"),
                [60, 120, 240],
            ),
            (backoff.fibonacci(1.0, jitter="none"), [1, 2, 3, 5, 8, 10, 10]),
        ],
        ids=repr,
    )
    def test_without_jitter(self, schedule, expected):
        """The delays of the formulas."""
        assert expected == first(schedule, len(expected))

    def test_full_jitter_is_the_default_of_growth(self):
        """The kindest to the server."""
        assert "full" == backoff.exponential(1.0).jitter == backoff.fibonacci(1.0).jitter

    def test_never_longer_than_a_day(self):
        """Even with jitter on top of the cap."""
        schedule = backoff.exponential(DAY, cap=DAY, jitter="additive", rng=Random(7))

        assert DAY == max(first(schedule, 20))

    def test_is_a_value(self):
        """Two schedules of the same numbers are equal, and neither can be changed."""
        assert backoff.constant(1.0) == backoff.constant(timedelta(seconds=1))
        with pytest.raises(AttributeError):
            backoff.constant(1.0).start = 2.0

    def test_a_source_of_randomness_may_be_shared(self):
        """It is used as given, never copied or seeded."""
        rng = Random(7)
        first(backoff.exponential(0.1, rng=rng), 1)

        expected = Random(7)
        expected.random()
        assert expected.getstate() == rng.getstate()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_forked_child_draws_its_own(self):
        """Workers forked from one parent do not wait in step."""
        schedule = backoff.exponential(1.0)
        first(schedule, 1)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, repr(first(schedule, 5)).encode())
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            drawn = pipe.read()

        assert drawn.startswith("[")
        assert drawn != repr(first(schedule, 5))


class TestArguments:
    @pytest.mark.parametrize(
        ("shape", "arguments", "error", "named"),
        [
            (backoff.constant, {"delay": -1}, ValueError, "delay.*-1"),
            (backoff.constant, {"delay": float("nan")}, ValueError, "delay.*nan"),
            (backoff.constant, {"delay": float("inf")}, ValueError, "delay.*inf"),
            (backoff.constant, {"delay": DAY + 1}, ValueError, "delay.*86401"),
            (backoff.constant, {"delay": True}, TypeError, "delay.*True"),
            (backoff.constant, {"delay": "1"}, TypeError, "delay.*'1'"),
            (backoff.constant, {"delay": 10**400}, ValueError, "delay"),
            (backoff.constant, {"delay": 1, "jitter": "some"}, ValueError, "jitter.*'some'"),
            (backoff.constant, {"delay": 1, "jitter": None}, TypeError, "jitter.*None"),
            (backoff.constant, {"delay": 1, "rng": 42}, TypeError, "rng.*42"),
            (backoff.linear, {"start": 0}, ValueError, "start.*0"),
            (backoff.linear, {"start": 1, "step": -1}, ValueError, "step.*-1"),
            (backoff.linear, {"start": 1, "step": float("nan")}, ValueError, "step.*nan"),
            (backoff.linear, {"start": 1, "step": True}, TypeError, "step.*True"),
            (backoff.linear, {"start": 20}, ValueError, "cap must be at least start"),
            (backoff.exponential, {"base": 0}, ValueError, "base.*0"),
            (backoff.exponential, {"base": -0.1}, ValueError, "base.*-0.1"),
            (backoff.exponential, {"base": float("nan")}, ValueError, "base.*nan"),
            (backoff.exponential, {"base": True}, TypeError, "base.*True"),
            (backoff.exponential, {"base": None}, TypeError, "base.*None"),
            (backoff.exponential, {"base": 1, "cap": 0.5}, ValueError, "cap must be at least base"),
            (backoff.exponential, {"base": 1, "cap": 0}, ValueError, "cap.*0"),
            (backoff.exponential, {"base": 1, "cap": float("inf")}, ValueError, "cap.*inf"),
            (backoff.exponential, {"base": 1, "cap": DAY + 1}, ValueError, "cap.*86401"),
            (backoff.exponential, {"base": 1, "cap": None}, TypeError, "cap.*None"),
            (backoff.exponential, {"base": 1, "factor": 0}, ValueError, "factor.*0"),
            (backoff.exponential, {"base": 1, "factor": 0.5}, ValueError, "factor.*0.5"),
            (backoff.exponential, {"base": 1, "factor": float("nan")}, ValueError, "factor.*nan"),
            (backoff.exponential, {"base": 1, "factor": float("inf")}, ValueError, "factor.*inf"),
            (backoff.exponential, {"base": 1, "factor": "2"}, TypeError, "factor.*'2'"),
            (backoff.fibonacci, {"base": 0}, ValueError, "base.*0"),
            (backoff.fibonacci, {"base": 1, "jitter": "Full"}, ValueError, "jitter.*'Full'"),
            (backoff.decorrelated, {"base": 0}, ValueError, "base.*0"),
            (backoff.decorrelated, {"base": 1, "cap": 0.5}, ValueError, "cap must be at least base"),
            (backoff.decorrelated, {"base": 1, "rng": "seed"}, TypeError, "rng.*'seed'"),
        ],
        ids=lambda case: (
            ",".join(f"{name}={value!r:.20}" for name, value in case.items())
            if isinstance(case, dict)
            else None
        ),
    )
    def test_are_checked(self, shape, arguments, error, named):
        """When the schedule is made; the error names the argument and the value."""
        with pytest.raises(error, match=named):
            shape(**arguments)
