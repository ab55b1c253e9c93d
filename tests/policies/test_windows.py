"""A breaker that goes by rates: over the last seconds or the last calls, of failures and of slow calls."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CircuitOpenError, CircuitState, circuit_breaker, observe
from paintkit import clock as source
from paintkit.policies._circuit_breaker import CircuitBreaker
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def play(colour: Colour, breaker: CircuitBreaker, results: str, seconds: float = 0.0) -> str:
    """Make one call for each letter: `.` succeeds, `x` fails; return what was done, `o` for a refusal."""
    done = ""
    for letter in results:
        outcome = OSError if letter == "x" else "done"

        def body(outcome: Any = outcome) -> Any:
            source.sleep(seconds)
            return scripted(outcome)()

        try:
            colour.protect(breaker, colour.function(body))
        except CircuitOpenError:
            done += "o"
        except OSError:
            done += "x"
        else:
            done += "."
    return done


class TestFailureRate:
    def test_by_default_half_of_twenty_calls_in_thirty_seconds(self, colour, clock):
        """The documented defaults."""
        breaker = circuit_breaker()
        assert "x" * 19 == play(colour, breaker, "x" * 19)
        assert CLOSED is breaker.state
        play(colour, breaker, "x")
        assert OPEN is breaker.state
        clock.advance(30)
        assert HALF_OPEN is breaker.state

    @pytest.mark.parametrize("results", ["xx..", "..xx", "x.x.", ".x.x", "x..x", ".xx."])
    def test_the_share_counts_and_not_the_order(self, colour, results):
        """The call that makes the share count may be a success: two of four are half, whichever came last."""
        breaker = circuit_breaker(failure_rate=0.5, min_calls=4)
        play(colour, breaker, results)
        assert OPEN is breaker.state

    def test_less_than_the_share_does_not_open_it(self, colour):
        """Ever."""
        breaker = circuit_breaker(failure_rate=0.5, min_calls=2)
        play(colour, breaker, "..x" * 30)
        assert CLOSED is breaker.state
        assert 1 / 3 == pytest.approx(breaker.metrics().failure_rate)

    def test_old_failures_are_forgotten(self, colour, clock):
        """After the window, exact to a tenth of it."""
        breaker = circuit_breaker(failure_rate=0.5, min_calls=4, window=10.0)
        play(colour, breaker, "xxx")
        clock.advance(11)
        play(colour, breaker, "x..")
        assert CLOSED is breaker.state
        assert 3 == breaker.metrics().calls

    def test_failures_within_the_window_are_remembered(self, colour, clock):
        """The other edge."""
        breaker = circuit_breaker(failure_rate=0.5, min_calls=4, window=10.0)
        play(colour, breaker, "xxx")
        clock.advance(8.9)
        play(colour, breaker, "x")
        assert OPEN is breaker.state

    def test_a_window_of_calls(self, colour, clock):
        """Whenever they were."""
        breaker = circuit_breaker(failure_rate=0.5, window_calls=4)
        play(colour, breaker, "xxx")
        clock.advance(10**6)
        play(colour, breaker, ".")
        assert OPEN is breaker.state

    def test_a_window_of_calls_moves(self, colour):
        """The fifth makes it forget the first."""
        breaker = circuit_breaker(failure_rate=0.75, window_calls=4)
        play(colour, breaker, "xx..xx..x")
        assert CLOSED is breaker.state
        play(colour, breaker, "xx")
        assert OPEN is breaker.state

    def test_min_calls_may_change_at_work(self, colour):
        """A success that now makes the share count opens it."""
        breaker = circuit_breaker(failure_rate=0.25, min_calls=2)
        play(colour, breaker, "....x")
        assert CLOSED is breaker.state
        breaker.reconfigure(min_calls=8, failure_rate=0.125)
        play(colour, breaker, "..")
        assert CLOSED is breaker.state
        play(colour, breaker, ".")
        assert OPEN is breaker.state

    @given(
        st.lists(st.tuples(st.sampled_from([0.0, 0.5, 2.0, 6.0]), st.booleans()), max_size=80),
        st.integers(1, 10),
        st.sampled_from([0.25, 0.5, 1.0]),
    )
    def test_as_a_list_of_calls(self, calls, least, rate):
        """It opens exactly when the last `window_calls` say so."""
        breaker, recent = circuit_breaker(failure_rate=rate, window_calls=10, min_calls=least), []
        for nap, failed in calls:
            FakeClock._active.advance(nap)
            with contextlib.suppress(OSError):
                breaker.call(scripted(OSError if failed else "done"))
            recent = [*recent, failed][-10:]
            if len(recent) >= least and sum(recent) >= rate * len(recent):
                assert OPEN is breaker.state
                breaker.reset()
                recent = []
            assert CLOSED is breaker.state
            assert len(recent) == breaker.metrics().calls


class TestSlowCalls:
    def test_open_it_by_their_share(self, colour, clock):
        """Though none of them failed."""
        breaker = circuit_breaker(slow_call_duration=2.0, slow_call_rate=0.5, min_calls=4)
        play(colour, breaker, "..")
        play(colour, breaker, "..", seconds=2.0)
        assert OPEN is breaker.state

    def test_just_below_are_quick(self, colour, clock):
        """From `slow_call_duration` on they are slow, not before."""
        breaker = circuit_breaker(slow_call_duration=2.0, slow_call_rate=0.5, min_calls=2)
        play(colour, breaker, "." * 10, seconds=1.999)
        assert CLOSED is breaker.state
        assert 0.0 == breaker.metrics().slow_rate

    def test_a_slow_failure_counts_as_both(self, colour, clock):
        """Once as a call."""
        breaker = circuit_breaker(slow_call_duration=1.0, min_calls=10)
        play(colour, breaker, "x..", seconds=1.0)
        metrics = breaker.metrics()
        assert (3, 1 / 3, 1.0) == (metrics.calls, metrics.failure_rate, metrics.slow_rate)

    def test_a_slow_probe_is_a_failed_one(self, colour, clock):
        """What is still slow has not recovered."""
        breaker = circuit_breaker(slow_call_duration=1.0, min_calls=1, probes=1, recovery_timeout=5.0)
        play(colour, breaker, "x")
        clock.advance(5)
        play(colour, breaker, ".", seconds=1.5)
        assert OPEN is breaker.state


class TestBoth:
    def test_either_rule_opens_it(self, colour):
        """A streak, or a rate."""
        by_streak = circuit_breaker(failure_threshold=3, failure_rate=1.0, min_calls=100)
        play(colour, by_streak, "..xxx")
        assert OPEN is by_streak.state
        by_rate = circuit_breaker(failure_threshold=30, failure_rate=0.5, min_calls=4)
        play(colour, by_rate, "x.x.")
        assert OPEN is by_rate.state


class TestHalfOpen:
    def test_a_round_tolerates_less_than_the_rate(self, colour, clock):
        """One of three is less than half; two are too many, and the third is not waited for."""
        for results, state in (("x..", CLOSED), (".x.", CLOSED), ("xx", OPEN), (".xx", OPEN)):
            breaker = circuit_breaker(min_calls=1, recovery_timeout=5.0)
            play(colour, breaker, "x")
            clock.advance(5)
            play(colour, breaker, results)
            assert state is breaker.state

    def test_a_verdict_comes_as_early_as_it_can(self, colour, clock):
        """Two good ones of three cannot be outvoted."""
        breaker = circuit_breaker(min_calls=1, recovery_timeout=5.0)
        play(colour, breaker, "x")
        clock.advance(5)
        play(colour, breaker, "..")
        assert CLOSED is breaker.state
        assert 0 == breaker.metrics().calls

    @pytest.mark.parametrize("ending", ["success", "failure", "interrupt", "cancelled", "hang"])
    def test_fifty_threads_and_fifty_tasks(self, clock, ending):
        """Exactly so many probes at once, whatever becomes of them, and always a verdict in the end."""
        breaker = circuit_breaker(
            min_calls=1,
            failure_rate=0.5,
            probes=3,
            concurrent_probes=2,
            recovery_timeout=5.0,
            probe_timeout=4.0,
        )
        play(Colour.BLOCKING, breaker, "x")
        clock.advance(5)
        lock, admitted = threading.Lock(), []
        tried, go = threading.Barrier(51), threading.Event()
        outcome: Any = {
            "success": "done",
            "failure": OSError,
            "interrupt": KeyboardInterrupt,
            "cancelled": asyncio.CancelledError,
            "hang": "late",
        }[ending]

        def probe(guard: Any) -> None:
            with lock:
                admitted.append(guard)

        def thread() -> None:
            try:
                with breaker.guard() as guard:
                    probe(guard)
                    tried.wait(60)
                    go.wait(60)
                    scripted(outcome)()
            except CircuitOpenError:
                tried.wait(60)
            except (OSError, KeyboardInterrupt, asyncio.CancelledError):
                pass

        async def tasks() -> None:
            async def task() -> None:
                async with breaker.guard() as guard:
                    probe(guard)

            results = await asyncio.gather(*(task() for _ in range(50)), return_exceptions=True)
            assert 50 == sum(isinstance(one, CircuitOpenError) for one in results)

        with ThreadPoolExecutor(50) as pool:
            crowd = [pool.submit(thread) for _ in range(50)]
            tried.wait(60)
            assert 2 == len(admitted)
            clock.run(tasks())
            assert 2 == len(admitted)
            if ending == "hang":
                clock.advance(4)
                assert OPEN is breaker.state
            go.set()
            for one in crowd:
                one.result(60)

        expected = {"success": CLOSED, "failure": OPEN, "hang": OPEN}.get(ending, HALF_OPEN)
        assert expected is breaker.state
        if expected is HALF_OPEN:
            play(Colour.BLOCKING, breaker, "..")
            assert CLOSED is breaker.state


class TestSharing:
    def test_no_call_is_lost(self):
        """Threads count together, on the happy path without a lock."""
        breaker = circuit_breaker(min_calls=10**6, failure_rate=1.0)
        function = breaker(scripted(forever="done"))
        failing = breaker(scripted(forever=OSError))

        def work() -> None:
            for number in range(500):
                if number % 10:
                    function()
                else:
                    with contextlib.suppress(OSError):
                        failing()

        with ThreadPoolExecutor(8) as pool:
            for one in [pool.submit(work) for _ in range(8)]:
                one.result()

        metrics = breaker.metrics()
        assert (4000, 400, 0.1) == (metrics.calls, metrics.failures, metrics.failure_rate)


class TestShadow:
    def test_every_call_passes(self, colour):
        """It opens, and only tells what it would have refused."""
        breaker, seen = circuit_breaker("supplier", min_calls=2, shadow=True), []
        with observe(seen.append):
            assert "xx..x" == play(colour, breaker, "xx..x")

        assert OPEN is breaker.state
        assert 3 == breaker.metrics().rejected
        assert 3 == [one.kind for one in seen].count("circuit_breaker.would_reject")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"failure_rate": 0}, ValueError, "failure_rate"),
        ({"failure_rate": 1.01}, ValueError, "failure_rate"),
        ({"failure_rate": float("nan")}, ValueError, "failure_rate"),
        ({"failure_rate": True}, TypeError, "failure_rate"),
        ({"window": 0}, ValueError, "window"),
        ({"window": "30"}, TypeError, "window"),
        ({"window": 30, "window_calls": 10}, ValueError, "window_calls"),
        ({"window_calls": 0}, ValueError, "window_calls"),
        ({"window_calls": 10**9}, ValueError, "window_calls"),
        ({"window_calls": 10.0}, TypeError, "window_calls"),
        ({"min_calls": 0}, ValueError, "min_calls"),
        ({"min_calls": 11, "window_calls": 10}, ValueError, "min_calls"),
        ({"min_calls": True}, TypeError, "min_calls"),
        ({"slow_call_rate": 0.5}, ValueError, "slow_call_duration"),
        ({"slow_call_duration": 0}, ValueError, "slow_call_duration"),
        ({"slow_call_duration": 1, "slow_call_rate": 0}, ValueError, "slow_call_rate"),
        ({"slow_call_duration": None, "slow_call_rate": "0.5"}, (TypeError, ValueError), "slow_call"),
    ],
)
def test_arguments_are_checked(options, error, named):
    """At construction, by name."""
    with pytest.raises(error, match=named):
        circuit_breaker(**options)
