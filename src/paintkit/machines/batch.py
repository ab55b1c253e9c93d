"""The queue of a batcher: which requests go together, and when."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["BatchQueue"]

T = TypeVar("T", bound=Hashable)


class BatchQueue(Generic[T]):
    """Requests in order of arrival, taken in chunks: a full one at once, a smaller one when its oldest has waited enough.

    Args:
        size: How many requests a chunk holds at most, at least 1.
        delay: How long, in seconds, a request waits for others to join it; 0 takes it at once.

    Example:
        >>> queue = BatchQueue(size=3, delay=0.1)
        >>> queue.add("a", now=10.0)
        >>> queue.add("b", now=10.05)
        >>> queue.take(now=10.08)
        []
        >>> queue.due
        10.1
        >>> queue.take(now=10.1)
        ['a', 'b']
    """

    __slots__ = ("_arrivals", "delay", "size")

    def __init__(self, size: int, delay: float) -> None:
        self.size = size
        self.delay = delay
        self._arrivals: OrderedDict[T, float] = OrderedDict()

    def __contains__(self, item: object) -> bool:
        return item in self._arrivals

    def __iter__(self) -> Iterator[T]:
        return iter(self._arrivals)

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def due(self) -> float | None:
        """When the next chunk is to be taken if it does not fill up before; `None` while the queue is empty."""
        if not self._arrivals:
            return None
        return next(iter(self._arrivals.values())) + self.delay

    def add(self, item: T, now: float) -> None:
        """Append a request, each a distinct one."""
        self._arrivals[item] = now

    def withdraw(self, item: T) -> bool:
        """Take a request out again; False if it has been taken already."""
        return self._arrivals.pop(item, None) is not None

    def take(self, now: float) -> list[T]:
        """Return the next chunk if it is full or due, oldest first; else nothing."""
        due = self.due
        if due is None or (len(self._arrivals) < self.size and now < due):
            return []
        return self.take_any()

    def take_any(self) -> list[T]:
        """Return the next chunk whether or not it is due."""
        chunk = list(islice(self._arrivals, self.size))
        for item in chunk:
            del self._arrivals[item]
        return chunk
