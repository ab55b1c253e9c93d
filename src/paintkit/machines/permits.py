"""A bounded number of permits, and the queue of those who wait for one: first come, first served.

Taking a free permit while nobody waits, and putting one back, are single operations on a list, whole under the GIL and
without it; they need no lock and are what a bulkhead's happy path does. Everything about the queue happens under the
lock of whoever drives the machine.

No permit is lost between the two: who puts one back looks at the queue afterwards, and who queues looks at the free
permits afterwards, so one of them sees the other. Nobody overtakes: as long as somebody waits, newcomers queue too.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Permits"]

W = TypeVar("W")


class Permits(Generic[W]):
    """The permits and the queue.

    Args:
        limit: How many permits there are (>= 1).
        longest_queue: How many may wait (>= 0), or `None` for any number.
    """

    __slots__ = ("_longest_queue", "free", "limit", "waiting")

    def __init__(self, limit: int, longest_queue: int | None) -> None:
        self._longest_queue = longest_queue
        #: How many permits there are.
        self.limit = limit
        #: The free permits: `pop()` takes one, `append(None)` puts one back.
        self.free: list[None] = [None] * limit
        #: Those who wait, first come first.
        self.waiting: deque[W] = deque()

    @property
    def in_use(self) -> int:
        """How many permits are taken."""
        return self.limit - len(self.free)

    def take_over(self, other: Permits[W]) -> int:
        """Go on with the limits of another machine; returns how many permits have to go for that."""
        self._longest_queue = other._longest_queue
        surplus = self.limit - other.limit
        self.limit = other.limit
        self.free.extend([None] * -surplus)
        return max(surplus, 0)

    def enqueue(self, waiter: W) -> bool:
        """Join the queue; False when it is full."""
        if self._longest_queue is not None and len(self.waiting) >= self._longest_queue:
            return False
        self.waiting.append(waiter)
        return True

    def leave(self, waiter: W) -> bool:
        """Leave the queue; False when it is not, or no longer, in it."""
        try:
            self.waiting.remove(waiter)
        except ValueError:
            return False
        return True

    def hand_over(self) -> W | None:
        """Take a free permit for the first who waits and return them, or `None` if one of the two is missing."""
        if not self.waiting:
            return None
        try:
            self.free.pop()
        except IndexError:
            return None  # asking first would not help: who takes a permit holds no lock
        return self.waiting.popleft()
