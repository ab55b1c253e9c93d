"""A cached function of many keys: what is there is served, and the rest is loaded in one call.

To the cache each key is a call of its own, with its own entry, flight and invalidation. The flights of the keys that one
caller has to load land together: they *follow* the one flight that makes the load.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from paintkit import ambient, clock
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit._wrap import Colour, Parameters, Templates, colour_of, name_of, wrap
from paintkit.cache.entries import Entry, Section
from paintkit.cache.extras import AsyncExtras, Calls, Extras, attach
from paintkit.cache.flights import Abandoned, Flight, Landing
from paintkit.cache.keeping import ABSENT
from paintkit.cache.keys import single_key
from paintkit.cache.loading import Loader, Options
from paintkit.cache.memo import memo_of, unremembered
from paintkit.cache.runtimes import ASYNCIO, BLOCKING, Runtime

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from paintkit.cache.memo import Memo
    from paintkit.cache.reports import CacheInfo, Explanation
    from paintkit.cache.store import Store
    from paintkit.typing import AnyCallable

__all__ = ["AsyncCachedMany", "CachedMany", "CachingMany", "cached_many"]

K = TypeVar("K")
V = TypeVar("V")

_ByKey = dict[Any, Entry]
_Loaded = Outcome[dict[Any, Any]]


def cached_many(fn: AnyCallable, store: Store, options: Options) -> AnyCallable:
    """Return the cached form of a function of many keys.

    Raises:
        TypeError: The function cannot be cached, or takes something else than keys.
    """
    colour = colour_of(fn)
    if colour in {Colour.GENERATOR, Colour.ASYNC_GENERATOR}:
        raise TypeError(f"cannot cache {name_of(fn)}: it is a {colour.value} function; return a mapping")
    parameters = Parameters.of(fn)
    keyword_only = parameters.declaration.startswith("*")
    if parameters.own and not parameters.variadic and (len(parameters.names) != 1 or keyword_only):
        raise TypeError(
            f"{name_of(fn)} must take one argument, the keys, and not ({parameters.declaration}): bind the others before, for "
            f"example with functools.partial"
        )
    many = _Many(fn, store, options, colour)
    wrapper = wrap(
        fn,
        Templates(
            name="cached_many",
            blocking="    return $get($arguments)\n",
            asyncio="    return await $aget($arguments)\n",
        ),
        {"get": many.get, "aget": many.aget},
    )
    kind = _Extras if colour is Colour.BLOCKING else _AsyncExtras
    extras: Extras[..., Any] | AsyncExtras[..., Any] = kind(many.loader, many.bind)
    attach(extras, wrapper)
    return wrapper


class _Many:
    """What happens to the keys of a call."""

    def __init__(self, fn: AnyCallable, store: Store, options: Options, colour: Colour) -> None:
        section = Section(name_of(fn), options.keeping)
        self.loader = Loader(
            store,
            section,
            options,
            lambda args, _named, identities: single_key(args[0], identities),
            None,
            method=False,
        )
        self._store = store
        # The section must not keep the function alive: the loader knows nothing of it, and the wrapper keeps this object.
        self._load = functools.partial(_load if colour is Colour.BLOCKING else _aload, fn)
        self._load_one = _loads_one(fn, colour)

    def bind(self, key: Any, /) -> functools.partial[Any]:
        """Return the load of one key alone, to be made later."""
        return functools.partial(self._load_one, key)

    def get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the values of those keys that have one, in blocking code."""
        wanted, found, missing = self._find(keys)
        if missing:
            found |= drive(self._load_missing(missing, BLOCKING)).unwrap()
        return self._handed_out(wanted, found)

    async def aget(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the values of those keys that have one, in asyncio."""
        wanted, found, missing = self._find(keys)
        if missing:
            found |= (await self._load_missing(missing, ASYNCIO)).unwrap()
        return self._handed_out(wanted, found)

    def _find(self, keys: Iterable[Any]) -> tuple[list[Any], dict[Any, Any], _ByKey]:
        """Return the keys, each once, the values that are there, and the calls of those that have to be loaded."""
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise TypeError(f"pass a collection of keys, such as [{keys!r}], not {keys!r}")
        wanted = list(dict.fromkeys(keys))
        found: dict[Any, Any] = {}
        memo = memo_of(self._store) if ambient.process.detours else None
        missing = {key: call for key in wanted if (call := self._look(key, found, memo)) is not None}
        return wanted, found, missing

    def _handed_out(self, wanted: list[Any], found: dict[Any, Any]) -> dict[Any, Any]:
        out = self.loader.handed_out
        return {key: out(found[key]) for key in wanted if found[key] is not ABSENT}

    def _look(self, key: Any, found: dict[Any, Any], memo: Memo | None) -> Entry | None:
        """Put a value that is there with those found; return the call of a key that has to be loaded."""
        entry = None if self.loader.options.vary else self.loader.section.table.get(key)
        if entry is not None and entry.kind is key.__class__:
            value = entry.value
            if clock.now() < entry.due and not ambient.process.detours:
                self._store.level.touch(entry)
                found[key] = value
                return None
        later = self.bind(key)
        call = self.loader.locate(later)
        served: Outcome[Any] | None = None if memo is None else self.loader.remembered(memo, call)
        if served is None:
            self.loader.complete(call, later, None)
            served = self.loader.look(call)
            if memo is not None and isinstance(served, Success):
                self.loader.remember(memo, call, served.value, memo.changes, everybodys=True)
        if served is None:
            return call
        found[key] = served.unwrap()
        return None

    async def _load_missing(self, calls: _ByKey, runtime: Runtime) -> _Loaded:
        """Load, and remember it for this request. An error is a value here, as in `Loader`."""
        memo = memo_of(self._store) if ambient.process.detours else None
        changes = 0 if memo is None else memo.changes
        with unremembered():
            loaded = await self._load_all(calls, runtime)
        if memo is not None and isinstance(loaded, Success):
            for key, value in loaded.value.items():
                self.loader.remember(memo, calls[key], value, changes, everybodys=False)
        return loaded

    async def _load_all(self, calls: _ByKey, runtime: Runtime) -> _Loaded:
        unit = ambient.unit_of_work.get()
        if unit is not None:
            for call in calls.values():
                self._store.note_miss(call)
            return await self._load_inside(unit, calls, runtime)
        found: dict[Any, Any] = {}
        while calls:
            left = await self._fly(calls, found, runtime)
            if isinstance(left, Failure):
                return left
            calls = {key: calls[key] for key in left}
        return Success(found)

    async def _fly(self, calls: _ByKey, found: dict[Any, Any], runtime: Runtime) -> list[Any] | Failure:
        """Load what nobody loads, then wait for what others do.

        Return the keys that nobody brought after all, or the first error.
        """
        convoy = _Convoy(self._store)
        try:
            mine = convoy.flights
            others, alone = self._begin(calls, found, mine)
            if mine:
                await convoy.travel(functools.partial(self._load, list(mine)), runtime)
                loaded = _together({key: _arrived(flight) for key, flight in mine.items()})
                if isinstance(loaded, Failure):
                    return loaded
                found |= loaded.value
        finally:
            convoy.give_up()
        left = []
        for key, other in others.items():
            if not await runtime.join(other, self._store):
                alone.append(key)
            elif isinstance(landing := other.landed(), Success):
                found[key] = landing.value
            elif isinstance(landing, Failure):
                return landing
            else:
                left.append(key)
        if alone:
            loaded = await self._load_alone({key: calls[key] for key in alone}, runtime)
            if isinstance(loaded, Failure):
                return loaded
            found |= loaded.value
        return left

    def _begin(
        self, calls: _ByKey, found: dict[Any, Any], mine: dict[Any, Flight]
    ) -> tuple[dict[Any, Flight], list[Any]]:
        """Find what came meanwhile, and register the flights of what nobody loads.

        Return the flights that others lead, and the keys that have to be loaded without one.
        """
        others: dict[Any, Flight] = {}
        alone: list[Any] = []
        for key, call in calls.items():
            flight = mine[key] = Flight(
                call
            )  # in there before it is registered: an interrupt leaves none behind
            begun = self._store.begin(flight)
            if begun is flight:
                continue
            del mine[key]
            if begun is None:
                alone.append(key)
            elif isinstance(begun, Flight):
                others[key] = begun
            else:
                found[key] = begun.unwrap()
        return others, alone

    async def _load_inside(self, unit: ambient.UnitOfWork, calls: _ByKey, runtime: Runtime) -> _Loaded:
        """Load within a unit of work, whose view of the data is its own; keep only what everybody may see."""
        loaded = await self._load_alone(calls, runtime)
        if isinstance(loaded, Success):
            for key, call in calls.items():
                if not unit.wrote and not self._store.is_dirty(call, unit):
                    verdict = self._store.judge(call, Success(loaded.value[key]))
                    self._store.keep(call, verdict, since=unit.began)
        return loaded

    async def _load_alone(self, calls: _ByKey, runtime: Runtime) -> _Loaded:
        """Load in the caller's own thread and task, for the caller alone."""
        started = clock.now()
        outcome: Outcome[Any] | None = None
        try:
            outcome = await runtime.call(functools.partial(self._load, list(calls)))
        finally:
            failed = not isinstance(outcome, Success)
            self._store.note_load(next(iter(calls.values())), clock.now() - started, failed=failed)
        if isinstance(outcome, Failure):
            return outcome
        reply = outcome.value
        return _together(
            {
                key: self._store.judge(call, Success(reply.get(key, ABSENT))).outcome
                for key, call in calls.items()
            }
        )


class _Convoy:
    """Flights that land together, and the home of the flight that brings them.

    Args:
        store: Where they are registered.
    """

    def __init__(self, store: Store) -> None:
        self.workers, self.tasks = store.workers, store.tasks
        #: The flights by key, until they have landed.
        self.flights: dict[Any, Flight] = {}
        self._store = store
        self._lead: Flight | None = None

    async def travel(self, later: Callable[[], Any], runtime: Runtime) -> None:
        """Load, and land all."""
        lead = self._lead = Flight(next(iter(self.flights.values())).call)
        lead.kept = True  # others may wait for any of the flights: whoever leaves ends nothing
        for flight in self.flights.values():
            flight.follow(lead)
        # The traceback of an error leads to this frame and to `land`, which must not hold the error.
        del flight
        waiting = runtime.lead(lead, later, self)
        del lead
        if waiting is not None:
            await waiting

    def land(self, flight: Flight, landing: Landing, /) -> None:
        """Land each flight with its part of the reply, then the one that brought it."""
        counts = True
        for key, one in self.flights.items():
            part = Success(landing.value.get(key, ABSENT)) if isinstance(landing, Success) else landing
            self._store.land(one, part, counts=counts)
            counts = False
        flight.land(landing)
        self.flights, self._lead = {}, None

    def give_up(self) -> None:
        """Let nobody wait for flights whose leader was interrupted on the way to the load."""
        if self._lead is None or not self._lead.departed:
            for flight in self.flights.values():
                if flight.adrift:
                    self._store.land(flight, Abandoned(InterruptedError("the leader was interrupted")))


def _arrived(flight: Flight) -> Outcome[Any]:
    landing = flight.landed()
    if isinstance(landing, Abandoned):
        raise landing.error
    return landing


def _together(outcomes: Mapping[Any, Outcome[Any]]) -> _Loaded:
    """Return the values of all, or the first error."""
    values = {}
    for key, outcome in outcomes.items():
        if isinstance(outcome, Failure):
            return outcome
        values[key] = outcome.value
    return Success(values)


def _load(fn: AnyCallable, keys: list[Any]) -> Mapping[Any, Any]:
    return _checked(fn, fn(keys))


async def _aload(fn: AnyCallable, keys: list[Any]) -> Mapping[Any, Any]:
    return _checked(fn, await fn(keys))


def _loads_one(fn: AnyCallable, colour: Colour) -> Callable[[Any], Any]:
    # Plain functions: a partial of a partial would have the function among its arguments.
    def one(key: Any) -> Any:
        return _load(fn, [key]).get(key, ABSENT)

    async def aone(key: Any) -> Any:
        return (await _aload(fn, [key])).get(key, ABSENT)

    return one if colour is Colour.BLOCKING else aone


def _checked(fn: AnyCallable, reply: Any) -> Mapping[Any, Any]:
    if not isinstance(reply, Mapping):
        raise TypeError(f"{name_of(fn)} must return a mapping of keys to values, not {type(reply).__name__}")
    return reply


class _Shown(Calls):
    """A key without a value shows as `None`."""

    def _peek(self, args: tuple[object, ...], named: Mapping[str, object]) -> Any:
        return _shown(super()._peek(args, named))

    async def _refresh(
        self, args: tuple[object, ...], named: Mapping[str, object], runtime: Runtime
    ) -> Outcome[Any]:
        outcome = await super()._refresh(args, named, runtime)
        return Success(_shown(outcome.value)) if isinstance(outcome, Success) else outcome


class _Extras(_Shown, Extras[..., Any]):
    """Those of one key."""


class _AsyncExtras(_Shown, AsyncExtras[..., Any]):
    """Those of one key of an `async def`."""


def _shown(value: Any) -> Any:
    return None if value is ABSENT else value


class CachedMany(Protocol[K, V]):
    """A cached function of many keys, as type checkers see it."""

    def __call__(self, keys: Iterable[K], /) -> dict[K, V]:
        """Return the values of those keys that have one, each key once, in the order asked."""
        ...

    def invalidate(self, key: K, /) -> None:
        """Drop the value of one key; inside a unit of work, after its commit."""
        ...

    def refresh(self, key: K, /) -> V | None:
        """Load one key anew, and return its value if it has one; others are served the old one meanwhile."""
        ...

    def peek(self, key: K, /) -> V | None:
        """Return the value of one key if it has one that is there and fresh, else `None`."""
        ...

    def put(self, value: V, key: K, /) -> None:
        """Store a value for one key, as if it had been loaded now; inside a unit of work, after its commit."""
        ...

    def explain(self, key: K, /) -> Explanation:
        """Return what the cache knows of one key, and why it would miss."""
        ...

    def info(self) -> CacheInfo:
        """Return what the function did so far: hits and misses of keys, loads of many."""
        ...


class AsyncCachedMany(Protocol[K, V]):
    """A cached `async def` of many keys, as type checkers see it; its extras are coroutines."""

    def __call__(self, keys: Iterable[K], /) -> Coroutine[Any, Any, dict[K, V]]:
        """Return the values of those keys that have one, each key once, in the order asked."""
        ...

    async def invalidate(self, key: K, /) -> None:
        """Drop the value of one key; inside a unit of work, after its commit."""
        ...

    async def refresh(self, key: K, /) -> V | None:
        """Load one key anew, and return its value if it has one; others are served the old one meanwhile."""
        ...

    async def peek(self, key: K, /) -> V | None:
        """Return the value of one key if it has one that is there and fresh, else `None`."""
        ...

    async def put(self, value: V, key: K, /) -> None:
        """Store a value for one key, as if it had been loaded now; inside a unit of work, after its commit."""
        ...

    async def explain(self, key: K, /) -> Explanation:
        """Return what the cache knows of one key, and why it would miss."""
        ...

    async def info(self) -> CacheInfo:
        """Return what the function did so far: hits and misses of keys, loads of many."""
        ...


class CachingMany(Protocol):
    """Makes cached functions of many keys; what `CacheManager.cache_many` returns."""

    @overload
    def __call__(
        self, fn: Callable[[list[K]], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncCachedMany[K, V]: ...
    @overload
    def __call__(self, fn: Callable[[list[K]], Mapping[K, V]], /) -> CachedMany[K, V]: ...
