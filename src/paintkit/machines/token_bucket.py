"""A token bucket in one number: the generic cell rate algorithm (GCRA, ITU-T I.371).

The bucket is described by the instant at which it will be full again. A call that costs `w` tokens moves that instant
`w * interval` onwards; it conforms if the bucket is then not emptier than empty. A bucket whose instant has passed is
full and holds no information: forgetting it changes nothing, which is why keyed limits can be bounded exactly.
"""

from __future__ import annotations

__all__ = ["TokenBucket"]

# Seconds. Instants are large floats and intervals small ones: sums of them are off by less than this, and rounding must
# not refuse a token that arrives at this very instant.
_SLACK = 1e-6


class TokenBucket:
    """One bucket.

    Args:
        interval: Seconds in which one token flows in (> 0).
        burst: How many tokens it holds (>= 1).
    """

    __slots__ = ("_interval", "_tolerance", "full_at")

    def __init__(self, interval: float, burst: float) -> None:
        self._interval = interval
        self._tolerance = interval * burst + _SLACK
        #: The instant at which the bucket is, or was, full.
        self.full_at = float("-inf")

    def wait(self, now: float, weight: float = 1.0) -> float:
        """Seconds until so many tokens are there (0: now); nothing is taken."""
        return max(0.0, max(self.full_at, now) + weight * self._interval - self._tolerance - now)

    def try_take(self, now: float, weight: float = 1.0) -> bool:
        """Take tokens if they are there; whether they were."""
        latest = self.full_at if self.full_at > now else now  # noqa: FURB136 - a call of max() costs as much as the rest
        full_at = latest + weight * self._interval
        if full_at - now > self._tolerance:
            return False
        self.full_at = full_at
        return True

    def take(self, now: float, weight: float = 1.0) -> float:
        """Take tokens, now or from the future, and return the seconds to wait for them."""
        wait = self.wait(now, weight)
        self.full_at = max(self.full_at, now) + weight * self._interval
        return wait

    def give_back(self, weight: float = 1.0) -> None:
        """Return tokens that were taken and not used."""
        self.full_at -= weight * self._interval

    def is_full(self, now: float) -> bool:
        """Whether the bucket could be forgotten."""
        return self.full_at <= now

    def tokens(self, now: float) -> float:
        """How many tokens are there (negative: promised to those who wait)."""
        return (self._tolerance - _SLACK - max(0.0, self.full_at - now)) / self._interval
