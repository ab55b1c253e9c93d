"""An outage as data: when a dependency is down."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Outage"]


class Outage(NamedTuple):
    """The spans of time in which a dependency is down.

    Attributes:
        spans: `(from, until)` in seconds of `paintkit.clock.now()`, in order and apart; a span ends before its `until`.

    Example:
        >>> outage = Outage(((10.0, 40.0), (60.0, 61.0)))
        >>> outage.is_down(10.0), outage.is_down(40.0), outage.is_down(60.5)
        (True, False, True)
        >>> outage.ends
        61.0
    """

    spans: tuple[tuple[float, float], ...]

    def is_down(self, at: float) -> bool:
        """Whether the dependency is down at that instant."""
        return any(began <= at < ended for began, ended in self.spans)

    @property
    def ends(self) -> float:
        """When the dependency is up for good; 0 if it never was down."""
        return self.spans[-1][1] if self.spans else 0.0
