"""The queue of a batcher: which requests go together, and when."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

__all__ = ["BatchQueue"]

T = TypeVar("T", bound=Hashable)


class _Question:
    """What is asked for once, on behalf of all who wait for it."""

    __slots__ = ("askers", "key", "weight")

    def __init__(self, key: Hashable, weight: int) -> None:
        self.key = key
        self.weight = weight
        self.askers = 0


class _Arrival(NamedTuple):
    at: float
    question: _Question


class BatchQueue(Generic[T]):
    """Requests in order of arrival, taken in chunks: a full one at once, a smaller one when its oldest has waited enough.

    Requests that say they ask the same count once in a chunk.

    Args:
        size: How many requests a chunk holds at most, at least 1.
        delay: How long, in seconds, a request waits for others to join it; 0 takes it at once.
        max_weight: What the requests of a chunk weigh at most together; no single one may weigh more.

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

    __slots__ = ("_arrivals", "_questions", "_weight", "delay", "max_weight", "size")

    def __init__(self, size: int, delay: float, max_weight: float = math.inf) -> None:
        self.size = size
        self.delay = delay
        self.max_weight = max_weight
        self._arrivals: OrderedDict[T, _Arrival] = OrderedDict()
        self._questions: dict[Hashable, _Question] = {}
        self._weight = 0  # of all questions

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
        return next(iter(self._arrivals.values())).at + self.delay

    @property
    def is_full(self) -> bool:
        """Whether the next chunk has no room for another request."""
        return len(self._questions) >= self.size or self._weight >= self.max_weight

    def add(self, item: T, now: float, *, asks: Hashable = None, weight: int = 0) -> None:
        """Append a request.

        Args:
            item: The request, each a distinct one.
            now: When it came.
            asks: What it asks, equal for requests that one answer serves; `None` if it shares with nobody.
            weight: What it adds to a chunk, at most `max_weight`; those who ask the same weigh the same.
        """
        key = item if asks is None else asks
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = _Question(key, weight)
            self._weight += weight
        question.askers += 1
        self._arrivals[item] = _Arrival(now, question)

    def withdraw(self, item: T) -> bool:
        """Take a request out again; False if it has been taken already."""
        arrival = self._arrivals.pop(item, None)
        if arrival is None:
            return False
        question = arrival.question
        question.askers -= 1
        if not question.askers:
            del self._questions[question.key]
            self._weight -= question.weight
        return True

    def take(self, now: float) -> list[T]:
        """Return the next chunk if it is full or due, oldest first; else nothing."""
        due = self.due
        if due is None or (now < due and not self.is_full):
            return []
        return self.take_any()

    def take_any(self) -> list[T]:
        """Return the next chunk whether or not it is due."""
        chunk = self._next_chunk()
        for item in chunk:
            self.withdraw(item)
        return chunk

    def _next_chunk(self) -> list[T]:
        chunk: list[T] = []
        asked: set[_Question] = set()
        room = self.max_weight
        for item, (_, question) in self._arrivals.items():
            if question not in asked:
                room -= question.weight
                if len(asked) == self.size or room < 0:
                    break
                asked.add(question)
            chunk.append(item)
        return chunk
