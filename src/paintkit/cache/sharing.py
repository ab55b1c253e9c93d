"""What changes when the values of a function are shared through a second level: a flight asks there before it loads.

A look tells what stands at the call's place. If that serves, the flight lands with it; else it loads, and puts what it loaded
there, unless the place was invalidated since the look. A copy in memory is served without asking as long as word of other
processes' changes is known to arrive; else it is *unverified*, and a flight asks before it is served again. If nobody can be
asked, because the level is not reached, a copy serves for as long as it lives.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from paintkit import ambient, clock
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit.cache.entries import SharedEntry
from paintkit.cache.flights import Flight, current
from paintkit.cache.invalidation import Everything, Labelled, OfFunction, OfPlace, Target
from paintkit.cache.keeping import Confirmed, Found, KeptError, Verdict
from paintkit.cache.levels import SAME, Codec, Place, Port, SharedLevel, Sight
from paintkit.cache.places import locate, mark_of
from paintkit.cache.runtimes import ASYNCIO, BLOCKING, Runtime

if TYPE_CHECKING:
    from paintkit.cache.entries import Counters, Entry
    from paintkit.cache.store import Store

__all__ = ["Shared", "SharedFlight", "Sharing"]


class Sharing:
    """A cache's part in a second level.

    Args:
        level: The level.
        store: The cache.
        max_unverified: For how many seconds copies are served of which nobody can tell whether they are up to date; `None`:
            as long as they live.
    """

    def __init__(self, level: SharedLevel, store: Store, max_unverified: float | None = None) -> None:
        self.level = level
        self._longest = math.inf if max_unverified is None else max_unverified
        membership = level.join(store.name, _Words(store))
        self.trust = membership.trust
        #: Lets word of others' changes come in, for what nobody looks up: values that are kept in memory only, and have labels.
        self.listen = membership.listen
        self._ports: dict[Runtime, Port] = {BLOCKING: membership.blocking, ASYNCIO: membership.asyncio}
        weakref.finalize(store, membership.leave)

    def port(self, runtime: Runtime) -> Port:
        """Return the way to the level in one colour."""
        return self._ports[runtime]

    def may_go_on(self, now: float) -> bool:
        """Whether copies are served although nobody can be asked."""
        return self._longest == math.inf or now < self.trust.heard + self._longest


class _Words:
    """Hears what other processes changed, on behalf of a cache that may be gone."""

    def __init__(self, store: Store) -> None:
        self._store = weakref.ref(store)

    def changed(self, mark: str) -> None:
        store = self._store()
        if store is not None:
            for target in _targets(mark, store):
                store.drop(target)

    def changed_at(self, key: str) -> None:
        store = self._store()
        if store is not None:
            store.drop(OfPlace(key))

    def gap(self) -> None:
        store = self._store()
        if store is not None:
            store.doubt()


def _targets(mark: str, store: Store) -> list[Target]:
    """Return what bears a mark in this process."""
    kind, _, name = mark.partition(":")
    match kind:
        case "all":
            return [Everything()]
        case "t":
            return [Labelled(name)]
        case "f":
            section = store.section_of(name)
            return [] if section is None else [OfFunction(section)]
        case _:
            return [OfPlace(mark)]


class Shared:
    """A function's part in a second level.

    Args:
        sharing: The cache's part.
        function: The function's name in the level.
        codec: What turns its values into bytes.
    """

    def __init__(self, sharing: Sharing, function: str, codec: Codec) -> None:
        self.sharing = sharing
        self.function = function
        self.mark = mark_of(function)
        self._codec = codec

    def place(self, call: Entry, receiver: object) -> None:
        """Note where the value of a call stands.

        Raises:
            TypeError: What the call depends on cannot be told from another process.
        """
        _shared(call).settle(*locate(self.function, call, receiver))

    def trusts(self, entry: Entry, now: float) -> bool:
        """Whether an entry may be served as long as its own time is not over."""
        return now < self.sharing.trust.until and not entry.doubtful

    def target(self, call: Entry) -> OfPlace:
        """Return what `fn.invalidate(...)` drops: the call on whatever object, in all variants."""
        name = call.names[-1]
        return OfPlace(name, (name if call.varies else _place_of(call),))

    # --- Look, load, fill ---

    def fetching(self, later: Callable[[], Any], runtime: Runtime, store: Store) -> Callable[[], Any]:
        """Return what a flight calls instead of the function."""
        fetch = functools.partial(self.fetch, later, runtime, store)
        return fetch if runtime is ASYNCIO else lambda: drive(fetch())

    async def answers(self, flight: Flight, runtime: Runtime, store: Store) -> bool:
        """Land a flight with what needs no load, if there is that; else leave it under way, to be loaded.

        Its caller looks by itself, for a task of its own, as a load has, costs more than the look. Who is cancelled here has
        begun nothing yet, and whoever waits for it looks again.
        """
        if not isinstance(flight, SharedFlight):
            return False
        verdict = await runtime.ask(flight, self._found(flight, runtime))
        if verdict is None:
            return False
        flight.verdict = verdict
        store.land(flight, verdict.outcome)
        return True

    async def _found(self, flight: SharedFlight, runtime: Runtime) -> Verdict | None:
        """Return what serves a flight without a load, and let it remember what was seen."""
        if flight.copy is not None:
            flight.held = _Copy(flight.copy)
        port = self.sharing.port(runtime)
        sight = flight.sight = await port.look(_place_of(flight.call), self._codec, flight.held.version)
        flight.looked = True
        return self._weigh_up(sight, flight.call, flight.held, early=flight.early)

    async def fetch(self, later: Callable[[], Any], runtime: Runtime, store: Store) -> Any:
        """Return what the flight around us brings: the level's value, the copy's, or what is loaded now."""
        flight = current(SharedFlight)
        verdict = None if flight.looked else await self._found(flight, runtime)
        if verdict is None:
            flight.loads = True
            verdict = await self._load(flight.sight, flight.call, later, runtime, store)
            if _has_failed(verdict):
                verdict = self._help_out(flight, verdict, store)
        flight.verdict = verdict
        try:
            return verdict.outcome.unwrap()
        finally:
            del flight, verdict  # the traceback of an error holds this frame, which must not hold the error

    def _help_out(self, flight: SharedFlight, verdict: Verdict, store: Store) -> Verdict:
        """Return what becomes of a load that failed: an old value of the level answers all who wait for it."""
        sight, copy = flight.sight, flight.held
        flight.fallback = self._old(sight, flight.call, copy) or flight.fallback
        if flight.fallback is None or copy.entry is not None or not isinstance(verdict.outcome, Failure):
            return verdict
        store.tell_failed(flight.call, verdict.outcome.error)
        _shared(flight.call).version = sight.version
        return _lives_on(flight.call, flight.fallback, sight)

    async def find(self, call: Entry, runtime: Runtime) -> Verdict | None:
        """Return what serves without a load, for a call that takes no flight."""
        copy = _Copy(call.table.get(call.key))
        return self._weigh_up(await self._look(call, copy, runtime), call, copy)

    async def look(self, call: Entry, runtime: Runtime) -> Sight:
        """Return what stands at the place of a call, to fill it later."""
        return await self._look(call, _Copy(call.table.get(call.key)), runtime)

    async def share(
        self, call: Entry, sight: Sight, verdict: Verdict, runtime: Runtime, *, tell: bool = False
    ) -> bool:
        """Put what was loaded after a look there; return whether it is.

        What is not for keeping, or an error that is an answer, takes the place of an older value by removing it.
        """
        port = self.sharing.port(runtime)
        life = verdict.life
        if isinstance(verdict.outcome, Success) and life is not None:
            if sight.version is None:
                return False
            version = _shared(call).version = await port.fill(
                _place_of(call),
                self._codec,
                sight,
                verdict.contents,
                fresh=life.expires,
                left=life.leaves,
                seconds=verdict.seconds,
                tell=tell,
            )
            return version is not None
        if sight.value is not None and not _has_failed(verdict):
            await port.drop([_place_of(call)])
        return False

    async def put(self, call: Entry, value: Any, runtime: Runtime, store: Store) -> None:
        """Store a value from outside, here and there: at once, or inside a unit of work after its commit.

        Raises:
            TypeError: The value must not be cached.
        """
        verdict = store.judge(call, Success(value))
        verdict.outcome.unwrap()
        target, since = self.target(call), ambient.process.epoch
        # Who varies shares no value from outside: the other variants have to go, and this one is known in here only.
        sight = Sight(None) if call.varies else await self.look(call, runtime)

        async def replace(runtime: Runtime) -> None:
            if not await self.share(call, sight, verdict, runtime, tell=True):
                await self.sharing.port(runtime).drop(target.changes)
            store.replace(call, verdict, target, since)

        await store.exchange(target, replace, runtime)

    async def _look(self, call: Entry, copy: _Copy, runtime: Runtime) -> Sight:
        return await self.sharing.port(runtime).look(_place_of(call), self._codec, copy.version)

    async def _load(
        self, sight: Sight, call: Entry, later: Callable[[], Any], runtime: Runtime, store: Store
    ) -> Verdict:
        started = clock.now()
        outcome = await runtime.call(later)
        verdict = store.judge(call, outcome, clock.now() - started)
        await self.share(call, sight, verdict, runtime)
        return verdict

    # --- What a look tells ---

    def _weigh_up(self, sight: Sight, call: Entry, copy: _Copy, *, early: bool = False) -> Verdict | None:
        """Return what becomes of what a look found; `None`: nothing that serves.

        Args:
            sight: What it found.
            call: The call.
            copy: What this process holds.
            early: Whether the copy serves, and something newer is wanted.
        """
        now = clock.now()
        if copy.entry is not None and now < copy.entry.expires and not early:
            if sight.value is SAME:
                return Confirmed(copy.answer, copy.entry, verified=True)
            if sight.version is None and self.sharing.may_go_on(now):
                return Confirmed(copy.answer, copy.entry, verified=False)
        found = copy.answer if sight.value is SAME else sight.value
        if not isinstance(found, Success) or (early and sight.value is SAME):
            return None
        if sight.fresh > 0 or (copy.entry is None and _helps_out(call, now, now + sight.fresh)):
            _shared(call).version = sight.version
            return _lives_on(call, found, sight)
        return None

    def _old(self, sight: Sight, call: Entry, copy: _Copy) -> Success[Any] | None:
        """Return an old value that helps out after an error: one that nobody has invalidated, as far as could be asked."""
        now = clock.now()
        if sight.version is None or sight.value is SAME:
            old: object = copy.answer
            expires = -math.inf if copy.entry is None else copy.entry.expires
        else:
            old, expires = sight.value, now + sight.fresh
        helps = call.table.section.keeping.freshness.helps_in_need(now, expires)
        return old if helps and isinstance(old, Success) else None


class _Copy:
    """What a process holds of a call, as it was before a look.

    Attributes:
        entry: The entry, if there is one.
        answer: The answer in it.
        version: The version that it had in the level.
    """

    __slots__ = ("answer", "entry", "version")

    def __init__(self, entry: Entry | None) -> None:
        self.entry: SharedEntry | None = None
        self.answer: Outcome[Any] = _NOTHING
        self.version: bytes | None = None
        if entry is not None:
            answer = entry.answer()  # before the time, which an entry that leaves loses first
            if entry.expires > -math.inf:
                self.entry = _shared(entry)
                self.answer, self.version = answer, self.entry.version


_NOTHING: Final = Failure(LookupError("there is no copy"))


class SharedFlight(Flight):
    """One load of one call whose value is shared.

    Attributes:
        copy: What is in memory.
        early: Whether that serves, and something newer is wanted.
        loads: Whether the function itself is, or was, called.
        looked: Whether the level was asked.
        sight: What it showed.
        held: What this process held when it was asked.
    """

    copy: Entry | None = None
    early = False
    loads = False
    looked = False
    sight: Sight = Sight(None)
    held: _Copy = _Copy(None)

    def trusts(self, entry: Entry) -> bool:
        """Whether the entry that its call found may be served without asking; note it all the same."""
        shared = self.call.table.section.shared
        trusted = shared is not None and shared.trusts(entry, self.started)
        self.copy = entry
        self.early = trusted and self.started < entry.expires
        return trusted

    def count(self, counters: Counters, seconds: float, *, failed: bool) -> None:
        """Count how it ended: with a load, or with a value of the level."""
        found = isinstance(self.verdict, Found)
        if self.loads:
            super().count(counters, seconds, failed=failed or found)
        elif found:
            counters.level2_hits += 1


def _shared(call: Entry) -> SharedEntry:
    if not isinstance(call, SharedEntry):
        raise TypeError("the values of this function are not shared")
    return call


def _place_of(call: Entry) -> Place:
    place = _shared(call).place
    if place is None:
        raise RuntimeError("nobody has asked yet where the value of this call stands")
    return place


def _helps_out(call: Entry, now: float, expires: float) -> bool:
    """Whether a value that expired may be served while it is renewed."""
    return call.table.section.keeping.freshness.helps_out(now, expires)


def _lives_on(call: Entry, outcome: Success[Any], sight: Sight) -> Found:
    """Return what becomes of a value that a look has found."""
    fresh = None if sight.fresh == math.inf else sight.fresh
    return Found(outcome, call.table.section.keeping.rest_of_life(fresh, sight.seconds), sight.seconds)


def _has_failed(verdict: Verdict) -> bool:
    """Whether a load brought nothing, not even an error that is an answer."""
    return isinstance(verdict.outcome, Failure) and not isinstance(verdict.outcome, KeptError)
