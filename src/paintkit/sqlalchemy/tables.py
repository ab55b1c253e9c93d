"""Which tables a statement reads or writes, by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Table, TableClause, TextClause, UpdateBase, inspect
from sqlalchemy.orm.interfaces import UserDefinedOption
from sqlalchemy.sql import visitors
from sqlalchemy.sql.ddl import ExecutableDDLElement

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.orm import Mapper

__all__ = ["EVERY_TABLE", "has_text", "named_in", "read_by", "written_by"]

#: What a statement writes of which nobody knows what it writes.
EVERY_TABLE: Final = frozenset({"*"})

# What begins so, and is one statement alone, writes no table; neither do the statements that units of work send as text.
# EXPLAIN ANALYZE does what it explains.
_HARMLESS: Final = re.compile(
    r"\s*(select|show|explain(?!.*\banaly[sz]e\b)|pragma|values|set|begin|start|savepoint|release|rollback|commit|lock|listen|notify)\b"
    r"[^;]*;?\s*",
    re.IGNORECASE | re.DOTALL,
)

_EAGER: Final = frozenset({"joined", "selectin", "subquery", "immediate", "select_in", False})
_CASCADES: Final = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


def read_by(statement: Any, dialect: Dialect) -> frozenset[str]:
    """Return the tables that a SELECT reads, with those that its eager loads may read after it."""
    compiled = statement.compile(dialect=dialect)
    core = getattr(compiled.compile_state, "statement", statement)  # with what the ORM has joined
    found = {*_tables(statement), *_tables(core)}
    # Loader options name paths; whatever can be reached may be read.
    reaches_far = any(
        not isinstance(option, UserDefinedOption) for option in getattr(statement, "_with_options", ())
    )
    for one in getattr(statement, "column_descriptions", ()):
        entity = inspect(one.get("entity"), raiseerr=False)
        if entity is not None:
            found |= _reachable(entity.mapper, everything=reaches_far)
    return frozenset(found)


def has_text(statement: Any) -> bool:
    """Whether parts of a statement are text, in which tables cannot be seen."""
    return any(isinstance(part, TextClause) for part in visitors.iterate(statement))


def written_by(compiled: Any, text: str) -> frozenset[str]:
    """Return the tables that a statement writes.

    Args:
        compiled: What SQLAlchemy compiled; `None` for text that went to the driver as it was.
        text: What the driver gets.
    """
    statement = None if compiled is None else compiled.statement
    if isinstance(statement, ExecutableDDLElement):
        return EVERY_TABLE
    if statement is None or isinstance(statement, TextClause):
        return frozenset() if _HARMLESS.fullmatch(text) else EVERY_TABLE
    if not (getattr(statement, "is_dml", False) or getattr(compiled, "ctes", None)):
        return frozenset()
    written = [part for part in visitors.iterate(statement) if isinstance(part, UpdateBase)]
    return frozenset().union(*map(_changed_by, written))


def _changed_by(statement: UpdateBase) -> frozenset[str]:
    table = cast("Any", statement).table
    if statement.is_insert:
        return (
            frozenset().union(*map(_with_dependents, _parts(table)))
            if _replaces(statement)
            else frozenset(_tables(table))
        )
    # MySQL may update several tables at once; and the database itself goes on from row to row.
    return frozenset().union(*map(_with_dependents, [*_parts(statement), *_parts(table)]))


def _replaces(insert: Any) -> bool:
    """Whether it may change or delete rows that are there: ON CONFLICT, ON DUPLICATE KEY, INSERT OR REPLACE."""
    return insert._post_values_clause is not None or bool(insert._prefixes)


def named_in(statement: Any) -> Iterator[TableClause]:
    """Return the tables that a statement names, those that it writes first."""
    written = getattr(statement, "table", None)
    return _parts(statement) if written is None else chain(_parts(written), _parts(statement))


def _tables(clause: Any) -> Iterator[str]:
    return (part.fullname for part in _parts(clause))


def _parts(clause: Any) -> Iterator[TableClause]:
    return (part for part in visitors.iterate(clause) if isinstance(part, TableClause))


@functools.lru_cache(maxsize=1024)
def _with_dependents(table: TableClause) -> frozenset[str]:
    """Return a table with those whose rows the database itself changes when its rows are deleted, or change their keys."""
    if not isinstance(table, Table):
        return EVERY_TABLE  # of a mere name nobody knows whose rows go with its own
    found = {table.fullname}
    while True:
        more = {
            one.fullname
            for one in table.metadata.tables.values()
            for key in one.foreign_keys
            if key.target_fullname.rpartition(".")[0] in found
            and not _CASCADES.isdisjoint({(key.ondelete or "").upper(), (key.onupdate or "").upper()})
        }
        if more <= found:
            return frozenset(found)
        found |= more


def _reachable(mapper: Mapper[Any], *, everything: bool) -> set[str]:
    seen: set[Mapper[Any]] = set()
    found: set[str] = set()
    unseen = [mapper]
    while unseen:
        for one in unseen.pop().self_and_descendants:
            if one in seen:
                continue
            seen.add(one)
            found.update(name for part in one.tables for name in _tables(part))
            for relation in one.relationships:
                if everything or relation.lazy in _EAGER:
                    unseen.append(relation.mapper)
                    found.update(_tables(relation.secondary) if relation.secondary is not None else ())
    return found
