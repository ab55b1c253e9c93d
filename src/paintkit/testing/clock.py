"""A virtual clock: hours pass in microseconds, for blocking code, threads and asyncio alike.

All of paintkit reads the time and waits through `paintkit.clock`. While a `FakeClock` is active it stands in there, so
that every policy, cache and bus obeys it, also those created long before. Time moves only when somebody moves it:

- `advance()` moves it by hand;
- a blocking sleep moves it by its own length, and returns at once;
- the loop of `run()` moves it to the next timer when all its tasks wait and nothing real is under way;
- the thread that opened the clock, when it waits itself, moves it to the next instant that a thread waits for, once no
  thread that was started since is at work.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from paintkit import _arguments, clock
from paintkit._words import counted
from paintkit.testing._loop import VirtualLoop
from paintkit.testing._timeline import GLANCE, WORKERS, Patience, Timeline, Waiter, at_work

if TYPE_CHECKING:
    from paintkit.typing import Seconds

__all__ = ["FakeClock"]

T = TypeVar("T")


class FakeClock:
    """Stands in for the time of all of paintkit, until its `with` block ends.

    One at a time: time is the process's. State that a policy gathered under another clock (an opened circuit, a cached
    entry) bears that clock's instants, so give each test policies of its own, or `reset()` them.

    Args:
        start: What `now()` says at first, in seconds (finite, default 0).

    Raises:
        RuntimeError: On entering, if a fake clock is active already.

    Example:
        >>> with FakeClock() as clock:
        ...     clock.advance(30.0)
        ...     clock.now()
        30.0
    """

    _active: FakeClock | None = None
    _activating = threading.Lock()

    def __init__(self, start: float = 0.0) -> None:
        self._timeline = Timeline(_arguments.number("start", start), self._rouse)
        self._loop: VirtualLoop | None = None
        self._driver: int | None = None
        self._bystanders: frozenset[threading.Thread] = frozenset()
        self._real = (clock.now, clock.sleep, clock.wait)

    def __enter__(self) -> Self:
        with FakeClock._activating:
            if FakeClock._active is not None:
                raise RuntimeError(
                    "a FakeClock is active already, and time is the whole process's: use that clock, or leave its block"
                )
            FakeClock._active = self
        self._driver = threading.get_ident()
        # Not by number: the system gives that of a thread that ends to the next one.
        self._bystanders = frozenset(threading.enumerate())
        self._real = (clock.now, clock.sleep, clock.wait)
        clock.now, clock.sleep, clock.wait = self.now, self.sleep, self.wait
        return self

    def __exit__(self, *_exc_info: object) -> None:
        clock.now, clock.sleep, clock.wait = self._real
        self._driver, self._bystanders = None, frozenset()
        self._timeline.release_all()
        FakeClock._active = None

    @property
    def sleeps(self) -> list[float]:
        """The seconds of every sleep so far, blocking or `asyncio.sleep`, as they began; one of no length is none."""
        return self._timeline.sleeps

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._timeline.now

    def advance(self, seconds: Seconds) -> None:
        """Let time pass; threads and timers that are due by then wake up afterwards.

        Args:
            seconds: How long (>= 0), or a `timedelta`.

        Raises:
            ValueError: `seconds` is negative or not finite; time never runs backwards.
        """
        self._timeline.advance(_arguments.seconds("seconds", seconds, zero=True, most=math.inf))

    def sleep(self, seconds: float) -> None:
        """Note a sleep in `sleeps` and let it pass at once; stands in for `time.sleep`.

        Args:
            seconds: How long (>= 0).

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        self._timeline.sleep(_arguments.seconds("seconds", seconds, zero=True, most=math.inf))

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait on a held condition until it is notified, or `timeout` virtual seconds are over.

        A thread that still waits when the clock's block ends goes on waiting in real time.

        Args:
            condition: Held by the caller.
            timeout: Seconds, or `None` to wait for a notification only.

        Returns:
            Whether it was notified; False when time is up.
        """
        if timeout is not None and timeout <= 0:
            return condition.wait(0)
        waiter = Waiter(math.inf if timeout is None else self._timeline.after(timeout))
        self._timeline.suspend(condition, waiter, lambda: self._rest(waiter))
        if waiter.woken_by == Waiter.RELEASED:
            wait = self._real[2]
            return wait(condition, None if timeout is None else waiter.due - self.now())
        return waiter.woken_by == Waiter.NOTIFIED

    def until_waiting(self, threads: int = 1, *, patience: Seconds = 10.0) -> None:
        """Block, really, until that many threads wait on this clock: then it is time to `advance()`.

        Args:
            threads: How many (>= 1).
            patience: Real seconds to allow for it (> 0).

        Raises:
            TimeoutError: They did not begin to wait within `patience`.
        """
        _arguments.count("threads", threads)
        if not self._timeline.until_resting(threads, _arguments.seconds("patience", patience)):
            waiting = counted(len(self._timeline.resting()), "thread waits", "threads wait")
            raise TimeoutError(f"{waiting} on the clock, not {threads}")

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as `asyncio.run` does, in a new loop whose time is this clock.

        When all tasks wait, time jumps to the next timer. It never does while something real is under way: it stands
        still while a job of `run_in_executor` or a thread of paintkit's is at work (not if that waits on this clock,
        too), and passes as fast as real time while the loop watches a socket or a pipe.

        Args:
            main: The coroutine.

        Returns:
            What `main` returns.

        Raises:
            RuntimeError: The clock is not active, a loop runs already, or a job does not come to an end.
        """
        try:
            self._check_free()
        except RuntimeError:
            main.close()
            raise
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                return runner.run(main)
        finally:
            self._loop = None

    def _check_free(self) -> None:
        if FakeClock._active is not self:
            raise RuntimeError("this FakeClock is not active: call run() inside its `with` block")
        if self._loop is not None:
            raise RuntimeError("a loop runs on this FakeClock already: await the coroutine there")

    def _new_loop(self) -> VirtualLoop:
        self._loop = VirtualLoop(self._timeline, self._bystanders)
        return self._loop

    def _rouse(self) -> None:
        if self._loop is not None:
            self._loop.rouse()

    def _rest(self, waiter: Waiter) -> None:
        if threading.get_ident() != self._driver:
            waiter.rest()
            return
        # Whoever moves the time by hand waits here himself, so it has to move by itself.
        patience = Patience()
        while not waiter.rest(0):
            busy = at_work(self._timeline, self._started_since)
            if waiter.rest(0):
                break
            if busy:
                patience.spend(busy)
            if busy or not self._timeline.advance_to_next():
                waiter.rest(GLANCE)

    def _started_since(self, thread: threading.Thread) -> bool:
        return thread not in self._bystanders and not thread.name.startswith(WORKERS)
