"""The pools: who waits for a connection gets one in turn, in bounded time, and is woken by every chance."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool
from sqlalchemy.util import await_only
from sqlalchemy.util import queue as sa_queue

from paintkit import _arguments, ambient, clock, observations
from paintkit._words import counted
from paintkit.errors import DeadlineExceededError, PaintkitError, PoolTimeoutError
from paintkit.sqlalchemy.holders import RETIRES, PoolWatch

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncPool", "BlockingPool", "ObservedPool"]


class PoolExhaustedError(PoolTimeoutError, sa_exc.TimeoutError):
    """A `PoolTimeoutError` that code written for SQLAlchemy's own pools catches, too."""


class _Turn(Protocol):
    """One place in the line of those who wait."""

    def wait(self, timeout: float) -> None:
        """Wait until it is rung, once more than it has been so far, or time is up."""

    def ring(self) -> bool:
        """Let who waits here look for a connection; False if nobody can wait here any more."""


class _ThreadTurn:
    """The place of a thread, which waits on paintkit's clock."""

    def __init__(self, door: threading.RLock) -> None:
        self._bell = threading.Condition(door)
        self._is_rung = False

    def wait(self, timeout: float) -> None:
        with self._bell:
            if not self._is_rung:
                clock.wait(self._bell, timeout)
            self._is_rung = False

    def ring(self) -> bool:
        with self._bell:
            self._is_rung = True
            self._bell.notify()
        return True


class _TaskTurn:
    """The place of a task, which waits on its loop's clock."""

    def __init__(self, _door: object) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._bell = self._loop.create_future()

    def wait(self, timeout: float) -> None:
        import asyncio

        # Not `wait_for`: it may swallow a cancellation that comes with the result.
        await_only(asyncio.wait((self._bell,), timeout=timeout))
        if self._bell.done():
            self._bell = self._loop.create_future()

    def ring(self) -> bool:
        try:
            # The collector gives connections back in whatever thread it runs.
            self._loop.call_soon_threadsafe(_settle, self._bell)
        except RuntimeError:
            return False  # the loop is closed
        return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _patience(timeout: float | None) -> float:
    left = ambient.remaining()
    longest = _arguments.LONGEST if timeout is None else timeout
    return longest if left is None else max(0.0, min(longest, left))


#: In place of a connection: there is room, and it is reserved, for a new one.
_ROOM: Final = object()


class ObservedPool:
    """What both queue pools do beyond SQLAlchemy's.

    Those who wait stand in line: bounded in number and in time, served in the order in which they came, before anybody who
    comes later. The first of them is woken by every chance: a connection that comes back, one that could not be opened, and
    another who leaves the line. Connections retire at different ages, by a clock that nobody sets.
    """

    #: How many may wait, `None` for any number.
    max_waiting: int | None = None
    #: How many waited in vain so far.
    timeouts: int = 0

    _turn: ClassVar[type[_ThreadTurn | _TaskTurn]]

    def __init__(self: Any, *args: Any, recycle: float = -1, **kwargs: Any) -> None:
        # SQLAlchemy would compare wall clocks: one that is set forward would close all connections at once.
        super().__init__(*args, recycle=-1, **kwargs)  # type: ignore[call-arg]  # a mixin: the pool comes next in the order
        #: Seconds after which a connection is replaced, `None` for never.
        self.lifetime = recycle if recycle > 0 else None
        # Guards the line. Re-entrant: the collector may give a connection back while its thread stands here.
        self._door = threading.RLock()
        self._line: deque[_Turn] = deque()
        self._watch = PoolWatch()

    @property
    def waiting(self: Any) -> int:
        """How many wait."""
        return len(self._line)

    def observe(self: Any, watch: PoolWatch, max_waiting: int | None) -> None:
        """Say who knows the holders of the connections, and how many may wait for one."""
        self._watch = watch
        self.max_waiting = max_waiting

    def recreate(self: Any) -> Any:
        """Return an empty pool with the same options."""
        pool = super().recreate()  # type: ignore[misc]  # see above
        pool.observe(self._watch, self.max_waiting)
        pool.timeouts, pool.lifetime = self.timeouts, self.lifetime
        return pool

    def _do_get(self: Any) -> ConnectionPoolEntry:
        # Whoever waits already goes first, even if there is a free connection at this moment.
        claim = None if self._line else self._claim()
        if claim is None:
            claim = self._wait()
        entry = self._open() if claim is _ROOM else claim
        retires = entry.info.get(RETIRES)
        if retires is not None and clock.now() >= retires:
            try:
                entry.close()  # whoever asked for it opens it anew
            except BaseException:
                self._do_return_conn(entry)
                raise
        return entry  # type: ignore[no-any-return]  # see above

    def _do_return_conn(self: Any, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)  # type: ignore[misc]  # see above
        self._ring()

    def _dec_overflow(self: Any) -> Literal[True]:
        super()._dec_overflow()  # type: ignore[misc]  # see above
        self._ring()
        return True

    def _claim(self: Any) -> Any:
        """Return a free connection, or `_ROOM` for a new one, or `None`."""
        try:
            return self._pool.get(False)
        except sa_queue.Empty:
            return _ROOM if self._inc_overflow() else None

    def _open(self: Any) -> ConnectionPoolEntry:
        try:
            return self._create_connection()  # type: ignore[no-any-return]  # see above
        except BaseException:
            self._dec_overflow()
            raise

    def _wait(self: Any) -> Any:
        """Return a claim, when it is this one's turn."""
        began = clock.now()
        due = began + _patience(self._timeout)
        turn = self._line_up()
        try:
            while True:
                claim = self._claim() if self._line[0] is turn else None
                if claim is not None:
                    return claim
                left = due - clock.now()
                if left <= 0.0:
                    raise self._refusal(f"and none became free within {self._timeout:g} s")
                turn.wait(left)
        finally:
            with self._door, contextlib.suppress(ValueError):
                self._line.remove(turn)
            self._watch.waited.record(max(0.0, clock.now() - began))
            self._ring()  # what woke this one may be enough for the next

    def _line_up(self: Any) -> _Turn:
        with self._door:
            waiting = len(self._line)
            if self.max_waiting is None or waiting < self.max_waiting:
                turn: _Turn = self._turn(self._door)
                self._line.append(turn)
                return turn
        raise self._refusal(f"and {counted(waiting, 'waits', 'wait')} already, which is max_waiting")

    def _ring(self: Any) -> None:
        """Let the first in line look whether there is a chance."""
        if self._line:  # without the lock: who lines up after this looks by itself
            with self._door:
                while self._line and not self._line[0].ring():
                    self._line.popleft()

    def _refusal(self: Any, why: str) -> PaintkitError:
        """Tell an exhausted pool apart from a deadline that ended the wait."""
        capacity = self.size() + self._max_overflow
        self.timeouts += 1
        observations.emit(
            "pool.exhausted", self.logging_name or "pool", capacity=capacity, timeout=self._timeout
        )
        holders = self._watch.holders()
        busy, they = (
            ("the only connection of the pool is", "it was")
            if capacity == 1
            else (f"all {capacity} connections of the pool are", "they were")
        )
        at = f"; {they} taken at {holders}" if holders else ""
        left = ambient.remaining()
        if left is not None and left <= 0.0:
            return DeadlineExceededError(f"the deadline was over while {busy} in use{at}")
        return PoolExhaustedError(f"{busy} in use {why}; release sooner, or raise pool_size{at}")


class BlockingPool(ObservedPool, QueuePool):
    """The queue pool of blocking engines."""

    _turn = _ThreadTurn


class AsyncPool(ObservedPool, AsyncAdaptedQueuePool):
    """The queue pool of asyncio engines."""

    _turn = _TaskTurn
