"""Until when a value is fresh, and until when it is of any use."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.freshness import Freshness, Life, rounded

times = st.floats(1e-3, 1e7)
chances = st.floats(0.0, 1.0, exclude_max=True)
Plan = Callable[[float, float, float, float], Life]


def plan(now: float, timeout: float, jitter: float, chance: float) -> Life:
    """Plan a life with the given chance."""
    return Freshness(jitter=jitter).plan(now, timeout, lambda: chance)


def check_plan(plan: Plan, now: float, timeout: float, jitter: float, chance: float) -> None:
    """Jitter takes away at most its part and never adds; the order of the instants is that of their names."""
    life = plan(now, timeout, jitter, chance)
    assert life.due <= life.expires <= life.leaves
    assert now + timeout * (1.0 - jitter) - 1e-6 * now <= life.expires <= now + timeout
    assert life.span is not None
    assert life.leaves <= now + life.span


@given(times, times, st.floats(0.0, 1.0), chances)
def test_a_life_is_never_longer_than_its_timeout(
    now: float, timeout: float, jitter: float, chance: float
) -> None:
    """Whatever chance says, a value is fresh for no longer than its timeout."""
    check_plan(plan, now, timeout, jitter, chance)


def test_the_check_catches_jitter_that_lengthens() -> None:
    """A plan that adds its jitter does not pass."""

    def longer(now: float, timeout: float, jitter: float, chance: float) -> Life:
        expires = now + timeout * (1.0 + jitter * chance)
        return Life(expires, expires, expires, timeout)

    with pytest.raises(AssertionError):
        check_plan(longer, 0.0, 10.0, 0.5, 0.5)


def test_without_jitter_a_life_is_exact() -> None:
    """No option, no chance: the life ends with the timeout, or never."""
    assert Life(15.0, 15.0, 15.0, 10.0) == Freshness().plan(5.0, 10.0, lambda: 0.9)
    assert Life(math.inf, math.inf, math.inf, None) == Freshness(jitter=0.5).plan(5.0, None, lambda: 0.9)


@given(times)
def test_rounded_lengths_are_few_and_no_shorter(seconds: float) -> None:
    """A rounded length covers the true one, wastes less than a fifth, and is its own rounding."""
    found = rounded(seconds)
    assert seconds <= found * (1 + 1e-9) <= 1.2 * seconds
    assert found == pytest.approx(rounded(found), rel=0.2)
    assert math.inf == rounded(math.inf)
