"""How an engine is made from a URL, and what its dialect needs before a unit of work can rely on it."""

from __future__ import annotations

import itertools
import sqlite3
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from paintkit.sqlalchemy.pool import understood
from paintkit.sqlalchemy.queues import AsyncPool, BlockingPool
from paintkit.sqlalchemy.silence import bound_silence
from paintkit.sqlalchemy.urls import is_async

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import Pool

__all__ = ["BEGIN_MODE", "READ_ONLY", "make_engine", "refuse_autocommit", "sync_engine", "take_begin_control"]

#: The execution option that says how SQLite begins: `IMMEDIATE` takes the write lock at once, and waits for it.
BEGIN_MODE: Final = "paintkit_begin"

#: The execution option that keeps SQLite from writing.
READ_ONLY: Final = "paintkit_read_only"


_memory_numbers = itertools.count(1)


def make_engine(url: URL, options: Mapping[str, Any], *, silence: float) -> Engine | AsyncEngine:
    """Create the engine of a URL: asyncio's for an async-only driver, blocking otherwise.

    Args:
        url: As `normalized_url` returns it.
        options: For `create_engine`; those that the pool's class does not understand are left out.
        silence: Seconds without a sign of life after which the server's host counts as gone.
    """
    settings = dict(options)
    asyncio = is_async(url)
    if _is_plain_memory(url) and "poolclass" not in settings:
        url = _shared_memory(url)
    poolclass: type[Pool] = settings.setdefault("poolclass", AsyncPool if asyncio else BlockingPool)
    settings = understood(settings, poolclass)
    if asyncio:
        from sqlalchemy.ext.asyncio import create_async_engine

        made = create_async_engine(url, **settings)
        _tune(made.sync_engine, url, silence)
        return made
    engine = create_engine(url, **settings)
    _tune(engine, url, silence)
    return engine


def sync_engine(engine: object) -> Engine | None:
    """Return the engine itself, or the one within an `AsyncEngine`; `None` for anything else."""
    if isinstance(engine, Engine):
        return engine
    # Whoever made an AsyncEngine has loaded its module.
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    if module is not None and isinstance(engine, module.AsyncEngine):
        return engine.sync_engine  # type: ignore[no-any-return]  # found through sys.modules
    return None


def refuse_autocommit(engine: Engine) -> None:
    """Raise if this engine commits every statement by itself, so that nothing could be rolled back.

    Raises:
        ValueError: It does.
    """
    given = engine.get_execution_options().get("isolation_level", engine.dialect._on_connect_isolation_level)
    if given == "AUTOCOMMIT":
        raise ValueError(
            "this engine is in AUTOCOMMIT, where a unit of work could not roll back: leave its isolation_level out"
        )


def take_begin_control(engine: Engine) -> None:
    """Let SQLite transactions begin when SQLAlchemy says so.

    Python's driver begins by itself, before the first write and not before a SAVEPOINT: a released savepoint then
    survives the rollback of what should surround it.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", _begin)  # again is once: SQLAlchemy knows its listeners


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    _set_read_only(connection, options.get(READ_ONLY, False))
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    # Python's driver, finding a transaction open, begins none of its own.
    connection.exec_driver_sql(f"BEGIN {options.get(BEGIN_MODE, 'DEFERRED')}")


def _set_read_only(connection: Connection, wanted: bool) -> None:
    """Bring the driver's connection, which remembers the last one who used it, into the state that is wanted now."""
    if connection.info.get(READ_ONLY, False) is not wanted:
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if wanted else 'OFF'}")
        connection.info[READ_ONLY] = wanted


def _tune(engine: Engine, url: URL, silence: float) -> None:
    if engine.dialect.name == "sqlite":
        _tune_sqlite(engine, url)
    else:
        bound_silence(engine, silence)


def _tune_sqlite(engine: Engine, url: URL) -> None:
    read_only = url.query.get("mode") == "ro" or url.query.get("immutable") == "1"
    pragmas = ["PRAGMA foreign_keys=ON"]
    if not read_only and url.query.get("vfs") != "memdb":
        # Readers and the one writer do not wait for each other; synced at checkpoints, safe against a crash of ours.
        pragmas += ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"]

    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "connect", prepare)
    if url.query.get("vfs") == "memdb":
        _keep_alive(engine, str(url.database))


def _is_plain_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"} and not url.query


def _shared_memory(url: URL) -> URL:
    """A memory database that several connections share, each with a transaction and locks of its own."""
    return url.set(database=f"file:/paintkit-{next(_memory_numbers)}", query={"vfs": "memdb", "uri": "true"})


def _keep_alive(engine: Engine, database: str) -> None:
    """Hold the memory database open as long as its engine lives, whatever the pool closes."""
    memory = sqlite3.connect(f"{database}?vfs=memdb", uri=True, check_same_thread=False)
    weakref.finalize(engine, memory.close)
