"""Totals that many threads add to."""

from __future__ import annotations

from paintkit._locks import new_lock

__all__ = ["Tally"]


class Tally:
    """Numbers by name, which begin at 0.

    Args:
        *names: All there are.

    Example:
        >>> tally = Tally("sent", "lost")
        >>> tally.add("sent")
        >>> tally.add("sent", 2)
        >>> tally.read()
        {'sent': 3, 'lost': 0}
    """

    __slots__ = ("_lock", "_totals")

    def __init__(self, *names: str) -> None:
        self._lock = new_lock()
        self._totals = dict.fromkeys(names, 0)

    def add(self, name: str, number: int = 1) -> None:
        """Add to one of them."""
        with self._lock:
            self._totals[name] += number

    def read(self) -> dict[str, int]:
        """Return them all, of one moment."""
        with self._lock:
            return self._totals.copy()
