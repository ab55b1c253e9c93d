"""How a choreography runs in its two colours: outcomes as values, and one runtime each for blocking code and asyncio.

What follows a failure, a wait or a miss is written once, as a coroutine over a `Runtime`. Under asyncio it is simply
awaited; in blocking code `drive` runs it, and nothing in it ever suspends because the blocking runtime waits by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from paintkit import clock

__all__ = ["ASYNCIO", "BLOCKING", "Failure", "Outcome", "Runtime", "Success", "drive"]

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


class _Blocking:
    async def attempt(self, call: Callable[[], T]) -> Outcome[T]:
        try:
            return Success(call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Failure(error)

    async def sleep(self, seconds: float) -> None:
        clock.sleep(seconds)


class _Asyncio:
    async def attempt(self, call: Callable[[], Awaitable[T]]) -> Outcome[T]:
        try:
            return Success(await call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            return Failure(error)

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)


BLOCKING: Runtime = _Blocking()
ASYNCIO: Runtime = _Asyncio()


def drive(choreography: Coroutine[Any, Any, T]) -> T:
    """Run a choreography over the blocking runtime to its end and return its result."""
    try:
        choreography.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # a coroutine's return travels untyped in StopIteration
    choreography.close()
    raise RuntimeError("a blocking call awaited something that suspends; use the async form")
