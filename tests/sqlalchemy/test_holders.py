"""Connections that nobody gives back."""

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from paintkit import Observation, observe
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from paintkit.testing import FakeClock
from tests.sqlalchemy.house import told

REAL = pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)


@pytest.fixture(autouse=True)
def _collected() -> None:
    """Let the collector find what other tests have left before one of these looks at what is told of it."""
    gc.collect()


def line_of(mark: str) -> str:
    """Return `file:line` of the line of this file that ends in a mark."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{__file__}:{next(number for number, line in enumerate(lines, 1) if line.endswith(mark))}"


@contextmanager
def manager(url: str, **options: float | None) -> Iterator[DatabaseConnectionManager]:
    """Open a manager whose connections leak after a minute."""
    db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=2, max_overflow=0, **options))
    yield db
    db.close()


@REAL
def test_a_connection_that_is_held_for_too_long_is_told_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After the threshold the next checkout tells of it: the line that took it, who called that, once; it is counted."""
    seen: list[Observation] = []

    def take(db: DatabaseConnectionManager):
        return db.engine.connect()  # takes it

    with FakeClock() as clock, manager(url, leak_threshold=60.0) as db, observe(seen.append):
        held = take(db)  # calls that
        clock.advance(59.0)
        db.engine.connect().close()
        assert [] == told(caplog)
        for _ in range(3):
            clock.advance(30.0)
            db.engine.connect().close()
        held.close()
        assert 1 == db.get_connection_stats()["leaked"]
    (record,) = told(caplog)
    assert (logging.WARNING, "paintkit.sqlalchemy") == (record.levelno, record.name)
    assert f"{line_of('# takes it')}, called from {line_of('# calls that')}" in record.getMessage()
    assert [("pool.leaked", line_of("# takes it"))] == [
        (one.kind, one.details["site"]) for one in seen if one.kind.startswith("pool.")
    ]


@REAL
def test_the_statistics_look_for_leaks(url: str) -> None:
    """Nobody has to take a connection for a leak to be seen: reading the statistics is enough."""
    with FakeClock() as clock, manager(url) as db:
        held = db.engine.connect()
        clock.advance(60.0)
        assert 1 == db.get_connection_stats()["leaked"]
        held.close()


@REAL
def test_a_connection_that_comes_back_too_late_is_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What comes back after the threshold, without anybody having looked, is told then."""
    with FakeClock() as clock, manager(url) as db:
        held = db.engine.connect()
        clock.advance(61.0)
        held.close()
        assert 1 == db.get_connection_stats()["leaked"]
    assert "was given back after 61.0 s" in caplog.text


@REAL
def test_what_the_collector_gives_back_is_a_leak(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that was forgotten is counted although the garbage collector gives it back early."""
    with manager(url) as db:
        forgotten = db.engine.connect()  # forgets it
        del forgotten
        gc.collect()
        stats = db.get_connection_stats()
        assert (1, 0) == (stats["leaked"], stats["checked_out"])
    assert "was left to the garbage collector" in caplog.text
    assert line_of("# forgets it") in caplog.text


@REAL
def test_units_of_work_are_no_leaks(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever gives connections back in time hears nothing, however often; detached ones are theirs."""
    with FakeClock() as clock, manager(url) as db:
        for _ in range(5):
            with db.unit_of_work() as session:
                session.scalar(text("select 1"))
            clock.advance(30.0)
        detached = db.engine.connect()
        detached.detach()
        clock.advance(100.0)
        assert 0 == db.get_connection_stats()["leaked"]
        detached.close()
    assert [] == told(caplog)


def test_without_a_threshold_nobody_listens() -> None:
    """`leak_threshold=None` costs nothing at checkout; by default it is watched, whoever made the engine."""
    with manager("sqlite://", leak_threshold=None) as db:
        assert 0 == len(db.engine.pool.dispatch.checkout)
    engine = create_engine("sqlite://")
    DatabaseConnectionManager(engine)
    assert 1 == len(engine.pool.dispatch.checkout)
    engine.dispose()


def test_a_child_knows_nothing_of_its_parents_holders() -> None:
    """After a fork the connections in use are the parent's: the child neither names nor misses them."""
    with FakeClock() as clock, manager("sqlite://") as db:
        held = db.engine.connect()
        assert "test_holders.py" in db._watch.holders()
        db._watch.forget()
        clock.advance(100.0)
        assert ("", 0) == (db._watch.holders(), db.get_connection_stats()["leaked"])
        held.close()


def test_the_line_is_found_where_somebody_awaits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In asyncio the pool is asked in a greenlet, and the caller stands in the one that waits for it."""

    async def hold(db: DatabaseConnectionManager) -> None:
        held = await db.async_engine.connect()  # takes it in asyncio
        clock.advance(61.0)
        assert 1 == db.get_connection_stats()["leaked"]
        await held.close()
        await db.aclose()

    with FakeClock() as clock:
        asyncio.run(hold(DatabaseConnectionManager(f"sqlite+aiosqlite:///{tmp_path / 'studio.db'}")))
    (record,) = told(caplog)
    assert f"taken at {line_of('# takes it in asyncio')}" in record.getMessage()
