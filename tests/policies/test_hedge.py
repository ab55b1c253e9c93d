"""Hedge: the first good answer, no more load than allowed, and no try left behind."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from paintkit import CallTimeoutError, DeadlineExceededError, RetryBudget, deadline, hedge, observe, timeout
from paintkit import clock as source
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock
        clock.advance(10_000)
        for loser in losers():
            loser.join(60)


def losers() -> list[threading.Thread]:
    """Return the threads in which tries still run."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("paintkit-hedge")]


class Tries:
    """A function whose n-th call takes so many seconds and then returns or raises something.

    The blocking form waits on the clock, so that time does not run ahead of the threads.
    """

    def __init__(self, colour: Colour, *script: tuple[float, object]) -> None:
        self._colour, self._script = colour, script
        self._lock = threading.Condition()
        self.started: list[float] = []
        self.threads: list[threading.Thread] = []
        self.ended: list[object] = []

    @property
    def function(self) -> Callable[[], Any]:
        return self._blocking if self._colour is Colour.BLOCKING else self._asyncio

    def _begin(self) -> tuple[float, object]:
        with self._lock:
            self.started.append(source.now())
            self.threads.append(threading.current_thread())
            return self._script[len(self.started) - 1]

    def _end(self, outcome: object) -> object:
        with self._lock:
            self.ended.append(outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _blocking(self) -> object:
        seconds, outcome = self._begin()
        due = source.now() + seconds
        with self._lock:
            while source.now() < due:
                source.wait(self._lock, due - source.now())
        return self._end(outcome)

    async def _asyncio(self) -> object:
        seconds, outcome = self._begin()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return self._end(outcome)


class TestTries:
    def test_passes_calls(self, colour):
        """With their arguments and results; a quick one is made once."""
        policy = hedge(1.0, idempotent=True)

        assert "done" == colour.call(policy(call := colour.script("done")), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls
        assert 0 == policy.hedges

    def test_a_slow_call_is_made_again(self, colour, clock):
        """After the delay; the answer that comes first counts, and nobody waits for the loser."""
        policy = hedge(0.5, idempotent=True)
        tries = Tries(colour, (10, "slow"), (1, "quick"))

        assert "quick" == colour.protect(policy, tries.function)
        assert [0, 0.5] == tries.started
        assert 1.5 == clock.now()
        assert 1 == policy.hedges

    def test_the_first_may_still_win(self, colour, clock):
        """It is not given up when the second starts."""
        tries = Tries(colour, (1, "first"), (10, "second"))

        assert "first" == colour.protect(hedge(0.5, idempotent=True), tries.function)
        assert 1.0 == clock.now()

    def test_no_more_than_so_many_tries(self, colour, clock):
        """One after each delay."""
        tries = Tries(colour, (9, "one"), (9, "two"), (9, "three"), (0, "never"))

        assert "one" == colour.protect(hedge(timedelta(seconds=2), idempotent=True, tries=3), tries.function)
        assert [0, 2, 4] == tries.started

    def test_a_failure_starts_the_next_at_once(self, colour, clock):
        """There is nothing to wait for any more."""
        tries = Tries(colour, (1, OSError()), (1, "second"))

        assert "second" == colour.protect(hedge(5, idempotent=True), tries.function)
        assert [0, 1] == tries.started

    def test_if_all_fail_the_first_error_is_raised(self, colour, clock):
        """The same object, whatever came last."""
        first, second = OSError("first"), OSError("second")
        tries = Tries(colour, (2, first), (0.5, second))

        with pytest.raises(OSError) as caught:
            colour.protect(hedge(1, idempotent=True), tries.function)

        assert first is caught.value

    def test_other_failures_are_raised_at_once(self, colour, clock):
        """A second try would fail alike."""
        tries = Tries(colour, (0, ValueError()), (0, "never"))

        with pytest.raises(ValueError):
            colour.protect(hedge(1, idempotent=True, on=OSError), tries.function)

        assert [0] == tries.started

    @pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit])
    def test_what_is_no_exception_passes(self, clock, escape):
        """Through threads, too."""
        with pytest.raises(escape):
            hedge(1, idempotent=True).call(scripted(escape))

    def test_every_try_has_a_context_of_its_own(self, colour):
        """It sees the caller's variables, and changes its own copy."""
        variable.set("caller's")
        seen = []

        def note() -> str:
            seen.append(variable.get())
            variable.set("changed")
            if len(seen) < 2:
                raise OSError
            return "done"

        assert "done" == colour.protect(hedge(1, idempotent=True), colour.function(note))
        assert ["caller's"] * 2 == seen
        assert "caller's" == variable.get()


class TestLosers:
    def test_are_cancelled_and_awaited(self, clock):
        """T28: when the answer is there, they are gone, and have cleaned up."""
        tries = Tries(Colour.ASYNCIO, (10, "slow"), (1, "quick"))

        async def main() -> None:
            assert "quick" == await hedge(0.5, idempotent=True).acall(tries.function)
            assert ["quick", "cancelled"] == tries.ended
            assert {asyncio.current_task()} == asyncio.all_tasks()

        clock.run(main())

    def test_that_will_not_end_are_left(self, clock):
        """T28: after a second of grace."""

        async def stubborn(number: list[int] = [0]) -> str:  # noqa: B006 - counts its calls
            number[0] += 1
            if number[0] > 1:
                return "quick"
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(100)
            return "late"

        async def main() -> None:
            assert "quick" == await hedge(0.5, idempotent=True).acall(stubborn)
            assert 1.5 == clock.now()

        clock.run(main())

    def test_the_winner_keeps_its_context(self, clock):
        """T28: cancelling a loser does not cancel what the winner returned."""

        async def connect() -> asyncio.Task[str]:
            if clock.now() == 0:
                await asyncio.sleep(9)
            return asyncio.create_task(asyncio.sleep(5, "still there"))

        async def main() -> None:
            task = await hedge(0.5, idempotent=True).acall(connect)
            assert "still there" == await task

        clock.run(main())

    def test_in_threads_are_not_waited_for(self, clock):
        """T28: they run to their end, as daemons."""
        tries = Tries(Colour.BLOCKING, (10, "slow"), (1, "quick"))
        hedge(0.5, idempotent=True).call(tries.function)

        loser, _winner = tries.threads  # which may not have quite ended yet
        assert loser.is_alive()
        assert loser.daemon
        clock.until_waiting()
        clock.advance(20)
        loser.join(60)
        assert ["quick", "slow"] == tries.ended

    def test_a_cancelled_call_leaves_no_try(self, clock):
        """T22: at every await."""

        def scenario(interrupted: Any) -> bool:
            tries = Tries(Colour.ASYNCIO, (10, "slow"), (1, "quick"))

            async def main() -> bool:
                try:
                    await interrupted(hedge(0.5, idempotent=True).acall(tries.function))
                except asyncio.CancelledError:
                    asyncio.current_task().uncancel()
                    cancelled = True
                else:
                    cancelled = False
                await asyncio.sleep(0)
                assert {asyncio.current_task()} == asyncio.all_tasks()
                return cancelled

            return clock.run(main())

        assert 3 == at_every_await(scenario)

    def test_a_timeout_around_it_ends_all_tries(self, clock):
        """And its error is the timeout's."""
        tries = Tries(Colour.ASYNCIO, (10, "one"), (10, "two"))

        async def main() -> None:
            with pytest.raises(CallTimeoutError):
                await timeout(2)(hedge(0.5, idempotent=True)(tries.function))()
            await asyncio.sleep(0)
            assert {asyncio.current_task()} == asyncio.all_tasks()

        clock.run(main())
        assert ["cancelled"] * 2 == tries.ended


class TestQuantile:
    def test_starts_no_try_before_it_knows_enough(self, colour, clock):
        """Fifty calls."""
        policy = hedge("p95", idempotent=True)
        for number in range(50):
            assert policy.delay is None
            assert number == colour.protect(policy, Tries(colour, (number + 1, number)).function)

        assert 48 == pytest.approx(policy.delay)
        assert 0 == policy.hedges
        tries = Tries(colour, (1000, "slow"), (1, "quick"))
        began = clock.now()
        assert "quick" == colour.protect(policy, tries.function)
        assert pytest.approx([0, 48]) == [one - began for one in tries.started]

    def test_learns_nothing_from_failures(self, colour, clock):
        """A dependency that refuses at once is not quick: hedging at once would be its end."""
        policy = hedge("p50", idempotent=True, on=ValueError)
        for _ in range(100):
            with pytest.raises(OSError):
                colour.protect(policy, colour.script(OSError))

        assert policy.delay is None


class TestBudget:
    def test_bounds_the_extra_tries(self, colour, clock):
        """T28: a refusal does not fail the first try, which goes on."""
        budget = RetryBudget(ratio=0.5, reserve=0, window=1000)
        policy = hedge(0.5, idempotent=True, budget=budget)

        for _ in range(10):
            assert "one" == colour.protect(policy, Tries(colour, (2, "one"), (9, "two")).function)

        assert 5 == policy.hedges
        assert 5 == budget.refused

    def test_a_refused_hedge_of_a_failed_try_is_its_failure(self, colour, clock):
        """There is nobody else to wait for."""
        policy = hedge(5, idempotent=True, budget=RetryBudget(ratio=0.1, reserve=0))
        error = OSError()

        with pytest.raises(OSError) as caught:
            colour.protect(policy, Tries(colour, (1, error)).function)

        assert error is caught.value
        assert 1.0 == clock.now()


class TestDeadline:
    def test_no_try_starts_when_it_is_over(self, colour, clock):
        """The first included."""
        with deadline(1.0):
            clock.advance(1.0)
            with pytest.raises(DeadlineExceededError):
                colour.protect(hedge(0.5, idempotent=True), call := colour.script())
        assert 0 == call.count

    @pytest.mark.parametrize("left", [0.75, 0.5])
    def test_nor_a_second_one(self, colour, clock, left):
        """The wait ends with the deadline, also where both come at once."""
        tries = Tries(colour, (10, "one"), (10, "two"))
        with deadline(left), pytest.raises(DeadlineExceededError):
            colour.protect(hedge(0.5, idempotent=True), tries.function)

        assert left == clock.now()
        assert (2 if left > 0.5 else 1) == len(tries.started)


class TestRefusals:
    def test_generators(self):
        """Two of them would yield everything twice."""
        with pytest.raises(TypeError, match="generator"):

            @hedge(1.0, idempotent=True)
            def generate() -> Iterator[int]:
                yield 1

        with pytest.raises(TypeError, match="generator"):

            @hedge(1.0, idempotent=True)
            async def agenerate() -> AsyncIterator[int]:
                yield 1

    def test_idempotent_is_required(self):
        """It cannot be guessed."""
        with pytest.raises(TypeError):
            hedge(1.0)

    @pytest.mark.parametrize(
        ("options", "error", "named"),
        [
            ({"idempotent": False}, ValueError, "idempotent"),
            ({"idempotent": 1}, TypeError, "idempotent"),
            ({"delay": 0}, ValueError, "delay"),
            ({"delay": -1}, ValueError, "delay"),
            ({"delay": float("nan")}, ValueError, "delay"),
            ({"delay": None}, TypeError, "delay"),
            ({"delay": True}, TypeError, "delay"),
            ({"delay": "p0"}, ValueError, "delay"),
            ({"delay": "p100"}, ValueError, "delay"),
            ({"delay": "95"}, ValueError, "delay"),
            ({"delay": ""}, ValueError, "delay"),
            ({"tries": 1}, ValueError, "tries"),
            ({"tries": 2.0}, TypeError, "tries"),
            ({"tries": 1000}, ValueError, "tries"),
            ({"on": ()}, ValueError, "on"),
            ({"on": BaseException}, ValueError, "on"),
            ({"on": "OSError"}, TypeError, "on"),
            ({"budget": 0.2}, TypeError, "budget"),
            ({"name": ""}, ValueError, "name"),
        ],
    )
    def test_arguments_are_checked(self, options, error, named):
        """At construction, by name."""
        with pytest.raises(error, match=named):
            hedge(**{"delay": 1.0, "idempotent": True, **options})


class TestObservations:
    def test_a_launch_is_told(self, colour, clock):
        """A success at the first try is silent."""
        seen = []
        policy = hedge(0.5, idempotent=True, name="search")
        with observe(seen.append):
            colour.protect(policy, colour.script("done"))
            assert [] == seen
            colour.protect(policy, Tries(colour, (10, "one"), (0, "two")).function)

        assert [("hedge.launched", "search", {"number": 2})] == seen

    def test_an_observer_that_raises_breaks_nothing(self, colour, clock, caplog):
        """The second try starts all the same."""
        with observe(scripted(forever=ZeroDivisionError)):
            tries = Tries(colour, (10, "one"), (0, "two"))
            assert "two" == colour.protect(hedge(0.5, idempotent=True), tries.function)
        assert "ZeroDivisionError" in caplog.text
