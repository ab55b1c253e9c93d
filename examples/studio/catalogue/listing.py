"""Which paints a list shows: filters, order and the place in it, from the address to one SELECT.

Pages are found by key, not by offset: the cursor names the last paint seen, so that a page costs the same anywhere in
the catalogue and nothing is shown twice when paints come and go.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Select, case, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from studio.catalogue.records import clean, has_control
from studio.models import Brand, Paint

__all__ = ["PAGE_SIZES", "SORTS", "STOCK_LEVELS", "Cursor", "Listing"]

PAGE_SIZES = (24, 48, 96, 200)
STOCK_LEVELS = ("in", "low", "out")
_HIGHEST_KEY = 2**31 - 1
_LONGEST_QUERY = 100
_LONGEST_KEY = 360


class _Order(NamedTuple):
    label: str
    column: InstrumentedAttribute[Any]
    descending: bool = False


SORTS = {
    "name": _Order("Name", Paint.sort_name),
    "newest": _Order("Newest", Paint.id, descending=True),
    "stock": _Order("Stock", Paint.stock),
    "hue": _Order("Colour", Paint.hue),
}

#: `in`, `low` or `out`, as `records.stock_level` says it of one paint.
level_now: ColumnElement[str] = case(
    (Paint.stock == 0, "out"), (Paint.stock <= Paint.min_stock, "low"), else_="in"
)


class Cursor(NamedTuple):
    """A place in an order: beyond (or before) the paint with this key and id."""

    key: str | int
    id: int
    backwards: bool = False

    def encode(self, sort: str) -> str:
        """Return the cursor as text for an address."""
        text = json.dumps([sort, self.key, self.id, self.backwards], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str, sort: str) -> Self:
        """Read what `encode` wrote.

        Raises:
            ValueError: The text is damaged, or belongs to another order.
        """
        try:
            padded = text + "=" * (-len(text) % 4)
            made_for, key, paint_id, backwards = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        except (ValueError, TypeError, binascii.Error, RecursionError):
            raise ValueError("the page's cursor is damaged: start from the first page") from None
        kind = str if sort == "name" else int
        if (
            made_for != sort
            or type(key) is not kind
            or type(paint_id) is not int
            or type(backwards) is not bool
        ):
            raise ValueError("the page's cursor does not fit this order: start from the first page")
        if not 0 <= paint_id <= _HIGHEST_KEY or (isinstance(key, int) and not 0 <= key <= _HIGHEST_KEY):
            raise ValueError("the page's cursor is out of range: start from the first page")
        if isinstance(key, str) and (has_control(key) or len(key) > _LONGEST_KEY):
            raise ValueError("the page's cursor is damaged: start from the first page")
        return cls(key, paint_id, backwards)


class Listing(NamedTuple):
    """What a reader asked to see; equal questions are equal values, so the cache knows them again."""

    q: str = ""
    brand: str = ""
    stock: str = ""
    sort: str = "name"
    cursor: str = ""
    limit: int = 48

    @classmethod
    def from_query(cls, args: Mapping[str, str]) -> Self:
        """Read an address.

        Raises:
            ValueError: A part of it makes no sense; the message says which.
        """
        q, brand = clean(args.get("q", "")), clean(args.get("brand", ""))
        stock, sort = args.get("stock", ""), args.get("sort", "") or "name"
        limit = args.get("limit", "") or "48"
        if len(q) > _LONGEST_QUERY or has_control(q + brand):
            raise ValueError(f"a search has at most {_LONGEST_QUERY} printable characters")
        if stock and stock not in STOCK_LEVELS:
            raise ValueError(f"stock must be one of {', '.join(STOCK_LEVELS)}")
        if sort not in SORTS:
            raise ValueError(f"sort must be one of {', '.join(SORTS)}")
        if not (
            limit.isascii() and limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= PAGE_SIZES[-1]
        ):
            raise ValueError(f"limit must be a number from 1 to {PAGE_SIZES[-1]}")
        listing = cls(q, brand, stock, sort, args.get("cursor", ""), int(limit))
        listing.place()
        return listing

    def as_query(self, **changed: str) -> dict[str, str]:
        """Return the address of this list with something changed: any change but the cursor starts a new one."""
        values = {key: str(value) for key, value in self._asdict().items()}
        if changed.keys() - {"cursor"}:
            values["cursor"] = ""
        defaults = {key: str(value) for key, value in Listing()._asdict().items()}
        return {key: value for key, value in (values | changed).items() if value != defaults[key]}

    def place(self) -> Cursor | None:
        """Return where the page begins, `None` for the first one."""
        return Cursor.decode(self.cursor, self.sort) if self.cursor else None

    def found(self) -> list[ColumnElement[bool]]:
        """Return the conditions of the search alone: every word in the name, code, range or brand."""
        words = self.q.casefold().split()
        return [Paint.search_text.contains(word, autoescape=True) for word in words]

    def rows(self) -> Select[*tuple[Any, ...]]:
        """Return the SELECT of one page, with one row beyond it to tell whether there is more."""
        order, place = SORTS[self.sort], self.place()
        descending = order.descending != (place is not None and place.backwards)
        statement = (
            select(
                Paint.id,
                Brand.name,
                Paint.range,
                Paint.code,
                Paint.name,
                Paint.hex,
                Paint.finish,
                Paint.stock,
                Paint.min_stock,
                order.column,
            )
            .join(Brand, Paint.brand_id == Brand.id)
            .where(*self.found())
        )
        if self.brand:
            statement = statement.where(Brand.name == self.brand)
        if self.stock:
            statement = statement.where(Paint.stock > 0 if self.stock == "in" else level_now == self.stock)
        if place is not None:
            key, here = tuple_(order.column, Paint.id), tuple_(place.key, place.id)
            statement = statement.where(key < here if descending else key > here)
        keys = (order.column, Paint.id)
        return statement.order_by(*(key.desc() if descending else key for key in keys)).limit(self.limit + 1)

    def counts(self) -> Select[str, str, int]:
        """Return the SELECT of how many paints the search finds by brand and stock level."""
        level = level_now.label("level")
        return (
            select(Brand.name, level, func.count())
            .join(Brand, Paint.brand_id == Brand.id)
            .where(*self.found())
            .group_by(Brand.name, "level")
            .order_by(Brand.name)
        )
