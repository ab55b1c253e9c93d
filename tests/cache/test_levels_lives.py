"""What ends a call of a shared function early, or copies it: cancellation at every await, and a fork."""

import asyncio
import os

import pytest

from paintkit.testing import FakeClock, FakeServer
from tests.cache.processes import Process
from tests.colours import Colour
from tests.suspensions import at_every_await


@pytest.fixture
def clock():
    """Virtual time."""
    with FakeClock() as clock:
        yield clock


def test_a_call_can_be_cancelled_at_every_await(clock):
    """T6: wherever its caller is cancelled, nothing is stuck, and the next call in either process has the value."""

    def scenario(interrupted):
        server, table = FakeServer(), {"red": 1}
        here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))

        async def main():
            call = asyncio.ensure_future(_await(interrupted(here.price("red"))))
            try:
                await call
            except asyncio.CancelledError:
                cancelled = True
            else:
                cancelled = False
            assert 1 == await here.price("red")
            assert 1 == await there.price("red")
            return cancelled

        return clock.run(main())

    assert at_every_await(scenario) >= 1


@pytest.mark.parametrize("extra", ["invalidate", "refresh", "put"])
def test_an_extra_can_be_cancelled_at_every_await(clock, extra):
    """An extra that did not return promises nothing; the next one does what it says."""

    def scenario(interrupted):
        server, table = FakeServer(), {"red": 1}
        here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))

        async def main():
            assert 1 == await here.price("red") == await there.price("red")
            table["red"] = 7
            calls = {
                "invalidate": lambda: here.price.invalidate("red"),
                "refresh": lambda: here.price.refresh("red"),
                "put": lambda: here.price.put(7, "red"),
            }
            try:
                await asyncio.ensure_future(_await(interrupted(calls[extra]())))
            except asyncio.CancelledError:
                cancelled = True
            else:
                cancelled = False
            if cancelled:
                await calls[extra]()
            assert 7 == await here.price("red") == await there.price("red")
            return cancelled

        return clock.run(main())

    assert at_every_await(scenario) >= 1


def test_a_load_goes_on_for_those_who_still_wait(clock):
    """T6: of two who wait for the level one is cancelled at any await; the other has its value, from one load."""

    def scenario(interrupted):
        here = Process(FakeServer(), Colour.ASYNCIO).define({"red": 1})

        async def main():
            first = asyncio.ensure_future(_await(interrupted(here.price("red"))))
            second = asyncio.ensure_future(here.price("red"))
            assert 1 == await second
            return isinstance(
                (await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError
            )

        cancelled = clock.run(main())
        assert 1 == len(here.loads)
        return cancelled

    assert at_every_await(scenario) >= 1


async def _await(something):
    return await something


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_verifies_its_copies():
    """T7: nobody listens in the child yet: it asks before it serves what it inherited, and only once."""
    here = Process(FakeServer(), Colour.BLOCKING).define({"red": 1})
    here()
    looks = here.level.counts["looked"]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            right = [here(), here()] == [1, 1] and here.loads == ["red"]
            code = 0 if right and here.level.counts["looked"] == looks + 1 else 2
        finally:
            os._exit(code)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 1 == here()
    assert looks == here.level.counts["looked"]
