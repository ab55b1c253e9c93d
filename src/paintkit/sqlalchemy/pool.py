"""How many connections there are, how long they live, and how long one waits for them."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from sqlalchemy import URL
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, QueuePool, SingletonThreadPool
from sqlalchemy.util import await_only
from sqlalchemy.util import queue as sa_queue
from typing_extensions import override

from paintkit import _arguments, ambient, clock, observations
from paintkit.errors import DeadlineExceededError, PaintkitError, PoolTimeoutError
from paintkit.sqlalchemy.holders import RETIRES, PoolWatch
from paintkit.sqlalchemy.urls import normalized_url

if TYPE_CHECKING:
    import asyncio

__all__ = ["POOL_SETTINGS", "PoolConfig"]

# What bounds the life of a connection to a host that vanished without a word. Each of the three mechanisms covers a
# different moment (connecting, waiting for an acknowledgement, waiting for a slow result); pre-ping covers none.
_LIBPQ: Final = {
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The options of a connection pool; the names are those of `sqlalchemy.create_engine`.

    Args:
        pool_size: Connections kept open, at least 1.
        max_overflow: Further connections under load, closed when they come back; 0 or more.
        pool_timeout: Seconds to wait for a free connection, never beyond the ambient deadline; 0 does not wait.
        pool_recycle: Seconds after which a connection is replaced at its next use; each a little earlier, up to a tenth, so
            that not all are replaced together.
        pool_pre_ping: Whether a connection is tested each time it is handed out.
        pool_use_lifo: Hand out the connection used last, so that a quiet pool lets the others time out.
        connect_timeout: Seconds that opening a connection may take; whole seconds for libpq, at least 2.
        hide_parameters: Keep the values of statements out of error messages and logs.
        max_waiting: How many may wait for a connection, 0 or more; who comes then gets `PoolTimeoutError` at once. `None`
            lets any number wait.
        leak_threshold: Seconds in use after which a connection is logged and counted as leaked, with the lines that took
            it; `None` does not watch.

    The last two are for the pools of a `DatabaseConnectionManager`, and no options of `create_engine`.

    Raises:
        TypeError: An argument is of the wrong kind; the message names it.
        ValueError: An argument is out of range; the message names it.

    Example:
        >>> PoolConfig(pool_size=8).as_engine_options()["pool_size"]
        8
    """

    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout: float = 20.0
    pool_recycle: float = 300.0
    pool_pre_ping: bool = True
    pool_use_lifo: bool = False
    connect_timeout: float = 5.0
    hide_parameters: bool = True
    max_waiting: int | None = None
    leak_threshold: float | None = 60.0

    def __post_init__(self) -> None:
        _arguments.count("pool_size", self.pool_size)
        _arguments.count("max_overflow", self.max_overflow, least=0)
        _arguments.seconds("pool_timeout", self.pool_timeout, zero=True)
        _arguments.seconds("pool_recycle", self.pool_recycle)
        _arguments.seconds("connect_timeout", self.connect_timeout)
        if self.max_waiting is not None:
            _arguments.count("max_waiting", self.max_waiting, least=0)
        if self.leak_threshold is not None:
            _arguments.seconds("leak_threshold", self.leak_threshold)
        for name in ("pool_pre_ping", "pool_use_lifo", "hide_parameters"):
            _arguments.flag(name, getattr(self, name))

    @classmethod
    def development(cls) -> Self:
        """Return a small pool that shows a leak within 5 s, and shows the values of statements in errors."""
        return cls(max_overflow=5, pool_timeout=5.0, hide_parameters=False)

    @classmethod
    def production(cls) -> Self:
        """Return the defaults for a process that serves several threads, shrinking when it is quiet."""
        return cls(pool_use_lifo=True)

    @property
    def capacity(self) -> int:
        """The most connections that one process can hold."""
        return self.pool_size + self.max_overflow

    def as_engine_options(self, url: URL | str | None = None) -> dict[str, Any]:
        """Return options for `sqlalchemy.create_engine`, or for Flask's `SQLALCHEMY_ENGINE_OPTIONS`.

        Args:
            url: The database; its driver's connect and keepalive timeouts are then included. Without it the result
                holds what every database with a queue pool understands.

        Example:
            >>> options = PoolConfig().as_engine_options("postgresql+psycopg://localhost/studio")
            >>> options["pool_timeout"], options["connect_args"]["connect_timeout"]
            (20.0, 5)
        """
        options: dict[str, Any] = {
            "pool_size": self.pool_size,
            "max_overflow": self.max_overflow,
            "pool_timeout": self.pool_timeout,
            "pool_recycle": self.pool_recycle,
            "pool_pre_ping": self.pool_pre_ping,
            "pool_use_lifo": self.pool_use_lifo,
            "hide_parameters": self.hide_parameters,
        }
        if url is not None:
            target = normalized_url(url)
            arguments = self._connect_args(target)
            # What the URL says by itself is the operator's word.
            options["connect_args"] = {
                name: arguments[name] for name in arguments if name not in target.query
            }
        return options

    def _connect_args(self, url: URL) -> dict[str, Any]:
        seconds = self.connect_timeout
        match url.get_dialect().driver:
            case "psycopg" | "psycopg_async" | "psycopg2":
                return {"connect_timeout": max(2, round(seconds)), **_LIBPQ}
            case "asyncpg":
                return {"timeout": seconds, "command_timeout": 30.0}
            case "pymysql":
                return {"connect_timeout": max(1, round(seconds)), "read_timeout": 30, "write_timeout": 30}
            case "pysqlite" | "aiosqlite":
                return {"timeout": seconds}
            case _:
                return {}


#: The pool options by themselves, for `SQLALCHEMY_ENGINE_OPTIONS` or `PoolConfig(**POOL_SETTINGS)`.
POOL_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        name: getattr(PoolConfig(), name)
        for name in ("pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_pre_ping")
    }
)


class PoolExhaustedError(PoolTimeoutError, sa_exc.TimeoutError):
    """A `PoolTimeoutError` that code written for SQLAlchemy's own pools catches, too."""


class _Queue(sa_queue.Queue[ConnectionPoolEntry]):
    """The free connections of a blocking pool; one waits for them on paintkit's clock."""

    def wait(self, timeout: float, has_room: Callable[[], bool]) -> None:
        """Wait until a connection is free, or there may be room for another, or time is up."""
        with self.mutex:
            if self._empty() and not has_room():
                clock.wait(self.not_empty, timeout)

    def wake(self) -> None:
        """Let one who waits look whether there is room."""
        with self.mutex:
            self.not_empty.notify()


class _AsyncQueue(sa_queue.AsyncAdaptedQueue[ConnectionPoolEntry]):
    """The same for asyncio, whose waits run on the loop's own clock."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._waiting: deque[asyncio.Future[None]] = deque()

    @override
    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        super().put_nowait(item)
        self.wake()

    def wait(self, timeout: float, _has_room: Callable[[], bool]) -> None:
        """Wait as a blocking queue does; nothing can happen here between the look and the wait."""
        import asyncio

        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            # Not `wait_for`: it may swallow a cancellation that comes with the result.
            await_only(asyncio.wait((future,), timeout=timeout))
        except BaseException:
            if future not in self._waiting:  # it was this one's turn, and is now another's
                self.wake()
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(future)

    def wake(self) -> None:
        """Let one who waits look whether there is room."""
        while self._waiting:
            future = self._waiting.popleft()
            # The collector gives connections back in whatever thread it runs; the loop may be closed by then.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_settle, future)
                return


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _patience(timeout: float | None) -> float:
    left = ambient.remaining()
    longest = _arguments.LONGEST if timeout is None else timeout
    return longest if left is None else max(0.0, min(longest, left))


class ObservedPool:
    """What both queue pools do beyond SQLAlchemy's.

    Those who wait are bounded in number and in time, and are woken by every chance: a connection that comes back, and one
    that could not be opened. Connections retire at different ages.
    """

    #: How many may wait, `None` for any number.
    max_waiting: int | None = None
    #: How many wait.
    waiting: int = 0
    #: How many waited in vain so far.
    timeouts: int = 0

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = threading.Lock()
        self._watch = PoolWatch()

    def observe(self: Any, watch: PoolWatch, max_waiting: int | None) -> None:
        """Say who knows the holders of the connections, and how many may wait for one."""
        self._watch = watch
        self.max_waiting = max_waiting

    def recreate(self: Any) -> Any:
        """Return an empty pool with the same options."""
        pool = super().recreate()  # type: ignore[misc]  # a mixin: the pool comes next in the order
        pool.observe(self._watch, self.max_waiting)
        pool.timeouts = self.timeouts
        return pool

    def _do_get(self: Any) -> ConnectionPoolEntry:
        entry = self._take() or self._wait()
        retires = entry.info.get(RETIRES)
        if retires is not None and clock.now() >= retires:
            try:
                entry.close()  # whoever asked for it opens it anew
            except BaseException:
                self._do_return_conn(entry)
                raise
        return entry  # type: ignore[no-any-return]  # see above

    def _take(self: Any) -> ConnectionPoolEntry | None:
        """Return a free connection, or a new one if there is room."""
        try:
            return self._pool.get(False)  # type: ignore[no-any-return]  # see above
        except sa_queue.Empty:
            pass
        if not self._inc_overflow():
            return None
        try:
            return self._create_connection()  # type: ignore[no-any-return]  # see above
        except BaseException:
            self._dec_overflow()
            raise

    def _wait(self: Any) -> ConnectionPoolEntry:
        with self._door:
            if self.max_waiting is not None and self.waiting >= self.max_waiting:
                raise self._refusal(f"and {self.waiting} wait already, which is max_waiting")
            self.waiting += 1
        try:
            due = clock.now() + _patience(self._timeout)
            while True:
                left = due - clock.now()
                if left > 0.0:
                    self._pool.wait(left, self._has_room)
                entry = self._take()
                if entry is not None:
                    return entry  # type: ignore[no-any-return]  # see above
                if left <= 0.0:
                    raise self._refusal(f"and none became free within {self._timeout:g} s")
        finally:
            with self._door:
                self.waiting -= 1

    def _has_room(self: Any) -> bool:
        return self._max_overflow == -1 or self._overflow < self._max_overflow  # type: ignore[no-any-return]  # see above

    def _dec_overflow(self: Any) -> Literal[True]:
        super()._dec_overflow()  # type: ignore[misc]  # see above
        self._pool.wake()
        return True

    def _refusal(self: Any, why: str) -> PaintkitError:
        """Tell an exhausted pool apart from a deadline that ended the wait."""
        capacity = self.size() + self._max_overflow
        self.timeouts += 1
        observations.emit(
            "pool.exhausted", self.logging_name or "pool", capacity=capacity, timeout=self._timeout
        )
        holders = self._watch.holders()
        at = f"; they were taken at {holders}" if holders else ""
        left = ambient.remaining()
        if left is not None and left <= 0.0:
            return DeadlineExceededError(
                f"the deadline was over while all {capacity} connections of the pool are in use{at}"
            )
        return PoolExhaustedError(
            f"all {capacity} connections of the pool are in use {why}; release them sooner, or raise pool_size{at}"
        )


class BlockingPool(ObservedPool, QueuePool):
    """The queue pool of blocking engines."""

    _queue_class = _Queue


class AsyncPool(ObservedPool, AsyncAdaptedQueuePool):
    """The queue pool of asyncio engines."""

    _queue_class = _AsyncQueue


def understood(options: Mapping[str, Any], poolclass: type[Pool]) -> dict[str, Any]:
    """Return the options without those that this class of pool has no use for."""
    if issubclass(poolclass, QueuePool):
        return dict(options)
    foreign = {"max_overflow", "pool_timeout", "pool_use_lifo"}
    if not issubclass(poolclass, SingletonThreadPool):
        foreign.add("pool_size")
    return {name: value for name, value in options.items() if name not in foreign}
