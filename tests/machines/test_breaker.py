"""The breaker machine walks beside a model that says the same in the simplest words."""

import math
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

from paintkit.machines.breaker import Breaker, CircuitState, Permit, Refusal, Streak, Transition

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED, METRICS_ONLY = (
    CircuitState.FORCED_OPEN,
    CircuitState.DISABLED,
    CircuitState.METRICS_ONLY,
)

MIDDLE = 0.5  # the draw that spreads an open time by nothing


def breaker(kind: type[Breaker] = Breaker, *, threshold: int = 2, **options: Any) -> Breaker:
    standard = {
        "recovery_timeout": 8.0,
        "longest_recovery": 32.0,
        "probes": 3,
        "concurrent_probes": 2,
        "probe_timeout": 5.0,
        "random": lambda: MIDDLE,
    }
    return kind(Streak(threshold), **standard | options)


class Model:
    """A breaker in the words of its documentation."""

    def __init__(self, threshold: int, probes: int, concurrent: int) -> None:
        self.threshold, self.probes, self.concurrent = threshold, probes, concurrent
        self.rounds = 0
        self.go(CLOSED, 0)

    def go(self, state: CircuitState, now: float) -> None:
        self.state, self.streak, self.good, self.leases = state, 0, 0, dict[object, float]()
        self.rounds = 0 if state is CLOSED else self.rounds
        self.until = now + min(8.0 * 2**self.rounds, 32.0)

    def tick(self, now: float) -> None:
        if self.state is OPEN and now >= self.until:
            self.go(HALF_OPEN, now)
        elif self.state is HALF_OPEN and any(end <= now for end in self.leases.values()):
            self.fail_round(now)

    def fail_round(self, now: float) -> None:
        self.rounds += 1
        self.go(OPEN, now)

    def admits(self) -> bool:
        free = min(self.concurrent, self.probes - self.good) - len(self.leases)
        return self.state in {CLOSED, DISABLED, METRICS_ONLY} or (self.state is HALF_OPEN and free > 0)

    def retry_after(self, now: float) -> float | None:
        ends = [self.until] if self.state is OPEN else list(self.leases.values())
        return min(ends) - now if ends else None

    def end(self, lease: object, now: float, *, failed: bool) -> None:
        if self.leases.pop(lease, None) is None:
            self.streak = self.streak + 1 if failed else 0
            if self.state is CLOSED and self.streak == self.threshold:
                self.go(OPEN, now)
        elif failed:
            self.fail_round(now)
        else:
            self.good += 1
            if self.good == self.probes:
                self.go(CLOSED, now)


class Walk(RuleBasedStateMachine):
    """Any history of calls, results, waits and commands."""

    subject: type[Breaker] = Breaker
    calls = Bundle("calls")

    @initialize(threshold=st.integers(1, 3), probes=st.integers(1, 3), data=st.data())
    def build(self, threshold: int, probes: int, data: st.DataObject) -> None:
        concurrent = data.draw(st.integers(1, probes))
        self.now = 0.0
        self.breaker = breaker(self.subject, threshold=threshold, probes=probes, concurrent_probes=concurrent)
        self.model = Model(threshold, probes, concurrent)
        self.epoch = 0

    @rule(seconds=st.integers(0, 40).map(lambda quarters: quarters / 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

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
        current = epoch == self.epoch
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
