"""Decides when a slow call gets a second try beside it, and what the tries come to."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["HedgePlan", "Quantile"]


class HedgePlan:
    """The plan of one call: when the next try starts.

    Args:
        most: How many tries may run for this call, the first included (>= 1).
        delay: Seconds from one try to the next, or `None` for one try only.
    """

    __slots__ = ("_delay", "_failed", "_most", "_next_at", "launched")

    def __init__(self, most: int, delay: float | None) -> None:
        self._most = 1 if delay is None else most
        self._delay = delay or 0.0
        self._failed = 0
        self._next_at = -math.inf
        #: How many tries have been started.
        self.launched = 0

    def launch(self, now: float) -> None:
        """Note that a try starts."""
        self.launched += 1
        self._next_at = now + self._delay

    def fail(self) -> None:
        """Note that a try has failed; the next need not wait for its delay."""
        self._failed += 1
        self._next_at = -math.inf

    def stop(self) -> None:
        """Start no further try."""
        self._most = self.launched

    def is_due(self, now: float) -> bool:
        """Whether the next try should start now."""
        return self.launched < self._most and now >= self._next_at

    def patience(self, now: float) -> float | None:
        """Seconds until the next try is due, or `None` if there is none to come."""
        return None if self.launched >= self._most else max(0.0, self._next_at - now)

    @property
    def is_lost(self) -> bool:
        """Whether every try has failed and none is to come."""
        return self._failed >= self.launched >= self._most


class Quantile:
    """A quantile of the latest durations.

    Args:
        share: Which quantile (0 to 1): 0.95 is exceeded by one call in twenty.
        least: How many durations there must be before it means anything (>= 1).
        size: How many of the latest are looked at (>= `least`).
    """

    __slots__ = ("_durations", "_least", "_noted", "_share", "_value")

    def __init__(self, share: float, *, least: int = 50, size: int = 500) -> None:
        self._share = share
        self._least = least
        self._durations: deque[float] = deque(maxlen=size)
        self._noted = 0
        self._value: float | None = None

    def note(self, duration: float) -> None:
        """Record one duration; the quantile is drawn anew with every `least` of them."""
        self._durations.append(duration)
        self._noted += 1
        if self._noted % self._least == 0:
            ordered = sorted(self._durations)
            self._value = ordered[min(int(self._share * len(ordered)), len(ordered) - 1)]

    @property
    def value(self) -> float | None:
        """The quantile, or `None` while there are too few durations."""
        return self._value
