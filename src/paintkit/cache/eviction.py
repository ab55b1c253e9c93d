"""S3-FIFO as a cache of cachetools, for use alone: `cachetools.cached(S3FIFOCache(1000))`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import Cache
from typing_extensions import override

from paintkit.machines.s3fifo import S3FIFO, Node

__all__ = ["S3FIFOCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class S3FIFOCache(Cache[K, V]):
    """A mapping of bounded size that forgets by S3-FIFO: what was used once goes before what is used again and again.

    Like all caches of cachetools it needs a lock around it if several threads use it; reading it reorders nothing.

    Args:
        maxsize: The size of all values together at most; without `getsizeof`, their number.
        getsizeof: Returns the size of a value.

    Example:
        >>> cache = S3FIFOCache(maxsize=2)
        >>> cache["popular"] = 1
        >>> [cache["popular"] for _ in range(2)]
        [1, 1]
        >>> for name in "abc":
        ...     cache[name] = 2
        >>> sorted(cache)
        ['c', 'popular']
    """

    def __init__(self, maxsize: float, getsizeof: Callable[[V], float] | None = None) -> None:
        super().__init__(maxsize, getsizeof)
        self._policy: S3FIFO[_Key[K]] = S3FIFO()
        self._nodes: dict[K, _Key[K]] = {}

    @override
    def __getitem__(self, key: K) -> V:
        node = self._nodes.get(key)
        if node is not None:
            node.hits += 1
        return super().__getitem__(key)

    @override
    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if key not in self._nodes:
            node = self._nodes[key] = _Key(key)
            self._policy.admit(node, node.fingerprint())

    @override
    def __delitem__(self, key: K) -> None:
        super().__delitem__(key)
        self._policy.remove(self._nodes.pop(key))

    @override
    def popitem(self) -> tuple[K, V]:
        """Remove and return the pair that is the least likely to be used again.

        Raises:
            KeyError: The cache is empty.
        """
        if not self._nodes:
            raise KeyError(f"{type(self).__name__} is empty")
        key = self._policy.evict()[0].key
        value = Cache.__getitem__(self, key)
        del self._nodes[key]
        Cache.__delitem__(self, key)
        return key, value


class _Key(Node, Generic[K]):
    __slots__ = ("key",)

    def __init__(self, key: K) -> None:
        super().__init__()
        self.key = key

    def fingerprint(self) -> int:
        """Return the hash of the key: a ghost keeps nothing alive."""
        return hash(self.key)
