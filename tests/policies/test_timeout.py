"""Timeout: ends a call in time, blames nobody else, hides nobody's cancellation, and leaves nothing behind."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from paintkit import (
    CallTimeoutError,
    CircuitState,
    DeadlineExceededError,
    RejectedError,
    ambient,
    circuit_breaker,
    deadline,
    observe,
    remaining,
    timeout,
)
from paintkit import clock as source
from paintkit.testing import FakeClock, ascripted, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


class Stuck:
    """A call that hangs, on the clock, until it is let go."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._free = False
        self.ended = threading.Semaphore(0)

    def __call__(self) -> str:
        with self._change:
            while not self._free:
                source.wait(self._change, None)
        self.ended.release()
        return "late"

    def let_go(self) -> None:
        with self._change:
            self._free = True
            self._change.notify_all()


def until(condition: Any) -> None:
    """Let other threads run until something has happened."""
    patience = threading.Event()
    for _ in range(60_000):
        if condition():
            return
        patience.wait(0.001)
    raise AssertionError("it did not happen")


class TestAsyncio:
    def test_passes_calls(self, clock):
        """With their arguments and results."""
        assert "done" == clock.run(timeout(1)(call := ascripted("done"))(1, two=2))
        assert [((1,), {"two": 2})] == call.calls

    @pytest.mark.parametrize("seconds", [2, 0.25, timedelta(milliseconds=1500)])
    def test_ends_a_call_in_time(self, clock, seconds):
        """Exactly, with an error that is a `TimeoutError` and names the policy; the cancellation is its cause."""

        async def main() -> None:
            with pytest.raises(CallTimeoutError, match="supplier") as caught:
                await timeout(seconds, name="supplier").acall(hang)
            assert isinstance(caught.value, TimeoutError)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            assert 0 == asyncio.current_task().cancelling()
            await asyncio.sleep(1)

        clock.run(main())
        expected = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        assert expected + 1 == clock.now()

    def test_the_callees_own_timeout_passes(self, clock):
        """T26: the same object, also in the moment in which our own time is up."""
        own = TimeoutError("the driver's")

        async def late() -> None:
            await asyncio.sleep(1)
            raise own

        for seconds in (5, 1):
            with pytest.raises(TimeoutError) as caught:
                clock.run(timeout(seconds).acall(late))
            assert own is caught.value or (seconds == 1 and isinstance(caught.value, CallTimeoutError))
        with pytest.raises(TimeoutError) as caught:
            clock.run(timeout(5).acall(ascripted(own)))
        assert own is caught.value

    def test_an_outer_cancellation_is_not_hidden(self, clock):
        """T26: also if our own time is up in the same moment, in either order."""

        async def main(delay: float) -> None:
            task = asyncio.create_task(timeout(1.0).acall(hang))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

        for delay in (0, 0.5, 1.0):
            clock.run(main(delay))

    def test_the_bookkeeping_of_cancellations(self, clock):
        """A cancellation that we asked for is taken back; one that was pending before stays."""

        async def main() -> None:
            async with asyncio.timeout(10):
                async with asyncio.TaskGroup() as group:
                    with pytest.raises(CallTimeoutError):
                        await timeout(1.0).acall(hang)
                    assert 0 == asyncio.current_task().cancelling()
                    group.create_task(asyncio.sleep(1))
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(1):
                    await timeout(5.0).acall(hang)
            assert not isinstance(caught.value, CallTimeoutError)
            assert 0 == asyncio.current_task().cancelling()

        clock.run(main())

    def test_a_call_that_swallows_the_cancellation(self, clock):
        """It came to a result after all: that is returned, late as it is, and nothing is left pending."""

        async def stubborn() -> str:
            try:
                await hang()
            except asyncio.CancelledError:
                await asyncio.sleep(2)
            return "late"

        async def main() -> None:
            assert "late" == await timeout(1.0).acall(stubborn)
            assert 0 == asyncio.current_task().cancelling()
            await asyncio.sleep(0)

        clock.run(main())

    @pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1), (1, 1)])
    def test_nested(self, clock, outer, inner):
        """The earlier one ends the call, and exactly one error comes of it."""
        policies = timeout(outer, name="outer"), timeout(inner, name="inner")

        async def main() -> None:
            with pytest.raises(CallTimeoutError) as caught:
                await policies[0](policies[1](hang))()
            if inner < outer:
                assert "inner" in str(caught.value)
            assert 0 == asyncio.current_task().cancelling()

        clock.run(main())
        assert min(outer, inner) == clock.now()

    def test_an_instant_call_never_times_out(self, clock):
        """Nor does one that is done when its time is up."""
        for seconds in (1e-9, 5e-324):
            assert "done" == clock.run(timeout(seconds).acall(ascripted("done")))

    def test_many_calls_at_once_end_each_in_its_own_time(self, clock):
        """They share a timer, not a fate."""
        policy, ended = timeout(1.0), []

        async def call(number: int) -> None:
            await asyncio.sleep(number / 16)
            try:
                await policy.acall(hang if number % 3 else ascripted("done"))
            except CallTimeoutError:
                ended.append((number, clock.now()))

        async def main() -> None:
            await asyncio.gather(*map(call, range(20)))

        clock.run(main())
        assert [(number, number / 16 + 1) for number in range(20) if number % 3] == ended

    def test_loops_do_not_meet(self, clock):
        """One policy in one loop after the other."""
        policy = timeout(1.0)
        for number in range(3):
            with pytest.raises(CallTimeoutError):
                clock.run(policy.acall(hang))
            assert number + 1.0 == clock.now()

    def test_cancellation_at_every_await(self, clock):
        """No deadline, no timer and no pending cancellation is left."""

        def scenario(interrupted: Any) -> bool:
            policy = timeout(5.0)

            async def body() -> None:
                await asyncio.sleep(1)
                await asyncio.sleep(1)

            async def main() -> bool:
                task = asyncio.current_task()
                try:
                    await interrupted(policy.acall(body))
                except asyncio.CancelledError:
                    task.uncancel()
                    cancelled = True
                else:
                    cancelled = False
                assert ambient.deadline.get() is None
                assert 0 == task.cancelling()
                assert {} == policy._timers._latest._pending
                await asyncio.sleep(10)
                return cancelled

            return clock.run(main())

        assert 2 == at_every_await(scenario)

    def test_outside_a_task_nothing_is_left(self):
        """A coroutine that is driven by hand cannot be cancelled: that is an error, and the deadline ends with it."""
        coroutine = timeout(1.0).acall(ascripted("done"))

        with pytest.raises(RuntimeError):
            coroutine.send(None)

        assert ambient.deadline.get() is None

    def test_what_our_time_ends_is_a_failure_of_the_callee(self, clock):
        """T18: a breaker inside sees it, though all that reaches it is a cancellation."""
        breaker = circuit_breaker("supplier", failure_threshold=1)

        with pytest.raises(CallTimeoutError):
            clock.run(timeout(1.0)(breaker(hang))())

        assert CircuitState.OPEN is breaker.state


class TestInThread:
    def test_passes_calls(self):
        """With their arguments and results; a failure is the same object."""
        policy, error = timeout(1.0, thread=True), OSError()

        assert "done" == policy(call := scripted("done"))(1, two=2)
        assert [((1,), {"two": 2})] == call.calls
        with pytest.raises(OSError) as caught:
            policy.call(scripted(error))
        assert error is caught.value
        with pytest.raises(SystemExit):
            policy.call(scripted(SystemExit))

    def test_context_variables_are_kept(self):
        """T27: the call sees the caller's, and changes its own copy only."""
        variable.set("caller's")

        def call() -> str:
            seen = variable.get()
            variable.set("changed")
            return seen

        assert "caller's" == timeout(1.0, thread=True).call(call)
        assert "caller's" == variable.get()

    def test_a_stuck_call_is_abandoned(self, clock):
        """The caller goes on in time; what the thread does is counted until it ends."""
        policy, stuck = timeout(2.5, thread=True), Stuck()

        with pytest.raises(CallTimeoutError):
            policy.call(stuck)

        assert 2.5 == clock.now()
        assert 1 == policy.abandoned
        stuck.let_go()
        until(lambda: policy.abandoned == 0)

    def test_the_callees_own_timeout_passes(self):
        """T26."""
        own = TimeoutError("the driver's")
        with pytest.raises(TimeoutError) as caught:
            timeout(1.0, thread=True).call(scripted(own))
        assert own is caught.value

    def test_abandoned_threads_are_bounded_and_given_back(self, clock):
        """T27: beyond `max_abandoned` calls are refused at once, and admitted again when a thread has ended."""
        policy, stuck = timeout(1.0, thread=True, max_abandoned=2, name="dns"), Stuck()
        for _ in range(2):
            with pytest.raises(CallTimeoutError):
                policy.call(stuck)

        with pytest.raises(RejectedError) as caught:
            policy.call(call := scripted())
        assert "dns" == caught.value.policy
        assert 0 == call.count
        stuck.let_go()
        until(lambda: policy.abandoned == 0)

        assert "done" == policy.call(scripted("done"))

    def test_abandoned_threads_starve_nobody(self, clock):
        """T27: below the bound an instant call gets its result, however many are stuck."""
        policy, stuck = timeout(1.0, thread=True, max_abandoned=8), Stuck()
        for _ in range(7):
            with pytest.raises(CallTimeoutError):
                policy.call(stuck)
            assert "done" == policy.call(scripted("done"))
        stuck.let_go()
        until(lambda: policy.abandoned == 0)

    def test_an_interrupted_wait_counts_its_thread(self, monkeypatch):
        """The thread runs on, whoever stopped waiting for it."""
        policy, stuck = timeout(1.0, thread=True), Stuck()

        def interrupt(condition: Any, _timeout: float | None) -> bool:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return condition.wait()

        monkeypatch.setattr(source, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            policy.call(stuck)

        assert 1 == policy.abandoned
        stuck.let_go()
        until(lambda: policy.abandoned == 0)

    def test_the_deadline_inside_is_the_end_of_the_call(self):
        """The caller's own is untouched."""
        policy = timeout(2.0, thread=True)

        assert 2.0 == policy.call(remaining)
        assert remaining() is None
        with deadline(1.0):
            assert 1.0 == policy.call(remaining)


class TestCooperative:
    def test_sets_the_deadline_only(self, clock):
        """A value that comes late is returned."""
        policy = timeout(2.0, cooperative=True)

        def late() -> str:
            assert 2.0 == remaining()
            source.sleep(3)
            return "late"

        assert "late" == policy.call(late)
        assert remaining() is None

    def test_an_earlier_deadline_counts(self):
        """A later one does not."""
        policy = timeout(2.0, cooperative=True)
        with deadline(1.0):
            assert 1.0 == policy.call(remaining)
        with deadline(3.0):
            assert 2.0 == policy.call(remaining)

    def test_a_failure_leaves_no_deadline(self):
        """Whatever ended the call."""
        for escape in (OSError, KeyboardInterrupt):
            with pytest.raises(escape):
                timeout(1.0, cooperative=True).call(scripted(escape))
            assert remaining() is None


@pytest.mark.parametrize("options", [{"thread": True}, {"cooperative": True}], ids=["thread", "cooperative"])
def test_a_deadline_that_is_over_starts_nothing(colour, clock, options):
    """In every mode."""
    call = colour.script()
    with deadline(1.0):
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            colour.protect(timeout(5.0, **options), call)

    assert 0 == call.count


class TestGenerators:
    def test_every_item_has_its_own_time(self, clock):
        """What the reader does in between takes nothing of it."""

        @timeout(2.0)
        async def generate(*naps: float) -> AsyncIterator[float]:
            for nap in naps:
                await asyncio.sleep(nap)
                yield nap

        async def main() -> None:
            found = []
            async for item in generate(1.5, 1.5, 1.5):
                found.append(item)
                await asyncio.sleep(10)
                assert remaining() is None
            assert [1.5] * 3 == found
            reader = generate(1.0, 3.0)
            assert 1.0 == await anext(reader)
            with pytest.raises(CallTimeoutError):
                await anext(reader)

        clock.run(main())

    def test_cooperative_generators(self, clock):
        """Each item sees its own deadline, the reader none."""

        @timeout(2.0, cooperative=True)
        def generate() -> Iterator[float | None]:
            while True:
                yield remaining()
                source.sleep(1)

        reader = generate()
        assert [2.0, 1.0, 1.0] == [next(reader) for _ in range(3)]
        assert remaining() is None
        reader.close()

    @pytest.mark.parametrize("options", [{}, {"thread": True}], ids=["plain", "thread"])
    def test_blocking_generators_are_refused(self, options):
        """At decoration: nothing could interrupt them."""
        with pytest.raises(TypeError, match="cooperative=True"):

            @timeout(1.0, **options)
            def generate() -> Iterator[int]:
                yield 1


class TestRefusals:
    def test_a_blocking_function_needs_a_mode(self):
        """The error names the function and both ways."""

        def mine() -> None: ...

        with pytest.raises(TypeError, match=r"mine.*thread=True.*cooperative=True"):
            timeout(1.0)(mine)
        with pytest.raises(TypeError, match="thread=True"):
            timeout(1.0).call(mine)

    @pytest.mark.parametrize(
        ("options", "error", "named"),
        [
            ({"seconds": 0}, ValueError, "seconds"),
            ({"seconds": -1}, ValueError, "seconds"),
            ({"seconds": float("nan")}, ValueError, "seconds"),
            ({"seconds": float("inf")}, ValueError, "seconds"),
            ({"seconds": True}, TypeError, "seconds"),
            ({"seconds": None}, TypeError, "seconds"),
            ({"seconds": "2"}, TypeError, "seconds"),
            ({"seconds": timedelta(0)}, ValueError, "seconds"),
            ({"thread": 1}, TypeError, "thread"),
            ({"cooperative": "yes"}, TypeError, "cooperative"),
            ({"cooperative": "yes", "thread": True}, TypeError, "cooperative"),
            ({"cooperative": True, "thread": True}, ValueError, "exclude"),
            ({"max_abandoned": 0}, ValueError, "max_abandoned"),
            ({"max_abandoned": True}, TypeError, "max_abandoned"),
            ({"name": ""}, ValueError, "name"),
        ],
    )
    def test_arguments_are_checked(self, options, error, named):
        """At construction, by name."""
        with pytest.raises(error, match=named):
            timeout(**{"seconds": 1.0, **options})


class TestObservations:
    def test_an_expiry_is_told(self, colour, clock):
        """A success is silent."""
        seen, stuck = [], Stuck()
        policy = timeout(1.5, thread=colour is Colour.BLOCKING, name="supplier")
        with observe(seen.append):
            colour.protect(policy, colour.script("done"))
            assert [] == seen
            with pytest.raises(CallTimeoutError):
                colour.protect(policy, stuck if colour is Colour.BLOCKING else hang)
        stuck.let_go()

        assert [("timeout.expired", "supplier", {"seconds": 1.5})] == seen
        until(lambda: policy.abandoned == 0)

    def test_an_observer_that_raises_breaks_nothing(self, clock, caplog):
        """The expiry is still an expiry."""
        with observe(scripted(forever=ZeroDivisionError)), pytest.raises(CallTimeoutError):
            clock.run(timeout(1.0).acall(hang))
        assert "ZeroDivisionError" in caplog.text
