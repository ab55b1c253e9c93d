"""SQLAlchemy, with units of work that neither lose nor leak a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paintkit.sqlalchemy.functions import on_commit, read_only, with_database_session
from paintkit.sqlalchemy.idempotency import IdempotencyKeys
from paintkit.sqlalchemy.manager import DatabaseConnectionManager
from paintkit.sqlalchemy.pool import POOL_SETTINGS, PoolConfig
from paintkit.sqlalchemy.queries import query_guard
from paintkit.sqlalchemy.query_cache import FromCache, QueryCache
from paintkit.sqlalchemy.query_watch import QueryWatch
from paintkit.sqlalchemy.sizing import Finding
from paintkit.sqlalchemy.transient import is_transient
from paintkit.sqlalchemy.units import UnitOfWork

if TYPE_CHECKING:
    from paintkit.sqlalchemy.outbox import Outbox as Outbox

__all__ = [
    "POOL_SETTINGS",
    "DatabaseConnectionManager",
    "Finding",
    "FromCache",
    "IdempotencyKeys",
    "Outbox",
    "PoolConfig",
    "QueryCache",
    "QueryWatch",
    "UnitOfWork",
    "is_transient",
    "on_commit",
    "query_guard",
    "read_only",
    "with_database_session",
]


def __getattr__(name: str) -> Any:
    if name != "Outbox":
        raise AttributeError(f"module 'paintkit.sqlalchemy' has no attribute {name!r}")
    from paintkit.sqlalchemy.outbox import Outbox

    globals()[name] = Outbox  # found at once from now on
    return Outbox
