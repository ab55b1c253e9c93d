"""What the studio keeps: brands, their paints, every move of their stock, and who may change them."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = ["MAX_STOCK", "Base", "Brand", "Paint", "StockMove", "User", "search_text", "sort_name"]

MAX_STOCK = 1_000_000


def _now() -> datetime:
    return datetime.now(UTC)


def sort_name(name: str) -> str:
    """Return the name as it sorts: the same on every database, whatever its collation."""
    return name.casefold()


def search_text(brand: str, range_: str, code: str, name: str) -> str:
    """Return the text that a search looks in: `lower()` of SQLite knows ASCII alone, `casefold` knows all."""
    return f"{name}\n{code}\n{range_}\n{brand}".casefold()


#: Sorts by code point on every database, so that cursors and tests mean the same everywhere.
_Sorted = String(360).with_variant(String(360, collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Brand(Base):
    """A maker of paints."""

    __tablename__ = "brands"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)


class Paint(Base):
    """A paint of a brand; its code is `''` where the maker gives none, never NULL, or it would escape the constraint."""

    __tablename__ = "paints"
    __table_args__ = (
        UniqueConstraint("brand_id", "range", "code", "name", "hex"),
        CheckConstraint(f"stock BETWEEN 0 AND {MAX_STOCK}", name="stock_on_the_shelf"),
        CheckConstraint("min_stock >= 0", name="min_stock_not_negative"),
        CheckConstraint("price_cents >= 0", name="price_not_negative"),
        Index(None, "sort_name", "id"),
        Index(None, "hue", "id"),
        Index(None, "stock", "id"),
        {
            "sqlite_autoincrement": True
        },  # an id names one paint for ever: an old form must not reach a new paint
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    brand_id: Mapped[int] = mapped_column(ForeignKey("brands.id"))
    range: Mapped[str] = mapped_column(String(80), default="")
    code: Mapped[str] = mapped_column(String(40), default="")
    name: Mapped[str] = mapped_column(String(120))
    hex: Mapped[str] = mapped_column(String(7))
    finish: Mapped[str] = mapped_column(String(16), default="matte")
    stock: Mapped[int] = mapped_column(default=0)
    min_stock: Mapped[int] = mapped_column(default=0)
    price_cents: Mapped[int] = mapped_column(default=0)
    description: Mapped[str] = mapped_column(Text, default="")
    hue: Mapped[int]
    sort_name: Mapped[str] = mapped_column(_Sorted)
    search_text: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)

    brand: Mapped[Brand] = relationship(lazy="raise")


class StockMove(Base):
    """A change of a paint's stock: how much, why, who and when."""

    __tablename__ = "stock_moves"
    __table_args__ = (Index(None, "paint_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    paint_id: Mapped[int] = mapped_column(ForeignKey("paints.id", ondelete="CASCADE"))
    delta: Mapped[int]
    reason: Mapped[str] = mapped_column(String(120), default="")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class User(Base):
    """A person with a password; raising `session_version` ends all of their sessions."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    role: Mapped[str] = mapped_column(String(16), default="viewer")
    password_hash: Mapped[str] = mapped_column(String(255))
    session_version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
