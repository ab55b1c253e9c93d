"""The pytest plugin: fixtures of the testing kit, which cost nothing until a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paintkit.testing.clock import FakeClock

__all__ = ["paintkit_clock"]


@pytest.fixture
def paintkit_clock() -> Iterator[FakeClock]:
    """Virtual time for this test: a `paintkit.testing.FakeClock` that starts at 0."""
    from paintkit.testing.clock import FakeClock

    with FakeClock() as clock:
        yield clock
