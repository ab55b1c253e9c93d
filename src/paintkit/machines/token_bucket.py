"""A token bucket in one number: the generic cell rate algorithm (GCRA, ITU-T I.371).

The bucket is described by the instant at which it will be full again. A call that costs `w` tokens moves that instant
`w * interval` onwards; it conforms if the bucket is then not emptier than empty. A bucket whose instant has passed is
full and holds no information: forgetting it changes nothing, which is why keyed limits can be bounded exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Reservation", "TokenBucket"]

# Seconds. Instants are large floats and intervals small ones: sums of them are off by less than this, and rounding must
# not refuse a token that arrives at this very instant.
_SLACK = 1e-6


class Reservation(NamedTuple):
    """Tokens that were taken: the instant at which the bucket was to be full before, and the one after."""

    before: float
    after: float


class TokenBucket:
    """One bucket.

    Args:
        interval: Seconds in which one token flows in (> 0).
        burst: How many tokens it holds (>= 1).
    """

    __slots__ = ("_gaps", "_interval", "_slack", "_tolerance", "full_at")

    def __init__(self, interval: float, burst: float) -> None:
        self._interval = interval
        self._slack = min(_SLACK, interval / 2)  # never worth a token
        self._tolerance = interval * burst + self._slack
        self._gaps: dict[float, float] | None = (
            None  # given back while others were queuing behind: after → before
        )
        #: The instant at which the bucket is, or was, full.
        self.full_at = -math.inf

    def take_over(self, other: TokenBucket, now: float) -> None:
        """Go on at the rate of another bucket; the tokens that are missing now stay missing."""
        missing = max(0.0, self.full_at - now) / self._interval
        self._interval, self._tolerance, self._slack = other._interval, other._tolerance, other._slack
        self._gaps = None
        self.full_at = now + missing * self._interval

    def wait(self, now: float, weight: float = 1.0) -> float:
        """Seconds until so many tokens are there (0: now); nothing is taken."""
        exact = max(self.full_at, now) + weight * self._interval - (self._tolerance - self._slack) - now
        return exact if exact > self._slack else 0.0

    def try_take(self, now: float, weight: float = 1.0) -> bool:
        """Take tokens if they are there; whether they were."""
        latest = self.full_at if self.full_at > now else now  # noqa: FURB136 - a call of max() costs as much as the rest
        full_at = latest + weight * self._interval
        if full_at - now > self._tolerance:
            return False
        self.full_at = full_at
        return True

    def reserve(self, now: float, weight: float = 1.0) -> Reservation:
        """Take tokens, now or from the future; `wait` tells beforehand when they may be used."""
        before = max(self.full_at, now)
        self.full_at = before + weight * self._interval
        return Reservation(before, self.full_at)

    def give_back(self, now: float, taken: Reservation) -> None:
        """Return tokens that were reserved and not used.

        Those behind keep their instants. If the next one came could have an instant that is promised to them, two would
        start where one may: so such tokens leave a gap, which closes when all behind it have returned theirs.
        """
        gaps = {after: before for after, before in (self._gaps or {}).items() if after > now}
        gaps[taken.after] = taken.before
        while self.full_at in gaps:
            self.full_at = gaps.pop(self.full_at)
        self._gaps = gaps or None

    def is_full(self, now: float) -> bool:
        """Whether the bucket could be forgotten."""
        return self.full_at <= now

    def tokens(self, now: float) -> float:
        """How many tokens are there (negative: promised to those who wait)."""
        return (self._tolerance - self._slack - max(0.0, self.full_at - now)) / self._interval
