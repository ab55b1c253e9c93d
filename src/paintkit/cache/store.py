"""The state of one cache, and the few steps that change it, each whole under one lock.

Here stands the rule: *a call that begins after an invalidation returned never sees a value whose load began before it.*
An invalidation drops the entries concerned and takes the flights concerned out of the registry. Such a flight still
answers those who wait for it, but nobody joins it any more, and it stores nothing when it lands. Loads inside a unit of
work read a snapshot that is as old as the unit; they are stored only if nothing that concerns them was invalidated
since it began.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from paintkit import ambient, clock, observations
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit.cache import forks
from paintkit.cache.entries import Cause, Counters, Entry, Section, SharedEntry, Table
from paintkit.cache.flights import Abandoned
from paintkit.cache.invalidation import SHARED, Ledger, OfCall, Target, marks_of, next_epoch
from paintkit.cache.keeping import Confirmed, KeptError, Verdict
from paintkit.cache.keys import Identity, identity_of
from paintkit.cache.memo import forget
from paintkit.cache.runtimes import ASYNCIO, BLOCKING
from paintkit.cache.workers import Workers

if TYPE_CHECKING:
    import asyncio

    from paintkit.cache.flights import Flight, Landing
    from paintkit.cache.memory import MemoryLevel
    from paintkit.cache.removals import Removals
    from paintkit.cache.reports import RemovalCause
    from paintkit.cache.runtimes import Runtime
    from paintkit.cache.sharing import Sharing

__all__ = ["Guard", "Store"]


class Guard(Protocol):
    """Hears of every value that comes, and of every one that is served while `ambient.process.detours` is not 0."""

    def note(self, value: object, function: str, /) -> None:
        """Look at a value that comes."""
        ...

    def check(self, entry: Entry, /) -> None:
        """Look at an entry that is about to be served."""
        ...


class Store:
    """Entries, flights and the memory of invalidations of one cache.

    Args:
        level: Where the entries are.
        removals: Where it notes what leaves.
        name: The name of the cache, for observations.
    """

    #: Watches in tests for values that somebody changes; there is one for all caches.
    guard: ClassVar[Guard | None] = None

    def __init__(self, name: str, level: MemoryLevel, removals: Removals) -> None:
        self.name = name
        # Guards all that follows, and the sections. Any allocation under it may run the finaliser of some garbage, which
        # may call this cache again: in the midst of a step nothing is begun, and what has to be done is put off.
        self.lock = threading.RLock()
        # Whether this very thread holds the lock already.
        self._in_a_step: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self.level = level
        self._removals = removals
        #: Its part in a second level, if it has one.
        self.sharing: Sharing | None = None
        self.invalidations = 0
        self._flights: dict[tuple[Table, Hashable], Flight] = {}
        self._ledger = Ledger()
        #: Who makes the loads for which no caller's thread is there.
        self.workers = Workers(name, self.lock)
        #: The loads that are tasks: event loops hold them weakly.
        self.tasks: set[asyncio.Task[None]] = set()
        self._sections: dict[Section, weakref.ref[Any]] = {}
        self._former = Counters()  # of functions that are gone
        # What died and has to go, and what was put off. Callbacks of weak references append, and cannot wait for the lock.
        self._graveyard: deque[Section | Table | Identity] = deque()
        self._put_off: deque[Target] = deque()
        forks.attend(self)

    # --- Functions and the objects whose methods they are ---

    def attend(self, section: Section, function: Any) -> None:
        """Keep a section as long as its function lives."""
        with self.lock:
            self._sections[section] = weakref.ref(function, lambda _ref: self._bury(section))

    def section_of(self, function: str) -> Section | None:
        """Return the part of a function whose values are shared, by its name in the second level."""
        with self.lock:
            for section in self._sections:
                if section.shared is not None and section.shared.function == function:
                    return section
        return None

    def table_of(self, section: Section, receiver: object) -> Table:
        """Return the table of a method of one object; it leaves with the object.

        Raises:
            TypeError: The object cannot be referred to weakly.
        """
        address = id(receiver)
        table = section.receivers.get(address)
        if table is None:
            identity = identity_of(receiver)
            table = section.receivers.setdefault(address, Table(section, identity))
            identity.mourn(table, lambda: self._bury(section.receivers.pop(address, table)))
        return table

    # --- Loads ---

    def begin(self, flight: Flight) -> Outcome[Any] | Flight | None:
        """Return the answer that is there, else the flight that loads it: one to join, or this one to lead.

        An answer that ought to be renewed comes with this flight registered: it is to be launched.

        Return `None` in the midst of another step: then the caller loads alone.
        """
        if self._in_a_step():
            return None
        try:
            with self.lock:
                return self._find(flight)
        finally:
            if self._graveyard or self._put_off:
                self._tidy()

    def depart(self, flight: Flight) -> bool:
        """Begin a flight if nothing is known of its call: neither is there an answer, nor does anybody load it."""
        if self._in_a_step():
            return False
        call = flight.call
        try:
            with self.lock:
                if flight.address in self._flights or call.table.get(call.key) is not None:
                    return False
                call.table.section.counters.count_miss(self.level.cause_of(flight.address))
                self._register(flight)
                return True
        finally:
            if self._graveyard or self._put_off:
                self._tidy()

    def _find(self, flight: Flight) -> Outcome[Any] | Flight:
        call = flight.call
        now = flight.started
        entry = call.table.get(call.key)
        other = self._flights.get(flight.address)
        if other is not None and (other.stranded or other.due <= now):
            self._give_up(other, now)
            other = None
        if entry is None:
            cause = self.level.cause_of(flight.address)
        elif flight.trusts(entry) and self._may_serve(entry, flight, other, now):
            self.level.touch(entry)
            return entry.answer()
        else:
            cause = _blemish(entry, now)
        counters = call.table.section.counters
        counters.count_miss(cause)
        if other is not None:
            counters.joined += 1
            return other
        self._register(flight)
        return flight

    def _may_serve(self, entry: Entry, flight: Flight, other: Flight | None, now: float) -> bool:
        """Whether a call is answered with what is there; if that should be renewed and nobody is at it, register."""
        section = entry.table.section
        if now < entry.due or isinstance(entry.value, KeptError):
            return now < max(entry.due, entry.expires)
        if section.keeping.freshness.helps_in_need(now, entry.expires):
            flight.fallback = Success(entry.value)
        if now < entry.expires:
            entry.due = entry.expires  # one early try is enough
        elif section.keeping.freshness.helps_out(now, entry.expires):
            section.counters.stale += 1
        else:
            return False
        if other is None:
            self._register(flight)
        return True

    def _register(self, flight: Flight) -> None:
        flight.registered = True
        self._flights[flight.address] = flight

    def _give_up(self, flight: Flight, now: float) -> None:
        """Let go of a flight that cannot land any more, or not in time."""
        del self._flights[flight.address]
        if flight.landing is None and not flight.closed and flight.due <= now:
            flight.closed = True
            flight.count(flight.call.table.section.counters, now - flight.started, failed=True)
            former = flight.call.table.get(flight.call.key)
            if former is not None and former.due <= now < former.leaves:
                former.postpone(flight.call.table.section.keeping.freshness.pause(now, former.leaves))

    def judge(self, call: Entry, outcome: Outcome[Any], seconds: float = 0.0) -> Verdict:
        """Return what becomes of the outcome of a call. Runs the user's code: not under the lock."""
        section = call.table.section
        verdict = section.keeping.judge(outcome, seconds)
        if self.guard is not None and isinstance(verdict.outcome, Success):
            self.guard.note(verdict.outcome.value, section.name)
        if self.level.weights is not None:
            return self.level.weights.judge(verdict, section.name)
        return verdict

    def note_stale(self, call: Entry) -> None:
        """Count a call that was answered with an old value because no new one came."""
        with self.lock:
            call.table.section.counters.stale += 1

    def note_miss(self, call: Entry) -> None:
        """Count a miss that takes no flight."""
        with self.lock:
            call.table.section.counters.count_miss(self._cause_of(call))

    def _cause_of(self, call: Entry) -> Cause:
        entry = call.table.get(call.key)
        return self.level.cause_of(call.address) if entry is None else _blemish(entry, clock.now())

    def note_load(self, call: Entry, seconds: float, *, failed: bool) -> None:
        """Count a load outside the flights."""
        with self.lock:
            call.table.section.counters.count_load(seconds, failed=failed)

    def land(self, flight: Flight, landing: Landing, *, counts: bool = True) -> None:
        """Take in what a flight brings, unless an invalidation took it out of the registry; then tell who waits for it.

        Args:
            flight: It is under way.
            landing: How it ends.
            counts: Whether that is a load of its own in the statistics.
        """
        now = clock.now()
        call = flight.call
        section = call.table.section
        seconds = now - flight.started
        verdict = None
        if not isinstance(landing, Abandoned):
            verdict = flight.verdict or self.judge(call, landing, seconds)
            landing = verdict.outcome
        try:
            with self.lock:
                if flight.closed:
                    return  # it took too long, and nobody waits for it any more
                flight.closed = True
                if counts:
                    flight.count(section.counters, seconds, failed=isinstance(landing, Failure))
                if self._flights.get(flight.address) is flight:
                    del self._flights[flight.address]
                    if verdict is not None:
                        self._take_in(call, verdict, now)
                _waste = self.level.take_waste()
        finally:
            flight.land(landing)
        self._afterwards()
        if counts and isinstance(landing, Failure):
            self.tell_failed(call, landing.error)

    def tell_failed(self, call: Entry, error: Exception) -> None:
        """Tell observers that a load failed."""
        observations.emit("cache.load_failed", self.name, function=call.table.section.name, error=error)

    def _take_in(self, call: Entry, verdict: Verdict, now: float) -> None:
        """Store an outcome for its time."""
        life = verdict.life
        if life is not None:
            call.fill(verdict.contents, now, life)
            self.level.add(call, now, life.span, verdict.weight)
            return
        if isinstance(verdict, Confirmed):
            if verdict.verified:
                verdict.copy.confirm()
            return
        former = call.table.get(call.key)
        if former is not None:
            if isinstance(verdict.outcome, Success):
                self.level.remove(former, "replaced")  # there is a newer value, which is not for keeping
            elif former.due <= now < former.leaves:
                former.postpone(call.table.section.keeping.freshness.pause(now, former.leaves))

    def keep(self, call: Entry, verdict: Verdict, since: int) -> None:
        """Store what was read from a snapshot of epoch `since`, unless what it says may be out of date."""
        if self._in_a_step():
            return
        now = clock.now()
        with self.lock:
            if not self._ledger.noted_since(since, marks_of(call)):
                # A load that is under way may have read less than this one did: it must not replace this value.
                self._flights.pop(call.address, None)
                self._take_in(call, verdict, now)
            _waste = self.level.take_waste()
        self._afterwards()

    async def put(self, call: Entry, value: Any, runtime: Runtime) -> None:
        """Store a value from outside, in memory only: at once, or inside a unit of work after its commit.

        Raises:
            TypeError: The value must not be cached.
        """
        verdict = self.judge(call, Success(value))
        verdict.outcome.unwrap()
        target, since = OfCall(call), ambient.process.epoch

        async def replace(_runtime: Runtime) -> None:
            self.replace(call, verdict, target, since)

        await self.exchange(target, replace, runtime)

    def replace(self, call: Entry, verdict: Verdict, target: Target, since: int) -> None:
        """Invalidate a call and store a value of epoch `since` for it, unless that may be out of date already."""
        if self._in_a_step():
            self._put_off.append(target)
            return
        forget(self, target)
        now = clock.now()
        with self.lock:
            outdated = self._ledger.noted_since(since, marks_of(call))
            former = call.table.get(call.key)
            if former is not None and not outdated:
                self.level.remove(former, "replaced")
            self._forget(target)
            if not outdated:
                self._take_in(call, verdict, now)
            _waste = self.level.take_waste()
        self._afterwards()

    # --- Invalidation ---

    async def invalidate(self, target: Target, runtime: Runtime) -> None:
        """Drop what a target covers, here and in the second level: at once, or inside a unit of work after its commit."""
        forget(self, target)
        drop = functools.partial(self._drop_everywhere, target)
        unit = ambient.unit_of_work.get()
        if unit is None:
            await drop(runtime)
        else:
            unit.mark_dirty(((self, target.mark),))
            unit.defer(_deferred(drop, unit), even_if_unknown=True)

    async def exchange(self, target: Target, replace: Change, runtime: Runtime) -> None:
        """Let a new value take the place of what a target covers: at once, or inside a unit of work after its commit."""
        forget(self, target)
        unit = ambient.unit_of_work.get()
        if unit is None:
            await replace(runtime)
            return
        replaced: list[None] = []

        async def note(runtime: Runtime) -> None:
            await replace(runtime)
            replaced.append(None)

        async def drop(runtime: Runtime) -> None:
            if (
                not replaced
            ):  # nobody knows whether the new value is stored: the old one has to go all the same
                await self._drop_everywhere(target, runtime)

        unit.mark_dirty(((self, target.mark),))
        unit.defer(_deferred(note, unit))
        unit.defer(_deferred(drop, unit), even_if_unknown=True)

    async def _drop_everywhere(self, target: Target, runtime: Runtime) -> None:
        if self.drop(target) and self.sharing is not None and target.changes:
            await self._spread(target, runtime)

    async def _spread(self, target: Target, runtime: Runtime) -> None:
        """Drop a target in the second level, and once more in here: somebody may have looked there in between."""
        if self.sharing is not None:
            try:
                await self.sharing.port(runtime).drop(target.changes)
            finally:
                forget(self, target)
                with self.lock:
                    self._forget(target)
                    _waste = self.level.take_waste()
                self._afterwards()

    def drop(self, target: Target) -> bool:
        """Drop what a target covers, here and now; False if that had to be put off."""
        if self._in_a_step():
            self._put_off.append(target)
            return False
        forget(self, target)  # also what was read between the invalidation and the commit
        with self.lock:
            dropped = self._forget(target)
            self.invalidations += 1
            _waste = self.level.take_waste()
        self._afterwards()
        observations.emit("cache.invalidated", self.name, target=str(target), entries=dropped)
        return True

    def doubt(self) -> None:
        """Take for unverified, or drop, whatever others may have invalidated: word of it was lost."""
        with self.lock:
            self._doubt()
            _waste = self.level.take_waste()
        self._afterwards()
        observations.emit("cache.unverified", self.name)

    def _doubt(self) -> None:
        self._ledger.note(SHARED, next_epoch())
        for entry in list(self.level):
            if isinstance(entry, SharedEntry):
                entry.doubt()
            elif entry.labels:  # in memory only: there is nobody to ask whether it still holds
                self.level.remove(entry, "invalidated")
        for place, flight in list(self._flights.items()):
            if flight.call.names or flight.call.labels:
                del self._flights[place]

    def _forget(self, target: Target) -> int:
        """Let go of what a target covers, and of the loads that are under way; return how many entries there were."""
        self._ledger.note(target.mark, next_epoch())
        entries = list(target.entries(self.level))
        self._remove(entries, "invalidated")
        for place in [place for place, flight in self._flights.items() if target.covers(flight.call)]:
            del self._flights[place]
        return len(entries)

    def is_dirty(self, call: Entry, unit: ambient.UnitOfWork | None) -> bool:
        """Whether a unit of work, if there is one, has invalidated what concerns a call."""
        return unit is not None and unit.is_dirty((self, mark) for mark in marks_of(call))

    # --- Statistics ---

    def look_into(self, call: Entry) -> tuple[Entry | None, Cause, bool]:
        """Return the entry of a call, why it would miss, and whether a load of it is under way."""
        with self.lock:
            return (
                call.table.get(call.key),
                self._cause_of(call),
                call.address in self._flights,
            )

    def sweep(self) -> list[Entry]:
        """Let go of what is past its time, and return what is left."""
        with self.lock:
            self.level.sweep(clock.now())
            entries = list(self.level)
            _waste = self.level.take_waste()
        self._afterwards()
        return entries

    def totals(self) -> Counters:
        """Return the counts of all functions, those that are gone included."""
        with self.lock:
            totals = Counters()
            totals.add(self._former)
            for section in self._sections:
                totals.add(section.totals())
        return totals

    # --- What died, and what is told ---

    def _afterwards(self) -> None:
        """Do, after a step, what must not happen under the lock."""
        if self._graveyard or self._put_off:
            self._tidy()
        if self._removals.untold:
            self._removals.tell()

    def _bury(self, dead: Section | Table | Identity) -> None:
        self._graveyard.append(dead)
        self._tidy()

    def _tidy(self) -> None:
        """Let go of the entries of what died, if the lock is free; else whoever holds it comes here after releasing it."""
        if self._in_a_step():
            return
        while self._put_off:
            target = self._put_off.popleft()
            self.drop(target)
            if (
                self.sharing is not None and target.changes
            ):  # whoever comes by here must not wait for a server
                self.workers.run(lambda target=target: drive(self._spread(target, BLOCKING)))  # type: ignore[misc]
        while self._graveyard and self.lock.acquire(blocking=False):
            self._clear_graveyard()

    def _clear_graveyard(self) -> None:
        try:
            while self._graveyard:
                self._let_go(self._graveyard.popleft())
            _waste = self.level.take_waste()
        finally:
            self.lock.release()

    def _let_go(self, dead: Section | Table | Identity) -> None:
        match dead:
            case Section():
                self._remove(dead.entries(), "collected")
                self._former.add(dead.counters)
                del self._sections[dead]
                for table in dead.tables():
                    if table.identity is not None:
                        table.identity.recover(table)
            case Table():
                self._remove(list(dead.entries.values()), "collected")
            case Identity():
                self._remove(self.level.speaking_of(dead), "collected")

    def _remove(self, entries: Iterable[Entry], cause: RemovalCause) -> None:
        for entry in entries:
            self.level.remove(entry, cause)

    def mourn(self, identities: Iterable[Identity]) -> None:
        """See to it that entries whose key speaks of these objects leave with them."""
        for identity in identities:
            identity.mourn(self, functools.partial(self._bury, identity))

    # --- Forks ---

    def forget_flights(self) -> None:
        """Forget all flights, in a forked child: their threads are not there. The lock is held."""
        self._flights.clear()
        self.workers.forget()
        if self.sharing is not None:
            self._doubt()  # nobody listens in here yet


#: Something to be done, in whatever colour.
Change = Callable[["Runtime"], Coroutine[Any, Any, None]]


def _deferred(change: Change, unit: ambient.UnitOfWork) -> Callable[[], object]:
    """Return a change as an action after the commit of a unit of work."""
    return functools.partial(change, ASYNCIO) if unit.is_async else lambda: drive(change(BLOCKING))


def _blemish(entry: Entry, now: float) -> Cause:
    """Return why an entry that is there is not served."""
    shared = entry.table.section.shared
    unsure = shared is not None and now < entry.expires and not shared.trusts(entry, now)
    return "unverified" if unsure else "expired"
