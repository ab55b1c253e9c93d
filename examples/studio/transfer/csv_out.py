"""The whole catalogue as CSV, row by row, as the import reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqlalchemy import select

from studio.models import Brand, Paint
from studio.toolkit import Toolkit
from studio.transfer.cells import defuse
from studio.transfer.csv_in import COLUMNS

__all__ = ["open_export", "price"]

_ROWS_AT_ONCE = 1000

_PAINTS = (
    select(
        Brand.name,
        Paint.range,
        Paint.name,
        Paint.code,
        Paint.hex,
        Paint.finish,
        Paint.stock,
        Paint.min_stock,
        Paint.price_cents,
        Paint.description,
    )
    .join(Brand, Paint.brand_id == Brand.id)
    .order_by(Brand.name, Paint.range, Paint.sort_name, Paint.id)
)


def open_export(kit: Toolkit) -> Callable[[], Iterator[str]]:
    """Make the export: a generator whose unit of work is open for as long as somebody reads."""
    db = kit.db

    @db.with_database_session(read_only=True)
    def export() -> Iterator[str]:
        yield _lines([COLUMNS])
        for rows in db.session.execute(_PAINTS).partitions(_ROWS_AT_ONCE):
            yield _lines([*row[:8], price(row[8]), row[9]] for row in rows)

    return export


def price(cents: int) -> str:
    """Return an amount as people write it.

    Example:
        >>> price(5), price(1250)
        ('0.05', '12.50')
    """
    return f"{cents // 100}.{cents % 100:02d}"


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([defuse(str(cell)) for cell in row] for row in rows)
    return text.getvalue()
