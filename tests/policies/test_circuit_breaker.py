"""Circuit breaker: it opens when it should, lets in exactly whom it may, and nothing can keep it from recovering."""

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import threading
import traceback
import weakref
from abc import ABCMeta
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paintkit import (
    CallTimeoutError,
    CircuitOpenError,
    CircuitState,
    DeadlineExceededError,
    RejectedError,
    circuit_breaker,
    deadline,
    observe,
    timeout,
)
from paintkit import clock as source
from paintkit.policies._circuit_breaker import CircuitBreaker
from paintkit.testing import FakeClock, scripted
from paintkit.testing.strategies import durations
from tests.colours import Colour

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED, METRICS_ONLY = (
    CircuitState.FORCED_OPEN,
    CircuitState.DISABLED,
    CircuitState.METRICS_ONLY,
)


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def made(*, failure_threshold: int = 2, recovery_timeout: float = 30.0, **options: Any) -> CircuitBreaker:
    """Return a breaker that opens after two failures, for 30 s, unless told otherwise."""
    return circuit_breaker(
        "supplier", failure_threshold=failure_threshold, recovery_timeout=recovery_timeout, **options
    )


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    """Let calls fail, in blocking code: a breaker is one for both colours."""
    for _ in range(times):
        with pytest.raises(OSError):
            breaker.call(scripted(OSError))


def tripped(**options: Any) -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = made(**options)
    fail(breaker, 2)
    assert OPEN is breaker.state
    return breaker


def probing(clock: FakeClock, **options: Any) -> CircuitBreaker:
    """Return a breaker that has just become half-open."""
    breaker = tripped(**options)
    clock.advance(30)
    assert HALF_OPEN is breaker.state
    return breaker


def admits(breaker: CircuitBreaker) -> bool:
    """Whether a call passes now; says nothing about the dependency by itself."""
    try:
        with breaker.guard():
            raise asyncio.CancelledError
    except asyncio.CancelledError:
        return True
    except CircuitOpenError:
        return False


class Pending:
    """A call under way, in either colour: it ends when it is told to."""

    def __init__(self, breaker: CircuitBreaker, colour: Colour) -> None:
        self._colour = colour
        self._guard = breaker.guard()
        colour.call(self._guard.__enter__ if colour is Colour.BLOCKING else self._guard.__aenter__)

    def end(self, error: BaseException | None = None) -> None:
        leave = self._guard.__exit__ if self._colour is Colour.BLOCKING else self._guard.__aexit__
        assert not self._colour.call(leave, error and type(error), error, error and error.__traceback__)


class TestClosed:
    def test_passes_calls(self, colour):
        """With their arguments and results."""
        breaker = made()

        assert "done" == colour.call(breaker(call := colour.script("done")), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls
        assert CLOSED is breaker.state

    def test_passes_failures(self, colour):
        """As they are: the same object, its cause and context its own, without notes."""
        cause, error = KeyError(), OSError()
        error.__cause__ = cause

        with pytest.raises(OSError) as caught:
            colour.call(made()(colour.script(error)))

        assert error is caught.value
        assert cause is error.__cause__
        assert error.__context__ is None
        assert not hasattr(error, "__notes__")

    @pytest.mark.parametrize("threshold", [1, 2, 5])
    def test_opens_after_a_streak(self, colour, threshold):
        """Exactly at the threshold."""
        breaker = made(failure_threshold=threshold)
        function = breaker(colour.script(forever=OSError))

        for number in range(1, threshold + 1):
            assert CLOSED is breaker.state
            with pytest.raises(OSError):
                colour.call(function)
            assert (number if number < threshold else 0) in (breaker.metrics().streak, 0)

        assert OPEN is breaker.state

    def test_a_success_ends_the_streak(self, colour):
        """Only failures in a row count."""
        breaker = made(failure_threshold=3)
        function = breaker(colour.script(OSError, OSError, "done", OSError, OSError, "done"))

        for _ in range(6):
            with contextlib.suppress(OSError):
                colour.call(function)

        assert CLOSED is breaker.state
        assert 4 == breaker.metrics().failures

    def test_time_does_not_end_the_streak(self, colour, clock):
        """Failures far apart are in a row if nothing succeeded between them."""
        breaker = made()
        fail(breaker)
        clock.advance(10**6)
        fail(breaker)

        assert OPEN is breaker.state

    def test_ignored_exceptions_say_nothing(self, colour):
        """They neither count nor end the streak: a caller's own mistake is not the dependency's."""
        breaker = made(ignore=ValueError)
        function = breaker(colour.script(*[ValueError] * 5, OSError, ValueError, OSError))

        for _ in range(8):
            with contextlib.suppress(OSError, ValueError):
                colour.call(function)

        assert OPEN is breaker.state
        assert 2 == breaker.metrics().failures

    @pytest.mark.parametrize(
        "record",
        [OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)],
        ids=["type", "types", "predicate"],
    )
    def test_only_recorded_exceptions_count(self, colour, record):
        """Whatever names them."""
        breaker = made(record=record)

        for _ in range(5):
            with pytest.raises(ValueError):
                colour.protect(breaker, colour.script(ValueError))
        assert CLOSED is breaker.state
        for _ in range(2):
            with pytest.raises(OSError):
                colour.protect(breaker, colour.script(OSError))
        assert OPEN is breaker.state

    def test_ignore_wins_over_record(self, colour):
        """What is ignored is not recorded."""
        breaker = made(record=OSError, ignore=ConnectionError)

        for _ in range(5):
            with pytest.raises(ConnectionError):
                colour.protect(breaker, colour.script(ConnectionError))

        assert CLOSED is breaker.state

    @pytest.mark.parametrize("named", ["ignore", "record"])
    def test_a_class_with_a_metaclass_is_a_type(self, colour, named):
        """It is not taken for a predicate that is true of everything."""

        class Declared(Exception, metaclass=ABCMeta):
            pass

        breaker = made(**{named: Declared})
        for error in (OSError, OSError):
            with pytest.raises(error):
                colour.protect(breaker, colour.script(error))

        assert (OPEN if named == "ignore" else CLOSED) is breaker.state

    @pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    def test_what_is_no_exception_says_nothing(self, colour, escape):
        """Interrupts and cancellation are the caller's, not the dependency's."""
        breaker = made(failure_threshold=1)

        with pytest.raises(escape):
            colour.call(breaker(colour.script(escape)))

        assert CLOSED is breaker.state
        assert 0 == breaker.metrics().failures

    def test_a_call_that_our_timeout_ends_counts(self, clock):
        """The dependency was too slow: the cancellation is no wish of the caller's."""
        breaker = made(failure_threshold=1)

        with pytest.raises(CallTimeoutError):
            clock.run(timeout(2.0)(breaker(asyncio.sleep))(60))

        assert OPEN is breaker.state
        assert 2.0 == clock.now()

    def test_a_call_that_our_deadline_ends_counts(self, clock):
        """The same for the time of everything around."""
        breaker = made(failure_threshold=1)

        with pytest.raises(DeadlineExceededError):
            clock.run(deadline(2.0)(breaker(asyncio.sleep))(60))

        assert OPEN is breaker.state

    def test_refusals_of_other_policies_do_not_count(self, colour):
        """An open circuit further in is no failure of ours to record."""
        inner, outer = tripped(), made(failure_threshold=1)

        with pytest.raises(CircuitOpenError):
            colour.call(outer(inner(colour.script())))

        assert CLOSED is outer.state
        assert 0 == outer.metrics().failures

    def test_calls_run_side_by_side(self):
        """No lock is held over the protected function."""
        barrier = threading.Barrier(4)
        function: Callable[[], int] = made()(lambda: barrier.wait(60))

        with ThreadPoolExecutor(4) as pool:
            assert {0, 1, 2, 3} == {future.result() for future in [pool.submit(function) for _ in range(4)]}

    def test_no_failure_is_lost_to_a_race(self):
        """Threads count together, and it opens once."""
        breaker = made(failure_threshold=400)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: fail(breaker), range(399)))
        assert CLOSED is breaker.state
        assert 399 == breaker.metrics().failures

        fail(breaker)

        assert OPEN is breaker.state
        assert 1 == breaker.metrics().opened

    def test_nothing_of_a_failure_is_kept(self, colour):
        """The exception that opened the circuit is free to go."""
        seen = []

        class Failure(Exception):
            def __init__(self) -> None:
                seen.append(weakref.ref(self))

        breaker = made(failure_threshold=1)
        with contextlib.suppress(Failure):
            colour.call(breaker(colour.script(Failure)))
        gc.collect()

        assert [None] == [reference() for reference in seen]


class TestOpen:
    def test_refuses_calls(self, colour):
        """Without calling the function; the error tells who refused, and for how long."""
        breaker = tripped()
        call = colour.script()

        with pytest.raises(CircuitOpenError) as caught:
            colour.call(breaker(call))

        assert 0 == call.count
        assert "supplier" == caught.value.policy
        assert 30.0 == caught.value.retry_after
        assert "supplier" in str(caught.value)
        assert isinstance(caught.value, RejectedError)
        assert 1 == breaker.metrics().rejected

    @pytest.mark.parametrize("recovery_timeout", [30.0, 0.25, timedelta(milliseconds=250), 86_400])
    def test_the_first_open_time_is_exact(self, colour, clock, recovery_timeout):
        """To the last instant, whatever its size."""
        seconds = (
            recovery_timeout.total_seconds() if isinstance(recovery_timeout, timedelta) else recovery_timeout
        )
        clock.advance(0.5)
        breaker = tripped(recovery_timeout=recovery_timeout)

        clock.advance(seconds - 0.125)
        with pytest.raises(CircuitOpenError) as caught:
            colour.protect(breaker, colour.script())
        assert 0.125 == caught.value.retry_after
        assert OPEN is breaker.state
        clock.advance(0.125)

        assert HALF_OPEN is breaker.state
        assert "done" == colour.protect(breaker, colour.script("done"))

    @given(durations(), durations(0.001, 1000.0), st.lists(durations(longest=10.0), max_size=3))
    @example(28.49, 578.08, [1.474])  # a difference of floats that is too short
    def test_waiting_for_retry_after_is_enough(self, opened_at, recovery_timeout, naps):
        """Whoever sleeps as long as an error says is admitted, whatever floats round to."""
        clock = FakeClock._active
        clock.advance(opened_at)
        breaker = tripped(recovery_timeout=recovery_timeout)
        for nap in naps:
            clock.advance(nap)
        if OPEN is breaker.state:
            with pytest.raises(CircuitOpenError) as caught:
                breaker.call(scripted())
            source.sleep(caught.value.retry_after)

        assert admits(breaker)

    def test_reads_half_open_before_any_call(self, clock):
        """The state is a matter of time, not of who asks."""
        breaker = tripped()
        assert 30.0 == breaker.metrics().retry_after

        clock.advance(30)

        assert HALF_OPEN is breaker.state
        assert HALF_OPEN is breaker.metrics().state

    def test_every_refusal_is_a_new_error(self, colour):
        """None accumulates frames, and none holds on to another error."""
        function = tripped()(colour.script())
        errors, depths = [], []
        for _ in range(50):
            with pytest.raises(CircuitOpenError) as caught:
                colour.call(function)
            errors.append(caught.value)
            depths.append(len(traceback.extract_tb(caught.value.__traceback__)))

        assert 50 == len(set(map(id, errors)))
        assert 1 == len(set(depths))
        assert {(None, None)} == {(error.__cause__, error.__context__) for error in errors}

    def test_a_late_success_does_not_close_it(self, colour):
        """A call that began before it opened says nothing about now."""
        breaker = made()
        straggler = Pending(breaker, colour)
        fail(breaker, 2)

        straggler.end()

        assert OPEN is breaker.state

    def test_a_late_failure_does_not_prolong_it(self, colour, clock):
        """The open time runs from when it opened."""
        breaker = made()
        stragglers = [Pending(breaker, colour) for _ in range(5)]
        fail(breaker, 2)
        clock.advance(20)

        for straggler in stragglers:
            straggler.end(OSError())

        assert 10.0 == breaker.metrics().retry_after
        assert 1 == breaker.metrics().opened
        assert 2 == breaker.metrics().failures
        clock.advance(10)
        assert HALF_OPEN is breaker.state

    def test_a_function_that_ends_late(self, colour):
        """The same with a function that opens the circuit while it runs, and then succeeds."""
        breaker = made()

        @breaker
        @colour.function
        def slow() -> str:
            fail(breaker, 2)
            return "late"

        assert "late" == colour.call(slow)
        assert OPEN is breaker.state


class TestHalfOpen:
    @pytest.mark.parametrize("probes", [1, 3])
    def test_closes_after_enough_successes(self, colour, clock, probes):
        """Not one probe earlier."""
        breaker = probing(clock, probes=probes)
        function = breaker(colour.script(forever="done"))

        for _ in range(probes):
            assert HALF_OPEN is breaker.state
            colour.call(function)

        assert CLOSED is breaker.state

    def test_closes_with_an_empty_streak(self, colour, clock):
        """What was before does not count any more."""
        breaker = probing(clock, probes=1)
        colour.protect(breaker, colour.script("done"))

        fail(breaker)

        assert CLOSED is breaker.state
        assert 1 == breaker.metrics().streak

    def test_a_failure_opens_it_again_at_once(self, colour, clock):
        """Even after successes."""
        breaker = probing(clock, probes=3)
        function = breaker(colour.script("done", "done", OSError))
        for _ in range(3):
            with contextlib.suppress(OSError):
                colour.call(function)

        assert OPEN is breaker.state
        assert 2 == breaker.metrics().opened

    def test_stays_open_longer_each_time(self, clock):
        """Twice as long up to a limit, spread by a tenth; and starts anew after it has closed."""
        breaker = probing(clock, probes=1, longest_recovery=200.0)
        for expected in (60.0, 120.0, 200.0, 200.0):
            fail(breaker)
            open_time = breaker.metrics().retry_after
            assert expected * 0.9 <= open_time <= expected * 1.1
            clock.advance(open_time)
            assert HALF_OPEN is breaker.state
        breaker.call(scripted("done"))
        fail(breaker, 2)

        assert 30.0 == breaker.metrics().retry_after

    @pytest.mark.parametrize("permits", [1, 3])
    def test_admits_no_herd_of_threads(self, clock, permits):
        """Of fifty threads at once exactly as many as there are permits; the others are refused meanwhile."""
        breaker = probing(clock, probes=4, concurrent_probes=permits)
        start, release, refused = threading.Barrier(50), threading.Event(), threading.Semaphore(0)
        inside = []

        def probe() -> None:
            inside.append(True)
            release.wait(60)

        def call() -> None:
            start.wait(60)
            try:
                breaker.call(probe)
            except CircuitOpenError:
                refused.release()

        threads = [threading.Thread(target=call) for _ in range(50)]
        for thread in threads:
            thread.start()
        for _ in range(50 - permits):
            assert refused.acquire(timeout=60)
        release.set()
        for thread in threads:
            thread.join(60)

        assert permits == len(inside)
        assert HALF_OPEN is breaker.state

    @pytest.mark.parametrize("permits", [1, 3])
    def test_admits_no_herd_of_tasks(self, clock, permits):
        """The same in a loop."""
        breaker = probing(clock, probes=4, concurrent_probes=permits)
        inside, refused = [], []

        async def main() -> None:
            release = asyncio.Event()

            async def probe() -> None:
                inside.append(True)
                await release.wait()

            async def call() -> None:
                try:
                    await breaker.acall(probe)
                except CircuitOpenError:
                    refused.append(True)
                if len(refused) == 50 - permits:
                    release.set()

            await asyncio.gather(*[call() for _ in range(50)])

        clock.run(main())

        assert permits == len(inside)
        assert 50 - permits == len(refused)

    def test_admits_no_more_than_a_round(self, colour, clock):
        """Probes under way and successes count together: the third of two is refused."""
        breaker = probing(clock, probes=2, concurrent_probes=2)
        colour.protect(breaker, colour.script("done"))
        pending = Pending(breaker, colour)

        with pytest.raises(CircuitOpenError):
            colour.protect(breaker, colour.script())
        pending.end()

        assert CLOSED is breaker.state

    def test_refuses_until_the_probe_is_over(self, colour, clock):
        """The error tells when the probe's lease ends at the latest."""
        breaker = probing(clock, probe_timeout=8.0)
        probe = Pending(breaker, colour)
        clock.advance(3)

        with pytest.raises(CircuitOpenError) as caught:
            colour.protect(breaker, colour.script())

        assert 5.0 == caught.value.retry_after
        probe.end()
        assert admits(breaker)

    @pytest.mark.parametrize(
        "escape",
        [KeyboardInterrupt, SystemExit, asyncio.CancelledError, ValueError],
        ids=lambda kind: kind.__name__,
    )
    def test_a_probe_without_a_verdict_gives_its_permit_back(self, colour, clock, escape):
        """Interrupted, cancelled or ignored: the circuit neither closes nor opens nor waits for it."""
        breaker = probing(clock, probes=1, ignore=ValueError)

        for _ in range(5):
            with pytest.raises(escape):
                colour.call(breaker(colour.script(escape)))
            assert HALF_OPEN is breaker.state

        assert "done" == colour.protect(breaker, colour.script("done"))
        assert CLOSED is breaker.state

    def test_a_cancelled_probe_gives_its_permit_back(self, clock):
        """A task that is cancelled in the middle of its probe."""
        breaker = probing(clock, probes=1)

        async def main() -> None:
            task = asyncio.create_task(breaker.acall(asyncio.sleep, 5))
            await asyncio.sleep(1)
            assert not admits(breaker)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert HALF_OPEN is breaker.state
            assert admits(breaker)

        clock.run(main())

    def test_a_hung_probe_does_not_wedge_it(self, colour, clock):
        """When its lease is over it counts as failed: the circuit opens again, then probes again."""
        breaker = probing(clock, probe_timeout=8.0)
        Pending(breaker, colour)
        clock.advance(7.75)
        assert HALF_OPEN is breaker.state
        assert not admits(breaker)

        clock.advance(0.25)

        assert OPEN is breaker.state
        clock.advance(breaker.metrics().retry_after)
        assert admits(breaker)

    def test_a_probe_has_as_long_as_the_recovery_by_default(self, colour, clock):
        """Nothing has to be configured for a hung probe to be overcome."""
        breaker = probing(clock)
        Pending(breaker, colour)

        clock.advance(30)

        assert OPEN is breaker.state

    @pytest.mark.parametrize("error", [None, OSError()], ids=["success", "failure"])
    def test_a_probe_after_its_lease_says_nothing(self, colour, clock, error):
        """Its late result changes neither the state nor the open time."""
        breaker = probing(clock, probes=1, probe_timeout=8.0)
        probe = Pending(breaker, colour)
        clock.advance(8)
        before = breaker.metrics()
        assert OPEN is before.state

        probe.end(error)

        assert before == breaker.metrics()

    @pytest.mark.parametrize("error", [None, OSError()], ids=["success", "failure"])
    def test_a_straggler_is_no_probe(self, colour, clock, error):
        """A call from before it opened ends during the probes: no verdict, and no permit of theirs is freed."""
        breaker = made(probes=1)
        straggler = Pending(breaker, colour)
        fail(breaker, 2)
        clock.advance(30)
        probe = Pending(breaker, colour)

        straggler.end(error)

        assert HALF_OPEN is breaker.state
        assert not admits(breaker)
        probe.end()
        assert CLOSED is breaker.state

    def test_a_failed_probe_beats_those_still_running(self, colour, clock):
        """Their successes come too late."""
        breaker = probing(clock, probes=3, concurrent_probes=3)
        probes = [Pending(breaker, colour) for _ in range(3)]

        probes[0].end(OSError())
        probes[1].end()
        probes[2].end()

        assert OPEN is breaker.state
        assert 2 == breaker.metrics().opened

    def test_a_probe_that_calls_itself(self, colour, clock):
        """Is refused inside and goes on: no deadlock, no recursion without end."""
        breaker = probing(clock, probes=1)

        @breaker
        @colour.function
        def recursive() -> str:
            with pytest.raises(CircuitOpenError):
                breaker.call(scripted())
            return "done"

        assert "done" == colour.call(recursive)
        assert CLOSED is breaker.state


class TestForcedStates:
    def test_forced_open_stays_open(self, colour, clock):
        """It does not decay with time, and a late result does not move it."""
        breaker = made()
        straggler = Pending(breaker, colour)
        breaker.force_open()
        straggler.end()
        clock.advance(10**6)

        with pytest.raises(CircuitOpenError) as caught:
            colour.protect(breaker, colour.script())

        assert FORCED_OPEN is breaker.state
        assert caught.value.retry_after is None

    def test_disabled_passes_everything(self, colour, clock):
        """And records nothing."""
        breaker = tripped()
        breaker.disable()
        before = breaker.metrics().failures

        for _ in range(5):
            with pytest.raises(OSError):
                colour.protect(breaker, colour.script(OSError))
        clock.advance(10**6)

        assert DISABLED is breaker.state
        assert before == breaker.metrics().failures

    def test_metrics_only_passes_everything(self, colour, clock):
        """And counts, but never opens."""
        breaker = made()
        breaker.metrics_only()

        for _ in range(5):
            with pytest.raises(OSError):
                colour.protect(breaker, colour.script(OSError))
        clock.advance(10**6)

        assert METRICS_ONLY is breaker.state
        assert 5 == breaker.metrics().failures
        assert 5 == breaker.metrics().streak

    @pytest.mark.parametrize("force", ["force_open", "disable", "metrics_only"])
    @pytest.mark.parametrize("before", ["closed", "open", "half-open"])
    def test_reset_closes(self, colour, clock, force, before):
        """From wherever it was, with an empty history and the first open time."""
        breaker = {"closed": made, "open": tripped, "half-open": functools.partial(probing, clock)}[before]()
        getattr(breaker, force)()

        breaker.reset()

        assert CLOSED is breaker.state
        assert "done" == colour.protect(breaker, colour.script("done"))
        fail(breaker)
        assert CLOSED is breaker.state
        fail(breaker)
        assert OPEN is breaker.state
        assert 30.0 == breaker.metrics().retry_after

    def test_reset_forgets_the_growth(self, clock):
        """The next open time is the first one again."""
        breaker = probing(clock)
        fail(breaker)
        assert breaker.metrics().retry_after > 30.0

        breaker.reset()
        fail(breaker, 2)

        assert 30.0 == breaker.metrics().retry_after

    @pytest.mark.parametrize("force", ["force_open", "disable", "metrics_only", "reset"])
    @pytest.mark.parametrize("error", [None, OSError()], ids=["success", "failure"])
    def test_a_call_under_way_says_nothing_any_more(self, colour, force, error):
        """Neither does one that began while it was closed."""
        breaker = made()
        fail(breaker)
        call = Pending(breaker, colour)
        getattr(breaker, force)()
        before = breaker.metrics()

        call.end(error)

        assert before == breaker.metrics()

    @pytest.mark.parametrize("force", ["force_open", "disable", "metrics_only", "reset"])
    @pytest.mark.parametrize("error", [None, OSError()], ids=["success", "failure"])
    def test_a_probe_under_way_says_nothing_any_more(self, colour, clock, force, error):
        """Its result belongs to a time that is over."""
        breaker = probing(clock, probes=1, failure_threshold=2)
        probe = Pending(breaker, colour)
        getattr(breaker, force)()
        before = breaker.metrics()

        probe.end(error)

        assert before == breaker.metrics()


class TestGuards:
    def test_a_block_is_protected(self, colour):
        """Its failures count, and pass."""
        breaker = made(failure_threshold=1)

        def block() -> None:
            with breaker.guard():
                raise OSError("mine")

        async def ablock() -> None:
            async with breaker.guard():
                raise OSError("mine")

        with pytest.raises(OSError, match="mine"):
            colour.call(block if colour is Colour.BLOCKING else ablock)
        assert OPEN is breaker.state
        with pytest.raises(CircuitOpenError):
            colour.call(block if colour is Colour.BLOCKING else ablock)

    def test_a_guard_is_for_one_use(self):
        """Two blocks with one guard would be one call."""
        guard = made().guard()
        with guard:
            pass

        with pytest.raises(RuntimeError), guard:
            pass

    def test_every_guard_is_a_call(self, clock):
        """Nested and overlapping ones, too."""
        breaker = made()
        with breaker.guard(), breaker.guard():
            assert 0 == breaker.metrics().failures
        with contextlib.suppress(OSError), breaker.guard(), breaker.guard():
            raise OSError

        assert OPEN is breaker.state


class TestObservations:
    def test_a_success_is_silent(self, colour):
        """The happy path says nothing."""
        seen = []
        with observe(seen.append):
            colour.protect(made(), colour.script("done"))

        assert [] == seen

    def test_transitions_are_told_once(self, colour, clock):
        """Also if many calls fail after it has opened."""
        seen = []
        with observe(seen.append):
            breaker = made()
            stragglers = [Pending(breaker, colour) for _ in range(5)]
            for straggler in stragglers:
                straggler.end(OSError())

        changes = [observation for observation in seen if observation.kind == "circuit_breaker.state_changed"]
        assert [("supplier", {"before": CLOSED, "after": OPEN})] == [
            (one.source, one.details) for one in changes
        ]

    def test_an_observer_that_raises_breaks_nothing(self, colour, clock, caplog):
        """Neither the call nor the state."""
        with observe(scripted(forever=ZeroDivisionError)):
            breaker = probing(clock, probes=1)
            assert "done" == colour.protect(breaker, colour.script("done"))

        assert CLOSED is breaker.state
        assert "ZeroDivisionError" in caplog.text

    def test_an_observer_may_ask_the_breaker(self, clock):
        """No lock is held while it listens."""
        states = []
        breaker = made()

        def ask(_: object) -> None:
            with ThreadPoolExecutor(1) as pool:
                states.append(pool.submit(lambda: breaker.state).result(60))

        with observe(ask):
            fail(breaker, 2)

        assert [OPEN] == states


class TestProtection:
    def test_keeps_what_a_function_is(self, colour):
        """Name, documentation, signature, defaults by identity, and colour."""
        default = []

        def body(one, /, two=default, *three, four, five=5, **six) -> str:
            """Documented."""
            return f"{one}{two}{three}{four}{five}{six}"

        function = colour.function(body)
        protected = made()(function)

        assert inspect.signature(body) == inspect.signature(protected)
        assert (body.__name__, body.__qualname__, body.__doc__) == (
            protected.__name__,
            protected.__qualname__,
            protected.__doc__,
        )
        assert function is protected.__wrapped__
        assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(protected)
        assert body(1, 2, 3, four=4, seven=7) == colour.call(protected, 1, 2, 3, four=4, seven=7)

    def test_a_wrong_call_is_answered_by_the_function(self, colour):
        """And says nothing about the dependency."""
        breaker = made(failure_threshold=1)

        def function(one: object) -> None: ...

        async def coroutine_function(one: object) -> None: ...

        with pytest.raises(TypeError, match="two"):
            colour.call(breaker(function if colour is Colour.BLOCKING else coroutine_function), 1, two=2)

        assert CLOSED is breaker.state

    def test_methods(self, colour):
        """Of instances, of classes and static ones share one breaker."""
        breaker = made(failure_threshold=3)

        class Shop:
            @breaker
            @colour.function
            def method(self) -> None:
                raise OSError("method")

            @classmethod
            @breaker
            @colour.function
            def of_class(cls) -> None:
                raise OSError("class")

            @staticmethod
            @breaker
            @colour.function
            def static() -> None:
                raise OSError("static")

        for name, function in (("method", Shop().method), ("class", Shop.of_class), ("static", Shop.static)):
            with pytest.raises(OSError, match=name):
                colour.call(function)

        assert OPEN is breaker.state

    def test_objects_bound_methods_and_partials(self, colour):
        """`async __call__` is as much a coroutine function as any: its failures count."""
        breaker = made(failure_threshold=3)

        class Shop:
            @colour.function
            def method(self, error: type[Exception]) -> None:
                raise error

        with pytest.raises(OSError):
            colour.call(breaker(colour.script(OSError)))
        with pytest.raises(OSError):
            colour.call(breaker(Shop().method), OSError)
        with pytest.raises(OSError):
            colour.call(breaker(functools.partial(Shop().method, OSError)))

        assert OPEN is breaker.state

    def test_one_breaker_for_both_colours(self, clock):
        """Failures of one colour refuse calls of the other."""
        breaker = made(failure_threshold=2)
        with pytest.raises(OSError):
            Colour.ASYNCIO.protect(breaker, Colour.ASYNCIO.script(OSError))
        fail(breaker)

        with pytest.raises(CircuitOpenError):
            Colour.ASYNCIO.protect(breaker, Colour.ASYNCIO.script())

    @pytest.mark.parametrize("thing", [None, 3, "name", b"", []], ids=repr)
    def test_what_cannot_be_called_is_refused(self, thing):
        """At decoration."""
        with pytest.raises(TypeError, match="callable"):
            made()(thing)

    def test_tracebacks_are_short(self, colour):
        """A failure has the user's own frames and three of ours at most, a refusal a few of ours."""

        def culprit() -> None:
            raise OSError

        function = made(failure_threshold=1)(colour.function(culprit))
        for error, most in ((OSError, 3), (CircuitOpenError, 5)):
            with pytest.raises(error) as caught:
                colour.call(function)
            names = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
            ours = [
                name for name in names if "paintkit" in name and "testing" not in name and "tests" not in name
            ]
            assert 1 <= len(ours) <= most


class TestGenerators:
    """One generator is one call, and its verdict comes at the end."""

    @staticmethod
    def read(
        colour: Colour, breaker: CircuitBreaker, script: Callable[[], object], *, most: int = 9
    ) -> list[object]:
        """Read a protected generator of scripted items, up to so many, and close it."""
        found: list[object] = []

        @breaker
        def generate() -> Iterator[object]:
            while True:
                yield script()

        @breaker
        async def agenerate() -> AsyncIterator[object]:
            while True:
                yield script()

        async def collect() -> None:
            async with contextlib.aclosing(agenerate()) as reader:
                async for item in reader:
                    found.append(item)
                    if len(found) == most:
                        break

        if colour is Colour.ASYNCIO:
            colour.call(collect)
            return found
        with contextlib.closing(generate()) as reader:
            found.extend(itertools.islice(reader, most))
        return found

    def test_a_failure_at_the_end_counts(self, colour):
        """After however many items."""
        breaker = made(failure_threshold=1)

        with pytest.raises(OSError):
            self.read(colour, breaker, scripted(1, 2, 3, OSError))

        assert OPEN is breaker.state

    def test_reaching_the_end_is_a_success(self, colour):
        """It ends the streak."""
        breaker = made(failure_threshold=2)

        @breaker
        def generate() -> Iterator[int]:
            yield 1

        @breaker
        async def agenerate() -> AsyncIterator[int]:
            yield 1

        async def collect() -> list[int]:
            return [item async for item in agenerate()]

        fail(breaker)
        assert [1] == (list(generate()) if colour is Colour.BLOCKING else colour.call(collect))
        fail(breaker)

        assert CLOSED is breaker.state

    def test_an_early_close_says_nothing(self, colour, clock):
        """The reader had enough: neither failure nor success."""
        breaker = probing(clock, probes=1)

        assert [1, 2] == self.read(colour, breaker, scripted(1, 2, 3), most=2)

        assert HALF_OPEN is breaker.state
        assert admits(breaker)

    def test_an_open_circuit_refuses_the_first_item(self, colour):
        """Nothing of the generator runs."""
        with pytest.raises(CircuitOpenError):
            self.read(colour, tripped(), script := scripted())

        assert 0 == script.count

    def test_a_generator_under_way_is_a_probe_under_way(self, clock):
        """As long as it is read, and not before."""
        breaker = probing(clock, probes=1)

        @breaker
        def generate() -> Iterator[int]:
            yield 1
            yield 2

        reader = generate()
        assert admits(breaker)
        next(reader)
        assert not admits(breaker)
        list(reader)

        assert CLOSED is breaker.state


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "named"),
        [
            ({"failure_threshold": 0}, ValueError, "failure_threshold.*0"),
            ({"failure_threshold": -3}, ValueError, "failure_threshold.*-3"),
            ({"failure_threshold": True}, TypeError, "failure_threshold.*True"),
            ({"failure_threshold": 2.0}, TypeError, "failure_threshold.*2.0"),
            ({"failure_threshold": "5"}, TypeError, "failure_threshold.*'5'"),
            ({"failure_threshold": float("nan")}, TypeError, "failure_threshold.*nan"),
            ({"recovery_timeout": 0}, ValueError, "recovery_timeout.*0"),
            ({"recovery_timeout": -1}, ValueError, "recovery_timeout.*-1"),
            ({"recovery_timeout": float("nan")}, ValueError, "recovery_timeout.*nan"),
            ({"recovery_timeout": float("inf")}, ValueError, "recovery_timeout.*inf"),
            ({"recovery_timeout": timedelta(0)}, ValueError, "recovery_timeout.*0"),
            ({"recovery_timeout": False}, TypeError, "recovery_timeout.*False"),
            ({"recovery_timeout": "30"}, TypeError, "recovery_timeout.*'30'"),
            ({"recovery_timeout": None}, TypeError, "recovery_timeout.*None"),
            ({"longest_recovery": 0}, ValueError, "longest_recovery.*0"),
            ({"longest_recovery": -1}, ValueError, "longest_recovery.*-1"),
            ({"longest_recovery": float("nan")}, ValueError, "longest_recovery.*nan"),
            ({"longest_recovery": True}, TypeError, "longest_recovery.*True"),
            ({"longest_recovery": "300"}, TypeError, "longest_recovery.*'300'"),
            ({"probes": 0}, ValueError, "probes.*0"),
            ({"probes": -1}, ValueError, "probes.*-1"),
            ({"probes": True}, TypeError, "probes.*True"),
            ({"probes": 1.5}, TypeError, "probes.*1.5"),
            ({"concurrent_probes": 0}, ValueError, "concurrent_probes.*0"),
            ({"concurrent_probes": 4}, ValueError, "concurrent_probes.*4"),
            ({"concurrent_probes": True}, TypeError, "concurrent_probes.*True"),
            ({"probe_timeout": 0}, ValueError, "probe_timeout.*0"),
            ({"probe_timeout": -1}, ValueError, "probe_timeout.*-1"),
            ({"probe_timeout": float("nan")}, ValueError, "probe_timeout.*nan"),
            ({"probe_timeout": True}, TypeError, "probe_timeout.*True"),
            ({"probe_timeout": "5"}, TypeError, "probe_timeout.*'5'"),
            ({"record": "OSError"}, TypeError, "record.*'OSError'"),
            ({"record": ()}, ValueError, "record"),
            ({"record": int}, TypeError, "record.*int"),
            ({"record": KeyboardInterrupt}, ValueError, "record.*KeyboardInterrupt"),
            ({"ignore": 3}, TypeError, "ignore.*3"),
            ({"ignore": ()}, ValueError, "ignore"),
            ({"ignore": (OSError, None)}, TypeError, "ignore.*None"),
            ({"ignore": BaseException}, ValueError, "ignore.*BaseException"),
            ({"name": ""}, ValueError, "name"),
            ({"name": 3}, TypeError, "name.*3"),
            ({"name": None}, TypeError, "name.*None"),
            ({"threshold": 3}, TypeError, "threshold"),
        ],
        ids=lambda case: (
            ",".join(f"{name}={value!r}" for name, value in case.items()) if isinstance(case, dict) else None
        ),
    )
    def test_are_checked(self, options, error, named):
        """When the policy is made; the error names the argument and the value."""
        with pytest.raises(error, match=named):
            circuit_breaker(**{"failure_threshold": 5} | options)

    @pytest.mark.parametrize("named", ["record", "ignore"])
    def test_predicates_are_plain_functions(self, named):
        """Nobody would await a coroutine, which is true of everything."""

        async def predicate(_: object) -> bool:
            return False

        with pytest.raises(TypeError, match=f"{named} .*async def"):
            circuit_breaker(failure_threshold=5, **{named: predicate})

    def test_a_forgotten_call_is_told(self):
        """`@circuit_breaker` without parentheses is not taken for a name."""
        with pytest.raises(TypeError, match="needs parentheses"):
            circuit_breaker(lambda: None)

    def test_options_are_keyword_only(self):
        """Bare numbers say nothing."""
        with pytest.raises(TypeError):
            circuit_breaker("supplier", 5)
