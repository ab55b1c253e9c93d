"""Decides what follows a failed attempt: wait and try again, or give up.

One `RetryPlan` belongs to one call. It counts attempts, draws delays and compares spans; it does not know what failed.
A wait that does not fit into the time that is left is refused before it is slept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["GiveUp", "Reason", "RetryPlan", "Wait"]

#: Why a call is not retried: all attempts used, or no time left in the policy's own span or in the ambient deadline.
Reason = Literal["attempts", "max_elapsed", "deadline"]


class Wait(NamedTuple):
    """Try again after so many seconds."""

    seconds: float


class GiveUp(NamedTuple):
    """Do not try again."""

    reason: Reason


class RetryPlan:
    """The plan of one call, made when its first attempt has failed.

    Args:
        attempts: How many attempts there may be in all, the first one included.
        delays: Seconds to wait before each retry; when they end, the last one goes on.
        give_up_at: The instant after which no attempt may start by the policy's own span, or infinity.
    """

    __slots__ = ("_attempts", "_delay", "_delays", "_give_up_at", "made")

    def __init__(self, attempts: float, delays: Iterator[float], give_up_at: float = math.inf) -> None:
        self._attempts = attempts
        self._delays = delays
        self._delay = 0.0
        self._give_up_at = give_up_at
        #: How many attempts have been made.
        self.made = 1

    def after_failure(self, now: float, due: float = math.inf) -> Wait | GiveUp:
        """Decide after an attempt has failed.

        Args:
            now: The instant of the decision.
            due: The instant of the ambient deadline, or infinity.
        """
        if self.made >= self._attempts:
            return GiveUp("attempts")
        delay = self._next_delay()
        if now + delay >= due:
            return GiveUp("deadline")
        if now + delay > self._give_up_at:
            return GiveUp("max_elapsed")
        self.made += 1
        return Wait(delay)

    def _next_delay(self) -> float:
        delay = next(self._delays, self._delay)
        # A schedule of the user's own may yield anything: NaN and negative numbers are no wait.
        self._delay = delay if delay > 0 else 0.0
        return self._delay
