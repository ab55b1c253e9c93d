"""What sits on a cached function beside the call itself, and how type checkers see the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
)

from paintkit._runtime import Outcome, Success, drive
from paintkit.cache.runtimes import ASYNCIO, BLOCKING, Runtime
from paintkit.cache.values import estimate_total

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry, Section
    from paintkit.cache.loading import Loader
    from paintkit.cache.reports import CacheInfo, Explanation
    from paintkit.cache.store import Store

__all__ = [
    "AsyncCached",
    "AsyncExtras",
    "Bind",
    "Cached",
    "Caching",
    "Calls",
    "Extras",
    "attach",
    "extras_of",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

#: Binds the arguments of a call, with defaults filled in, for a call to be made later.
Bind = Callable[..., functools.partial[Any]]


class Calls:
    """The calls of one cached function, or of one cached method of one object."""

    def __init__(self, loader: Loader, bind: Bind, receiver: tuple[object, ...] = ()) -> None:
        self._loader = loader
        self._bind = bind
        self._receiver = receiver

    @property
    def section(self) -> Section:
        """The function's part of the cache."""
        return self._loader.section

    @property
    def store(self) -> Store:
        """Where the values are."""
        return self._loader.store

    def of(self, receiver: object) -> Self:
        """Return the same for a method of one object."""
        return type(self)(self._loader, self._bind, (receiver,))

    def _bound(
        self, args: tuple[object, ...], named: Mapping[str, object]
    ) -> tuple[Entry, functools.partial[Any], str | None]:
        """Return the place of a call, the call to be made later, and its key if a `key_func` makes one."""
        args = (*self._receiver, *args)
        key_func = self._loader.options.key_func
        label = None if key_func is None else key_func(*args, **named)
        later = self._bind(*args, **named)
        return self._loader.locate(later, label), later, label

    def _drop(
        self, args: tuple[object, ...], named: Mapping[str, object], runtime: Runtime
    ) -> Coroutine[Any, Any, None]:
        call, later, _ = self._bound(args, named)
        return self._loader.invalidate(call, later, runtime)

    def _peek(self, args: tuple[object, ...], named: Mapping[str, object]) -> Any:
        call, _, _ = self._bound(args, named)
        served = self._loader.look(call, use=False)
        return self._loader.handed_out(served.value) if isinstance(served, Success) else None

    def _put(
        self, value: object, args: tuple[object, ...], named: Mapping[str, object], runtime: Runtime
    ) -> Coroutine[Any, Any, None]:
        return self._loader.put(*self._bound(args, named), value, runtime)

    def _explain(self, args: tuple[object, ...], named: Mapping[str, object]) -> Explanation:
        return self._loader.explain(*self._bound(args, named))

    def _refresh(
        self, args: tuple[object, ...], named: Mapping[str, object], runtime: Runtime
    ) -> Coroutine[Any, Any, Outcome[Any]]:
        return self._loader.renew(*self._bound(args, named), runtime)

    def _count(self) -> CacheInfo:
        from paintkit.cache.reports import CacheInfo  # see `Loader.explain`

        self._loader.store.sweep()
        with self._loader.store.lock:
            totals = self.section.totals()
            values = [entry.value for entry in self.section.entries()]
        return CacheInfo(
            hits=totals.hits,
            misses=totals.misses,
            loads=totals.loads,
            load_errors=totals.load_errors,
            load_time=totals.load_time,
            entries=len(values),
            joined=totals.joined,
            expired=totals.expired,
            invalidated=totals.invalidated,
            evicted=totals.evicted,
            estimated_size=estimate_total(values),
            stale=totals.stale,
            level2_hits=totals.level2_hits,
            unverified=totals.unverified,
        )


class Extras(Calls, Generic[P, R]):
    """What else can be done with a cached function; the arguments are those of its calls."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        drive(self._drop(args, kwargs, BLOCKING))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew, here and now, and return it; others are served the old one meanwhile."""
        return cast("R", drive(self._refresh(args, kwargs, BLOCKING)).unwrap())

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`; nothing is loaded and no hit counted."""
        return cast("R | None", self._peek(args, kwargs))

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        drive(self._put(value, args, kwargs, BLOCKING))

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss; nothing is loaded and no hit counted."""
        return self._explain(args, kwargs)

    def info(self) -> CacheInfo:
        """Return what the function did so far, for all its calls and objects."""
        return self._count()


class AsyncExtras(Calls, Generic[P, R]):
    """What else can be done with a cached `async def`; the arguments are those of its calls."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        await self._drop(args, kwargs, ASYNCIO)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew, here and now, and return it; others are served the old one meanwhile."""
        return cast("R", (await self._refresh(args, kwargs, ASYNCIO)).unwrap())

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`; nothing is loaded and no hit counted."""
        return cast("R | None", self._peek(args, kwargs))

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        await self._put(value, args, kwargs, ASYNCIO)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss; nothing is loaded and no hit counted."""
        return self._explain(args, kwargs)

    async def info(self) -> CacheInfo:
        """Return what the function did so far, for all its calls and objects."""
        return self._count()


def attach(extras: Extras[..., Any] | AsyncExtras[..., Any], wrapper: object) -> None:
    """Put the extras on a cached function; its part of the cache lives as long as that."""
    function: Any = getattr(wrapper, "__func__", wrapper)  # a static method is only its cover
    for name in ("invalidate", "refresh", "peek", "put", "explain", "info"):
        setattr(function, name, getattr(extras, name))
    function._paintkit_extras = extras
    extras.store.attend(extras.section, function)


def extras_of(function: object) -> Extras[..., Any] | AsyncExtras[..., Any]:
    """Return the extras of a cached function or of a cached method of an object.

    Raises:
        TypeError: It is neither.
    """
    extras = getattr(function, "_paintkit_extras", None)
    if not isinstance(extras, Extras | AsyncExtras):
        raise TypeError(f"{function!r} is no cached function: decorate it with @cache.cache_result()")
    receiver = getattr(function, "__self__", None)
    return extras if receiver is None else extras.of(receiver)


class Cached(Protocol[P, R]):
    """A cached function, as type checkers see it: a plain function with extras."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value, from memory if it is there and fresh."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew and return it; others are served the old one meanwhile."""
        ...

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`."""
        ...

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        ...

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss."""
        ...

    def info(self) -> CacheInfo:
        """Return what the function did so far."""
        ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> Callable[Q, R]: ...


class AsyncCached(Protocol[P, R]):
    """A cached `async def`, as type checkers see it: a plain coroutine function with extras that are coroutines."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the value, from memory if it is there and fresh."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew and return it; others are served the old one meanwhile."""
        ...

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`."""
        ...

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        ...

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss."""
        ...

    async def info(self) -> CacheInfo:
        """Return what the function did so far."""
        ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...


class Caching(Protocol):
    """Makes cached functions; what `CacheManager.cache_result` returns when it is called."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine function fits both; the first is meant
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCached[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Cached[P, R]: ...
