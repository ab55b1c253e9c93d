"""How flights are loaded, and waited for, in each colour: by the first caller's own thread, or by a task.

A load that outlives its caller, or is no concern of it, runs without the caller's unit of work and deadline.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from paintkit import _runtime, ambient, clock
from paintkit._runtime import Failure, Handover, Outcome, Success
from paintkit.cache.flights import Abandoned, Flight, Home, Landing, Seat, loading
from paintkit.errors import CallTimeoutError, DeadlineExceededError

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

__all__ = ["ASYNCIO", "BLOCKING", "Runtime"]

T = TypeVar("T")


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
        token = loading.set(flight)
        try:
            return await question
        finally:
            loading.reset(token)

    def lead(self, flight: Flight, later: Callable[[], Any], home: Home) -> None:
        token = loading.set(flight)
        try:
            landing: Landing = Success(later())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            landing = _failed(error)
        except BaseException as error:
            home.land(flight, Abandoned(error))
            raise
        finally:
            loading.reset(token)
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
    loading.set(flight)
    try:
        home.land(flight, _landing_of(later))
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        home.land(flight, Abandoned(error))
    del flight  # see `_Blocking.lead`


def _landing_of(later: Callable[[], Any]) -> Landing:
    try:
        return Success(later())
    except Exception as error:  # noqa: BLE001 - the outcome is the value
        return Failure(error)


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

        flight.loop = asyncio.get_running_loop()  # if it is closed meanwhile, nobody will answer
        token = loading.set(flight)
        try:
            left = ambient.remaining()
            answer = await (question if left is None else _within(left, question, flight, _too_late))
        except GeneratorExit:  # left behind by its loop, and closed in whatever context
            raise
        except BaseException:
            loading.reset(token)
            raise
        loading.reset(token)
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

    A `Handover` could serve, too. Beyond the future that both need this one takes a fifth of its time, without a lock: only the
    loop of the task changes the future, and nobody asks whether what was given was received.
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


async def _load(
    flight: Flight,
    later: Callable[[], Awaitable[Any]],
    home: Home,
    settle: Callable[[asyncio.Task[None]], None],
) -> None:
    """Load and land, as a task; `settle` is what follows if the task ends otherwise."""
    loading.set(flight)
    task = flight.task  # none yet if tasks of this loop begin at once: then `settle` follows in any case
    try:
        loaded = later()
        if flight.due < math.inf:
            loaded = _within(flight.due - clock.now(), loaded, flight, _too_long)
        landing: Landing = Success(await loaded)
    except Exception as error:  # noqa: BLE001 - the outcome is the value
        landing = Failure(error)
    home.land(flight, landing)
    if task is not None:  # nothing is left to settle, and a callback costs the loop a turn
        task.remove_done_callback(settle)
        home.tasks.discard(task)
    del flight, landing  # see `_Blocking.lead`


async def _within(
    seconds: float, question: Awaitable[T], flight: Flight, too_late: Callable[[Flight], Exception]
) -> T:
    """Await for so many seconds; then raise what `too_late` makes of the flight."""
    import asyncio

    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await question
    except TimeoutError as error:
        if limit.expired():
            raise too_late(flight) from error
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
