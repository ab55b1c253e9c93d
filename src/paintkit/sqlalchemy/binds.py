"""The engine as units of work and read sessions are bound to it: with the options of their transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import event

from paintkit.sqlalchemy import engines
from paintkit.sqlalchemy.sessions import refuse_writes

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paintkit.sqlalchemy.options import Options

__all__ = ["Binds"]

E = TypeVar("E", bound="Engine | AsyncEngine")

_READING: Final = "reading"

_OF_SQLITE: Final = (None, "SERIALIZABLE", "READ UNCOMMITTED")


class Binds:
    """Engines with options, made once each; their pool is that of the engine they are made of."""

    def __init__(self) -> None:
        self._binds: dict[object, Engine | AsyncEngine] = {}

    def for_reading(self, engine: Engine) -> Engine:
        """Return the engine in autocommit, for sessions that only read: by whatever way."""
        known = self._binds.get(_READING)
        if known is None:
            made = engine.execution_options(isolation_level="AUTOCOMMIT", **{engines.READ_ONLY: True})
            event.listen(made, "before_cursor_execute", refuse_writes)
            known = self._binds.setdefault(_READING, made)
        return cast("Engine", known)

    def for_unit(self, engine: E, options: Options) -> E:
        """Return the engine for a unit of work with these options."""
        chosen = _transaction_options(engine.dialect.name, options)
        # An engine with options asks its own and the other's listeners at every step: the plain one is 4 % quicker.
        return self._with(engine, (options.read_only, options.isolation), chosen) if chosen else engine

    def _with(self, engine: E, key: object, options: dict[str, Any]) -> E:
        return cast(
            "E", self._binds.get(key) or self._binds.setdefault(key, engine.execution_options(**options))
        )


def _transaction_options(dialect: str, options: Options) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if options.isolation is not None:
        chosen["isolation_level"] = options.isolation
    match dialect:
        case "sqlite" if options.isolation not in _OF_SQLITE:
            raise ValueError(
                f"SQLite has no isolation {options.isolation!r}: its transactions are SERIALIZABLE, so leave it out"
            )
        case "sqlite" if options.read_only:
            chosen[engines.READ_ONLY] = True
        case "sqlite":
            # It has one writer. A unit that takes its turn at once waits; one that read first would have to fail.
            chosen[engines.BEGIN_MODE] = "IMMEDIATE"
        case "postgresql" if options.read_only:
            chosen["postgresql_readonly"] = True
        case _:
            pass
    return chosen
