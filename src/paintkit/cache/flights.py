"""Flights: one load of one call, and all who wait for it, in whatever thread or event loop they are.

A flight belongs to the cache, not to the first caller. It knows in which other flights it waits, so that a wait that
could never end (a load that needs itself, two loads that need each other) is seen before it begins.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from paintkit import _runtime, ambient, clock
from paintkit._runtime import Failure, Handover, Outcome, Success
from paintkit.errors import CallTimeoutError, DeadlineExceededError

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from paintkit.cache.entries import Counters, Entry
    from paintkit.cache.keeping import Verdict
    from paintkit.cache.workers import Workers

__all__ = ["ASYNCIO", "BLOCKING", "Abandoned", "Flight", "Home", "Landing", "Runtime", "current"]


class Abandoned:
    """The load ended without an outcome for others: it was cancelled or interrupted, or its own deadline ended it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


F = TypeVar("F", bound="Flight")
T = TypeVar("T")

Landing = Success[Any] | Failure | Abandoned

#: The flight whose load we are in, if any. Child tasks inherit it.
_loading: ContextVar[Flight | None] = ContextVar("paintkit.cache.loading", default=None)

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
    _loop: asyncio.AbstractEventLoop | None = None
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
        self.address = call.address
        #: When it began: an instant of the clock.
        self.started = clock.now()
        if seconds is not None:
            self.due = self.started + seconds
        if _loading.get() is not None:
            self._parent = _innermost()

    @property
    def stranded(self) -> bool:
        """Whether it can never land, because an event loop was closed under it, or under what it waits for."""
        if self._loop is not None and self._loop.is_closed():
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
        self._loop, self.task, self.departed = loop, task, True

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
            try:  # noqa: SIM105 - to enter `suppress` takes as long as all the rest
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
    flight = _loading.get()
    if not isinstance(flight, kind):
        raise RuntimeError("there is no such flight around us")
    return flight


def _innermost() -> Flight | None:
    """Return the innermost flight under way whose load we are in."""
    flight = _loading.get()
    while flight is not None and flight.landing is not None:
        flight = flight._parent
    return flight


def _lineage() -> list[Flight]:
    """Return the flights under way whose loads we are in, the innermost first."""
    found = []
    flight = _loading.get()
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


class Runtime(Protocol):
    """How loads happen in one colour."""

    async def call(self, later: Callable[[], Any], /) -> Outcome[Any]:
        """Load here and now, in the caller's own thread and task."""
        ...

    async def ask(self, flight: Flight, question: Coroutine[Any, Any, T], /) -> T:
        """Await what comes before the load of a flight, in the caller's own task, and in asyncio until its deadline."""
        ...

    def lead(
        self, flight: Flight, later: Callable[[], Any], home: Home, /
    ) -> Coroutine[Any, Any, object] | None:
        """Load on behalf of a flight and land it; return what to await for that, `None` if it has landed."""
        ...

    def launch(self, flight: Flight, later: Callable[[], Any], home: Home, /) -> None:
        """Let a flight be loaded and landed apart from the caller."""
        ...

    async def join(self, flight: Flight, home: Home, patience: float = math.inf, /) -> bool | None:
        """Wait until a flight has landed: True; False at once if that wait could never end; `None` if patience ends."""
        ...


class _Blocking:
    """The first caller loads in its own thread."""

    async def call(self, later: Callable[[], Any]) -> Outcome[Any]:
        return await _runtime.BLOCKING.attempt(later)

    async def ask(self, flight: Flight, question: Coroutine[Any, Any, T]) -> T:
        token = _loading.set(flight)
        try:
            return await question
        finally:
            _loading.reset(token)

    def lead(self, flight: Flight, later: Callable[[], Any], home: Home) -> None:
        token = _loading.set(flight)
        try:
            landing: Landing = Success(later())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            landing = _failed(error)
        except BaseException as error:
            home.land(flight, Abandoned(error))
            raise
        finally:
            _loading.reset(token)
        home.land(flight, landing)
        # The traceback of an error holds this frame: were it to hold the error, both would live until the collector comes.
        del flight, landing

    def launch(self, flight: Flight, later: Callable[[], Any], home: Home) -> None:
        context = _context_of(flight)
        flight.departed = True
        try:
            home.workers.run(lambda: context.run(_work, flight, later, home))
        except RuntimeError as error:  # no thread can be started
            home.land(flight, Failure(error))

    async def join(self, flight: Flight, home: Home, patience: float = math.inf) -> bool | None:
        seat = Handover()
        if not flight.board(seat):
            return False
        return await _wait(flight, seat, functools.partial(_runtime.BLOCKING.receive, seat), home, patience)


def _context_of(flight: Flight) -> Context:
    """Return the context of a load that is apart from its caller: what bounds it is its own."""
    context = ambient.detached()
    if flight.due < math.inf:
        context.run(ambient.deadline.set, flight.due)
    return context


def _work(flight: Flight, later: Callable[[], Any], home: Home) -> None:
    _loading.set(flight)
    try:
        landing: Landing = Success(later())
    except Exception as error:  # noqa: BLE001 - the outcome is the value
        landing = Failure(error)
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        landing = Abandoned(error)
    home.land(flight, landing)
    del flight, landing  # see `_Blocking.lead`


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

    async def ask(self, flight: Flight, question: Coroutine[Any, Any, T]) -> T:
        import asyncio

        flight._loop = asyncio.get_running_loop()  # if it is closed meanwhile, nobody will answer
        token = _loading.set(flight)
        try:
            left = ambient.remaining()
            answer = await (question if left is None else _until(left, question, flight))
        except GeneratorExit:  # left behind by its loop, and closed in whatever context
            raise
        except BaseException:
            _loading.reset(token)
            raise
        _loading.reset(token)
        return answer

    def lead(self, flight: Flight, later: Callable[[], Any], home: Home) -> Coroutine[Any, Any, object]:
        import asyncio

        loop = asyncio.get_running_loop()
        seat = _TaskSeat(loop)
        flight.board(seat)  # nothing is under way in it yet that could wait for us
        self._launch(flight, later, home, loop)
        return _wait(flight, seat, seat.arrival, home)

    def launch(self, flight: Flight, later: Callable[[], Any], home: Home) -> None:
        import asyncio

        self._launch(flight, later, home, asyncio.get_running_loop())

    def _launch(
        self, flight: Flight, later: Callable[[], Any], home: Home, loop: asyncio.AbstractEventLoop
    ) -> None:
        def settle(task: asyncio.Task[None]) -> None:
            home.tasks.discard(task)
            if flight.landing is None:
                home.land(flight, Abandoned(_end_of(task)))

        task = loop.create_task(_load(flight, later, home, settle), context=_context_of(flight))
        flight.depart(loop, task)
        home.tasks.add(task)
        task.add_done_callback(settle)

    async def join(self, flight: Flight, home: Home, patience: float = math.inf) -> bool | None:
        import asyncio

        seat = _TaskSeat(asyncio.get_running_loop())
        if not flight.board(seat):
            return False
        return await _wait(flight, seat, seat.arrival, home, patience)


def _end_of(task: asyncio.Task[None]) -> BaseException:
    """Return how a task ended that did not land its flight."""
    if task.cancelled():
        import asyncio

        return asyncio.CancelledError()
    return task.exception() or RuntimeError("the load ended without an outcome")


class _TaskSeat:
    """Where a task waits.

    A `Handover` could serve, too. This one takes a third of its time, for it needs no lock: only the loop of the task changes
    the future, and nobody asks whether what was given was received.
    """

    __slots__ = ("_landed", "_loop", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._landed: asyncio.Future[None] = loop.create_future()
        self._thread = threading.get_ident()

    def give(self) -> None:
        """Tell that it has come; from any thread.

        Raises:
            RuntimeError: The loop is closed.
        """
        if threading.get_ident() == self._thread:
            self._resolve()
        else:  # the loop has to be woken, at the price of a system call
            self._loop.call_soon_threadsafe(self._resolve)

    async def arrival(self, seconds: float) -> bool:
        """Wait for it; False when time is up."""
        if seconds == math.inf:
            await self._landed
            return True
        import asyncio

        done, _ = await asyncio.wait((self._landed,), timeout=seconds)
        return bool(done)

    def _resolve(self) -> None:
        if not self._landed.done():
            self._landed.set_result(None)


async def _until(left: float, question: Coroutine[Any, Any, T], flight: Flight) -> T:
    import asyncio

    limit = asyncio.timeout(left)
    try:
        async with limit:
            return await question
    except TimeoutError as error:
        if limit.expired():
            raise _too_late(flight) from error
        raise


async def _load(
    flight: Flight,
    later: Callable[[], Awaitable[Any]],
    home: Home,
    settle: Callable[[asyncio.Task[None]], None],
) -> None:
    """Load and land, as a task; `settle` is what follows if the task ends otherwise."""
    _loading.set(flight)
    task = flight.task  # none yet if tasks of this loop begin at once: then `settle` follows in any case
    try:
        landing: Landing = Success(await (later() if flight.due == math.inf else _in_time(flight, later)))
    except Exception as error:  # noqa: BLE001 - the outcome is the value
        landing = Failure(error)
    home.land(flight, landing)
    if task is not None:  # nothing is left to settle, and a callback costs the loop a turn
        task.remove_done_callback(settle)
        home.tasks.discard(task)
    del flight, landing  # see `_Blocking.lead`


async def _in_time(flight: Flight, later: Callable[[], Awaitable[Any]]) -> Any:
    import asyncio

    limit = asyncio.timeout(flight.due - clock.now())
    try:
        async with limit:
            return await later()
    except TimeoutError as error:
        if limit.expired():
            raise _too_long(flight) from error
        raise


def _too_long(flight: Flight) -> CallTimeoutError:
    return CallTimeoutError(
        f"the load of {flight.call.table.section.name} took longer than loader_timeout allows"
    )


def _too_late(flight: Flight) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"the deadline was over before somebody else's load of {flight.call.table.section.name} was"
    )


async def _wait(
    flight: Flight,
    seat: Seat,
    arrival: Callable[[float], Awaitable[bool]],
    home: Home,
    patience: float = math.inf,
) -> bool | None:
    """Wait for the landing, but no longer than the ambient deadline, the flight's own time and patience allow."""
    try:
        deadline = ambient.deadline.get()
        if deadline is None and flight.due == patience == math.inf:
            return await arrival(math.inf)
        now = clock.now()
        until = min(math.inf if deadline is None else deadline, flight.due, now + patience)
        if await arrival(until - now):
            return True
        if until == flight.due:
            home.land(flight, Failure(_too_long(flight)))
            return True
        if until == deadline:
            raise _too_late(flight)
    finally:
        flight.leave(seat)
    return None


BLOCKING: Runtime = _Blocking()
ASYNCIO: Runtime = _Asyncio()


def _forget_other_threads() -> None:
    """Repair the flights after a fork, where only the thread that forked lives on: nobody waits for its loads."""
    flight = _loading.get()
    while flight is not None:
        flight._seats, flight._waits_for = None, ()
        flight = flight._parent
    _lock.release()


# Held while forking, so that the child finds it, and what it guards, in order.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_other_threads)
