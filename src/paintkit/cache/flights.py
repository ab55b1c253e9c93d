"""Flights: one load of one call, and all who wait for it, in whatever thread or event loop they are.

A flight belongs to the cache, not to the first caller. It knows in which other flights it waits, so that a wait that
could never end (a load that needs itself, two loads that need each other) is seen before it begins.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from paintkit import clock
from paintkit._runtime import Failure, Success

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from paintkit.cache.entries import Counters, Entry
    from paintkit.cache.keeping import Verdict
    from paintkit.cache.workers import Workers

__all__ = ["Abandoned", "Flight", "Home", "Landing", "Seat", "current", "loading"]


class Abandoned:
    """The load ended without an outcome for others: it was cancelled or interrupted, or its own deadline ended it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


F = TypeVar("F", bound="Flight")

Landing = Success[Any] | Failure | Abandoned

#: The flight whose load we are in, if any. Child tasks inherit it.
loading: ContextVar[Flight | None] = ContextVar("paintkit.cache.loading", default=None)

# Guards the waiters and the waits of all flights. Held for a few steps only, and never while another lock is taken.
_lock = threading.Lock()


class Flight:
    """One load of one call.

    Args:
        call: What is loaded.
        seconds: How long that may take.
    """

    # What holds for most flights stands in the class: to set it in each would take a third of the time that one takes.
    #: What becomes of what it brings, if that is known before it lands.
    verdict: Verdict | None = None
    #: An old value, which helps out if no new one comes.
    fallback: Success[Any] | None = None
    #: Whether somebody else than its leader loads.
    departed = False
    #: Whether it goes on although nobody waits.
    kept = False
    #: Whether its cache has taken in how it ended.
    closed = False
    #: How it ended; `None` as long as it is under way.
    landing: Landing | None = None
    #: Whether others may join it, or did.
    registered = False
    #: Until when it has to land: an instant of the clock.
    due = math.inf
    #: The event loop on which it depends, if there is one.
    loop: asyncio.AbstractEventLoop | None = None
    #: The task that loads, as long as it is under way.
    task: asyncio.Task[None] | None = None
    _parent: Flight | None = None
    _traceback: TracebackType | None = None
    # Who waits for it, and in which flights it waits: few have either.
    _seats: dict[Seat, None] | None = None
    _waits_for: tuple[Flight, ...] = ()

    def __init__(self, call: Entry, seconds: float | None = None) -> None:
        self.call = call
        #: Under which its cache registers it.
        self.address = (call.table, call.key)
        #: When it began: an instant of the clock.
        self.started = clock.now()
        if seconds is not None:
            self.due = self.started + seconds
        if loading.get() is not None:
            self._parent = _innermost()

    @property
    def stranded(self) -> bool:
        """Whether it can never land, because an event loop was closed under it, or under what it waits for."""
        if self.loop is not None and self.loop.is_closed():
            return True
        return bool(self._waits_for) and any(flight.stranded for flight in self._waits_for)

    @property
    def adrift(self) -> bool:
        """Whether others may wait for it although nobody loads: its leader was interrupted on the way to the load."""
        return self.registered and self.landing is None and not self.departed

    def trusts(self, entry: Entry) -> bool:  # noqa: ARG002 - that of a shared function looks at it
        """Whether the entry that its call found may be served as long as its own time is not over."""
        return True

    def count(self, counters: Counters, seconds: float, *, failed: bool) -> None:
        """Count how it ended."""
        counters.count_load(seconds, failed=failed)

    def follow(self, other: Flight) -> None:
        """Note that this flight lands when another does: so whoever loads the other must not wait for this one."""
        with _lock:
            self._waits_for += (other,)

    def depart(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Note the task that loads; it is cancelled when the last waiter leaves."""
        self.loop, self.task, self.departed = loop, task, True

    def landed(self) -> Landing:
        """Return how it ended, with the error as it was when it did: each raise adds to a traceback."""
        landing = self.landing
        if landing is None:
            raise RuntimeError("the flight is still under way")
        if isinstance(landing, Failure):
            landing.error.__traceback__ = self._traceback
        return landing

    def land(self, landing: Landing) -> None:
        """End the flight and tell all who wait; only the first landing counts."""
        with _lock:
            if self.landing is not None:
                return
            self.landing = landing
            self.task = None  # whose context leads back to here: a circle would wait for the collector
            if isinstance(landing, Failure):
                self._traceback = landing.error.__traceback__
            seats, self._seats = self._seats, None
        for seat in seats or ():
            try:  # noqa: SIM105 - `suppress` takes six times as long as this does without it
                seat.give()
            except RuntimeError:  # the loop of a waiter is closed: nobody is there any more
                pass

    def board(self, seat: Seat) -> bool:
        """Wait for the landing in a seat; False if that wait could never end."""
        mine = _lineage()
        with _lock:
            if mine and self._leads_to(mine):
                return False
            if self.landing is None:
                if self._seats is None:
                    self._seats = {}
                self._seats[seat] = None
                for flight in mine:
                    flight._waits_for += (self,)
                return True
        seat.give()
        return True

    def leave(self, seat: Seat) -> None:
        """Stop waiting; who leaves last before the landing ends a load that is a task."""
        mine = _lineage()
        if self.landing is not None and not mine:
            return
        with _lock:
            for flight in mine:
                flight._waits_for = _without(flight._waits_for, self)
            if self._seats is not None:
                self._seats.pop(seat, None)
            task = None if self._seats or self.kept else self.task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the load with it
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _leads_to(self, mine: list[Flight]) -> bool:
        """Whether this flight waits, over whatever others, for one of mine."""
        seen: set[Flight] = set()
        unseen = [self]
        while unseen:
            flight = unseen.pop()
            if flight in mine:
                return True
            if flight not in seen:
                seen.add(flight)
                unseen += flight._waits_for
        return False


def _without(flights: tuple[Flight, ...], flight: Flight) -> tuple[Flight, ...]:
    """Return flights without one of them, which may be among them twice: then it stays once."""
    if flight not in flights:
        return flights
    place = flights.index(flight)
    return flights[:place] + flights[place + 1 :]


def current(kind: type[F]) -> F:
    """Return the flight whose load we are in.

    Raises:
        RuntimeError: We are in none of that kind.
    """
    flight = loading.get()
    if not isinstance(flight, kind):
        raise RuntimeError("there is no such flight around us")
    return flight


def _innermost() -> Flight | None:
    """Return the innermost flight under way whose load we are in."""
    flight = loading.get()
    while flight is not None and flight.landing is not None:
        flight = flight._parent
    return flight


def _lineage() -> list[Flight]:
    """Return the flights under way whose loads we are in, the innermost first."""
    found = []
    flight = loading.get()
    while flight is not None:
        if flight.landing is None:
            found.append(flight)
        flight = flight._parent
    return found


class Seat(Protocol):
    """Where one caller waits for a landing."""

    def give(self) -> object:
        """Tell that it has come; from any thread."""
        ...


class Home(Protocol):
    """The cache to which flights belong."""

    workers: Workers
    tasks: set[asyncio.Task[None]]

    def land(self, flight: Flight, landing: Landing, /) -> None:
        """Take in how a flight ended."""
        ...


def _forget_other_threads() -> None:
    """Repair the flights after a fork, where only the thread that forked lives on: nobody waits for its loads."""
    flight = loading.get()
    while flight is not None:
        flight._seats, flight._waits_for = None, ()
        flight = flight._parent
    _lock.release()


# Held while forking, so that the child finds it, and what it guards, in order.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_other_threads)
