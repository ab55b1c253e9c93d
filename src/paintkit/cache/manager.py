"""`CacheManager`: keeps the results of functions in memory, until they are too old, invalidated, or in the way."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from paintkit import _arguments
from paintkit._runtime import drive
from paintkit._words import counted
from paintkit._wrap import can_be_decorated
from paintkit.cache.cached import cached
from paintkit.cache.copies import copier
from paintkit.cache.extras import AsyncCached, AsyncExtras, Cached, Caching, Extras, extras_of
from paintkit.cache.invalidation import Everything, Labelled, Matching, OfFunction, Target
from paintkit.cache.keeping import NEVER_EXPIRES, Keeping
from paintkit.cache.loading import Options
from paintkit.cache.memo import Memo
from paintkit.cache.memory import MemoryLevel
from paintkit.cache.options import (
    ERROR_TIMEOUT,
    but_absent,
    coherent,
    ignored,
    limit,
    tags_from,
    time_to_live,
    variables,
)
from paintkit.cache.removals import Removals
from paintkit.cache.runtimes import ASYNCIO, BLOCKING
from paintkit.cache.store import Store
from paintkit.cache.values import estimate_total
from paintkit.cache.weights import weights
from paintkit.machines.freshness import Freshness

if TYPE_CHECKING:
    from contextvars import ContextVar

    from cachetools import Cache

    from paintkit.cache.copies import CopyPolicy
    from paintkit.cache.levels import SharedLevel
    from paintkit.cache.many import AsyncCachedMany, CachedMany, CachingMany
    from paintkit.cache.oracle import Oracle
    from paintkit.cache.reports import CacheStats, Removal
    from paintkit.cache.sharing import Sharing
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import ErrorMatch, Seconds

__all__ = ["CacheManager"]

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class _Absent(enum.Enum):
    ABSENT = "absent"


_ABSENT: Final = _Absent.ABSENT


class CacheManager:
    """Keeps results of functions, and loads each at most once at a time.

    A call that finds no fresh value loads it; all who ask for the same meanwhile, in whatever thread or event loop, wait
    for that load. Values are shared between all callers: return what nobody changes, such as tuples or frozen
    dataclasses. A manager can be made at import time, shared by threads and event loops, and survives a fork.

    Args:
        name: The name in statistics and observations.
        maxsize: How many values are held at most (>= 1, default 10,000). Which one goes is decided by S3-FIFO: what was
            used once in a long time goes before what is used again and again.
        timeout: The default time to live in seconds (> 0, default 300) or a `timedelta`; `None`: values never expire.
        policy: What decides instead of S3-FIFO which value goes: a class of `cachetools` such as `LFUCache`, or a function
            that gets `maxsize` and returns an empty cache of such a class. It hears of a hit when the next value comes or
            goes, and of the latest 1,024 in between. A value that is loaded anew is a new one to it.
        max_weight: What the values may weigh together (>= 1), beside `maxsize`; a value that alone weighs more is not kept.
            `None`: weight is no matter.
        weigh: Returns the weight of a value, a whole number >= 0; `None`: about its size in bytes. An error that is kept
            weighs nothing.
        on_removal: Called with a `Removal` for every value that leaves: in order, outside all locks, by whichever thread comes
            first; what it raises is logged.
        level2: A second level through which processes share values, and hear of each other's invalidations: a
            `paintkit.redis.RedisLevel`, say. Caches of one name, in whatever process, are one; `None`: memory only.
        max_unverified: For how many seconds (>= 0) values are served from memory while the second level is away and nobody can
            tell whether they are up to date; then they are loaded. `None`: as long as they live.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or another cache of this name has that second level.

    Example:
        >>> cache = CacheManager("paints", timeout=60)
        >>> @cache.cache_result(tags=lambda brand: (f"brand:{brand}",))
        ... def count_paints(brand: str) -> int:
        ...     print("counting")
        ...     return len(brand)
        >>> count_paints("Vallejo"), count_paints(brand="Vallejo")
        counting
        (7, 7)
        >>> cache.invalidate("brand:Vallejo")
        >>> count_paints("Vallejo")
        counting
        7
        >>> cache.get_stats()["hits"]
        1
    """

    def __init__(
        self,
        name: str = "cache",
        *,
        maxsize: int = 10_000,
        timeout: Seconds | None = 300,
        policy: Callable[[int], Cache[Any, Any]] | None = None,
        max_weight: int | None = None,
        weigh: Callable[[Any], int] | None = None,
        on_removal: Callable[[Removal], object] | None = None,
        level2: SharedLevel | None = None,
        max_unverified: Seconds | None = None,
    ) -> None:
        self.name = _arguments.label("name", name)
        self._timeout = _arguments.seconds_or_none("timeout", timeout, none=NEVER_EXPIRES, most=math.inf)
        removals = Removals(
            self.name, None if on_removal is None else _arguments.callback("on_removal", on_removal)
        )
        level = MemoryLevel(
            _arguments.count("maxsize", maxsize),
            removals,
            None if policy is None else _oracle(policy, maxsize),
            weights(self.name, max_weight, weigh),
        )
        self._store = Store(self.name, level, removals)
        self._store.sharing = _sharing(level2, self._store, max_unverified)

    @overload
    def cache_result(  # type: ignore[overload-overlap]  # a coroutine function fits both; the first is meant
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCached[P, R]: ...
    @overload
    def cache_result(self, fn: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def cache_result(
        self,
        timeout: Seconds | _Absent | None = ...,
        key_func: Callable[..., str] | None = None,
        *,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        ignore: Iterable[str] = (),
        vary: Iterable[ContextVar[Any]] = (),
        jitter: float = 0.0,
        cache_errors: ErrorMatch | None = None,
        error_timeout: Seconds = 10.0,
        early: float = 0.0,
        stale: Seconds = 0.0,
        stale_on_error: Seconds = 0.0,
        loader_timeout: Seconds | None = None,
        soft_timeout: Seconds | None = None,
        copy: CopyPolicy = "share",
        level2: bool = True,
    ) -> Caching: ...
    @overload
    def cache_result(
        self,
        *,
        timeout: Callable[[Any], Seconds | None],
        key_func: Callable[..., str] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        ignore: Iterable[str] = (),
        vary: Iterable[ContextVar[Any]] = (),
        jitter: float = 0.0,
        cache_errors: ErrorMatch | None = None,
        error_timeout: Seconds = 10.0,
        early: float = 0.0,
        stale: Seconds = 0.0,
        stale_on_error: Seconds = 0.0,
        loader_timeout: Seconds | None = None,
        soft_timeout: Seconds | None = None,
        copy: CopyPolicy = "share",
        level2: bool = True,
    ) -> Caching: ...

    def cache_result(  # type: ignore[misc]  # it tells a timeout in the first place from what it is to decorate
        self,
        fn: Any = _ABSENT,
        /,
        timeout: Any = _ABSENT,
        key_func: Any = None,
        *,
        tags: Iterable[str] | Callable[..., Iterable[str]] | None = None,
        ignore: Iterable[str] = (),
        vary: Iterable[ContextVar[Any]] = (),
        jitter: float = 0.0,
        cache_errors: ErrorMatch | None = None,
        error_timeout: Seconds = ERROR_TIMEOUT,
        early: float = 0.0,
        stale: Seconds = 0.0,
        stale_on_error: Seconds = 0.0,
        loader_timeout: Seconds | None = None,
        soft_timeout: Seconds | None = None,
        copy: CopyPolicy = "share",
        level2: bool = True,
    ) -> Any:
        """Decorate a function or method, `def` or `async def`: its results are kept and served again.

        Use it bare (`@cache.cache_result`) or with options. The arguments of a call are its key: exactly, with their
        types and with defaults filled in, so `f(1)`, `f(x=1)` are one call, and `f(True)` is another. A method keeps
        the values of each object apart and lets them go with the object. An exception goes to those who wait for it, and
        is not kept. Inside an open unit of work a miss loads in the caller's own unit.

        The wrapper has extras: `fn.invalidate(...)` drops the value of one call, `fn.refresh(...)` loads it anew,
        `fn.peek(...)` returns it if it is there, `fn.put(value, ...)` stores one, `fn.explain(...)` tells what is known of
        one call, `fn.info()` what happened so far. Those of an `async def` are coroutines. For methods use
        `cache.of(obj.method)`.

        Args:
            fn: The function, if the decorator is used bare.
            timeout: The time to live in seconds (> 0) or a `timedelta`; `None`: never expires; absent: the manager's. By
                keyword also a function of the value that returns one of these, or 0: then the value is not kept.
            key_func: Gets the call as it is made and returns its key, a string that is not empty. Calls with one key are one
                call, on whatever object; `cache.invalidate(key)` drops it.
            tags: Names under which to invalidate: at most 16, or a function of the bound arguments (without `self`) that
                returns them.
            ignore: Names of parameters that are no part of the key: whoever asks first decides what they were.
            vary: Context variables that are part of the key. `fn.invalidate(...)` drops every variant.
            jitter: The part of each time to live (0 to 1) that chance may take off, so that what came together does not
                go together.
            cache_errors: Errors that are answers, and kept as such: types or a predicate; `None`: no error is kept.
            error_timeout: How long such an error lives, in seconds (> 0, default 10) or a `timedelta`.
            early: In the last part of its time to live (0 to 1) a value may be renewed in the background, the earlier the
                longer its load took; calls are answered with it meanwhile.
            stale: For how many seconds afterwards (>= 0) calls are answered with it while one load in the background
                renews it.
            stale_on_error: For how many seconds afterwards (>= 0) calls are answered with it if a load fails. After a failure
                the next try waits for 5 seconds.
            loader_timeout: For how many seconds (> 0) a load may take; `None`: for ever. A blocking load then runs in a
                thread of the manager's, of which there are 8 at most; one that takes too long is not interrupted, but
                nobody waits for it any more.
            soft_timeout: For how many seconds (> 0) a call waits for a load before it is answered with a value that would
                help out after an error, too; the load goes on in the background.
            copy: `"share"`: all callers get one object, which nobody may change. `"shallow"`, `"deep"`: each gets a copy, by
                `copy.copy` or `copy.deepcopy`.
            level2: Whether values are shared through the manager's second level, if it has one.

        Returns:
            A function with the same signature.

        Raises:
            TypeError: The function is a generator, or an argument is of the wrong kind. When called: an argument has no
                exact key, or the result cannot be cached (a mapped SQLAlchemy object, an iterator, an awaitable).
            ValueError: An argument is out of range, a tag is empty, or options exclude each other.
        """
        bare = can_be_decorated(fn)
        if fn is not _ABSENT and not bare:  # `cache_result(timeout, key_func)`, all by position
            if timeout is not _ABSENT and key_func is not None:
                raise TypeError(
                    f"pass timeout and key_func once each, not {fn!r}, {timeout!r} and {key_func!r}"
                )
            if timeout is not _ABSENT:
                key_func = timeout
            timeout = fn
        chosen = self._timeout if timeout is _ABSENT else time_to_live(timeout)
        if key_func is not None:
            _arguments.callback("key_func", key_func)
        options = Options(
            key_func=key_func,
            ignore=ignored(ignore, key_func),
            vary=variables(vary),
            tags=tags_from(tags),
            copy=copier(copy),
            level2=_arguments.flag("level2", level2),
            keeping=coherent(
                Keeping(
                    timeout=chosen,
                    freshness=Freshness(
                        jitter=_arguments.ratio("jitter", jitter, zero=True),
                        early=_arguments.ratio("early", early, zero=True),
                        stale=_arguments.seconds("stale", stale, zero=True),
                        stale_on_error=_arguments.seconds("stale_on_error", stale_on_error, zero=True),
                    ),
                    errors=None if cache_errors is None else _arguments.errors("cache_errors", cache_errors),
                    error_timeout=_arguments.seconds("error_timeout", error_timeout, most=math.inf),
                    loader_timeout=limit("loader_timeout", loader_timeout),
                    soft_timeout=limit("soft_timeout", soft_timeout),
                )
            ),
        )
        if bare:
            return cached(fn, self._store, options)
        return lambda function: cached(function, self._store, options)

    @overload
    def cache_many(
        self, fn: Callable[[list[K]], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncCachedMany[K, V]: ...
    @overload
    def cache_many(self, fn: Callable[[list[K]], Mapping[K, V]], /) -> CachedMany[K, V]: ...
    @overload
    def cache_many(
        self,
        *,
        timeout: Seconds | Callable[[Any], Seconds | None] | _Absent | None = ...,
        absent_timeout: Seconds = 10.0,
        tags: Iterable[str] | Callable[[Any], Iterable[str]] | None = None,
        vary: Iterable[ContextVar[Any]] = (),
        jitter: float = 0.0,
        copy: CopyPolicy = "share",
    ) -> CachingMany: ...

    def cache_many(  # type: ignore[misc]  # mypy misses that who passes no function leaves it out
        self,
        fn: Any = _ABSENT,
        /,
        *,
        timeout: Any = _ABSENT,
        absent_timeout: Seconds = 10.0,
        tags: Iterable[str] | Callable[[Any], Iterable[str]] | None = None,
        vary: Iterable[ContextVar[Any]] = (),
        jitter: float = 0.0,
        copy: CopyPolicy = "share",
    ) -> Any:
        """Decorate a function, `def` or `async def`, that loads the values of many keys at once; bare or with options.

        It gets a list of keys and returns a mapping; a key that is not in it has no value, which is remembered, too. The
        decorated function takes any iterable of keys and returns a dict of those that have a value, in the order asked. Keys
        whose values are there are not loaded; those that somebody else is loading are waited for; the rest comes in one call.

        The values are kept in memory only, also beside a second level. The extras are those of `cache_result`, for one key:
        `fn.invalidate(key)`, `fn.put(value, key)` and so on.

        Args:
            fn: The function, if the decorator is used bare.
            timeout: The time to live of each value, as in `cache_result`.
            absent_timeout: For how many seconds (>= 0) or which `timedelta` it is remembered that a key has no value; 0: not
                at all.
            tags: Names under which to invalidate, or a function of one key that returns them.
            vary: Context variables that are part of the key.
            jitter: The part of each time to live (0 to 1) that chance may take off.
            copy: As in `cache_result`.

        Raises:
            TypeError: The function takes anything but one argument, or an argument is of the wrong kind. When called: the
                function returns no mapping.
            ValueError: An argument is out of range.

        Example:
            >>> cache = CacheManager()
            >>> @cache.cache_many(tags=lambda sku: (f"sku:{sku}",))
            ... def prices(skus: list[str]) -> dict[str, int]:
            ...     print("loading", skus)
            ...     return {sku: len(sku) for sku in skus if sku != "green"}
            >>> prices(["red", "green"])
            loading ['red', 'green']
            {'red': 3}
            >>> prices(["blue", "red", "green"])
            loading ['blue']
            {'blue': 4, 'red': 3}
            >>> prices.invalidate("red")
            >>> prices.peek("red") is None
            True
        """
        bare = can_be_decorated(fn)
        if fn is not _ABSENT and not bare:
            raise TypeError(f"cache_many takes its options by name, such as timeout=60, not {fn!r}")
        chosen = self._timeout if timeout is _ABSENT else time_to_live(timeout)
        if jitter and chosen is None:
            raise ValueError("jitter has no effect on values that never expire: pass a timeout")
        from paintkit.cache.many import cached_many  # what few programs use, none should pay for

        options = Options(
            key_func=None,
            ignore=frozenset(),
            vary=variables(vary),
            tags=tags_from(tags),
            copy=copier(copy),
            keeping=Keeping(
                timeout=but_absent(
                    chosen, _arguments.seconds("absent_timeout", absent_timeout, zero=True, most=math.inf)
                ),
                freshness=Freshness(jitter=_arguments.ratio("jitter", jitter, zero=True)),
                errors=None,
                error_timeout=0.0,
            ),
        )
        if bare:
            return cached_many(fn, self._store, options)
        return lambda function: cached_many(function, self._store, options)

    @overload
    def of(  # type: ignore[overload-overlap]  # a coroutine function fits both; the first is meant
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncExtras[P, R]: ...
    @overload
    def of(self, function: Callable[P, R], /) -> Extras[P, R]: ...

    def of(self, function: Any, /) -> Any:
        """Return the extras of a cached function, or of a cached method of one object.

        Raises:
            TypeError: It is not cached, or in another manager.

        Example:
            >>> cache = CacheManager()
            >>> class Repository:
            ...     @cache.cache_result()
            ...     def paint(self, paint_id: int) -> str:
            ...         return f"paint {paint_id}"
            >>> repository = Repository()
            >>> repository.paint(1)
            'paint 1'
            >>> cache.of(repository.paint).invalidate(1)
            >>> cache.get_stats()["entries"]
            0
        """
        extras = extras_of(function)
        if extras.store is not self._store:
            raise TypeError(f"{function!r} is cached in {extras.store.name!r}, not in {self.name!r}")
        return extras

    def invalidate(
        self,
        what: str | Callable[..., Any] | _Absent = _ABSENT,
        /,
        *,
        pattern: str | _Absent = _ABSENT,
    ) -> None:
        """Drop values: a call that begins after this returned never sees a value whose load began before it.

        Inside an open unit of work the values are dropped after its commit, and the unit itself reads around them at
        once; if it is rolled back nothing happens.

        Args:
            what: A tag, a key that a `key_func` made (both exactly), or a cached function: all its calls. Absent:
                everything.
            pattern: Instead: a glob (`*`, `?`, `[...]`) over tags and such keys. It looks at all of them. Not with a second
                level.

        Raises:
            TypeError: An argument is of the wrong kind (`None` included), or both are given.
            ValueError: An argument is empty, or there is a pattern and a second level.
        """
        drive(self._store.invalidate(self._target(what, pattern), BLOCKING))

    async def ainvalidate(
        self,
        what: str | Callable[..., Any] | _Absent = _ABSENT,
        /,
        *,
        pattern: str | _Absent = _ABSENT,
    ) -> None:
        """Drop values as `invalidate` does, in asyncio.

        Args:
            what: As for `invalidate`.
            pattern: As for `invalidate`.

        Raises:
            TypeError: As for `invalidate`.
            ValueError: As for `invalidate`.
        """
        await self._store.invalidate(self._target(what, pattern), ASYNCIO)

    def memo(self) -> Memo:
        """Return a block in which this context reads every value at most once: what it has read it reads again.

        So one request sees one state of what it asks for, whatever others invalidate meanwhile. What it invalidates or puts
        itself is read anew. The block works in `def` and `async def`, for the tasks begun in it too; within another one of
        this cache it does nothing. While any is open, hits of all callers take a few microseconds.

        Example:
            >>> from contextvars import Context
            >>> cache = CacheManager()
            >>> prices = {"red": 350}
            >>> @cache.cache_result()
            ... def price(sku: str) -> int:
            ...     return prices[sku]
            >>> with cache.memo():
            ...     first = price("red")
            ...     prices["red"] = 390
            ...     Context().run(price.invalidate, "red")  # as another request does
            ...     first, price("red")
            (350, 350)
            >>> price("red")
            390
        """
        return Memo(self._store)

    def get_stats(self) -> CacheStats:
        """Return what the cache did so far, and what it holds now.

        The size is an estimate: `sys.getsizeof` of the values and their parts, a few levels deep, over about 100
        entries from which the rest is inferred. The cost of keys and of the cache's own books is not in it.
        """
        entries = self._store.sweep()
        totals = self._store.totals()
        lookups = totals.hits + totals.misses
        weighed = self._store.level.weights
        return {
            "entries": len(entries),
            "maxsize": self._store.level.maxsize,
            "estimated_size": estimate_total([entry.value for entry in entries]),
            "hit_rate": totals.hits / lookups if lookups else 0.0,
            "hits": totals.hits,
            "misses": totals.misses,
            "stale": totals.stale,
            "expired": totals.expired,
            "invalidated": totals.invalidated,
            "evicted": totals.evicted,
            "joined": totals.joined,
            "loads": totals.loads,
            "load_errors": totals.load_errors,
            "load_time": totals.load_time,
            "evictions": self._store.level.evictions,
            "expirations": self._store.level.expirations,
            "invalidations": self._store.invalidations,
            "level2_hits": totals.level2_hits,
            "unverified": totals.unverified,
            "level2": {} if self._store.sharing is None else self._store.sharing.level.stats(),
            "weight": 0 if weighed is None else weighed.total,
            "max_weight": None if weighed is None else weighed.most,
            "too_heavy": 0 if weighed is None else weighed.refused,
        }

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return the totals, for exporters, and the second level; see `paintkit.telemetry`."""
        from paintkit import _catalogue
        from paintkit.telemetry import Source

        stats = self.get_stats()
        known = stats["expired"] + stats["invalidated"] + stats["evicted"] + stats["unverified"]
        yield from _catalogue.CACHE.read(self.name, {**stats, "never": stats["misses"] - known})
        sharing = self._store.sharing
        if sharing is not None and isinstance(sharing.level, Source):
            yield sharing.level

    def __repr__(self) -> str:
        most = counted(self._store.level.maxsize, "entry", "entries")
        return f"<CacheManager {self.name!r}: {len(self._store.level)} of {most}>"

    def _target(self, what: object, pattern: object) -> Target:
        if what is not _ABSENT and pattern is not _ABSENT:
            raise TypeError("pass a key or tag, or pattern=, not both")
        if pattern is not _ABSENT:
            if self._store.sharing is not None:
                raise ValueError(
                    "pattern= looks through the memory of one process, and this cache shares its values with others: give "
                    "what belongs together a tag, and invalidate that"
                )
            return Matching(_arguments.label("pattern", pattern))
        if what is _ABSENT:
            return Everything()
        if callable(what):
            return OfFunction(self.of(what).section)
        return Labelled(_arguments.label("the key or tag", what))


def _oracle(policy: object, maxsize: int) -> Oracle:
    from paintkit.cache.oracle import oracle  # loads cachetools, which nothing else needs

    return oracle(policy, maxsize)


def _sharing(level2: SharedLevel | None, store: Store, max_unverified: Any) -> Sharing | None:
    longest = _arguments.seconds_or_none(
        "max_unverified", max_unverified, none="serves them as long as they live", zero=True
    )
    if level2 is None:
        if longest is not None:
            raise ValueError("max_unverified has no effect without a second level: pass level2, too")
        return None
    _arguments.having("level2", level2, "codec", "a second level, such as paintkit.redis.RedisLevel(url)")
    from paintkit.cache.sharing import Sharing  # who has one level should not pay for two

    return Sharing(level2, store, longest)
