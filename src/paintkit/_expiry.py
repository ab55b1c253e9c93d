"""Ends what a task is doing when time is up, and tells our own expiry from every other cancellation.

The bookkeeping is that of `asyncio.timeout`: a cancellation that we asked for is taken back with `uncancel()`, and only
if nobody else has asked for one does it become an expiry.

Arming a timer of the loop for every call and disarming it again is most of what a timeout costs. Calls that get the same
span end in the order in which they began, so one armed timer is enough for all of them: it looks after the oldest, and
moves on to the next when it fires (measured by `make bench`: 19 bare wrappers with a timer each, less than half with one).
"""

from __future__ import annotations

import asyncio

__all__ = ["Expiry", "Timers"]

# Seconds: what passes between the clock reads of one call, and no more than a timer is late anyway.
_SAME = 0.001


class Expiry:
    """The end of one piece of work of the current task; call `over()` exactly once when the work has ended.

    Args:
        pending: The expiries of one timer, oldest first, which this one joins.
        due: The instant of the loop's clock at which the task is cancelled.
    """

    __slots__ = ("_cancelling", "_expired", "_pending", "_task", "due")

    def __init__(self, pending: dict[Expiry, None], due: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError(
                "a timeout needs a task: run the coroutine with asyncio.run() or create_task()"
            )
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._pending = pending
        self.due = due
        pending[self] = None

    def expire(self) -> None:
        """Cancel the work."""
        self._expired = True
        self._task.cancel()

    def over(self, error: BaseException | None) -> bool:
        """Let the timer forget this work; whether `error` is the cancellation that it caused.

        Args:
            error: What the work ended with, or `None`.
        """
        self._pending.pop(self, None)
        if not self._expired:
            return False
        return self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)


class _LoneExpiry(Expiry):
    """An expiry with a timer of its own, which it disarms."""

    __slots__ = ("_timer",)

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        due = loop.time() + max(seconds, 0.0)
        super().__init__({}, due)
        self._timer = loop.call_at(due, self.expire)

    def over(self, error: BaseException | None) -> bool:
        self._timer.cancel()
        return super().over(error)


class Timers:
    """Starts the expiries of one policy, whose span is the same at every call but for an earlier deadline.

    Args:
        seconds: The span (> 0).
    """

    __slots__ = ("_latest", "_queues", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}
        self._latest: _Queue | None = None  # found at once as long as one loop calls

    def start(self, seconds: float) -> Expiry:
        """Begin an expiry of the running task.

        Args:
            seconds: The span of this call; shorter than usual under an earlier deadline.
        """
        loop = asyncio.get_running_loop()
        if seconds < self._seconds - _SAME:
            return _LoneExpiry(loop, seconds)  # it is out of the order that lets calls share a timer
        queue = self._latest
        if queue is None or queue.loop is not loop:
            queue = self._latest = self._queues.get(loop) or self._add(loop)
        return queue.start(loop.time() + self._seconds)

    def _add(self, loop: asyncio.AbstractEventLoop) -> _Queue:
        """Begin a queue, and forget those of loops that are closed."""
        for known in list(self._queues):
            if known.is_closed():
                self._queues.pop(known, None)
        return self._queues.setdefault(loop, _Queue(loop))


class _Queue:
    """The expiries of one loop, oldest first, and the one timer that looks after the oldest."""

    __slots__ = ("_armed", "_pending", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pending: dict[Expiry, None] = {}
        self._armed = False

    def start(self, due: float) -> Expiry:
        expiry = Expiry(self._pending, due)
        if not self._armed:
            self._arm(due)
        return expiry

    def _arm(self, due: float) -> None:
        self._armed = True
        self.loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._armed = False
        now = self.loop.time()
        while self._pending:
            oldest = next(iter(self._pending))
            if oldest.due > now:
                self._arm(oldest.due)
                return
            del self._pending[oldest]
            oldest.expire()
