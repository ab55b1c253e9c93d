"""Slows down whoever guesses passwords."""

from __future__ import annotations

import math
import threading

from cachetools import TTLCache

from paintkit import clock

__all__ = ["Throttle"]


def _now() -> float:
    return clock.now()  # looked up at each call: a virtual clock may take its place


class Throttle:
    """Counts failures by key, for as long as nobody tries; bounded, so that guessing many names costs us nothing.

    Args:
        tries: Failures (>= 1) that are forgiven.
        pause: Seconds (> 0) of rest after that, from the last failure on.
    """

    def __init__(self, *, tries: int = 5, pause: float = 300.0) -> None:
        self._tries = tries
        self._pause = pause
        self._lock = threading.Lock()  # guards the counts
        self._failures: TTLCache[str, tuple[int, float]] = TTLCache(10_000, pause, timer=_now)

    def wait(self, *keys: str) -> int:
        """Return how many seconds these keys have to wait, 0 if they may try."""
        with self._lock:
            return max(self._wait(key) for key in keys)

    def failed(self, *keys: str) -> None:
        """Note a failure for each of these keys."""
        with self._lock:
            for key in keys:
                count, _ = self._failures.get(key, (0, 0.0))
                self._failures[key] = (count + 1, clock.now() + self._pause)

    def succeeded(self, *keys: str) -> None:
        """Forget the failures of these keys."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _wait(self, key: str) -> int:
        count, until = self._failures.get(key, (0, 0.0))
        return math.ceil(max(0.0, until - clock.now())) if count >= self._tries else 0
