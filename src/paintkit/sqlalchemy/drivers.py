"""What each driver is told when it connects: how long to wait, what the server is to bound, what a pooler cannot bear."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy import URL

    from paintkit.sqlalchemy.pool import PoolConfig

__all__ = ["connect_args"]

_Arguments = dict[str, Any]


def connect_args(url: URL, config: PoolConfig) -> _Arguments:
    """Return the driver's own arguments for a configuration; what the URL says by itself stays as it says.

    Args:
        url: As `normalized_url` returns it.
        config: A limit of it that the database does not know is left out.

    Raises:
        ValueError: The configuration is for a pooler in front of PostgreSQL, and the URL is another database's.
    """
    driver = url.get_dialect().driver
    if config.transaction_pooler and driver not in _POSTGRES:
        raise ValueError(
            f"transaction_pooler is for PostgreSQL through psycopg or asyncpg, not for {url.drivername}: leave it out"
        )
    told = _DRIVERS[driver](config) if driver in _DRIVERS else {}
    given = url.query.get("options")
    if "options" in told and isinstance(given, str):
        told["options"] += f" {given}"  # the last word wins
    return {name: value for name, value in told.items() if name == "options" or name not in url.query}


def _psycopg(config: PoolConfig) -> _Arguments:
    # A prepared statement lives in one server connection, and the pooler may choose another for the next transaction.
    return _libpq(config) | ({"prepare_threshold": None} if config.transaction_pooler else {})


def _libpq(config: PoolConfig) -> _Arguments:
    # Each of the three mechanisms covers a different moment (connecting, waiting for an acknowledgement, waiting for a
    # slow result); pre-ping covers none, it is itself what hangs.
    silence = config.silence_timeout
    told: _Arguments = {
        "connect_timeout": max(2, round(config.connect_timeout)),
        "keepalives": 1,
        "keepalives_idle": _whole(silence),
        "keepalives_interval": _whole(silence / 3),
        "keepalives_count": 3,
        "tcp_user_timeout": round(silence * 1000),
    }
    limits = _postgres_limits(config)
    if limits:
        told["options"] = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return told


def _asyncpg(config: PoolConfig) -> _Arguments:
    told: _Arguments = {"timeout": config.connect_timeout, "command_timeout": config.response_timeout}
    limits = _postgres_limits(config)
    if limits:
        told["server_settings"] = limits
    if config.transaction_pooler:
        told |= {
            "statement_cache_size": 0,  # asyncpg's
            "prepared_statement_cache_size": 0,  # SQLAlchemy's
            # Statements are prepared all the same: no two clients may give the same name to a server connection.
            "prepared_statement_name_func": _unique_name,
        }
    return told


def _pymysql(config: PoolConfig) -> _Arguments:
    told: _Arguments = {
        "connect_timeout": _whole(config.connect_timeout),
        "read_timeout": config.response_timeout,
        "write_timeout": config.response_timeout,
    }
    limits = _mysql_limits(config)
    if limits:
        told["init_command"] = f"SET SESSION {limits}"
    return told


def _sqlite(config: PoolConfig) -> _Arguments:
    # There is nothing to wait for but a lock.
    return {"timeout": config.connect_timeout if config.lock_timeout is None else config.lock_timeout}


def _postgres_limits(config: PoolConfig) -> dict[str, str]:
    limits = {
        "statement_timeout": config.statement_timeout,
        "lock_timeout": config.lock_timeout,
        "idle_in_transaction_session_timeout": config.idle_in_transaction_timeout,
    }
    return {name: str(max(1, round(value * 1000))) for name, value in limits.items() if value is not None}


def _mysql_limits(config: PoolConfig) -> str:
    limits = []
    if config.lock_timeout is not None:
        whole = _whole(config.lock_timeout)  # of a row, and of a table's definition
        limits.append(f"innodb_lock_wait_timeout={whole}, lock_wait_timeout={whole}")
    if config.statement_timeout is not None:
        limits.append(f"max_statement_time={config.statement_timeout:g}")
    if config.idle_in_transaction_timeout is not None:
        limits.append(f"idle_transaction_timeout={_whole(config.idle_in_transaction_timeout)}")
    return ", ".join(limits)


def _unique_name() -> str:
    return f"__paintkit_{uuid.uuid4().hex}__"


def _whole(seconds: float) -> int:
    return max(1, round(seconds))


_POSTGRES: Final = frozenset({"asyncpg", "psycopg", "psycopg2", "psycopg_async"})

_DRIVERS: Final[Mapping[str, Callable[[PoolConfig], _Arguments]]] = {
    "aiosqlite": _sqlite,
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "psycopg2": _libpq,
    "psycopg_async": _psycopg,
    "pymysql": _pymysql,
    "pysqlite": _sqlite,
}
