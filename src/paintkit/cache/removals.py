"""Removals: what left a cache and why, told to a listener and to observers, in order and outside all locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paintkit import observations
from paintkit._locks import new_lock
from paintkit.cache.keeping import ABSENT, KeptError

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry
    from paintkit.cache.reports import Removal, RemovalCause

__all__ = ["Removals"]


class Removals:
    """What left and was not told yet.

    They are told one after the other, in the order in which they happened, by whichever thread comes first: that need not be
    the one that removed.

    Args:
        source: The name of the cache, for observations.
        listener: Called with each removal, or `None`.
    """

    def __init__(self, source: str, listener: Callable[[Removal], object] | None) -> None:
        self._source = source
        self._listener = listener
        #: What was not told yet.
        self.untold: deque[tuple[str, Any, Any, RemovalCause, int]] = deque()
        self._telling = new_lock()

    def note(self, entry: Entry, cause: RemovalCause) -> None:
        """Note that an entry leaves, which still has its value."""
        if self._listener is not None or observations.observers:
            self.untold.append((entry.table.section.name, entry.subject, entry.value, cause, entry.hits))

    def tell(self) -> None:
        """Tell what is untold, unless somebody is at it, who will go on until nothing is."""
        while self.untold and self._telling.acquire(blocking=False):
            try:
                while self.untold:
                    self._tell(*self.untold.popleft())
            finally:
                self._telling.release()

    def _tell(self, function: str, key: Any, value: Any, cause: RemovalCause, hits: int) -> None:
        observations.emit("cache.removed", self._source, function=function, key=key, cause=cause, hits=hits)
        if self._listener is not None:
            from paintkit.cache.reports import Removal  # what few programs ask for, none should pay for

            kept = value.error if isinstance(value, KeptError) else None if value is ABSENT else value
            observations.notify(self._listener, Removal(function, key, kept, cause, hits))
