"""Fallback: answer with something else when the call fails for a reason that you named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from paintkit import _arguments, observations
from paintkit._locks import new_lock
from paintkit._streams import ASYNC_DELEGATION, AsyncStream, Stream, aopen_stream, open_stream, resume
from paintkit._wrap import Policy, Templates, colour_of, name_of, never_bare, wrap

if TYPE_CHECKING:
    import functools
    from collections.abc import AsyncGenerator, Coroutine

    from paintkit.telemetry import Metric, Source
    from paintkit.typing import ErrorMatch, Predicate

__all__ = ["Fallback", "fallback"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")

_BODY = """\
    try:
        $result = {call}
    except Exception as $error:
        if not $on($error):
            raise
        $result = {instead}($error, $later)
    return $result
"""

_TEMPLATES = Templates(
    name="fallback",
    blocking=_BODY.format(call="$call", instead="$instead"),
    asyncio=_BODY.format(call="await $call", instead="await $ainstead"),
    generator="    return (yield from $resume($open($later)))\n",
    async_generator="    $rest, $item = await $aopen($later)\n" + ASYNC_DELEGATION,
)


class Fallback(Policy, Generic[D]):
    """A fallback; made by `fallback`."""

    _templates = _TEMPLATES

    def __init__(self, handler: Callable[[Exception], Any], on: Predicate, *, name: str | None) -> None:
        self._handler = handler
        self._awaits = colour_of(handler).value == "asyncio"
        self._on = on
        self._given_name = name
        self.name = name or "fallback"
        self._used = 0
        self._lock = new_lock()  # guards _used

    @overload  # type: ignore[override]  # the one policy whose result has another type
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R | D]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Return `fn` with the fallback behind it.

        Raises:
            TypeError: `fn` cannot be protected, or is blocking while the handler is `async def`.
        """
        if self._awaits and colour_of(fn).value in {"blocking", "generator"}:
            raise TypeError(
                f"the handler of {self.name!r} is `async def`: {name_of(fn)} has nowhere to await it"
            )
        return wrap(fn, self._templates, self._helpers())

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.FALLBACK.read(self.name, {"used": self._used})

    def __repr__(self) -> str:
        return f"<fallback {self.name!r}>"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "on": self._on,
            "instead": self._instead,
            "ainstead": self._ainstead,
            "resume": resume,
            "open": self._open,
            "aopen": self._aopen,
        }

    def _open(self, call: functools.partial[Any]) -> Stream:
        """Open a generator, or one over the items of the fallback if it fails before its first item."""
        try:
            return open_stream(call)
        except Exception as error:
            if not self._on(error):
                raise
            instead = self._instead(error, call)
            return open_stream(lambda: (item for item in instead))

    async def _aopen(self, call: functools.partial[Any]) -> AsyncStream:
        try:
            return await aopen_stream(call)
        except Exception as error:
            if not self._on(error):
                raise
            instead = await self._ainstead(error, call)
            return await aopen_stream(lambda: _each(instead))

    def _instead(self, error: Exception, fn: object) -> Any:
        with self._lock:
            self._used += 1
        observations.emit("fallback.used", self._given_name or name_of(fn), error=error)
        return self._handler(error)

    async def _ainstead(self, error: Exception, fn: object) -> Any:
        result = self._instead(error, fn)
        return await result if self._awaits else result


async def _each(items: Any) -> AsyncGenerator[Any, Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class _Missing:
    """Stands for "no value given", since every value, `None` included, can be meant."""


_MISSING = _Missing()


@overload
def fallback(value: D, *, on: ErrorMatch, name: str | None = None) -> Fallback[D]: ...
@overload
def fallback(
    *, handler: Callable[[Exception], Coroutine[Any, Any, D]], on: ErrorMatch, name: str | None = None
) -> Fallback[D]: ...
@overload
def fallback(
    *, handler: Callable[[Exception], D], on: ErrorMatch, name: str | None = None
) -> Fallback[D]: ...
@never_bare("`on`, the errors after which it answers with a value", "@fallback(value, on=...)")
def fallback(
    value: Any = _MISSING,
    *,
    on: ErrorMatch,
    handler: Callable[[Exception], Any] | None = None,
    name: str | None = None,
) -> Fallback[Any]:
    """Return a policy that answers with a value, or a handler's result, when the call fails.

    An error of the handler is raised with the original error as its context. `BaseException` is never answered.

    Args:
        value: What to return, as it is: a callable is returned, not called. Either this or `handler`.
        on: Which failures to answer: exception types or a predicate.
        handler: Called with the exception; its result is returned. May be `async def` for `async def` functions.
        name: The label in observations; the function's qualified name by default.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.call(fn, ...)` and `.acall(fn, ...)`. The type of the
        fallback is added to the function's result. In a pipeline it comes first.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Both or neither of `value` and `handler` are given.

    Example:
        >>> @fallback([], on=ConnectionError)
        ... def suggestions(text: str) -> list[str]:
        ...     raise ConnectionError("no answer")
        >>> suggestions("blue")
        []
    """
    if (handler is None) == (value is _MISSING):
        raise ValueError("fallback needs a value or handler=, and not both")
    if handler is not None and not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    return Fallback(
        handler if handler is not None else lambda _error: value,
        _arguments.errors("on", on),
        name=None if name is None else _arguments.label("name", name),
    )
