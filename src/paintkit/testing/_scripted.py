"""Callables that do what a script says: return this, raise that, in order, and keep count."""

from __future__ import annotations

import threading
from typing import Any, NoReturn

from paintkit import clock

__all__ = ["Scripted", "ScriptedAsync", "ascripted", "scripted"]

_OVER: Any = object()


class _Script:
    """What both colours share."""

    # Slots, so that a decorator that copies the attributes of what it wraps takes no stale count with it.
    __slots__ = ("_forever", "_outcomes", "_reading", "calls", "times")

    def __init__(self, outcomes: tuple[object, ...], forever: object) -> None:
        #: The positional and keyword arguments of every call so far.
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        #: The instants of `paintkit.clock.now()` at which it was called.
        self.times: list[float] = []
        self._outcomes = iter(outcomes)
        self._forever = forever
        self._reading = threading.Lock()

    @property
    def count(self) -> int:
        """How often it was called."""
        return len(self.times)

    def _play(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._reading:
            self.calls.append((args, kwargs))
            self.times.append(clock.now())
            outcome = next(self._outcomes, self._forever)
        if isinstance(outcome, BaseException) or (
            isinstance(outcome, type) and issubclass(outcome, BaseException)
        ):
            raise outcome
        return outcome if outcome is not _OVER else self._fail()

    def _fail(self) -> NoReturn:
        raise AssertionError(f"the script ended before call {self.count}: add an outcome, or forever=")


class Scripted(_Script):
    """A scripted function; made by `scripted`."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next outcome."""
        return self._play(args, kwargs)


class ScriptedAsync(_Script):
    """A scripted coroutine function; made by `ascripted`."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next outcome."""
        return self._play(args, kwargs)


def scripted(*outcomes: object, forever: object = _OVER) -> Scripted:
    """Return a callable that plays one outcome after the other, whatever it is called with.

    An exception, or a class of exceptions, is raised; anything else is returned. The callable keeps `count`, `calls` and
    `times`; threads may share it.

    Args:
        outcomes: What comes of the calls, in order.
        forever: What comes of every further call; without it, a further call is an `AssertionError`.

    Example:
        >>> from paintkit import backoff, retry
        >>> fetch = scripted(ConnectionError("refused"), ConnectionError, "page")
        >>> retry(on=ConnectionError, attempts=3, backoff=backoff.constant(0)).call(fetch, "/")
        'page'
        >>> fetch.count, fetch.calls[0]
        (3, (('/',), {}))
    """
    return Scripted(outcomes, forever)


def ascripted(*outcomes: object, forever: object = _OVER) -> ScriptedAsync:
    """Return a callable like `scripted`'s that has to be awaited.

    Args:
        outcomes: What comes of the calls, in order.
        forever: What comes of every further call; without it, a further call is an `AssertionError`.

    Example:
        >>> import asyncio
        >>> fetch = ascripted("page")
        >>> asyncio.run(fetch("/"))
        'page'
    """
    return ScriptedAsync(outcomes, forever)
