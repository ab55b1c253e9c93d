"""A token bucket keeps its promise to whom it serves: never more starts than burst and rate allow, in any span."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from paintkit.machines.token_bucket import Reservation, TokenBucket

INTERVAL, BURST = 1.0, 3.0
NEARLY = 1e-5


class Model:
    """A bucket as a list of starts: tokens flow in at their rate, up to the burst, and every start takes some."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, float]] = []

    def is_kept(self) -> bool:
        level, last = BURST, 0.0
        for start, weight in sorted(self.starts):
            level = min(BURST, level + (start - last) / INTERVAL) - weight
            last = start
            if level < -NEARLY:
                return False
        return True


class Walk(RuleBasedStateMachine):
    """Calls that start at once, wait for their turn, or give up while they wait."""

    kind: type[TokenBucket] = TokenBucket
    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.bucket, self.model, self.now = self.kind(INTERVAL, BURST), Model(), 0.0

    @rule(nap=st.one_of(st.sampled_from([0.25, 0.5, 1.0, 5.0]), st.floats(0.0, 3.0)))
    def time_passes(self, nap):
        self.now += nap

    @rule(weight=st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.0]))
    def try_take(self, weight):
        free = self.bucket.wait(self.now, weight) == 0
        assert free == self.bucket.try_take(self.now, weight)
        if free:
            self.model.starts.append((self.now, weight))

    @rule(target=waiting, weight=st.sampled_from([0.5, 1.0, 1.0, 2.0]))
    def reserve(self, weight):
        start = self.now + self.bucket.wait(self.now, weight)
        taken = self.bucket.reserve(self.now, weight)
        self.model.starts.append((start, weight))
        return start, weight, taken

    @rule(call=consumes(waiting))
    def give_up(self, call):
        start, weight, taken = call
        if start > self.now:
            self.bucket.give_back(self.now, taken)
            self.model.starts.remove((start, weight))

    @invariant()
    def the_promise_is_kept(self):
        assert self.model.is_kept()


class GivesBackBlindly(TokenBucket):
    """Returns tokens to the end of the queue, where somebody else was promised that instant."""

    def give_back(self, now: float, taken: Reservation) -> None:
        self.full_at -= taken.after - taken.before


class TooGenerous(TokenBucket):
    """Holds one token more than it should."""

    def __init__(self, interval: float, burst: float) -> None:
        super().__init__(interval, burst + 1)


def test_the_promise_is_kept_to_the_model():
    """However calls start, wait and give up."""
    run_state_machine_as_test(Walk, settings=settings(max_examples=40, deadline=None))


@pytest.mark.parametrize("mutant", [GivesBackBlindly, TooGenerous])
def test_the_model_catches(mutant):
    """Buckets that admit more than they should, in steps that are told, so that no search has to find them."""
    walk(TokenBucket)
    with pytest.raises(AssertionError):
        walk(mutant)


def walk(kind: type[TokenBucket]) -> None:
    """Take all, take too much, and once more when somebody has given up whose turn was before that of another."""
    machine = type("Walk", (Walk,), {"kind": kind})()
    machine.try_take(3.0)
    machine.try_take(1.0)
    machine.the_promise_is_kept()
    first, _second = machine.reserve(3.0), machine.reserve(1.0)
    machine.give_up(first)
    machine.time_passes(4.0)
    machine.try_take(3.0)
    machine.the_promise_is_kept()


@pytest.mark.parametrize(
    "order", [list, reversed, lambda waiting: waiting[::2] + waiting[1::2]], ids=["first", "last", "mixed"]
)
def test_all_tokens_come_back(order):
    """When all who wait give up, in whatever order, it is as if they had never come."""
    bucket = TokenBucket(INTERVAL, BURST)
    bucket.try_take(0.0, BURST)
    before = bucket.wait(0.5)
    waiting = [bucket.reserve(0.5) for _ in range(20)]

    for taken in order(waiting):
        bucket.give_back(0.5, taken)

    assert before == bucket.wait(0.5)
    assert bucket._gaps is None


def test_gaps_are_forgotten():
    """One that can no longer close is dropped."""
    bucket = TokenBucket(INTERVAL, 1.0)
    for now in range(0, 10_000, 2):
        taken = bucket.reserve(float(now))
        bucket.reserve(float(now))
        bucket.give_back(float(now), taken)

    assert len(bucket._gaps or ()) <= 2


@given(st.floats(1e-6, 1e4), st.integers(1, 50), st.floats(0, 1e8))
def test_a_full_bucket_holds_exactly_its_burst(interval, burst, now):
    """Not one token more, however fast it fills."""
    bucket = TokenBucket(interval, burst)

    assert [True] * burst + [False] == [bucket.try_take(now) for _ in range(burst + 1)]


@given(st.floats(1e-3, 1e3), st.floats(0.0, 1e6), st.lists(st.floats(0.0, 2.0), max_size=5))
def test_waiting_is_enough(interval, now, naps):
    """Who waits as long as it says finds a token, whatever floats round to."""
    bucket = TokenBucket(interval, 1.0)
    bucket.try_take(now)
    for nap in naps:
        now += nap * interval
        bucket.try_take(now)

    now += bucket.wait(now)

    assert bucket.try_take(now)


def test_a_bucket_that_is_full_could_be_forgotten():
    """It behaves like a new one."""
    bucket = TokenBucket(INTERVAL, BURST)
    assert bucket.is_full(0.0)
    bucket.try_take(0.0, 2.0)
    assert not bucket.is_full(1.5)
    assert bucket.is_full(2.0)
    assert pytest.approx(BURST) == bucket.tokens(2.0)


def test_tokens_tells_what_is_promised():
    """Below zero when calls wait."""
    bucket = TokenBucket(INTERVAL, BURST)
    assert pytest.approx(3.0) == bucket.tokens(0.0)
    for _ in range(5):
        bucket.reserve(0.0)
    assert pytest.approx(-2.0) == bucket.tokens(0.0)
    assert pytest.approx(-1.0) == bucket.tokens(1.0)


def test_tokens_come_at_their_own_pace():
    """Four a second, eight at most: waits, reservations and levels are all in the bucket's own interval."""
    bucket = TokenBucket(0.25, 8.0)
    assert 8.0 == pytest.approx(bucket.tokens(0.0))
    assert Reservation(0.0, 2.0) == bucket.reserve(0.0, 8.0)
    assert 0.25 == pytest.approx(bucket.wait(0.0))
    assert 0.75 == pytest.approx(bucket.wait(0.0, 3.0))
    assert 2.0 == pytest.approx(bucket.tokens(0.5))
    assert not bucket.try_take(0.5, 2.5)
    assert bucket.try_take(0.5, 2.0)


def test_a_call_costs_one_token_unless_told_otherwise():
    """Whether it asks, takes or reserves."""
    bucket = TokenBucket(INTERVAL, 1.0)
    assert 0.0 == bucket.wait(0.0)
    assert Reservation(0.0, 1.0) == bucket.reserve(0.0)
    assert bucket.try_take(1.0)
    assert 1.0 == pytest.approx(bucket.wait(1.0))


@pytest.mark.parametrize(
    ("used", "missing"), [(0.0, 0.0), (3.0, 1.0), (7.0, 5.0)], ids=["full", "used", "owing"]
)
def test_a_bucket_goes_on_at_the_rate_of_another(used, missing):
    """As many tokens as are missing now are missing still, come at the new rate, and none comes back from before."""
    bucket = TokenBucket(0.5, 4.0)
    waiting = [bucket.reserve(9.0, used / 2) for _ in range(2)]
    bucket.give_back(9.0, waiting[0])

    bucket.take_over(TokenBucket(2.0, 10.0), 10.0)

    assert 10.0 - missing == pytest.approx(bucket.tokens(10.0))
    assert bucket._gaps is None
    assert (missing == 0.0) == bucket.is_full(10.0)
    assert min(10.0, 10.0 - missing + 0.5) == pytest.approx(bucket.tokens(11.0))
    assert 2.0 * (missing + 1.0) == pytest.approx(bucket.wait(10.0, 11.0))


def test_a_very_fast_bucket_goes_on_without_slack_worth_a_token():
    """Its tolerance for rounding is the new interval's, not the old one's."""
    bucket = TokenBucket(INTERVAL, 3.0)
    bucket.take_over(TokenBucket(1e-7, 3.0), 0.0)

    assert [True] * 3 + [False] == [bucket.try_take(0.0) for _ in range(4)]
