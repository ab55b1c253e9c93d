"""Freshness: until when a value is as good as new, and until when it is of any use.

A life is planned once, when the value comes, with all randomness in it, so that a look at the value is one comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from paintkit._record import Record

__all__ = ["Freshness", "Life"]

#: Lives of any length are booked under so many lengths for each doubling.
_STEPS = 4


class Life(NamedTuple):
    """The instants of one value.

    Attributes:
        due: Until here a call is answered without a thought.
        expires: Until here the value is fresh.
        leaves: From here on nobody has a use for it.
        span: What to book it under: of two values of one span, the one that came first leaves first, and by its span after
            it came a value has left. `None`: it stays for ever.
    """

    due: float
    expires: float
    leaves: float
    span: float | None


class Freshness(Record):
    """How long the values of one function live.

    Attributes:
        jitter: The part of a timeout that chance may take off (0 to 1).
    """

    jitter: float = 0.0

    def plan(self, now: float, timeout: float | None, draw: Callable[[], float]) -> Life:
        """Return the life of a value that came now.

        Args:
            now: An instant.
            timeout: Seconds for which it is fresh (> 0), or `None`: for ever.
            draw: Returns a random number in [0, 1).
        """
        if timeout is None:
            return Life(math.inf, math.inf, math.inf, None)
        span = timeout
        if self.jitter:
            timeout *= 1.0 - self.jitter * draw()
        expires = now + timeout
        return Life(expires, expires, expires, span)


def rounded(seconds: float) -> float:
    """Return a length that is no shorter and little longer, one of few: lives of any length need few books."""
    return 2.0 ** (math.ceil(math.log2(seconds) * _STEPS) / _STEPS) if seconds < math.inf else seconds
