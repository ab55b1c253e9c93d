"""Tables of paintkit's own: a statement that finds one of them missing is told how it comes to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, Table, event

from paintkit.sqlalchemy.tables import named_in

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

__all__ = ["explain_missing", "made_by"]

_MADE_BY: Final = "paintkit.made_by"

_NO_SUCH_TABLE: Final = frozenset(
    {"42P01", 1146}
)  # PostgreSQL's state, MariaDB's number: its state depends on the driver


def made_by(how: str, *tables: Table) -> None:
    """Note how to make tables, for whoever uses them before they are there."""
    for table in tables:
        table.info[_MADE_BY] = how


def explain_missing(engine: Engine) -> None:
    """Let errors of this engine about a table of ours that is not there say how it is made."""
    event.listen(engine, "handle_error", _on_error)


def _on_error(context: ExceptionContext) -> None:
    error, execution = context.sqlalchemy_exception, context.execution_context
    compiled = getattr(execution, "compiled", None)
    if error is None or compiled is None or not _lacks_table(context.original_exception):
        return
    for table in named_in(compiled.statement):
        how = isinstance(table, Table) and table.info.get(_MADE_BY)
        if how:
            error.add_note(how)
            return


def _lacks_table(error: Any) -> bool:
    told = {getattr(error, "sqlstate", None), *error.args[:1]}
    return not told.isdisjoint(_NO_SUCH_TABLE) or str(error).startswith("no such table")
