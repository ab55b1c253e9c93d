"""Freshness: until when a value is as good as new, and until when it is of any use.

A life is planned before the value is stored, with all randomness in it, so that a look at the value is one comparison: once for
all values of a function where chance has no part in it, else when each comes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from paintkit._record import Record

__all__ = ["PAUSE", "Freshness", "Life", "rounded"]

#: Seconds between two tries to renew a value that helps out.
PAUSE = 5.0

#: Lives of any length are booked under so many lengths for each doubling.
_STEPS = 4


class Life:
    """How long one value lives, in seconds from when it came.

    Attributes:
        due: Until here a call is answered without a thought.
        expires: Until here the value is fresh.
        leaves: From here on nobody has a use for it.
        span: What to book it under: of two values of one span, the one that came first leaves first, and by its span after
            it came a value has left. `None`: it stays for ever.
        plain: Whether all three come at once.
    """

    # No named tuple, which takes half as long again to make: many loads make one, and read it once.
    __slots__ = ("due", "expires", "leaves", "plain", "span")

    def __init__(self, due: float, expires: float, leaves: float, span: float | None) -> None:
        self.due = due
        self.expires = expires
        self.leaves = leaves
        self.span = span
        self.plain = due == expires == leaves


_FOR_EVER = Life(math.inf, math.inf, math.inf, None)


class Freshness(Record):
    """How long the values of one function live.

    Attributes:
        jitter: The part of a timeout that chance may take off (0 to 1).
        early: In the last part of its time (0 to 1) a value may be renewed before it expires.
        stale: Seconds for which it is still served afterwards, while it is renewed.
        stale_on_error: Seconds for which it is still served afterwards if it cannot be renewed.
    """

    jitter: float = 0.0
    early: float = 0.0
    stale: float = 0.0
    stale_on_error: float = 0.0

    @functools.cached_property
    def grace(self) -> float:
        """For how many seconds a value is of some use after it expired."""
        return max(self.stale, self.stale_on_error)

    @functools.cached_property
    def steady(self) -> bool:
        """Whether all values of one timeout live alike, and a life can be planned once for all of them."""
        return not self.jitter and not self.early

    def plan(self, timeout: float | None, seconds: float, draw: Callable[[], float]) -> Life:
        """Return the life of a value.

        Args:
            timeout: Seconds for which it is fresh, or `None`: for ever. Negative if that was over before it came.
            seconds: How long it took to load.
            draw: Returns a random number in [0, 1).
        """
        if timeout is None:
            return _FOR_EVER
        span = timeout + self.grace
        if self.jitter and timeout > 0:
            timeout *= 1.0 - self.jitter * draw()
        due = timeout - self._lead(timeout, seconds, draw) if self.early and timeout > 0 else timeout
        return Life(due, timeout, timeout + self.grace, span)

    def _lead(self, timeout: float, seconds: float, draw: Callable[[], float]) -> float:
        """Return how long before its end a value is renewed, by XFetch: the longer the load, the earlier.

        After Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015).
        """
        return min(self.early * timeout, -seconds * math.log(1.0 - draw()))

    def helps_out(self, now: float, expires: float) -> bool:
        """Whether a value that expired may be served while it is renewed."""
        return now < expires + self.stale

    def helps_in_need(self, now: float, expires: float) -> bool:
        """Whether a value that expired may be served because it cannot be renewed."""
        return now < expires + self.stale_on_error

    def pause(self, now: float, leaves: float) -> float:
        """Return until when a value that could not be renewed is served without another try."""
        return min(now + PAUSE, leaves)


def rounded(seconds: float) -> float:
    """Return a length that is no shorter and little longer, one of few: lives of any length need few books."""
    return 2.0 ** (math.ceil(math.log2(seconds) * _STEPS) / _STEPS) if seconds < math.inf else seconds
