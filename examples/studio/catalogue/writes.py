"""What people change in the catalogue.

Every change is one unit of work, retried as a whole when the database says that trying again may help. Inside it, the
news is published: it goes out after the commit, or never.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Result, UpdateBase, insert, select, update
from sqlalchemy import delete as delete_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from studio.catalogue.records import PaintFields
from studio.colour import hue_rank
from studio.database import insert_if_absent
from studio.models import MAX_STOCK, Brand, Paint, StockMove, search_text, sort_name
from studio.problems import NotEnoughStockError, StaleVersionError, TwinError
from studio.toolkit import Toolkit

__all__ = ["Writes", "as_columns", "open_writes"]


class Writes(NamedTuple):
    """The changes that people can make; `None` and False mean that the paint is gone."""

    create: Callable[[PaintFields, int], int]
    update: Callable[[int, int, PaintFields], bool]
    move_stock: Callable[[int, int, str, int], int | None]
    delete: Callable[[int, int], bool]


def open_writes(kit: Toolkit) -> Writes:
    """Make the changes, on this toolkit's database and bus."""
    db, bus = kit.db, kit.bus

    @kit.repeat_write
    @db.with_database_session
    def create(fields: PaintFields, user_id: int) -> int:
        columns = as_columns(fields, _brand_id(db.session, fields.brand))
        paint_id: int = _no_twin(db.session, insert(Paint).values(columns).returning(Paint.id)).scalar_one()
        if fields.stock:
            _note_move(db.session, paint_id, fields.stock, "first stock", user_id)
        bus.publish("paint.created", {"id": paint_id})
        return paint_id

    @kit.repeat_write
    @db.with_database_session
    def change(paint_id: int, version: int, fields: PaintFields) -> bool:
        columns = as_columns(fields, _brand_id(db.session, fields.brand))
        del columns["stock"]  # moves alone change it, each with its reason
        here = update(Paint).where(Paint.id == paint_id, Paint.version == version)
        changed = here.values(**columns, version=version + 1, updated_at=datetime.now(UTC)).returning(
            Paint.id
        )
        if _no_twin(db.session, changed).scalar_one_or_none() is None:
            return _gone_or(db.session, paint_id, StaleVersionError)
        bus.publish("paint.updated", {"id": paint_id})
        return True

    @kit.repeat_write
    @db.with_database_session
    def move_stock(paint_id: int, delta: int, reason: str, user_id: int) -> int | None:
        left = (Paint.stock + delta).between(0, MAX_STOCK)
        moved = update(Paint).where(Paint.id == paint_id, left).values(stock=Paint.stock + delta)
        stock = db.session.execute(moved.returning(Paint.stock)).scalar_one_or_none()
        if stock is None:
            _gone_or(db.session, paint_id, NotEnoughStockError)
            return None
        _note_move(db.session, paint_id, delta, reason, user_id)
        bus.publish("paint.updated", {"id": paint_id})
        return stock

    @kit.repeat_write
    @db.with_database_session
    def delete(paint_id: int, version: int) -> bool:
        here = delete_(Paint).where(Paint.id == paint_id, Paint.version == version)
        if db.session.execute(here.returning(Paint.id)).scalar_one_or_none() is None:
            return _gone_or(db.session, paint_id, StaleVersionError)
        bus.publish("paint.deleted", {"id": paint_id})
        return True

    return Writes(create, change, move_stock, delete)


def as_columns(fields: PaintFields, brand_id: int) -> dict[str, object]:
    """Return the columns that a paint's fields decide."""
    columns = fields._asdict()
    del columns["brand"]
    return columns | {
        "brand_id": brand_id,
        "hue": hue_rank(fields.hex),
        "sort_name": sort_name(fields.name),
        "search_text": search_text(fields.brand, fields.range, fields.code, fields.name),
    }


def _brand_id(session: Session, name: str) -> int:
    """Return the brand of this name, made if it is new: whoever was faster, it is one brand."""
    session.execute(insert_if_absent(session, Brand).values(name=name))
    return session.execute(select(Brand.id).where(Brand.name == name)).scalar_one()


def _no_twin(session: Session, statement: UpdateBase) -> Result[Any]:
    try:
        return session.execute(statement)
    except IntegrityError as error:
        raise TwinError from error


def _gone_or(session: Session, paint_id: int, problem: type[Exception]) -> bool:
    """Return False if the paint is gone; it is there, so the change itself met a problem."""
    if session.execute(select(Paint.id).where(Paint.id == paint_id)).first() is not None:
        raise problem
    return False


def _note_move(session: Session, paint_id: int, delta: int, reason: str, user_id: int) -> None:
    session.execute(insert(StockMove).values(paint_id=paint_id, delta=delta, reason=reason, user_id=user_id))
