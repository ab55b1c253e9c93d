"""What is kept of an outcome: which values and which errors, and for how long."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from paintkit import _arguments, backoff
from paintkit._record import Record
from paintkit._runtime import Failure, Outcome, Success
from paintkit.cache.keys import PLAIN
from paintkit.cache.values import refuse_unfit
from paintkit.machines.freshness import Freshness, Life, rounded

if TYPE_CHECKING:
    from paintkit.cache.entries import SharedEntry
    from paintkit.typing import Predicate

__all__ = ["ABSENT", "NEVER_EXPIRES", "Confirmed", "Found", "Keeping", "KeptError", "Verdict"]

#: What `None` does as a time to live.
NEVER_EXPIRES: Final = "never expires"


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
        life: How long it is kept; `None`: it is not.
        seconds: How long it took to come.
        weight: How much of the cache's `max_weight` it takes.
    """

    __slots__ = ("life", "outcome", "seconds", "weight")

    def __init__(self, outcome: Outcome[Any], life: Life | None, seconds: float) -> None:
        self.outcome = outcome
        self.life = life
        self.seconds = seconds
        self.weight = 0

    @property
    def contents(self) -> Any:
        """What stands in the place of a value, if it is kept."""
        outcome = self.outcome
        return outcome.value if isinstance(outcome, Success) else outcome


class Found(Verdict):
    """What becomes of a value that was found in a second level: it lives on."""

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

    @functools.cached_property
    def apart(self) -> bool:
        """Whether even a blocking first caller waits for a load that somebody else makes."""
        return self.loader_timeout is not None or self.soft_timeout is not None

    def judge(self, outcome: Outcome[Any], seconds: float = 0.0) -> Verdict:
        """Return what becomes of an outcome that took so many seconds.

        What the user's own functions raise in here, and a value that must not be cached, is a failed load.
        """
        try:
            if isinstance(outcome, Success):
                value = outcome.value
                if value.__class__ not in PLAIN:
                    refuse_unfit(value)
                return Verdict(outcome, self._usual or self._life_of(value, seconds), seconds)
            if self.keeps(outcome.error):
                return Verdict(KeptError(outcome.error), self._life_of_errors, seconds)
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            outcome = Failure(error)
        return Verdict(outcome, None, seconds)

    def keeps(self, error: Exception) -> bool:
        """Whether an error is an answer."""
        return self.errors is not None and bool(_arguments.settled("cache_errors", self.errors(error)))

    def rest_of_life(self, timeout: float | None, seconds: float) -> Life:
        """Return how long a value lives on that is fresh for so many seconds more (negative: it was) and took so long to load."""
        life = self.freshness.plan(timeout, seconds, _draw)
        if life.span is not None:
            life.span = rounded(life.span)
        return life

    @functools.cached_property
    def _usual(self) -> Life | None:
        """The life of every value that is loaded, if all live alike."""
        if callable(self.timeout) or not self.freshness.steady:
            return None
        return self.freshness.plan(self.timeout, 0.0, _draw)

    def _life_of(self, value: object, seconds: float) -> Life | None:
        """Return how long a value lives that took so many seconds to load; `None`: it is not for keeping."""
        if not callable(self.timeout):
            return self.freshness.plan(self.timeout, seconds, _draw)
        timeout = _chosen(self.timeout(value))
        return None if timeout == 0.0 else self.rest_of_life(timeout, seconds)

    @functools.cached_property
    def _life_of_errors(self) -> Life:
        """The life of an error. It is never due, so that no wrapper returns it for a value."""
        return Life(-math.inf, self.error_timeout, self.error_timeout, self.error_timeout)


def _chosen(timeout: object) -> float | None:
    """Return the timeout that the user's function chose for a value, checked."""
    chosen = _arguments.settled("timeout", timeout)
    return _arguments.seconds_or_none(
        "what timeout returns", chosen, none=NEVER_EXPIRES, zero=True, most=math.inf
    )


def _draw() -> float:
    # The generator is looked up by who needs chance: most lives are planned without.
    return backoff.shared_rng().random()
