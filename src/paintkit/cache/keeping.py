"""What is kept of an outcome: which values and which errors, and for how long."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from paintkit import _arguments, backoff
from paintkit._record import Record
from paintkit._runtime import Failure, Outcome, Success
from paintkit.cache.values import refuse_unfit
from paintkit.machines.freshness import Freshness, Life, rounded

if TYPE_CHECKING:
    from paintkit.cache.entries import SharedEntry
    from paintkit.typing import Predicate

__all__ = ["ABSENT", "Confirmed", "Found", "Keeping", "KeptError", "Verdict"]


class _Absence(enum.Enum):
    ABSENT = "absent"


#: Stands in the place of the value of a key that has none.
ABSENT: Final = _Absence.ABSENT


class KeptError(Failure):
    """An error that is an answer; it stands in the place of a value."""

    __slots__ = ()

    def failure(self) -> Failure:
        """Return the error to raise, without the traces of those to whom it was raised before."""
        return Failure(self.error.with_traceback(None))


class Verdict:
    """What becomes of an outcome.

    Attributes:
        outcome: What callers get.
        timeout: For how many seconds it is kept: 0 if not, `None` if for ever.
        seconds: How long it took to come.
        weight: How much of the cache's `max_weight` it takes.
    """

    __slots__ = ("outcome", "seconds", "timeout", "weight")

    def __init__(self, outcome: Outcome[Any], timeout: float | None, seconds: float) -> None:
        self.outcome = outcome
        self.timeout = timeout
        self.seconds = seconds
        self.weight = 0


class Found(Verdict):
    """What becomes of a value that was found in a second level: it lives there for so many seconds more."""

    __slots__ = ()


class Confirmed(Verdict):
    """What becomes of a copy that stays as it is.

    Attributes:
        copy: The entry.
        verified: Whether the second level said that it is the current value; else nobody could be asked.
    """

    __slots__ = ("copy", "verified")

    def __init__(self, outcome: Outcome[Any], copy: SharedEntry, *, verified: bool) -> None:
        super().__init__(outcome, None, 0.0)
        self.copy = copy
        self.verified = verified


class Keeping(Record):
    """What one function keeps.

    Attributes:
        timeout: The time to live in seconds, or `None`, or what tells it from a value (0: not kept).
        freshness: What follows from it.
        errors: Which errors are kept, as answers.
        error_timeout: For how many seconds.
        loader_timeout: For how many seconds a load may take, or `None`.
        soft_timeout: For how many seconds a caller waits for a load if there is an old value, or `None`.
    """

    timeout: float | Callable[[Any], Any] | None
    freshness: Freshness
    errors: Predicate | None
    error_timeout: float
    loader_timeout: float | None = None
    soft_timeout: float | None = None

    @property
    def apart(self) -> bool:
        """Whether even a blocking first caller waits for a load that somebody else makes."""
        return self.loader_timeout is not None or self.soft_timeout is not None

    def judge(self, outcome: Outcome[Any], seconds: float = 0.0) -> Verdict:
        """Return what becomes of an outcome that took so many seconds.

        What the user's own functions raise in here, and a value that must not be cached, is a failed load.
        """
        try:
            if isinstance(outcome, Success):
                refuse_unfit(outcome.value)
                return Verdict(outcome, self._timeout_of(outcome.value), seconds)
            if self.keeps(outcome.error):
                return Verdict(KeptError(outcome.error), self.error_timeout, seconds)
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            outcome = Failure(error)
        return Verdict(outcome, 0.0, seconds)

    def keeps(self, error: Exception) -> bool:
        """Whether an error is an answer."""
        return self.errors is not None and bool(_arguments.settled("cache_errors", self.errors(error)))

    def life_of(self, verdict: Verdict, now: float) -> tuple[Any, Life]:
        """Return what to put in the place of a value, and how long it lives there."""
        outcome, timeout = verdict.outcome, verdict.timeout
        if isinstance(outcome, Success):
            life = self.freshness.plan(now, timeout, verdict.seconds, _draw)
            if life.span is not None and (callable(self.timeout) or isinstance(verdict, Found)):
                life = life._replace(span=rounded(life.span))
            return outcome.value, life
        expires = now + (math.inf if timeout is None else timeout)
        # It is never due, so that no wrapper returns it for a value.
        return outcome, Life(-math.inf, expires, expires, timeout)

    def _timeout_of(self, value: object) -> float | None:
        if not callable(self.timeout):
            return self.timeout
        chosen = _arguments.settled("timeout", self.timeout(value))
        if chosen is None:
            return None
        return _arguments.seconds("what timeout returns", chosen, zero=True, most=math.inf)


def _draw() -> float:
    # The generator is looked up by who needs chance: most lives are planned without.
    return backoff.shared_rng().random()
