"""The retry plan: so many attempts, no wait beyond what time is left, and no server's word broken."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.retrying import GiveUp, RetryPlan, Wait
from paintkit.testing.strategies import durations

instants = durations(longest=100.0)
times = st.just(math.inf) | instants


@given(st.integers(1, 20))
def test_makes_as_many_attempts_as_it_may(attempts):
    """The first included; then it gives up."""
    plan = RetryPlan(attempts)
    for made in range(1, attempts):
        assert made == plan.made
        assert isinstance(plan.after_failure(0.0, 1.0), Wait)
        plan.start()

    assert GiveUp("attempts") == plan.after_failure(0.0, 1.0)


@given(instants, durations(), durations(), times, times)
def test_no_wait_goes_beyond_the_time_left(now, delay, hint, give_up_at, due):
    """A wait ends in time for an attempt, by the policy's span and before the deadline; else there is none."""
    decision = RetryPlan(2, give_up_at).after_failure(now, delay, hint=hint, due=due)

    if isinstance(decision, Wait):
        assert now + decision.seconds <= give_up_at
        assert now + decision.seconds < due
    else:
        assert decision.reason in {"max_elapsed", "deadline"}
        wait = max(delay, hint)
        assert now + wait >= min(give_up_at, due)


@given(durations(), durations())
def test_a_wait_is_never_shorter_than_asked_for(delay, hint):
    """Neither by the schedule nor by the server."""
    decision = RetryPlan(2).after_failure(0.0, delay, hint=hint)

    assert Wait(max(delay, hint)) == decision


@given(durations(longest=100.0), st.floats(1.0, 1.1))
def test_a_hint_is_followed_with_a_spread(hint, spread):
    """A little later than asked for, within the time that is left; the cap is for what was asked."""
    plan = RetryPlan(2, longest_hint=hint)

    assert Wait(hint * spread) == plan.after_failure(0.0, 0.0, hint=hint, spread=spread)
    assert GiveUp("deadline") == plan.after_failure(0.0, 0.0, hint=hint, spread=spread, due=hint * spread)


@given(durations(longest=10.0), durations(longest=10.0))
def test_a_server_that_asks_for_too_much_is_left_alone(hint, longest):
    """Coming earlier would break its word, so nobody comes at all."""
    decision = RetryPlan(2, longest_hint=longest).after_failure(0.0, 0.0, hint=hint)

    assert (GiveUp("retry_after") if hint > longest else Wait(hint)) == decision


@pytest.mark.parametrize("delay", [-1.0, -math.inf, math.nan, 0.0])
def test_what_is_no_positive_number_is_no_wait(delay):
    """A schedule of the user's own may say anything; nobody sleeps a negative time."""
    assert Wait(0.0) == RetryPlan(2).after_failure(0.0, delay)


@pytest.mark.parametrize(
    ("options", "asked", "reason"),
    [
        ({"attempts": 1, "give_up_at": 0.0}, {"delay": 1.0, "hint": 1e9, "due": 0.0}, "attempts"),
        ({"attempts": 2, "give_up_at": 0.0, "longest_hint": 1.0}, {"delay": 1.0, "hint": 2.0}, "retry_after"),
        ({"attempts": 2}, {"delay": 1.0, "due": 0.5}, "deadline"),
        ({"attempts": 2, "give_up_at": 0.5}, {"delay": 1.0}, "max_elapsed"),
    ],
    ids=["attempts", "retry_after", "deadline", "max_elapsed"],
)
def test_gives_the_first_reason(options: dict[str, Any], asked: dict[str, Any], reason):
    """Attempts before a server's hint, a hint before time."""
    assert GiveUp(reason) == RetryPlan(**options).after_failure(0.0, **asked)


def test_an_attempt_at_the_deadline_is_too_late():
    """At the very end of the policy's own span it is not."""
    assert GiveUp("deadline") == RetryPlan(2).after_failure(0.0, 1.0, due=1.0)
    assert Wait(1.0) == RetryPlan(2, give_up_at=1.0).after_failure(0.0, 1.0)
