"""What happened lately: counts of calls, failures and slow calls over the last seconds, or the last calls.

A time window is cut into buckets, so that forgetting is cheap and no call is stored by itself. Totals over the closed
buckets are kept as they come and go: nothing is ever summed over the window.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple, Protocol

__all__ = ["CountWindow", "Counts", "TimeWindow", "Window"]

_BUCKETS = 10


class Counts(NamedTuple):
    """How many calls a window holds, and how many of them failed or were slow."""

    calls: int
    failures: int
    slow: int


class Window(Protocol):
    """A window of the recent past."""

    def note(self, now: float, *, failed: bool, slow: bool) -> None:
        """Record one call that ended at `now`."""
        ...

    def counts(self, now: float) -> Counts:
        """Return the totals of the window that ends at `now`."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def take_over(self, other: Any, /) -> None:
        """Go on with the limits of another window of this kind, and with the same contents."""
        ...


class TimeWindow:
    """The calls of the last seconds, exact to a tenth of the span.

    The instants given must not decrease. `calls` and `quiet_until` are open to the happy path of a breaker, which notes a
    success as `calls += 1` as long as `now < quiet_until`: it changes no verdict then.

    Args:
        span: Seconds (> 0).
        least: How many calls there must be before a share of them means anything (>= 1).
    """

    __slots__ = (
        "_closed",
        "_closed_calls",
        "_closed_failures",
        "_closed_slow",
        "_ends",
        "_failures",
        "_least",
        "_slow",
        "_width",
        "calls",
        "quiet_until",
    )

    def __init__(self, span: float, least: int = 1) -> None:
        self._width = span / _BUCKETS
        self._least = least
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._closed: deque[tuple[float, Counts]] = deque()  # the end of each closed bucket and what it held
        self._closed_calls = self._closed_failures = self._closed_slow = 0
        self._failures = self._slow = 0
        #: Calls in the bucket that is being filled.
        self.calls = 0
        self._ends = -math.inf  # of that bucket
        #: Until when a success needs no verdict.
        self.quiet_until = -math.inf

    def take_over(self, other: TimeWindow) -> None:
        """Go on with the least number of calls of another window."""
        self._least = other._least
        self._look_ahead()

    def note(self, now: float, *, failed: bool, slow: bool) -> None:
        """Record one call that ended at `now`."""
        self._advance(now)
        self.calls += 1
        self._failures += failed
        self._slow += slow
        self._look_ahead()

    def counts(self, now: float) -> Counts:
        """Return the totals of the window that ends at `now`."""
        self._advance(now)
        return Counts(
            self._closed_calls + self.calls,
            self._closed_failures + self._failures,
            self._closed_slow + self._slow,
        )

    def _advance(self, now: float) -> None:
        if now < self._ends:
            return
        if self.calls:
            self._close()
        self._ends = now + self._width
        self._forget(now)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Find out until when a success changes no verdict: one more success lowers every share.

        It does change the verdict where it is the call that makes the shares count, and time does where it makes the
        window forget older successes.
        """
        failed_or_slow = self._closed_failures + self._failures + self._closed_slow + self._slow
        too_few = self._closed_calls + self.calls < self._least
        self.quiet_until = -math.inf if failed_or_slow and too_few else self._ends

    def _close(self) -> None:
        bucket = Counts(self.calls, self._failures, self._slow)
        self._closed.append((self._ends, bucket))
        self._closed_calls += bucket.calls
        self._closed_failures += bucket.failures
        self._closed_slow += bucket.slow
        self.calls = self._failures = self._slow = 0

    def _forget(self, now: float) -> None:
        oldest = now - self._width * (_BUCKETS - 1)
        while self._closed and self._closed[0][0] <= oldest:
            _, bucket = self._closed.popleft()
            self._closed_calls -= bucket.calls
            self._closed_failures -= bucket.failures
            self._closed_slow -= bucket.slow


class CountWindow:
    """The last calls, whenever they were.

    Args:
        size: How many calls (>= 1).
    """

    __slots__ = ("_calls", "_failures", "_slow")

    def __init__(self, size: int) -> None:
        self._calls: deque[tuple[bool, bool]] = deque(maxlen=size)
        self._failures = self._slow = 0

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()
        self._failures = self._slow = 0

    def take_over(self, other: CountWindow) -> None:
        """Go on as before: the size of a window cannot change."""

    def note(self, now: float, *, failed: bool, slow: bool) -> None:
        """Record one call; `now` says nothing to this window."""
        del now
        if len(self._calls) == self._calls.maxlen:
            oldest_failed, oldest_slow = self._calls[0]
            self._failures -= oldest_failed
            self._slow -= oldest_slow
        self._calls.append((failed, slow))
        self._failures += failed
        self._slow += slow

    def counts(self, now: float) -> Counts:
        """Return the totals of the last calls."""
        del now
        return Counts(len(self._calls), self._failures, self._slow)
