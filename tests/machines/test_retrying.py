"""The retry plan: so many attempts, no wait beyond what time is left, and no server's word broken."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

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


class Walk(RuleBasedStateMachine):
    """A plan beside a model that remembers everything, step by step."""

    plan_class = RetryPlan

    @initialize(attempts=st.integers(1, 6), span=st.one_of(st.none(), st.floats(0.5, 20.0)))
    def begin(self, attempts, span):
        self.now = 100.0
        self.attempts, self.made = attempts, 1
        self.give_up_at = math.inf if span is None else self.now + span
        self.plan = self.plan_class(attempts, self.give_up_at, longest_hint=8.0)

    @rule(
        passed=st.floats(0.0, 3.0),
        delay=st.floats(-1.0, 5.0),
        hint=st.sampled_from([0.0, 0.5, 2.0, 9.0]),
        left=st.sampled_from([math.inf, 0.0, 1.0, 4.0]),
    )
    def fail(self, passed, delay, hint, left):
        self.now += passed
        due = self.now + left

        decision = self.plan.after_failure(self.now, delay, hint=hint, due=due)

        assert self.expected(delay, hint, due) == decision
        if isinstance(decision, Wait):
            self.plan.start()
            self.made += 1
            self.now += decision.seconds
        assert (self.made, self.made >= self.attempts) == (self.plan.made, self.plan.is_used_up)

    def expected(self, delay, hint, due):
        """What the rules say, in their order."""
        wait = max(delay, hint, 0.0)
        if self.made >= self.attempts:
            return GiveUp("attempts")
        if hint > 8.0:
            return GiveUp("retry_after")
        if self.now + wait >= due:
            return GiveUp("deadline")
        return GiveUp("max_elapsed") if self.now + wait > self.give_up_at else Wait(wait)


class OneTooMany(RetryPlan):
    """Counts the first attempt as none."""

    @property
    def is_used_up(self):
        """Be wrong by one."""
        return self.made > self._attempts


class Shortens(RetryPlan):
    """Breaks the server's word to meet a deadline."""

    def after_failure(self, now, delay, *, hint=0.0, due=math.inf):
        """Cut the wait to what is left."""
        decision = super().after_failure(now, delay, hint=hint, due=due)
        return Wait(max(0.0, due - now)) if decision == GiveUp("deadline") else decision


def test_a_plan_walks_beside_its_model():
    """Whatever fails, whenever."""
    run_state_machine_as_test(Walk)


@pytest.mark.parametrize(
    ("mutant", "failure"), [(OneTooMany, (0.0, 0.0, 0.0, math.inf)), (Shortens, (0.0, 5.0, 0.0, 1.0))]
)
def test_the_walk_catches(mutant, failure):
    """The same walk fails on a plan that breaks one rule, at a failure that is told: no search has to find it."""

    def walk(plan_class):
        machine = type("Walk", (Walk,), {"plan_class": plan_class})()
        machine.begin(1 if mutant is OneTooMany else 2, None)
        machine.fail(*failure)

    walk(RetryPlan)
    with pytest.raises(AssertionError):
        walk(mutant)
