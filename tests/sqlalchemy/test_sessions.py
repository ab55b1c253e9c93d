"""The session of a unit of work, and what the unit tells its surroundings."""

import asyncio
import contextvars
import threading
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from paintkit import CacheManager, EventBus, ambient
from paintkit.errors import CommitOutcomeUnknownError, NoUnitOfWorkError, UnexpectedRollbackError
from paintkit.sqlalchemy import DatabaseConnectionManager, is_transient, on_commit
from tests.sqlalchemy.house import House, Paint
from tests.sqlalchemy.servers import PATIENCE

postgres_only = pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)


class Boom(Exception):
    """What the code under test raises."""


def test_wrote_tells_of_writes_only(house: House) -> None:
    """`wrote` turns true with a flush that changes something, a DML statement, or text that may write."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")

        def bulk() -> object:
            rows = [{"name": "d"}]
            if house.db.is_async:
                return house.session.run_sync(lambda session: session.bulk_insert_mappings(Paint, rows))
            return house.session.bulk_insert_mappings(Paint, rows)

        writes = {
            "orm": lambda: house.add("b"),
            "core": lambda: house.execute(insert(Paint).values(name="c", stock=0, edits=0)),
            "text": lambda: house.execute(text("UPDATE paint SET stock = 1")),
            "bulk": lambda: house.settle(bulk()),
            "connection": lambda: house.settle(house.session.connection()),
        }
        for name, write in writes.items():
            async with house.unit():
                unit = ambient.unit_of_work.get()
                await house.execute(select(Paint))
                await house.execute(text("  select 1"))
                await house.flush()
                assert (name, False) == (name, unit.wrote)
                await write()
                assert (name, True) == (name, unit.wrote)

    house.run(scenario)


def test_began_is_the_epoch_at_the_start(house: House) -> None:
    """`began` is the epoch when the unit was opened, whatever happens to the epoch later."""

    async def scenario() -> None:
        ambient.process.epoch += 1
        before = ambient.process.epoch
        async with house.unit():
            ambient.process.epoch += 1
            async with house.unit():
                assert before == ambient.unit_of_work.get().began

    house.run(scenario)


def test_dirty_units_are_counted_once_and_taken_back(house: House) -> None:
    """A unit with marked tags counts once, however often it marks, and no longer when it has ended, well or not."""

    async def scenario() -> None:
        assert 0 == ambient.process.detours
        for failing in (False, True):
            try:
                async with house.unit():
                    unit = ambient.unit_of_work.get()
                    unit.mark_dirty(())
                    assert 0 == ambient.process.detours
                    unit.mark_dirty(["paint:1"])
                    unit.mark_dirty(["paint:2"])
                    assert 1 == ambient.process.detours
                    assert (True, False) == (unit.is_dirty(["x", "paint:2"]), unit.is_dirty(["paint:3"]))
                    if failing:
                        raise Boom
            except Boom:
                pass
            assert 0 == ambient.process.detours

    house.run(scenario)


@postgres_only
def test_inner_unit_knows_what_the_outer_did(house: House) -> None:
    """An independent inner unit counts the writes and dirty tags around it as its own: bypassing a cache is always safe."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
            ambient.unit_of_work.get().mark_dirty(["paint:1"])
            async with house.unit(propagation="requires_new"):
                unit = ambient.unit_of_work.get()
                assert (True, True) == (unit.wrote, unit.is_dirty(["paint:1"]))

    house.run(scenario)


def test_is_doomed_follows_the_savepoint(house: House) -> None:
    """A unit is doomed from the first swallowed inner failure on; a doom inside a savepoint goes with the savepoint."""

    async def scenario() -> None:
        with pytest.raises(UnexpectedRollbackError):
            async with house.unit():
                unit = ambient.unit_of_work.get()
                with pytest.raises(Boom):
                    async with house.unit(propagation="nested"):
                        with pytest.raises(Boom):
                            async with house.unit():
                                raise Boom
                        assert unit.is_doomed()
                        raise Boom
                assert not unit.is_doomed()
                with pytest.raises(Boom):
                    async with house.unit():
                        raise Boom
                assert unit.is_doomed()

    house.run(scenario)


def test_session_cannot_commit_by_itself(house: House) -> None:
    """`commit()` and `begin()` on the session are refused with the fix: the outermost boundary owns them."""

    async def scenario() -> None:
        async with house.unit() as session:
            await house.add("a")
            with pytest.raises(RuntimeError, match=r"flush\(\)"):
                await house.settle(session.commit())
            with pytest.raises(RuntimeError, match="nested"):
                if house.db.is_async:
                    await session.begin()
                else:
                    session.begin()
            assert [] == ([] if not house.is_postgres else await house.stored())
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("sql", ["COMMIT", "-- now\nrollback", "BEGIN", "START TRANSACTION"])
def test_no_text_begins_or_ends_it(house: House, sql: str) -> None:
    """What SQL could do to the transaction is refused, too; the unit goes on, and is stored as a whole."""

    async def scenario() -> None:
        async with house.unit() as session:
            await house.add("a")
            with pytest.raises(RuntimeError, match="leave BEGIN, COMMIT and ROLLBACK to it"):
                await house.settle(session.execute(text(sql)))
            await house.settle(session.execute(text("SAVEPOINT own")))
            await house.add("b")
            await house.settle(session.execute(text("ROLLBACK TO SAVEPOINT own")))
        assert ["a"] == await house.stored()

    house.run(scenario)


def test_its_connection_cannot_commit_either(house: House) -> None:
    """A commit on the session's connection, which would store half of the unit, is refused: nothing is stored."""

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="commits by itself"):
            async with house.unit() as session:
                await house.add("a")
                connection = await house.settle(session.connection())
                await house.settle(connection.commit())
        assert [] == await house.stored()
        async with house.unit():
            await house.add("b")
            if house.is_postgres:  # a connection of one's own is one's own
                engine = house.db.async_engine if house.db.is_async else house.db.engine
                other = await house.settle(engine.connect())
                await house.settle(other.execute(insert(Paint).values(name="c", stock=0, edits=0)))
                await house.settle(other.commit())
                await house.settle(other.close())
                assert ["c"] == await house.stored()
        assert ["b"] == [name for name in await house.stored() if name != "c"]

    house.run(scenario)


@pytest.mark.parametrize("method", ["rollback", "close"])
def test_rollback_by_hand_stores_nothing(house: House, method: str) -> None:
    """After `session.rollback()` or `.close()` nothing of the unit is stored, what follows included, and no hook runs."""

    async def scenario() -> None:
        seen: list[int] = []
        async with house.unit() as session:
            await house.add("a")
            house.db.on_commit(lambda: seen.append(1))
            await house.settle(getattr(session, method)())
            await house.add("b")
        assert ([], []) == (await house.stored(), seen)
        with pytest.raises(UnexpectedRollbackError):
            async with house.unit(), house.unit() as session:
                await house.add("a")
                await house.settle(getattr(session, method)())
        assert [] == await house.stored()

    house.run(scenario)


def test_new_objects_are_new_again_after_a_rollback(house: House) -> None:
    """What was added in a unit that failed can be added again in the next one."""

    async def scenario() -> None:
        paint = Paint(name="a")
        for failing in (True, False):
            try:
                async with house.unit() as session:
                    session.add(paint)
                    await house.flush()
                    if failing:
                        raise Boom
            except Boom:
                pass
        assert ["a"] == await house.stored()

    house.run(scenario)


def test_no_session_outside(house: House) -> None:
    """Outside of a unit of work there is no session, and the error names the fix; the other colour's is a TypeError."""

    async def scenario() -> None:
        with pytest.raises(NoUnitOfWorkError, match="with_database_session"):
            _ = house.session
        with pytest.raises(TypeError, match="this manager is"):
            _ = house.db.session if house.db.is_async else house.db.async_session

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-file", "postgres"], indirect=True)
def test_unit_is_bound_to_its_thread(house: House) -> None:
    """A unit that a copied context carries into another thread is refused there: by name, by join, by its very session."""

    async def scenario() -> None:
        with house.db.unit_of_work() as session:
            await house.add("a")
            context = contextvars.copy_context()
            errors: list[BaseException] = []

            def elsewhere() -> None:
                for act in (
                    lambda: house.db.session,
                    lambda: house.db.on_commit(print),
                    lambda: house.db.unit_of_work().__enter__(),
                    lambda: session.execute(select(Paint)),
                    session.connection,
                    session.begin_nested,
                    lambda: session.bulk_insert_mappings(Paint, [{"name": "b"}]),
                    session.rollback,
                    session.close,
                ):
                    try:
                        context.run(act)
                    except Exception as error:
                        errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert [NoUnitOfWorkError] * 9 == [type(error) for error in errors]
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_unit_is_bound_to_its_task(house: House) -> None:
    """A child task, which inherits the context, cannot use its parent's unit; it opens one of its own after it."""

    async def scenario() -> None:
        async def child() -> None:
            await house.add("child")

        async with house.unit():
            await house.add("a")
            results = await asyncio.gather(child(), child(), return_exceptions=True)
            assert [NoUnitOfWorkError] * 2 == [type(error) for error in results]
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_child_tasks_have_units_of_their_own(house: House) -> None:
    """A child task that says `requires_new` works beside its parent's unit, and is refused nothing."""

    async def scenario() -> None:
        @house.db.with_database_session(propagation="requires_new")
        async def child(name: str) -> None:
            await house.add(name)

        with suppress(Boom):
            async with house.unit():
                await asyncio.gather(child("a"), child("b"))
                raise Boom
        assert ["a", "b"] == await house.stored()

    house.run(scenario)


def test_a_session_ends_with_its_unit(house: House) -> None:
    """Whoever keeps the session of a unit that has ended is refused, for what it did would be lost; it may be closed."""

    async def scenario() -> None:
        async with house.unit() as session:
            await house.add("a")
        late = Paint(name="late")
        for act in (
            lambda: session.add(late),
            lambda: session.execute(select(Paint)),
            lambda: session.get(Paint, 1),
            session.connection,
            lambda: session.begin_nested().start() if house.db.is_async else session.begin_nested(),
        ):
            with pytest.raises(NoUnitOfWorkError, match="has ended"):
                await house.settle(act())
        await house.settle(session.rollback())
        await house.settle(session.close())
        assert 0 == house.db.get_connection_stats()["checked_out"]
        assert ["a"] == await house.stored()

    house.run(scenario)


def test_who_outlives_a_unit_is_outside(house: House) -> None:
    """A context that was copied inside, as a task does, is outside when the unit has ended: nothing waits for its commit."""
    heard: list[str] = []
    loads: list[int] = []
    bus, cache = EventBus("studio"), CacheManager("paints")
    bus.subscribe("paint", heard.append)

    @cache.cache_result(tags=("paints",))
    def count() -> int:
        loads.append(1)
        return len(loads)

    def later() -> None:
        bus.publish("paint", "told")
        on_commit(lambda: heard.append("done"))
        cache.invalidate("paints")
        assert 2 == count()
        assert (None, 0) == (ambient.unit_of_work.get(), ambient.process.detours)

    async def scenario() -> None:
        count()
        async with house.unit():
            await house.add("a")
            async with house.unit(propagation="requires_new"):
                within = contextvars.copy_context()
            outer = ambient.unit_of_work.get()
            assert outer is within.run(ambient.unit_of_work.get)
        within.run(later)
        assert ["told", "done"] == heard
        assert 2 == count()

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "sqlite-file", "postgres"], indirect=True)
def test_units_of_threads_are_apart(url: str) -> None:
    """Threads that move stock at once lose no update: each has its unit, and SQLite's writers take turns."""
    # SQLite's locks are nobody's turn: who has bad luck may wait for long on a busy machine.
    patient = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
    house = House(url, engine_options=patient)
    db = house.db

    async def scenario() -> None:
        @db.with_database_session
        def move() -> None:
            paint = db.session.execute(select(Paint).with_for_update()).scalar_one()
            paint.stock += 1

        async with house.unit():
            await house.add("a")
        start = threading.Barrier(6)

        def work() -> None:
            start.wait()
            for _ in range(10):
                move()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        async with house.unit():
            assert 60 == db.session.scalar(select(Paint.stock))

    house.run(scenario)


@postgres_only
def test_connection_lost_in_the_commit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost during COMMIT leaves the outcome unknown, and no hook runs."""

    async def scenario() -> None:
        seen: list[int] = []
        engine = house.db.engine

        def lose(connection: object) -> None:
            with house_killer.connect() as killer:
                killer.execute(text(f"SELECT pg_terminate_backend({pid})"))
            original(connection)

        from sqlalchemy import create_engine

        shared = engine.url.set(drivername="postgresql+psycopg")
        house_killer = create_engine(shared, isolation_level="AUTOCOMMIT")
        original = engine.dialect.do_commit
        with pytest.raises(CommitOutcomeUnknownError):
            async with house.unit():
                await house.add("a")
                pid = (await house.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                house.db.on_commit(lambda: seen.append(1))
                monkeypatch.setattr(engine.dialect, "do_commit", lose)
        monkeypatch.undo()
        house_killer.dispose()
        assert [] == seen
        assert 1 == house.db.get_connection_stats()["invalid"]
        async with house.unit():
            await house.add("b")
        assert "b" in await house.stored()

    house.run(scenario)


def test_a_failure_after_the_commit_is_none_of_the_work(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that dies between its COMMIT and its way back fails nothing: a retry would do the work again."""

    async def scenario() -> None:
        seen: list[int] = []

        def die(_connection: object) -> None:
            raise ConnectionResetError

        monkeypatch.setattr(house.db.engine.dialect, "reset_isolation_level", die)
        async with house.unit(isolation="SERIALIZABLE"):
            await house.add("a")
            house.db.on_commit(lambda: seen.append(1))
        monkeypatch.undo()
        assert ([1], ["a"]) == (seen, await house.stored())
        assert "the work is stored" in caplog.text

    house.run(scenario)


@postgres_only
def test_connection_lost_before_the_commit_is_known(house: House) -> None:
    """A connection that is lost in a statement rolls back for certain: the driver's error is raised, and it is transient."""

    async def scenario() -> None:
        with pytest.raises(DBAPIError) as caught:
            async with house.unit():
                await house.add("a")
                await house.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert is_transient(caught.value)
        assert [] == await house.stored()

    house.run(scenario)


@postgres_only
def test_connection_lost_in_a_savepoint_dooms_everything(house: House) -> None:
    """With the connection all is lost, outer work included: swallowing the loss in a nested boundary does not help."""

    async def scenario() -> None:
        with pytest.raises(UnexpectedRollbackError) as caught:
            async with house.unit():
                await house.add("a")
                with pytest.raises(DBAPIError):
                    async with house.unit(propagation="nested"):
                        await house.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
                assert ambient.unit_of_work.get().is_doomed()
        assert is_transient(caught.value)
        assert [] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("guarded", [False, True])
def test_a_row_changed_under_a_snapshot_dooms_everything(house: House, guarded: bool) -> None:
    """MariaDB rolls everything back then, savepoints around it included: who swallows it does not store the other half."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        with pytest.raises(UnexpectedRollbackError, match="1020"):
            async with house.unit() as session:
                # By default from MariaDB 11.6.2 on; its transaction begins after it.
                session.execute(text("SET SESSION innodb_snapshot_isolation = ON"))
                session.connection().exec_driver_sql("COMMIT")
                await house.add("lost")
                session.scalars(select(Paint.stock)).all()
                with house.db.engine.begin() as other:
                    other.execute(update(Paint).where(Paint.name == "a").values(stock=1))
                with suppress(DBAPIError):
                    async with house.unit(propagation="nested") if guarded else nullcontext():
                        session.execute(update(Paint).where(Paint.name == "a").values(stock=2))
                await house.add("half")
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
def test_a_deadlock_in_a_savepoint_dooms_everything(house: House) -> None:
    """MariaDB answers a deadlock by rolling everything back, not to the savepoint: who swallows it stores nothing."""
    holds, wants = threading.Event(), threading.Event()

    def touch(name: str) -> Any:
        return update(Paint).where(Paint.name == name).values(stock=Paint.stock + 1)

    def cross() -> None:
        with house.db.engine.begin() as other:
            # The victim is who has changed less.
            rows = [{"name": f"weight {number}", "stock": 0, "edits": 0} for number in range(20)]
            other.execute(insert(Paint), rows)
            other.execute(touch("b"))
            holds.set()
            wants.wait(PATIENCE)
            other.execute(touch("a"))

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
            await house.add("b")
        crossing = threading.Thread(target=cross)
        with pytest.raises(UnexpectedRollbackError, match="1213"):
            async with house.unit() as session:
                session.execute(touch("a"))
                await house.add("lost")
                crossing.start()
                holds.wait(PATIENCE)
                wants.set()
                with suppress(DBAPIError):
                    async with house.unit(propagation="nested"):
                        session.execute(touch("b"))
                await house.add("half")
        crossing.join(PATIENCE)
        assert set() == {"lost", "half"} & set(await house.stored())

    house.run(scenario)


@postgres_only
def test_two_managers_are_apart(house: House, shared_postgres: str) -> None:
    """A unit of work of one manager is none of another's: each finds its own session, whichever is inner."""
    other = DatabaseConnectionManager(shared_postgres)

    async def scenario() -> None:
        async with house.unit() as mine:
            with other.unit_of_work() as theirs:
                assert (mine, theirs) == (house.session, other.session)
                theirs.add(Paint(name="theirs"))
            await house.add("mine")
        assert ["mine", "theirs"] == await house.stored()

    house.run(scenario)
    other.close()
