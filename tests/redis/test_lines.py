"""Lines of asyncio: how long one waits for an answer."""

import asyncio

import pytest

from paintkit.redis.lines import Patience
from paintkit.testing import FakeClock


@pytest.fixture
def clock():
    """Virtual time."""
    with FakeClock() as clock:
        yield clock


def test_a_wait_ends_after_its_own_time(clock):
    """The timer that an earlier wait has left running ends no later one too early, nor too late."""

    async def scenario():
        loop, patience = asyncio.get_running_loop(), Patience()
        patience.begin(loop, 1.0)
        await asyncio.sleep(0.75)
        assert not patience.end()
        began = loop.time()
        patience.begin(loop, 1.0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        assert patience.end()
        return loop.time() - began

    assert 1.0 == pytest.approx(clock.run(scenario()))


def test_a_wait_that_has_ended_cancels_nobody(clock):
    """What a task does after its answer came is none of the timer's business."""

    async def scenario():
        patience = Patience()
        patience.begin(asyncio.get_running_loop(), 1.0)
        patience.end()
        await asyncio.sleep(60)
        return asyncio.current_task().cancelling()

    assert 0 == clock.run(scenario())


def test_a_wait_that_somebody_cancels_is_cancelled(clock):
    """T6: who is cancelled by others, too, is no matter of time."""

    async def scenario():
        patience = Patience()
        patience.begin(asyncio.get_running_loop(), 1.0)
        asyncio.get_running_loop().call_later(1.0, asyncio.current_task().cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        assert not patience.end()
        return asyncio.current_task().uncancel()

    assert 0 == clock.run(scenario())
