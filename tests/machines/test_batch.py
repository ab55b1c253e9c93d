"""The queue of a batcher, beside a plain list with the same meaning."""

import pytest
from hypothesis import settings
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


def test_requests_that_ask_the_same_take_one_place():
    """They are taken with the one they share, and weigh nothing more."""
    queue = BatchQueue(size=2, delay=9.0, max_weight=10)
    for number, asks in enumerate("aab"):
        assert [] == queue.take(now=0.0)
        queue.add(number, now=0.0, asks=asks, weight=4)
    assert [0, 1, 2] == queue.take(now=0.0)


def test_what_has_no_weight_adds_none():
    """However many there are, a chunk has room for the next as long as it has for its number."""
    queue = BatchQueue(size=9, delay=9.0, max_weight=2)
    for item in "abcd":
        queue.add(item, now=0.0)
    assert not queue.is_full
    assert list("abcd") == queue.take_any()


def test_a_chunk_holds_no_more_than_it_may_weigh():
    """What does not fit begins the next one; a chunk that nothing fits into any more is taken at once."""
    queue = BatchQueue(size=9, delay=9.0, max_weight=10)
    queue.add("a", now=0.0, weight=4)
    queue.add("b", now=0.0, weight=5)
    assert [] == queue.take(now=0.0)
    queue.add("c", now=0.0, weight=2)
    assert ["a", "b"] == queue.take(now=0.0)
    queue.add("d", now=0.0, weight=7)
    assert [] == queue.take(now=0.0)
    assert queue.withdraw("c")
    queue.add("e", now=0.0, weight=3)
    assert ["d", "e"] == queue.take(now=0.0)


class QueueMachine(RuleBasedStateMachine):
    """Any history of adding, withdrawing and taking at any times."""

    queue_class = BatchQueue

    @initialize(
        size=st.integers(1, 4), delay=st.sampled_from([0.0, 1.0, 2.5]), max_weight=st.sampled_from([4, 7, 99])
    )
    def begin(self, size, delay, max_weight):
        self.size, self.delay, self.max_weight = size, delay, max_weight
        self.queue = self.queue_class(size, delay, max_weight)
        self.model: list[tuple[int, float, object]] = []  # what came, when, and what it asks
        self.now = 0.0
        self.numbers = iter(range(10_000))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule(asks=st.sampled_from([None, "a", "bb", "cccc"]))
    def add(self, asks):
        number = next(self.numbers)
        self.queue.add(number, self.now, asks=asks, weight=len(asks or "x"))
        self.model.append((number, self.now, asks or number))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def withdraw(self, data):
        number, *_ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.queue.withdraw(number)

    def fits(self, chunk):
        asked = {asks for *_, asks in chunk}
        weight = sum(len(asks) if isinstance(asks, str) else 1 for asks in asked)
        return len(asked) <= self.size and weight <= self.max_weight, (
            len(asked) >= self.size or weight >= self.max_weight
        )

    def next_chunk(self):
        length = max(n for n in range(len(self.model) + 1) if self.fits(self.model[:n])[0])
        chunk, self.model = self.model[:length], self.model[length:]
        return [number for number, *_ in chunk]

    @rule()
    def take(self):
        ready = self.fits(self.model)[1] or any(at + self.delay <= self.now for _, at, _ in self.model)
        taken = self.queue.take(self.now)
        assert (self.next_chunk() if ready else []) == taken

    @rule()
    def take_any(self):
        taken = self.queue.take_any()
        assert self.next_chunk() == taken

    @invariant()
    def knows_who_waits_and_until_when(self):
        assert [number for number, *_ in self.model] == list(self.queue)
        assert len(self.model) == len(self.queue)
        assert all(number in self.queue for number, *_ in self.model)
        assert self.fits(self.model)[1] == self.queue.is_full
        assert min((at + self.delay for _, at, _ in self.model), default=None) == self.queue.due


SOME = settings(max_examples=60, stateful_step_count=25, deadline=None, report_multiple_bugs=False)


def test_any_history_agrees_with_a_list():
    """Order, chunk size and due time are those of a plain list of arrivals."""
    run_state_machine_as_test(QueueMachine, settings=SOME)


class _WindowRestarts(BatchQueue):
    """A mutant: every arrival starts the window anew, so a steady trickle waits for ever."""

    @property
    def due(self):
        return next(reversed(self._arrivals.values())).at + self.delay if self._arrivals else None


class _IgnoresSize(BatchQueue):
    """A mutant: takes everything that waits."""

    def _next_chunk(self):
        return list(self._arrivals)


class _CountsAskers(BatchQueue):
    """A mutant: those who ask the same take a place each."""

    def add(self, item, now, *, asks=None, weight=0):
        super().add(item, now, weight=weight)


class _ForgetsWeights(BatchQueue):
    """A mutant: the weight of who withdraws stays."""

    def withdraw(self, item):
        weight = self._weight
        withdrawn = super().withdraw(item)
        self._weight = weight
        return withdrawn


class _TheFirst:
    """Chooses for a walk by hand."""

    def draw(self, _strategy):
        return 0


# What a machine begins with, and steps of it that each mutant gets wrong: told, so that no search has to find them.
HISTORIES = {
    _WindowRestarts: ((4, 1.0, 99), ("add", None), ("pass_time", 0.5), ("add", None)),
    _IgnoresSize: ((1, 1.0, 99), ("add", None), ("add", None), ("take_any",)),
    _CountsAskers: ((2, 1.0, 99), ("add", "a"), ("add", "a")),
    _ForgetsWeights: ((4, 1.0, 4), ("add", "cccc"), ("withdraw", _TheFirst())),
}


def walk(queue_class, begin, *steps):
    machine = type("Walk", (QueueMachine,), {"queue_class": queue_class})()
    machine.begin(*begin)
    for rule_name, *arguments in steps:
        getattr(machine, rule_name)(*arguments)
        machine.knows_who_waits_and_until_when()


@pytest.mark.parametrize("mutant", HISTORIES)
def test_the_model_catches_mutants(mutant):
    """The check above has teeth, and bites nothing else."""
    walk(BatchQueue, *HISTORIES[mutant])
    with pytest.raises(AssertionError):
        walk(mutant, *HISTORIES[mutant])
