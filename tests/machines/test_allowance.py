"""The account of extra attempts walks beside a list of all that was paid in and out."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from paintkit.machines.allowance import Allowance

WINDOW, WIDTH = 10.0, 1.0


class Model:
    """Every deposit and every withdrawal by its slot; nothing is ever forgotten, only looked at or not."""

    def __init__(self, ratio: float, reserve: float) -> None:
        self.ratio, self.reserve = ratio, reserve
        self.paid_in: list[int] = []
        self.paid_out: list[int] = []

    def recent(self, slots: list[int], now: int) -> int:
        return sum(now - 10 < slot for slot in slots)

    def left(self, now: int) -> float:
        allowed = self.ratio * self.recent(self.paid_in, now) + self.reserve * WINDOW
        return allowed - self.recent(self.paid_out, now)

    def refund(self, now: int) -> None:
        recent = [slot for slot in self.paid_out if now - 10 < slot]
        if recent:
            self.paid_out.remove(min(recent))


class Walk(RuleBasedStateMachine):
    """Attempts, retries, and retries that are not made after all."""

    kind: type[Allowance] = Allowance

    @initialize(
        ratio=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
        reserve=st.sampled_from([0.0, 0.1, 1.0]),
        start=st.sampled_from([0.0, 7.25, 1e6]),
    )
    def begin(self, ratio, reserve, start):
        self.account, self.model, self.now = self.kind(ratio, reserve, WINDOW), Model(ratio, reserve), start
        self.ratio = ratio

    @property
    def slot(self):
        return int(self.now // WIDTH)

    @rule(nap=st.sampled_from([0.25, 1.0, 2.5, 9.0, 9.75, 30.0]))
    def time_passes(self, nap):
        self.now += nap

    @rule(times=st.integers(1, 20))
    def deposit(self, times):
        for _ in range(times):
            self.account.deposit(self.now)
            self.model.paid_in.append(self.slot)

    @rule(times=st.integers(1, 5))
    def withdraw(self, times):
        for _ in range(times):
            allowed = self.model.left(self.slot) >= 1 - 1e-9
            assert allowed == self.account.withdraw(self.now)
            if allowed:
                self.model.paid_out.append(self.slot)

    @rule()
    def refund(self):
        self.account.refund(self.now)
        self.model.refund(self.slot)

    @invariant()
    def balances(self):
        if hasattr(self, "account"):
            assert pytest.approx(self.model.left(self.slot)) == self.account.balance(self.now) * self.ratio


class NeverExpires(Allowance):
    """Keeps deposits for ever."""

    def _advance(self, now: float) -> int:
        self._slot = int(now // self._width)
        return self._slot % 10


class RefundsTheExpired(Allowance):
    """Credits a withdrawal whose slot is long gone."""

    def refund(self, now: float) -> None:
        self._withdrawals[self._advance(now)] -= 1


def test_the_account_does_what_the_model_does():
    """Extra attempts stay within their share of the attempts of the window, and the reserve."""
    run_state_machine_as_test(Walk, settings=settings(max_examples=40, deadline=None))


# What an account begins with, and steps of it that each mutant gets wrong: told, so that no search has to find them.
HISTORIES = {
    NeverExpires: ((0.5, 0.0, 0.0), ("deposit", 1), ("time_passes", 30.0)),
    RefundsTheExpired: ((1.0, 1.0, 0.0), ("withdraw", 1), ("time_passes", 30.0), ("refund",)),
}


def walk(kind: type[Allowance], begin: tuple[float, ...], *steps: tuple[Any, ...]) -> None:
    machine = type("Walk", (Walk,), {"kind": kind})()
    machine.begin(*begin)
    for rule_name, *arguments in steps:
        getattr(machine, rule_name)(*arguments)
        machine.balances()


@pytest.mark.parametrize("mutant", HISTORIES)
def test_the_model_catches(mutant):
    """Accounts that hand out what is not there, and no other."""
    walk(Allowance, *HISTORIES[mutant])
    with pytest.raises(AssertionError):
        walk(mutant, *HISTORIES[mutant])


def test_an_outage_raises_the_load_by_the_ratio():
    """Every attempt fails and asks for three more: what it gets is a fifth, and the reserve."""
    account, retries = Allowance(0.2, 1.0, WINDOW), 0
    for request in range(10_000):
        now = request * 0.01
        account.deposit(now)
        retries += sum(account.withdraw(now) for _ in range(3))

    assert 0.2 * 10_000 * 0.9 <= retries <= 0.2 * 10_000 + 1.0 * (100 + WINDOW)


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("start", [0.0, 0.25, 3.0, 1e6])
def test_a_deposit_is_gone_with_its_slot(start, width):
    """It counts as long as its slot is one of the last ten, from the very first slot on."""
    account = Allowance(0.5, 0.0, 10 * width)
    account.deposit(start)
    end = (start // width + 10) * width

    assert 1.0 == account.balance(end - 0.125)
    assert 0.0 == account.balance(end)


@pytest.mark.parametrize("start", [0.0, 7.0])
def test_a_refund_is_of_the_oldest_withdrawal(start):
    """That credits the least: it would have expired before all others."""
    account = Allowance(0.5, 0.5, WINDOW)
    for age in (0.0, 8.0, 9.0):
        assert account.withdraw(start + age)

    account.refund(start + 9.0)

    assert 10.0 - 4.0 == account.balance(start + 9.0)
    assert 10.0 - 4.0 == account.balance(start + 17.75)
    assert 10.0 - 2.0 == account.balance(start + 18.0)
