"""Puts a file of paints into the catalogue: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, cast

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from studio.catalogue.records import IDENTITY, PaintFields
from studio.catalogue.writes import as_columns
from studio.database import insert_if_absent
from studio.models import Brand, Paint, StockMove
from studio.problems import ImportConflictError
from studio.toolkit import Toolkit
from studio.transfer.csv_in import Parsed, Problem, Row, parse

__all__ = ["Importer", "Report"]


class Report(NamedTuple):
    """What an import did, or would do; with problems it did nothing.

    Attributes:
        rows: How many there are; none in a file whose columns could not be read.
    """

    rows: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()
    applied: bool = False

    @property
    def refusal(self) -> str:
        """Why nothing was imported."""
        if not self.rows:
            return "the file cannot be read: nothing was imported"
        bad = len(self.problems)
        return f"{bad} of {self.rows} rows {'is' if bad == 1 else 'are'} bad: nothing was imported"


class _Change(NamedTuple):
    paint_id: int
    delta: int
    fields: PaintFields


class _Plan(NamedTuple):
    added: list[PaintFields]
    changed: list[_Change]
    unchanged: int


class Importer:
    """Checks and applies files of paints.

    Args:
        kit: The primitives to work with.
        max_rows: Longer files are refused.
    """

    def __init__(self, kit: Toolkit, *, max_rows: int) -> None:
        self._kit = kit
        self._max_rows = max_rows
        self._look = kit.guard_database(kit.db.with_database_session(read_only=True)(self._plan))
        self._store = kit.repeat_write(kit.db.with_database_session(self._apply))

    def check(self, data: bytes) -> Report:
        """Say what `apply` would do with this file; nothing is written."""
        parsed = parse(data, max_rows=self._max_rows)
        if parsed.problems:
            return _refusal(parsed)
        return _report(parsed, self._look(parsed), applied=False)

    def apply(self, data: bytes, user_id: int | None = None) -> Report:
        """Store the file, unless a row is bad: then nothing is.

        Raises:
            ImportConflictError: Somebody else stored one of these paints meanwhile; nothing was stored.
        """
        parsed = parse(data, max_rows=self._max_rows)
        return _refusal(parsed) if parsed.problems else self._applied(parsed, user_id)

    def store(self, paints: Iterable[PaintFields]) -> Report:
        """Store paints that come from no file."""
        rows = tuple(Row(line, fields) for line, fields in enumerate(paints, start=1))
        return self._applied(Parsed(rows, (), frozenset(PaintFields._fields)), None)

    def _applied(self, parsed: Parsed, user_id: int | None) -> Report:
        try:
            return _report(parsed, self._store(parsed, user_id), applied=True)
        except IntegrityError as error:
            raise ImportConflictError from error

    def _apply(self, parsed: Parsed, user_id: int | None) -> _Plan:
        session = self._kit.db.session
        plan = self._plan(parsed)
        if plan.added or plan.changed:
            _add(session, plan.added, user_id)
            _change(session, plan.changed, parsed.given, user_id)
            self._kit.bus.publish(
                "catalogue.imported", {"added": len(plan.added), "changed": len(plan.changed)}
            )
        return plan

    def _plan(self, parsed: Parsed) -> _Plan:
        """Compare with what is there, one SELECT for all."""
        there = _stored(self._kit.db.session, {row.fields.brand for row in parsed.rows})
        added: list[PaintFields] = []
        changed: list[_Change] = []
        for _, fields in parsed.rows:
            if (known := there.get(fields.identity)) is None:
                added.append(fields)
            elif any(getattr(known[1], name) != getattr(fields, name) for name in parsed.given):
                delta = fields.stock - known[1].stock if "stock" in parsed.given else 0
                changed.append(_Change(known[0], delta, fields))
        return _Plan(added, changed, len(parsed.rows) - len(added) - len(changed))


def _stored(session: Session, brands: set[str]) -> dict[tuple[str, ...], tuple[int, PaintFields]]:
    paints = (getattr(Paint, name) for name in PaintFields._fields[1:])
    statement = select(Paint.id, Brand.name, *paints).join(Brand, Paint.brand_id == Brand.id)
    found = ((row[0], PaintFields(*row[1:])) for row in session.execute(statement) if row[1] in brands)
    return {fields.identity: (paint_id, fields) for paint_id, fields in found}


def _add(session: Session, paints: Sequence[PaintFields], user_id: int | None) -> None:
    brands = _brand_ids(session, {fields.brand for fields in paints})
    columns = [as_columns(fields, brands[fields.brand]) for fields in paints]
    on_shelf = [row for row in columns if row["stock"]]
    if empty := [row for row in columns if not row["stock"]]:
        session.execute(insert(Paint), empty)
    if on_shelf:  # their ids are needed for the history
        ids = session.scalars(insert(Paint).returning(Paint.id, sort_by_parameter_order=True), on_shelf)
        stocks = [fields.stock for fields in paints if fields.stock]
        _note_moves(session, list(zip(ids.all(), stocks, strict=True)), user_id)


def _change(session: Session, changes: Sequence[_Change], given: frozenset[str], user_id: int | None) -> None:
    if not changes:
        return
    table = cast(Table, Paint.__table__)
    paints = table.c
    columns = given - {*IDENTITY, "stock"}
    values = {name: bindparam(f"new_{name}") for name in columns} | {
        "stock": paints.stock + bindparam("delta"),  # a move made meanwhile is kept
        "version": paints.version + 1,
        "updated_at": datetime.now(UTC),
    }
    statement = update(table).where(paints.id == bindparam("changed")).values(values)
    session.execute(statement, [_parameters(change, columns) for change in changes])
    _note_moves(session, [(change.paint_id, change.delta) for change in changes if change.delta], user_id)


def _parameters(change: _Change, columns: Iterable[str]) -> dict[str, object]:
    named = {f"new_{name}": getattr(change.fields, name) for name in columns}
    return named | {"changed": change.paint_id, "delta": change.delta}


def _brand_ids(session: Session, names: set[str]) -> dict[str, int]:
    if not names:
        return {}
    session.execute(insert_if_absent(session, Brand), [{"name": name} for name in sorted(names)])
    return {name: brand_id for brand_id, name in session.execute(select(Brand.id, Brand.name))}


def _note_moves(session: Session, moves: Sequence[tuple[int, int]], user_id: int | None) -> None:
    rows = [{"paint_id": p, "delta": delta, "reason": "import", "user_id": user_id} for p, delta in moves]
    if rows:
        session.execute(insert(StockMove), rows)


def _report(parsed: Parsed, plan: _Plan, *, applied: bool) -> Report:
    numbers = (len(parsed.rows), len(plan.added), len(plan.changed), plan.unchanged)
    return Report(*numbers, ignored=parsed.ignored, applied=applied)


def _refusal(parsed: Parsed) -> Report:
    rows = len(parsed.rows) + len(parsed.problems) if parsed.given else 0
    return Report(rows, problems=parsed.problems, ignored=parsed.ignored)
