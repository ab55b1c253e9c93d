"""Batch functions that are `async def`: their batches run in the event loop of those who ask."""

import asyncio
import contextlib
import contextvars
import gc
import weakref

import pytest

from paintkit import ambient, clock
from paintkit.batching.batcher import RequestBatcher
from paintkit.errors import BatcherClosedError, BatchReplyError, DeadlineExceededError
from paintkit.testing import FakeClock


class Doubler:
    """An `async def` batch function that remembers its batches and their loops, and may be held up."""

    def __init__(self):
        self.batches, self.loops = [], []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, requests):
        self.batches.append(requests)
        self.loops.append(asyncio.get_running_loop())
        await self.may_end.wait()
        return [request * 2 for request in requests]


@pytest.fixture
def fake():
    with FakeClock() as fake_clock:
        yield fake_clock


def test_a_batch_runs_in_the_loop_of_its_callers():
    """What the function uses belongs to that loop."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=2, delay=60.0)

    async def main():
        assert [2, 4] == await asyncio.gather(batcher.aadd(1), batcher.aadd(2))
        assert [asyncio.get_running_loop()] == double.loops

    asyncio.run(main())
    assert [[1, 2]] == double.batches


def test_a_window_ends_on_paintkits_clock(fake):
    """A batch that never fills runs when its oldest request has waited for the delay; the next has a window of its own."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=9, delay=1.0)

    async def main():
        first = asyncio.create_task(batcher.aadd(1))
        await asyncio.sleep(0.75)
        assert 4 == await batcher.aadd(2)
        assert (2, 1.0) == (await first, clock.now())
        assert 6 == await batcher.aadd(3)

    fake.run(main())
    assert ([[1, 2], [3]], 2.0) == (double.batches, fake.now())


def test_without_delay_the_requests_of_one_turn_share_a_batch(fake):
    """No time passes."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=0)

    async def main():
        return await asyncio.gather(*(batcher.aadd(number) for number in range(3)))

    assert [0, 2, 4] == fake.run(main())
    assert ([[0, 1, 2]], 0.0) == (double.batches, fake.now())


def test_every_loop_has_batches_of_its_own():
    """A request never waits for company in a loop that has ended, nor is one of another loop counted as waiting."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=2, delay=0)

    async def leave_one_behind():
        asyncio.create_task(batcher.aadd(0))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(leave_one_behind())
    for number in (1, 2):
        assert number * 2 == asyncio.run(batcher.aadd(number))
    assert [[1], [2]] == double.batches
    assert 0 == batcher.get_stats()["waiting"]


def test_nobody_who_is_cancelled_takes_the_batch_along():
    """Neither who filled it, nor who began its window, nor all of them: it runs in a task of its own."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=3, delay=60.0)

    async def main():
        double.may_end.clear()
        callers = [asyncio.create_task(batcher.aadd(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        callers[0].cancel()
        callers[2].cancel()
        double.may_end.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [asyncio.CancelledError, int, asyncio.CancelledError] == [type(one) for one in outcomes]

    asyncio.run(main())
    assert [[1, 2, 3]] == double.batches


def test_each_caller_stops_at_its_own_deadline(fake):
    """In the queue and in a batch that runs; the batch itself has no deadline."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=2, delay=10.0)

    async def hasty(number, seconds):
        ambient.deadline.set(fake.now() + seconds)
        return await batcher.aadd(number)

    async def main():
        double.may_end.clear()
        for seconds in (2.0, 0.0):
            with pytest.raises(DeadlineExceededError):
                await asyncio.create_task(hasty(0, seconds))
        patient = asyncio.create_task(batcher.aadd(1))
        with pytest.raises(DeadlineExceededError):
            await asyncio.create_task(hasty(2, 3.0))
        double.may_end.set()
        assert 2 == await patient

    fake.run(main())
    assert ([[1, 2]], 5.0) == (double.batches, fake.now())


def test_a_batch_runs_outside_its_callers_unit_and_deadline():
    """With the other context variables of its oldest request."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def process(requests):
        return [(ambient.deadline.get(), ambient.unit_of_work.get(), variable.get())] * len(requests)

    batcher = RequestBatcher(process, batch_size=2, delay=60.0)

    async def ask(word):
        ambient.deadline.set(clock.now() + 60)
        ambient.unit_of_work.set(object())
        variable.set(word)
        return await batcher.aadd(word)

    async def main():
        return await asyncio.gather(ask("first"), ask("second"))

    assert [(None, None, "first")] * 2 == asyncio.run(main())


@pytest.mark.parametrize("reply", [[], [1, 2, 3], None, "ab"], ids=["short", "long", "None", "str"])
def test_a_reply_of_another_shape_is_an_error_for_every_caller(reply):
    """As with plain functions."""

    async def process(requests):
        return reply

    batcher = RequestBatcher(process, batch_size=2, delay=60.0)

    async def main():
        return await asyncio.gather(batcher.aadd(1), batcher.aadd(2), return_exceptions=True)

    errors = asyncio.run(main())
    assert [BatchReplyError, BatchReplyError] == [type(error) for error in errors]
    assert errors[0] is not errors[1]


def test_an_error_leaves_nothing_for_the_collector():
    """The error, its frames and what they hold die with the `except` block."""

    class Held:
        pass

    async def process(requests):
        raise ValueError("bad")

    async def ask(held):
        with contextlib.suppress(ValueError):
            await batcher.aadd(1)
        return weakref.ref(held)

    async def main():
        gc.disable()
        try:
            gone = await asyncio.create_task(ask(Held()))
            await asyncio.sleep(0)
            return gone()
        finally:
            gc.enable()

    batcher = RequestBatcher(process, delay=0)
    assert asyncio.run(main()) is None


def test_closing_runs_what_waits_and_refuses_the_rest(fake):
    """`async with` returns when no batch runs any more."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=60.0, name="lookups")

    async def main():
        async with batcher:
            waiting = asyncio.create_task(batcher.aadd(1))
            await asyncio.sleep(0)
        assert 0 == batcher.get_stats()["running"]
        assert 2 == await waiting
        with pytest.raises(BatcherClosedError, match="lookups"):
            await batcher.aadd(2)
        await batcher.aclose()

    fake.run(main())
    assert 0.0 == fake.now()


def test_closing_stops_waiting_at_the_deadline(fake):
    """A batch that never ends cannot hold the program; nor can one wait for itself."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=1)

    async def closes_itself(requests):
        await itself.aclose()
        return requests

    itself = RequestBatcher(closes_itself, batch_size=1)

    async def main():
        assert 1 == await itself.aadd(1)
        double.may_end.clear()
        running = asyncio.create_task(batcher.aadd(1))
        await asyncio.sleep(0)
        token = ambient.deadline.set(fake.now() + 3.0)
        with pytest.raises(DeadlineExceededError):
            await batcher.aclose()
        ambient.deadline.reset(token)
        double.may_end.set()
        assert 2 == await running

    fake.run(main())
    assert 3.0 == fake.now()


def test_flushing_runs_what_waits_now(fake):
    """In chunks, and it returns when they are over."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=3, delay=60.0)

    async def main():
        callers = [asyncio.create_task(batcher.aadd(number)) for number in range(5)]
        await asyncio.sleep(0)
        await batcher.aflush()
        assert [[0, 1, 2], [3, 4]] == double.batches
        return await asyncio.gather(*callers)

    assert [0, 2, 4, 6, 8] == fake.run(main())
    assert 0.0 == fake.now()


def test_the_end_of_the_loop_hangs_nobody():
    """A batch that `asyncio.run` cancels is an interrupted one."""
    outcomes, begun = [], asyncio.Event()

    async def process(requests):
        begun.set()
        await asyncio.sleep(3600)

    batcher = RequestBatcher(process, batch_size=1)

    async def ask():
        try:
            await asyncio.shield(batcher.aadd(1))
        except BaseException as error:
            outcomes.append(type(error))

    async def main():
        asyncio.create_task(ask())  # noqa: RUF006
        await begun.wait()

    asyncio.run(main())
    assert [asyncio.CancelledError] == outcomes
    assert 0 == batcher.get_stats()["running"]


@pytest.mark.parametrize("name", ["add", "submit"])
def test_blocking_requests_are_refused(name):
    """There is no loop that they could borrow; the error names the way."""
    batcher = RequestBatcher(Doubler(), name="lookups")
    with pytest.raises(TypeError, match=rf"{name} needs a plain batch function.*aadd"):
        getattr(batcher, name)(1)
    for end in (batcher.flush, batcher.close, batcher.__enter__):
        with pytest.raises(TypeError, match="aclose"):
            end()


def test_a_plain_function_is_flushed_and_closed_without_blocking_the_loop():
    """Both colours have both names."""
    asked = []
    batcher = RequestBatcher(lambda requests: asked.append(requests) or requests, delay=60.0)

    async def main():
        async with batcher:
            first = asyncio.create_task(batcher.aadd(1))
            await asyncio.sleep(0)
            await batcher.aflush()
            second = asyncio.create_task(batcher.aadd(2))
            await asyncio.sleep(0)
        return await first, await second

    assert (1, 2) == asyncio.run(main())
    assert [[1], [2]] == asked
