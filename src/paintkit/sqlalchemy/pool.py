"""How many connections there are, how long they live, and how long one waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool

from paintkit import _arguments
from paintkit.sqlalchemy.drivers import connect_args
from paintkit.sqlalchemy.urls import normalized_url

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["POOL_SETTINGS", "PoolConfig", "understood"]

# What the server itself is to bound, in the session of each connection.
_SERVER_LIMITS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The options of a connection pool; the names are those of `sqlalchemy.create_engine`.

    Durations are in seconds, or a timedelta.

    Args:
        pool_size: Connections kept open, at least 1.
        max_overflow: Further connections under load, closed when they come back; 0 or more.
        pool_timeout: Seconds to wait for a free connection, never beyond the ambient deadline; 0 does not wait.
        pool_recycle: Seconds after which a connection is replaced at its next use; each a little earlier, up to a tenth, so
            that not all are replaced together.
        pool_pre_ping: Whether a connection is tested each time it is handed out.
        pool_use_lifo: Hand out the connection used last, so that a quiet pool lets the others time out.
        connect_timeout: Seconds that opening a connection may take; whole seconds for psycopg (at least 2) and PyMySQL.
        silence_timeout: Seconds without a sign of life after which the server's host counts as gone. A live host answers by
            itself, however long the statement takes.
        response_timeout: Seconds that one statement may go unanswered, `None` for any number; asyncpg and PyMySQL only.
        statement_timeout: Seconds that the server may spend on one statement; `None` leaves it to the server. These three:
            PostgreSQL and MariaDB.
        lock_timeout: Seconds that a statement may wait for a lock, `None` for the server's default; SQLite, too, where the
            default is `connect_timeout`.
        idle_in_transaction_timeout: Seconds after which the server closes a connection that left a transaction open and does
            nothing; `None` leaves it to the server.
        transaction_pooler: Whether PgBouncer or its like pools in transaction mode already: see `PoolConfig.pgbouncer()`.
        hide_parameters: Keep the values of statements out of error messages and logs.
        max_waiting: How many may wait for a connection, 0 or more; who comes then gets `PoolTimeoutError` at once. `None`
            lets any number wait.
        leak_threshold: Seconds in use after which a connection is logged and counted as leaked, with the lines that took
            it; `None` does not watch.

    `max_waiting` and `leak_threshold` are for the pools of a `DatabaseConnectionManager`, and so is `silence_timeout` for
    other drivers than psycopg: they are no options of `create_engine`.

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
    silence_timeout: float = 15.0
    response_timeout: float | None = 30.0
    statement_timeout: float | None = None
    lock_timeout: float | None = None
    idle_in_transaction_timeout: float | None = None
    transaction_pooler: bool = False
    hide_parameters: bool = True
    max_waiting: int | None = None
    leak_threshold: float | None = 60.0

    def __post_init__(self) -> None:
        _arguments.count("pool_size", self.pool_size)
        _arguments.count("max_overflow", self.max_overflow, least=0)
        self._in_seconds("pool_timeout", zero=True)
        for name in ("pool_recycle", "connect_timeout", "silence_timeout"):
            self._in_seconds(name)
        if self.max_waiting is not None:
            _arguments.count("max_waiting", self.max_waiting, least=0)
        self._in_seconds_or_none("response_timeout", "sets no limit")
        self._in_seconds_or_none("leak_threshold", "watches for no leak")
        for name in _SERVER_LIMITS:
            self._in_seconds_or_none(name, "leaves it to the server")
        for name in ("pool_pre_ping", "pool_use_lifo", "hide_parameters", "transaction_pooler"):
            _arguments.flag(name, getattr(self, name))
        self._refuse_limits_of_shared_sessions()

    def _in_seconds(self, name: str, *, zero: bool = False) -> None:
        self._set(name, _arguments.seconds(name, getattr(self, name), zero=zero))

    def _in_seconds_or_none(self, name: str, none: str) -> None:
        self._set(name, _arguments.seconds_or_none(name, getattr(self, name), none=none))

    def _set(self, name: str, value: float | None) -> None:
        object.__setattr__(self, name, value)  # it is frozen

    def _refuse_limits_of_shared_sessions(self) -> None:
        wrong = [name for name in _SERVER_LIMITS if getattr(self, name) is not None]
        if self.transaction_pooler and wrong:
            raise ValueError(
                f"{wrong[0]} cannot be told through a transaction pooler, whose server sessions are shared: set it with "
                "ALTER ROLE … SET in PostgreSQL, or for one unit of work with unit_of_work(timeout=…)"
            )

    @classmethod
    def development(cls) -> Self:
        """Return a small pool that shows a leak within 5 s, and shows the values of statements in errors."""
        return cls(max_overflow=5, pool_timeout=5.0, hide_parameters=False)

    @classmethod
    def production(cls) -> Self:
        """Return the defaults for a process that serves several threads, shrinking when it is quiet."""
        return cls(pool_use_lifo=True)

    @classmethod
    def pgbouncer(cls) -> Self:
        """Return what suits PgBouncer, or its like, in transaction mode.

        PgBouncer pools, so nothing is kept here: each unit of work opens a connection to it and closes it. No prepared
        statement outlives its transaction, and no session is set up.
        """
        return cls(transaction_pooler=True)

    @property
    def capacity(self) -> int:
        """The most connections that one process can hold."""
        return self.pool_size + self.max_overflow

    def as_engine_options(self, url: URL | str | None = None) -> dict[str, Any]:
        """Return options for `sqlalchemy.create_engine`, or for Flask's `SQLALCHEMY_ENGINE_OPTIONS`.

        Args:
            url: The database; what its driver has to be told is then included, but for what the URL says by itself. Without
                it the result holds what every database with a queue pool understands.

        Raises:
            ValueError: `transaction_pooler` was asked for, and the URL is not PostgreSQL's.

        Example:
            >>> options = PoolConfig().as_engine_options("postgresql+psycopg://localhost/studio")
            >>> options["pool_timeout"], options["connect_args"]["connect_timeout"]
            (20.0, 5)
        """
        options: dict[str, Any] = (
            {} if url is None else {"connect_args": connect_args(normalized_url(url), self)}
        )
        if self.transaction_pooler:
            return options | {"poolclass": NullPool, "hide_parameters": self.hide_parameters}
        return options | {
            "pool_size": self.pool_size,
            "max_overflow": self.max_overflow,
            "pool_timeout": self.pool_timeout,
            "pool_recycle": self.pool_recycle,
            "pool_pre_ping": self.pool_pre_ping,
            "pool_use_lifo": self.pool_use_lifo,
            "hide_parameters": self.hide_parameters,
        }


#: The pool options by themselves, for `SQLALCHEMY_ENGINE_OPTIONS` or `PoolConfig(**POOL_SETTINGS)`.
POOL_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        name: getattr(PoolConfig(), name)
        for name in ("pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_pre_ping")
    }
)


def understood(options: Mapping[str, Any], poolclass: type[Pool]) -> dict[str, Any]:
    """Return the options without those that this class of pool has no use for."""
    if issubclass(poolclass, QueuePool):
        return dict(options)
    foreign = {"max_overflow", "pool_timeout", "pool_use_lifo"}
    if not issubclass(poolclass, SingletonThreadPool):
        foreign.add("pool_size")
    return {name: value for name, value in options.items() if name not in foreign}
