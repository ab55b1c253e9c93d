import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks.race import (
    Lane,
    Standing,
    asyncio_lap,
    bare,
    bare_async,
    blocking_lap,
    race,
    threaded_lap,
)

CALL_SECONDS = 0.0001


class Work:
    """A function whose every call takes the same time on a clock of its own."""

    def __init__(self) -> None:
        self.clock = 0.0
        self._ticking = (
            threading.Lock()
        )  # guards the clock: a tick that is lost among threads changes a ratio

    def __call__(self, number: int) -> int:
        with self._ticking:
            self.clock += CALL_SECONDS
        return number

    async def coroutine(self, number: int) -> int:
        return self(number)

    def timer(self) -> float:
        return self.clock


def twenty_calls_too_many(fn: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(number: int) -> Any:
        for _ in range(20):
            fn(number)
        return fn(number)

    return wrapper


def twenty_awaits_too_many(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(number: int) -> Any:
        for _ in range(20):
            await fn(number)
        return await fn(number)

    return wrapper


def standings(*contenders: Callable[..., Any]) -> list[Standing]:
    work = Work()
    lanes = [Lane(make.__name__, blocking_lap(make(work), work.timer)) for make in contenders]
    return race(lanes, rounds=4)


def test_a_contender_as_quick_as_the_baseline_meets_its_target() -> None:
    """The same work takes the same time: ratio 1, whatever a call costs."""
    baseline, other = standings(bare, lambda fn: fn)

    assert CALL_SECONDS == pytest.approx(baseline.seconds)
    assert 1.0 == pytest.approx(other.ratio)
    assert "met" == other.verdict(1.15)


def test_a_slow_contender_is_told() -> None:
    """Twenty needless calls are a ratio of 21, and the verdict says so."""
    _, slow = standings(bare, twenty_calls_too_many)

    assert 21.0 == pytest.approx(slow.ratio)
    assert "MISSED" == slow.verdict(1.6)


def test_a_slow_coroutine_is_told() -> None:
    """The same in asyncio: what is awaited within a lap is in its time."""
    work = Work()
    with asyncio.Runner() as runner:
        lanes = [
            Lane(make.__name__, asyncio_lap(make(work.coroutine), runner, work.timer))
            for make in (bare_async, twenty_awaits_too_many)
        ]
        baseline, slow = race(lanes, rounds=4)

    assert CALL_SECONDS == pytest.approx(baseline.seconds)
    assert 21.0 == pytest.approx(slow.ratio)
    assert "MISSED" == slow.verdict(1.15)


def test_a_slow_contender_is_told_among_threads() -> None:
    """The same when several threads call: their calls are counted together."""
    work = Work()
    lanes = [
        Lane(make.__name__, threaded_lap(make(work), 2, work.timer)) for make in (bare, twenty_calls_too_many)
    ]
    baseline, slow = race(lanes, rounds=4)

    assert CALL_SECONDS == pytest.approx(baseline.seconds)
    assert 21.0 == pytest.approx(slow.ratio)
    assert "MISSED" == slow.verdict(1.15)


def test_laps_take_turns_in_alternating_order() -> None:
    """No contender runs after the same neighbour all the time."""
    ran: list[str] = []

    def lane(name: str) -> Lane:
        def lap() -> float:
            ran.append(name)
            return 1.0

        return Lane(name, lap)

    race([lane("a"), lane("b"), lane("c")], rounds=3)

    assert list("cbaabccba") == ran


def test_a_disturbance_of_whole_rounds_cancels_out() -> None:
    """A machine that is ten times slower every other round changes no ratio, for laps are compared within a round."""
    speeds = [1.0, 10.0] * 5
    lanes = [
        Lane("base", iter([0.1 * speed for speed in speeds]).__next__),
        Lane("other", iter([0.3 * speed for speed in speeds]).__next__),
    ]

    _, other = race(lanes, rounds=10)

    assert (3.0, 3.0, 3.0) == (
        pytest.approx(other.ratio),
        pytest.approx(other.low),
        pytest.approx(other.high),
    )


def test_a_single_disturbed_lap_does_not_move_the_median() -> None:
    """One lap during which something else ran is an outlier, not a result."""
    lanes = [
        Lane("base", iter([0.1] * 9).__next__),
        Lane("other", iter([0.1] * 8 + [50.0]).__next__),
    ]

    _, other = race(lanes, rounds=9)

    assert 1.0 == pytest.approx(other.ratio)
