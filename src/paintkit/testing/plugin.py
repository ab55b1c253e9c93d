"""The pytest plugin: fixtures of the testing kit, which cost nothing until a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paintkit.sqlalchemy import query_guard
    from paintkit.testing.clock import FakeClock

__all__ = ["paintkit_clock", "paintkit_query_guard"]


@pytest.fixture
def paintkit_clock() -> Iterator[FakeClock]:
    """Virtual time for this test: a `paintkit.testing.FakeClock` that starts at 0."""
    from paintkit.testing.clock import FakeClock

    with FakeClock() as clock:
        yield clock


@pytest.fixture
def paintkit_query_guard() -> type[query_guard]:
    """What limits the statements of a block: `paintkit.sqlalchemy.query_guard`."""
    from paintkit.sqlalchemy import query_guard

    return query_guard
