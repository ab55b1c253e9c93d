"""Flights: one load of one call, and all who wait for it, in whatever thread or event loop they are.

A flight belongs to the cache, not to the first caller. It knows in which other flights it waits, so that a wait that
could never end (a load that needs itself, two loads that need each other) is seen before it begins.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from paintkit import _runtime, ambient, clock
from paintkit._runtime import Failure, Handover, Outcome, Success
from paintkit.errors import DeadlineExceededError

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from paintkit.cache.memory import Entry

__all__ = ["ASYNCIO", "BLOCKING", "Abandoned", "Flight", "Land", "Landing", "Runtime"]


class Abandoned:
    """The load ended without an outcome for others: it was cancelled or interrupted, or its own deadline ended it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


Landing = Success[Any] | Failure | Abandoned

#: The flight whose load we are in, if any. Child tasks inherit it.
_loading: ContextVar[Flight | None] = ContextVar("paintkit.cache.loading", default=None)

# Guards the waiters and the waits of all flights. Held for a few steps only, and never while another lock is taken.
_lock = threading.Lock()


class Flight:
    """One load of one call.

    Args:
        call: What is loaded.
    """

    __slots__ = (
        "_handovers",
        "_loop",
        "_parent",
        "_task",
        "_traceback",
        "_waits_for",
        "call",
        "landing",
        "registered",
        "started",
    )

    def __init__(self, call: Entry) -> None:
        self.call = call
        #: When it began: an instant of the clock.
        self.started = clock.now()
        #: How it ended; `None` as long as it is under way.
        self.landing: Landing | None = None
        #: Whether others may join it, or did.
        self.registered = False
        self._parent = _innermost()
        self._handovers: list[Handover] = []
        self._waits_for: list[Flight] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._traceback: TracebackType | None = None

    @property
    def stranded(self) -> bool:
        """Whether it can never land, because its event loop was closed under it."""
        return self._loop is not None and self._loop.is_closed()

    @property
    def adrift(self) -> bool:
        """Whether others may wait for it although nobody loads: its leader was interrupted on the way to the load."""
        return self.registered and self.landing is None and self._task is None

    def depart(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Note the task that loads; it is cancelled when the last waiter leaves."""
        self._loop, self._task = loop, task

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
            self._traceback = landing.error.__traceback__ if isinstance(landing, Failure) else None
            handovers, self._handovers = self._handovers, []
        for handover in handovers:
            # The loop of a waiter may be closed: nobody is there any more.
            with contextlib.suppress(RuntimeError):
                handover.give()

    def board(self) -> Handover | None:
        """Return where to wait for the landing; `None` if that wait could never end."""
        handover = Handover()
        mine = list(_lineage())
        with _lock:
            if mine and self._leads_to(mine):
                return None
            if self.landing is not None:
                handover.give()
                return handover
            self._handovers.append(handover)
            for flight in mine:
                flight._waits_for.append(self)
        return handover

    def leave(self, handover: Handover) -> None:
        """Stop waiting; who leaves last before the landing ends a load that is a task."""
        with _lock:
            for flight in _lineage():
                if self in flight._waits_for:
                    flight._waits_for.remove(self)
            if handover in self._handovers:
                self._handovers.remove(handover)
            deserted = self.landing is None and not self._handovers
        if deserted and self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the load with it
                self._loop.call_soon_threadsafe(self._task.cancel)

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


def _innermost() -> Flight | None:
    """Return the innermost flight under way whose load we are in."""
    flight = _loading.get()
    while flight is not None and flight.landing is not None:
        flight = flight._parent
    return flight


def _lineage() -> Iterator[Flight]:
    """Iterate over the flights under way whose loads we are in, the innermost first."""
    flight = _innermost()
    while flight is not None:
        if flight.landing is None:
            yield flight
        flight = flight._parent


#: Hands the landing of a flight to its cache.
Land = Callable[[Flight, Landing], object]


class Runtime(Protocol):
    """How loads happen in one colour."""

    async def call(self, later: Callable[[], Any], /) -> Outcome[Any]:
        """Load here and now, in the caller's own thread and task."""
        ...

    async def lead(self, flight: Flight, later: Callable[[], Any], land: Land, /) -> None:
        """Load on behalf of a flight and land it."""
        ...

    async def join(self, flight: Flight, /) -> bool:
        """Wait until a flight has landed; False at once if that wait could never end."""
        ...


class _Blocking:
    """The first caller loads in its own thread."""

    async def call(self, later: Callable[[], Any]) -> Outcome[Any]:
        return await _runtime.BLOCKING.attempt(later)

    async def lead(self, flight: Flight, later: Callable[[], Any], land: Land) -> None:
        token = _loading.set(flight)
        try:
            landing: Landing = Success(later())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            landing = _failed(error)
        except BaseException as error:
            land(flight, Abandoned(error))
            raise
        finally:
            _loading.reset(token)
        land(flight, landing)
        # The traceback of an error holds this frame: were it to hold the error, both would live until the collector comes.
        del flight, landing

    async def join(self, flight: Flight) -> bool:
        return await _wait(flight, flight.board(), _runtime.BLOCKING)


def _failed(error: Exception) -> Failure | Abandoned:
    """Tell a failure of the load from the end of the first caller's own deadline, which is no concern of the others."""
    left = ambient.remaining()
    if left is not None and left <= 0 and isinstance(error, DeadlineExceededError):
        return Abandoned(error)
    return Failure(error)


class _Asyncio:
    """A load is a task of its own, without the caller's unit of work and deadline; all callers wait for it alike."""

    async def call(self, later: Callable[[], Any]) -> Outcome[Any]:
        return await _runtime.ASYNCIO.attempt(later)

    async def lead(self, flight: Flight, later: Callable[[], Any], land: Land) -> None:
        import asyncio

        def settle(task: asyncio.Task[None]) -> None:
            if flight.landing is None:
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                land(flight, Abandoned(error or RuntimeError("the load ended without an outcome")))

        handover = flight.board()
        loop = asyncio.get_running_loop()
        task = loop.create_task(_load(flight, later, land), context=ambient.detached())
        flight.depart(loop, task)
        task.add_done_callback(settle)
        await _wait(flight, handover, _runtime.ASYNCIO)

    async def join(self, flight: Flight) -> bool:
        return await _wait(flight, flight.board(), _runtime.ASYNCIO)


async def _load(flight: Flight, later: Callable[[], Awaitable[Any]], land: Land) -> None:
    _loading.set(flight)
    try:
        landing: Landing = Success(await later())
    except Exception as error:  # noqa: BLE001 - the outcome is the value
        landing = Failure(error)
    land(flight, landing)
    del flight, landing  # see `_Blocking.lead`


async def _wait(flight: Flight, handover: Handover | None, runtime: _runtime.Runtime) -> bool:
    """Wait for the landing, but no longer than the ambient deadline allows."""
    if handover is None:
        return False
    try:
        left = ambient.remaining()
        if not await runtime.receive(handover, math.inf if left is None else left):
            raise DeadlineExceededError(
                f"the deadline was over before somebody else's load of {flight.call.table.section.name} was"
            )
    finally:
        flight.leave(handover)
    return True


BLOCKING: Runtime = _Blocking()
ASYNCIO: Runtime = _Asyncio()


def _forget_other_threads() -> None:
    """Repair the flights after a fork, where only the thread that forked lives on: nobody waits for its loads."""
    flight = _loading.get()
    while flight is not None:
        flight._handovers, flight._waits_for = [], []
        flight = flight._parent
    _lock.release()


# Held while forking, so that the child finds it, and what it guards, in order.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_other_threads)
