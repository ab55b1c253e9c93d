"""Which loops of statements are one for each row, and which only look like it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKey, func, insert, literal_column, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
)

from paintkit import backoff, retry
from paintkit.errors import QueryGuardError
from paintkit.sqlalchemy import queries, query_guard
from tests.sqlalchemy.house import House

# Both colours, and both ways to pass parameters: by position and by name.
KINDS = ("sqlite-memory", "postgres-async")

PARENTS = 6

Scenario = Callable[[], Any]


class Shelves(AsyncAttrs, DeclarativeBase):
    """The tables of these tests."""


class Brand(Shelves):
    __tablename__ = "shape_brand"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    story: Mapped[str] = mapped_column(default="", deferred=True)
    tubes: Mapped[list["Tube"]] = relationship(back_populates="brand")


class Tube(Shelves):
    __tablename__ = "shape_tube"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    brand_id: Mapped[int] = mapped_column(ForeignKey(Brand.id))
    brand: Mapped[Brand] = relationship(back_populates="tubes")


async def furnish(house: House) -> None:
    """Fill the shelves: some brands, with two tubes each."""
    await house._on_engine(Shelves.metadata.drop_all)
    await house._on_engine(Shelves.metadata.create_all)
    async with house.unit() as session:
        session.add_all(
            Brand(id=number, name=str(number), tubes=[Tube(name="a"), Tube(name="b")])
            for number in range(1, PARENTS + 1)
        )


def over(house: House, scenario: Scenario) -> QueryGuardError | None:
    """Run a scenario under a guard; return what the guard said."""

    async def guarded() -> QueryGuardError | None:
        await furnish(house)
        try:
            with query_guard():
                await scenario()
        except QueryGuardError as error:
            return error
        return None

    return house.run(guarded)


def line_of(mark: str) -> str:
    """Return `file:line` of the line of this file that ends in a mark."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{__file__}:{next(number for number, line in enumerate(lines, 1) if line.endswith(mark))}"


def only(error: QueryGuardError | None) -> Any:
    """Return the one repetition that was found."""
    assert error is not None, "nothing was found"
    assert 1 == len(error.repetitions)
    return error.repetitions[0]


# One for each row.


def test_lazy_loop(house: House) -> None:
    """A relationship that is loaded for one parent after the other is found, with its line and the loader to use."""

    async def scenario() -> None:
        async with house.unit() as session:
            asyncio = house.db.is_async
            brands = (await house.settle(session.scalars(select(Brand)))).all()
            for brand in brands:
                tubes = await brand.awaitable_attrs.tubes if asyncio else brand.tubes  # a lazy load
                assert 2 == len(tubes)

    found = only(over(house, scenario))
    assert ("lazy load", PARENTS, line_of("# a lazy load")) == (found.kind, found.times, found.site)
    assert "selectinload(Brand.tubes)" in found.fix


def test_lazy_loop_towards_one(house: House) -> None:
    """The same from the many to the one."""

    async def scenario() -> None:
        async with house.unit() as session:
            tubes = (await house.settle(session.scalars(select(Tube)))).all()
            for tube in tubes:
                assert (await tube.awaitable_attrs.brand if house.db.is_async else tube.brand) is not None

    found = only(over(house, scenario))
    assert ("lazy load", PARENTS) == (found.kind, found.times)
    assert "selectinload(Tube.brand)" in found.fix


def test_get_loop(house: House) -> None:
    """Rows that are fetched by their keys one by one are found."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(1, PARENTS + 1):
                await house.settle(session.get(Brand, number))

    found = only(over(house, scenario))
    assert ("select", PARENTS) == (found.kind, found.times)
    assert "in_(values)" in found.fix


@pytest.mark.parametrize("style", ["core", "text", "literal", "driver"])
def test_core_loop(house: House, style: str) -> None:
    """So are selects without the ORM: Core, text with parameters, text with values in it, and the driver's own SQL."""

    def query(number: int) -> Any:
        table = Tube.__table__
        return {
            "core": select(table.c.name).where(table.c.brand_id == number),
            "text": text("SELECT name FROM shape_tube WHERE brand_id = :id").bindparams(id=number),
            "literal": text(f"SELECT name FROM shape_tube WHERE brand_id = {number}"),
            "driver": f"SELECT name FROM shape_tube WHERE brand_id = {number}",
        }[style]

    async def scenario() -> None:
        async with house.unit() as session:
            connection = await house.settle(session.connection())
            run = connection.exec_driver_sql if style == "driver" else connection.execute
            for number in range(1, PARENTS + 1):
                await house.settle(run(query(number)))

    found = only(over(house, scenario))
    assert ("select", PARENTS) == (found.kind, found.times)


def test_loop_with_a_constant_list(house: House) -> None:
    """A list in the statement that never changes does not make the loop a walk over chunks."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(1, PARENTS + 1):
                query = select(Tube).where(Tube.brand_id == number, Tube.name.in_(["a", "b"]))
                await house.settle(session.scalars(query))

    assert "select" == only(over(house, scenario)).kind


def test_loop_for_the_first_few_of_each(house: House) -> None:
    """A limit and an order do not make the loop a walk over pages, as long as it is about another row each time."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(1, PARENTS + 1):
                few = select(Tube).where(Tube.brand_id == number, Tube.id > 0).order_by(Tube.id).limit(2)
                await house.settle(session.scalars(few))

    assert "select" == only(over(house, scenario)).kind


def test_loop_for_one_row_after_the_other(house: House) -> None:
    """Pages of one row are one statement for each row."""

    async def scenario() -> None:
        async with house.unit() as session:
            last = 0
            for _ in range(PARENTS):
                one = select(Brand).where(Brand.id > last).order_by(Brand.id).limit(1)
                last = (await house.settle(session.scalars(one))).one().id

    assert ("select", PARENTS) == (only(over(house, scenario)).kind, PARENTS)


@pytest.mark.parametrize("how", ["expired", "deferred"])
def test_refresh_loop(house: House, how: str) -> None:
    """Objects that expired, and columns that were deferred, and are loaded again one by one, are found."""

    async def scenario() -> None:
        async with house.unit() as session:
            brands = (await house.settle(session.scalars(select(Brand)))).all()
            if how == "expired":
                session.expire_all()
            for brand in brands:
                if house.db.is_async:
                    await (brand.awaitable_attrs.name if how == "expired" else brand.awaitable_attrs.story)
                else:
                    _ = brand.name if how == "expired" else brand.story

    found = only(over(house, scenario))
    assert ("column refresh", PARENTS) == (found.kind, found.times)


def test_write_loop(house: House) -> None:
    """A flush for each row is found."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(PARENTS):
                session.add(Tube(name=str(number), brand_id=1))
                await house.flush()

    found = only(over(house, scenario))
    assert ("write", PARENTS) == (found.kind, found.times)
    assert "add_all" in found.fix


def test_core_write_loop(house: House) -> None:
    """So is a statement for each row."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(1, PARENTS + 1):
                await house.settle(session.execute(update(Tube).where(Tube.id == number).values(name="c")))

    assert "write" == only(over(house, scenario)).kind


def test_loop_that_goes_on_after_failures(house: House) -> None:
    """A failure in the loop does not hide the loop: other rows are no second attempts."""

    async def scenario() -> None:
        for number in range(PARENTS):
            try:
                async with house.unit() as session:
                    await house.settle(
                        session.execute(insert(Brand).values(id=number + 1, name="x", story=""))
                    )
            except IntegrityError:
                pass

    assert "write" == only(over(house, scenario)).kind


# What only looks like it.


@pytest.mark.parametrize("loader", [selectinload, subqueryload])
def test_eager_load_in_chunks(house: House, loader: Any) -> None:
    """A loader takes parents 500 at a time, or batch by batch: that is the cure, not the disease."""

    async def scenario() -> None:
        async with house.unit() as session:
            query = select(Brand).options(loader(Brand.tubes))
            if loader is selectinload:
                query = query.execution_options(yield_per=1)
            if house.db.is_async:
                assert PARENTS == len([one async for one in await session.stream_scalars(query)])
            else:
                assert PARENTS == len(session.scalars(query).all())

    assert over(house, scenario) is None


@pytest.mark.parametrize("style", ["literal", "bound", "two columns"])
def test_keyset_walk(house: House, style: str) -> None:
    """Pages that each start after the one before are one long read."""

    def page(brand: int, last: int) -> Any:
        query = select(Tube.brand_id, Tube.id).order_by(Tube.brand_id, Tube.id).limit(2)
        match style:
            case "literal":
                return text(f"SELECT brand_id, id FROM shape_tube WHERE id > {last} ORDER BY id LIMIT 2")
            case "bound":
                return query.where(Tube.id > last)
            case _:
                return query.where((Tube.brand_id > brand) | ((Tube.brand_id == brand) & (Tube.id > last)))

    async def scenario() -> None:
        async with house.unit() as session:
            brand, last, seen = 0, 0, 0
            while rows := (await house.settle(session.execute(page(brand, last)))).all():
                brand, last = rows[-1]
                seen += len(rows)
            assert 2 * PARENTS == seen

    assert over(house, scenario) is None


def test_offset_walk(house: House) -> None:
    """So are pages by offset."""

    async def scenario() -> None:
        async with house.unit() as session:
            for start in range(0, 2 * PARENTS, 2):
                await house.settle(session.scalars(select(Tube).order_by(Tube.id).limit(2).offset(start)))

    assert over(house, scenario) is None


def test_chunks_of_a_list(house: House) -> None:
    """A long list of keys in chunks, the last of them short, is one long read."""

    async def scenario() -> None:
        async with house.unit() as session:
            keys = iter(range(1, 2 * PARENTS))
            while chunk := list(itertools.islice(keys, 2)):
                await house.settle(session.scalars(select(Tube).where(Tube.id.in_(chunk))))

    assert over(house, scenario) is None


def test_chunks_of_one_are_a_loop(house: House) -> None:
    """Lists with a single key are one statement for each row."""

    async def scenario() -> None:
        async with house.unit() as session:
            for number in range(1, PARENTS + 1):
                await house.settle(session.scalars(select(Tube).where(Tube.id.in_([number]))))

    assert "select" == only(over(house, scenario)).kind


def test_many_rows_in_one_insert(house: House) -> None:
    """One insert of many rows goes to the server in batches."""

    async def scenario() -> None:
        async with house.unit() as session:
            rows = [{"name": str(number), "brand_id": 1} for number in range(3 * PARENTS)]
            connection = await house.settle(
                session.connection(execution_options={"insertmanyvalues_page_size": 3})
            )
            returned = await house.settle(
                connection.execute(insert(Tube.__table__).returning(Tube.__table__.c.id), rows)
            )
            assert len(rows) == len(returned.all())

    assert over(house, scenario) is None


def test_one_flush_of_many_rows(house: House) -> None:
    """What the ORM writes row by row in one flush was given to it at once."""

    async def scenario() -> None:
        async with house.unit() as session:
            for brand in (await house.settle(session.scalars(select(Brand)))).all():
                brand.story = func.lower(literal_column(f"'{brand.id}'"))
            await house.flush()

    assert over(house, scenario) is None


def test_attempts_are_no_rows(house: House) -> None:
    """What is repeated after a failure with the same values is another attempt."""
    left = iter(range(PARENTS))

    @retry(on=LookupError, attempts=PARENTS + 1, backoff=backoff.constant(0))
    @house.function
    async def attempt() -> None:
        async with house.unit() as session:
            brand = await house.settle(session.get(Brand, 1))
            _ = await brand.awaitable_attrs.tubes if house.db.is_async else brand.tubes
            if next(left, None) is not None:
                raise LookupError

    async def scenario() -> None:
        await house.settle(attempt())

    assert over(house, scenario) is None


def test_attempts_after_a_failing_statement(house: House) -> None:
    """The same for retries of another hand, if a statement failed."""

    async def scenario() -> None:
        for _ in range(PARENTS):
            with pytest.raises(IntegrityError):
                async with house.unit() as session:
                    await house.settle(session.get(Brand, 1))
                    await house.settle(session.execute(insert(Brand).values(id=1, name="x", story="")))

    assert over(house, scenario) is None


def test_explicit_refreshes_are_selects(house: House) -> None:
    """`session.refresh(one)` is a select that somebody wrote, not one that an attribute caused."""

    async def scenario() -> None:
        async with house.unit() as session:
            brand = await house.settle(session.get(Brand, 1))
            for _ in range(3):
                await house.settle(session.refresh(brand))

    assert over(house, scenario) is None


def test_different_lines_are_different(house: House) -> None:
    """The same statement from several lines is no loop."""

    async def scenario() -> None:
        async with house.unit() as session:
            await house.settle(session.get(Brand, 1))
            one, two = await house.settle(session.get(Brand, 1)), await house.settle(session.get(Brand, 2))
            first = await one.awaitable_attrs.tubes if house.db.is_async else one.tubes
            second = await two.awaitable_attrs.tubes if house.db.is_async else two.tubes
            assert (2, 2) == (len(first), len(second))

    assert over(house, scenario) is None


# The checks above notice a guard that excuses too little, or too much.


def page_walk(session: Any) -> None:
    for start in range(0, 2 * PARENTS, 2):
        session.scalars(select(Tube).order_by(Tube.id).limit(2).offset(start)).all()


def attempts(session: Any) -> None:
    for _ in range(PARENTS):
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(select(Brand).where(Brand.id == 1))
            session.execute(insert(Brand).values(id=1, name="x", story=""))


def one_flush(session: Any) -> None:
    for brand in session.scalars(select(Brand)).all():
        brand.story = func.lower(literal_column(f"'{brand.id}'"))
    session.flush()


@pytest.mark.parametrize(
    ("url", "excuse", "mutant", "scenario"),
    [
        ("sqlite-memory", "is_walk", lambda parts: False, page_walk),
        ("sqlite-memory", "_not_retried", lambda records: records, attempts),
        ("sqlite-memory", "_not_flushed_together", lambda records: records, one_flush),
    ],
    indirect=["url"],
)
def test_a_guard_without_an_excuse_is_noticed(
    house: House, excuse: str, mutant: Any, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each excuse the shape passes; without it the same shape fails."""

    async def both() -> None:
        await furnish(house)
        with query_guard(), house.db.unit_of_work() as session:
            scenario(session)
        monkeypatch.setattr(queries, excuse, mutant)
        with pytest.raises(QueryGuardError), query_guard(), house.db.unit_of_work() as session:
            scenario(session)

    house.run(both)
