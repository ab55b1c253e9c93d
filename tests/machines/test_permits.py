"""The permits machine walks beside two lists."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from paintkit.machines.permits import Permits


class Walk(RuleBasedStateMachine):
    """Whoever comes takes a permit or queues; whoever leaves puts one back, or gives up its place."""

    kind: type[Permits[int]] = Permits

    @initialize(limit=st.integers(1, 3), longest=st.none() | st.integers(0, 3))
    def begin(self, limit, longest):
        self.permits, self.limit, self.longest = self.kind(limit, longest), limit, longest
        self.running: list[int] = []
        self.queue: list[int] = []
        self.number = 0

    @rule()
    def arrive(self):
        self.number += 1
        if self.permits.free and not self.permits.waiting:
            self.permits.free.pop()
            self.running.append(self.number)
            return
        joined = self.longest is None or len(self.queue) < self.longest
        assert joined == self.permits.enqueue(self.number)
        if joined:
            self.queue.append(self.number)

    @rule(data=st.data())
    def end(self, data):
        if self.running:
            self.running.remove(data.draw(st.sampled_from(self.running)))
            self.permits.free.append(None)
        self.hand_on()

    @rule(data=st.data())
    def give_up(self, data):
        if self.queue:
            who = data.draw(st.sampled_from(self.queue))
            assert self.permits.leave(who)
            self.queue.remove(who)
        assert not self.permits.leave(-1)

    def hand_on(self):
        while (who := self.permits.hand_over()) is not None:
            assert self.queue.pop(0) == who
            self.running.append(who)

    @invariant()
    def permits_are_conserved(self):
        if not hasattr(self, "permits"):
            return
        assert len(self.running) == self.permits.in_use <= self.limit
        assert self.queue == list(self.permits.waiting)
        assert not self.queue or len(self.running) == self.limit


class LastComeFirstServed(Permits[int]):
    """Serves whoever came last."""

    def hand_over(self) -> int | None:
        self.waiting.reverse()
        found = super().hand_over()
        self.waiting.reverse()
        return found


class HandsOutTwice(Permits[int]):
    """Hands over a permit that it does not take."""

    def hand_over(self) -> int | None:
        found = super().hand_over()
        if found is not None:
            self.free.append(None)
        return found


def test_the_machine_does_what_the_model_does():
    """First come, first served, and no permit is lost or made."""
    run_state_machine_as_test(Walk, settings=settings(max_examples=40, deadline=None))


class _TheFirst:
    """Chooses for a walk by hand: whoever came first."""

    def draw(self, _strategy: Any) -> int:
        return 1


# Steps with one permit that each mutant gets wrong: told, so that no search has to find them.
HISTORIES = {
    LastComeFirstServed: (("arrive",), ("arrive",), ("arrive",), ("end", _TheFirst())),
    HandsOutTwice: (("arrive",), ("arrive",), ("end", _TheFirst())),
}


def walk(kind: type[Permits[int]], *steps: tuple[Any, ...]) -> None:
    machine = type("Walk", (Walk,), {"kind": kind})()
    machine.begin(1, None)
    for rule_name, *arguments in steps:
        getattr(machine, rule_name)(*arguments)
        machine.permits_are_conserved()


@pytest.mark.parametrize("mutant", HISTORIES)
def test_the_model_catches(mutant):
    """A queue out of order, a permit that is handed out twice, and nothing else."""
    walk(Permits, *HISTORIES[mutant])
    with pytest.raises(AssertionError):
        walk(mutant, *HISTORIES[mutant])


def test_a_permit_that_is_gone_in_the_last_moment():
    """Who takes a permit holds no lock: one that is there when asked for may be gone when taken."""

    class Emptied(list[None]):
        def __bool__(self) -> bool:
            return True

    permits = Permits[str](1, None)
    permits.enqueue("first")
    permits.free = Emptied()

    assert permits.hand_over() is None
    assert ["first"] == list(permits.waiting)


@pytest.mark.parametrize(
    ("limit", "taken", "other", "surplus", "free"),
    [(2, 0, 5, 0, 5), (2, 2, 5, 0, 3), (5, 0, 5, 0, 5), (5, 1, 2, 3, 4), (5, 5, 2, 3, 0)],
)
def test_permits_go_on_with_other_limits(limit, taken, other, surplus, free):
    """More permits are free at once; how many are too many is for the driver to take away as they come back."""
    permits: Permits[int] = Permits(limit, 0)
    for _ in range(taken):
        permits.free.pop()

    assert surplus == permits.take_over(Permits(other, 1))

    assert (other, free) == (permits.limit, len(permits.free))
    assert [True, False] == [permits.enqueue(number) for number in range(2)]
