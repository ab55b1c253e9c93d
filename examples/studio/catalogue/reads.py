"""What the pages read.

Every answer is a plain value and stays in the cache under tags that name what it shows. Order of the decorators, from
the outside in: the cache answers first; what it cannot answer is retried, behind a breaker, with a fresh unit of work
for each attempt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select

from studio.catalogue.listing import Cursor, Listing
from studio.catalogue.records import Move, PaintCard, PaintDetail, PaintFields
from studio.models import Brand, Paint, StockMove, User
from studio.toolkit import Toolkit

__all__ = ["LISTS", "PAINTS", "Facets", "Page", "Reads", "open_reads", "paint_tag"]

#: The tag of every answer that several paints decide, and the tag of every answer about one.
LISTS, PAINTS = "lists", "paints"

_MOVES_SHOWN = 20


def paint_tag(paint_id: int) -> str:
    """Return the tag of every answer about this paint."""
    return f"paint:{paint_id}"


class Page(NamedTuple):
    """Some paints in order, and how to reach those before and after them."""

    cards: tuple[PaintCard, ...]
    before: str
    after: str


class Facets(NamedTuple):
    """How many paints a search finds, by brand and by stock level."""

    counts: tuple[tuple[str, str, int], ...]

    def brands(self, stock: str) -> dict[str, int]:
        """Return the number of paints by brand among those of this stock filter."""
        found: Counter[str] = Counter()
        for brand, level, count in self.counts:
            found[brand] += count if _passes(level, stock) else 0
        return dict(found)

    def total(self, brand: str, stock: str) -> int:
        """Return the number of paints of this brand (`''`: any) and stock filter."""
        return sum(n for b, level, n in self.counts if brand in {"", b} and _passes(level, stock))


class Reads(NamedTuple):
    """The questions that pages ask."""

    page: Callable[[Listing], Page]
    facets: Callable[[str], Facets]
    paint: Callable[[int], PaintDetail | None]


def open_reads(kit: Toolkit) -> Reads:
    """Make the questions, answered from this toolkit's database and cache."""
    db, cache, guarded = kit.db, kit.cache, kit.guard_database

    @cache.cache_result(timeout=300, tags=(LISTS,))
    @guarded
    @db.with_database_session(read_only=True)
    def page(listing: Listing) -> Page:
        return _page(listing, [tuple(row) for row in db.session.execute(listing.rows())])

    @cache.cache_result(timeout=300, tags=(LISTS,))
    @guarded
    @db.with_database_session(read_only=True)
    def facets(q: str) -> Facets:
        return Facets(tuple((b, level, n) for b, level, n in db.session.execute(Listing(q=q).counts())))

    @cache.cache_result(timeout=300, tags=lambda paint_id: (PAINTS, paint_tag(paint_id)))
    @guarded
    @db.with_database_session(read_only=True)
    def paint(paint_id: int) -> PaintDetail | None:
        found = db.session.execute(_PAINT.where(Paint.id == paint_id)).one_or_none()
        if found is None:
            return None
        moves = tuple(Move(*row) for row in db.session.execute(_moves(paint_id)))
        *fields, version, created_at, updated_at = found
        return PaintDetail(paint_id, PaintFields._make(fields), version, created_at, updated_at, moves)

    return Reads(page, facets, paint)


_PAINT = select(
    Brand.name,
    Paint.range,
    Paint.code,
    Paint.name,
    Paint.hex,
    Paint.finish,
    Paint.stock,
    Paint.min_stock,
    Paint.price_cents,
    Paint.description,
    Paint.version,
    Paint.created_at,
    Paint.updated_at,
).join(Brand, Paint.brand_id == Brand.id)


def _moves(paint_id: int) -> Select[int, str, str | None, datetime]:
    return (
        select(StockMove.delta, StockMove.reason, User.name, StockMove.at)
        .outerjoin(User, StockMove.user_id == User.id)
        .where(StockMove.paint_id == paint_id)
        .order_by(StockMove.id.desc())
        .limit(_MOVES_SHOWN)
    )


def _page(listing: Listing, rows: list[tuple[Any, ...]]) -> Page:
    place = listing.place()
    backwards = place is not None and place.backwards
    more, rows = len(rows) > listing.limit, rows[: listing.limit]
    if backwards:
        rows.reverse()
    has_before, has_after = (more, True) if backwards else (place is not None, more)
    return Page(
        cards=tuple(PaintCard(*row[:-1]) for row in rows),
        before=_cursor(listing.sort, rows[0], backwards=True) if rows and has_before else "",
        after=_cursor(listing.sort, rows[-1], backwards=False) if rows and has_after else "",
    )


def _cursor(sort: str, row: tuple[Any, ...], *, backwards: bool) -> str:
    return Cursor(row[-1], row[0], backwards).encode(sort)


def _passes(level: str, stock: str) -> bool:
    """Whether a level passes the filter: what is low is in stock too."""
    return not stock or stock == level or (stock == "in" and level == "low")
