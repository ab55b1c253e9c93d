"""How many statements a piece of code runs, and from where."""

from __future__ import annotations

import sys
import sysconfig
import threading
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Connection, Engine, event
from sqlalchemy import __file__ as sqlalchemy_file

from paintkit import _arguments
from paintkit.errors import QueryGuardError

__all__ = ["Statement", "query_guard"]

# What opens, guards and bounds a transaction is no query.
_CONTROL: Final = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "SET LOCAL", "PRAGMA query_only")

# Code in these folders does as it is told; third-party packages lie inside the standard library's folder, yet are callers.
_ENGINE_ROOM: Final = (str(Path(sqlalchemy_file).parent), str(Path(__file__).parents[1]), "<")
_STDLIB: Final = sysconfig.get_paths()["stdlib"]
_PACKAGES: Final = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"])


class Statement(NamedTuple):
    """One statement that ran.

    Attributes:
        sql: Its text, without the values.
        site: The file and line of the code that caused it, outside SQLAlchemy, paintkit and the standard library.
    """

    sql: str
    site: str

    def __str__(self) -> str:
        return f"{self.site}: {' '.join(self.sql.split())}"


class query_guard:  # noqa: N801 - a verb where it is used: `with query_guard(max_queries=3):`
    """Fail if a block runs more statements than it should: the usual sign of one query for each row.

    Counts what this thread or task runs through any engine inside the block; what begins, guards and ends a transaction is
    not counted. Nothing is watched while no guard is open. A guard inside another counts for both.

    Args:
        max_queries: The most statements allowed, 0 or more.

    Raises:
        QueryGuardError: At the end of the block, unless it raised by itself: too many ran. `statements` holds them.

    Example:
        >>> with query_guard(max_queries=0) as guard:
        ...     pass
        >>> guard.statements
        []
    """

    def __init__(self, *, max_queries: int) -> None:
        self._most = _arguments.count("max_queries", max_queries, least=0)
        self._outer: query_guard | None = None
        self._used = False
        #: The statements that ran so far.
        self.statements: list[Statement] = []

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError("this guard is in use: make a new one with query_guard(...)")
        self._outer = _guard.get()
        self._used = True
        _guard.set(self)
        _watch(+1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _watch(-1)
        _guard.set(self._outer)
        self._used = False
        if kind is None and len(self.statements) > self._most:
            raise QueryGuardError(self._complaint(), tuple(self.statements))

    def _complaint(self) -> str:
        lines = "\n".join(f"  {number}. {one}" for number, one in enumerate(self.statements, 1))
        return (
            f"{len(self.statements)} statements ran and {self._most} are allowed; if one runs for each row, load the rows "
            f"together, for example with selectinload(...):\n{lines}"
        )

    def note(self, statement: Statement) -> None:
        """Count a statement, here and in the guards around."""
        self.statements.append(statement)
        if self._outer is not None:
            self._outer.note(statement)


_guard: ContextVar[query_guard | None] = ContextVar("paintkit.query_guard", default=None)

# How many guards are open; listening costs every statement something, so nobody listens without one.
_open = 0
_changing = threading.Lock()


def _watch(change: int) -> None:
    global _open
    with _changing:
        before, _open = _open, _open + change
        if before == 0:
            event.listen(Engine, "before_cursor_execute", _note)
        elif _open == 0:
            event.remove(Engine, "before_cursor_execute", _note)


def _note(_connection: Connection, _cursor: Any, sql: str, *_: object) -> None:
    guard = _guard.get()
    if guard is not None and not sql.startswith(_CONTROL):
        guard.note(Statement(sql, _site()))


def _site() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not _is_caller(frame.f_code.co_filename):
        frame = frame.f_back or _beyond_greenlet(frame)
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _beyond_greenlet(_outermost: FrameType) -> FrameType | None:
    """SQLAlchemy's asyncio half runs in a greenlet; who awaits it stands in the greenlet that waits for this one."""
    greenlet = sys.modules.get("greenlet")
    parent = None if greenlet is None else greenlet.getcurrent().parent
    return None if parent is None else parent.gr_frame


def _is_caller(file: str) -> bool:
    return not file.startswith(_ENGINE_ROOM) and (file.startswith(_PACKAGES) or not file.startswith(_STDLIB))
