"""Bulkhead: never more at once than it says, first come first served, and no permit is ever lost."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from paintkit import (
    BulkheadFullError,
    DeadlineExceededError,
    RejectedError,
    bulkhead,
    deadline,
    observe,
)
from paintkit._runtime import Handover
from paintkit.policies._bulkhead import Bulkhead
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def is_whole(policy: Bulkhead) -> bool:
    """Whether nobody runs, nobody waits, and every permit can be taken."""
    limit, running, waiting, _ = policy.metrics()
    with contextlib.ExitStack() as stack:
        for _ in range(limit):
            stack.enter_context(policy.hold())
        return (0, 0, limit) == (running, waiting, policy.metrics().running)


@contextlib.contextmanager
def occupied(policy: Bulkhead) -> Iterator[contextlib.ExitStack]:
    """Take all permits; closing the stack gives them back one by one."""
    with contextlib.ExitStack() as stack:
        for _ in range(policy.metrics().limit):
            stack.enter_context(policy.hold())
        yield stack


class TestPermits:
    def test_passes_calls(self, colour):
        """With their arguments and results, and gives the permit back."""
        policy = bulkhead(1)

        assert "done" == colour.call(policy(call := colour.script("done")), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls
        assert is_whole(policy)

    def test_refuses_at_once_by_default(self, colour, clock):
        """Without calling the function; the error tells who refused."""
        policy = bulkhead(2, name="printers")
        call = colour.script()

        with occupied(policy), pytest.raises(BulkheadFullError) as caught:
            colour.protect(policy, call)

        assert 0 == call.count
        assert "printers" == caught.value.policy
        assert isinstance(caught.value, RejectedError)
        assert 1 == policy.metrics().rejected
        assert 0.0 == clock.now()
        assert is_whole(policy)

    @pytest.mark.parametrize("escape", [OSError, KeyboardInterrupt, asyncio.CancelledError])
    def test_a_failed_call_gives_its_permit_back(self, colour, escape):
        """Whatever ended it."""
        policy = bulkhead(1)

        with pytest.raises(escape):
            colour.protect(policy, colour.script(escape))

        assert is_whole(policy)

    def test_both_colours_share_the_permits(self, clock):
        """Threads and tasks are counted together."""
        policy = bulkhead(1)

        async def main() -> None:
            async with policy.hold():
                with pytest.raises(BulkheadFullError):
                    policy.call(scripted())
            policy.call(scripted("done"))

        clock.run(main())
        assert is_whole(policy)

    def test_a_hold_is_for_one_block(self):
        """Two blocks with one hold would be one permit."""
        hold = bulkhead(2).hold()
        with hold:
            pass

        with pytest.raises(RuntimeError), hold:
            pass

    def test_every_refusal_is_a_new_error(self, colour):
        """None accumulates frames."""
        policy = bulkhead(1)
        errors = set()
        with occupied(policy):
            for _ in range(5):
                with pytest.raises(BulkheadFullError) as caught:
                    colour.protect(policy, colour.script())
                errors.add(caught.value)

        assert 5 == len(errors)


class TestQueue:
    def test_waits_for_max_wait(self, colour, clock):
        """Not longer, and not shorter."""
        policy = bulkhead(1, max_wait=2.5)

        with occupied(policy), pytest.raises(BulkheadFullError):
            colour.protect(policy, colour.script())

        assert 2.5 == clock.now()
        assert 1 == policy.metrics().rejected
        assert is_whole(policy)

    def test_tasks_are_served_in_their_order(self, clock):
        """First come, first served, and the permit is handed over: a newcomer does not overtake."""
        policy, served = bulkhead(1, max_wait=60), []

        async def call(name: str, seconds: float) -> None:
            async with policy.hold():
                served.append(name)
                await asyncio.sleep(seconds)

        async def main() -> None:
            tasks = []
            for number in range(5):
                tasks.append(asyncio.create_task(call(f"queued {number}", 1.0)))
                await asyncio.sleep(0)
            await asyncio.sleep(2.5)
            tasks.append(asyncio.create_task(call("newcomer", 0.0)))
            await asyncio.gather(*tasks)

        clock.run(main())
        assert [*(f"queued {number}" for number in range(5)), "newcomer"] == served
        assert 5.0 == clock.now()

    def test_a_permit_wakes_one_waiter(self, clock, monkeypatch):
        """T24: the one that gets it; nobody looks in vain."""
        policy, woken, give = bulkhead(1, max_wait=600), [], Handover.give

        def noted(place: Handover) -> bool:
            woken.append(place)
            return give(place)

        monkeypatch.setattr(Handover, "give", noted)

        async def main() -> None:
            await asyncio.gather(*(policy.acall(asyncio.sleep, 1) for _ in range(50)))

        clock.run(main())
        assert 49 == len(woken) == len(set(woken))
        assert 50.0 == clock.now()

    def test_threads_are_served_in_their_order(self, clock):
        """The same across threads."""
        policy, served = bulkhead(1, max_wait=60), []

        def call(number: int) -> None:
            with policy.hold():
                served.append(number)

        threads = []
        with occupied(policy) as permits:
            for number in range(4):
                threads.append(threading.Thread(target=call, args=(number,)))
                threads[-1].start()
                clock.until_waiting(number + 1)
            permits.close()
            for thread in threads:
                thread.join(60)

        assert [0, 1, 2, 3] == served
        assert is_whole(policy)

    def test_nobody_overtakes(self, clock):
        """While somebody waits, a newcomer queues behind, although a permit is free at that moment."""
        policy, served = bulkhead(1, max_wait=60), []
        give = policy._hand_on

        def hand_on_late() -> None:
            assert policy._permits.free
            policy._max_wait = 0  # whoever comes now may not wait: it must be refused, not preferred
            with pytest.raises(BulkheadFullError):
                policy.call(served.append, "newcomer")
            policy._max_wait = 60
            give()

        def wait() -> None:
            with policy.hold():
                served.append("queued")

        with policy.hold():
            thread = threading.Thread(target=wait)
            thread.start()
            clock.until_waiting()
            policy._hand_on = hand_on_late
        thread.join(60)
        policy._hand_on = give

        assert ["queued"] == served
        assert is_whole(policy)

    @pytest.mark.parametrize("longest", [0, 2])
    def test_a_full_queue_refuses_at_once(self, clock, longest):
        """`max_queue` callers may wait, the next may not."""
        policy = bulkhead(1, max_wait=5.0, max_queue=longest)

        async def wait() -> None:
            with contextlib.suppress(BulkheadFullError):
                await policy.acall(Colour.ASYNCIO.script("done"))

        async def main() -> None:
            tasks = [asyncio.create_task(wait()) for _ in range(longest)]
            await asyncio.sleep(0)
            with pytest.raises(BulkheadFullError):
                await policy.acall(Colour.ASYNCIO.script())
            assert 0.0 == clock.now()
            assert longest == policy.metrics().waiting
            await asyncio.gather(*tasks)

        with occupied(policy):
            clock.run(main())
        assert is_whole(policy)

    def test_a_permit_that_becomes_free_while_one_queues_is_not_missed(self, clock):
        """Whoever queues looks once more: the permit may have come back in between."""
        policy = bulkhead(1, max_wait=60)
        policy.hold().__enter__()
        lock = policy._lock

        class ReleasedMeanwhile:
            def __enter__(self) -> None:
                policy._lock = lock
                policy._permits.free.append(None)  # what a release does that finds nobody waiting yet
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                lock.release()

        policy._lock = ReleasedMeanwhile()
        assert "done" == policy.call(scripted("done"))
        assert 0.0 == clock.now()
        assert is_whole(policy)

    def test_waits_no_longer_than_the_deadline(self, colour, clock):
        """Which is then what went wrong."""
        policy = bulkhead(1, max_wait=10.0)

        with occupied(policy), deadline(2.0), pytest.raises(DeadlineExceededError):
            colour.protect(policy, colour.script())

        assert 2.0 == clock.now()
        assert 1 == policy.metrics().rejected
        assert is_whole(policy)

    def test_a_waiter_whose_loop_was_closed_is_passed_over(self, clock):
        """Its place is empty: the permit goes to the next, and the releaser never hears of it."""
        policy, served = bulkhead(1, max_wait=60), []

        async def abandon() -> None:
            loop = asyncio.get_running_loop()
            loop.waiting = asyncio.create_task(policy.acall(Colour.ASYNCIO.script()))
            await asyncio.sleep(0)

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: policy.call(served.append, "next"))
        with policy.hold():
            loop.run_until_complete(abandon())
            loop.close()
            thread.start()
            clock.until_waiting()
            assert 2 == policy.metrics().waiting
        thread.join(60)

        assert ["next"] == served
        assert is_whole(policy)
        loop.waiting._log_destroy_pending = False
        loop.waiting.get_coro().close()


class TestCancellation:
    def test_at_every_await(self, clock):
        """Before, during and after the wait for a permit: none is lost, and nobody waits in vain."""

        def scenario(interrupted: Any) -> bool:
            policy, served = bulkhead(1, max_wait=60), []

            async def body(name: str) -> None:
                await asyncio.sleep(1)
                served.append(name)

            async def victim() -> None:
                await interrupted(policy.acall(body, "victim"))

            async def main() -> bool:
                first = asyncio.create_task(policy.acall(body, "first"))
                await asyncio.sleep(0)
                task = asyncio.create_task(victim())
                await asyncio.sleep(0)
                last = asyncio.create_task(policy.acall(body, "last"))
                await asyncio.gather(first, last)
                await asyncio.wait([task])
                return task.cancelled()

            cancelled = clock.run(main())
            assert ["first", "last"] == [name for name in served if name != "victim"]
            assert is_whole(policy)
            return cancelled

        assert 2 == at_every_await(scenario)

    def test_together_with_the_permit(self, clock):
        """A permit that arrives in the same moment as the cancellation goes to the next in the queue."""
        policy = bulkhead(1, max_wait=60)

        async def main() -> None:
            hold = policy.hold()
            await hold.__aenter__()
            victim = asyncio.create_task(policy.acall(Colour.ASYNCIO.script()))
            heir = asyncio.create_task(policy.acall(Colour.ASYNCIO.script("done")))
            await asyncio.sleep(0.1)
            await hold.__aexit__()
            victim.cancel()
            assert "done" == await heir
            assert victim.cancelled()

        clock.run(main())
        assert is_whole(policy)

    def test_together_with_the_end_of_its_patience(self, clock):
        """The same in the moment in which the wait is over: a refusal or a permit, never neither."""
        policy = bulkhead(1, max_wait=1.0)

        async def main() -> None:
            async with policy.hold():
                waiting = [asyncio.create_task(policy.acall(Colour.ASYNCIO.script("done"))) for _ in range(3)]
                await asyncio.sleep(1.0)
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(one == "done" or isinstance(one, BulkheadFullError) for one in results)

        clock.run(main())
        assert is_whole(policy)


class TestSharing:
    def test_threads_and_tasks_together(self, clock):
        """Never more at once than the limit, in a mixed crowd of which some give up; afterwards all permits are back."""
        policy, rng = bulkhead(3, max_wait=60), random.Random(3)
        lock, inside, most, served = threading.Lock(), 0, 0, 0

        @contextlib.contextmanager
        def counted() -> Iterator[None]:
            nonlocal inside, most, served
            with lock:
                inside += 1
                most = max(most, inside)
            try:
                yield
                with lock:
                    served += 1
            finally:
                with lock:
                    inside -= 1

        def in_thread() -> None:
            for _ in range(20):
                with policy.hold(), counted():
                    pass

        async def in_task() -> None:
            async with policy.hold():
                with counted():
                    await asyncio.sleep(0)

        async def tasks() -> int:
            crowd = [asyncio.create_task(in_task()) for _ in range(100)]
            await asyncio.sleep(0)
            for task in rng.sample(crowd, 30):
                task.cancel()
            results = await asyncio.gather(*crowd, return_exceptions=True)
            assert {None, asyncio.CancelledError} >= {one and type(one) for one in results}
            return sum(one is None for one in results)

        with ThreadPoolExecutor(6) as pool:
            threads = [pool.submit(in_thread) for _ in range(5)]
            loops = [pool.submit(asyncio.run, tasks())]
            for thread in threads:
                thread.result(60)
            finished = sum(loop.result(60) for loop in loops)

        assert most <= 3
        assert served == 5 * 20 + finished
        assert is_whole(policy)


class TestGenerators:
    def test_a_generator_holds_its_permit_to_the_end(self, colour):
        """From its first item on; an early close gives it back."""
        policy = bulkhead(1)

        @policy
        def generate() -> Iterator[int]:
            yield 1
            yield 2

        @policy
        async def agenerate() -> AsyncIterator[int]:
            yield 1
            yield 2

        async def read() -> None:
            reader = agenerate()
            assert 0 == policy.metrics().running
            assert 1 == await anext(reader)
            assert 1 == policy.metrics().running
            await reader.aclose()
            assert is_whole(policy)
            assert [1, 2] == [item async for item in agenerate()]

        if colour is Colour.ASYNCIO:
            colour.call(read)
        else:
            reader = generate()
            assert 0 == policy.metrics().running
            assert 1 == next(reader)
            assert 1 == policy.metrics().running
            reader.close()
            assert is_whole(policy)
            assert [1, 2] == list(generate())
        assert is_whole(policy)


class TestShadow:
    @pytest.mark.parametrize("options", [{}, {"max_wait": 2.0}, {"max_wait": 2.0, "max_queue": 0}], ids=str)
    def test_every_call_passes(self, colour, options):
        """It only tells what it would have refused; also where the deadline comes first."""
        policy, seen = bulkhead(1, shadow=True, **options), []

        with occupied(policy), observe(seen.append):
            assert "done" == colour.protect(policy, colour.script("done"))
            with deadline(1.0):
                assert "done" == colour.protect(policy, colour.script("done"))

        assert ["bulkhead.would_reject"] * 2 == [one.kind for one in seen]
        assert 2 == policy.metrics().rejected
        assert is_whole(policy)


class TestObservations:
    def test_a_success_is_silent_and_a_refusal_is_told(self, colour):
        """The happy path says nothing."""
        policy, seen = bulkhead(1, name="printers"), []

        with observe(seen.append):
            colour.protect(policy, colour.script("done"))
            assert [] == seen
            with occupied(policy), pytest.raises(BulkheadFullError):
                colour.protect(policy, colour.script())

        assert [("bulkhead.rejected", "printers", {"limit": 1})] == seen

    def test_an_observer_that_raises_breaks_nothing(self, colour, caplog):
        """The refusal is still a refusal."""
        policy = bulkhead(1)
        with (
            observe(scripted(forever=ZeroDivisionError)),
            occupied(policy),
            pytest.raises(BulkheadFullError),
        ):
            colour.protect(policy, colour.script())

        assert is_whole(policy)
        assert "ZeroDivisionError" in caplog.text


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"limit": 0}, ValueError, "limit"),
        ({"limit": -1}, ValueError, "limit"),
        ({"limit": True}, TypeError, "limit"),
        ({"limit": 2.0}, TypeError, "limit"),
        ({"limit": "2"}, TypeError, "limit"),
        ({"max_wait": -1}, ValueError, "max_wait"),
        ({"max_wait": NAN}, ValueError, "max_wait"),
        ({"max_wait": INFINITY}, ValueError, "max_wait"),
        ({"max_wait": True}, TypeError, "max_wait"),
        ({"max_wait": None}, TypeError, "max_wait"),
        ({"max_queue": -1}, ValueError, "max_queue"),
        ({"max_queue": 1.5}, TypeError, "max_queue"),
        ({"max_queue": False}, TypeError, "max_queue"),
        ({"name": ""}, ValueError, "name"),
        ({"name": 3}, TypeError, "name"),
        ({"shadow": 1}, TypeError, "shadow"),
    ],
)
def test_arguments_are_checked(options, error, named):
    """At construction, by name."""
    with pytest.raises(error, match=named):
        bulkhead(**{"limit": 1, **options})
