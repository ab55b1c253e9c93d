"""Any cache of cachetools as what decides which entry has to go.

Such a cache reorders itself when it is read, and must not be touched by two threads at once. So a hit only notes its entry
in a small buffer, without a lock, and whoever next changes the level replays the notes under its lock. Between two changes
the buffer keeps the latest hits and loses the rest: a policy forgives that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from cachetools import Cache, TLRUCache, TTLCache

from paintkit.machines.s3fifo import Queue

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry, Table

__all__ = ["NOTES", "Oracle", "oracle"]

#: So many hits are remembered until the next change.
NOTES = 1_024

_Place = tuple["Table", Hashable]


class Oracle:
    """The entries under the policy of a cache that sees all that happens to them, only later.

    Args:
        cache: It is empty, and nobody else's.
    """

    def __init__(self, cache: Cache[Any, Any]) -> None:
        self._cache = cache
        self._entries: dict[_Place, Entry] = {}
        self._inside = Queue()  # where entries are said to stand
        self._hits: deque[Entry] = deque(maxlen=NOTES)
        #: Notes a hit; needs no lock.
        self.note: Callable[[Entry], object] = self._hits.append

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def admit(self, entry: Entry, fingerprint: Hashable) -> None:  # noqa: ARG002 - the protocol's signature
        """Take in an entry that was never in before."""
        self._replay()
        place = entry.address
        self._cache[place] = None
        entry.queue = self._inside
        self._entries[place] = entry

    def remove(self, entry: Entry) -> None:
        """Let an entry go that somebody else has no more use for; one that is not in is left alone."""
        if entry.queue is not None:
            self._replay()
            place = entry.address
            self._cache.pop(place, None)
            self._drop(place)

    def remembers(self, fingerprint: Hashable) -> bool:  # noqa: ARG002 - the protocol's signature
        """Whether an entry that was evicted is remembered: never."""
        return False

    def evict(self) -> tuple[Entry, bool]:
        """Let the entry go that the cache lets go; return it, and that it is not remembered.

        Raises:
            LookupError: Nothing is in.
        """
        self._replay()
        # A cache may have let go of something by itself; that leaves first.
        if len(self._cache) < len(self._entries):
            place = next(place for place in self._entries if place not in self._cache)
        else:
            place, _ = self._cache.popitem()
        return self._drop(place), False

    def _drop(self, place: _Place) -> Entry:
        entry = self._entries.pop(place)
        entry.queue = None
        return entry

    def _replay(self) -> None:
        while self._hits:
            entry = self._hits.popleft()
            if entry.queue is not None:
                self._cache.get(entry.address)


def oracle(make: object, maxsize: int) -> Oracle:
    """Return what decides by a cache of the user's.

    Args:
        make: A class of cachetools, or a function that gets `maxsize` and returns an empty cache.
        maxsize: How many entries there will be at most.

    Raises:
        TypeError: It makes no cache, is one already, or makes one that goes by time.
        ValueError: The cache is not empty, too small, or weighs values.
    """
    if isinstance(make, Cache):
        raise TypeError(
            f"policy must be a class of cachetools or a function of maxsize that makes a cache, not the cache {make!r}: it "
            f"belongs to one manager alone; write policy={type(make).__name__}"
        )
    if not callable(make):
        raise TypeError(
            f"policy must be a class of cachetools or a function of maxsize that makes a cache, not {make!r}"
        )
    if isinstance(make, type):
        _refuse_foreign(make)
        _refuse_timed(make)
    cache = make(maxsize)
    if not isinstance(cache, Cache):
        raise TypeError(f"policy must make a cache of cachetools, not {cache!r} ({type(cache).__name__})")
    _refuse_timed(type(cache))
    kind = type(cache).__name__
    if "getsizeof" in vars(cache) or type(cache).getsizeof is not Cache.getsizeof:
        raise ValueError(f"policy must make a {kind} without getsizeof: pass max_weight= and weigh= instead")
    if len(cache) or cache.maxsize < maxsize:
        raise ValueError(
            f"policy must make an empty {kind} with the maxsize that it is given, {maxsize}, not {cache!r}"
        )
    return Oracle(cache)


def _refuse_foreign(kind: type) -> None:
    if not issubclass(kind, Cache):
        raise TypeError(f"policy must be a class of cachetools, such as LRUCache, not {kind.__qualname__}")


def _refuse_timed(kind: type) -> None:
    if issubclass(kind, TTLCache | TLRUCache):
        raise TypeError(
            f"policy must not be a {kind.__name__}: the manager itself lets go of what is too old; pass timeout= there, and a "
            f"cache like LRUCache here"
        )
