"""Weights: how much values may weigh together, by an estimate of their bytes or by a measure of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, observations
from paintkit._runtime import Failure, Success
from paintkit.cache.keeping import ABSENT, Verdict
from paintkit.cache.values import estimate_size

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry

__all__ = ["Weights", "weights"]


class Weights:
    """What the values of a level weigh.

    Args:
        source: The name of the cache, for observations.
        most: What they may weigh together (>= 1).
        weigh: Returns the weight of a value, a whole number >= 0.
    """

    def __init__(self, source: str, most: int, weigh: Callable[[Any], int]) -> None:
        self.most = most
        #: What all weigh that are in.
        self.total = 0
        #: How many values were not kept because one alone weighs more than all may.
        self.refused = 0
        self._source = source
        self._weigh = weigh
        self._of: dict[Entry, int] = {}

    def judge(self, verdict: Verdict, function: str) -> Verdict:
        """Weigh what is to be kept, if it is a value: an error and an absence weigh nothing. Runs the user's code: not under a lock.

        What a measure raises, or a result that is no weight, is a failed load.
        """
        outcome = verdict.outcome
        if verdict.life is None or not isinstance(outcome, Success) or outcome.value is ABSENT:
            return verdict
        try:
            weight = _arguments.settled("weigh", self._weigh(outcome.value))
            verdict.weight = _arguments.count("what weigh returns", weight, least=0)
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Verdict(Failure(error), None, verdict.seconds)
        if verdict.weight > self.most:
            self.refused += 1
            verdict.life = None
            observations.emit(
                "cache.too_heavy",
                self._source,
                function=function,
                weight=verdict.weight,
                max_weight=self.most,
            )
        return verdict

    def lack_room(self, weight: int) -> bool:
        """Whether something has to go before so much comes in."""
        return self.total + weight > self.most

    def take_in(self, entry: Entry, weight: int) -> None:
        """Add an entry."""
        self._of[entry] = weight
        self.total += weight

    def let_go(self, entry: Entry) -> None:
        """Take an entry away."""
        self.total -= self._of.pop(entry)


def weights(source: str, most: object, weigh: object) -> Weights | None:
    """Return the weights for these arguments of a manager, or `None` if weight is no matter.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: `most` is too small, or there is a measure but no limit.
    """
    if most is None:
        if weigh is not None:
            raise ValueError("weigh has no effect without a limit: pass max_weight, too")
        return None
    measure: Any = estimate_size if weigh is None else weigh
    return Weights(source, _arguments.count("max_weight", most), _arguments.callback("weigh", measure))
