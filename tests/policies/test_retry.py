"""Retry: another attempt for what may pass, never for what may not, and never longer than there is time."""

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import sys
import threading
import traceback
import weakref
from abc import ABCMeta
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import (
    CircuitOpenError,
    DeadlineExceededError,
    RetryBudget,
    ambient,
    backoff,
    circuit_breaker,
    observe,
    retry,
)
from paintkit import clock as source
from paintkit.policies._retry import Retry
from paintkit.testing import FakeClock, scripted
from paintkit.testing.strategies import durations
from tests.colours import Colour

AT_ONCE = backoff.constant(0)


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Set the ambient deadline to so many seconds from now."""
    token = ambient.deadline.set(source.now() + seconds)
    try:
        yield
    finally:
        ambient.deadline.reset(token)


def shown(options: object) -> str | None:
    """Return an id for the options of a test case."""
    if not isinstance(options, dict):
        return None
    return ",".join(f"{name}={getattr(value, '__name__', value)!r}" for name, value in options.items())


def repeat(policy: Retry, body: Callable[[], object]) -> None:
    """Run a body as the block of a policy's attempts."""
    for attempt in policy.attempts():
        with attempt:
            body()


class Unit:
    """An open unit of work, as far as a retry sees it."""

    over = False
    wrote = False
    began = 0

    def __init__(self, *, doomed: bool) -> None:
        self.doomed = doomed

    def is_doomed(self) -> bool:
        return self.doomed

    @contextlib.contextmanager
    def open(self) -> Iterator["Unit"]:
        token = ambient.unit_of_work.set(self)  # type: ignore[arg-type]  # the rest of the protocol is not asked for
        try:
            yield self
        finally:
            ambient.unit_of_work.reset(token)


class TestAttempts:
    def test_a_success_is_called_once(self, colour, clock):
        """Nothing happens beside the call itself."""
        call = colour.script("done")

        assert "done" == colour.call(retry(on=OSError)(call), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls
        assert [] == clock.sleeps

    def test_a_failure_is_called_again(self, colour, clock):
        """With the same arguments, after the delays of the schedule."""
        call = colour.script(OSError, OSError, "done")
        policy = retry(on=OSError, attempts=5, backoff=backoff.exponential(1.0, cap=60.0, jitter="none"))

        assert "done" == colour.call(policy(call), 1, two=2)
        assert [((1,), {"two": 2})] * 3 == call.calls
        assert [0.0, 1.0, 3.0] == call.times

    @pytest.mark.parametrize("attempts", [1, 2, 3, 7])
    def test_the_first_call_counts(self, colour, clock, attempts):
        """`attempts` is how often the function is called in all."""
        call = colour.script(forever=OSError)

        with pytest.raises(OSError):
            colour.call(retry(on=OSError, attempts=attempts, backoff=backoff.constant(1))(call))

        assert attempts == call.count

    def test_defaults(self, colour, clock):
        """Three attempts, full jitter below 0.1 s and 0.2 s."""
        call = colour.script(forever=OSError)

        with pytest.raises(OSError):
            colour.call(retry(on=OSError)(call))

        first, second = clock.sleeps
        assert 0 <= first <= 0.1
        assert 0 <= second <= 0.2

    def test_no_sleep_follows_the_last_attempt(self, colour, clock):
        """Giving up is immediate."""
        call = colour.script(OSError, OSError)

        with pytest.raises(OSError):
            colour.call(retry(on=OSError, attempts=2, backoff=backoff.constant(8))(call))

        assert [8] == clock.sleeps
        assert 8.0 == clock.now()

    def test_the_last_exception_is_raised_as_it_is(self, colour):
        """The same object, with its own cause and context, and at most one note of ours."""
        cause, last = KeyError("cause"), OSError("last")
        last.__cause__ = cause
        call = colour.script(OSError("first"), last)

        with pytest.raises(OSError) as caught:
            colour.call(retry(on=OSError, attempts=2, backoff=AT_ONCE)(call))

        assert last is caught.value
        assert cause is last.__cause__
        assert last.__context__ is None
        assert len(getattr(last, "__notes__", [])) <= 1

    def test_other_exceptions_pass_at_once(self, colour):
        """What `on` does not name is not retried, even after a failure that was."""
        call = colour.script(OSError, KeyError("bug"), "never")

        with pytest.raises(KeyError, match="bug"):
            colour.call(retry(on=OSError, attempts=5, backoff=AT_ONCE)(call))

        assert 2 == call.count

    @pytest.mark.parametrize(
        "on",
        [OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)],
        ids=["type", "types", "predicate"],
    )
    def test_on_takes_types_and_predicates(self, colour, on):
        """Subclasses included."""
        call = colour.script(ConnectionError, "done")

        assert "done" == colour.call(retry(on=on, backoff=AT_ONCE)(call))

    def test_a_class_with_a_metaclass_is_a_type(self, colour):
        """It is not taken for a predicate that is true of everything."""

        class Declared(Exception, metaclass=ABCMeta):
            pass

        with pytest.raises(KeyError):
            colour.call(retry(on=Declared, backoff=AT_ONCE)(call := colour.script(KeyError, "never")))
        assert 1 == call.count
        assert "done" == colour.call(retry(on=Declared, backoff=AT_ONCE)(colour.script(Declared, "done")))

    @pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    @pytest.mark.parametrize(
        "on",
        [Exception, lambda _: True, lambda error: not isinstance(error, KeyError)],
        ids=["type", "anything", "anything-but"],
    )
    def test_what_is_no_exception_is_never_retried(self, colour, escape, on):
        """Whatever the predicate says, and it is not even asked."""
        asked = []
        predicate = on if isinstance(on, type) else lambda error: asked.append(error) or on(error)
        call = colour.script(OSError, escape, "never")

        with pytest.raises(escape):
            colour.call(retry(on=predicate, backoff=AT_ONCE)(call))

        assert 2 == call.count
        assert all(isinstance(error, OSError) for error in asked)

    def test_an_endless_schedule_of_doubling_does_not_overflow(self, colour, clock):
        """Attempt 3,000 waits for the cap."""
        call = colour.script(*[OSError] * 2999, "done")
        policy = retry(on=OSError, attempts=3000, backoff=backoff.exponential(1.0, cap=60.0, jitter="none"))

        assert "done" == colour.call(policy(call))
        assert 60.0 == clock.sleeps[-1]

    def test_a_schedule_of_ones_own(self, colour, clock):
        """Anything with `delays()`; when they end, the last one goes on."""

        class Mine:
            def delays(self) -> Iterator[float]:
                return iter([1.0, 2.0])

        with pytest.raises(OSError):
            colour.call(retry(on=OSError, attempts=5, backoff=Mine())(colour.script(forever=OSError)))

        assert [1.0, 2.0, 2.0, 2.0] == clock.sleeps

    def test_a_wrong_call_is_answered_by_the_function(self, colour):
        """An argument too many is not retried: the function was never called."""
        calls = []
        function = retry(on=Exception, backoff=AT_ONCE)(
            colour.function(lambda one: calls.append(one) or "done")
        )

        with pytest.raises(TypeError, match="two"):
            colour.call(function, 1, two=2)

        assert [] == calls

    def test_stop_iteration_passes(self):
        """It means nothing to us, though we run on generators ourselves."""
        with pytest.raises(StopIteration):
            retry(on=StopIteration, attempts=2, backoff=AT_ONCE)(scripted(forever=StopIteration))()

    def test_blocking_code_inside_a_loop(self, clock):
        """A blocking function under retry may be called from a coroutine."""

        async def main() -> str:
            return retry(on=OSError, backoff=backoff.constant(5))(scripted(OSError, "done"))()

        assert "done" == clock.run(main())
        assert 5.0 == clock.now()


class TestResults:
    def test_a_bad_result_is_a_failed_attempt(self, colour, clock):
        """It is called again after the same delays."""
        call = colour.script(503, OSError, 200)
        policy = retry(on=OSError, on_result=lambda result: result == 503, backoff=backoff.constant(1))

        assert 200 == colour.call(policy(call))
        assert [1, 1] == clock.sleeps

    def test_the_last_result_is_returned(self, colour):
        """When attempts are exhausted, as it is."""
        bad = object()
        policy = retry(on=OSError, attempts=2, on_result=lambda result: result is bad, backoff=AT_ONCE)

        assert bad is colour.call(policy(call := colour.script(forever=bad)))
        assert 2 == call.count

    def test_what_came_last_counts(self, colour):
        """A bad result, then an exception: the exception is raised."""
        policy = retry(on=OSError, attempts=2, on_result=lambda result: result == 503, backoff=AT_ONCE)

        with pytest.raises(OSError):
            colour.call(policy(colour.script(503, OSError)))
        assert 503 == colour.call(policy(colour.script(OSError, 503)))


class TestTime:
    def test_max_elapsed_counts_the_calls_themselves(self, colour, clock):
        """It starts with the first call, not with the first failure."""

        def slow() -> None:
            source.sleep(10)
            raise OSError

        with pytest.raises(OSError):
            colour.call(retry(on=OSError, max_elapsed=5, backoff=AT_ONCE)(colour.function(slow)))

        assert 10.0 == clock.now()

    def test_max_elapsed_is_a_promise(self, colour, clock):
        """A delay that does not fit is not slept: 0.2 s means 0.2 s, not 0.45 s."""
        call = colour.script(forever=OSError)
        policy = retry(on=OSError, attempts=9, max_elapsed=0.2, backoff=backoff.constant(0.15))

        with pytest.raises(OSError):
            colour.call(policy(call))

        assert [0.15] == clock.sleeps
        assert 2 == call.count

    def test_max_elapsed_is_of_each_call(self, colour, clock):
        """Time before the call does not count."""
        policy = retry(on=OSError, max_elapsed=timedelta(seconds=5), backoff=backoff.constant(1))
        function = policy(colour.script(OSError, "one", OSError, "two"))

        assert "one" == colour.call(function)
        clock.advance(100)
        assert "two" == colour.call(function)

    def test_a_sleep_that_does_not_meet_the_deadline_is_not_slept(self, colour, clock):
        """The last real exception is raised at once."""
        errors = [OSError("first"), OSError("second")]
        call = colour.script(*errors, "never")
        policy = retry(on=OSError, attempts=9, backoff=backoff.exponential(1.0, cap=60, jitter="none"))

        with deadline(2.5), pytest.raises(OSError) as caught:
            colour.call(policy(call))

        assert errors[1] is caught.value
        assert [1.0] == clock.sleeps

    def test_a_sleep_that_meets_the_deadline_is_slept(self, colour, clock):
        """A deadline far away changes nothing."""
        policy = retry(on=OSError, backoff=backoff.constant(1))

        with deadline(10):
            assert "done" == colour.call(policy(colour.script(OSError, "done")))

    def test_a_deadline_passed_during_an_attempt(self, colour, clock):
        """No attempt follows, even without a delay; the real exception is raised."""

        def slow() -> None:
            source.sleep(10)
            raise OSError("real")

        with deadline(5), pytest.raises(OSError, match="real"):
            colour.call(retry(on=Exception, backoff=AT_ONCE)(colour.function(slow)))

        assert 10.0 == clock.now()

    def test_a_deadline_passed_during_a_sleep(self, colour, clock):
        """Who has overslept does not begin another attempt."""
        call = colour.script(OSError("real"), "never")

        with deadline(5), observe(lambda _: clock.advance(5)), pytest.raises(OSError, match="real"):
            colour.call(retry(on=OSError, backoff=backoff.constant(1))(call))

        assert 1 == call.count

    @pytest.mark.parametrize("seconds", [0, -1])
    def test_a_deadline_over_before_the_first_attempt(self, colour, clock, seconds):
        """The function is never called, not even by a retry that would catch anything."""
        call = colour.script(forever="never")

        with deadline(seconds), pytest.raises(DeadlineExceededError):
            colour.call(retry(on=Exception)(call))

        assert 0 == call.count

    def test_the_deadline_of_an_outer_call_ends_with_it(self, colour, clock):
        """A deadline is read at each call."""
        function = retry(on=OSError, backoff=backoff.constant(1))(colour.script(OSError, OSError, "done"))
        with deadline(0.5), pytest.raises(OSError):
            colour.call(function)

        assert "done" == colour.call(function)

    def test_cancellation_ends_a_sleep_at_once(self, clock):
        """And nothing is called after it."""
        call = Colour.ASYNCIO.script(OSError, "never")

        async def main() -> None:
            task = asyncio.create_task(retry(on=Exception, backoff=backoff.constant(60)).acall(call))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        clock.run(main())

        assert 1.0 == clock.now()
        assert 1 == call.count


class TestUnitOfWork:
    def test_a_doomed_unit_is_not_retried_in(self, colour, clock):
        """What failed there cannot be repaired from inside."""
        call = colour.script(OSError("real"), "never")

        with Unit(doomed=True).open(), pytest.raises(OSError, match="real"):
            colour.call(retry(on=OSError)(call))

        assert 1 == call.count
        assert [] == clock.sleeps

    def test_a_unit_that_is_doomed_later(self, colour):
        """Asked after every attempt."""
        with Unit(doomed=False).open() as unit:

            def fail() -> None:
                unit.doomed = True
                raise OSError

            with pytest.raises(OSError):
                colour.call(retry(on=OSError, attempts=5, backoff=AT_ONCE)(colour.function(fail)))

        assert unit.doomed

    def test_a_bad_result_in_a_doomed_unit_is_returned(self, colour):
        """Doom stops attempts for results, too."""
        policy = retry(on=OSError, on_result=lambda result: result == 503, backoff=AT_ONCE)

        with Unit(doomed=True).open():
            assert 503 == colour.call(policy(call := colour.script(503, "never")))

        assert 1 == call.count

    def test_a_healthy_unit_is_retried_in(self, colour):
        """A failure that left the unit intact may pass."""
        with Unit(doomed=False).open():
            assert "done" == colour.call(retry(on=OSError, backoff=AT_ONCE)(colour.script(OSError, "done")))


class TestOpenCircuit:
    def test_is_not_retried(self, colour, clock):
        """Whatever `on` says: it stays open longer than a delay."""
        breaker = circuit_breaker("supplier", failure_threshold=1)
        breaker.force_open()
        call = colour.script(forever="never")

        with pytest.raises(CircuitOpenError):
            colour.call(retry(on=Exception)(breaker(call)))

        assert [] == clock.sleeps
        assert 0 == call.count

    def test_the_last_real_exception_is_raised(self, colour):
        """That the circuit opened on the way is not what went wrong."""
        real = OSError("real")
        breaker = circuit_breaker("supplier", failure_threshold=2)

        with pytest.raises(OSError) as caught:
            colour.call(
                retry(on=Exception, attempts=5, backoff=AT_ONCE)(
                    breaker(colour.script(OSError("first"), real))
                )
            )

        assert real is caught.value
        assert real.__cause__ is None

    def test_in_block_form(self):
        """The same for `for attempt in …`."""
        breaker = circuit_breaker("supplier", failure_threshold=2)
        call = scripted(forever=OSError("real"))

        with pytest.raises(OSError, match="real"):
            repeat(retry(on=Exception, attempts=5, backoff=AT_ONCE), lambda: breaker.call(call))

        assert 2 == call.count


class TestSharing:
    def test_threads_do_not_meet(self):
        """A policy keeps nothing of a call that another call could clear."""
        policy = retry(on=OSError, attempts=3, backoff=AT_ONCE)

        def once(number: int) -> int:
            return policy.call(scripted(OSError, OSError, number))

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                assert list(range(400)) == list(pool.map(once, range(400)))
        finally:
            sys.setswitchinterval(interval)

    def test_tasks_do_not_meet(self, clock):
        """All calls of one policy finish, each with delays of its own."""
        policy = retry(on=OSError, attempts=4, backoff=backoff.exponential(1.0, cap=60.0, jitter="none"))
        calls = [Colour.ASYNCIO.script(OSError, OSError, OSError, number) for number in range(5)]

        async def start(number: int) -> object:
            await asyncio.sleep(number / 4)
            return await policy.acall(calls[number])

        async def main() -> list[object]:
            return await asyncio.gather(*map(start, range(5)))

        assert [0, 1, 2, 3, 4] == clock.run(main())
        for call in calls:
            assert [1.0, 2.0, 4.0] == [later - earlier for earlier, later in itertools.pairwise(call.times)]

    def test_nested_calls_do_not_meet(self, colour, clock):
        """A function under a policy may call another one under the same."""
        policy = retry(on=OSError, attempts=3, backoff=backoff.exponential(1.0, cap=60.0, jitter="none"))
        inner = scripted(OSError, OSError, "one", OSError, OSError, "two")
        outcomes = iter([OSError, None])

        def outer() -> str:
            result = policy.call(inner)
            if outcome := next(outcomes):
                raise outcome
            return result

        assert "two" == colour.call(policy(colour.function(outer)))
        assert [1, 2, 1, 1, 2] == clock.sleeps

    def test_loops_do_not_meet(self):
        """One policy may serve one loop after the other, and blocking code."""
        policy = retry(on=OSError, backoff=AT_ONCE)

        for colour in (Colour.ASYNCIO, Colour.BLOCKING, Colour.ASYNCIO):
            assert "done" == colour.call(policy(colour.script(OSError, "done")))

    def test_nothing_of_a_call_is_kept(self, colour):
        """Neither arguments nor exceptions, and no circle of references that only the collector could free."""
        seen = []

        class Thing:
            pass

        class Failure(Exception):
            def __init__(self) -> None:
                seen.append(weakref.ref(self))

        def use(thing: Thing) -> None:
            seen.append(weakref.ref(thing))
            raise Failure

        function = retry(on=Failure, backoff=AT_ONCE)(colour.function(use))

        async def in_a_loop() -> None:  # the end of a loop ties a circle of its own
            with contextlib.suppress(Failure):
                await function(Thing())

        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(Failure):
                colour.call(in_a_loop) if colour is Colour.ASYNCIO else function(Thing())
            assert [None] * 6 == [reference() for reference in seen]
        finally:
            gc.enable()

    def test_retries_are_counted(self, colour):
        """Attempts beyond the first, over all calls."""
        policy = retry(on=OSError, attempts=3, backoff=AT_ONCE)
        assert 0 == policy.retries

        colour.call(policy(colour.script(OSError, "done")))
        with pytest.raises(OSError):
            colour.call(policy(colour.script(forever=OSError)))
        colour.call(policy(colour.script("done")))

        assert 3 == policy.retries

    def test_no_retry_is_lost_to_a_race(self):
        """Threads count together."""
        policy = retry(on=OSError, attempts=2, backoff=AT_ONCE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: policy.call(scripted(OSError, "done")), range(400)))

        assert 400 == policy.retries


class TestBudget:
    @given(st.lists(durations(longest=2.0), min_size=1, max_size=60))
    def test_an_outage_raises_the_load_by_the_ratio_only(self, gaps):
        """However many calls fail: a share of the first attempts, and the reserve."""
        clock = FakeClock._active
        began = clock.now()
        policy = retry(on=OSError, attempts=4, backoff=AT_ONCE, budget=RetryBudget(ratio=0.2, reserve=0.5))

        for gap in gaps:
            clock.advance(gap)
            with pytest.raises(OSError):
                policy.call(scripted(forever=OSError))

        # The reserve of one window may have gathered before.
        assert policy.retries <= 0.2 * len(gaps) + 0.5 * (clock.now() - began + 10.0) + 1

    def test_a_refused_retry_raises_the_real_exception_at_once(self, colour, clock):
        """Before the sleep, not after it."""
        budget = RetryBudget(ratio=0.001, reserve=0)
        call = colour.script(OSError("real"), "never")

        with pytest.raises(OSError, match="real"):
            colour.call(retry(on=OSError, backoff=backoff.constant(5), budget=budget)(call))

        assert [] == clock.sleeps

    def test_a_cancelled_sleep_gives_its_share_back(self, clock):
        """What was paid for and not made can be made by another call."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        policy = retry(on=OSError, attempts=3, backoff=backoff.constant(1), budget=budget)

        async def main() -> str:
            task = asyncio.create_task(policy.acall(Colour.ASYNCIO.script(OSError)))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Two retries: one of its own, one that the first call could not use.
            return await policy.acall(Colour.ASYNCIO.script(OSError, OSError, "done"))

        assert "done" == clock.run(main())


class TestTracebacks:
    @pytest.mark.parametrize("attempts", [1, 2, 50])
    def test_are_short(self, colour, attempts):
        """The user's own frames and three of ours at most, however many attempts there were."""

        def culprit() -> None:
            raise OSError

        function = retry(on=OSError, attempts=attempts, backoff=AT_ONCE)(colour.function(culprit))
        with pytest.raises(OSError) as caught:
            colour.call(function)

        names = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
        ours = [
            name for name in names if "paintkit" in name and "testing" not in name and "tests" not in name
        ]
        assert 1 <= len(ours) <= 3

    def test_of_one_object_raised_again_and_again_get_no_notes(self, colour):
        """Fifty calls that raise one and the same exception leave one note on it at most."""
        error = OSError("always the same")
        function = retry(on=OSError, attempts=2, backoff=AT_ONCE)(colour.script(forever=error))

        for _ in range(50):
            error.__traceback__ = None
            with pytest.raises(OSError):
                colour.call(function)

        assert len(getattr(error, "__notes__", [])) <= 1


class TestBlocks:
    def test_a_block_is_tried_again(self, clock):
        """As long as it fails and attempts are left."""
        call, numbers = scripted(OSError, OSError, "done"), []

        for attempt in retry(on=OSError, attempts=5, backoff=backoff.constant(1)).attempts():
            with attempt:
                numbers.append(attempt.number)
                result = call()

        assert "done" == result
        assert [1, 2, 3] == numbers
        assert [1, 1] == clock.sleeps

    def test_a_block_of_coroutines_is_tried_again(self, clock):
        """With `async for`, which sleeps in the loop."""
        call = Colour.ASYNCIO.script(OSError, OSError, "done")

        async def main() -> str:
            async for attempt in retry(on=OSError, attempts=5, backoff=backoff.constant(1)).attempts():
                with attempt:
                    result = await call()
            return result

        assert "done" == clock.run(main())
        assert [0.0, 1.0, 2.0] == call.times

    def test_exhausted(self, clock):
        """The last exception as it is, and no sleep after it."""
        errors = [OSError("first"), OSError("last")]
        call = scripted(*errors)

        with pytest.raises(OSError) as caught:
            repeat(retry(on=OSError, attempts=2, backoff=backoff.constant(1)), call)

        assert errors[1] is caught.value
        assert [1] == clock.sleeps

    def test_exhausted_coroutines(self, clock):
        """The same in a loop."""
        last = OSError("last")
        call = Colour.ASYNCIO.script(OSError("first"), last)

        async def main() -> None:
            async for attempt in retry(on=OSError, attempts=2, backoff=backoff.constant(1)).attempts():
                with attempt:
                    await call()

        with pytest.raises(OSError) as caught:
            clock.run(main())

        assert last is caught.value
        assert [1] == clock.sleeps

    @pytest.mark.parametrize("escape", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_other_exceptions_pass(self, escape):
        """As from a function."""
        call = scripted(escape, "never")

        with pytest.raises(escape):
            repeat(retry(on=OSError, backoff=AT_ONCE), call)

        assert 1 == call.count

    def test_leaving_early(self):
        """`break` and `return` inside the block just leave."""
        for attempt in retry(on=OSError, backoff=AT_ONCE).attempts():
            with attempt:
                break

        assert 1 == attempt.number

    def test_obeys_the_deadline(self, clock):
        """The first attempt included."""
        policy = retry(on=OSError, attempts=9, backoff=backoff.constant(1))

        with deadline(1.5), pytest.raises(OSError):
            repeat(policy, scripted(forever=OSError))
        assert [1] == clock.sleeps
        with deadline(0), pytest.raises(DeadlineExceededError):
            repeat(policy, call := scripted(forever="never"))
        assert 0 == call.count

    def test_obeys_the_unit_of_work(self):
        """A doomed one is not retried in."""
        with Unit(doomed=True).open(), pytest.raises(OSError):
            repeat(retry(on=OSError, backoff=AT_ONCE), call := scripted(OSError, "never"))
        assert 1 == call.count

    def test_blocks_have_no_result(self):
        """A policy that judges results is refused, for it could not."""
        with pytest.raises(ValueError, match="result"):
            retry(on=OSError, on_result=bool).attempts()


class TestObservations:
    def test_a_success_is_silent(self, colour):
        """The happy path says nothing."""
        seen = []
        with observe(seen.append):
            colour.call(retry(on=OSError)(colour.script("done")))

        assert [] == seen

    def test_every_wait_is_told(self, colour):
        """With its source and its delay."""
        seen = []
        policy = retry(on=OSError, attempts=3, backoff=backoff.linear(1.0), name="supplier")
        with observe(seen.append):
            colour.call(policy(colour.script(OSError, OSError, "done")))

        waits = [observation for observation in seen if observation.kind == "retry.waiting"]
        assert ["supplier", "supplier"] == [wait.source for wait in waits]
        assert [1.0, 2.0] == [wait.details["delay"] for wait in waits]

    def test_giving_up_is_told(self, colour):
        """Once, at the end."""
        seen = []
        with observe(seen.append), pytest.raises(OSError):
            colour.call(retry(on=OSError, attempts=2, backoff=AT_ONCE)(colour.script(forever=OSError)))

        assert 2 == len(seen)
        assert all(observation.kind.startswith("retry.") for observation in seen)
        assert "retry.waiting" != seen[-1].kind

    def test_the_source_is_the_function_by_default(self, colour):
        """Its module and qualified name."""

        def mine() -> None:
            raise OSError

        seen = []
        with observe(seen.append), pytest.raises(OSError):
            colour.call(retry(on=OSError, backoff=AT_ONCE)(colour.function(mine)))

        assert {f"{__name__}.{mine.__qualname__}"} == {observation.source for observation in seen}

    def test_an_observer_that_raises_breaks_nothing(self, colour, caplog):
        """It is logged instead."""
        with observe(scripted(forever=ZeroDivisionError)):
            assert "done" == colour.call(retry(on=OSError, backoff=AT_ONCE)(colour.script(OSError, "done")))

        assert "ZeroDivisionError" in caplog.text


class TestProtection:
    def test_keeps_what_a_function_is(self, colour):
        """Name, documentation, signature, defaults by identity, and colour."""
        default = []

        def body(one, /, two=default, *three, four, five=5, **six) -> str:
            """Documented."""
            return f"{one}{two}{three}{four}{five}{six}"

        function = colour.function(body)
        protected = retry(on=OSError)(function)

        assert inspect.signature(body) == inspect.signature(protected)
        assert (body.__name__, body.__qualname__, body.__doc__) == (
            protected.__name__,
            protected.__qualname__,
            protected.__doc__,
        )
        assert function is protected.__wrapped__
        assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(protected)
        assert body(1, 2, 3, four=4, seven=7) == colour.call(protected, 1, 2, 3, four=4, seven=7)

    def test_methods(self, colour):
        """Of instances, of classes and static ones."""

        class Shop:
            script = colour.script(OSError, "method", OSError, "class", OSError, "static")

            @retry(on=OSError, backoff=AT_ONCE)
            @colour.function
            def method(self) -> object:
                return self.script()

            @classmethod
            @retry(on=OSError, backoff=AT_ONCE)
            @colour.function
            def of_class(cls) -> object:
                return cls.script()

            @staticmethod
            @retry(on=OSError, backoff=AT_ONCE)
            @colour.function
            def static() -> object:
                return Shop.script()

        Shop.script = scripted(OSError, "method", OSError, "class", OSError, "static")

        assert "method" == colour.call(Shop().method)
        assert "class" == colour.call(Shop.of_class)
        assert "static" == colour.call(Shop.static)

    def test_bound_methods_and_partials(self, colour):
        """Whatever can be called, in its own colour."""

        class Shop:
            def __init__(self) -> None:
                self.script = scripted(OSError, "done")

            @colour.function
            def method(self, suffix: str = "") -> str:
                return self.script() + suffix

        policy = retry(on=OSError, backoff=AT_ONCE)

        assert "done" == colour.call(policy(Shop().method))
        assert "done!" == colour.call(policy(functools.partial(Shop().method, suffix="!")))
        assert "done" == colour.call(policy(functools.partial(Shop.method, Shop())))

    def test_objects_with_a_call_method(self, colour):
        """`async __call__` is as much a coroutine function as any: it does not go unprotected."""
        protected = retry(on=OSError, backoff=AT_ONCE)(colour.script(OSError, "done"))

        assert (colour is Colour.ASYNCIO) == inspect.iscoroutinefunction(protected)
        assert "done" == colour.call(protected)

    def test_static_method_objects(self, colour):
        """The policy may stand above `@staticmethod`, too."""
        policy = retry(on=OSError, backoff=AT_ONCE)

        class Shop:
            static = policy(
                policy(staticmethod(colour.function(scripted(OSError, "class", OSError, "object"))))
            )

        assert "class" == colour.call(Shop.static)
        assert "object" == colour.call(Shop().static)

    def test_call_and_acall(self, colour):
        """One call under the policy, without decorating."""
        policy = retry(on=OSError, backoff=AT_ONCE)

        assert "done" == colour.protect(policy, call := colour.script(OSError, "done"), 1, fn=2)
        assert [((1,), {"fn": 2})] * 2 == call.calls

    @pytest.mark.parametrize("thing", [None, 3, "name", b"", []], ids=repr)
    def test_what_cannot_be_called_is_refused(self, thing):
        """At decoration."""
        with pytest.raises(TypeError, match="callable"):
            retry(on=OSError)(thing)

    def test_class_methods_tell_the_order(self):
        """The policy belongs under `@classmethod`."""
        with pytest.raises(TypeError, match="under @classmethod"):
            retry(on=OSError)(classmethod(print))


class TestGenerators:
    """Only the way to the first item is tried again: whoever has an item must not get it twice."""

    @staticmethod
    def items(colour: Colour, function: Callable[[], Any]) -> list[object]:
        """Return all items, and the error at the end if there is one."""
        found: list[object] = []

        async def collect() -> None:
            try:
                async for item in function():
                    found.append(item)
            except Exception as error:
                found.append(error)

        if colour is Colour.ASYNCIO:
            colour.call(collect)
            return found
        try:
            found.extend(function())
        except Exception as error:
            found.append(error)
        return found

    @staticmethod
    def generator(colour: Colour, script: Callable[[], object], length: int) -> Callable[[], Any]:
        """Return a generator function of this colour whose steps are scripted."""

        def generate() -> Iterator[object]:
            for _ in range(length):
                yield script()

        async def agenerate() -> AsyncIterator[object]:
            for _ in range(length):
                yield script()

        return generate if colour is Colour.BLOCKING else agenerate

    def test_failures_before_the_first_item_are_retried(self, colour, clock):
        """After the delays of the schedule; every item comes once."""
        script = scripted(OSError, OSError, 1, 2)
        function = retry(on=OSError, backoff=backoff.constant(1))(self.generator(colour, script, 2))

        assert [1, 2] == self.items(colour, function)
        assert [0.0, 1.0, 2.0, 2.0] == script.times

    def test_failures_after_the_first_item_pass(self, colour):
        """As they are."""
        error = OSError("in the middle")
        script = scripted(OSError, 1, error, "never")
        function = retry(on=OSError, backoff=AT_ONCE)(self.generator(colour, script, 5))

        assert [1, error] == self.items(colour, function)

    def test_exhausted(self, colour):
        """The last exception, as from a function."""
        last = OSError("last")
        script = scripted(OSError, last)
        function = retry(on=OSError, attempts=2, backoff=AT_ONCE)(self.generator(colour, script, 2))

        assert [last] == self.items(colour, function)

    def test_no_items_at_all(self, colour):
        """An empty generator is a success."""
        function = retry(on=OSError, backoff=AT_ONCE)(self.generator(colour, scripted(), 0))

        assert [] == self.items(colour, function)

    def test_stay_generators(self, colour):
        """Nothing runs before the first item is asked for."""
        script = scripted(1)
        protected = retry(on=OSError)(self.generator(colour, script, 1))

        protected()

        assert 0 == script.count
        if colour is Colour.BLOCKING:
            assert inspect.isgeneratorfunction(protected)
        else:
            assert inspect.isasyncgenfunction(protected)

    def test_are_closed_with_their_reader(self, colour):
        """Who stops reading closes the generator itself."""
        closed = []

        def generate() -> Iterator[int]:
            try:
                yield 1
            finally:
                closed.append(True)

        async def agenerate() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                closed.append(True)

        async def stop_early() -> None:
            async with contextlib.aclosing(retry(on=OSError)(agenerate)()) as reader:
                assert 1 == await anext(reader)

        if colour is Colour.ASYNCIO:
            colour.call(stop_early)
        else:
            with contextlib.closing(retry(on=OSError)(generate)()) as reader:
                assert 1 == next(reader)

        assert [True] == closed

    def test_send_and_throw_and_return(self):
        """What a caller says to the generator, and what it returns, passes through."""

        def generate() -> Generator[object, object, str]:
            try:
                yield (yield "first")
            except KeyError as error:
                yield error
            return "result"

        error = KeyError()
        reader = retry(on=OSError)(generate)()

        assert "first" == next(reader)
        assert "sent" == reader.send("sent")
        assert error is reader.throw(error)
        with pytest.raises(StopIteration) as caught:
            next(reader)
        assert "result" == caught.value.value


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "named"),
        [
            ({}, TypeError, "on"),
            ({"on": None}, TypeError, "on"),
            ({"on": "OSError"}, TypeError, "on"),
            ({"on": OSError()}, TypeError, "on"),
            ({"on": ()}, ValueError, "on"),
            ({"on": (OSError, "KeyError")}, TypeError, "KeyError"),
            ({"on": int}, TypeError, "int"),
            ({"on": BaseException}, ValueError, "BaseException"),
            ({"on": (OSError, KeyboardInterrupt)}, ValueError, "KeyboardInterrupt"),
            ({"attempts": 0}, ValueError, "attempts.*0"),
            ({"attempts": -1}, ValueError, "attempts.*-1"),
            ({"attempts": True}, TypeError, "attempts.*True"),
            ({"attempts": 3.0}, TypeError, "attempts.*3.0"),
            ({"attempts": float("nan")}, TypeError, "attempts.*nan"),
            ({"attempts": "3"}, TypeError, "attempts.*'3'"),
            ({"attempts": None}, TypeError, "attempts.*None"),
            ({"backoff": 1.0}, TypeError, "backoff.*1.0"),
            ({"backoff": None}, TypeError, "backoff.*None"),
            ({"backoff": backoff}, TypeError, "backoff"),
            ({"backoff": [1, 2]}, TypeError, "backoff"),
            ({"on_result": 503}, TypeError, "on_result.*503"),
            ({"max_elapsed": 0}, ValueError, "max_elapsed.*0"),
            ({"max_elapsed": -1}, ValueError, "max_elapsed.*-1"),
            ({"max_elapsed": float("nan")}, ValueError, "max_elapsed.*nan"),
            ({"max_elapsed": float("inf")}, ValueError, "max_elapsed.*inf"),
            ({"max_elapsed": timedelta(0)}, ValueError, "max_elapsed.*0"),
            ({"max_elapsed": True}, TypeError, "max_elapsed.*True"),
            ({"max_elapsed": "5"}, TypeError, "max_elapsed.*'5'"),
            ({"name": ""}, ValueError, "name"),
            ({"name": 3}, TypeError, "name.*3"),
            ({"tries": 3}, TypeError, "tries"),
        ],
        ids=shown,
    )
    def test_are_checked(self, options, error, named):
        """When the policy is made; the error names the argument and the value."""
        with pytest.raises(error, match=named):
            retry(**({"on": OSError} if options else {}) | options)

    @pytest.mark.parametrize("named", ["on", "on_result"])
    def test_predicates_are_plain_functions(self, named):
        """Nobody would await a coroutine, which is true of everything."""

        async def predicate(_: object) -> bool:
            return False

        with pytest.raises(TypeError, match=f"{named} .*async def"):
            retry(**{"on": OSError} | {named: predicate})

    def test_are_keyword_only(self):
        """`retry(OSError)` reads as nothing, and a forgotten call is not mistaken for one."""
        with pytest.raises(TypeError):
            retry(OSError)
        with pytest.raises(TypeError):
            retry(lambda: None)


def test_a_barrier_of_threads_in_one_function_passes():
    """No lock is held over the protected function."""
    barrier = threading.Barrier(4)
    function: Callable[[], int] = retry(on=OSError)(lambda: barrier.wait(60))

    with ThreadPoolExecutor(4) as pool:
        assert {0, 1, 2, 3} == {future.result() for future in [pool.submit(function) for _ in range(4)]}
