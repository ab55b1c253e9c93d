"""A cached function: a wrapper that looks for the value, and what happens when it is not there.

A hit is one look-up in a dictionary, one reading of the clock and two comparisons, without a lock, in a wrapper
generated for the signature. All else is out of line and written once for both colours, in `Loader`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
)

from paintkit import _arguments, ambient, clock
from paintkit._record import Record
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit._wrap import Colour, Parameters, Templates, binder, colour_of, name_of, wrap
from paintkit.cache.flights import ASYNCIO, BLOCKING, Abandoned, Flight, Landing, Runtime
from paintkit.cache.invalidation import OfCall
from paintkit.cache.keeping import KeptError
from paintkit.cache.keys import Identity, freeze, loose_key, single_key, typed_key
from paintkit.cache.memory import Entry, Section
from paintkit.cache.values import estimate_total

if TYPE_CHECKING:
    from contextvars import ContextVar

    from paintkit.cache.keeping import Keeping, Verdict
    from paintkit.cache.reports import CacheInfo, Explanation
    from paintkit.cache.store import Store
    from paintkit.typing import AnyCallable

__all__ = [
    "AsyncCached",
    "AsyncExtras",
    "Cached",
    "Extras",
    "Options",
    "cached",
    "checked_tags",
    "extras_of",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

#: More tags than these on one entry are a mistake.
_MOST_TAGS = 16


class Options(Record):
    """How a function is cached; checked by whoever makes it.

    Attributes:
        key_func: Makes a key from the call as it was made.
        ignore: Names of parameters that are no part of the key.
        vary: Context variables that are.
        tags: The tags, or what makes them from the bound arguments.
        keeping: What is kept, and for how long.
    """

    key_func: Callable[..., str] | None
    ignore: frozenset[str]
    vary: tuple[ContextVar[Any], ...]
    tags: tuple[str, ...] | Callable[..., Iterable[str]]
    keeping: Keeping


# --- The wrapper ---

_LOOK = """\
    try:
        $entry = {find}
    except Exception:
        $entry = None
    if $entry is not None{same_kind}:
        $value = $entry.value
        if $clock.now() < $entry.due and not $process.dirty_units:
            $entry.hits += 1
            return $value
"""
_MAKE_KEY = """\
    $key = $key_func(*args, **kwargs)
    if $key.__class__ is not $str:
        $refuse_key($key)
"""


def _body(parameters: Parameters, options: Options, *, method: bool) -> str:
    """Return the body of the wrapper up to the miss.

    Measured with CPython 3.11 against a bare pass-through wrapper: the bare argument as key, its type compared in the
    entry, 1.25; a tuple of argument and type 1.45; `get` in a `try` is as quick as a subscript, and a miss does not raise.
    """
    if options.key_func is not None:
        return _MAKE_KEY + _LOOK.format(find=_finding("$get", "$key", options), same_kind="")
    if parameters.variadic:
        return ""
    names = [name for name in parameters.names[method:] if name not in options.ignore]
    if len(names) == 1:
        key, same_kind = names[0], f" and $entry.kind is {names[0]}.__class__"
    else:
        key, same_kind = f"({', '.join([*names, *(f'{name}.__class__' for name in names)])})", ""
    get = f"$receivers.get($id({parameters.names[0]}), $nobody).get" if method else "$get"
    return _LOOK.format(find=_finding(get, key, options), same_kind=same_kind)


def _finding(get: str, key: str, options: Options) -> str:
    return f"{get}(($variant(), {key}))" if options.vary else f"{get}({key})"


def cached(fn: AnyCallable, store: Store, options: Options) -> AnyCallable:
    """Return the cached form of a function.

    Raises:
        TypeError: The function cannot be cached.
    """
    colour = colour_of(fn)
    if colour in {Colour.GENERATOR, Colour.ASYNC_GENERATOR}:
        raise TypeError(
            f"cannot cache {name_of(fn)}: it is a {colour.value} function, whose items can be read only once; return a "
            f"list or a tuple"
        )
    parameters = Parameters.of(fn)
    # A wrapper that takes anything tells by `__wrapped__` what it really takes.
    telling = parameters.own and not (parameters.variadic and hasattr(fn, "__wrapped__"))
    bind, names = (binder(fn), parameters.names) if telling else _bound_by_signature(fn)
    method = _is_method(fn, names)
    section = Section(name_of(fn), options.keeping)
    make_key = _key_maker(parameters, options.ignore, method=method)
    pick = _picker(fn, options.ignore, telling=telling, method=method) if options.ignore else None
    loader = Loader(store, section, options, make_key, pick, method=method)
    look = _body(parameters, options, method=method)
    call = "$later" if telling else "$bind($arguments)"
    if options.key_func is not None:
        call = "$bind(*args, **kwargs), $key"
    wrapper = wrap(
        fn,
        Templates(
            name="cached",
            blocking=f"{look}    return $miss({call})\n",
            asyncio=f"{look}    return await $amiss({call})\n",
        ),
        {
            "amiss": loader.amiss,
            "bind": bind,
            "clock": clock,
            "get": section.table.get,
            "id": id,
            "key_func": options.key_func,
            "miss": loader.miss,
            "nobody": section.table,
            "process": ambient.process,
            "receivers": section.receivers,
            "refuse_key": _refuse_key,
            "str": str,
            "variant": loader.variant,
        },
        as_made=options.key_func is not None,
    )
    extras: _Calls = (Extras if colour is Colour.BLOCKING else AsyncExtras)(loader, bind)
    for name in ("invalidate", "refresh", "peek", "put", "explain", "info"):
        setattr(wrapper, name, getattr(extras, name))
    wrapper._paintkit_extras = extras  # type: ignore[attr-defined]  # a function takes any attribute
    store.attend(section, wrapper)
    return wrapper


def _is_method(fn: AnyCallable, names: Iterable[str]) -> bool:
    """Tell a method by where it stands and how its first parameter is called: when it is decorated, it is a function."""
    scope = getattr(fn, "__qualname__", "").rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>") and next(iter(names), None) in {"self", "cls"}


_Bind = Callable[..., functools.partial[Any]]


def _bound_by_signature(fn: AnyCallable) -> tuple[_Bind, Iterable[str]]:
    """Return what binds the arguments of a callable whose own parameters say little, and the names of its parameters."""
    import inspect

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def bind(*args: Any, **kwargs: Any) -> functools.partial[Any]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # A decorator may pass other arguments than it takes: then the call as it was made is all there is.
            return functools.partial(call, *args, **kwargs)
        bound.apply_defaults()
        return functools.partial(call, *bound.args, **bound.kwargs)

    try:
        signature = inspect.signature(fn)
    except ValueError:
        return functools.partial(functools.partial, call), ()
    return bind, signature.parameters


_KeyMaker = Callable[[tuple[Any, ...], Mapping[str, Any], list[Identity]], tuple[Hashable, type | None]]


_Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
_Pick = Callable[[tuple[Any, ...], Mapping[str, Any]], _Arguments]


def _picker(fn: AnyCallable, ignored: frozenset[str], *, telling: bool, method: bool) -> _Pick:
    """Return what leaves the ignored ones out of bound arguments (those of a method without its object)."""
    import inspect

    parameters = list(inspect.signature(fn, follow_wrapped=not telling).parameters.values())[method:]
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = {one.name for one in parameters if one.kind in {*plain, inspect.Parameter.KEYWORD_ONLY}}
    unknown = sorted(ignored - named)
    if unknown and not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        raise ValueError(
            f"ignore names {', '.join(map(repr, unknown))}, which {name_of(fn)} does not take; it takes "
            f"{', '.join(map(repr, sorted(named))) or 'nothing by name'}"
        )
    positional = [one.name for one in parameters if one.kind in plain]
    places = {place for place, name in enumerate(positional) if name in ignored}

    def pick(args: tuple[Any, ...], named: Mapping[str, Any]) -> _Arguments:
        return (
            tuple(value for place, value in enumerate(args) if place not in places),
            {name: value for name, value in named.items() if name not in ignored},
        )

    return pick


def _key_maker(parameters: Parameters, ignored: frozenset[str], *, method: bool) -> _KeyMaker:
    """Return what makes the key that the wrapper of these parameters looks for."""
    names = [name for name in parameters.names[method:] if name not in ignored]
    if parameters.variadic:
        return lambda args, named, identities: (loose_key(args, named, identities), None)
    if len(names) == 1:
        return lambda args, named, identities: single_key((*args, *named.values())[0], identities)
    return lambda args, named, identities: (typed_key((*args, *named.values()), identities), None)


def _refuse_key(key: object) -> NoReturn:
    raise TypeError(f"key_func must return a string, not {key!r} ({type(key).__name__})")


def _state(variable: ContextVar[Any], identities: list[Identity]) -> Hashable:
    try:
        value = variable.get()
    except LookupError:
        return None  # nothing freezes to this
    return freeze(value, identities)


# --- What happens at a miss ---


class Loader:
    """Finds the place of a call, and gets its value there.

    Args:
        store: Where values are.
        section: The function's part of it.
        options: How the function is cached.
        make_key: Makes a key of bound arguments.
        pick: Leaves the ignored ones out of bound arguments.
        method: Whether the first argument is the object whose method it is.
    """

    def __init__(
        self,
        store: Store,
        section: Section,
        options: Options,
        make_key: _KeyMaker,
        pick: _Pick | None,
        *,
        method: bool,
    ) -> None:
        # The function itself is not in here: entries lead to the section, and must not keep the function alive.
        self.store = store
        self.section = section
        self.options = options
        self._make_key = make_key
        self._pick = pick
        self._method = method

    def locate(self, later: functools.partial[Any], label: str | None = None) -> Entry:
        """Return the place of a bound call; `label` is its key if a `key_func` made one."""
        identities: list[Identity] = []
        variant = self.variant(identities) if self.options.vary else None
        if label is not None:
            return Entry(self.section.table, label, None, tuple(identities), variant)
        table, args = self.section.table, later.args
        named: Mapping[str, Any] = later.keywords
        if self._method:
            table, args = self.store.table_of(self.section, args[0]), args[1:]
        if self._pick is not None:
            args, named = self._pick(args, named)
        key, kind = self._make_key(args, named, identities)
        return Entry(table, key, kind, tuple(identities), variant)

    def variant(self, identities: list[Identity] | None = None) -> Hashable:
        """Return what the context variables say that calls vary by."""
        found: list[Identity] = [] if identities is None else identities
        return tuple(_state(variable, found) for variable in self.options.vary)

    def miss(self, later: functools.partial[Any], label: str | None = None) -> Any:
        """Return the value of a call that the wrapper did not find, in blocking code."""
        call = self.locate(later, label)
        served = self.look(call)
        return served.unwrap() if served is not None else drive(self._get(call, later, label, BLOCKING))

    async def amiss(self, later: functools.partial[Any], label: str | None = None) -> Any:
        """Return the value of a call that the wrapper did not find, in asyncio."""
        call = self.locate(later, label)
        served = self.look(call)
        return served.unwrap() if served is not None else await self._get(call, later, label, ASYNCIO)

    def look(self, call: Entry, *, use: bool = True) -> Outcome[Any] | None:
        """Look again: the key may be one that no wrapper can build, or some unit of work may have changed something."""
        entry = call.table.get(call.key)
        if entry is None:
            return None
        answer = entry.answer()  # before the time: an entry that leaves loses first its time, then its value
        # Out of the way of calls a value counts as long as it is fresh, and not until it should be renewed.
        until = max(entry.due, entry.expires) if not use or isinstance(answer, Failure) else entry.due
        if until <= clock.now():
            return None
        if ambient.process.dirty_units:
            unit = ambient.unit_of_work.get()
            if unit is not None and self.store.is_dirty(entry, unit):
                return None
        entry.hits += use
        return answer

    async def _get(
        self, call: Entry, later: functools.partial[Any], label: str | None, runtime: Runtime
    ) -> Any:
        self._complete(call, later, label)
        unit = ambient.unit_of_work.get()
        if unit is not None:
            self.store.note_miss(call)
            return (await self._load_inside(unit, call, later, runtime)).unwrap()
        while True:
            mine = Flight(call, self.section.keeping.loader_timeout)
            begun: Outcome[Any] | Flight | None = None
            landing: Landing | None = None
            try:
                begun = self.store.begin(mine)
                landing = await self._fly(begun, mine, later, runtime)
                if landing is None:
                    landing = (await self._load_alone(call, later, runtime)).outcome
                if not isinstance(landing, Abandoned):
                    return landing.unwrap()
                if begun is mine:
                    raise landing.error
            finally:
                if mine.adrift:
                    self.store.land(mine, Abandoned(InterruptedError("the leader was interrupted")))
                # The traceback of an error holds this frame, which must not hold the error.
                del mine, begun, landing

    async def _fly(
        self,
        begun: Outcome[Any] | Flight | None,
        mine: Flight,
        later: functools.partial[Any],
        runtime: Runtime,
    ) -> Landing | None:
        """Return what a call comes to that began like this; `None` if it has to load alone."""
        if begun is None:
            return None
        if isinstance(begun, Success | Failure):
            if mine.registered:
                mine.kept = True
                runtime.launch(mine, later, self.store)
            return begun
        keeping = self.section.keeping
        if begun is mine and not keeping.apart:
            await runtime.lead(mine, later, self.store)
        else:
            if begun is mine:
                mine.kept = keeping.soft_timeout is not None
                runtime.launch(mine, later, self.store)
            soft = None if mine.fallback is None else keeping.soft_timeout
            waited = await runtime.join(begun, self.store, math.inf if soft is None else soft)
            if not waited:
                return None if waited is False else self._help_out(mine)
        landing = begun.landed()
        return (
            self._help_out(mine)
            if mine.fallback is not None and _is_in_need(landing, own=begun is mine)
            else landing
        )

    def _help_out(self, flight: Flight) -> Landing | None:
        """Return the old value that a call found."""
        self.store.note_stale(flight.call)
        return flight.fallback

    async def renew(
        self, call: Entry, later: functools.partial[Any], label: str | None, runtime: Runtime
    ) -> Any:
        """Load whatever is there already, and replace it."""
        self._complete(call, later, label)
        unit = ambient.unit_of_work.get()
        if unit is not None:
            return (await self._load_inside(unit, call, later, runtime)).unwrap()
        began = ambient.process.epoch
        verdict = await self._load_alone(call, later, runtime)
        try:
            self.store.keep(call, verdict, since=began)
            return verdict.outcome.unwrap()
        finally:
            del verdict  # the traceback of an error holds this frame, which must not hold the error

    def put(self, call: Entry, later: functools.partial[Any], label: str | None, value: Any) -> None:
        """Store a value that somebody else has made."""
        self._complete(call, later, label)
        self.store.put(call, value, OfCall(call))

    def explain(self, call: Entry, later: functools.partial[Any], label: str | None) -> Explanation:
        """Tell what is known of a call."""
        from paintkit.cache.reports import Explanation  # what few programs ask for, none should pay for

        self._complete(call, later, label)
        fresh = self.look(call, use=False) is not None
        entry, cause, loading = self.store.look_into(call)
        now = clock.now()
        dirty = entry is not None and now < entry.expires
        return Explanation(
            key=call.key,
            level=None if entry is None else "memory",
            fresh=fresh,
            age=None if entry is None else now - entry.loaded,
            expires_in=None if entry is None else entry.expires - now,
            tags=call.labels,
            missed=None if fresh else "dirty" if dirty else cause,
            loading=loading,
        )

    def _complete(self, call: Entry, later: functools.partial[Any], label: str | None) -> None:
        """Fill in what only a load needs to know of a call."""
        call.labels = self._labels(later, label)
        if call.identities:
            self.store.mourn(call.identities)

    async def _load_inside(
        self, unit: ambient.UnitOfWork, call: Entry, later: Callable[[], Any], runtime: Runtime
    ) -> Outcome[Any]:
        """Load within a unit of work, whose view of the data is its own; keep only what everybody may see."""
        verdict = await self._load_alone(call, later, runtime)
        if not unit.wrote and not self.store.is_dirty(call, unit):
            self.store.keep(call, verdict, since=unit.began)
        return verdict.outcome

    async def _load_alone(self, call: Entry, later: Callable[[], Any], runtime: Runtime) -> Verdict:
        """Load in the caller's own thread and task, for the caller alone."""
        started = clock.now()
        failed = True
        try:
            outcome = await runtime.call(later)
            verdict = self.section.keeping.judge(outcome, clock.now() - started)
            failed = isinstance(verdict.outcome, Failure)
        finally:
            self.store.note_load(call, clock.now() - started, failed=failed)
        return verdict

    def _labels(self, later: functools.partial[Any], label: str | None) -> tuple[str, ...]:
        tags = self.options.tags
        if callable(tags):
            args = later.args[1:] if self._method else later.args
            tags = checked_tags(tags(*args, **later.keywords))
        return tags if label is None else (label, *tags)


def _is_in_need(landing: Landing, *, own: bool) -> bool:
    """Whether an old value may help out: the load failed, which is not the same as a failure for an answer."""
    if isinstance(landing, Abandoned):
        return own and isinstance(landing.error, Exception)
    return isinstance(landing, Failure) and not isinstance(landing, KeptError)


def checked_tags(tags: object) -> tuple[str, ...]:
    """Return tags as a tuple.

    Raises:
        TypeError: They are no collection of strings.
        ValueError: One is empty, or they are more than 16.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(
            f"tags must be a collection of strings, not {tags!r} ({type(tags).__name__}); for one tag write (tag,)"
        )
    found = tuple(dict.fromkeys(tags))
    if len(found) > _MOST_TAGS:
        raise ValueError(f"tags must be at most {_MOST_TAGS}, not {len(found)}")
    for tag in found:
        _arguments.label("a tag", tag)
    return found


# --- What sits on the wrapper ---


class _Calls:
    """The calls of one cached function, or of one cached method of one object."""

    def __init__(self, loader: Loader, bind: _Bind, receiver: tuple[object, ...] = ()) -> None:
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

    def _drop(self, args: tuple[object, ...], named: Mapping[str, object]) -> None:
        call, _, _ = self._bound(args, named)
        self._loader.store.invalidate(OfCall(call))

    def _peek(self, args: tuple[object, ...], named: Mapping[str, object]) -> Any:
        call, _, _ = self._bound(args, named)
        served = self._loader.look(call, use=False)
        return served.value if isinstance(served, Success) else None

    def _put(self, value: object, args: tuple[object, ...], named: Mapping[str, object]) -> None:
        self._loader.put(*self._bound(args, named), value)

    def _explain(self, args: tuple[object, ...], named: Mapping[str, object]) -> Explanation:
        return self._loader.explain(*self._bound(args, named))

    def _refresh(
        self, args: tuple[object, ...], named: Mapping[str, object], runtime: Runtime
    ) -> Coroutine[Any, Any, Any]:
        return self._loader.renew(*self._bound(args, named), runtime)

    def _count(self) -> CacheInfo:
        from paintkit.cache.reports import CacheInfo  # see `Loader.explain`

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
        )


class Extras(_Calls, Generic[P, R]):
    """What else can be done with a cached function; the arguments are those of its calls."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        self._drop(args, kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew, here and now, and return it; others are served the old one meanwhile."""
        return cast("R", drive(self._refresh(args, kwargs, BLOCKING)))

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`; nothing is loaded and no hit counted."""
        return cast("R | None", self._peek(args, kwargs))

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        self._put(value, args, kwargs)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss; nothing is loaded and no hit counted."""
        return self._explain(args, kwargs)

    def info(self) -> CacheInfo:
        """Return what the function did so far, for all its calls and objects."""
        return self._count()


class AsyncExtras(_Calls, Generic[P, R]):
    """What else can be done with a cached `async def`; the arguments are those of its calls."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the value of one call; inside a unit of work, after its commit."""
        self._drop(args, kwargs)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value of one call anew, here and now, and return it; others are served the old one meanwhile."""
        return cast("R", await self._refresh(args, kwargs, ASYNCIO))

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the value of one call if it is there and fresh, else `None`; nothing is loaded and no hit counted."""
        return cast("R | None", self._peek(args, kwargs))

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for one call, as if it had been loaded now; inside a unit of work, after its commit."""
        self._put(value, args, kwargs)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the cache knows of one call, and why it would miss; nothing is loaded and no hit counted."""
        return self._explain(args, kwargs)

    async def info(self) -> CacheInfo:
        """Return what the function did so far, for all its calls and objects."""
        return self._count()


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
