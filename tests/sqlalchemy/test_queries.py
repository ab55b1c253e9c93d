"""How many statements a piece of code runs."""

import threading
from pathlib import Path

import jinja2
import pytest
from sqlalchemy import Engine, event, select, text

from paintkit.errors import QueryGuardError
from paintkit.sqlalchemy import DatabaseConnectionManager, query_guard
from paintkit.sqlalchemy.queries import _note
from tests.sqlalchemy.house import House, Paint


def line_of(mark: str) -> str:
    """Return `file:line` of the line of this file that ends in a mark."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{__file__}:{next(number for number, line in enumerate(lines, 1) if line.endswith(mark))}"


def test_within_the_limit_nothing_happens(house: House) -> None:
    """As many statements as allowed pass; what begins, guards and ends a transaction is not counted."""

    async def scenario() -> None:
        with query_guard(max_queries=2) as guard:
            async with house.unit(timeout=5.0):
                await house.execute(select(Paint))
                async with house.unit(propagation="nested"):
                    await house.execute(text("SELECT 1"))
        assert 2 == len(guard.statements)

    house.run(scenario)


def test_too_many_statements_are_told_with_their_lines(house: House) -> None:
    """One statement too many fails the block, naming each statement with the line that caused it, and the usual fix."""

    async def scenario() -> None:
        with pytest.raises(QueryGuardError) as caught, query_guard(max_queries=1):
            async with house.unit() as session:
                asyncio = house.db.is_async
                for query in (text("SELECT 1"), text("SELECT 2")):
                    await session.scalar(query) if asyncio else session.scalar(query)  # here
        message = str(caught.value)
        assert "2 statements ran and 1 is allowed" in message
        assert "selectinload" in message
        assert [line_of("# here")] * 2 == [one.site for one in caught.value.statements]
        assert "SELECT 2" == caught.value.statements[1].sql

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_one_query_for_each_row_is_found(house: House) -> None:
    """Loading rows one by one goes over the limit, loading them together does not."""
    db = house.db

    async def scenario() -> None:
        with db.unit_of_work() as session:
            session.add_all([Paint(name=str(number)) for number in range(5)])
        with query_guard(max_queries=1), db.unit_of_work() as session:
            session.scalars(select(Paint).where(Paint.id.in_(range(6)))).all()
        with pytest.raises(QueryGuardError), query_guard(max_queries=3), db.unit_of_work() as session:
            for number in range(5):
                session.get(Paint, number)

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_an_engines_first_look_around_is_not_counted(url: str) -> None:
    """What SQLAlchemy asks a server on the first connection is none of the block's statements."""
    db = DatabaseConnectionManager(url)
    with query_guard(max_queries=1), db.unit_of_work() as session:
        session.scalar(text("SELECT 1"))
    connection = db.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with connection, pytest.raises(QueryGuardError), query_guard(max_queries=0):
        connection.execute(text("SELECT 1"))
    db.close()


def test_an_error_of_the_block_goes_first(house: House) -> None:
    """The guard never hides what the block itself raised."""

    async def scenario() -> None:
        with pytest.raises(KeyError), query_guard(max_queries=0):
            async with house.unit():
                await house.execute(text("SELECT 1"))
                raise KeyError

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_guards_nest_and_end(house: House) -> None:
    """An inner guard's statements count for the outer one; after the last guard nobody listens."""

    async def scenario() -> None:
        with query_guard(max_queries=3) as outer:
            with query_guard(max_queries=1), house.db.unit_of_work() as session:
                session.execute(text("SELECT 1"))
            with house.db.unit_of_work() as session:
                session.execute(text("SELECT 1"))
            assert event.contains(Engine, "before_cursor_execute", _note)
        assert 2 == len(outer.statements)
        assert not event.contains(Engine, "before_cursor_execute", _note)

    house.run(scenario)


def test_closing_what_is_not_open_harms_nobody(house: House) -> None:
    """A guard that is closed twice, or was never opened, leaves those that come after it their eyes."""

    async def scenario() -> None:
        guard = query_guard()
        for _ in range(3):
            guard.close()
            with query_guard() as guard:
                async with house.unit():
                    await house.execute(select(Paint))
            assert 1 == len(guard.statements)

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_other_threads_are_not_counted(house: House) -> None:
    """What another thread runs meanwhile is its own."""

    async def scenario() -> None:
        def elsewhere() -> None:
            with house.db.unit_of_work() as session:
                session.execute(text("SELECT 1"))

        with query_guard(max_queries=0):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    house.run(scenario)


def test_thresholds_can_be_moved_and_taken_away(house: House) -> None:
    """What is found depends on the thresholds; without one nothing is looked for, and `verify` tells at any time."""

    async def scenario() -> None:
        with query_guard(repeat_threshold=4) as guard:
            async with house.unit():
                for _ in range(3):
                    await house.execute(text("SELECT 1"))
                guard.verify()
            assert [] == guard.repetitions
        with pytest.raises(QueryGuardError, match="3 × repeated select"), query_guard(repeat_threshold=3):
            async with house.unit():
                for _ in range(3):
                    await house.execute(text("SELECT 1"))
        with query_guard(repeat_threshold=None):
            async with house.unit():
                for _ in range(10):
                    await house.execute(text("SELECT 1"))

    house.run(scenario)


def test_a_long_list_is_cut() -> None:
    """A message shows fifty statements at most; the error holds all."""
    db = DatabaseConnectionManager("sqlite://")
    caught = pytest.raises(QueryGuardError, match="and 10 more")
    with caught as error, query_guard(max_queries=0), db.unit_of_work() as session:
        for number in range(60):
            session.execute(text(f"SELECT {number}"))
    assert 60 == len(error.value.statements)
    assert 51 >= str(error.value).count("queries.py")
    db.close()


def test_templates_are_told_by_their_own_lines(tmp_path: Path) -> None:
    """What a template causes is told with the line of the template, not with one of its engine."""
    (tmp_path / "page.html").write_text("one\n{% if true %}\n{{ query | ask }}{% endif %}", encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path), autoescape=True)
    db = DatabaseConnectionManager("sqlite://")
    with db.unit_of_work() as session, query_guard() as guard:
        environment.filters["ask"] = session.scalar
        assert "one\n\n1" == environment.get_template("page.html").render(query=text("SELECT 1"))
    assert f"{tmp_path / 'page.html'}:3" == guard.statements[0].site
    db.close()


@pytest.mark.parametrize(("value", "error"), [(1, ValueError), (2.0, TypeError), (True, TypeError)])
@pytest.mark.parametrize("name", ["lazy_threshold", "repeat_threshold"])
def test_bad_thresholds(name: str, value: object, error: type[Exception]) -> None:
    """A wrong threshold raises at construction, naming itself."""
    with pytest.raises(error, match=name):
        query_guard(**{name: value})


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_limits(value: object, error: type[Exception]) -> None:
    """A wrong limit raises at construction, naming itself; a guard is used once at a time."""
    with pytest.raises(error, match="max_queries"):
        query_guard(max_queries=value)
    guard = query_guard(max_queries=1)
    with guard, pytest.raises(RuntimeError, match="new one"):
        guard.__enter__()
