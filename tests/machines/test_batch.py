"""The queue of a batcher, beside a plain list with the same meaning."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paintkit.machines.batch import BatchQueue


def test_an_empty_queue_is_never_due():
    """Nothing waits, nothing is taken."""
    queue = BatchQueue(size=2, delay=0.1)
    assert (None, [], []) == (queue.due, queue.take(now=99.0), queue.take_any())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_full_chunk_is_taken_at_once(size):
    """With one request fewer it waits, up to the very end of the delay of its oldest."""
    queue = BatchQueue(size=size, delay=4.0)
    for number in range(size):
        assert [] == queue.take(now=0.0)
        queue.add(number, now=number * 0.5)
    assert list(range(size)) == queue.take(now=2.0)

    queue.add("alone", now=3.0)
    if size > 1:
        assert [] == queue.take(now=6.75)
    assert ["alone"] == queue.take(now=7.0)


def test_a_request_can_be_withdrawn_until_it_is_taken():
    """The answer tells whether it was in time."""
    queue = BatchQueue(size=2, delay=0.0)
    queue.add("a", now=0.0)
    queue.add("b", now=0.0)
    assert queue.withdraw("a")
    assert ["b"] == queue.take(now=0.0)
    assert not queue.withdraw("b")


class QueueMachine(RuleBasedStateMachine):
    """Any history of adding, withdrawing and taking at any times."""

    queue_class = BatchQueue

    @initialize(size=st.integers(1, 4), delay=st.sampled_from([0.0, 1.0, 2.5]))
    def begin(self, size, delay):
        self.size, self.delay = size, delay
        self.queue = self.queue_class(size, delay)
        self.model: list[tuple[int, float]] = []
        self.now = 0.0
        self.numbers = iter(range(10_000))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def add(self):
        number = next(self.numbers)
        self.queue.add(number, self.now)
        self.model.append((number, self.now))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def withdraw(self, data):
        number, _ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.queue.withdraw(number)

    @rule()
    def take(self):
        ready = len(self.model) >= self.size or any(at + self.delay <= self.now for _, at in self.model)
        chunk, rest = (self.model[: self.size], self.model[self.size :]) if ready else ([], self.model)
        assert [number for number, _ in chunk] == self.queue.take(self.now)
        self.model = rest

    @rule()
    def take_any(self):
        chunk, self.model = self.model[: self.size], self.model[self.size :]
        assert [number for number, _ in chunk] == self.queue.take_any()

    @invariant()
    def knows_who_waits_and_until_when(self):
        assert [number for number, _ in self.model] == list(self.queue)
        assert len(self.model) == len(self.queue)
        assert all(number in self.queue for number, _ in self.model)
        assert min((at + self.delay for _, at in self.model), default=None) == self.queue.due


# A planted fault has to be found; nobody wants to see it at its smallest.
PLANTED = settings(max_examples=300, deadline=None, phases=[Phase.generate], database=None, derandomize=True)
SOME = settings(max_examples=60, stateful_step_count=25, deadline=None, report_multiple_bugs=False)


def test_any_history_agrees_with_a_list():
    """Order, chunk size and due time are those of a plain list of arrivals."""
    run_state_machine_as_test(QueueMachine, settings=SOME)


class _WindowRestarts(BatchQueue):
    """A mutant: every arrival starts the window anew, so a steady trickle waits for ever."""

    @property
    def due(self):
        return next(reversed(self._arrivals.values())) + self.delay if self._arrivals else None


class _IgnoresSize(BatchQueue):
    """A mutant: takes everything that waits."""

    def take_any(self):
        chunk = list(self._arrivals)
        self._arrivals.clear()
        return chunk


@pytest.mark.parametrize("mutant", [_WindowRestarts, _IgnoresSize])
def test_the_model_catches_mutants(mutant):
    """The check above has teeth."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(type("Mutant", (QueueMachine,), {"queue_class": mutant}), settings=PLANTED)
