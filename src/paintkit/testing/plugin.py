"""The pytest plugin: fixtures and a marker of the testing kit, which cost nothing until a test asks for one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paintkit.sqlalchemy import query_guard
    from paintkit.testing.clock import FakeClock

__all__ = ["paintkit_clock", "paintkit_mutation_guard", "paintkit_query_guard"]


@pytest.fixture
def paintkit_clock() -> Iterator[FakeClock]:
    """Virtual time for this test: a `paintkit.testing.FakeClock` that starts at 0."""
    from paintkit.testing.clock import FakeClock

    with FakeClock() as clock:
        yield clock


@pytest.fixture
def paintkit_mutation_guard() -> Iterator[None]:
    """Let this test fail if anything changes a value that a cache shares: `paintkit.testing.mutation_guard`."""
    from paintkit.testing.caches import mutation_guard

    with mutation_guard():
        yield


@pytest.fixture
def paintkit_query_guard() -> type[query_guard]:
    """What limits the statements of a block: `paintkit.sqlalchemy.query_guard`."""
    from paintkit.sqlalchemy import query_guard

    return query_guard


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for `--strict-markers`."""
    config.addinivalue_line(
        "markers",
        "query_guard(max_queries=None, lazy_threshold=2, repeat_threshold=5): fail if the test, without its fixtures, runs "
        "more statements, or one for each row.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a marked test under a `paintkit.sqlalchemy.query_guard`."""
    mark = item.get_closest_marker("query_guard")
    if mark is None:
        return (yield)
    from paintkit.sqlalchemy import query_guard

    with query_guard(*mark.args, **mark.kwargs):
        return (yield)
