"""A policy that has served any number of calls holds no more than one that has served a few.

One pointer kept for every call is 80 KB after 10,000 of them. `PAINTKIT_CALLS=1000000` asks for more.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import tracemalloc
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

CALLS, WARM_UP = int(os.environ.get("PAINTKIT_CALLS", "10000")), 1_000
MOST = 64 * 1024

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


class Growth:
    """Bytes in use now beyond those at the end of the warm-up."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> "Growth":
        gc.collect()
        tracemalloc.start()
        return self

    def warm(self) -> None:
        gc.collect()
        self.bytes = -tracemalloc.get_traced_memory()[0]

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.bytes += tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()


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

    async def asynchronous(self, function: Any, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(OSError, RejectedError):
                await function()


@pytest.mark.parametrize("kind", [*POLICIES, *FEWER])
def test_calls_leave_nothing(colour, clock, kind):
    """Of mixed outcomes, in both colours: at most 64 KiB more than after the warm-up."""
    calls = CALLS if kind in POLICIES else CALLS // 10
    load = Load(clock)
    function = (POLICIES | FEWER)[kind]()(colour.function(load.body))

    async def main() -> None:
        await load.asynchronous(function, WARM_UP)
        growth.warm()
        await load.asynchronous(function, calls)

    with Growth() as growth:
        if colour is Colour.ASYNCIO:
            clock.run(main())
        else:
            load.blocking(function, WARM_UP)
            growth.warm()
            load.blocking(function, calls)
        clock.sleeps.clear()  # the clock's own diary is not the policy's

    assert growth.bytes <= MOST


def test_the_measure_catches_a_leak(clock):
    """One number kept for every call is too much."""
    kept: list[float] = []
    with Growth() as growth:
        growth.warm()
        for call in range(20_000):
            kept.append(call * 1.5)
    assert growth.bytes > MOST


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
        await expire(500)
        growth.warm()
        await expire(3_000)

    with Growth() as growth:
        clock.run(main())
    assert growth.bytes <= MOST
