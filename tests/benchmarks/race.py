"""Contenders take turns, and every lap is compared with the baseline's lap of the same round."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any, NamedTuple

Timer = Callable[[], float]

#: What every measured function is called with, and what it has to answer.
ARGUMENT = 7

_LAP_SECONDS = 0.001
_CALLS_PER_TURN = 10
# Long enough for threads to change places, which they do every 5 ms.
_THREADED_LAP_SECONDS = 0.02


class Lane(NamedTuple):
    """One contender: `lap` measures once and returns seconds per call."""

    name: str
    lap: Callable[[], float]


class Standing(NamedTuple):
    """How one contender did: the median of its laps, and its ratios to the baseline, round by round."""

    name: str
    seconds: float
    ratio: float
    low: float
    high: float

    def verdict(self, target: float) -> str:
        """Say whether the median ratio reached the target."""
        return "met" if self.ratio <= target else "MISSED"


def race(lanes: Sequence[Lane], rounds: int) -> list[Standing]:
    """Let the lanes take turns, in alternating order; the first is the baseline.

    Args:
        lanes: The contenders.
        rounds: How many laps each runs (>= 2).
    """
    laps: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for number in range(rounds):
        with _no_collection():
            for lane in lanes if number % 2 else reversed(lanes):
                laps[lane.name].append(lane.lap())
    baseline = laps[lanes[0].name]
    return [_standing(lane.name, laps[lane.name], baseline) for lane in lanes]


def blocking_lap(call: Callable[[int], object], timer: Timer = time.thread_time) -> Callable[[], float]:
    """Return the lap of a blocking function, long enough for the timer."""
    turn = blocking_turn(call)

    def lap(turns: int) -> float:
        start = timer()
        turn(turns)
        return timer() - start

    return _sized(lap)


def blocking_turn(call: Callable[[int], object]) -> Callable[[int], None]:
    """Return what makes so many turns of ten calls each."""

    def turn(turns: int) -> None:
        for _ in range(turns):  # ten calls a turn: the loop itself must not weigh in
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)
            call(ARGUMENT)

    return turn


def threaded_lap(
    call: Callable[[int], object], threads: int, timer: Timer = time.perf_counter
) -> Callable[[], float]:
    """Return the lap of a blocking function that several threads call at once: real seconds per call."""
    turn = blocking_turn(call)

    def lap(turns: int) -> float:
        start = timer()
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(turn, turns) for _ in range(threads)]:
                done.result()
        return timer() - start

    # Sized by what one thread takes: a hiccup of the scheduler must not pass for a long lap.
    alone = blocking_lap(call, timer)()
    turns = max(1, round(_THREADED_LAP_SECONDS / (alone * _CALLS_PER_TURN * threads)))
    return lambda: lap(turns) / (turns * _CALLS_PER_TURN * threads)


def asyncio_lap(
    call: Callable[[int], Awaitable[object]], runner: asyncio.Runner, timer: Timer = time.thread_time
) -> Callable[[], float]:
    """Return the lap of a coroutine function, awaited inside the loop of `runner`."""

    async def lap(turns: int) -> float:
        start = timer()
        for _ in range(turns):
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
            await call(ARGUMENT)
        return timer() - start

    return _sized(lambda turns: runner.run(lap(turns)))


def bare(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a blocking function and do nothing: the unit of all ratios."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def bare_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a coroutine function and do nothing: the unit of all ratios in asyncio."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


def _sized(lap: Callable[[int], float]) -> Callable[[], float]:
    """Find out how many turns fill a lap; what is returned measures seconds per call."""
    turns = 1
    while lap(turns) < _LAP_SECONDS:
        turns *= 2
    return lambda: lap(turns) / (turns * _CALLS_PER_TURN)


def _standing(name: str, laps: list[float], baseline: list[float]) -> Standing:
    ratios = [lap / base for lap, base in zip(laps, baseline, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return Standing(name, median(laps), median(ratios), low, high)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the laps; it runs between rounds."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
