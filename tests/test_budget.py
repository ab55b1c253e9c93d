"""A retry budget: a share of the calls, whatever they come to, for everything that shares it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import RetryBudget, backoff, hedge, observe, retry
from paintkit.testing import FakeClock, scripted


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


class TestShare:
    @pytest.mark.parametrize(
        ("ratio", "calls", "extra"), [(0.2, 100, 20), (0.1, 100, 10), (1.0, 7, 7), (0.5, 1, 0), (2.0, 3, 6)]
    )
    def test_of_the_first_attempts(self, ratio, calls, extra):
        """Without a reserve it is exactly that."""
        budget = RetryBudget(ratio=ratio, reserve=0)
        for _ in range(calls):
            budget.deposit()
        assert extra == sum(budget.withdraw() for _ in range(1000))
        assert 1000 - extra == budget.refused

    def test_and_a_reserve(self):
        """So many per second, for a client that has little traffic."""
        budget = RetryBudget(ratio=0.2, reserve=0.5, window=20)
        assert 10 == sum(budget.withdraw() for _ in range(1000))

    @pytest.mark.parametrize("window", [10.0, timedelta(seconds=10)], ids=["seconds", "timedelta"])
    def test_deposits_expire(self, clock, window):
        """Calls of long ago pay for nothing."""
        budget = RetryBudget(ratio=1.0, reserve=0, window=window)
        budget.deposit()
        clock.advance(9)
        assert 1.0 == budget.balance()
        clock.advance(1.5)
        assert 0.0 == budget.balance()
        assert not budget.withdraw()

    @given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200))
    def test_retries_are_bounded(self, calls):
        """In the whole: retries <= ratio * requests + reserve, the law that it is there for."""
        clock, began = FakeClock._active, FakeClock._active.now()
        budget = RetryBudget(ratio=0.2, reserve=0.3)
        requests = retries = 0
        for nap, fails in calls:
            clock.advance(nap)
            budget.deposit()
            requests += 1
            if fails:
                retries += sum(budget.withdraw() for _ in range(3))
        assert retries <= 0.2 * requests + 0.3 * (clock.now() - began + 10) + 1e-6


class TestRefund:
    def test_takes_a_withdrawal_back(self):
        """Somebody else can use it."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        budget.deposit()
        assert budget.withdraw()
        assert not budget.withdraw()
        budget.refund()
        assert budget.withdraw()

    def test_of_nothing_gives_nothing(self, clock):
        """Neither without a withdrawal nor after it has expired: a refund must not make tokens."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        budget.refund()
        assert 0.0 == budget.balance()
        budget.deposit()
        budget.withdraw()
        clock.advance(60)
        budget.refund()
        assert 0.0 == budget.balance()


class TestSharing:
    def test_threads_cannot_overdraw(self):
        """However many ask at once."""
        budget, barrier = RetryBudget(ratio=0.5, reserve=0), threading.Barrier(8)

        def work() -> int:
            barrier.wait(10)
            for _ in range(50):
                budget.deposit()
            barrier.wait(10)
            return sum(budget.withdraw() for _ in range(100))

        with ThreadPoolExecutor(8) as pool:
            assert 200 == sum(one.result() for one in [pool.submit(work) for _ in range(8)])

    def test_retries_and_hedges_share_one(self, colour):
        """One dependency, one budget."""
        budget = RetryBudget(ratio=0.25, reserve=0)
        retrying = retry(on=OSError, attempts=2, backoff=backoff.constant(0), budget=budget)
        hedging = hedge(1.0, idempotent=True, budget=budget)
        for _ in range(4):
            for policy in (retrying, hedging):
                with pytest.raises(OSError):
                    colour.protect(policy, colour.script(forever=OSError))
        assert 2 == retrying.retries + hedging.hedges
        assert 6 == budget.refused


class TestShadow:
    def test_every_attempt_is_made(self, colour):
        """It only tells what it would have refused, and counts as if it had."""
        budget, seen = RetryBudget(ratio=0.5, reserve=0, shadow=True, name="supplier"), []
        policy = retry(on=OSError, attempts=4, backoff=backoff.constant(0), budget=budget)
        with observe(seen.append):
            assert "done" == colour.protect(policy, colour.script(OSError, OSError, OSError, "done"))

        told = [(one.kind, one.source) for one in seen if one.kind.startswith("budget")]
        assert [("budget.would_refuse", "supplier")] * 3 == told
        assert 3 == budget.refused

    def test_a_refund_makes_no_tokens(self):
        """What was not paid is not given back."""
        budget = RetryBudget(ratio=1.0, reserve=0, shadow=True)
        budget.deposit()
        assert [True] * 3 == [budget.withdraw() for _ in range(3)]
        for _ in range(2):
            budget.refund()
        assert 0.0 == budget.balance()


class TestObservations:
    def test_a_refusal_is_told(self):
        """What is paid is not."""
        budget, seen = RetryBudget(ratio=1.0, reserve=0, name="supplier"), []
        budget.deposit()
        with observe(seen.append):
            assert budget.withdraw()
            assert [] == seen
            assert not budget.withdraw()
        assert [("budget.refused", "supplier", {})] == seen

    def test_an_observer_that_raises_breaks_nothing(self, caplog):
        """The refusal is a refusal."""
        with observe(scripted(forever=ZeroDivisionError)):
            assert not RetryBudget(reserve=0).withdraw()
        assert "ZeroDivisionError" in caplog.text


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"ratio": 0}, ValueError, "ratio"),
        ({"ratio": -1}, ValueError, "ratio"),
        ({"ratio": 11}, ValueError, "ratio"),
        ({"ratio": NAN}, ValueError, "ratio"),
        ({"ratio": True}, TypeError, "ratio"),
        ({"ratio": "0.2"}, TypeError, "ratio"),
        ({"reserve": -1}, ValueError, "reserve"),
        ({"reserve": NAN}, ValueError, "reserve"),
        ({"reserve": None}, TypeError, "reserve"),
        ({"window": 0}, ValueError, "window"),
        ({"window": None}, TypeError, "window"),
        ({"name": ""}, ValueError, "name"),
        ({"shadow": 1}, TypeError, "shadow"),
    ],
)
def test_arguments_are_checked(options, error, named):
    """At construction, by name."""
    with pytest.raises(error, match=named):
        RetryBudget(**options)


def test_says_its_name():
    """In logs."""
    assert "<RetryBudget 'supplier'>" == repr(RetryBudget(name="supplier"))
