"""Paints as plain values: what a person enters, and what a page shows.

What is entered comes from a form, a CSV file or the generator, and is cleaned and judged in one place: `read_paint`.
What is shown is immutable and knows no session, so that it may stay in a cache.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from studio.colour import normal_hex
from studio.models import MAX_STOCK

__all__ = [
    "FINISHES",
    "IDENTITY",
    "Move",
    "PaintCard",
    "PaintDetail",
    "PaintFields",
    "clean",
    "has_control",
    "read_paint",
    "stock_level",
]

FINISHES = ("matte", "satin", "gloss", "metallic", "wash", "ink", "contrast", "primer", "varnish", "texture")

#: What tells two paints apart, in this order; real catalogues hold twins that differ in the colour alone.
IDENTITY = ("brand", "range", "code", "name", "hex")

_LONGEST = {"brand": 80, "range": 80, "code": 40, "name": 120, "description": 2000}
_NEEDED = ("brand", "name", "hex")
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # Cs: surrogates, which UTF-8 cannot store
_LAYOUT = dict.fromkeys(map(ord, "\n\t"), " ")
_HIGHEST_PRICE = Decimal(100_000)


class PaintFields(NamedTuple):
    """What a person may say about a paint; `price_cents` is in hundredths of the currency."""

    brand: str
    range: str
    code: str
    name: str
    hex: str
    finish: str = "matte"
    stock: int = 0
    min_stock: int = 0
    price_cents: int = 0
    description: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str, str]:
        """The values of `IDENTITY`."""
        return self[:5]


class PaintCard(NamedTuple):
    """A paint as a list shows it."""

    id: int
    brand: str
    range: str
    code: str
    name: str
    hex: str
    finish: str
    stock: int
    min_stock: int

    @property
    def level(self) -> str:
        """`out`, `low` (at or below the minimum) or `in`."""
        return stock_level(self.stock, self.min_stock)


class Move(NamedTuple):
    """A change of stock as the history shows it."""

    delta: int
    reason: str
    user: str | None
    at: datetime


class PaintDetail(NamedTuple):
    """A paint as its own page shows it, with its latest moves first."""

    id: int
    fields: PaintFields
    version: int
    created_at: datetime
    updated_at: datetime
    moves: tuple[Move, ...]

    @property
    def level(self) -> str:
        """`out`, `low` (at or below the minimum) or `in`."""
        return stock_level(self.fields.stock, self.fields.min_stock)


def stock_level(stock: int, min_stock: int) -> str:
    """Return `out`, `low` (at or below the minimum) or `in`."""
    if stock == 0:
        return "out"
    return "low" if stock <= min_stock else "in"


def clean(text: str) -> str:
    """Return the text in composed form (NFC) without space around it: `é` is one letter however it was typed."""
    return unicodedata.normalize("NFC", text).strip()


def has_control(text: str) -> bool:
    """Whether the text holds what no name has: control characters, line breaks, halves of broken letters."""
    return any(unicodedata.category(char) in _UNSEEN for char in text)


def read_paint(cells: Mapping[str, str]) -> tuple[PaintFields | None, dict[str, str]]:
    """Read a paint from text.

    Args:
        cells: Values by the names of `PaintFields`, with `price` in units of the currency for `price_cents`.
            What is absent has its default.

    Returns:
        The paint, or `None`, and what is wrong by name.
    """
    reader = _Reader(cells)
    fields = PaintFields(
        brand=reader.text("brand"),
        range=reader.text("range"),
        code=reader.text("code"),
        name=reader.text("name"),
        hex=reader.colour("hex"),
        finish=reader.finish("finish"),
        stock=reader.whole("stock"),
        min_stock=reader.whole("min_stock"),
        price_cents=reader.cents("price"),
        description=reader.text("description", lines=True),
    )
    return (None if reader.problems else fields), reader.problems


class _Reader:
    """Reads one value after the other and collects what is wrong."""

    def __init__(self, cells: Mapping[str, str]) -> None:
        self.cells = cells
        self.problems: dict[str, str] = {}

    def text(self, name: str, *, lines: bool = False) -> str:
        value = clean(self.cells.get(name, "").replace("\r\n", "\n"))
        if not value and name in _NEEDED:
            self.problems[name] = f"{name} is empty"
        elif len(value) > _LONGEST[name]:
            self.problems[name] = f"{name} is longer than {_LONGEST[name]} characters"
        elif has_control(value.translate(_LAYOUT) if lines else value):
            self.problems[name] = f"{name} holds a control character"
        return value

    def colour(self, name: str) -> str:
        value = clean(self.cells.get(name, ""))
        try:
            return normal_hex(value)
        except ValueError as error:
            self.problems[name] = str(error) if value else f"{name} is empty"
            return ""

    def finish(self, name: str) -> str:
        value = clean(self.cells.get(name, "")).lower() or FINISHES[0]
        if value not in FINISHES:
            self.problems[name] = f"{value!r} is no finish: choose one of {', '.join(FINISHES)}"
        return value

    def whole(self, name: str) -> int:
        value = clean(self.cells.get(name, "")) or "0"
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_STOCK))):
            self.problems[name] = f"{name} must be a whole number from 0 to {MAX_STOCK}, not {value[:40]!r}"
            return 0
        if int(value) > MAX_STOCK:
            self.problems[name] = f"{name} must be a whole number from 0 to {MAX_STOCK}, not {value}"
        return int(value)

    def cents(self, name: str) -> int:
        value = clean(self.cells.get(name, "")) or "0"
        try:
            price = Decimal(value)
            if not (price.is_finite() and 0 <= price <= _HIGHEST_PRICE and price * 100 == int(price * 100)):
                raise InvalidOperation
        except InvalidOperation:
            self.problems[name] = f"{name} must be an amount such as 3.50, not {value[:40]!r}"
            return 0
        return int(price * 100)
