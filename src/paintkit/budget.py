"""A budget for extra attempts: what keeps retries from becoming the outage.

"Three retries" multiplies the load on a dependency by four at the very moment at which it cannot cope. A budget lets
retries make a share of the traffic instead, however many calls fail: with a ratio of 0.2, an outage raises the load by a
fifth. One budget stands for one dependency, and is shared by everything that calls it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from paintkit import _arguments, clock, observations
from paintkit._locks import new_lock
from paintkit.machines.allowance import Allowance

if TYPE_CHECKING:
    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["RetryBudget"]


class RetryBudget:
    """Bounds the extra attempts of retries and hedges to a share of the first attempts.

    Args:
        ratio: Extra attempts per first attempt (> 0, at most 10).
        reserve: Extra attempts per second (>= 0) on top, so that a client with little traffic may retry at all.
        window: Seconds (> 0) or a `timedelta` after which a first attempt no longer counts.
        name: The label in observations.
        shadow: Only report what would be refused (observation `budget.would_refuse`).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from paintkit import retry
        >>> budget = RetryBudget(ratio=0.2, reserve=1.0)
        >>> policy = retry(on=ConnectionError, budget=budget)
    """

    def __init__(
        self,
        *,
        ratio: float = 0.2,
        reserve: float = 1.0,
        window: Seconds = 10.0,
        name: str = "budget",
        shadow: bool = False,
    ) -> None:
        self.name = _arguments.label("name", name)
        self._shadow = _arguments.flag("shadow", shadow)
        self._allowance = Allowance(
            _arguments.number("ratio", ratio, above=0.0, most=10.0),
            _arguments.number("reserve", reserve, least=0.0, most=1e6),
            _arguments.seconds("window", window),
        )
        self._lock = new_lock()  # guards the allowance and _refused
        self._refused = 0

    @property
    def refused(self) -> int:
        """How many extra attempts were refused, or in shadow mode: would have been."""
        return self._refused

    def balance(self) -> float:
        """Return the tokens in the account: a first attempt brings one, an extra attempt costs `1 / ratio`."""
        with self._lock:
            return self._allowance.balance(clock.now())

    def deposit(self) -> None:
        """Note a first attempt."""
        with self._lock:
            self._allowance.deposit(clock.now())

    def withdraw(self) -> bool:
        """Pay for an extra attempt, before waiting for it; whether it may be made."""
        with self._lock:
            paid = self._allowance.withdraw(clock.now())
            self._refused += not paid
        if not paid:
            observations.emit("budget.would_refuse" if self._shadow else "budget.refused", self.name)
        return paid or self._shadow

    def refund(self) -> None:
        """Take back a withdrawal whose attempt was not made."""
        if self._shadow:
            return  # nobody knows whether it had been paid, and what was not paid must not be given back
        with self._lock:
            self._allowance.refund(clock.now())

    def telemetry(self) -> Iterable[Metric]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.BUDGET.read(self.name, {"refused": self._refused, "balance": self.balance()})

    def __repr__(self) -> str:
        return f"<RetryBudget {self.name!r}>"
