"""How long it takes to wait for, to open and to use a connection, as exporters show it."""

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import QueuePool

from paintkit.errors import PoolTimeoutError
from paintkit.histogram import summary
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from paintkit.testing import FakeClock


def times(db):
    """Return count and total time of each of the pool's histograms."""
    found = {
        metric.name.rpartition(".")[2]: summary(metric.samples[0].value)
        for metric in db.telemetry()
        if metric.kind == "histogram"
    }
    return {name: (one["count"], one["total_time"]) for name, one in found.items()}


def test_each_use_is_timed():
    """From the checkout to the return; opening and waiting are other times."""
    with FakeClock() as clock:
        db = DatabaseConnectionManager("sqlite://")
        for seconds in (2.0, 3.0):
            with db.engine.connect():
                clock.advance(seconds)
        assert {"use_time": (2, 5.0), "create_time": (1, 0.0), "wait_time": (0, 0.0)} == times(db)
        db.close()


def test_use_is_not_known_where_nobody_watches_it():
    """The time comes from the watch for leaks."""
    db = DatabaseConnectionManager("sqlite://", pool=PoolConfig(leak_threshold=None))
    db.engine.connect().close()
    assert {"create_time", "wait_time"} == set(times(db))
    db.close()


def test_every_connection_that_is_opened_is_timed(tmp_path: Path):
    """The first, one in place of another that was too old, and none that failed."""
    with FakeClock() as clock:
        db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")

        @event.listens_for(db.engine, "do_connect")
        def slow(*_arguments):
            clock.advance(0.5)

        db.engine.connect().close()
        clock.advance(400.0)
        db.engine.connect().close()
        assert (2, 1.0) == times(db)["create_time"]
        db.close()


def test_a_failure_to_open_is_no_time(tmp_path: Path):
    """Nothing was created, and the next success is timed by itself."""
    with FakeClock() as clock:
        db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")
        failing = [True]

        @event.listens_for(db.engine, "do_connect")
        def fail(*_arguments):
            clock.advance(0.5)
            if failing.pop():
                failing.append(False)
                raise OSError("no route")

        with pytest.raises(OSError, match="no route"):
            db.engine.connect()
        db.engine.connect().close()
        assert (1, 0.5) == times(db)["create_time"]
        db.close()


def test_those_who_wait_are_timed_also_in_vain():
    """And those who need not wait are not counted among them."""
    with FakeClock() as clock:
        config = PoolConfig(pool_size=1, max_overflow=0, pool_timeout=4.0)
        db = DatabaseConnectionManager("sqlite://", pool=config)
        held = db.engine.connect()
        with pytest.raises(PoolTimeoutError):
            db.engine.connect()
        assert (1, 4.0) == times(db)["wait_time"]

        done = threading.Thread(target=lambda: db.engine.connect().close())
        done.start()
        while not db.get_connection_stats()["db.client.connection.pending_requests"]:
            pass
        clock.advance(1.5)
        held.close()
        done.join()
        assert (2, 5.5) == times(db)["wait_time"]
        db.close()


def test_an_async_pool_is_timed_the_same(tmp_path: Path):
    """Each wait, each connection and each use."""

    async def run():
        config = PoolConfig(pool_size=1, max_overflow=0)
        db = DatabaseConnectionManager(f"sqlite+aiosqlite:///{tmp_path / 'studio.db'}", pool=config)
        held = await db.async_engine.connect()

        async def use():
            async with db.async_engine.connect():
                pass

        waiting = asyncio.ensure_future(use())
        while not db.get_connection_stats()["db.client.connection.pending_requests"]:
            await asyncio.sleep(0)
        await held.close()
        await waiting
        found = times(db)
        await db.aclose()
        return found

    found = asyncio.run(run())
    assert {"use_time": 2, "create_time": 1, "wait_time": 1} == {name: one[0] for name, one in found.items()}
    assert all(total > 0.0 for _, total in found.values())


def test_a_pool_of_another_kind_tells_what_it_can():
    """An engine that came ready made: its pool does not say who waits."""
    engine = create_engine("sqlite://", poolclass=QueuePool)
    db = DatabaseConnectionManager(engine)
    engine.connect().close()
    found = times(db)
    assert (1, 1) == (found["create_time"][0], found["use_time"][0])
    engine.dispose()
