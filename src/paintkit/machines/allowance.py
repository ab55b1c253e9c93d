"""How much extra load retries and hedges may make: a share of the calls of the last seconds, and a small reserve.

The form is that of Finagle's retry budget: every first attempt deposits one token, every extra attempt withdraws
`1 / ratio` of them, both expire. With `reserve` extra attempts per second on top, a quiet client is not starved.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Allowance"]

_SLOTS = 10


class Allowance:
    """The account of one dependency.

    The instants given must not decrease. The window is cut into ten slots, of which the last is being filled. In it,
    withdrawals <= ratio * deposits + reserve * window.

    Args:
        ratio: Extra attempts per first attempt (> 0).
        reserve: Extra attempts per second on top (>= 0).
        window: Seconds after which a deposit has expired (> 0).
    """

    __slots__ = ("_cost", "_deposits", "_reserve", "_slot", "_width", "_withdrawals")

    def __init__(self, ratio: float, reserve: float, window: float) -> None:
        self._cost = 1.0 / ratio
        self._width = window / _SLOTS
        self._reserve = reserve * window * self._cost
        self._deposits = [0] * _SLOTS  # per slot of the window, in a ring
        self._withdrawals = [0] * _SLOTS
        self._slot = 0  # the number of the current slot since the beginning of time

    def deposit(self, now: float) -> None:
        """Note a first attempt."""
        self._deposits[self._advance(now)] += 1

    def withdraw(self, now: float) -> bool:
        """Pay for an extra attempt; False, and nothing is paid, if the balance does not suffice."""
        index = self._advance(now)
        if self.balance(now) < self._cost - 1e-9:
            return False
        self._withdrawals[index] += 1
        return True

    def refund(self, now: float) -> None:
        """Take back a withdrawal whose attempt was not made; one that has expired leaves nothing to take back."""
        self._advance(now)
        for index in self._oldest_first():
            if self._withdrawals[index]:
                self._withdrawals[index] -= 1
                return

    def balance(self, now: float) -> float:
        """Tokens in the account; one extra attempt costs `1 / ratio`."""
        self._advance(now)
        return self._reserve + sum(self._deposits) - self._cost * sum(self._withdrawals)

    def _oldest_first(self) -> Iterable[int]:
        return (number % _SLOTS for number in range(self._slot + 1, self._slot + 1 + _SLOTS))

    def _advance(self, now: float) -> int:
        """Go to the slot of now, and clear those that have expired."""
        slot = int(now / self._width)
        for expired in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            self._deposits[expired % _SLOTS] = self._withdrawals[expired % _SLOTS] = 0
        self._slot = max(self._slot, slot)
        return self._slot % _SLOTS
