"""A task is cancelled at every await of a unit of work: nothing stays in use, nothing stays open, nothing is half stored."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paintkit import clock
from paintkit.sqlalchemy import PoolConfig
from tests.sqlalchemy.house import Base, House
from tests.sqlalchemy.servers import PATIENCE
from tests.suspensions import Interrupted, at_every_await

IDLE = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
)

Work = Callable[[House], Any]


async def unit(house: House) -> None:
    """Two rows, one of them in a savepoint, and what follows their commit."""
    async with house.unit():
        await house.add("a")
        async with house.unit(propagation="nested"):
            await house.add("b")
        await house.stored()  # on a second connection


#: What the mutant has taken, so that no collector gives it back.
_taken: list[AsyncConnection] = []


async def leak(house: House) -> None:
    """The mutant: takes a connection, begins, and gives it back only if all goes well."""
    connection = await house.db.async_engine.connect()
    _taken.append(connection)
    await connection.execute(text("SELECT 1"))
    await asyncio.sleep(0)
    await connection.close()
    _taken.clear()


async def is_open(house: House, patience: float) -> bool:
    """Whether a transaction is open for good: the server needs a moment to notice that a connection was closed."""
    due = clock.now() + patience
    while True:
        async with house.unit() as session:
            if not await session.scalar(text(IDLE)):
                return False
        if clock.now() >= due:
            return True
        await asyncio.sleep(0.01)


def faults(url: str, work: Work) -> tuple[int, list[str]]:
    """Cancel work at every await; return how many there are, and what stayed behind."""
    found: list[str] = []

    async def look(house: House, place: str) -> None:
        held = house.db.get_connection_stats()["checked_out"]
        if held:
            found.append(f"{place}: {held} connections are in use")
        if await is_open(house, patience=0.0 if held else PATIENCE):
            found.append(f"{place}: a transaction is open")
        if (names := await house.stored()) not in ([], ["a", "b"]):
            found.append(f"{place}: {names} are stored")

    def scenario(interrupted: Callable[[Any], Interrupted]) -> bool:
        async def run() -> bool:
            house = House(url, pool=PoolConfig(pool_size=2, max_overflow=0, pool_timeout=PATIENCE))
            async with house.db.async_engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
            cut = interrupted(work(house))
            task = asyncio.ensure_future(_awaited(cut))
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended
            await look(house, f"await {cut.suspensions}")
            while _taken:
                await _taken.pop().close()
            await house.db.aclose()
            return task.cancelled()

        return asyncio.run(run())

    return at_every_await(scenario), found


async def _awaited(cut: Interrupted) -> None:
    await cut


@pytest.mark.parametrize("url", ["postgres-async", "asyncpg"], indirect=True)
def test_nothing_stays_behind_wherever_a_task_is_cancelled(url: str) -> None:
    """No connection is in use, no transaction is open, and both rows are stored or none."""
    awaits, found = faults(url, unit)
    assert [] == found
    assert awaits > 10


@pytest.mark.parametrize("url", ["postgres-async", "asyncpg"], indirect=True)
def test_the_test_above_notices_a_leak(url: str) -> None:
    """The mutant is caught: its connection is in use, its transaction open."""
    _, found = faults(url, leak)
    assert any("connections are in use" in one for one in found)
    assert any("a transaction is open" in one for one in found)
