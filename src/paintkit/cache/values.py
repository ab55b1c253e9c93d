"""Values: which of them may be cached, and about how large they are."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from paintkit.cache.keys import PLAIN

__all__ = ["estimate_size", "estimate_total", "refuse_unfit"]

#: At most so many parts of a value are searched for what is unfit.
_MOST_PARTS = 1_000

#: So many values are weighed for the estimate of all.
_SAMPLE = 100

#: So deep, and at so many parts of one container, we look to estimate a size.
_DEPTH, _BREADTH = 3, 16

_CONTAINERS = (list, tuple, set, frozenset, deque)


def refuse_unfit(value: object) -> None:
    """Raise if a value cannot be served a second time, or not outside the unit of work that loaded it.

    Raises:
        TypeError: The value is an awaitable, an iterator, or holds an object that SQLAlchemy maps.
    """
    kind = type(value)
    if kind in PLAIN:
        return
    if hasattr(kind, "__await__"):
        raise TypeError(
            f"cannot cache a {kind.__qualname__}, which can be awaited only once: decorate the `async def` itself"
        )
    if hasattr(kind, "__next__"):
        raise TypeError(
            f"cannot cache a {kind.__qualname__}, which can be read only once: return a list or a tuple"
        )
    mapped = _find_mapped(value)
    if mapped is not None:
        name = type(mapped).__qualname__
        raise TypeError(
            f"cannot cache {name}, a mapped SQLAlchemy object: it belongs to one session, and its attributes may load "
            f"when they are read. Return plain data made from it: a dict, a tuple or a frozen dataclass"
        )


def _find_mapped(value: object) -> object | None:
    """Search a value, the outer parts first, for an object that SQLAlchemy maps."""
    unseen = deque([value])
    for _ in range(_MOST_PARTS):
        if not unseen:
            break
        part = unseen.popleft()
        if hasattr(type(part), "_sa_class_manager"):  # what SQLAlchemy's instrumentation leaves on a class
            return part
        unseen.extend(inner for inner in islice(_parts(part), _MOST_PARTS) if type(inner) not in PLAIN)
    return None


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, Sequence):  # a Row of SQLAlchemy is no tuple
        return value
    return value if isinstance(value, _CONTAINERS) else _fields(value)


def _fields(value: object) -> Iterable[object]:
    fields = None if isinstance(value, type) else getattr(value, "__dict__", None)
    return fields.values() if isinstance(fields, dict) else ()


def estimate_size(value: object, depth: int = _DEPTH) -> int:
    """Return about how many bytes a value takes.

    The parts of built-in containers and of objects with a `__dict__` count, three levels deep; of a large container the
    first few are weighed and the rest is taken to be like them. What is shared counts wherever it is found.
    """
    size = sys.getsizeof(value, 0)
    if depth == 0 or type(value) in PLAIN:
        return size
    if isinstance(value, dict):
        return size + _weigh(value, depth) + _weigh(value.values(), depth)
    return size + _weigh(value if isinstance(value, _CONTAINERS) else _fields(value), depth)


def estimate_total(values: list[object]) -> int:
    """Return about how many bytes values take together: about 100 of them are weighed, the rest is taken to be like them."""
    if not values:
        return 0
    sample = list(islice(values, 0, None, max(1, len(values) // _SAMPLE)))
    return sum(map(estimate_size, sample)) * len(values) // len(sample)


def _weigh(parts: Any, depth: int) -> int:
    weights = [estimate_size(part, depth - 1) for part in islice(parts, _BREADTH)]
    return math.ceil(sum(weights) * len(parts) / len(weights)) if weights else 0
