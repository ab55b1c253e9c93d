"""The types that paintkit's signatures speak in, public so that your wrappers can speak in them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Decorator", "ErrorMatch", "P", "Predicate", "R", "Seconds"]

P = ParamSpec("P")
R = TypeVar("R")

#: A duration: a number of seconds (finite) or a `datetime.timedelta`.
Seconds: TypeAlias = "float | timedelta"

#: Tells whether an exception counts.
Predicate: TypeAlias = Callable[[Exception], bool]

#: Which exceptions count: a type, a tuple of types, or a predicate.
ErrorMatch: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Predicate


class Decorator(Protocol):
    """A decorator that keeps the exact signature of what it decorates."""

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Return a function of the same signature."""
        ...


#: Anything that can be called; `Any` because nothing is known of it before it is decorated.
AnyCallable: TypeAlias = Callable[..., Any]
