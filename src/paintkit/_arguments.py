"""Turns what a caller passed into what paintkit can rely on, or into an error that tells the fix.

A wrong kind is a `TypeError`, a wrong value a `ValueError`; both name the argument, the value and what to pass instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from paintkit.typing import ErrorMatch, Predicate

__all__ = [
    "callback",
    "choice",
    "count",
    "errors",
    "flag",
    "having",
    "label",
    "number",
    "ratio",
    "seconds",
    "seconds_or_none",
    "settled",
    "told",
]

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T")

# A delay or a timeout beyond this is a mistake in units more often than a wish.
LONGEST = 366 * 86_400.0

_UNPRINTABLE: Final = "<unprintable>"


def number(
    name: str, value: object, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> float:
    """Return `value` as a finite float with `least <= value <= most` and `value > above`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {_shown(value)}")
    if isinstance(value, int) and abs(value) > 2**53:
        raise ValueError(f"{name} is out of range: {_shown(value)}; pass a smaller number")
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if result < least or result <= above or result > most:
        raise ValueError(f"{name} must be {_range(least, above, most)}, not {value!r}")
    return result


def seconds(name: str, value: object, *, zero: bool = False, most: float = LONGEST) -> float:
    """Return a duration as float seconds; zero only where `zero` allows it."""
    if not isinstance(value, bool | int | float) and hasattr(value, "total_seconds"):
        value = cast("float", value.total_seconds())  # a timedelta, without importing datetime for everybody
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {_shown(value)}")
    unit = "" if name == "seconds" else " (in seconds)"
    return number(f"{name}{unit}", value, least=0.0, above=-math.inf if zero else 0.0, most=most)


def seconds_or_none(
    name: str, value: object, *, none: str, zero: bool = False, most: float = LONGEST
) -> float | None:
    """Return a duration as float seconds, or `None`; `none` tells those who pass infinity what `None` does instead."""
    if value is None:
        return None
    if isinstance(value, float) and value == math.inf:
        raise ValueError(f"{name} (in seconds) must be finite, not {value!r}: pass None, which {none}")
    return seconds(name, value, zero=zero, most=most)


def count(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return a whole number with `least <= value <= most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {_shown(value)}")
    if value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be at least {least}{upper}, not {_shown(value)}")
    return value


def ratio(name: str, value: object, *, zero: bool = False) -> float:
    """Return a ratio from 0 to 1; exactly 0 only where `zero` allows it."""
    return number(name, value, least=0.0, above=-math.inf if zero else 0.0, most=1.0)


def flag(name: str, value: object) -> bool:
    """Return a bool; anything merely truthy is refused."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {_shown(value)}")
    return value


def label(name: str, value: object) -> str:
    """Return a name: a string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {_shown(value)}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty")
    return value


def choice(name: str, value: object, options: tuple[str, ...]) -> str:
    """Return one of `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, options))}, not {_shown(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, not {value!r}")
    return value


def callback(name: str, value: C) -> C:
    """Return a plain callable; one whose body a call would not run (`async def`, a generator) is refused."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {_shown(value)}")
    if isinstance(value, type) and issubclass(value, BaseException):
        raise TypeError(
            f"{name} must be a function, not the exception class {value.__name__}, which is true of anything"
        )
    inner: object = value
    while isinstance(inner, functools.partial):  # it says nothing of its own about the call
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    flags = 0 if code is None else code.co_flags
    if flags & 0x280:  # CO_COROUTINE | CO_ASYNC_GENERATOR
        raise TypeError(
            f"{name} must be a plain function, not `async def`: nothing would await {_shown(value)}"
        )
    if flags & 0x20:  # CO_GENERATOR
        raise TypeError(
            f"{name} must be a plain function, not a generator: nothing would iterate {_shown(value)}"
        )
    return value


def settled(what: str, result: T) -> T:
    """Return what a callback returned; an awaitable is an error, for nothing would await it."""
    if result is not None and hasattr(result, "__await__") and not isinstance(result, type):
        close = getattr(result, "close", None)
        if close is not None:
            close()  # a coroutine that never ran must not warn on top of the error
        raise TypeError(f"{what} returned {_shown(result)}, which nothing would await; give a plain function")
    return result


def having(name: str, value: T, method: str, what: str) -> T:
    """Return an object with that method, whose class is not known down here; the class itself is refused."""
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        raise TypeError(f"{name} must be {what}, not {_shown(value)}")
    return value


def told(value: object) -> str:
    """Return `str(value)`; what cannot say so much must not spoil what is told of it."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ is still evidence
        return _UNPRINTABLE


def errors(name: str, value: ErrorMatch) -> Predicate:
    """Return a predicate for exception types (one or a tuple) or for a predicate.

    `isinstance(x, type)` tells a type from a predicate: an exception class with a metaclass of its own is a type, too.
    """
    if isinstance(value, type):
        value = (value,)
    if isinstance(value, tuple):
        return _type_test(name, value)
    if not callable(value):
        raise TypeError(
            f"{name} must be an exception type, a tuple of them, or a predicate, not {_shown(value)}"
        )
    return callback(name, value)


def _type_test(name: str, types: tuple[object, ...]) -> Predicate:
    if not types:
        raise ValueError(f"{name} must name at least one exception type, not ()")
    for item in types:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{name} must hold exception types only, not {_shown(item)}")
        if not issubclass(item, Exception):
            raise ValueError(
                f"{name} must not hold {item.__name__}: only subclasses of Exception are ever caught"
            )
    wanted = cast("tuple[type[Exception], ...]", types)
    return lambda error: isinstance(error, wanted)


def _range(least: float, above: float, most: float) -> str:
    lower = f"greater than {above:g}" if above >= least else f"at least {least:g}"
    if least == above == -math.inf:
        return f"at most {most:g}"
    return lower if most == math.inf else f"{lower} and at most {most:g}"


def _shown(value: object) -> str:
    """A short `repr` with the type: evidence that stays readable for a value of any size."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the error that we are about to tell
        text = _UNPRINTABLE
    return f"{text[:80]} ({type(value).__name__})"
