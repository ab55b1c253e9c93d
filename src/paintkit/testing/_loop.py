"""An asyncio loop that lives on a timeline: when all its tasks wait, time jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from paintkit.testing._timeline import GLANCE, WORKERS, Patience, Timeline, at_work

if TYPE_CHECKING:
    from contextvars import Context

    from _typeshed import FileDescriptorLike

__all__ = ["VirtualLoop"]

T = TypeVar("T")
Events = list[tuple[selectors.SelectorKey, int]]

# What `asyncio.sleep` leaves to its timer: nothing public tells such a timer from all others.
_end_of_sleep = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` is a timeline's.

    Time never jumps while something real is under way. While an executor job or a thread of paintkit's is at work it
    stands still; while a socket or a pipe is watched it passes as fast as real time.

    Args:
        timeline: Its time.
        bystanders: Threads that were there before; they count as soon as they have waited on the timeline.
    """

    def __init__(self, timeline: Timeline, bystanders: frozenset[threading.Thread]) -> None:
        self._timeline = timeline
        self._bystanders = bystanders
        self._thread = threading.get_ident()
        self._patience = Patience()
        self._jobs: dict[Future[Any], _Job] = {}
        self._quiet: asyncio.Future[None] | None = None
        self._io = selectors.DefaultSelector()
        super().__init__(_Selector(self._io, self._pause))
        # Whatever is watched beyond the loop's own wake-up pipe is real I/O.
        self._own_descriptors = len(self._io.get_map())
        self.set_default_executor(ThreadPoolExecutor(thread_name_prefix=WORKERS))

    def time(self) -> float:
        """Return the virtual time."""
        return self._timeline.now

    @property
    def _clock_resolution(self) -> float:
        # The base class adds it to the time to find the timers that are due: here exactly those of now and before.
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _real: float) -> None:
        """Pass over the resolution of the real clock, which the base class sets."""

    def call_later(  # type: ignore[override]  # a type variable for the arguments would be no use to anybody here
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back after a delay; if that is the end of an `asyncio.sleep`, note the sleep."""
        if callback is _end_of_sleep:
            self._timeline.sleeps.append(delay)
        return self.call_at(self._timeline.after(delay), callback, *args, context=context)

    def set_default_executor(self, executor: Any) -> None:
        """Set the executor of jobs that name none."""
        super().set_default_executor(executor)
        self._workers: Executor = executor

    def run_in_executor(  # type: ignore[override]  # typeshed calls it a coroutine function, asyncio returns a future
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a job, and hold the time while it is at work."""
        pool = executor or self._workers
        job = _Job(func)
        # Only a job in a thread of this process can wait on our time; others have to be sent as they are.
        future = pool.submit(job if isinstance(pool, ThreadPoolExecutor) else func, *args)
        self._jobs[future] = job
        result = asyncio.wrap_future(future, loop=self)
        # Comes after the callback that delivers the result: once the job is forgotten, its result is here.
        future.add_done_callback(lambda done: self._tell(self._forget, done))
        return result

    async def shutdown_default_executor(
        self,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature of Python 3.12; virtual time has no use for it
    ) -> None:
        """Wait for the last job; without the timer and the thread of the base class, which would move the time."""
        if self._jobs:
            self._quiet = self.create_future()
            await self._quiet
        self._workers.shutdown()

    def rouse(self) -> None:
        """Make the loop look at the time again, after another thread has moved it."""
        if threading.get_ident() != self._thread:
            self._tell(lambda: None)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self.call_soon_threadsafe(callback, *args)

    def _forget(self, job: Future[Any]) -> None:
        del self._jobs[job]
        if self._quiet is not None and not self._jobs:
            self._quiet.set_result(None)

    def _pause(self, timeout: float | None) -> Events:
        """Wait for the next thing to happen; make it happen if it is a matter of time only."""
        busy = self._at_work()
        # Looked at after that question: who is at rest now may have left us something before.
        events = self._io.select(0)
        if events:
            self._patience.renew()
            return events
        if busy:
            self._patience.spend(busy)
            return self._io.select(GLANCE)
        self._patience.renew()
        timer: float = math.inf if timeout is None else self._scheduled[0].when()  # type: ignore[attr-defined]  # private
        if len(self._io.get_map()) > self._own_descriptors:
            return self._keep_pace(timer)
        return [] if self._timeline.advance_to_next(timer) else self._io.select(GLANCE)

    def _keep_pace(self, timer: float) -> Events:
        began, ahead = time.monotonic(), timer - self.time()
        events = self._io.select(min(ahead, GLANCE))
        self._timeline.advance(min(time.monotonic() - began, ahead))
        return events

    def _at_work(self) -> list[str]:
        busy = at_work(self._timeline, self._is_ours)
        resting = self._timeline.resting()
        return busy + [job.name for job in self._jobs.values() if job.thread not in resting]

    def _is_ours(self, thread: threading.Thread) -> bool:
        if not thread.name.startswith("paintkit"):
            return False
        return thread not in self._bystanders or self._timeline.has_met(thread)


class _Job:
    """What an executor runs; knows the thread that runs it."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func
        self.name = repr(func)
        self.thread: int | None = None

    def __call__(self, *args: Any) -> Any:
        self.thread = threading.get_ident()
        return self._func(*args)


class _Selector(selectors.BaseSelector):
    """The real selector, but for waiting, which is left to the loop."""

    def __init__(self, io: selectors.BaseSelector, pause: Callable[[float | None], Events]) -> None:
        self._io = io
        self._pause = pause

    def select(self, timeout: float | None = None) -> Events:
        return self._io.select(0) if timeout is not None and timeout <= 0 else self._pause(timeout)

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._io.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._io.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._io.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._io.get_map()

    def close(self) -> None:
        self._io.close()
