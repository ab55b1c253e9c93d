"""The event bus beside real units of work: what handlers hear is what the database holds."""

import asyncio

import pytest
from sqlalchemy import text

from paintkit import EventBus
from paintkit.sqlalchemy import DatabaseConnectionManager

COUNT = text("select count(*) from paint")
INSERT = text("insert into paint (name) values (:name)")


@pytest.fixture
def db(tmp_path):
    manager = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'paints.db'}")
    with manager.unit_of_work() as session:
        session.execute(text("create table paint (name text)"))
    yield manager
    manager.close()


def stored(db):
    with db.unit_of_work() as session:
        return session.scalar(COUNT)


def create(db, bus, name):
    db.session.execute(INSERT, {"name": name})
    bus.publish("paint.created", name)


def test_a_handler_finds_what_it_was_told_of(db):
    """At the time of delivery another unit of work reads the committed row."""
    bus, found = EventBus(), []
    bus.subscribe("paint.created", lambda name: found.append((name, stored(db))))
    with db.unit_of_work():
        create(db, bus, "red")
        assert [] == found
    assert [("red", 1)] == found


def test_a_rollback_tells_nobody(db):
    """What was not stored is not told; the next unit is not burdened with it."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.created", heard.append)
    with pytest.raises(OSError, match="broken"), db.unit_of_work():
        create(db, bus, "red")
        raise OSError("broken")
    with db.unit_of_work():
        create(db, bus, "blue")
    assert (["blue"], 1) == (heard, stored(db))


def test_a_savepoint_takes_its_events_back(db):
    """An inner rollback drops the inner events alone; an inner commit waits for the real one."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.created", heard.append)
    with db.unit_of_work():
        create(db, bus, "red")
        with pytest.raises(OSError, match="broken"), db.unit_of_work(propagation="nested"):
            create(db, bus, "green")
            raise OSError("broken")
        with db.unit_of_work(propagation="nested"):
            create(db, bus, "blue")
        assert [] == heard
    assert (["red", "blue"], 2) == (heard, stored(db))


def test_a_failing_handler_undoes_nothing(db):
    """The commit stands, the caller is not disturbed, the others hear."""
    bus, heard = EventBus(), []

    def fail(name):
        raise ValueError(name)

    bus.subscribe("paint.created", fail)
    bus.subscribe("paint.created", heard.append)
    with db.unit_of_work():
        create(db, bus, "red")
    assert (["red"], 1) == (heard, stored(db))


def test_a_handler_may_write_and_publish_in_its_turn(db):
    """Its unit of work is its own, and so are its events."""
    bus, heard = EventBus(), []

    @bus.subscribe("paint.created")
    def add_twin(name):
        if not name.endswith("twin"):
            with db.unit_of_work():
                create(db, bus, f"{name} twin")

    bus.subscribe("paint.created", heard.append)
    with db.unit_of_work():
        create(db, bus, "red")
    assert (["red twin", "red"], 2) == (heard, stored(db))


@pytest.mark.parametrize("fails", [False, True])
def test_an_async_unit_awaits_async_handlers_after_its_commit(tmp_path, fails):
    """The same laws with asyncio: delivered when stored, dropped when not."""
    heard = []

    async def main():
        db = DatabaseConnectionManager(f"sqlite+aiosqlite:///{tmp_path / 'paints.db'}")
        bus = EventBus()

        @bus.subscribe("paint.created")
        async def hear(name):
            async with db.unit_of_work() as session:
                heard.append((name, await session.scalar(COUNT)))

        async with db.unit_of_work() as session:
            await session.execute(text("create table paint (name text)"))
        try:
            async with db.unit_of_work() as session:
                await session.execute(INSERT, {"name": "red"})
                await bus.apublish("paint.created", "red")
                assert [] == heard
                if fails:
                    raise OSError("broken")
        except OSError:
            assert fails
        await db.aclose()

    asyncio.run(main())
    assert ([] if fails else [("red", 1)]) == heard
