"""How a choreography runs in its two colours: outcomes as values, and one runtime each for blocking code and asyncio.

What follows a failure, a wait or a miss is written once, as a coroutine over a `Runtime`. Under asyncio it is simply
awaited; in blocking code `drive` runs it, and nothing in it ever suspends because the blocking runtime waits by itself.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from paintkit import clock

__all__ = ["ASYNCIO", "BLOCKING", "Failure", "Handover", "Outcome", "Runtime", "Success", "drive", "settle"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Success(Generic[T_co]):
    """A call returned."""

    __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        self.value = value

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value


class Failure:
    """A call raised an `Exception`; anything else (cancellation, interrupts) is never made a value."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def unwrap(self) -> NoReturn:
        """Raise the error as it is."""
        try:
            raise self.error
        finally:
            del self  # the frame refers to the error, the error to the frame: break the circle


Outcome = Success[T] | Failure


class Runtime(Protocol):
    """What a choreography may do: call the protected function, and sleep."""

    async def attempt(self, call: Callable[[], Any], /) -> Outcome[Any]:
        """Call once and return what came of it."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait, on the clock."""
        ...

    def receive(self, handover: Handover, seconds: float, /) -> Coroutine[Any, Any, bool]:
        """Wait for something to be handed over; False when time is up."""
        ...


class Handover:
    """A place where one thread or task waits until another passes something on to it.

    The receiver waits once, through its runtime. The giver calls `give()` from any thread; whether the receiver was
    still there decides who owns what was given.
    """

    __slots__ = ("_condition", "_given", "_gone", "_lock", "_wake")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Made by who waits in a thread: it takes longer to make than all the rest, and a task has no use for it.
        self._condition: threading.Condition | None = None
        self._given = False
        self._gone = False
        self._wake: Callable[[], object] | None = None

    def give(self) -> bool:
        """Pass it on; False when the receiver has gone."""
        with self._lock:
            if self._gone:
                return False
            self._given = True  # before the wake-up: the loop may run at once
            if self._wake is not None:
                try:
                    self._wake()
                except RuntimeError:  # its loop was closed with the task still waiting in it
                    self._given, self._gone = False, True
                    return False
            if self._condition is not None:
                self._condition.notify()
            return True

    def withdraw(self) -> bool:
        """End the wait without receiving; False when it had been given before."""
        with self._lock:
            self._gone = not self._given
            return self._gone

    def wait(self, seconds: float) -> bool:
        """Block this thread until given (True), or until time is up."""
        due = clock.now() + seconds
        with self._lock:
            while not self._given:
                left = due - clock.now()
                if left <= 0:
                    return False
                self._condition = self._condition or threading.Condition(self._lock)
                clock.wait(self._condition, None if left == math.inf else left)
            return True

    async def arrival(self, seconds: float) -> bool:
        """Wait like `wait`, without blocking the loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        with self._lock:
            if self._given:
                return True
            here = threading.get_ident()
            # Only from another thread does the loop have to be woken, at the price of a system call.
            self._wake = lambda: (
                _resolve(arrived)
                if threading.get_ident() == here
                else loop.call_soon_threadsafe(_resolve, arrived)
            )
        timer = None if seconds == math.inf else loop.call_later(seconds, _resolve, arrived)
        try:
            await arrived
        finally:
            if timer is not None:
                timer.cancel()
        return self._given


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


class _Blocking:
    async def attempt(self, call: Callable[[], T]) -> Outcome[T]:
        try:
            return Success(call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Failure(error)

    async def sleep(self, seconds: float) -> None:
        clock.sleep(seconds)

    async def receive(self, handover: Handover, seconds: float) -> bool:
        return handover.wait(seconds)


class _Asyncio:
    async def attempt(self, call: Callable[[], Awaitable[T]]) -> Outcome[T]:
        try:
            return Success(await call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Failure(error)

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)

    def receive(self, handover: Handover, seconds: float) -> Coroutine[Any, Any, bool]:
        return handover.arrival(seconds)


BLOCKING: Runtime = _Blocking()
ASYNCIO: Runtime = _Asyncio()


async def settle(value: Awaitable[T] | T) -> T:
    """Return what a twin of either colour gave: the value, or what its awaitable comes to."""
    return await value if isinstance(value, Awaitable) else value


def drive(choreography: Coroutine[Any, Any, T]) -> T:
    """Run a choreography over the blocking runtime to its end and return its result."""
    try:
        choreography.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # a coroutine's return travels untyped in StopIteration
    choreography.close()
    raise RuntimeError("a blocking call awaited something that suspends; use the async form")
