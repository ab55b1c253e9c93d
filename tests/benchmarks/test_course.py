import asyncio
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.benchmarks import contenders, course
from tests.benchmarks.rows import ROWS, Entry, ImportRow, Row


@pytest.fixture(scope="module", autouse=True)
def _close_the_contenders() -> Iterator[None]:
    yield
    contenders.close()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def seconds() -> Callable[[], float]:
    """A timer on which a second passes between two looks: one call fills a lap."""
    return map(float, itertools.count()).__next__


def forgetful(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Protects by calling, and calls itself a cache."""
    return fn


def wrong(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda number: fn(number) + 1


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row, Row)], ids=lambda row: row.title)
def test_our_contender_does_what_its_row_measures(row: Row, runner: asyncio.Runner) -> None:
    """Before anything is timed, our contender has answered right and reached the function as often as it should."""
    if row.server:
        services.place(row.server)
    alone = row._replace(rivals=())

    lanes = course.lanes(alone, runner, seconds())

    first = "bare wrapper" if row.baseline is None else row.baseline.name
    assert [first, row.ours.name] == [lane.name for lane in lanes]


def test_a_baseline_that_does_something_else_is_unfair(runner: asyncio.Runner) -> None:
    """What the ratios are to is looked at like any contender."""
    row = Row("work", 1.3, Entry("paintkit", forgetful), (), baseline=Entry("Python", wrong))

    with pytest.raises(course.UnfairError, match="Python answers 8 instead of 7"):
        course.lanes(row, runner, seconds())


def test_a_hit_that_reaches_the_function_is_unfair(runner: asyncio.Runner) -> None:
    """A cache that does not cache would win every race: it is not let in."""
    row = Row("hit", 1.6, Entry("paintkit", forgetful), (), hit=True)

    with pytest.raises(course.UnfairError, match="reached the function 3 times"):
        course.lanes(row, runner, seconds())


def test_a_contender_with_a_wrong_answer_is_unfair(runner: asyncio.Runner) -> None:
    """Quick and wrong is not quick."""
    row = Row("retry", 1.15, Entry("paintkit", wrong), ())

    with pytest.raises(course.UnfairError, match="answers 8 instead of 7"):
        course.lanes(row, runner, seconds())


def test_a_rival_that_is_not_installed_is_missing(runner: asyncio.Runner) -> None:
    """Its lane stays empty, and it is named."""
    absent = Entry("paintkit-has-no-such-rival", forgetful)
    row = Row("retry", 1.15, Entry("paintkit", forgetful), (absent,))

    lanes = course.lanes(row, runner, seconds())

    assert ["bare wrapper", "paintkit"] == [lane.name for lane in lanes]
    assert [absent] == course.missing(row)


def test_the_targets_are_those_of_the_design() -> None:
    """What each row must reach is written down twice, so that nobody moves a target by accident."""
    expected = {
        "retry, def": 1.15,
        "retry, async def": 1.15,
        "breaker, streak, def": 1.4,
        "breaker, 30 s window, def": 2.2,
        "breaker, 30 s window, async def": 1.6,
        "breaker, 30 s window with slow calls, def": 2.6,
        "breaker, 30 s window with slow calls, async def": 1.9,
        "rate limit, def": 3.5,
        "bulkhead, def": 2.0,
        "timeout, async def": 10.0,
        "retry + breaker window, def": 2.8,
        "retry + rate limit + bulkhead + breaker window, def": 6.5,
        "retry, 4 threads": 1.15,
        "breaker, 30 s window, 4 threads": 2.2,
        "retry + rate limit + bulkhead + breaker window, 4 threads": 6.5,
        "cache hit: typed key, TTL, tags, statistics, def": 1.6,
        "cache hit: typed key, TTL, tags, statistics, async def": 1.15,
        "cache hit: typed key, TTL, tags, statistics, 4 threads": 1.6,
        "cache miss, def": 25.0,
        "cache miss, async def": 50.0,
        "cache miss with a tag, def": 25.0,
        "cache miss with a tag, async def": 50.0,
        "cache hit in Redis, def": 1.3,
        "cache hit in Redis, async def": 1.3,
        "unit of work, block with one statement": 1.3,
        "unit of work, decorator with one statement": 1.3,
        "unit of work on PostgreSQL, block with one statement": 1.3,
        "unit of work that writes one row, resolve_commits": 1.4,
        "query cache hit, one row": 0.2,
        "query cache hit, a hundred entities": 1.5,
        "checkout with leak detection": 2.0,
        "publish to three handlers, isolated from each other": 2.0,
        "record a duration": 1.0,
        "measure, def": 9.0,
        "import in a fresh process": 0.7,
    }

    assert expected == {row.title: row.target for row in ROWS}


def test_an_import_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    """A lap imports there, not here, and returns the seconds that it took."""
    row = ImportRow("import", 0.7, ("nothing", "pass"), ("import paintkit",))

    lanes = course.import_lanes(row, tmp_path)

    assert ["pass", "import paintkit"] == [lane.name for lane in lanes]
    assert all(lane.lap() >= 0 for lane in lanes)


def test_an_import_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """A statement that raises stops the command."""
    row = ImportRow("import", 0.7, ("nothing", "import paintkit_is_not_called_that"), ())

    with pytest.raises(subprocess.CalledProcessError):
        course.import_lanes(row, tmp_path)
