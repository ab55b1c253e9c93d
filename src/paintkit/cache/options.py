"""The arguments of the cache's decorators, checked: what is wrong is told when a function is decorated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from paintkit import _arguments
from paintkit.cache.keeping import ABSENT, NEVER_EXPIRES
from paintkit.cache.loading import checked_tags

if TYPE_CHECKING:
    from paintkit.cache.keeping import Keeping

__all__ = [
    "ERROR_TIMEOUT",
    "but_absent",
    "coherent",
    "ignored",
    "limit",
    "tags_from",
    "time_to_live",
    "variables",
]

#: For how many seconds an error is kept, unless told otherwise.
ERROR_TIMEOUT: Final = 10.0


def time_to_live(value: Any) -> float | Callable[[Any], Any] | None:
    """Return a `timeout`: seconds, `None`, or what tells it from a value."""
    if callable(value):
        chosen: Callable[[Any], Any] = value
        return _arguments.callback("timeout", chosen)
    return _arguments.seconds_or_none("timeout", value, none=NEVER_EXPIRES, most=math.inf)


def limit(name: str, value: Any) -> float | None:
    """Return seconds, or `None` for no limit."""
    return _arguments.seconds_or_none(name, value, none="sets no limit")


def coherent(keeping: Keeping) -> Keeping:
    """Refuse options that would have no effect."""
    freshness = keeping.freshness
    for name in ("jitter", "early", "stale", "stale_on_error"):
        if getattr(freshness, name) and keeping.timeout is None:
            raise ValueError(f"{name} has no effect on values that never expire: pass a timeout")
    if keeping.errors is None and keeping.error_timeout != ERROR_TIMEOUT:
        raise ValueError("error_timeout has no effect unless errors are kept: pass cache_errors, too")
    soft_timeout, loader_timeout = keeping.soft_timeout, keeping.loader_timeout
    if soft_timeout is not None and not keeping.freshness.stale_on_error:
        raise ValueError("soft_timeout needs an old value to answer with: pass stale_on_error, too")
    if soft_timeout is not None and loader_timeout is not None and soft_timeout >= loader_timeout:
        raise ValueError(
            f"soft_timeout ({soft_timeout:g}) has no effect unless it is shorter than loader_timeout ({loader_timeout:g})"
        )
    return keeping


def ignored(ignore: Any, key_func: object) -> frozenset[str]:
    """Return the names in `ignore`."""
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise TypeError(f"ignore must be a collection of names, not {ignore!r}; for one name write (name,)")
    names = frozenset(_arguments.label("a name in ignore", name) for name in ignore)
    if names and key_func is not None:
        raise ValueError("ignore has no effect beside key_func, which makes the whole key: pass one of them")
    return names


def variables(vary: Any) -> tuple[ContextVar[Any], ...]:
    """Return the context variables in `vary`."""
    if not isinstance(vary, Iterable):
        raise TypeError(
            f"vary must be a collection of context variables, not {vary!r}; for one write (variable,)"
        )
    found = tuple(vary)
    for variable in found:
        if not isinstance(variable, ContextVar):
            raise TypeError(f"vary must hold context variables (contextvars.ContextVar), not {variable!r}")
    return found


def tags_from(tags: Any) -> tuple[str, ...] | Callable[..., Iterable[str]]:
    """Return `tags`: names, or what makes them from bound arguments."""
    if tags is None:
        return ()
    return _arguments.callback("tags", tags) if callable(tags) else checked_tags(tags)


def but_absent(timeout: float | Callable[[Any], Any] | None, absent: float) -> Callable[[Any], Any]:
    """Return the time to live of values, with another for a key that has none."""

    def of_value(value: Any) -> Any:
        if value is ABSENT:
            return absent
        return timeout(value) if callable(timeout) else timeout

    return of_value
