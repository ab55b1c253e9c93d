"""Whether the connections of all processes together fit the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from paintkit._words import counted
from paintkit.errors import PaintkitError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["Finding", "findings"]

Level = Literal["error", "warning", "ok"]

#: Connections left free for migrations, a console, and whatever else looks in.
_RESERVE = 5


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        level: `"error"`, `"warning"` or `"ok"`.
        topic: What was looked at, in a word or two.
        message: What was found, with numbers, and what to change.
    """

    level: Level
    topic: str
    message: str


def findings(
    engine: Engine,
    connect: Callable[[], Connection],
    stats: Mapping[str, int | float | None],
    workers: int,
    replicas: int,
) -> list[Finding]:
    """Compare the pool, times workers and replicas, with what the server allows; the worst finding comes first."""
    try:
        connection = connect()
    except (SQLAlchemyError, PaintkitError, OSError) as error:
        # Its first line: drivers append hints of many lines.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [Finding("error", "connection", f"the database cannot be reached: {reason}")]
    found = [
        Finding("ok", "connection", f"connected to {engine.dialect.name} through {engine.dialect.driver}")
    ]
    found += _size(connection, stats["capacity"], workers, replicas)
    return sorted(found, key=lambda finding: ("error", "warning", "ok").index(finding.level))


def _size(connection: Connection, capacity: int | float | None, workers: int, replicas: int) -> list[Finding]:
    if capacity is None:
        return [
            Finding(
                "warning",
                "pool size",
                "the pool has no limit, which could be compared with the server's: whatever pools outside has to have one",
            )
        ]
    connections = counted(capacity, "connection")
    limit = _limit(connection)
    if limit is None:
        return [Finding("ok", "pool size", f"up to {connections} in each process; the server has no limit")]
    wanted = round(capacity) * workers * replicas
    budget = f"{connections} × {counted(workers, 'worker')} × {counted(replicas, 'replica')} = {wanted}, the server allows {limit}"
    if wanted > limit:
        return [
            Finding(
                "error", "pool size", f"{budget}: lower pool_size or max_overflow, or raise max_connections"
            )
        ]
    if wanted > limit - _RESERVE:
        return [Finding("warning", "pool size", f"{budget}: nothing is left for migrations and consoles")]
    return [Finding("ok", "pool size", budget)]


def _limit(connection: Connection) -> int | None:
    """How many ordinary connections the server accepts from us, or `None` where there is no such limit."""
    query = _LIMITS.get(connection.dialect.name)
    return None if query is None else int(connection.exec_driver_sql(query).scalar_one())


# Of the server, of this user, and of this database: the least counts. -1 and 0 stand for no limit.
_POSTGRES: Final = """
select least(
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int,
    (select nullif(rolconnlimit, -1) from pg_catalog.pg_roles where rolname = current_user),
    (select nullif(datconnlimit, -1) from pg_catalog.pg_database where datname = current_database())
)"""
_MYSQL: Final = (
    "select least(@@max_connections, coalesce(nullif(@@max_user_connections, 0), @@max_connections))"
)
_LIMITS: Final[Mapping[str, str]] = {"postgresql": _POSTGRES, "mysql": _MYSQL, "mariadb": _MYSQL}
