"""A unit of work keeps the signature of what runs in it, and its sessions have their own types."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from paintkit.sqlalchemy import (
    DatabaseConnectionManager,
    IdempotencyKeys,
    is_transient,
    read_only,
    with_database_session,
)

db = DatabaseConnectionManager("sqlite://")


@db.with_database_session
def move(paint_id: int, *, delta: int = 1) -> int:
    """Bare."""
    return paint_id + delta


@db.with_database_session(propagation="nested", timeout=2.0, rollback_if=lambda result: result is None)
async def move_async(paint_id: int) -> str:
    """Called."""
    return str(paint_id)


@with_database_session
def stream(size: int) -> Iterator[bytes]:
    """A generator, free."""
    yield b"" * size


@with_database_session(isolation="SERIALIZABLE")
async def stream_async() -> AsyncIterator[bytes]:
    """An async generator, free and called."""
    yield b""


keys = IdempotencyKeys(db)


def _token(token: str, _amount: int) -> str:
    return token


@keys.idempotent(key=_token)
def pay(token: str, amount: int) -> float:
    """Once for each key."""
    return len(token) * amount / 100


class Repository:
    """Methods."""

    @read_only
    def find(self, sku: str) -> int:
        """A method."""
        return len(sku)


assert_type(move(1, delta=2), int)
assert_type(stream(3), Iterator[bytes])
assert_type(stream_async(), AsyncIterator[bytes])
assert_type(Repository().find("a"), int)
assert_type(pay("7d1f", 20), float)
assert_type(keys.call("pay:7d1f", pay, "7d1f", amount=20), float)
assert_type(db.session, Session)
assert_type(db.async_session, AsyncSession)
assert_type(is_transient(ValueError()), bool)
with db.unit_of_work() as session:
    assert_type(session, Session)


async def use() -> None:
    """Await."""
    assert_type(await move_async(1), str)
    assert_type(await keys.acall("move:1", move_async, 1), str)
    async with db.unit_of_work(read_only=True) as asession:
        assert_type(asession, AsyncSession)


pay("7d1f", "20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
move("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
db.with_database_session(propagation="sometimes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
