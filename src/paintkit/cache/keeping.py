"""What is kept of an outcome: which values and which errors, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, backoff
from paintkit._record import Record
from paintkit._runtime import Failure, Outcome, Success
from paintkit.cache.values import refuse_unfit
from paintkit.machines.freshness import Freshness, Life, rounded

if TYPE_CHECKING:
    from paintkit.typing import Predicate

__all__ = ["Keeping", "KeptError"]


class KeptError:
    """Stands in the place of a value: the answer is that there is none."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def failure(self) -> Failure:
        """Return the error to raise, without the traces of those to whom it was raised before."""
        return Failure(self.error.with_traceback(None))


class Keeping(Record):
    """What one function keeps.

    Attributes:
        timeout: The time to live in seconds, or `None`, or what tells it from a value (0: not kept).
        freshness: What follows from it.
        errors: Which errors are kept, as answers.
        error_timeout: For how many seconds.
    """

    timeout: float | Callable[[Any], Any] | None
    freshness: Freshness
    errors: Predicate | None
    error_timeout: float

    def judge(self, outcome: Outcome[Any]) -> tuple[Outcome[Any], float | None]:
        """Return an outcome as callers get it, and for how many seconds it is kept: 0 if not, `None` if for ever.

        What the user's own functions raise in here, and a value that must not be cached, is a failed load.
        """
        try:
            if isinstance(outcome, Success):
                refuse_unfit(outcome.value)
                timeout = self._timeout_of(outcome.value)
            else:
                timeout = self.error_timeout if self.keeps(outcome.error) else 0.0
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Failure(error), 0.0
        return outcome, timeout

    def keeps(self, error: Exception) -> bool:
        """Whether an error is an answer."""
        return self.errors is not None and bool(_arguments.settled("cache_errors", self.errors(error)))

    def life_of(self, outcome: Outcome[Any], now: float, timeout: float | None) -> tuple[Any, Life]:
        """Return what to put in the place of a value, and how long it lives there."""
        if isinstance(outcome, Success):
            life = self.freshness.plan(now, timeout, backoff.shared_rng().random)
            return outcome.value, life if not callable(self.timeout) or life.span is None else life._replace(
                span=rounded(life.span)
            )
        expires = now + (math.inf if timeout is None else timeout)
        # It is never due, so that no wrapper returns it for a value.
        return KeptError(outcome.error), Life(-math.inf, expires, expires, timeout)

    def _timeout_of(self, value: object) -> float | None:
        if not callable(self.timeout):
            return self.timeout
        chosen = _arguments.settled("timeout", self.timeout(value))
        if chosen is None:
            return None
        return _arguments.seconds("what timeout returns", chosen, zero=True, most=math.inf)
