"""Decides what follows a failed attempt: wait and try again, or give up.

One `RetryPlan` belongs to one call. It counts attempts and compares spans; it does not know what failed, nor where a
delay comes from. A wait that does not fit into the time that is left is refused before it is slept.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

__all__ = ["GiveUp", "Reason", "RetryPlan", "Wait"]

#: Why a call is not retried: all attempts used, the server asks for more patience than we have, or no time left in the
#: policy's own span or in the ambient deadline.
Reason = Literal["attempts", "retry_after", "max_elapsed", "deadline"]


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
        give_up_at: The instant after which no attempt may start by the policy's own span.
        longest_hint: The longest wait, in seconds, that a server may ask for.
    """

    __slots__ = ("_attempts", "_give_up_at", "_longest_hint", "made")

    def __init__(self, attempts: int, give_up_at: float = math.inf, longest_hint: float = math.inf) -> None:
        self._attempts = attempts
        self._give_up_at = give_up_at
        self._longest_hint = longest_hint
        #: How many attempts have been started.
        self.made = 1

    @property
    def is_used_up(self) -> bool:
        """Whether all attempts have been made."""
        return self.made >= self._attempts

    def after_failure(
        self, now: float, delay: float, *, hint: float = 0.0, spread: float = 1.0, due: float = math.inf
    ) -> Wait | GiveUp:
        """Decide after an attempt has failed.

        Args:
            now: The instant of the decision.
            delay: Seconds that the schedule asks for; what is no positive number is no wait.
            hint: Seconds that the server asks for (>= 0). Coming earlier would break its word, so a hint is never shortened.
            spread: By how much a hint that is followed is stretched (>= 1).
            due: The instant of the ambient deadline.
        """
        if self.is_used_up:
            return GiveUp("attempts")
        if hint > self._longest_hint:
            return GiveUp("retry_after")
        wait = max(hint * spread, delay)  # in this order: what is not greater, NaN included, is no wait
        if now + wait >= due:
            return GiveUp("deadline")
        if now + wait > self._give_up_at:
            return GiveUp("max_elapsed")
        return Wait(wait)

    def start(self) -> None:
        """Note that another attempt starts."""
        self.made += 1
