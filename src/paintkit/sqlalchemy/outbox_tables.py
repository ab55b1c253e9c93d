"""The tables of an outbox: events that wait, events that were given up, and who has handled what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from paintkit.envelope import LONGEST_NAME

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

__all__ = ["MYSQL", "OutboxTables", "outbox_tables"]

#: What SQLAlchemy calls the dialects of MySQL and MariaDB.
MYSQL: Final = ("mysql", "mariadb")


class OutboxTables(NamedTuple):
    """The tables of one outbox.

    Attributes:
        outbox: Events that not all of their handlers have handled; `seq` is the order in which they were written.
        inbox: A row for each handler and event whose effect is stored.
        dead: Events that were given up.
        turn: One row, locked by the relay that hands out the events with an ordering key.
    """

    outbox: Table
    inbox: Table
    dead: Table
    turn: Table


def outbox_tables(metadata: MetaData, prefix: str = "paintkit_", schema: str | None = None) -> OutboxTables:
    """Describe the tables of an outbox in `metadata`, which may be that of your own models: Alembic then sees them.

    Args:
        metadata: Where to describe them.
        prefix: What their names begin with.
        schema: The database schema they are in.
    """
    outbox = Table(
        f"{prefix}outbox",
        metadata,
        *_event_columns(),
        Column("attempts", Integer, nullable=False),
        Column("due", Double, nullable=False),
        Column("lease", String(32)),
        Column("lease_until", Double),
        Column("error", _long_text()),
        schema=schema,
    )
    Index(f"{prefix}outbox_order", outbox.c.ordering_key, outbox.c.seq)
    return OutboxTables(
        outbox,
        Table(
            f"{prefix}inbox",
            metadata,
            Column("event_id", String(36), primary_key=True),
            Column("handler", _name(), primary_key=True),
            Column("handled_at", Double, nullable=False),
            schema=schema,
        ),
        Table(
            f"{prefix}dead_letters",
            metadata,
            *_event_columns(),
            Column("attempts", Integer, nullable=False),
            Column("error", _long_text(), nullable=False),
            Column("died_at", Double, nullable=False),
            schema=schema,
        ),
        Table(f"{prefix}outbox_turn", metadata, Column("id", Integer, primary_key=True), schema=schema),
    )


def _event_columns() -> tuple[Column[Any], ...]:
    return (
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("event_id", String(36), nullable=False, unique=True),
        Column("type", _name(), nullable=False),
        Column("payload", _long_text(), nullable=False),
        Column("occurred_at", Double, nullable=False),
        Column("ordering_key", _name()),
    )


def _name() -> TypeEngine[str]:
    """A name in which case matters, on servers that would not think so by themselves."""
    return String(LONGEST_NAME).with_variant(String(LONGEST_NAME, collation="utf8mb4_bin"), *MYSQL)


def _long_text() -> TypeEngine[str]:
    return Text().with_variant(LONGTEXT(), *MYSQL)
