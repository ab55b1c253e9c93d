"""Whether a value came back from its bytes as it was: not merely equal, but of the same types all the way down.

`1 == True`, a subclass of `str` equals its text, and a moment equals the same one in another zone. A function must not return
the one when its value comes out of this process and the other when it comes out of Redis.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

__all__ = ["is_same"]


def is_same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - one answer per kind of value
    """Return whether two values are equal and of the same types.

    An `int` counts as the `float` that it equals: annotations treat it as one. A NaN is the same as itself.

    Raises:
        RecursionError: They are nested too deep to tell.
    """
    kind = type(one)
    if kind is not type(other):
        return kind is int and type(other) is float and one == other
    if kind is float:
        return bool(one == other) or (math.isnan(one) and math.isnan(other))
    if kind is datetime:
        return bool(one == other) and one.utcoffset() == other.utcoffset()
    if isinstance(one, enum.Enum):
        return one is other
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, Mapping):
        return _same_mappings(one, other)
    if isinstance(one, Set):
        return _same_sets(one, other)
    fields = _fields(kind)
    if fields is None:
        return bool(one == other)
    return all(is_same(getattr(one, name, None), getattr(other, name, None)) for name in fields)


def _same_mappings(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    # Order counts for the one who iterates, and every encoding keeps it.
    return (
        len(one) == len(other)
        and all(map(is_same, one, other))
        and all(map(is_same, one.values(), other.values()))
    )


def _same_sets(one: Set[Any], other: Set[Any]) -> bool:
    if one != other:
        return False
    theirs = {item: item for item in other}
    return all(is_same(item, theirs[item]) for item in one)


def _fields(kind: type) -> tuple[str, ...] | None:
    """Return the names of what an object of a class is made of, if the class says so."""
    if hasattr(kind, "__struct_fields__"):
        return tuple(kind.__struct_fields__)
    if hasattr(kind, "__dataclass_fields__"):
        return tuple(kind.__dataclass_fields__)
    if hasattr(kind, "__attrs_attrs__"):
        return tuple([field.name for field in kind.__attrs_attrs__])
    return None
