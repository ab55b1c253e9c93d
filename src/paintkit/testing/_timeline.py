"""Virtual time itself: an instant that moves forward, and the threads that wait for it to come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakSet

__all__ = ["GLANCE", "WORKERS", "Patience", "Timeline", "Waiter", "at_work"]

#: Real seconds between two looks at threads that are at work, and until they count as stuck.
GLANCE: Final = 0.001
PATIENCE: Final = 30.0

#: How the names of a virtual loop's own worker threads begin.
WORKERS: Final = "fakeclock-worker"


class Waiter:
    """One wait of one thread; it stands in a condition's queue where a lock of the condition's own would."""

    NOTIFIED: Final = "notified"
    EXPIRED: Final = "expired"
    RELEASED: Final = "released"

    def __init__(self, due: float) -> None:
        self.due = due
        self.thread = threading.get_ident()
        #: The first reason to wake up that still counts, `None` while it sleeps.
        self.woken_by: str | None = None
        self._waking = threading.Lock()
        self._awake = threading.Event()

    def wake(self, reason: str) -> bool:
        """Wake the thread; only the first call does, and only its reason counts."""
        with self._waking:
            if self.woken_by is not None:
                return False
            self.woken_by = reason
        self._awake.set()
        return True

    def release(self) -> None:
        """Wake the thread on behalf of `Condition.notify`, which takes an error for "choose another one"."""
        with self._waking:
            if self.woken_by == Waiter.RELEASED:
                self.woken_by = (
                    Waiter.NOTIFIED
                )  # on its way to real time, where it would wait for what has come
                return
        if not self.wake(Waiter.NOTIFIED):
            raise RuntimeError("awake already")

    def rest(self, real_seconds: float | None = None) -> bool:
        """Sleep until woken, for some real seconds at most; return whether it was woken."""
        return self._awake.wait(real_seconds)


class Timeline:
    """The time, who waits for it, and who has slept on it.

    Args:
        start: The first instant.
        moved: Called after every move, in the thread that moved the time, under the lock.
    """

    def __init__(self, start: float, moved: Callable[[], object]) -> None:
        self.now = start
        self.sleeps: list[float] = []
        self._moved = moved
        # Guards `now` and the waiters against each other; notified when a thread begins to wait.
        self._changed = threading.Condition()
        self._waiters: list[Waiter] = []
        self._acquaintances: WeakSet[threading.Thread] = WeakSet()

    def after(self, seconds: float) -> float:
        """Return the instant in so many seconds: later than now, even by less than a float can tell."""
        return max(self.now + seconds, math.nextafter(self.now, math.inf)) if seconds > 0 else self.now

    def advance(self, seconds: float) -> None:
        """Let seconds pass."""
        with self._changed:
            self._move(self.after(seconds))

    def sleep(self, seconds: float) -> None:
        """Note a sleep, and let it pass; one of no length is none, as for `asyncio.sleep`, which sets no timer for it."""
        if seconds > 0:
            with self._changed:
                self.sleeps.append(seconds)
                self._move(self.after(seconds))

    def advance_to_next(self, timer: float = math.inf) -> bool:
        """Move to the earliest of `timer` and the instants that threads wait for; False if there is none."""
        with self._changed:
            instant = min([timer, *(waiter.due for waiter in self._waiters if waiter.woken_by is None)])
            if instant < math.inf:
                self._move(instant)
            return instant < math.inf

    def suspend(self, condition: threading.Condition, waiter: Waiter, rest: Callable[[], object]) -> None:
        """Do what `Condition.wait` does with a waiter of ours in the queue.

        So this thread alone can be woken, without the condition's lock, and it is known why. It takes the private names
        of `Condition`: its public ones can only wake everybody.

        Args:
            condition: Held by the caller; released during `rest`.
            waiter: Who waits.
            rest: Returns when the waiter is awake.
        """
        inner: Any = condition
        if not inner._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        queue = inner._waiters
        queue.append(waiter)
        with self._changed:
            self._waiters.append(waiter)
            self._acquaintances.add(threading.current_thread())
            self._changed.notify_all()
        held = inner._release_save()
        try:
            rest()
        finally:
            inner._acquire_restore(held)
            if waiter in queue:
                queue.remove(waiter)
            with self._changed:
                self._waiters.remove(waiter)

    def has_met(self, thread: threading.Thread) -> bool:
        """Whether a thread has ever waited here; another one may idle in real time since before."""
        with self._changed:
            return thread in self._acquaintances

    def resting(self) -> set[int]:
        """Return the threads that wait and have not been woken."""
        with self._changed:
            return self._resting()

    def until_resting(self, threads: int, patience: float) -> bool:
        """Block, really, until so many threads rest; False if they do not within `patience` real seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._resting()) >= threads, patience)

    def release_all(self) -> None:
        """Send every waiting thread back to real time."""
        with self._changed:
            for waiter in self._waiters:
                waiter.wake(Waiter.RELEASED)

    def _resting(self) -> set[int]:
        return {waiter.thread for waiter in self._waiters if waiter.woken_by is None}

    def _move(self, instant: float) -> None:
        self.now = max(self.now, instant)
        for waiter in sorted(self._waiters, key=lambda one: one.due):
            if waiter.due <= self.now:
                waiter.wake(Waiter.EXPIRED)
        self._moved()


def at_work(timeline: Timeline, counts: Callable[[threading.Thread], bool]) -> list[str]:
    """Return the names of the other threads that count and do not rest on the timeline."""
    # Looked at before and after: a thread that starts another one and then rests has left somebody at work.
    threads: Iterable[threading.Thread] = threading.enumerate()
    resting = timeline.resting() | {threading.get_ident()}
    threads = {*threads, *threading.enumerate()}
    return sorted(thread.name for thread in threads if counts(thread) and thread.ident not in resting)


class Patience:
    """Tells when threads have been at work for too long, in real time."""

    def __init__(self) -> None:
        self._began: float | None = None

    def renew(self) -> None:
        """Something happened: start anew."""
        self._began = None

    def spend(self, busy: list[str]) -> None:
        """Wait on; raise if that has gone on for too long."""
        if self._began is None:
            self._began = time.monotonic()
        if time.monotonic() - self._began > PATIENCE:
            raise RuntimeError(
                f"time stands still while {', '.join(busy)} is at work: let it end, or advance() the clock from there"
            )
