"""A window walks beside a list of everything that ever happened."""

import math
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.breaker import Rate
from paintkit.machines.window import Counts, CountWindow, TimeWindow

SPAN = 10.0

naps = st.one_of(st.just(0.0), st.floats(0.0, 3.0), st.floats(0.0, 30.0))
calls = st.tuples(naps, st.booleans(), st.booleans())
histories = st.lists(calls, max_size=60)


def totals(kept: list[tuple[float, bool, bool]]) -> Counts:
    return Counts(len(kept), sum(failed for _, failed, _ in kept), sum(slow for *_, slow in kept))


def astray(kind: type[TimeWindow], history: list[tuple[float, bool, bool]]) -> bool:
    """Whether a time window forgets a call younger than nine tenths of its span, or holds one older than eleven."""
    window, now, ended = kind(SPAN), 100.0, []
    for nap, failed, slow in history:
        now += nap
        window.note(now, failed=failed, slow=slow)
        ended.append((now, failed, slow))
        found = window.counts(now)
        least = totals([one for one in ended if one[0] > now - 0.9 * SPAN])
        most = totals([one for one in ended if one[0] > now - 1.1 * SPAN - 1e-9])
        if not all(low <= here <= high for low, here, high in zip(least, found, most, strict=True)):
            return True
    return False


class ForgetsLate(TimeWindow):
    """Keeps two buckets too many."""

    def _forget(self, now: float) -> None:
        super()._forget(now - 2 * self._width)


class ForgetsFailures(TimeWindow):
    """Loses the failures of a bucket as it closes."""

    def _close(self) -> None:
        self._failures = 0
        super()._close()


@given(histories)
def test_a_time_window_is_exact_to_a_tenth(history):
    """What is younger than 0.9 spans counts, what is older than 1.1 does not."""
    assert not astray(TimeWindow, history)


@pytest.mark.parametrize("mutant", [ForgetsLate, ForgetsFailures])
def test_the_law_of_time_windows_catches(mutant):
    """Windows that forget too late or too much."""
    assert astray(mutant, [(0.5, number % 3 == 0, False) for number in range(60)])


def differ(kind: type[CountWindow], size: int, history: list[tuple[float, bool, bool]]) -> bool:
    window, model = kind(size), deque[tuple[float, bool, bool]](maxlen=size)
    for call in history:
        window.note(0.0, failed=call[1], slow=call[2])
        model.append(call)
        if totals(list(model)) != window.counts(0.0):
            return True
    return False


class NeverForgets(CountWindow):
    """Forgets the calls, but not what they came to."""

    def note(self, now: float, *, failed: bool, slow: bool) -> None:
        self._calls.append((failed, slow))
        self._failures += failed
        self._slow += slow


@given(st.integers(1, 12), histories)
def test_a_count_window_holds_the_last_calls(size, history):
    """Exactly those, whenever they were."""
    assert not differ(CountWindow, size, history)


def test_the_law_of_count_windows_catches_one_that_never_forgets():
    """Its totals run away."""
    assert differ(NeverForgets, 2, [(0.0, True, False)] * 3)


@pytest.mark.parametrize("window", [TimeWindow(SPAN), CountWindow(5)])
def test_clear_forgets_everything(window):
    """A new beginning."""
    window.note(1.0, failed=True, slow=True)
    window.clear()

    assert Counts(0, 0, 0) == window.counts(2.0)


def test_a_cleared_time_window_starts_its_bucket_anew():
    """What the happy path counts on is that of a new one."""
    window = TimeWindow(SPAN)
    window.note(1.0, failed=False, slow=False)
    window.clear()

    assert (0, -math.inf) == (window.calls, window.quiet_until)


@given(histories, st.integers(1, 20), st.floats(0.1, 1.0))
def test_no_verdict_is_missed_while_a_window_is_quiet(history, least, rate):
    """A success that is only counted, without a verdict, would not have tripped the rule either."""
    quick, careful = (Rate(TimeWindow(SPAN, least), rate, rate, least) for _ in range(2))
    now = 100.0
    for nap, failed, slow in history:
        now += nap
        tripped = careful.record(now, failed=failed, slow=slow)
        if not failed and not slow and now < quick.window.quiet_until:
            quick.window.calls += 1
            # Forgetting is a matter of buckets, so a share above the limit shows at the next bucket at the latest.
            assert not tripped or careful.window.counts(now) == quick.window.counts(now)
            assert not tripped
        else:
            assert tripped == quick.record(now, failed=failed, slow=slow)
        if tripped:
            quick.clear()
            careful.clear()


def test_noting_costs_the_same_however_much_a_window_holds():
    """Nothing is summed over the calls, and no call is stored by itself."""
    window = TimeWindow(SPAN)
    for number in range(100_000):
        window.note(100 + number * 0.001, failed=True, slow=False)

    assert 9_000 <= window.counts(200.0).calls <= 11_000
    assert len(window._closed) <= 11


@pytest.mark.parametrize("seed", range(4))
def test_the_edges_of_a_time_window_are_exact(seed):
    """A call counts until its age is nine tenths of the span, that included, and not when it is eleven tenths."""
    rng, window, now, ended = random.Random(seed), TimeWindow(SPAN), 64.0, list[tuple[float, bool, bool]]()
    for _ in range(2_000):
        now += rng.choice([0.0, 0.25, 0.25, 0.5, 1.0, 1.0] if seed % 2 else [0.25, 2.0, 9.0, 10.0, 11.0])
        call = (now, rng.random() < 0.3, rng.random() < 0.3)
        window.note(now, failed=call[1], slow=call[2])
        ended = [one for one in [*ended, call] if now - one[0] < 1.1 * SPAN]
        least = totals([one for one in ended if now - one[0] <= 0.9 * SPAN])
        found = window.counts(now)
        assert all(low <= here <= high for low, here, high in zip(least, found, totals(ended), strict=True))
        assert len(window._closed) < 10


def fill(least: int, *calls: str) -> TimeWindow:
    """A window with these calls: the first in a bucket that is closed, the others in the one that ends at 2."""
    window = TimeWindow(SPAN, least)
    for number, call in enumerate(calls):
        window.note(min(number, 1) * 1.0, failed="f" in call, slow="s" in call)
    return window


@pytest.mark.parametrize(
    ("least", "calls", "quiet"),
    [
        (3, ["-", "-"], True),
        (3, ["-", "-", "-"], True),
        (3, ["f", "-"], False),
        (3, ["-", "f"], False),
        (3, ["s", "-"], False),
        (3, ["-", "s"], False),
        (4, ["fs", "-", "-"], False),
        (4, ["-", "fs", "-"], False),
        (4, ["f", "f", "-"], False),
        (4, ["f", "s", "-"], False),
        (4, ["s", "f", "-"], False),
        (4, ["s", "s", "-"], False),
        (3, ["f", "-", "-"], True),
        (3, ["f", "f", "s"], True),
        (2, ["-", "fs"], True),
    ],
)
def test_a_window_is_quiet_to_the_end_of_its_bucket_unless_the_next_success_could_trip(least, calls, quiet):
    """It could where something failed or was slow, and calls are still too few for that to mean anything."""
    assert (2.0 if quiet else -math.inf) == fill(least, *calls).quiet_until


def test_one_call_is_enough_unless_told_otherwise():
    """The least number of calls is 1 by default."""
    window = TimeWindow(SPAN)
    window.note(0.0, failed=True, slow=False)

    assert 1.0 == window.quiet_until


def test_a_time_window_goes_on_with_the_least_number_of_another():
    """It looks ahead anew, and keeps what it holds."""
    window = fill(3, "f", "-", "-")
    window.take_over(TimeWindow(SPAN, 4))
    assert -math.inf == window.quiet_until

    window.take_over(TimeWindow(SPAN, 2))
    assert 2.0 == window.quiet_until
    assert Counts(3, 1, 0) == window.counts(1.5)
