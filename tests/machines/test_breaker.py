"""The breaker machine walks beside a model that says the same in the simplest words."""

import math
import random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paintkit.machines.breaker import (
    Breaker,
    CircuitState,
    Either,
    Permit,
    Rate,
    Refusal,
    Streak,
    Transition,
    TripRule,
)
from paintkit.machines.window import CountWindow, TimeWindow

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED, METRICS_ONLY = (
    CircuitState.FORCED_OPEN,
    CircuitState.DISABLED,
    CircuitState.METRICS_ONLY,
)

MIDDLE = 0.5  # the draw that spreads an open time by nothing


class Lenient(Streak):
    """A streak that is not the end of a round of probes."""

    __slots__ = ("_tolerated",)

    def __init__(self, threshold: int, tolerated: int) -> None:
        super().__init__(threshold)
        self._tolerated = tolerated

    def tolerated(self, probes: int) -> int:
        return min(self._tolerated, probes - 1)


def breaker(
    kind: type[Breaker] = Breaker, *, threshold: int = 2, rule: TripRule | None = None, **options: Any
) -> Breaker:
    standard = {
        "recovery_timeout": 8.0,
        "longest_recovery": 100.0,
        "probes": 3,
        "concurrent_probes": 2,
        "probe_timeout": 5.0,
        "random": lambda: MIDDLE,
    }
    return kind(rule or Streak(threshold), **standard | options)


class Model:
    """A breaker in the words of its documentation."""

    def __init__(self, threshold: int, probes: int, concurrent: int, tolerated: int) -> None:
        self.threshold, self.probes, self.concurrent = threshold, probes, concurrent
        self.tolerated = tolerated
        self.rounds = 0
        self.go(CLOSED, 0)

    def go(self, state: CircuitState, now: float) -> None:
        self.state, self.streak, self.leases = state, 0, dict[object, float]()
        self.good = self.bad = 0
        self.rounds = 0 if state is CLOSED else self.rounds
        self.until = now + min(8.0 * 2**self.rounds, 100.0)

    def tick(self, now: float) -> None:
        if self.state is OPEN and now >= self.until:
            self.go(HALF_OPEN, now)
        elif self.state is HALF_OPEN:
            alive = {lease: end for lease, end in self.leases.items() if end > now}
            self.bad += len(self.leases) - len(alive)
            self.leases = alive
            self.decide(now)

    def decide(self, now: float) -> None:
        if self.bad > self.tolerated:
            self.rounds += 1
            self.go(OPEN, now)
        elif self.good + self.tolerated >= self.probes:
            self.go(CLOSED, now)

    def admits(self) -> bool:
        free = min(self.concurrent, self.probes - self.good - self.bad) - len(self.leases)
        return self.state in {CLOSED, DISABLED, METRICS_ONLY} or (self.state is HALF_OPEN and free > 0)

    def retry_after(self, now: float) -> float | None:
        ends = [self.until] if self.state is OPEN else list(self.leases.values())
        return min(ends) - now if ends else None

    def end(self, lease: object, now: float, *, failed: bool) -> None:
        if self.leases.pop(lease, None) is None:
            self.streak = self.streak + 1 if failed else 0
            if self.state is CLOSED and self.streak == self.threshold:
                self.go(OPEN, now)
        else:
            self.good, self.bad = self.good + (not failed), self.bad + failed
            self.decide(now)


class Walk(RuleBasedStateMachine):
    """Any history of calls, results, waits and commands."""

    subject: type[Breaker] = Breaker
    calls = Bundle("calls")

    @initialize(threshold=st.integers(1, 3), probes=st.integers(1, 4), data=st.data())
    def build(self, threshold: int, probes: int, data: st.DataObject) -> None:
        concurrent, tolerated = data.draw(st.integers(1, probes)), data.draw(st.integers(0, probes - 1))
        self.now = 0.0
        self.breaker = breaker(
            self.subject, rule=Lenient(threshold, tolerated), probes=probes, concurrent_probes=concurrent
        )
        self.model = Model(threshold, probes, concurrent, tolerated)
        self.epoch = 0
        if data.draw(st.booleans()):
            self.break_down()

    @rule(seconds=st.integers(0, 40).map(lambda quarters: quarters / 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @precondition(lambda self: self.model.state is CLOSED)
    @rule()
    def break_down(self) -> None:
        while self.model.state is CLOSED:
            self.call("failure")
        self.wait_as_told()

    @precondition(lambda self: self.model.retry_after(self.now))
    @rule()
    def wait_as_told(self) -> None:
        self.wait(self.model.retry_after(self.now) or 0.0)

    @rule(outcome=st.sampled_from(["success", "failure", "nothing"]))
    def call(self, outcome: str) -> None:
        self.end(self.begin(), outcome)

    @rule(target=calls)
    def begin(self) -> tuple[Permit, CircuitState, int] | None:
        decision = self.breaker.admit(self.now)
        assert self.model.admits() == isinstance(decision, Permit)
        if isinstance(decision, Refusal):
            assert self.model.retry_after(self.now) == decision.retry_after
            return None
        if self.model.state is HALF_OPEN:
            self.model.leases[decision] = self.now + 5.0
        return decision, self.model.state, self.epoch

    @rule(call=consumes(calls), outcome=st.sampled_from(["success", "failure", "nothing"]))
    def end(self, call: tuple[Permit, CircuitState, int] | None, outcome: str) -> None:
        if call is None:
            return
        permit, _, epoch = call
        current = epoch == self.epoch and (permit.lease is None or permit in self.model.leases)
        assert current == self.breaker.is_current(permit)
        if not current:
            return
        before = self.model.state
        if outcome == "nothing":
            self.breaker.released(permit)
            self.model.leases.pop(permit, None)
        else:
            failed = outcome == "failure"
            transition = self.breaker.record(permit, self.now, failed=failed)
            self.model.end(permit, self.now, failed=failed)
            self.changed(before, transition)

    @rule(state=st.sampled_from([CLOSED, FORCED_OPEN, DISABLED, METRICS_ONLY]))
    def command(self, state: CircuitState) -> None:
        before = self.model.state
        transition = self.breaker.enter(state, self.now)
        self.model.go(state, self.now)
        self.epoch += 1
        assert Transition(before, state) == transition

    def tick(self) -> None:
        before = self.model.state
        transition = self.breaker.tick(self.now)
        self.model.tick(self.now)
        self.changed(before, transition)

    def changed(self, before: CircuitState, transition: Transition | None) -> None:
        after = self.model.state
        assert (Transition(before, after) if after is not before else None) == transition
        self.epoch += after is not before

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.model.state is self.breaker.state
        assert self.model.retry_after(self.now) == self.breaker.retry_after(self.now)
        passing = self.model.state in {CLOSED, DISABLED, METRICS_ONLY}
        assert (self.breaker.generation if passing else None) == self.breaker.passing
        assert self.epoch == self.breaker.generation


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=100, stateful_step_count=40)


class HearsStragglers(Breaker):
    """Takes any result for one of the present."""

    __slots__ = ()

    def is_current(self, permit: Permit) -> bool:
        return permit.lease is None or permit.lease in self._leases


class LosesPermits(Breaker):
    """A probe without a verdict keeps its lease: the wedge."""

    __slots__ = ()

    def released(self, permit: Permit) -> None:
        pass


class AdmitsHerds(Breaker):
    """Half-open is as good as closed."""

    __slots__ = ()

    def admit(self, now: float) -> Permit | Refusal:
        return Permit(self.generation) if self.state is HALF_OPEN else super().admit(now)


class WaitsForHungProbes(Breaker):
    """A lease has no end."""

    __slots__ = ()

    def __init__(self, rule: Streak, **options: Any) -> None:
        super().__init__(rule, **options | {"probe_timeout": math.inf})


class Impatient(Breaker):
    """Probes a little too early."""

    __slots__ = ()

    def tick(self, now: float) -> Transition | None:
        return super().tick(now + 0.25)


class Decays(Breaker):
    """Forced open is open for a while only."""

    __slots__ = ()

    def tick(self, now: float) -> Transition | None:
        return self.enter(HALF_OPEN, now) if self.state is FORCED_OPEN else super().tick(now)


class NeverWaitsLonger(Breaker):
    """Every open time is the first one."""

    __slots__ = ()

    def enter(self, state: CircuitState, now: float) -> Transition:
        self._rounds = 0
        return super().enter(state, now)


@pytest.mark.parametrize(
    "mutant",
    [HearsStragglers, LosesPermits, AdmitsHerds, WaitsForHungProbes, Impatient, Decays, NeverWaitsLonger],
)
def test_the_walk_notices_a_planted_fault(mutant):
    """Each of the classic mistakes falls out of step with the model."""
    walk = type("Walk", (Walk,), {"subject": mutant})

    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(
            walk,
            settings=settings(
                max_examples=300,
                stateful_step_count=40,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                print_blob=False,
            ),
        )


@pytest.mark.parametrize(("draw", "spread"), [(0.0, 0.9), (0.5, 1.0), (0.999999, 1.1)])
def test_later_open_times_are_spread_by_a_tenth(draw, spread):
    """The first one is exact, whatever is drawn."""
    subject = breaker(threshold=1, random=lambda: draw)
    subject.record(Permit(subject.generation), 0.0, failed=True)
    assert 8.0 == subject.retry_after(0.0)
    subject.tick(8.0)
    probe = subject.admit(8.0)
    assert isinstance(probe, Permit)

    subject.record(probe, 8.0, failed=True)

    assert 16.0 * spread == pytest.approx(subject.retry_after(8.0), rel=1e-5)


def test_a_slow_probe_counts_as_failed():
    """What recovers only slowly has not recovered."""
    subject = breaker(threshold=1)
    subject.record(Permit(subject.generation), 0.0, failed=True)
    subject.tick(8.0)
    probe = subject.admit(8.0)
    assert isinstance(probe, Permit)

    assert Transition(HALF_OPEN, OPEN) == subject.record(probe, 9.0, failed=False, slow=True)


def opened(rule: TripRule | None = None, **options: Any) -> Breaker:
    """A breaker that has just opened, at 0."""
    subject = breaker(rule=rule, **options)
    subject.enter(OPEN, 0.0)
    return subject


def probe(subject: Breaker, now: float) -> Permit:
    """Take a probe's permit."""
    subject.tick(now)
    permit = subject.admit(now)
    assert isinstance(permit, Permit)
    return permit


def test_open_times_double_up_to_the_limit():
    """The first is exact; closing starts anew."""
    subject, now, times = opened(longest_recovery=100.0, probes=1), 0.0, []
    for _ in range(6):
        times.append(subject.retry_after(now))
        now = subject.open_until
        subject.record(probe(subject, now), now, failed=True)
    assert [8.0, 16.0, 32.0, 64.0, 100.0, 100.0] == times

    now = subject.open_until
    subject.record(probe(subject, now), now, failed=False)
    subject.enter(OPEN, now)

    assert 8.0 == subject.retry_after(now)


def test_a_thousand_failed_rounds_wait_no_longer_than_the_limit():
    """No power overflows."""
    subject, now = opened(probes=1), 0.0
    for _ in range(1_100):
        now = subject.open_until
        subject.record(probe(subject, now), now, failed=True)

    assert now + 100.0 == subject.open_until


def test_who_waits_as_told_is_not_too_early():
    """Not even by a rounding error, nor noticeably late; and when the time has come, no wait is left."""
    rng = random.Random(3)
    for _ in range(2_000):
        now, span = rng.uniform(0.0, 1e6), rng.uniform(0.0, 10.0)
        subject = breaker(recovery_timeout=span)
        subject.enter(OPEN, 1e6)
        told = subject.retry_after(now)
        assert told is not None
        assert now + told >= subject.open_until
        assert told == pytest.approx(subject.open_until - now, abs=1e-9)
    assert 0.0 == subject.retry_after(2e6)


def test_a_breaker_that_never_opened_was_open_until_the_beginning():
    """There is no open time before the first one."""
    assert 0.0 == breaker().open_until


@pytest.mark.parametrize("failed", ["failures", "slow"])
def test_a_rate_trips_at_its_share_once_there_are_enough_calls(failed):
    """At the share, not beyond it; with as many calls as it needs, not one more; each share for itself."""
    bad = {"failed": failed == "failures", "slow": failed == "slow"}
    rule = Rate(CountWindow(10), failure_rate=0.5, slow_rate=0.5, min_calls=4)

    assert not rule.record(0.0, **bad)
    assert not rule.record(0.0, **bad)
    assert not rule.record(0.0, failed=False, slow=False)
    assert rule.record(0.0, failed=False, slow=False)
    assert not rule.record(0.0, failed=False, slow=False)
    assert rule.record(0.0, **bad)


def test_slowness_matters_only_where_a_share_is_given():
    """Without one, no number of slow calls trips or narrows a round of probes."""
    rule = Rate(CountWindow(10), failure_rate=0.5, slow_rate=None, min_calls=1)

    assert not any(rule.record(0.0, failed=False, slow=True) for _ in range(10))
    assert 4 == rule.tolerated(10)


@pytest.mark.parametrize(
    ("failure_rate", "slow_rate", "probes", "tolerated"),
    [
        (0.5, None, 3, 1),
        (0.5, None, 4, 1),
        (0.5, 0.2, 10, 1),
        (0.2, 0.5, 10, 1),
        (1.0, None, 3, 2),
        (0.1, 0.1, 3, 0),
    ],
)
def test_a_rate_tolerates_what_stays_below_it(failure_rate, slow_rate, probes, tolerated):
    """As many failed probes as are less than the smaller share of them."""
    assert tolerated == Rate(CountWindow(10), failure_rate, slow_rate, 1).tolerated(probes)


def test_either_rule_trips_and_both_hear_every_call():
    """A streak and a rate, combined: the first to trip does, the stricter one judges the probes."""
    rule = Either(Streak(3), Rate(CountWindow(4), 0.5, 0.5, 4))
    assert [False, False, True] == [rule.record(0.0, failed=True, slow=False) for _ in range(3)]
    rule.clear()
    assert [False, False, False, True] == [rule.record(0.0, failed=False, slow=True) for _ in range(4)]
    assert 0 == rule.tolerated(4)
    assert 1 == Either(Rate(CountWindow(4), 0.5, None, 4), Rate(CountWindow(4), 1.0, None, 4)).tolerated(4)


class Listening(Streak):
    """A rule that notes what it is told."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__(9)
        self.told: list[object] = []

    def record(self, now: float, *, failed: bool, slow: bool) -> bool:
        self.told.append((now, failed, slow))
        return False


@pytest.mark.parametrize("state", [CLOSED, METRICS_ONLY])
def test_the_rule_hears_of_every_call_when_it_ended_and_how(state):
    """Also through a combination of rules."""
    heard = Listening()
    subject = breaker(rule=Either(Listening(), heard))
    subject.enter(state, 0.0)
    permit = subject.admit(1.0)
    assert isinstance(permit, Permit)

    subject.record(permit, 2.0, failed=True, slow=False)
    subject.record(permit, 3.0, failed=False, slow=True)

    assert [(2.0, True, False), (3.0, False, True)] == heard.told


@pytest.mark.parametrize("before", [CLOSED, HALF_OPEN])
def test_a_breaker_follows_its_like_into_the_open_for_as_long(before):
    """For the seconds that are left there, not for its own open time."""
    subject = breaker()
    subject.enter(before, 0.0)

    assert Transition(before, OPEN) == subject.follow(OPEN, 3.0, 10.0)
    assert 13.0 == subject.open_until


@pytest.mark.parametrize("before", [OPEN, HALF_OPEN])
def test_a_breaker_follows_its_like_when_it_closes(before):
    """Without probes of its own."""
    subject = breaker()
    subject.enter(before, 0.0)

    assert Transition(before, CLOSED) == subject.follow(CLOSED, 0.0, 10.0)
    assert CLOSED is subject.state


@pytest.mark.parametrize(
    ("before", "told"),
    [(OPEN, OPEN), (CLOSED, CLOSED), (CLOSED, HALF_OPEN), (OPEN, HALF_OPEN)]
    + [(forced, told) for forced in (FORCED_OPEN, DISABLED, METRICS_ONLY) for told in (OPEN, CLOSED)],
)
def test_a_breaker_follows_no_further(before, told):
    """What is forced stays, who is there already stays, and only open and closed are followed."""
    subject = breaker()
    subject.enter(before, 0.0)
    until = subject.open_until

    assert subject.follow(told, 99.0, 10.0) is None
    assert (before, until) == (subject.state, subject.open_until)


def test_a_breaker_goes_on_with_the_settings_of_another():
    """Those of the open time, of its limit, and of the probes; what was given and decided before stays."""
    subject = opened()
    subject.take_over(
        breaker(recovery_timeout=2.0, longest_recovery=3.0, probes=2, concurrent_probes=1, probe_timeout=7.0)
    )
    assert (OPEN, 8.0) == (subject.state, subject.open_until)

    first = probe(subject, 8.0)
    assert Refusal(7.0) == subject.admit(8.0)
    subject.record(first, 9.0, failed=False)
    assert Transition(HALF_OPEN, CLOSED) == subject.record(probe(subject, 9.0), 9.0, failed=False)
    subject.enter(OPEN, 10.0)
    assert 12.0 == subject.open_until
    subject.record(probe(subject, 12.0), 12.0, failed=True)
    assert 15.0 == subject.open_until


def test_a_streak_goes_on_with_the_threshold_of_another():
    """The failures so far count against the new one."""
    streak = Streak(5)
    streak.record(0.0, failed=True, slow=False)
    streak.take_over(Streak(2))

    assert streak.record(0.0, failed=True, slow=False)


def test_a_rate_goes_on_with_the_limits_of_another():
    """The calls so far count against the new ones."""
    rate = Rate(TimeWindow(10.0, 9), 1.0, None, 9)
    rate.record(0.0, failed=True, slow=False)
    rate.record(0.0, failed=False, slow=True)
    other = Rate(TimeWindow(10.0, 3), 0.5, 1.0, 3)
    rate.take_over(other)

    assert rate.window.quiet_until < 0.0
    assert rate.record(0.0, failed=True, slow=False)
    assert rate.window.quiet_until > 0.0
    assert 2 == rate.tolerated(6)
