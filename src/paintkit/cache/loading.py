"""What happens at a miss: a call finds its place, and gets its value there, by a flight, an old value, or a load of its own.

Written once for both colours; the happy path, which finds the value, is in the wrappers of `cached`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, ambient, clock
from paintkit._record import Record
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit.cache.entries import Entry, IndexedEntry, Section, SharedEntry
from paintkit.cache.flights import Abandoned, Flight, Landing
from paintkit.cache.invalidation import OfCall, Target
from paintkit.cache.keeping import Found, KeptError
from paintkit.cache.keys import Identity, freeze
from paintkit.cache.memo import Memo, forget, memo_of, unremembered
from paintkit.cache.runtimes import ASYNCIO, BLOCKING, Runtime

if TYPE_CHECKING:
    import functools
    from contextvars import ContextVar

    from paintkit.cache.copies import Copier
    from paintkit.cache.keeping import Keeping, Verdict
    from paintkit.cache.reports import Explanation
    from paintkit.cache.store import Store

__all__ = ["Arguments", "KeyMaker", "Loader", "Options", "Picker", "checked_tags"]

#: More tags than these on one entry are a mistake.
_MOST_TAGS = 16

KeyMaker = Callable[[tuple[Any, ...], Mapping[str, Any], list[Identity]], tuple[Hashable, type | None]]
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
Picker = Callable[[tuple[Any, ...], Mapping[str, Any]], Arguments]


class Options(Record):
    """How a function is cached; checked by whoever makes it.

    Attributes:
        key_func: Makes a key from the call as it was made.
        ignore: Names of parameters that are no part of the key.
        vary: Context variables that are.
        tags: The tags, or what makes them from the bound arguments.
        keeping: What is kept, and for how long.
        copy: Copies values on their way in and out, or `None`.
        level2: Whether values are shared, if the cache has a second level.
    """

    key_func: Callable[..., str] | None
    ignore: frozenset[str]
    vary: tuple[ContextVar[Any], ...]
    tags: tuple[str, ...] | Callable[..., Iterable[str]]
    keeping: Keeping
    copy: Copier | None = None
    level2: bool = True


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
        make_key: KeyMaker,
        pick: Picker | None,
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
        # Whether even a blocking first caller does more than to load.
        self._apart = section.shared is not None or section.keeping.apart
        # Whether its calls are found by their arguments alone, if those speak of no object.
        self._bare = not (options.tags or options.vary or options.key_func or section.shared)
        self._new_entry: type[IndexedEntry] = IndexedEntry
        self._new_flight: type[Flight] = Flight
        if section.shared is not None:
            from paintkit.cache.sharing import SharedFlight  # who shares has loaded it already

            self._new_entry, self._new_flight = SharedEntry, SharedFlight

    def locate(self, later: functools.partial[Any], label: str | None = None) -> Entry:
        """Return the place of a bound call; `label` is its key if a `key_func` made one."""
        identities: list[Identity] = []
        variant = self.variant(identities) if self.options.vary else None
        if label is not None:
            return self._new_entry(self.section.table, label, None, tuple(identities), variant)
        table, args = self.section.table, later.args
        named: Mapping[str, Any] = later.keywords
        if self._method:
            table, args = self.store.table_of(self.section, args[0]), args[1:]
        if self._pick is not None:
            args, named = self._pick(args, named)
        key, kind = self._make_key(args, named, identities)
        if self._bare and not identities:
            return Entry(table, key, kind)
        return self._new_entry(table, key, kind, tuple(identities), variant)

    def variant(self, identities: list[Identity] | None = None) -> Hashable:
        """Return what the context variables say that calls vary by."""
        found: list[Identity] = [] if identities is None else identities
        return tuple(_state(variable, found) for variable in self.options.vary)

    def miss(self, later: functools.partial[Any], label: str | None = None) -> Any:
        """Return the value of a call that the wrapper did not find, in blocking code."""
        call = self.locate(later, label)
        memo = memo_of(self.store) if ambient.process.detours else None
        if memo is not None:
            return self.handed_out(drive(self._recall(memo, call, later, label, BLOCKING)).unwrap())
        served = self.look(call)
        if served is not None:
            return self.handed_out(served.unwrap())
        self.complete(call, later, label)
        if self._apart or ambient.unit_of_work.get() is not None:
            return self.handed_out(drive(self._get(call, later, BLOCKING)).unwrap())
        return self.handed_out(self._lead(call, later))

    def _lead(self, call: Entry, later: functools.partial[Any]) -> Any:
        """Return what `_get` does where most misses go: nothing is known of the call, and its caller loads.

        Without a coroutine, and without looking for what could help out, a miss takes an eighth less.
        """
        mine = Flight(call)
        landing: Landing | None = None
        try:
            if not self.store.depart(mine):
                return drive(self._get(call, later, BLOCKING)).unwrap()
            BLOCKING.lead(mine, later, self.store)
            landing = mine.landing
            if isinstance(landing, Success):
                return landing.value
            landing = mine.landed()
            if isinstance(landing, Abandoned):
                raise landing.error
            return landing.unwrap()
        finally:
            if mine.landing is None:
                self._ground(mine)
            # The traceback of an error holds this frame, which must not hold the error.
            del mine, landing

    async def amiss(self, later: functools.partial[Any], label: str | None = None) -> Any:
        """Return the value of a call that the wrapper did not find, in asyncio."""
        call = self.locate(later, label)
        memo = memo_of(self.store) if ambient.process.detours else None
        if memo is not None:
            return self.handed_out((await self._recall(memo, call, later, label, ASYNCIO)).unwrap())
        served = self.look(call)
        if served is not None:
            return self.handed_out(served.unwrap())
        self.complete(call, later, label)
        return self.handed_out((await self._get(call, later, ASYNCIO)).unwrap())

    def handed_out(self, value: Any) -> Any:
        """Return a value as a caller gets it."""
        return value if self.options.copy is None else self.options.copy(value)

    def look(self, call: Entry, *, use: bool = True) -> Outcome[Any] | None:
        """Look again: the key may be one that no wrapper can build, or some unit of work may have changed something."""
        entry = call.table.get(call.key)
        if entry is None:
            return None
        answer = entry.answer()  # before the time: an entry that leaves loses first its time, then its value
        # Out of the way of calls a value counts as long as it is fresh, and not until it should be renewed.
        until = max(entry.due, entry.expires) if not use or isinstance(answer, Failure) else entry.due
        now = clock.now()
        if until <= now:
            return None
        shared = self.section.shared
        if shared is not None and not shared.trusts(entry, now):
            return None
        if ambient.process.detours:
            if self.store.is_dirty(entry, ambient.unit_of_work.get()):
                return None
            if self.store.guard is not None:
                self.store.guard.check(entry)
        if use:
            self.store.level.touch(entry)
        return answer

    async def _recall(
        self,
        memo: Memo,
        call: Entry,
        later: functools.partial[Any],
        label: str | None,
        runtime: Runtime,
    ) -> Outcome[Any]:
        """Return what this request has read before, else read it, and remember it if everybody may see it."""
        known = self.remembered(memo, call)
        if known is not None:
            return known
        changes = memo.changes
        self.complete(call, later, label)
        with unremembered():
            served = self.look(call)
            outcome = served or await self._get(call, later, runtime)
        if isinstance(outcome, Success):
            self.remember(memo, call, outcome.value, changes, everybodys=served is not None)
        return outcome

    def remembered(self, memo: Memo, call: Entry) -> Success[Any] | None:
        """Return what this request has read before, unless its open unit of work has changed that."""
        known = memo.find(call)
        if known is None or self.store.is_dirty(known[0], ambient.unit_of_work.get()):
            return None
        self.section.counters.hits += 1
        return Success(known[1])

    def remember(self, memo: Memo, call: Entry, value: Any, changes: int, *, everybodys: bool) -> None:
        """Remember what this request has read, unless only its open unit of work may see it."""
        unit = ambient.unit_of_work.get()
        if everybodys or unit is None or not (unit.wrote or self.store.is_dirty(call, unit)):
            memo.note(call, value, changes)

    async def _get(self, call: Entry, later: functools.partial[Any], runtime: Runtime) -> Outcome[Any]:
        """Return what a call comes to. An error is a value here: a StopIteration raised in a coroutine would become another."""
        unit = ambient.unit_of_work.get()
        if unit is not None:
            self.store.note_miss(call)
            outside = self._find_outside(unit, call, runtime)
            return await outside or await self._load_inside(unit, call, later, runtime)
        shared = self.section.shared
        keeping = self.section.keeping
        while True:
            mine = self._new_flight(call, keeping.loader_timeout)
            begun: Outcome[Any] | Flight | None = None
            landing: Landing | None = None
            try:
                begun = self.store.begin(mine)
                if begun is mine and not keeping.apart:
                    if shared is None or not await shared.answers(mine, runtime, self.store):
                        waiting = runtime.lead(mine, self._fetching(later, runtime), self.store)
                        if waiting is not None:
                            await waiting
                    landing = self._arrive(mine, mine)
                else:
                    landing = await self._fly(begun, mine, later, runtime)
                if landing is None:
                    landing = (await self._load_alone(call, later, runtime)).outcome
                if not isinstance(landing, Abandoned):
                    return landing
                if begun is mine:
                    raise landing.error
            finally:
                if mine.landing is None:
                    self._ground(mine)
                # The traceback of an error holds this frame, which must not hold the error.
                del mine, begun, landing

    def _fetching(self, later: functools.partial[Any], runtime: Runtime) -> Callable[[], Any]:
        """Return what a flight calls: the function, or what asks the second level before it does."""
        shared = self.section.shared
        return later if shared is None else shared.fetching(later, runtime, self.store)

    def _ground(self, flight: Flight) -> None:
        """Let nobody wait for a flight whose leader was interrupted on the way to the load."""
        if flight.adrift:
            self.store.land(flight, Abandoned(InterruptedError("the leader was interrupted")))

    async def _fly(
        self,
        begun: Outcome[Any] | Flight | None,
        mine: Flight,
        later: functools.partial[Any],
        runtime: Runtime,
    ) -> Landing | None:
        """Return what a call comes to that began like this, and does not load by itself; `None` if it has to, alone."""
        if begun is None:
            return None
        if isinstance(begun, Success | Failure):
            if mine.registered:
                mine.kept = True
                runtime.launch(mine, self._fetching(later, runtime), self.store)
            return begun
        keeping = self.section.keeping
        if begun is mine:
            mine.kept = keeping.soft_timeout is not None
            runtime.launch(mine, self._fetching(later, runtime), self.store)
        soft = None if mine.fallback is None else keeping.soft_timeout
        waited = await runtime.join(begun, self.store, math.inf if soft is None else soft)
        if not waited:
            return None if waited is False else self._help_out(mine)
        return self._arrive(begun, mine)

    def _arrive(self, begun: Flight, mine: Flight) -> Landing | None:
        """Return what a call comes to whose flight, or that which it joined, has landed."""
        landing = begun.landed()
        if mine.fallback is not None and _is_in_need(landing, own=begun is mine):
            return self._help_out(mine)
        return landing

    def _help_out(self, flight: Flight) -> Landing | None:
        """Return the old value that a call found."""
        self.store.note_stale(flight.call)
        return flight.fallback

    async def renew(
        self, call: Entry, later: functools.partial[Any], label: str | None, runtime: Runtime
    ) -> Outcome[Any]:
        """Load whatever is there already, and replace it; return what that came to, see `_get`."""
        with unremembered():
            outcome = await self._renew(call, later, label, runtime)
        if isinstance(outcome, Success):
            forget(self.store, self._target(call, later))
            return Success(self.handed_out(outcome.value))
        return outcome

    async def _renew(
        self, call: Entry, later: functools.partial[Any], label: str | None, runtime: Runtime
    ) -> Outcome[Any]:
        self.complete(call, later, label)
        unit = ambient.unit_of_work.get()
        if unit is not None:
            return await self._load_inside(unit, call, later, runtime)
        began = ambient.process.epoch
        shared = self.section.shared
        sight = None if shared is None else await shared.look(call, runtime)
        verdict = await self._load_alone(call, later, runtime)
        if shared is not None and sight is not None:
            await shared.share(call, sight, verdict, runtime, tell=True)
        self.store.keep(call, verdict, since=began)
        return verdict.outcome

    async def put(
        self, call: Entry, later: functools.partial[Any], label: str | None, value: Any, runtime: Runtime
    ) -> None:
        """Store a value that somebody else has made."""
        self.complete(call, later, label)
        shared = self.section.shared
        value = self.handed_out(value)
        if shared is None:
            await self.store.put(call, value, runtime)
        else:
            await shared.put(call, value, runtime, self.store)

    async def invalidate(self, call: Entry, later: functools.partial[Any], runtime: Runtime) -> None:
        """Drop the value of a call, in all variants."""
        await self.store.invalidate(self._target(call, later), runtime)

    def _target(self, call: Entry, later: functools.partial[Any]) -> Target:
        shared = self.section.shared
        if shared is None:
            return OfCall(call)
        shared.place(call, self._receiver(later))
        return shared.target(call)

    def explain(self, call: Entry, later: functools.partial[Any], label: str | None) -> Explanation:
        """Tell what is known of a call."""
        from paintkit.cache.reports import Explanation  # what few programs ask for, none should pay for

        self.complete(call, later, label)
        fresh = self.look(call, use=False) is not None
        entry, cause, loading = self.store.look_into(call)
        now = clock.now()
        dirty = entry is not None and now < entry.expires and cause != "unverified"
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

    def complete(self, call: Entry, later: functools.partial[Any], label: str | None) -> None:
        """Fill in what only a load needs to know of a call."""
        if not isinstance(call, IndexedEntry):
            return
        if label is not None or self.options.tags:
            call.labels = self._labels(later, label)
        if self.section.shared is not None:
            self.section.shared.place(call, self._receiver(later))
        elif call.labels and self.store.sharing is not None:
            self.store.sharing.listen()  # other processes can invalidate it by a label, and nobody looks it up there
        if call.identities:
            self.store.mourn(call.identities)

    async def _find_outside(
        self, unit: ambient.UnitOfWork, call: Entry, runtime: Runtime
    ) -> Outcome[Any] | None:
        """Return what a second level has for a unit of work: it serves like a copy in memory."""
        shared = self.section.shared
        if shared is None or self.store.is_dirty(call, unit):
            return None
        began = ambient.process.epoch
        found = await shared.find(call, runtime)
        if found is None:
            return None
        self.store.keep(call, found, since=began)
        if isinstance(found, Found):
            self.section.counters.level2_hits += 1
        return found.outcome

    async def _load_inside(
        self, unit: ambient.UnitOfWork, call: Entry, later: Callable[[], Any], runtime: Runtime
    ) -> Outcome[Any]:
        """Load within a unit of work, whose view of the data is its own; keep only what everybody may see.

        Nothing is put into a second level: what the unit reads may be older than what a look there saw.
        """
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
            verdict = self.store.judge(call, outcome, clock.now() - started)
            failed = isinstance(verdict.outcome, Failure)
        finally:
            self.store.note_load(call, clock.now() - started, failed=failed)
        return verdict

    def _receiver(self, later: functools.partial[Any]) -> object:
        """Return the object whose method is called, if that takes part in the key."""
        return later.args[0] if self._method and self.options.key_func is None else None

    def _labels(self, later: functools.partial[Any], label: str | None) -> tuple[str, ...]:
        tags = self.options.tags
        if callable(tags):
            args = later.args[1:] if self._method else later.args
            tags = checked_tags(tags(*args, **later.keywords))
        return tags if label is None else (label, *tags)


def _state(variable: ContextVar[Any], identities: list[Identity]) -> Hashable:
    try:
        value = variable.get()
    except LookupError:
        return None  # nothing freezes to this
    return freeze(value, identities)


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
    if tags.__class__ is not tuple and (isinstance(tags, str) or not isinstance(tags, Iterable)):
        raise TypeError(
            f"tags must be a collection of strings, not {tags!r} ({type(tags).__name__}); for one tag write (tag,)"
        )
    found = tuple(dict.fromkeys(tags))
    if len(found) > _MOST_TAGS:
        raise ValueError(f"tags must be at most {_MOST_TAGS}, not {len(found)}")
    for tag in found:
        _arguments.label("a tag", tag)
    return found
