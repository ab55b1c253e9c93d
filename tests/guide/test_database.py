import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response
from sqlalchemy import ForeignKey, NullPool, StaticPool, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship, selectinload

from paintkit import NoUnitOfWorkError, QueryGuardError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, query_guard, with_database_session


class Base(DeclarativeBase):
    pass


class Paint(Base):
    __tablename__ = "guide_paint"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Watched:
    """A database in memory with one table, whose commits and rollbacks are counted."""

    def __init__(self) -> None:
        self.db = DatabaseConnectionManager("sqlite://")
        Base.metadata.create_all(self.db.engine)
        self.ends: list[str] = []
        event.listen(self.db.engine, "commit", lambda _: self.ends.append("commit"))
        event.listen(self.db.engine, "rollback", lambda _: self.ends.append("rollback"))

    def names(self) -> list[str]:
        with self.db.unit_of_work(read_only=True) as session:
            return list(session.scalars(select(Paint.name).order_by(Paint.id)))


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.db.close()


def test_invalid_connections_are_counted(watched: Watched) -> None:
    """Row 1: no pool has a method `invalid()`; the manager counts by the pool's events."""
    assert 0 == watched.db.get_connection_stats()["invalid"]

    with watched.db.engine.connect() as connection:
        connection.invalidate()

    assert 1 == watched.db.get_connection_stats()["invalid"]


def test_a_fresh_pool_overflows_by_nothing() -> None:
    """Row 2: before the first connection SQLAlchemy counts minus the pool's size; the manager says 0, and divides by more."""
    db = DatabaseConnectionManager("sqlite:///nowhere.db", pool=PoolConfig(pool_size=5, max_overflow=10))

    stats = db.get_connection_stats()

    assert (0, -5) == (stats["overflow"], stats["overflow_raw"])
    assert (15, 0.0) == (stats["capacity"], stats["utilization"])
    db.close()


def app_of(**config: Any) -> Flask:
    app = Flask("guide")
    app.config.update(config)
    return app


def test_the_pool_can_be_set_until_the_engine_exists() -> None:
    """Row 3: options that come in time are heeded, without an app context; those that come too late are an error."""
    app = app_of(SQLALCHEMY_DATABASE_URI="sqlite:///nowhere.db")
    db = DatabaseConnectionManager(app)

    db.configure_pool(PoolConfig(pool_size=3))

    assert 3 == db.engine.pool.size()
    assert 3 == app.config["SQLALCHEMY_ENGINE_OPTIONS"]["pool_size"]
    with pytest.raises(RuntimeError, match="before the database is used"):
        db.configure_pool(PoolConfig(pool_size=7))
    db.close()


@pytest.mark.parametrize("replaced", [True, False], ids=["set anew", "changed in place"])
def test_options_set_after_the_manager_was_made_are_heeded(replaced: bool) -> None:
    """Row 3: until the engine exists, the app's configuration may still say how large its pool is."""
    app = app_of(SQLALCHEMY_DATABASE_URI="sqlite:///nowhere.db")
    db = DatabaseConnectionManager(app)

    if replaced:
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 9}
    else:
        app.config["SQLALCHEMY_ENGINE_OPTIONS"]["pool_size"] = 9

    assert 9 == db.engine.pool.size()
    assert 19 == db.get_connection_stats()["capacity"]
    db.close()


def test_an_engine_is_taken_as_it_is() -> None:
    """Row 3: an engine that exists brings its own pool, and saying otherwise is an error."""
    engine = create_engine("sqlite://", poolclass=StaticPool)

    db = DatabaseConnectionManager(engine)

    assert db.engine is engine
    with pytest.raises(ValueError, match="has its pool already"):
        DatabaseConnectionManager(engine, pool=PoolConfig())
    db.close()


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
def test_options_that_a_pool_does_not_know_are_left_out(poolclass: type[Any]) -> None:
    """Row 4: the same `PoolConfig` does for every class of pool, and the statistics say `None` where it knows nothing."""
    db = DatabaseConnectionManager("sqlite:///nowhere.db", engine_options={"poolclass": poolclass})

    stats = db.get_connection_stats()

    assert isinstance(db.engine.pool, poolclass)
    assert (None, None) == (stats["size"], stats["capacity"])
    assert 0 == stats["invalid"]
    db.close()


def test_a_memory_database_works_with_the_default_pool(watched: Watched) -> None:
    """Row 4: `sqlite://` is one database for all connections of the pool, and takes the pool's options."""
    with watched.db.unit_of_work() as session:
        session.add(Paint(id=1, name="red"))

    assert ["red"] == watched.names()
    assert 5 == watched.db.get_connection_stats()["size"]


def test_which_database_is_meant_is_never_a_matter_of_a_global() -> None:
    """Row 5: each manager's decorator opens its own database; the free one refuses to guess between two."""
    one, other = Watched(), Watched()

    @one.db.with_database_session
    def add(name: str) -> None:
        one.db.session.add(Paint(name=name))

    add("red")

    @with_database_session
    def guess() -> None:
        raise AssertionError("never called")

    assert (["red"], []) == (one.names(), other.names())
    with pytest.raises(RuntimeError, match=r"more than one DatabaseConnectionManager: name it"):
        guess()
    with pytest.raises(NoUnitOfWorkError, match=r"@db\.with_database_session"):
        _ = one.db.session
    one.db.close()
    other.db.close()


def test_a_returned_entity_is_readable(watched: Watched) -> None:
    """Row 6: what was loaded in a unit of work keeps its values after the commit and the close."""

    @watched.db.with_database_session
    def add() -> Paint:
        paint = Paint(name="red")
        watched.db.session.add(paint)
        return paint

    paint = add()

    assert (1, "red") == (paint.id, paint.name)
    assert ["commit"] == watched.ends


def test_an_entity_returned_by_a_coroutine_is_readable() -> None:
    """Row 6: the same in asyncio."""

    async def scenario() -> Paint:
        db = DatabaseConnectionManager("sqlite+aiosqlite://")
        async with db.async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        @db.with_database_session
        async def add() -> Paint:
            paint = Paint(name="red")
            db.async_session.add(paint)
            return paint

        paint = await add()
        await db.aclose()
        return paint

    paint = asyncio.run(scenario())

    assert (1, "red") == (paint.id, paint.name)


def test_an_inner_boundary_joins(watched: Watched) -> None:
    """Row 7: decorated functions that call each other are one unit of work: one commit, none before the end."""
    db = watched.db

    @db.with_database_session
    def add(name: str) -> None:
        db.session.add(Paint(name=name))

    @db.with_database_session
    def add_all() -> int:
        add("red")
        add("blue")
        assert [] == watched.ends
        return db.session.scalar(select(func.count()).select_from(Paint)) or 0

    assert 2 == add_all()
    assert ["commit"] == watched.ends


def test_what_an_inner_boundary_stored_goes_with_the_outer_one(watched: Watched) -> None:
    """Row 7: the outer failure takes back what the inner function did, for it never committed by itself."""
    db = watched.db

    @db.with_database_session
    def add(name: str) -> None:
        db.session.add(Paint(name=name))
        db.session.flush()

    @db.with_database_session
    def add_and_fail() -> None:
        add("red")
        raise RuntimeError("out of stock")

    with pytest.raises(RuntimeError, match="out of stock"):
        add_and_fail()

    assert ["rollback"] == watched.ends
    assert [] == watched.names()


def test_a_savepoint_is_asked_for_by_name(watched: Watched) -> None:
    """Row 7: only `nested` may fail by itself inside a unit of work that goes on."""
    db = watched.db

    @db.with_database_session
    def add_twice() -> None:
        db.session.add(Paint(id=1, name="red"))
        with pytest.raises(IntegrityError), db.unit_of_work(propagation="nested"):
            db.session.execute(Paint.__table__.insert().values(id=1, name="blue"))
        db.session.add(Paint(id=2, name="green"))

    add_twice()

    assert ["red", "green"] == watched.names()


def test_the_unit_of_a_stream_ends_when_the_stream_is_closed(watched: Watched) -> None:
    """Row 7: a generator reads to its end in one open unit of work; closing it early ends that unit."""
    db = watched.db
    with db.unit_of_work() as session:
        session.add_all([Paint(name="red"), Paint(name="blue"), Paint(name="green")])
    watched.ends.clear()

    @db.with_database_session
    def stream() -> Iterator[str]:
        for number in (1, 2, 3):
            yield db.session.scalars(select(Paint.name).where(Paint.id == number)).one()

    names = stream()
    assert ["red", "blue"] == [next(names), next(names)]
    assert [] == watched.ends
    assert 1 == db.get_connection_stats()["checked_out"]
    names.close()

    assert 1 == len(watched.ends)
    assert 0 == db.get_connection_stats()["checked_out"]
    assert ["red", "blue", "green"] == list(stream())


@pytest.mark.parametrize(
    ("status", "stored"), [(200, ["red"]), (302, ["red"]), (400, []), (404, []), (500, [])]
)
def test_a_response_that_is_an_error_stores_nothing(watched: Watched, status: int, stored: list[str]) -> None:
    """Row 8: a view that returns 4xx or 5xx has failed, though it raised nothing."""

    @watched.db.with_database_session
    def view() -> Response:
        watched.db.session.add(Paint(name="red"))
        return Response(status=status)

    assert status == view().status_code
    assert stored == watched.names()


def test_reading_is_refused_to_write(watched: Watched) -> None:
    """Row 8: a unit of work that only reads has nothing to commit, and says so to whoever tries."""

    @watched.db.with_database_session(read_only=True)
    def view() -> None:
        watched.db.session.add(Paint(name="red"))
        watched.db.session.flush()

    with pytest.raises(Exception, match="read"):
        view()

    assert "commit" not in watched.ends


def test_a_failing_rollback_does_not_hide_the_first_error(watched: Watched) -> None:
    """Row 9: the caller gets the error of the body, the same object; what failed after it is a note on it or in the log."""
    first = ValueError("wrong amount")

    def break_down(_connection: object) -> None:
        raise ConnectionError("the server is gone")

    @watched.db.with_database_session
    def change() -> None:
        watched.db.session.execute(text("SELECT 1"))
        event.listen(watched.db.engine, "rollback", break_down)
        raise first

    with pytest.raises(ValueError, match="wrong amount") as caught:
        change()

    event.remove(watched.db.engine, "rollback", break_down)
    assert caught.value is first


class Range(Base):
    __tablename__ = "guide_range"
    id: Mapped[int] = mapped_column(primary_key=True)
    colours: Mapped[list["RangeColour"]] = relationship(back_populates="range", order_by="RangeColour.id")


class RangeColour(Base):
    __tablename__ = "guide_range_colour"
    id: Mapped[int] = mapped_column(primary_key=True)
    range_id: Mapped[int] = mapped_column(ForeignKey("guide_range.id"))
    range: Mapped[Range] = relationship(back_populates="colours")


@pytest.fixture
def ranges(watched: Watched) -> DatabaseConnectionManager:
    """Four ranges of five colours."""
    with watched.db.unit_of_work() as session:
        session.add_all(Range(id=one, colours=[RangeColour() for _ in range(5)]) for one in range(1, 5))
    return watched.db


def test_a_loop_is_found_though_the_identity_map_hides_most_of_it(ranges: DatabaseConnectionManager) -> None:
    """Row 51: twenty rows with four parents load four times, not twenty; it is a loop all the same, and the join is none."""

    def seen(*options: Any) -> int:
        with ranges.unit_of_work() as session, query_guard():
            found = session.scalars(select(RangeColour).options(*options)).all()
            return len([colour.range.id for colour in found])

    with pytest.raises(
        QueryGuardError, match=r"joinedload\(RangeColour.range\)|selectinload\(RangeColour.range\)"
    ) as refusal:
        seen()
    assert "test_database.py" in str(refusal.value)
    assert 20 == seen(joinedload(RangeColour.range))


def test_collections_load_by_a_second_query(ranges: DatabaseConnectionManager) -> None:
    """Row 51: the guard names `selectinload` for a collection; that is two statements, and each parent comes once."""

    def sizes(*options: Any) -> list[int]:
        with ranges.unit_of_work() as session, query_guard(max_queries=2):
            return [len(one.colours) for one in session.scalars(select(Range).options(*options))]

    with pytest.raises(QueryGuardError, match=r"selectinload\(Range.colours\)"):
        sizes()
    assert [5, 5, 5, 5] == sizes(selectinload(Range.colours))
