"""Deadline: one moment for everything inside, seen by all and changed by none."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from paintkit import (
    BulkheadFullError,
    CircuitState,
    DeadlineExceededError,
    RateLimitedError,
    ambient,
    backoff,
    bulkhead,
    circuit_breaker,
    deadline,
    hedge,
    observe,
    rate_limit,
    remaining,
    retry,
)
from paintkit import clock as source
from paintkit.testing import FakeClock, ascripted, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


class TestRemaining:
    def test_there_is_none_by_default(self):
        """Nor after a block."""
        assert remaining() is None
        with deadline(1.0):
            pass
        assert remaining() is None

    @pytest.mark.parametrize("seconds", [5, 2.5, timedelta(minutes=1)])
    def test_counts_down(self, clock, seconds):
        """To below zero."""
        span = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        with deadline(seconds):
            assert span == remaining()
            clock.advance(span)
            assert 0.0 == remaining()
            clock.advance(1)
            assert -1.0 == remaining()

    @pytest.mark.parametrize(("outer", "inner"), [(5, 1), (1, 5), (2, 2)])
    def test_of_nested_ones_the_earliest_counts(self, outer, inner):
        """And the outer one is back afterwards."""
        with deadline(outer):
            with deadline(inner):
                assert min(outer, inner) == remaining()
            assert outer == remaining()

    def test_is_right_in_decorated_functions(self, colour):
        """In both colours, with arguments and results."""

        def function(one: int, *, two: int) -> tuple[Any, ...]:
            return one, two, remaining()

        async def coroutine_function(one: int, *, two: int) -> tuple[Any, ...]:
            return one, two, remaining()

        protected = deadline(3.0)(function if colour is Colour.BLOCKING else coroutine_function)
        assert (1, 2, 3.0) == colour.call(protected, 1, two=2)
        assert remaining() is None

    @pytest.mark.parametrize("escape", [OSError, KeyboardInterrupt, asyncio.CancelledError])
    def test_ends_with_a_failure(self, colour, escape):
        """Whatever ended the call."""
        with pytest.raises(escape):
            colour.protect(deadline(1.0), colour.script(escape))
        assert remaining() is None


class TestReuse:
    def test_the_span_begins_anew(self, clock):
        """At every use, and within itself."""
        policy = deadline(5.0)
        with policy:
            clock.advance(3)
            with policy:
                assert 2.0 == remaining()
            assert 2.0 == remaining()
        with policy:
            assert 5.0 == remaining()

    def test_threads_share_the_object_and_not_the_time(self, clock):
        """What one enters says nothing to the other."""
        policy, seen = deadline(5.0), []

        def work() -> None:
            seen.append(remaining())
            with policy:
                seen.append(remaining())

        with policy:
            clock.advance(2)
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(60)
            assert 3.0 == remaining()
        assert [None, 5.0] == seen

    def test_tasks_share_the_object(self, clock):
        """Each has its own start; a task started inside inherits the deadline."""
        policy = deadline(5.0)

        async def nested() -> float | None:
            async with policy:
                return remaining()

        async def work(delay: float) -> tuple[float | None, ...]:
            await asyncio.sleep(delay)
            async with policy:
                await asyncio.sleep(1)
                return remaining(), await asyncio.create_task(nested())

        async def main() -> None:
            assert [(4.0, 4.0)] * 5 == await asyncio.gather(*(work(n / 4) for n in range(5)))

        clock.run(main())


class TestExpiry:
    def test_a_plain_block_is_never_interrupted(self, clock):
        """It raises where paintkit would wait or start an attempt, and nowhere else."""
        with deadline(1.0):
            source.sleep(5)
            with pytest.raises(DeadlineExceededError):
                retry(on=OSError).call(call := scripted())
        assert 0 == call.count

    def test_a_call_that_is_too_late_does_not_start(self, colour, clock):
        """In both colours."""
        call = colour.script()
        with deadline(1.0):
            clock.advance(1)
            with pytest.raises(DeadlineExceededError):
                colour.protect(deadline(5.0), call)
        assert 0 == call.count

    def test_an_asynchronous_use_is_cancelled(self, clock):
        """Exactly in time; the error is a `TimeoutError`, and no cancellation is left pending."""

        async def block() -> None:
            async with deadline(2.0):
                await hang()

        async def main() -> None:
            for call in (block, deadline(2.0)(hang)):
                with pytest.raises(DeadlineExceededError) as caught:
                    await call()
                assert isinstance(caught.value, TimeoutError)
                assert 0 == asyncio.current_task().cancelling()
                assert remaining() is None

        clock.run(main())
        assert 4.0 == clock.now()

    @pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1), (1, 1)])
    def test_nested(self, clock, outer, inner):
        """One error comes of it, at the earlier moment."""

        async def main() -> None:
            with pytest.raises(DeadlineExceededError):
                async with deadline(outer), deadline(inner):
                    await hang()
            assert 0 == asyncio.current_task().cancelling()

        clock.run(main())
        assert min(outer, inner) == clock.now()

    def test_an_outer_cancellation_is_not_hidden(self, clock):
        """T26: also in the same moment."""

        async def main(delay: float) -> None:
            task = asyncio.create_task(deadline(1.0).acall(hang))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        for delay in (0, 0.5, 1.0):
            clock.run(main(delay))

    def test_the_callees_own_timeout_passes(self, colour):
        """The same object."""
        own = TimeoutError("the driver's")
        with pytest.raises(TimeoutError) as caught:
            colour.protect(deadline(1.0), colour.script(own))
        assert own is caught.value

    def test_cancellation_at_every_await(self, clock):
        """No deadline and no timer is left."""

        def scenario(interrupted: Any) -> bool:
            policy = deadline(5.0)

            async def main() -> bool:
                try:
                    await interrupted(policy.acall(asyncio.sleep, 1))
                except asyncio.CancelledError:
                    asyncio.current_task().uncancel()
                    cancelled = True
                else:
                    cancelled = False
                assert ambient.deadline.get() is None
                assert {} == policy._timers._latest._pending
                await asyncio.sleep(10)
                return cancelled

            return clock.run(main())

        assert 1 == at_every_await(scenario)

    def test_what_the_deadline_ends_is_a_failure_of_the_callee(self, clock):
        """T18."""
        breaker = circuit_breaker("supplier", failure_threshold=1)
        with pytest.raises(DeadlineExceededError):
            clock.run(deadline(1.0)(breaker(hang))())
        assert CircuitState.OPEN is breaker.state


class TestWaitsInside:
    def test_bulkhead(self, colour, clock):
        """The queue ends with the deadline."""
        policy = bulkhead(1, max_wait=60)
        with policy.hold(), deadline(2.0), pytest.raises(DeadlineExceededError):
            colour.protect(policy, colour.script())
        assert 2.0 == clock.now()

    def test_bulkhead_that_would_have_refused_first(self, colour, clock):
        """Its own patience is over before."""
        policy = bulkhead(1, max_wait=1)
        with policy.hold(), deadline(2.0), pytest.raises(BulkheadFullError):
            colour.protect(policy, colour.script())

    def test_rate_limit(self, colour, clock):
        """A wait that does not fit is not begun."""
        policy = rate_limit(1, burst=1, max_wait=60)
        colour.protect(policy, colour.script("done"))
        with deadline(0.5), pytest.raises(RateLimitedError):
            colour.protect(policy, colour.script())
        assert [] == clock.sleeps

    def test_retry(self, colour, clock):
        """Nor is such a delay, and the last real exception is raised."""
        policy = retry(on=OSError, attempts=9, backoff=backoff.constant(1))
        with deadline(2.5), pytest.raises(OSError):
            colour.protect(policy, call := colour.script(forever=OSError))
        assert 3 == call.count
        assert 2.0 == clock.now()

    def test_hedge(self, clock):
        """No try is launched at or after the deadline, the first included."""
        call = ascripted("done")
        with deadline(1.0):
            clock.advance(1.0)
            with pytest.raises(DeadlineExceededError):
                clock.run(hedge(0.5, idempotent=True).acall(call))
        assert 0 == call.count

    def test_through_all_of_them(self, clock):
        """One deadline clips the sum."""
        policy = bulkhead(1, max_wait=3)
        inside = retry(on=BulkheadFullError, attempts=9, backoff=backoff.constant(1))(policy(ascripted()))

        async def main() -> None:
            with policy.hold(), pytest.raises((DeadlineExceededError, BulkheadFullError)):
                await deadline(10.0)(inside)()

        clock.run(main())
        assert clock.now() <= 10.0


class TestRefusals:
    def test_generators(self):
        """A deadline would leak to their reader."""
        with pytest.raises(TypeError, match="generator"):

            @deadline(1.0)
            def generate() -> Iterator[int]:
                yield 1

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), timedelta(0), 1e12])
    def test_values(self, seconds):
        """At construction, by name."""
        with pytest.raises(ValueError, match="seconds"):
            deadline(seconds)

    @pytest.mark.parametrize("seconds", [None, True, "5", [], 1j])
    def test_kinds(self, seconds):
        """At construction, by name."""
        with pytest.raises(TypeError, match="seconds"):
            deadline(seconds)


class TestObservations:
    def test_a_success_is_silent(self, colour):
        """The happy path says nothing."""
        seen = []
        with observe(seen.append):
            colour.protect(deadline(1.0), colour.script("done"))
        assert [] == seen

    def test_an_end_before_its_time_is_told(self, clock):
        """Once, whether it was cancelled or not begun."""
        seen = []
        with observe(seen.append), pytest.raises(DeadlineExceededError):
            clock.run(deadline(1.5).acall(hang))
        assert [("deadline.exceeded", "deadline", {"seconds": 1.5})] == seen
        with deadline(1.0), observe(seen.append):
            clock.advance(1.0)
            with pytest.raises(DeadlineExceededError):
                deadline(2.0).call(scripted())
        assert [("deadline.exceeded", "deadline", {"seconds": 2.0})] == seen[1:]
