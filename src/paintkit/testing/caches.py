"""Watching caches in tests: values that somebody changes, and how often something is loaded."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, ambient
from paintkit._words import counted
from paintkit.cache.extras import extras_of
from paintkit.cache.keys import PLAIN
from paintkit.cache.store import Store

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry

__all__ = ["MutatedValueError", "assert_loads", "mutation_guard"]


class MutatedValueError(AssertionError):
    """A cached value was changed, so all who are served it see the change."""


@contextmanager
def mutation_guard() -> Iterator[None]:
    """Run a block in which it is an error to change a value that a cache holds and shares.

    Every value is looked at when it comes, whenever it is served, and at the end of the block. Parts of containers and
    attributes count, but for what `functools.cached_property` adds; of objects without attributes only which they are.

    Raises:
        MutatedValueError: A value is no longer what was loaded.
        RuntimeError: A guard is there already.

    Example:
        >>> from paintkit import CacheManager
        >>> cache = CacheManager()
        >>> @cache.cache_result()
        ... def colours() -> list[str]:
        ...     return ["red"]
        >>> try:
        ...     with mutation_guard():
        ...         colours().append("blue")
        ...         colours()
        ... except MutatedValueError as error:
        ...     print(str(error)[:16])
        somebody changed
    """
    if Store.guard is not None:
        raise RuntimeError("a mutation guard is there already: open one at a time")
    guard = _Guard()
    Store.guard = guard
    ambient.detour(+1)
    try:
        yield
        guard.check_all()
    finally:
        ambient.detour(-1)
        Store.guard = None


class _Guard:
    def __init__(self) -> None:
        # By address, with the values themselves: as long as they are here, no address is used again.
        self._seen: dict[int, tuple[Any, object, str]] = {}

    def note(self, value: object, function: str, /) -> None:
        if type(value) not in PLAIN:
            self._seen[id(value)] = (value, portrait(value), function)

    def check(self, entry: Entry, /) -> None:
        value = entry.value
        if id(value) in self._seen:
            self._compare(*self._seen[id(value)])
        else:
            self.note(value, entry.table.section.name)

    def check_all(self) -> None:
        for seen in list(self._seen.values()):
            self._compare(*seen)

    def _compare(self, value: object, before: object, function: str) -> None:
        if portrait(value) != before:
            del self._seen[id(value)]  # told once
            raise MutatedValueError(
                f"somebody changed what {function} returned and the cache shares, to {value!r:.200}: return what nobody can "
                f"change, such as a tuple, or pass copy='shallow' or copy='deep'"
            )


def portrait(value: Any, around: tuple[int, ...] = ()) -> object:
    """Return what tells, compared with an earlier one, whether a value or any of its parts was changed."""
    kind = type(value)
    if kind in PLAIN:
        # Every NaN has one name, as in keys.
        return (kind, float.hex(value) if kind is float else value)
    if id(value) in around:
        return (kind, len(around) - around.index(id(value)))  # a circle
    inner = functools.partial(portrait, around=(*around, id(value)))
    if isinstance(value, dict):
        items: object = tuple((inner(key), inner(item)) for key, item in value.items())
    elif isinstance(value, set | frozenset):
        items = frozenset(map(inner, value))
    elif isinstance(value, list | tuple | deque):
        items = tuple(map(inner, value))
    else:
        items = bytes(value) if isinstance(value, bytearray) else id(value)
    return (kind, items, tuple((name, inner(part)) for name, part in _attributes(value)))


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    for name, part in getattr(value, "__dict__", {}).items() if not isinstance(value, type) else ():
        if not isinstance(getattr(type(value), name, None), functools.cached_property):
            yield name, part
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(value, name) and name not in {"__dict__", "__weakref__"}:
                yield name, getattr(value, name)


@contextmanager
def assert_loads(function: object, times: int) -> Iterator[None]:
    """Run a block, in which a cached function has to be loaded exactly so many times; for `async def` as well.

    Args:
        function: A cached function, or a cached method of an object: its loads for all objects count.
        times: How many times (>= 0).

    Raises:
        AssertionError: It was loaded another number of times.
        TypeError: The function is not cached.
        ValueError: `times` is negative.

    Example:
        >>> from paintkit import CacheManager
        >>> cache = CacheManager()
        >>> @cache.cache_result()
        ... def colours() -> tuple[str, ...]:
        ...     return ("red",)
        >>> with assert_loads(colours, 1):
        ...     _ = colours(), colours()
    """
    section = extras_of(function).section
    expected = _arguments.count("times", times, least=0)
    before = section.totals().loads
    yield
    loads = section.totals().loads - before
    if loads != expected:
        raise AssertionError(f"{section.name} was loaded {counted(loads, 'time')} instead of {expected}")
