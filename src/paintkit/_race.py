"""Several tries of one call at once, in either colour: start one, wait for whichever ends next, leave the rest."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from paintkit import clock
from paintkit._runtime import ASYNCIO, Failure, Outcome, Success

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncioRace", "Finish", "Race", "ThreadRace"]

#: Seconds that cancelled losers get to clean up before nobody waits for them any more.
_GRACE = 1.0

#: A try by its number, and its outcome; what is not an `Exception` is raised by `Race.next`.
Finish = tuple[int, Outcome[Any]]


class Race(Protocol):
    """The tries of one call."""

    def start(self, call: Callable[[], Any], number: int) -> None:
        """Start a try, in a copy of the caller's context."""
        ...

    async def next(self, seconds: float | None) -> Finish | None:
        """Wait for the next try that ends; `None` when time is up."""
        ...

    async def leave(self) -> None:
        """Be done with the tries that still run."""
        ...


class ThreadRace:
    """Tries in daemon threads; a loser runs to its end and nobody waits for it."""

    def __init__(self) -> None:
        self._finished: deque[tuple[int, Outcome[Any] | BaseException]] = deque()
        self._change = threading.Condition(threading.Lock())

    def start(self, call: Callable[[], Any], number: int) -> None:
        """Start a try in a thread of its own."""
        context = copy_context()
        threading.Thread(
            target=context.run, args=(self._run, call, number), name=f"paintkit-hedge-{number}", daemon=True
        ).start()

    async def next(self, seconds: float | None) -> Finish | None:
        """Block until the next try ends."""
        due = math.inf if seconds is None else clock.now() + seconds
        with self._change:
            while not self._finished:
                left = due - clock.now()
                if left <= 0:
                    return None
                clock.wait(self._change, None if left == math.inf else left)
            number, outcome = self._finished.popleft()
        if isinstance(outcome, BaseException):
            raise outcome
        return number, outcome

    async def leave(self) -> None:
        """Let the losers run."""

    def _run(self, call: Callable[[], Any], number: int) -> None:
        outcome: Outcome[Any] | BaseException
        try:
            outcome = Success(call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            outcome = Failure(error)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            outcome = error
        with self._change:
            self._finished.append((number, outcome))
            self._change.notify()


class AsyncioRace:
    """Tries in tasks; losers are cancelled, and waited for as long as a cancelled task may need."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Outcome[Any]], int] = {}

    def start(self, call: Callable[[], Any], number: int) -> None:
        """Start a try in a task of its own."""
        import asyncio

        attempt: Any = ASYNCIO.attempt(call)
        task: asyncio.Task[Outcome[Any]] = asyncio.create_task(attempt, name=f"paintkit-hedge-{number}")
        self._tasks[task] = number

    async def next(self, seconds: float | None) -> Finish | None:
        """Wait for the next try that ends."""
        import asyncio

        done, _ = await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        first = min(done, key=self._tasks.__getitem__)
        number = self._tasks.pop(first)
        return number, first.result()

    async def leave(self) -> None:
        """Cancel the losers and let them clean up."""
        import asyncio

        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
