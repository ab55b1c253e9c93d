"""How many statements a piece of code runs, from where, and which of them run once for each row."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from contextvars import ContextVar
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, Self

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import ORMExecuteState, Session

from paintkit import _arguments, clock, observations
from paintkit._locks import new_lock
from paintkit._words import counted
from paintkit.errors import QueryGuardError
from paintkit.sqlalchemy import call_sites
from paintkit.sqlalchemy.commits import NUMBERING
from paintkit.sqlalchemy.statements import Ran, fingerprint, is_walk
from paintkit.sqlalchemy.units import SHORT_LOCKS

__all__ = ["Repetition", "Statement", "query_guard", "watch"]

# What opens, guards and bounds a transaction is no query.
_CONTROL: Final = (
    "BEGIN",
    "SAVEPOINT",
    "RELEASE",
    "ROLLBACK",
    "START TRANSACTION",
    "SET LOCAL",
    "PRAGMA query_only",
    NUMBERING,
    SHORT_LOCKS,
)

Kind = Literal["lazy load", "column refresh", "eager load", "select", "write", "other"]

_KINDS: Final[dict[str, Kind]] = {
    "select": "select",
    "with": "select",
    "insert": "write",
    "update": "write",
    "delete": "write",
    "replace": "write",
    "merge": "write",
}
_NAMES: Final = {"select": "repeated select", "write": "write loop"}
_FIXES: Final = {
    "lazy load": "load them together with their parents: .options(selectinload({target}))",
    "column refresh": "load these columns with their rows: undefer(...), or expire_on_commit=False",
    "select": "ask once for all: .where(column.in_(values)), or a join",
    "write": "write all at once: session.add_all(rows) before one flush, or session.execute(insert(...), rows)",
}
# How the ORM says, to the connection below it, what a statement is for.
_PURPOSE: Final = "paintkit_purpose"
# A message with more lines than this helps nobody.
_SHOWN: Final = 50


class Statement(NamedTuple):
    """One statement that ran.

    Attributes:
        sql: Its text, without the values.
        site: The file and line of the code that caused it, outside SQLAlchemy, paintkit and the standard library.
        kind: `"lazy load"`, `"column refresh"` (of an expired or deferred attribute), `"eager load"` (of a loader such as
            `selectinload`), `"select"`, `"write"` or `"other"`.
    """

    sql: str
    site: str
    kind: Kind = "other"

    def __str__(self) -> str:
        return f"{self.site}: {' '.join(self.sql.split())}"


class Repetition(NamedTuple):
    """Statements that are alike and come from one line: one for each row.

    Attributes:
        kind: `"lazy load"`, `"column refresh"`, `"select"` or `"write"`.
        sql: The text of the first.
        site: The file and line of the code that caused them.
        times: How many ran.
        fix: What to write instead.
        seconds: How long they took together.
    """

    kind: Kind
    sql: str
    site: str
    times: int
    fix: str
    seconds: float = 0.0

    def __str__(self) -> str:
        name = _NAMES.get(self.kind, self.kind)
        return f"{self.times} × {name} at {self.site}: {' '.join(self.sql.split())}\n    {self.fix}"


class _Record(NamedTuple):
    """What is known of a statement beyond what is told of it."""

    statement: Statement
    group: str
    ran: Ran
    target: str  # what a lazy load loads, as `Parent.children`
    is_batch: bool
    attempt: int
    flush: int | None
    span: _Span


class _Span:
    """How long a statement ran; 0 if it failed."""

    __slots__ = ("_began", "seconds")

    def __init__(self, began: float) -> None:
        self._began = began
        self.seconds = 0.0

    def end(self, now: float) -> None:
        self.seconds = now - self._began


class _Progress:
    """What has happened so far in the outermost guard and all within: failures, and flushes."""

    def __init__(self) -> None:
        self.attempt = 0
        self.flush = 0


class query_guard:  # noqa: N801 - a verb where it is used: `with query_guard(max_queries=3):`
    """Fail if a block runs more statements than it should, or one for each row.

    Counts what this thread or task, and the tasks it starts, run through any engine inside the block; what begins, guards
    and ends a transaction is not counted. Statements that are alike and come from one line are one too many for each row,
    unless they read one long result in pages or chunks, belong to an eager load, write many rows each, or repeat what a
    failure undid. Nothing is watched while no guard is open. A guard inside another counts for both.

    Args:
        max_queries: The most statements allowed, 0 or more; `None` does not limit them.
        lazy_threshold: How many lazy loads, or refreshes of expired or deferred columns, from one line are too many, at
            least 2; `None` does not look for them.
        repeat_threshold: The same for selects and writes that are alike.

    Raises:
        QueryGuardError: At the end of the block, unless it raised by itself: too many ran. `statements` holds them,
            `repetitions` what ran for each row.

    Example:
        >>> with query_guard(max_queries=0) as guard:
        ...     pass
        >>> guard.statements
        []
    """

    def __init__(
        self,
        *,
        max_queries: int | None = None,
        lazy_threshold: int | None = 2,
        repeat_threshold: int | None = 5,
    ) -> None:
        self._most = None if max_queries is None else _arguments.count("max_queries", max_queries, least=0)
        lazy = _threshold("lazy_threshold", lazy_threshold)
        repeated = _threshold("repeat_threshold", repeat_threshold)
        self._thresholds: dict[Kind, int | None] = {
            "lazy load": lazy,
            "column refresh": lazy,
            "select": repeated,
            "write": repeated,
        }
        self._outer: query_guard | None = None
        self._used = False
        self._records: list[_Record] = []
        #: Where failures and flushes are counted.
        self.progress = _Progress()

    @property
    def statements(self) -> list[Statement]:
        """The statements that ran so far."""
        return [record.statement for record in self._records]

    @property
    def repetitions(self) -> list[Repetition]:
        """What ran once for each row so far, in the order of the first statements."""
        groups: defaultdict[tuple[str, str, str], list[_Record]] = defaultdict(list)
        for record in list(self._records):
            groups[record.statement.kind, record.group, record.statement.site].append(record)
        return [
            Repetition(
                kind,
                first.sql,
                first.site,
                count,
                _FIXES[kind].format(target=records[0].target),
                sum(record.span.seconds for record in records),
            )
            for records, first, count, kind in (
                (records, records[0].statement, _rows(records), records[0].statement.kind)
                for records in groups.values()
            )
            if (least := self._thresholds.get(kind)) is not None and count >= least
        ]

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError("this guard is in use: make a new one with query_guard(...)")
        self._outer = _guard.get()
        self._used = True
        if self._outer is not None:
            self.progress = self._outer.progress
        _guard.set(self)
        watch(+1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None:
            self.verify()

    def close(self) -> None:
        """End the block without a verdict; one that is not open stays as it is."""
        if self._used:
            self._used = False
            watch(-1)
            _guard.set(self._outer)

    def verify(self) -> None:
        """Raise if too many statements ran so far.

        Raises:
            QueryGuardError: See the class.
        """
        repetitions = self.repetitions
        too_many = self._most is not None and len(self._records) > self._most
        if too_many or repetitions:
            statements = tuple(self.statements)
            raise QueryGuardError(
                _complaint(statements, repetitions, self._most if too_many else None),
                statements,
                tuple(repetitions),
            )

    def note(self, record: _Record) -> None:
        """Count a statement, here and in the guards around."""
        self._records.append(record)
        if self._outer is not None:
            self._outer.note(record)


def _threshold(name: str, value: object) -> int | None:
    return None if value is None else _arguments.count(name, value, least=2)


def _rows(records: list[_Record]) -> int:
    """How many of these statements, which are alike, ran for one row each."""
    single = _not_flushed_together(_not_retried([record for record in records if not record.is_batch]))
    return 0 if len(single) > 1 and is_walk([record.ran for record in single]) else len(single)


def _not_retried(records: list[_Record]) -> list[_Record]:
    """Leave out what ran with the same values before the latest failure: its repetition is an attempt, not a row."""
    if len({record.attempt for record in records}) == 1:
        return records
    first: dict[str, int] = {}
    return [
        record
        for record in records
        if first.setdefault(repr(record.ran.parameters), record.attempt) == record.attempt
    ]


def _not_flushed_together(records: list[_Record]) -> list[_Record]:
    """Leave one of each flush: it is the ORM that writes row by row then, and all it is given at once."""
    flushes: set[int] = set()
    kept: list[_Record] = []
    for record in records:
        if record.flush is None or record.flush not in flushes:
            kept.append(record)
        if record.flush is not None:
            flushes.add(record.flush)
    return kept


def _complaint(statements: tuple[Statement, ...], repetitions: Iterable[Repetition], most: int | None) -> str:
    said = (
        []
        if most is None
        else [f"{counted(len(statements), 'statement')} ran and {counted(most, 'is', 'are')} allowed"]
    )
    found = [f"  {one}" for one in repetitions]
    if found:
        said.append("one statement ran for each row:\n" + "\n".join(found) + "\nall that ran")
    else:
        said.append("if one runs for each row, load the rows together, for example with selectinload(...)")
    lines = [f"  {number}. {one}" for number, one in enumerate(islice(statements, _SHOWN), 1)]
    if len(statements) > _SHOWN:
        lines.append(f"  and {len(statements) - _SHOWN} more")
    return "; ".join(said) + ":\n" + "\n".join(lines)


_guard: ContextVar[query_guard | None] = ContextVar("paintkit.query_guard", default=None)

# How many guards are open; listening costs every statement something, so nobody listens without one.
_open = 0
_changing = new_lock()
_retries: observations.Subscription | None = None


def watch(change: int) -> None:
    """Listen while the sum of all changes is positive.

    Listeners come and go for all threads at once, so whoever serves requests had better listen all the time.
    """
    global _open, _retries
    with _changing:
        before, _open = _open, _open + change
        if before == 0:
            for target, name, listener in _LISTENERS:
                event.listen(target, name, listener)
            _retries = observations.observe(_on_observation)
        elif _open == 0:
            for target, name, listener in _LISTENERS:
                event.remove(target, name, listener)
            if _retries is not None:
                _retries.cancel()


def _note(
    _connection: Connection, _cursor: Any, sql: str, parameters: Any, context: Any, executemany: bool
) -> None:
    guard = _guard.get()
    if guard is None or sql.startswith(_CONTROL):
        return
    site, in_flush, in_refresh = _site()
    kind, target = context.execution_options.get(_PURPOSE, (None, ""))
    if kind is None or (kind == "column refresh" and in_refresh):
        kind = _KINDS.get(sql.lstrip("( \n\t")[:7].partition(" ")[0].partition("\n")[0].lower(), "other")
    compiled = context.compiled
    span = context._paintkit_span = _Span(clock.now())
    guard.note(
        _Record(
            Statement(sql, site, kind),
            fingerprint(sql if compiled is None else compiled.string),
            Ran(sql, () if executemany else parameters),
            target,
            executemany or (compiled is not None and len(context.compiled_parameters) > 1),
            guard.progress.attempt,
            guard.progress.flush if in_flush else None,
            span,
        )
    )


def _on_done(
    _connection: Connection, _cursor: Any, _sql: str, _parameters: Any, context: Any, _executemany: bool
) -> None:
    span: _Span | None = getattr(context, "_paintkit_span", None)
    if span is not None:
        span.end(clock.now())


_FLUSH: Final = Session._flush.__code__
_REFRESH: Final = Session.refresh.__code__


def _site() -> tuple[str, bool, bool]:
    """Return the line that caused this, and whether it did so through a flush, or through `session.refresh()`."""
    in_flush = in_refresh = False
    for frame in call_sites.frames(sys._getframe(2)):
        code = frame.f_code
        if call_sites.is_caller(code.co_filename):
            return call_sites.place(frame), in_flush, in_refresh
        in_flush = in_flush or code is _FLUSH
        in_refresh = in_refresh or code is _REFRESH
    return "unknown", in_flush, in_refresh


def _on_orm_execute(state: ORMExecuteState) -> None:
    if _guard.get() is None:
        return
    if state.is_column_load:
        state.update_execution_options(**{_PURPOSE: ("column refresh", "")})
    elif state.is_relationship_load:
        lazy = state.is_select and state.lazy_loaded_from is not None
        purpose = ("lazy load", _relationship(state)) if lazy else ("eager load", "")
        state.update_execution_options(**{_PURPOSE: purpose})


def _relationship(state: ORMExecuteState) -> str:
    path = state.loader_strategy_path
    last = None if path is None else path.path[-1]
    return "..." if last is None else str(last)


def _on_flush(*_: object) -> None:
    guard = _guard.get()
    if guard is not None:
        guard.progress.flush += 1


def _on_failure(_context: object) -> None:
    guard = _guard.get()
    if guard is not None:
        guard.progress.attempt += 1


def _on_observation(observation: observations.Observation) -> None:
    if observation.kind == "retry.waiting":
        _on_failure(observation)


_LISTENERS: Final[tuple[tuple[Any, str, Any], ...]] = (
    (Engine, "before_cursor_execute", _note),
    (Engine, "after_cursor_execute", _on_done),
    (Engine, "handle_error", _on_failure),
    (Session, "do_orm_execute", _on_orm_execute),
    (Session, "before_flush", _on_flush),
)
