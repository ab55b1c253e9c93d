"""A policy that has served any number of calls holds no more than one that has served a few.

One pointer kept for every call is 40 KB after 5,000 of them. `PAINTKIT_CALLS=1000000` asks for more.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paintkit import (
    RejectedError,
    RetryBudget,
    backoff,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    pipeline,
    rate_limit,
    retry,
    timeout,
)
from paintkit.testing import FakeClock
from tests.colours import Colour
from tests.growth import Growth

CALLS, WARM_UP = int(os.environ.get("PAINTKIT_CALLS", "10000")), 1_000
MOST = 32 * 1024

AT_ONCE = backoff.constant(0)

POLICIES: dict[str, Callable[[], Any]] = {
    "retry": lambda: retry(on=OSError, attempts=2, backoff=AT_ONCE, budget=RetryBudget(), max_elapsed=5),
    "streak": lambda: circuit_breaker(failure_threshold=20, recovery_timeout=0.1),
    "time window": lambda: circuit_breaker(slow_call_duration=1.0, recovery_timeout=0.1),
    "count window": lambda: circuit_breaker(window_calls=100, recovery_timeout=0.1),
    "bulkhead": lambda: bulkhead(2, max_wait=1.0),
    "rate limit": lambda: rate_limit(100, burst=5, max_wait=0.005),
    "fallback": lambda: fallback("instead", on=OSError),
    "deadline": lambda: deadline(5.0),
    "timeout": lambda: timeout(1.0, cooperative=True),
    "pipeline": lambda: pipeline(
        fallback("instead", on=RejectedError),
        deadline(5.0),
        retry(on=OSError, attempts=2, backoff=AT_ONCE, budget=RetryBudget()),
        rate_limit(1000),
        bulkhead(2, max_wait=1.0),
        circuit_breaker(recovery_timeout=0.1),
        timeout(1.0, cooperative=True),
    ),
}
# A task or a thread for every call takes its time: fewer calls say the same.
FEWER = {"hedge": lambda: hedge("p95", idempotent=True, budget=RetryBudget())}


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


class Load:
    """Calls a function of mixed outcomes again and again, while time passes."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._numbers = itertools.count()

    def body(self) -> str:
        number = next(self._numbers)
        if number % 50 == 0:
            self._clock.advance(0.01)
        if number % 7 == 0:
            raise OSError
        return "done"

    def blocking(self, function: Any, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(OSError, RejectedError):
                function()
        self._clock.sleeps.clear()  # the clock's own diary is not the policy's

    async def asynchronous(self, function: Any, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(OSError, RejectedError):
                await function()
        self._clock.sleeps.clear()


@pytest.mark.parametrize("kind", [*POLICIES, *FEWER])
def test_calls_leave_nothing(colour, clock, kind):
    """Of mixed outcomes, in both colours: at most 32 KiB more than before them."""
    half = CALLS // 2 if kind in POLICIES else CALLS // 20
    load = Load(clock)
    function = (POLICIES | FEWER)[kind]()(colour.function(load.body))

    async def main() -> None:
        for calls in (WARM_UP, half):
            await load.asynchronous(function, calls)
            growth.mark()
        await load.asynchronous(function, half)

    with Growth() as growth:
        if colour is Colour.ASYNCIO:
            clock.run(main())
        else:
            for calls in (WARM_UP, half):
                load.blocking(function, calls)
                growth.mark()
            load.blocking(function, half)

    assert growth.bytes <= MOST, growth.others


def test_the_measure_catches_a_leak():
    """One number kept for every call is too much."""
    kept: list[float] = []
    with Growth() as growth:
        for _half in range(2):
            growth.mark()
            kept.extend(call * 1.5 for call in range(5_000))
    assert growth.bytes > MOST


@pytest.mark.parametrize("doubles", [0, 1])
def test_the_measure_passes_over_a_table_that_doubles(doubles):
    """Once, in whichever half that is."""
    table: list[bytes] = []
    with Growth() as growth:
        for half in range(2):
            growth.mark()
            if half == doubles:
                table.append(bytes(200_000))
    assert growth.bytes <= MOST, growth.others


def test_timeouts_that_expire_leave_nothing(clock):
    """Neither timers nor tasks."""
    policy = timeout(0.5)

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def expire(calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(TimeoutError):
                await policy.acall(hang)

    async def main() -> None:
        for calls in (500, 1_500):
            await expire(calls)
            growth.mark()
        await expire(1_500)

    with Growth() as growth:
        clock.run(main())
    assert growth.bytes <= MOST, growth.others
