"""Results of SELECTs from a cache: equal to what the database would say, and nobody's objects but the caller's own."""

import enum
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    String,
    Table,
    column,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    composite,
    defer,
    joinedload,
    load_only,
    mapped_column,
    reconstructor,
    relationship,
    selectinload,
)

from paintkit import CacheManager
from paintkit.sqlalchemy import (
    DatabaseConnectionManager,
    FromCache,
    QueryCache,
    UnitOfWork,
    query_guard,
    tables,
)
from paintkit.sqlalchemy import query_cache as module
from paintkit.testing import FakeClock, FakeLevel, FakeServer
from tests.sqlalchemy.house import House
from tests.sqlalchemy.servers import PATIENCE


class Base(DeclarativeBase):
    """The tables of these tests."""


class Finish(enum.Enum):
    MATT = "matt"
    GLOSS = "gloss"


labels = Table(
    "labels",
    Base.metadata,
    Column("paint_id", ForeignKey("pot.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("label.id"), primary_key=True),
)


class Size:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def __composite_values__(self) -> tuple[int, int]:
        return self.width, self.height


class Brand(Base):
    __tablename__ = "brand"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    pots: Mapped[list["Pot"]] = relationship(back_populates="brand", passive_deletes=True, order_by="Pot.id")


class Label(Base):
    __tablename__ = "label"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


class Pot(Base):
    __tablename__ = "pot"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    stock: Mapped[int] = mapped_column(default=0)
    finish: Mapped[Finish] = mapped_column(default=Finish.MATT)
    notes: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON()), default=dict)
    lists: Mapped[list[int]] = mapped_column(JSON, default=list)
    width: Mapped[int] = mapped_column(default=1)
    height: Mapped[int] = mapped_column(default=2)
    size: Mapped[Size] = composite("width", "height")
    brand_id: Mapped[int | None] = mapped_column(ForeignKey("brand.id", ondelete="CASCADE"))
    brand: Mapped[Brand | None] = relationship(back_populates="pots")
    labels: Mapped[list[Label]] = relationship(secondary=labels, order_by=Label.id)

    @reconstructor
    def remember(self) -> None:
        self.was_loaded = True


class Rooms(House):
    """A house with these tables and a query cache."""

    def __init__(self, url: str, level2: FakeLevel | None = None) -> None:
        super().__init__(url)
        self.level2 = level2
        self.cache = CacheManager("queries", level2=level2)
        self.queries = QueryCache(self.db, self.cache)

    async def _furnished(self, scenario: Any) -> Any:
        await self._on_engine(Base.metadata.drop_all)
        await self._on_engine(Base.metadata.create_all)
        try:
            return await scenario()
        finally:
            await self._on_engine(Base.metadata.drop_all)
            if self.db.is_async:
                await self.db.aclose()
            else:
                self.db.close()

    async def store(self, *objects: Any) -> None:
        async with self.unit() as session:
            session.add_all(objects)

    async def read(self, statement: Any) -> list[Any]:
        """Return the scalars of a statement in a unit that only reads."""
        async with self.unit(read_only=True) as session:
            return list((await self.settle(session.scalars(statement))).all())


@pytest.fixture
def house(url: str) -> Rooms:
    return Rooms(url)


POTS = select(Pot).order_by(Pot.id).options(FromCache(timeout=60))
NAMES = select(Pot.name).order_by(Pot.id).options(FromCache())


def test_a_hit_is_no_query(house: Rooms) -> None:
    """The second time nothing reaches the database; entities, columns and rows come as they would."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red", stock=3, finish=Finish.GLOSS), Pot(id=2, name="blue"))
        rows = select(Pot.name, Pot, func.count().over().label("many")).order_by(Pot.id).options(FromCache())
        for most in (3, 0):
            with query_guard(max_queries=most):
                (red, blue) = await house.read(POTS)
                assert ["red", "blue"] == await house.read(NAMES)
                async with house.unit(read_only=True):
                    first, second = (await house.execute(rows)).all()
            assert (1, "red", 3, Finish.GLOSS) == (red.id, red.name, red.stock, red.finish)
            assert (1, 2, True) == (red.size.width, blue.size.height, red.was_loaded)
            assert ("red", 2, "blue") == (first.name, first.many, second[1].name)

    house.run(scenario)


def test_objects_are_the_callers_own(house: Rooms) -> None:
    """Every session gets objects of its own, with values of its own; what is done to them reaches nobody else."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red", notes={"a": 1}, lists=[1]))
        (first,) = await house.read(POTS)
        first.lists.append(9)
        async with house.unit() as session:
            mine = (await house.settle(session.scalars(POTS))).one()
            assert [1] == mine.lists
            assert mine is await house.settle(session.get(Pot, 1))
            mine.notes["a"] = 2
            mine.lists.append(2)
            first.name = "spoiled"
            mine.name = "changed"
        other, again = (await house.read(POTS))[0], (await house.read(POTS))[0]
        assert len({id(one) for one in (first, mine, other, again)}) == 4
        # MutableDict saw its change and stored it; a plain list is SQLAlchemy's to overlook.
        assert [("changed", {"a": 2}, [1])] * 2 == [
            (one.name, one.notes, one.lists) for one in (other, again)
        ]

    house.run(scenario)


def test_what_the_session_holds_stays(house: Rooms) -> None:
    """As in any query, an object that the session has already keeps its state, unflushed changes included."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red", stock=1))
        await house.read(POTS)
        async with house.unit() as session:
            mine = await house.settle(session.get(Pot, 1, options=[defer(Pot.stock)]))
            (session.sync_session if house.db.is_async else session).autoflush = False
            mine.name = "changed"
            with query_guard(max_queries=0):
                (found,) = (await house.settle(session.scalars(POTS))).all()
                assert (mine, "changed", 1) == (found, found.name, found.stock)

    house.run(scenario)


def test_what_was_not_loaded_loads_when_it_is_read(house: Rooms) -> None:
    """A column that the statement left out comes with a query of its own, as it does without the cache."""
    partly = POTS.options(load_only(Pot.name))

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red", stock=7))
        await house.read(partly)
        async with house.unit() as session:
            (pot,) = (await house.settle(session.scalars(partly))).all()
            assert {"stock", "brand", "labels"} <= inspect(pot).unloaded
            if house.db.is_async:
                await session.refresh(pot, ["stock"])
            assert (7, False) == (pot.stock, session.is_modified(pot))
            pot.stock = 8
        assert [8] == [one.stock for one in await house.read(POTS)]

    house.run(scenario)


def test_loaded_relationships_come_with_their_parents(house: Rooms) -> None:
    """What loader options load is there without a query, both ways and to the same objects; nothing else is."""

    async def scenario() -> None:
        brand = Brand(id=1, name="Vallejo")
        await house.store(
            Pot(id=1, name="red", brand=brand, labels=[Label(id=1, name="new")]),
            Pot(id=2, name="blue", brand=brand),
        )
        deep = (
            select(Brand)
            .options(selectinload(Brand.pots).selectinload(Pot.labels), FromCache())
            .order_by(Brand.id)
        )
        for most in (3, 0):
            with query_guard(max_queries=most):
                (found,) = await house.read(deep)
                assert [("red", ["new"]), ("blue", [])] == [
                    (pot.name, [one.name for one in pot.labels]) for pot in found.pots
                ]
        async with house.unit() as session:
            session.add(Pot(id=3, name="green", brand_id=1))
        assert ["red", "blue", "green"] == [pot.name for pot in (await house.read(deep))[0].pots]
        async with house.unit():
            await house.execute(insert(labels).values(paint_id=2, label_id=1))
        assert [1, 1, 0] == [len(pot.labels) for pot in (await house.read(deep))[0].pots]

    house.run(scenario)


def test_joined_loads_keep_their_rule(house: Rooms) -> None:
    """A joined load of a collection wants `unique()`, from the cache as without it."""
    joined = select(Brand).options(joinedload(Brand.pots), FromCache())

    async def scenario() -> None:
        await house.store(Brand(id=1, name="Vallejo", pots=[Pot(id=1, name="red"), Pot(id=2, name="blue")]))
        for _ in range(2):
            async with house.unit(read_only=True):
                result = await house.execute(joined)
                (brand,) = result.unique().scalars().all()
                assert ["red", "blue"] == [pot.name for pot in brand.pots]
                with pytest.raises(InvalidRequestError, match="unique"):
                    (await house.execute(joined)).scalars().all()

    house.run(scenario)


async def _flush(house: Rooms) -> None:
    house.session.add(Pot(id=7, name="x"))
    await house.flush()


async def _bulk(house: Rooms) -> None:
    rows = [{"id": 7, "name": "x", "notes": {}, "lists": []}]
    if house.db.is_async:
        await house.session.run_sync(lambda session: session.bulk_insert_mappings(Pot, rows))
    else:
        house.session.bulk_insert_mappings(Pot, rows)


async def _raw(house: Rooms) -> None:
    sql = "UPDATE pot SET stock = 9"
    if house.db.is_async:
        await house.session.run_sync(lambda session: session.connection().exec_driver_sql(sql))
    else:
        house.session.connection().exec_driver_sql(sql)


# Of a row, where SQLAlchemy knows no types.
VALUES = {
    "id": 7,
    "name": "x",
    "stock": 0,
    "finish": "MATT",
    "notes": "{}",
    "lists": "[]",
    "width": 1,
    "height": 2,
}

WRITES: dict[str, Callable[[Rooms], Any]] = {
    "a flush": lambda house: house.settle(_flush(house)),
    "an insert": lambda house: house.execute(insert(Pot).values(id=7, name="x", notes={}, lists=[])),
    "an update": lambda house: house.execute(update(Pot).values(stock=9)),
    "a delete": lambda house: house.execute(delete(Pot)),
    "a Core statement": lambda house: house.execute(Pot.__table__.update().values(stock=9)),
    "text": lambda house: house.execute(text("UPDATE pot SET stock = 9")),
    "a bulk insert": _bulk,
    "the connection": _raw,
    "an insert by mere names": lambda house: house.execute(
        insert(table("pot", *map(column, VALUES))).values(VALUES)
    ),
    "an update by mere names": lambda house: house.execute(
        update(table("pot", column("stock"))).values(stock=9)
    ),
    "a cascade by mere names": lambda house: house.execute(delete(table("brand"))),
    "a cascade of the database": lambda house: house.execute(delete(Brand)),
}


@pytest.mark.parametrize("how", WRITES)
def test_every_way_to_write_counts(house: Rooms, how: str) -> None:
    """However a table is written: its unit reads the new at once, others after the COMMIT, and nothing after a rollback."""

    class Boom(Exception): ...

    async def scenario() -> None:
        await house.store(
            Brand(id=1, name="Vallejo", pots=[Pot(id=1, name="red", stock=1)]), Label(id=1, name="new")
        )
        others = select(Label.name).options(FromCache())
        await house.read(others)

        async def seen() -> list[Any]:
            return [(one.name, one.stock) for one in await house.read(POTS)]

        assert [("red", 1)] == await seen()
        for fails in (True, False):
            try:
                async with house.unit() as session:
                    await WRITES[how](house)
                    pots = (await house.settle(session.scalars(POTS))).all()
                    own = [(one.name, one.stock) for one in pots]
                    uncached = (await house.execute(select(Pot.name, Pot.stock).order_by(Pot.id))).all()
                    assert [*map(tuple, uncached)] == own != [("red", 1)]
                    if fails:
                        raise Boom
            except Boom:
                with query_guard(max_queries=0):
                    assert [("red", 1)] == await seen()
        assert own == await seen()
        known = how not in {"text", "the connection", "an update by mere names", "a cascade by mere names"}
        with query_guard(max_queries=0 if known else 1):
            assert ["new"] == await house.read(others)

    house.run(scenario)


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("SELECT 1", False),
        ("  select 1 ;\n", False),
        ("SET LOCAL statement_timeout = 5", False),
        ("EXPLAIN UPDATE pot SET stock = 9", False),
        ("SELECT 1; UPDATE pot SET stock = 9", True),
        ("SET LOCAL lock_timeout = 5;\nDELETE FROM pot", True),
        ("EXPLAIN (VERBOSE,\n ANALYZE) UPDATE pot SET stock = 9", True),
        ("WITH gone AS (DELETE FROM pot RETURNING id) SELECT id FROM gone", True),
        ("/* SELECT */ UPDATE pot SET stock = 9", True),
    ],
)
def test_text_writes_unless_it_is_one_statement_that_reads(sql: str, writes: bool) -> None:
    """Whatever it begins with, a second statement in it may write, and EXPLAIN ANALYZE does what it explains."""
    assert (tables.EVERY_TABLE if writes else frozenset()) == tables.written_by(None, sql)


@pytest.mark.parametrize(
    "statement",
    [
        insert(Brand).prefix_with("OR REPLACE"),
        postgresql.insert(Brand).on_conflict_do_update(index_elements=["id"], set_={"id": 7}),
        sqlite.insert(Brand).on_conflict_do_update(index_elements=["id"], set_={"id": 7}),
        mysql.insert(Brand).on_duplicate_key_update(id=7),
    ],
    ids=["or replace", "on conflict", "on conflict, SQLite", "on duplicate key"],
)
def test_an_insert_that_replaces_rows_has_cascades(statement: Any) -> None:
    """The database deletes or changes what depends on the rows that were there; a mere insert touches nothing else."""
    assert {"brand", "pot", "labels"} == tables.written_by(Mock(statement=statement, ctes=None), "")
    assert {"brand"} == tables.written_by(Mock(statement=insert(Brand), ctes=None), "")


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_tables_of_another_schema_are_other_tables(house: Rooms) -> None:
    """Under a `schema_translate_map` of one statement, or of a connection, nothing comes from the cache; writes count."""

    def moved(schema: str) -> dict[str, Any]:
        return {"schema_translate_map": {None: schema}}

    async def of_tenant(schema: str, *, by_connection: bool) -> list[str]:
        async with house.unit(read_only=True) as session:
            if by_connection:
                await house.settle(session.connection(execution_options=moved(schema)))
            options = {} if by_connection else moved(schema)
            return list((await house.settle(session.scalars(NAMES, execution_options=options))).all())

    async def scenario() -> None:
        await house.store(Pot(id=1, name="everybody's"))
        try:
            async with house.unit():
                for schema in ("one", "two"):
                    await house.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
                    await house.execute(text(f"CREATE SCHEMA {schema}"))
                    await house.execute(text(f"CREATE TABLE {schema}.pot AS SELECT * FROM pot"))
                    await house.execute(text(f"UPDATE {schema}.pot SET name = '{schema}'"))
            for by_connection in (False, True):
                assert ["everybody's"] == await house.read(NAMES)
                for schema in ("one", "two"):
                    assert [schema] == await of_tenant(schema, by_connection=by_connection)
            theirs = select(column("name")).select_from(table("pot", column("name"), schema="one"))
            theirs = theirs.options(FromCache())
            assert ["one"] == await house.read(theirs)
            async with house.unit() as session:
                await house.settle(
                    session.execute(update(Pot).values(name="uno"), execution_options=moved("one"))
                )
            assert ["uno"] == await house.read(theirs)
        finally:
            async with house.unit():
                await house.execute(text("DROP SCHEMA IF EXISTS one, two CASCADE"))

    house.run(scenario)


def test_a_savepoint_that_falls_takes_its_writes_along(house: Rooms) -> None:
    """A table written in a savepoint that is rolled back, and then outside of it, counts as written."""

    class Boom(Exception): ...

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red"))
        assert ["red"] == await house.read(NAMES)
        async with house.unit() as session:
            with pytest.raises(Boom):
                async with house.unit(propagation="nested"):
                    session.add(Pot(id=2, name="blue"))
                    await house.flush()
                    raise Boom
            session.add(Pot(id=3, name="green"))
        assert ["red", "green"] == await house.read(NAMES)

    house.run(scenario)


def test_what_waits_to_be_flushed_counts(house: Rooms) -> None:
    """A unit reads its own additions, as it would without the cache: they are flushed first."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red"))
        assert ["red"] == await house.read(NAMES)
        async with house.unit() as session:
            session.add(Pot(id=2, name="blue"))
            assert ["red", "blue"] == (await house.settle(session.scalars(NAMES))).all()

    house.run(scenario)


@pytest.mark.parametrize(
    ("option", "seconds"),
    [(FromCache(timeout=60), 60.0), (FromCache(), 300.0), (FromCache(timeout=None), None)],
)
def test_an_answer_is_served_for_its_time(url: str, option: FromCache, seconds: float | None) -> None:
    """The statement's own, else that of the query cache; `None` never ends."""
    statement = select(Pot.name).options(option)

    def queries(house: Rooms) -> Any:
        async def asked() -> int:
            with query_guard() as guard:
                await house.read(statement)
            return len(guard.statements)

        return asked()

    with FakeClock() as clock:
        house = Rooms(url)

        async def scenario() -> list[int]:
            await house.store(Pot(id=1, name="red"))
            counts = [await queries(house)]
            for elapsed in (0.9, 0.2):
                clock.advance(elapsed * (1e6 if seconds is None else seconds))
                counts.append(await queries(house))
            return counts

        assert [1, 0, 0 if seconds is None else 1] == house.run(scenario)


def test_writes_outside_of_units_count(url: str) -> None:
    """What plain SQLAlchemy writes through the same engine counts once its connection is back."""
    house = Rooms(url)

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red"))
        assert ["red"] == await house.read(NAMES)
        with house.db.engine.begin() as connection:
            connection.execute(insert(Pot).values(id=2, name="blue", notes={}, lists=[]))
        assert ["red", "blue"] == await house.read(NAMES)

    house.run(scenario)


def test_touched_and_the_names_of_tables(house: Rooms) -> None:
    """`touched` says what SQLAlchemy cannot see; `FromCache(tables=…)` names what it cannot see a SELECT read."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red", stock=1))
        with pytest.raises(TypeError, match="tables="):
            await house.read(select(text("stock")).select_from(text("pot")).options(FromCache()))
        total = select(text("sum(stock)")).select_from(text("pot")).options(FromCache(tables=("pot",)))
        assert [1] == await house.read(total)
        async with house.unit():
            await house.execute(update(Pot).values(stock=2))
        assert [2] == await house.read(total)
        with query_guard(max_queries=0):
            house.queries.touched("brand")
            assert [2] == await house.read(total)
        with query_guard() as guard:
            house.queries.touched("pot")
            assert [2] == await house.read(total)
        assert 1 == len(guard.statements)

    house.run(scenario)


def test_values_and_shapes_are_told_apart(house: Rooms) -> None:
    """Statements differ by their values, with their types, and by what they return, even where their SQL is the same."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="1"), Pot(id=2, name="2", finish=Finish.GLOSS))
        by_name = lambda name: select(Pot.id).where(Pot.name == name).options(FromCache())  # noqa: E731
        for _ in range(2):
            assert ([1], [2], []) == (
                await house.read(by_name("1")),
                await house.read(by_name("2")),
                await house.read(by_name("1:str='2'")),
            )
            assert [2] == await house.read(
                select(Pot.id).where(Pot.finish == Finish.GLOSS).options(FromCache())
            )
            assert [1, 2] == await house.read(
                select(Pot.id).where(Pot.id.in_([1, 2])).order_by(Pot.id).options(FromCache())
            )
            assert [1] == await house.read(select(Pot.id).where(Pot.id.in_([1])).options(FromCache()))
            assert [2] == await house.read(
                select(Pot.id).order_by(Pot.id).offset(1).limit(1).options(FromCache())
            )
        with pytest.raises(TypeError, match="object"):
            await house.read(select(Pot.id).where(Pot.notes == object()).options(FromCache()))

    house.run(scenario)


def test_what_has_to_see_the_database_does(house: Rooms) -> None:
    """Locks, refreshed objects and streams are never answered from the cache."""

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red"))
        await house.read(POTS)
        specials = [POTS.with_for_update(), POTS.execution_options(populate_existing=True)]
        if not house.db.is_async:  # which refuses it
            specials.append(POTS.execution_options(yield_per=10))
        for special in specials:
            with query_guard() as guard:
                async with house.unit() as session:
                    found = await house.settle(session.scalars(special))
                    assert ["red"] == [one.name for one in found.all()]
            assert 1 == len(guard.statements)

    house.run(scenario)


def test_many_tables(url: str) -> None:
    """A SELECT that reads more tables than an entry has tags goes with every write."""
    house = Rooms(url)

    async def scenario() -> None:
        await house.store(Pot(id=1, name="red"))
        wide = select(Pot.name).options(FromCache(tables=[f"t{number}" for number in range(20)]))
        assert ["red"] == await house.read(wide)
        await house.store(Pot(id=2, name="blue"))
        assert 2 == len(await house.read(wide))

    house.run(scenario)


def test_read_sessions_of_flask_have_it_too() -> None:
    """Outside units of work, in a request, the read session is answered from the cache."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = DatabaseConnectionManager(app)
    QueryCache(db, CacheManager())
    Base.metadata.create_all(db.engine)
    with db.unit_of_work() as session:
        session.add(Pot(id=1, name="red"))
    for most in (1, 0):
        with app.app_context(), query_guard(max_queries=most):
            (pot,) = db.session.scalars(POTS).all()
            assert ("red", db.session) == (pot.name, pot._sa_instance_state.session)
    db.close()


def test_mistakes_are_named() -> None:
    """A second cache, an option without a cache, and bad options."""
    db = DatabaseConnectionManager("sqlite://")
    with db.unit_of_work() as session, pytest.raises(RuntimeError, match="QueryCache"):
        session.scalars(POTS)
    QueryCache(db, CacheManager())
    with pytest.raises(ValueError, match="already"):
        QueryCache(db, CacheManager())
    with pytest.raises(TypeError, match="db must be a DatabaseConnectionManager"):
        QueryCache("sqlite://", CacheManager())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache must be a CacheManager"):
        QueryCache(DatabaseConnectionManager("sqlite://"), "queries")  # type: ignore[arg-type]
    for options, error in (
        ({"timeout": 0}, ValueError),
        ({"timeout": "x"}, TypeError),
        ({"tables": "pot"}, TypeError),
        ({"tables": [""]}, ValueError),
    ):
        with pytest.raises(error):
            FromCache(**options)
    db.close()


class Walk(RuleBasedStateMachine):
    """Random writes and random reads; every cached answer is compared with the database's own."""

    db: DatabaseConnectionManager

    def __init__(self) -> None:
        super().__init__()
        for emptied in (labels, Pot.__table__, Brand.__table__):
            with self.db.unit_of_work() as session:
                session.execute(delete(emptied))
        self._in_unit(lambda session: session.add(Brand(id=1, name="a", pots=[Pot(id=1, name="p", stock=1)])))
        self.unit: Any = None

    @rule(brand=st.integers(1, 2), name=st.sampled_from("ab"))
    def add_brand(self, brand: int, name: str) -> None:
        self._in_unit(lambda session: session.merge(Brand(id=brand, name=name)))

    @rule(pot=st.integers(1, 2), stock=st.integers(0, 2), brand=st.integers(1, 2))
    def add_pot(self, pot: int, stock: int, brand: int) -> None:
        def act(session: Any) -> None:
            found = session.get(Brand, brand)
            session.merge(Pot(id=pot, name=f"p{stock}", stock=stock, brand_id=found and found.id))

        self._in_unit(act)

    @rule(stock=st.integers(0, 2))
    def restock(self, stock: int) -> None:
        self._in_unit(lambda session: session.execute(update(Pot).values(stock=stock)))

    @rule(brand=st.integers(1, 2))
    def drop_brand(self, brand: int) -> None:
        self._in_unit(lambda session: session.execute(delete(Brand).where(Brand.id == brand)))

    @rule(name=st.sampled_from("xy"))
    def rename_by_text(self, name: str) -> None:
        self._in_unit(lambda session: session.execute(text("UPDATE brand SET name = :name"), {"name": name}))

    @rule(fails=st.booleans())
    def end(self, fails: bool) -> None:
        if self.unit is not None:
            unit, self.unit = self.unit, None
            error = ValueError() if fails else None
            unit.__exit__(type(error) if error else None, error, None)

    @rule()
    def begin(self) -> None:
        if self.unit is None:
            self.unit = self.db.unit_of_work()
            self.unit.__enter__()

    @invariant()
    def answers_are_the_databases(self) -> None:
        with self.db.unit_of_work() as session:
            session.flush()
            session.expire_all()
            for statement, read in QUESTIONS:
                cached = read(session.execute(statement.options(FromCache())))
                session.expire_all()
                plain = read(session.execute(statement))
                session.expire_all()
                assert plain == cached

    def teardown(self) -> None:
        self.end(fails=True)

    def _in_unit(self, act: Callable[[Any], object]) -> None:
        with self.db.unit_of_work() as session:
            act(session)
            session.flush()


QUESTIONS: list[tuple[Any, Callable[[Any], Any]]] = [
    (select(Pot.id, Pot.stock).order_by(Pot.id), lambda result: [*map(tuple, result)]),
    (
        select(Pot).order_by(Pot.id),
        lambda result: [(one.id, one.name, one.stock, one.brand_id) for one in result.scalars()],
    ),
    (
        select(Brand).options(selectinload(Brand.pots)).order_by(Brand.id),
        lambda result: [(one.name, [pot.stock for pot in one.pots]) for one in result.scalars()],
    ),
    (
        select(Pot).join(Pot.brand).options(joinedload(Pot.brand)).where(Brand.name == "a").order_by(Pot.id),
        lambda result: [(one.id, one.brand.name) for one in result.scalars()],
    ),
    (select(Brand.name, func.sum(Pot.stock)).join(Pot).group_by(Brand.name).order_by(Brand.name),
     lambda result: [*map(tuple, result)]),
    (select(Brand.id).where(Brand.pots.any(Pot.stock > 0)).order_by(Brand.id), lambda result: [*result.scalars()]),
]  # fmt: skip


@contextmanager
def walks(url: str) -> Iterator[type[Walk]]:
    """Make a machine over empty tables of one database."""
    db = DatabaseConnectionManager(url)
    Base.metadata.drop_all(db.engine)
    Base.metadata.create_all(db.engine)
    QueryCache(db, CacheManager("walk"))

    class Here(Walk):
        pass

    Here.db = db
    try:
        yield Here
    finally:
        Base.metadata.drop_all(db.engine)
        db.close()


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_random_answers_are_the_databases(url: str) -> None:
    """Whatever is written, committed and rolled back in between, a cached answer is the one the database would give."""
    with walks(url) as machine:
        run_state_machine_as_test(
            machine, settings=settings(max_examples=10, stateful_step_count=10, deadline=None)
        )


def walk(step: str, **arguments: Any) -> None:
    """Take one step, for a search finds a mistake only by chance, and look before and after it as Hypothesis does."""
    with walks("sqlite://") as machine:
        walker = machine()
        walker.answers_are_the_databases()
        getattr(walker, step)(**arguments)
        walker.answers_are_the_databases()
        walker.teardown()


@pytest.mark.parametrize(
    ("name", "mutant", "step", "arguments"),
    [
        pytest.param(
            "_with_dependents",
            lambda table: frozenset({table.fullname}),
            "drop_brand",
            {"brand": 1},
            id="cascades are forgotten",
        ),
        pytest.param(
            "_reachable",
            lambda mapper, everything: set(),
            "restock",
            {"stock": 2},
            id="eager loads are forgotten",
        ),
        pytest.param(
            "_HARMLESS",
            type("Any", (), {"fullmatch": staticmethod(bool)}),
            "rename_by_text",
            {"name": "x"},
            id="text is taken for harmless",
        ),
    ],
)
def test_the_walk_notices_mutants(
    monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any, step: str, arguments: dict[str, Any]
) -> None:
    """A walk that is right fails on a cache that overlooks a way in which answers change."""
    walk(step, **arguments)
    monkeypatch.setattr(module.tables, name, mutant)
    with pytest.raises(AssertionError):
        walk(step, **arguments)


class Reader:
    """A thread that reads through the cache, and stops between what the database said and what the cache keeps."""

    def __init__(self, house: Rooms) -> None:
        self._house = house
        self._read, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def load(self) -> None:
        event.listen(self._house.db.engine, "after_cursor_execute", self._pause)
        self._thread.start()
        assert self._read.wait(PATIENCE)

    def store(self) -> None:
        self._go_on.set()
        self._thread.join(PATIENCE)
        event.remove(self._house.db.engine, "after_cursor_execute", self._pause)

    def _run(self) -> None:
        run_read(self._house)
        self._read.set()  # it was answered from the cache

    def _pause(self, *_: Any) -> None:
        if threading.current_thread() is self._thread and not self._read.is_set():
            self._read.set()
            assert self._go_on.wait(PATIENCE)


class Writer:
    """A unit of work that changes a row, and then commits."""

    def __init__(self, house: Rooms) -> None:
        self._unit = house.db.unit_of_work()

    def write(self) -> None:
        session = self._unit.__enter__()
        session.execute(update(Pot).values(stock=Pot.stock + 1))

    def commit(self) -> None:
        self._unit.__exit__(None, None, None)


def history(house: Rooms, chance: random.Random) -> list[int]:
    """Let a reader and a writer take their steps in a random order; return what is read at last."""
    if chance.random() < 0.7:
        house.queries.touched("pot")
    reader, writer = Reader(house), Writer(house)
    steps = [[reader.store, reader.load], [writer.commit, writer.write]]
    while any(steps):
        chance.choice([one for one in steps if one]).pop()()
    return [one.stock for one in run_read(house)]


@pytest.mark.parametrize("url", ["sqlite-file", "postgres"], indirect=True)
@pytest.mark.parametrize("careful", [True, False])
def test_slow_readers_leave_nothing_old_behind(
    url: str, careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that read before a commit, and stores after it, leaves no value older than that commit.

    The same histories over units whose invalidations do not wait for the commit leave such values: the check sees them.
    `PAINTKIT_HISTORIES` sets how many.
    """
    house = Rooms(url)
    if not careful:
        monkeypatch.setattr(UnitOfWork, "defer", lambda _self, action, **_: action())

    async def scenario() -> None:
        chance = random.Random(5)
        await house.store(Pot(id=1, name="red"))
        many = int(os.environ.get("PAINTKIT_HISTORIES", "60"))
        right = [[number] == history(house, chance) for number in range(1, many + 1)]
        assert all(right) is careful

    house.run(scenario)


def run_read(house: Rooms) -> list[Any]:
    with house.db.unit_of_work(read_only=True) as session:
        return list(session.scalars(POTS).all())


class TestTwoProcesses:
    """Two managers with query caches whose caches hear of each other, over one database; nothing expires by itself."""

    @pytest.fixture(params=["sqlite-file", "postgres"])
    def sides(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Rooms]]:
        postgres = request.param == "postgres"
        url = request.getfixturevalue("shared_postgres") if postgres else f"sqlite:///{tmp_path / 'pots.db'}"
        server = FakeServer()
        sides = [Rooms(url, FakeLevel(server)) for _ in range(2)]
        Base.metadata.drop_all(sides[0].db.engine)
        Base.metadata.create_all(sides[0].db.engine)
        yield sides
        for side in sides:
            side.db.close()

    def names(self, side: Rooms) -> list[str]:
        with side.db.unit_of_work(read_only=True) as session:
            return list(session.scalars(select(Pot.name).order_by(Pot.id).options(FromCache(timeout=None))))

    def test_a_commit_reaches_the_other_a_rollback_does_not(self, sides: list[Rooms]) -> None:
        """What one has cached is dropped by the commit of the other, of whatever kind, and kept until then."""
        here, there = sides
        assert [] == self.names(here)
        with pytest.raises(LookupError), there.db.unit_of_work() as session:
            session.add(Pot(name="lost"))
            session.flush()
            raise LookupError
        with query_guard(max_queries=0):
            assert [] == self.names(here)
        with there.db.unit_of_work() as session:
            session.add(Pot(name="red"))
        assert ["red"] == self.names(here)
        with there.db.unit_of_work() as session:
            session.execute(text("UPDATE pot SET name = 'blue'"))  # nobody knows what it wrote
        assert ["blue"] == self.names(here)
        with query_guard(max_queries=0):
            assert ["blue"] == self.names(here)

    def test_nothing_old_outlives_a_gap(self, sides: list[Rooms]) -> None:
        """While the link is lost the results that are there serve on; with the word that was lost they go."""
        here, there = sides
        level: Any = here.level2
        assert [] == self.names(here)
        level.cut_link()
        with there.db.unit_of_work() as session:
            session.add(Pot(name="red"))
        assert [] == self.names(here)
        level.mend_link(lost=True)
        assert ["red"] == self.names(here)
        with here.db.unit_of_work(read_only=True):
            with there.db.unit_of_work() as session:
                session.add(Pot(name="blue"))
            level.lose_words()
        assert ["red", "blue"] == self.names(here)
