"""How many connections there are, how long one waits for them, and what is known of them at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from sqlalchemy import URL, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, QueuePool, SingletonThreadPool
from sqlalchemy.util import queue as sa_queue

from paintkit import _arguments, ambient, clock, observations
from paintkit.errors import DeadlineExceededError, PoolTimeoutError
from paintkit.sqlalchemy.urls import normalized_url

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
        pool_recycle: Seconds after which a connection is replaced at its next use.
        pool_pre_ping: Whether a connection is tested each time it is handed out.
        pool_use_lifo: Hand out the connection used last, so that a quiet pool lets the others time out.
        connect_timeout: Seconds that opening a connection may take; whole seconds for libpq, at least 2.
        hide_parameters: Keep the values of statements out of error messages and logs.

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

    def __post_init__(self) -> None:
        _arguments.count("pool_size", self.pool_size)
        _arguments.count("max_overflow", self.max_overflow, least=0)
        _arguments.seconds("pool_timeout", self.pool_timeout, zero=True)
        _arguments.seconds("pool_recycle", self.pool_recycle)
        _arguments.seconds("connect_timeout", self.connect_timeout)
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
    """Waits on paintkit's clock, and not beyond the ambient deadline."""

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        if not block:
            return super().get(block=False)
        with self.not_empty:
            due = clock.now() + _patience(timeout)
            while self._empty():
                left = due - clock.now()
                if left <= 0.0:
                    raise sa_queue.Empty
                clock.wait(self.not_empty, left)
            return self._get()


class _AsyncQueue(sa_queue.AsyncAdaptedQueue[ConnectionPoolEntry]):
    """The same for asyncio, whose waits run on the loop's own clock."""

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        return super().get(block, _patience(timeout) if block else timeout)


def _patience(timeout: float | None) -> float:
    left = ambient.remaining()
    longest = _arguments.LONGEST if timeout is None else timeout
    return longest if left is None else max(0.0, min(longest, left))


class _Translated:
    """Tells an exhausted pool apart from a deadline that ended the wait, each as an error of paintkit."""

    def _do_get(self: Any) -> ConnectionPoolEntry:
        try:
            return super()._do_get()  # type: ignore[misc,no-any-return]  # a mixin: the pool comes next in the order
        except sa_exc.TimeoutError as error:
            capacity = self.size() + self._max_overflow
            observations.emit(
                "pool.exhausted", self.logging_name or "pool", capacity=capacity, timeout=self._timeout
            )
            holders = f"all {capacity} connections of the pool are in use"
            left = ambient.remaining()
            if left is not None and left <= 0.0:
                raise DeadlineExceededError(f"the deadline was over while {holders}") from error
            raise PoolExhaustedError(
                f"{holders} and none became free within {self._timeout:g} s; release them sooner, or raise pool_size"
            ) from error


class BlockingPool(_Translated, QueuePool):
    """The queue pool of blocking engines."""

    _queue_class = _Queue


class AsyncPool(_Translated, AsyncAdaptedQueuePool):
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


class PoolWatch:
    """Counts what a pool does not count by itself, and reads the rest from the pool."""

    def __init__(self) -> None:
        self._invalidated = 0

    def follow(self, pool: Pool) -> None:
        """Count what happens to `pool`, and to those that replace it: listeners move on with it."""
        event.listen(pool, "invalidate", self._on_invalidate)
        event.listen(pool, "soft_invalidate", self._on_invalidate)

    def _on_invalidate(self, *_: object) -> None:
        self._invalidated += 1

    def read(self, pool: Pool) -> dict[str, int | float | None]:
        """Return the statistics of `pool`; `None` stands where this class of pool knows nothing."""
        size, checked_in, checked_out = (_number(pool, name) for name in ("size", "checkedin", "checkedout"))
        raw, most = _number(pool, "overflow"), _number(pool, "_max_overflow")
        capacity = None if size is None or most is None or most < 0 else size + most
        return {
            "size": size,
            "checked_in": checked_in,
            "checked_out": checked_out,
            # A fresh pool reports minus its size: what it could still open, not what it has beyond its size.
            "overflow": None if raw is None else max(0, raw),
            "overflow_raw": raw,
            "total": None if checked_in is None or checked_out is None else checked_in + checked_out,
            "capacity": capacity,
            "utilization": None if not capacity or checked_out is None else checked_out / capacity,
            "invalid": self._invalidated,
        }


def _number(pool: Pool, name: str) -> int | None:
    value = getattr(pool, name, None)
    if callable(value):
        value = value()
    return value if isinstance(value, int) else None
