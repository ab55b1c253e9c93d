"""Until when a value is fresh, and until when it is of any use."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.freshness import PAUSE, Freshness, Life, rounded

times = st.floats(1e-3, 1e7)
chances = st.floats(0.0, 1.0, exclude_max=True)
Plan = Callable[[float, float, float], Life]


def plan(timeout: float, jitter: float, chance: float) -> Life:
    """Plan a life with the given chance."""
    return Freshness(jitter=jitter).plan(timeout, 0.0, lambda: chance)


def spans(life: Life) -> tuple[float, float, float, float | None]:
    """Return what a life consists of, to be compared."""
    return life.due, life.expires, life.leaves, life.span


def check_plan(plan: Plan, timeout: float, jitter: float, chance: float) -> None:
    """Jitter takes away at most its part and never adds; the order of the spans is that of their names."""
    life = plan(timeout, jitter, chance)
    assert life.due <= life.expires <= life.leaves
    assert timeout * (1.0 - jitter) * (1.0 - 1e-9) <= life.expires <= timeout
    assert life.span is not None
    assert life.leaves <= life.span


@given(times, st.floats(0.0, 1.0), chances)
def test_a_life_is_never_longer_than_its_timeout(timeout: float, jitter: float, chance: float) -> None:
    """Whatever chance says, a value is fresh for no longer than its timeout."""
    check_plan(plan, timeout, jitter, chance)


def test_the_check_catches_jitter_that_lengthens() -> None:
    """A plan that adds its jitter does not pass."""

    def longer(timeout: float, jitter: float, chance: float) -> Life:
        expires = timeout * (1.0 + jitter * chance)
        return Life(expires, expires, expires, timeout)

    with pytest.raises(AssertionError):
        check_plan(longer, 10.0, 0.5, 0.5)


@given(times, st.floats(0.0, 1.0), times, st.floats(0.0, 0.999))
def test_a_value_is_renewed_in_the_last_part_of_its_time(
    timeout: float, early: float, seconds: float, chance: float
) -> None:
    """The lead never exceeds its part, and grows with the load and with chance."""
    plan = Freshness(early=early).plan
    life = plan(timeout, seconds, lambda: chance)
    assert life.expires - life.due <= early * timeout + 1e-6 * timeout
    assert life.due <= life.expires == life.leaves
    assert plan(timeout, 2 * seconds, lambda: chance).due <= life.due
    assert plan(timeout, seconds, lambda: (1.0 + chance) / 2).due <= life.due


def test_the_lead_is_that_of_xfetch() -> None:
    """A load of a second leads by a second on average, as an exponential distribution has it."""
    draws = [(number + 0.5) / 1_000 for number in range(1_000)]
    random = iter(draws).__next__
    leads = [100.0 - Freshness(early=1.0).plan(100.0, 1.0, random).due for _ in draws]
    assert sum(leads) / len(leads) == pytest.approx(1.0, rel=0.01)


def test_an_old_value_helps_out_as_long_as_promised() -> None:
    """Each grace counts from the end of freshness, and the value leaves with the longer one."""
    freshness = Freshness(stale=5.0, stale_on_error=20.0)
    life = freshness.plan(10.0, 1.0, lambda: 0.5)
    assert (10.0, 10.0, 30.0, 30.0) == spans(life)
    assert [True, False] == [freshness.helps_out(now, life.expires) for now in (14.9, 15.0)]
    assert [True, False] == [freshness.helps_in_need(now, life.expires) for now in (29.9, 30.0)]
    assert [12.0 + PAUSE, 30.0] == [freshness.pause(now, life.leaves) for now in (12.0, 29.0)]


def test_without_jitter_a_life_is_exact() -> None:
    """No option, no chance: the life ends with the timeout, or never."""
    assert (10.0, 10.0, 10.0, 10.0) == spans(Freshness().plan(10.0, 1.0, lambda: 0.9))
    for_ever = Freshness(jitter=0.5).plan(None, 1.0, lambda: 0.9)
    assert (math.inf, math.inf, math.inf, None) == spans(for_ever)


@pytest.mark.parametrize(
    ("ends", "plain"),
    [((5.0, 5.0, 5.0), True), ((4.0, 5.0, 5.0), False), ((5.0, 5.0, 6.0), False), ((4.0, 5.0, 6.0), False)],
)
def test_a_life_is_plain_if_all_its_ends_are_one(ends: tuple[float, float, float], plain: bool) -> None:
    """Then one instant tells it all."""
    assert plain is Life(*ends, 6.0).plain


def test_chance_has_its_part_in_the_shortest_life() -> None:
    """A fraction of a second is shortened, and renewed early, as a day is; what was over before it came stays so."""
    assert 0.25 == Freshness(jitter=1.0).plan(0.5, 1.0, lambda: 0.5).expires
    assert 0.25 == Freshness(early=0.5).plan(0.5, 9.0, lambda: 0.5).due
    for freshness in (Freshness(jitter=1.0), Freshness(early=1.0)):
        assert (-2.0, -2.0, -2.0, -2.0) == spans(freshness.plan(-2.0, 1.0, lambda: 0.5))


@pytest.mark.parametrize(
    ("freshness", "steady"),
    [
        (Freshness(stale=1.0, stale_on_error=2.0), True),
        (Freshness(jitter=0.1), False),
        (Freshness(early=0.1), False),
    ],
)
def test_a_steady_life_needs_no_chance(freshness: Freshness, steady: bool) -> None:
    """It can be planned once for all values; where chance has a part in it, it cannot."""
    draws: list[None] = []
    for _ in range(2):
        freshness.plan(10.0, 1.0, lambda: draws.append(None) or 0.5)
    assert steady is freshness.steady is (not draws)


@given(times)
def test_rounded_lengths_are_few_and_no_shorter(seconds: float) -> None:
    """A rounded length covers the true one, wastes less than a fifth, and is its own rounding."""
    found = rounded(seconds)
    assert seconds <= found * (1 + 1e-9) <= 1.2 * seconds
    assert found == pytest.approx(rounded(found), rel=0.2)
    assert math.inf == rounded(math.inf)


def test_a_doubling_of_lengths_is_rounded_to_four() -> None:
    """Lives of any length need few books."""
    assert 4 == len({rounded(1.0 + number / 1_000) for number in range(1, 1_001)})
