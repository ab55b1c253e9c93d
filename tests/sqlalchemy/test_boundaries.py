"""Where a unit of work begins and ends."""

import asyncio
import re
from contextlib import nullcontext

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from paintkit import ambient
from paintkit.errors import NoUnitOfWorkError, UnexpectedRollbackError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient, query_guard
from paintkit.testing import FakeClock
from tests.sqlalchemy.house import Base, House, Paint, told

blocking_only = pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)


class Boom(Exception):
    """What the code under test raises."""


class Reply(Base):
    """A row that looks like a response."""

    __tablename__ = "reply"

    id: Mapped[int] = mapped_column(primary_key=True)
    status_code: Mapped[int]


def test_outermost_boundary_commits(house: House) -> None:
    """What a unit of work did is stored when its outermost boundary ends."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit])
def test_any_error_rolls_back(house: House, error: type[BaseException]) -> None:
    """An error that leaves the outermost boundary, of whatever kind, stores nothing and stays the same error."""

    async def scenario() -> None:
        raised = error()
        with pytest.raises(error) as caught:
            async with house.unit():
                await house.add("a")
                raise raised
        assert raised is caught.value
        assert [] == await house.stored()

    house.run(scenario)


def test_inner_boundary_joins(house: House) -> None:
    """An inner boundary works in the outer's session and commits nothing of its own."""

    async def scenario() -> None:
        with pytest.raises(Boom):
            async with house.unit() as outer:
                async with house.unit() as inner:
                    assert outer is inner
                    await house.add("a")
                raise Boom
        assert [] == await house.stored()

    house.run(scenario)


def test_entity_stays_readable(house: House) -> None:
    """A returned entity keeps its attributes after commit and close, those that the database made included."""

    async def scenario() -> None:
        @house.db.with_database_session
        @house.function
        async def make() -> Paint:
            return await house.add("a")

        paint = await house.settle(make())
        assert ("a", 1, 0) == (paint.name, paint.id, paint.stock)

    house.run(scenario)


def test_updated_entity_stays_readable(house: House) -> None:
    """What the database computes in an UPDATE is loaded before the session closes, for entities that are returned."""

    async def scenario() -> None:
        @house.db.with_database_session
        @house.function
        async def edit(number: int) -> object:
            paint = (await house.execute(select(Paint))).scalar_one()
            paint.stock = number
            return paint if number == 1 else [paint]

        async with house.unit():
            await house.add("a")
        assert (1, 1) == ((paint := await house.settle(edit(1))).stock, paint.edits)
        assert (2, 2) == ((paint := (await house.settle(edit(2)))[0]).stock, paint.edits)

    house.run(scenario)


def test_swallowed_inner_failure_is_loud(house: House) -> None:
    """An inner failure that is swallowed stores nothing, and says so with its cause at the outer end."""

    async def scenario() -> None:
        with pytest.raises(UnexpectedRollbackError) as caught:
            async with house.unit():
                await house.add("outer")
                with pytest.raises(Boom):
                    async with house.unit():
                        await house.add("inner")
                        raise Boom
        assert isinstance(caught.value.__cause__, Boom)
        assert [] == await house.stored()

    house.run(scenario)


def test_nested_boundary_guards_a_savepoint(house: House) -> None:
    """A failure in a nested boundary takes back what was done in it, and nothing else."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("before")
            with pytest.raises(Boom):
                async with house.unit(propagation="nested"):
                    await house.add("inside")
                    raise Boom
            async with house.unit(propagation="nested"):
                await house.add("second")
            await house.add("after")
        assert ["after", "before", "second"] == await house.stored()

    house.run(scenario)


def test_released_savepoint_falls_with_its_root(house: House) -> None:
    """A savepoint that was released is rolled back with the unit of work around it."""

    async def scenario() -> None:
        with pytest.raises(Boom):
            async with house.unit():
                async with house.unit(propagation="nested"):
                    await house.add("inside")
                raise Boom
        assert [] == await house.stored()

    house.run(scenario)


def test_doom_inside_a_savepoint_stays_inside(house: House) -> None:
    """What fails and is swallowed inside a nested boundary dooms that savepoint only."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("outer")
            with pytest.raises(UnexpectedRollbackError):
                async with house.unit(propagation="nested"):
                    with pytest.raises(Boom):
                        async with house.unit():
                            await house.add("lost")
                            raise Boom
        assert ["outer"] == await house.stored()

    house.run(scenario)


def test_nested_without_a_unit_is_a_unit(house: House) -> None:
    """`nested` where nothing is open opens a unit of work."""

    async def scenario() -> None:
        async with house.unit(propagation="nested"):
            await house.add("a")
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_requires_new_is_independent(house: House) -> None:
    """`requires_new` stores its work whatever becomes of the unit around it."""

    async def scenario() -> None:
        with pytest.raises(Boom):
            async with house.unit() as outer:
                await house.add("outer")
                async with house.unit(propagation="requires_new") as inner:
                    assert outer is not inner
                    await house.add("inner")
                assert outer is house.session
                raise Boom
        assert ["inner"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async", "asyncpg"], indirect=True)
def test_requires_new_does_not_wait_for_ever(house: House) -> None:
    """The unit around it may hold the lock that it wants, and PostgreSQL cannot see that: it waits 3 s; nobody else is hurried.

    A limit that is set already stays, and a guard counts nothing of this.
    """

    async def scenario() -> None:
        shown = text("SHOW lock_timeout")

        async def beside() -> str:
            with query_guard(max_queries=1):
                async with house.unit(propagation="requires_new"):
                    return (await house.execute(shown)).scalar_one()

        assert "0" == await beside()  # nothing is around it
        async with house.unit():
            assert "0" == await beside()  # what is around it holds nothing
            await house.add("a")
            assert "3s" == await beside()
            assert "0" == (await house.execute(shown)).scalar_one()

    house.run(scenario)

    mine = House(house.db.engine.url, pool=PoolConfig(lock_timeout=0.05))

    async def blocked() -> None:
        async with mine.unit():
            await mine.add("a")
        with pytest.raises(DBAPIError) as caught:
            async with mine.unit():
                await mine.execute(update(Paint).values(stock=1))
                async with mine.unit(propagation="requires_new"):
                    assert "50ms" == (await mine.execute(text("SHOW lock_timeout"))).scalar_one()
                    await mine.execute(update(Paint).values(stock=2))
        assert is_transient(caught.value)

    mine.run(blocked)


@pytest.mark.parametrize("url", ["sqlite-memory", "sqlite-file", "aiosqlite"], indirect=True)
def test_requires_new_on_sqlite_does_not_wait_for_itself(house: House) -> None:
    """SQLite has one writer: a second one beside it, in the same thread or task, is refused at its first use, not after 5 s."""

    async def scenario() -> None:
        async with house.unit():
            async with house.unit(propagation="requires_new"):
                await house.add("a")  # nobody writes yet
            await house.add("b")
            async with house.unit(propagation="requires_new"):
                pass  # it has nothing to do
            with pytest.raises(ValueError, match="one writer"):
                async with house.unit(propagation="requires_new"):
                    await house.add("c")
        assert ["a", "b"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("poolclass", ["StaticPool", "SingletonThreadPool"])
def test_requires_new_needs_a_second_connection(poolclass: str) -> None:
    """`requires_new` is refused on a pool of one connection, which both units would share."""
    import sqlalchemy.pool

    engine = sqlalchemy.create_engine("sqlite://", poolclass=getattr(sqlalchemy.pool, poolclass))
    db = DatabaseConnectionManager(engine)
    with (
        db.unit_of_work(),
        pytest.raises(ValueError, match=poolclass),
        db.unit_of_work(propagation="requires_new"),
    ):
        pass
    engine.dispose()


def test_mandatory_and_never(house: House) -> None:
    """`mandatory` joins or raises; `never` raises inside a unit of work and runs without one outside."""

    async def scenario() -> None:
        with pytest.raises(NoUnitOfWorkError, match="mandatory"):
            async with house.unit(propagation="mandatory"):
                pass
        async with house.unit(propagation="never") as session:
            assert session is None
            assert ambient.unit_of_work.get() is None
        async with house.unit() as outer:
            async with house.unit(propagation="mandatory") as inner:
                assert outer is inner
            with pytest.raises(RuntimeError, match="never"):
                async with house.unit(propagation="never"):
                    pass

    house.run(scenario)


def test_read_only_refuses_writes(house: House) -> None:
    """A read-only unit of work refuses flushes, DML and writing text, and reads all the same."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        with pytest.raises(NoUnitOfWorkError, match="read-only"):
            async with house.unit(read_only=True):
                assert ["a"] == list((await house.execute(select(Paint.name))).scalars())
                await house.add("b")
        for statement in (Paint.__table__.delete(), text("DELETE FROM paint")):
            with pytest.raises(NoUnitOfWorkError, match="read-only"):
                async with house.unit(read_only=True):
                    await house.execute(statement)
        with pytest.raises(NoUnitOfWorkError, match="read-only"):
            async with house.unit(read_only=True):
                house.session.add(Paint(name="unflushed"))
        assert ["a"] == await house.stored()

    house.run(scenario)


def test_text_is_what_it_says_whatever_its_rows_are_read_as(house: House) -> None:
    """As entities or as columns: a SELECT reads, a DELETE that returns rows writes."""
    reading = text("SELECT id, name, stock, edits FROM paint")
    deleting = text("DELETE FROM paint RETURNING id, name, stock, edits")

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        async with house.unit(read_only=True):
            for told in (select(Paint).from_statement(reading), reading.columns(Paint.id, Paint.name)):
                assert 1 == len((await house.execute(told)).all())
        for told in (select(Paint).from_statement(deleting), deleting.columns(Paint.id, Paint.name)):
            with pytest.raises(NoUnitOfWorkError, match="read-only"):
                async with house.unit(read_only=True):
                    await house.execute(told)
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "sqlite-file", "aiosqlite"], indirect=True)
def test_read_only_reaches_sqlite(house: House) -> None:
    """On SQLite a connection cannot write while it serves a read-only unit, and can when it serves the next one."""

    async def scenario() -> None:
        for read_only in (True, False, True):
            async with house.unit(read_only=read_only):
                assert int(read_only) == (await house.execute(text("PRAGMA query_only"))).scalar_one()

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_read_only_reaches_the_server(house: House) -> None:
    """On PostgreSQL a read-only unit is a READ ONLY transaction: a function cannot write behind our back."""

    async def scenario() -> None:
        async with house.unit(read_only=True):
            assert "on" == (await house.execute(text("SHOW transaction_read_only"))).scalar_one()
        async with house.unit():
            assert "off" == (await house.execute(text("SHOW transaction_read_only"))).scalar_one()

    house.run(scenario)


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
def test_read_only_reaches_mariadb(house: House) -> None:
    """On MariaDB a read-only unit is a READ ONLY transaction: the session's connection, too, cannot write."""

    async def scenario() -> None:
        write = insert(Paint).values(name="a", stock=0, edits=0)
        with pytest.raises(DBAPIError, match="READ ONLY"), query_guard(max_queries=1):
            async with house.unit(read_only=True) as session:
                session.connection().execute(write)
        assert [] == await house.stored()
        async with house.unit() as session:
            session.connection().execute(write)
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_isolation_is_the_transactions_own(house: House) -> None:
    """`isolation` holds for one unit of work; a boundary that joins may ask for the same, not for another."""

    async def scenario() -> None:
        shown = text("SHOW transaction_isolation")
        async with house.unit(isolation="SERIALIZABLE"):
            assert "serializable" == (await house.execute(shown)).scalar_one()
            async with house.unit(isolation="SERIALIZABLE"):
                pass
            with pytest.raises(ValueError, match="REPEATABLE READ"):
                async with house.unit(isolation="REPEATABLE READ"):
                    pass
        async with house.unit():
            assert "read committed" == (await house.execute(shown)).scalar_one()

    house.run(scenario)


@pytest.mark.parametrize("url", ["sqlite-memory", "aiosqlite"], indirect=True)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_isolation_that_sqlite_has_not(
    house: House, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused before a connection is taken, and the error tells what to do; SERIALIZABLE is what SQLite has."""

    async def scenario() -> None:
        with pytest.raises(ValueError, match="leave it out"):
            async with house.unit(isolation=isolation):
                pass
        async with house.unit(isolation="SERIALIZABLE"):
            await house.add("a")
        assert (["a"], []) == (await house.stored(), told(caplog))

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_timeout_bounds_statements(house: House) -> None:
    """`timeout` is the server's statement timeout inside that unit of work, and ends with it."""

    async def scenario() -> None:
        shown = text("SHOW statement_timeout")
        async with house.unit(timeout=61.5):
            assert "61500ms" == (await house.execute(shown)).scalar_one()
        async with house.unit():
            assert "0" == (await house.execute(shown)).scalar_one()

    house.run(scenario)


def test_timeout_is_a_deadline(house: House) -> None:
    """`timeout` is the ambient deadline inside; a tighter one around it stays."""

    async def scenario() -> None:
        async with house.unit(timeout=5.0):
            assert 5.0 == ambient.remaining()
            async with house.unit(timeout=60.0):
                assert 5.0 == ambient.remaining()
        assert ambient.remaining() is None

    with FakeClock():
        house.run(scenario)


def test_error_response_rolls_back(house: House) -> None:
    """A result whose status code is 400 or more is returned as it is, and nothing is stored; a tuple decides nothing."""

    class Response:
        def __init__(self, status_code: int) -> None:
            self.status_code = status_code

    async def scenario() -> None:
        @house.db.with_database_session
        @house.function
        async def view(name: str, answer: object) -> object:
            await house.add(name)
            return answer

        for name, answer in (
            ("found", Response(200)),
            ("missing", Response(404)),
            ("broken", Response(500)),
            ("tuple", ("text", 500)),
        ):
            assert answer is await house.settle(view(name, answer))
        assert ["found", "tuple"] == await house.stored()

    house.run(scenario)


def test_an_entity_is_no_response(house: House) -> None:
    """A mapped object that has a column called `status_code` decides nothing."""

    async def scenario() -> None:
        @house.db.with_database_session
        @house.function
        async def record() -> Reply:
            await house.add("a")
            return Reply(status_code=500)

        await house.settle(record())
        assert ["a"] == await house.stored()

    house.run(scenario)


def test_rollback_if_decides(house: House) -> None:
    """`rollback_if` replaces the rule for results."""

    async def scenario() -> None:
        @house.db.with_database_session(
            rollback_if=lambda result: isinstance(result, tuple) and result[1] >= 400
        )
        @house.function
        async def view(name: str, status: int) -> tuple[str, int]:
            await house.add(name)
            return name, status

        await house.settle(view("kept", 200))
        await house.settle(view("dropped", 422))
        assert ["kept"] == await house.stored()

    house.run(scenario)


def test_error_response_of_a_joined_boundary_dooms(house: House) -> None:
    """An inner function that answers with an error dooms the unit; ignoring the answer does not store half of it."""

    async def scenario() -> None:
        @house.db.with_database_session(rollback_if=lambda result: result == "no")
        @house.function
        async def inner() -> str:
            await house.add("inner")
            return "no"

        with pytest.raises(UnexpectedRollbackError):
            async with house.unit():
                await house.settle(inner())
        assert [] == await house.stored()

    house.run(scenario)


def test_statement_error_that_is_swallowed(house: House) -> None:
    """A failed flush that is swallowed is loud at the end; nothing was stored."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        with pytest.raises(UnexpectedRollbackError) as caught:
            async with house.unit():
                await house.add("b")
                with pytest.raises(IntegrityError):
                    await house.add("a")
                assert ambient.unit_of_work.get().is_doomed()
        assert re.search("unique|duplicate", str(caught.value.__cause__), re.IGNORECASE)
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_aborted_transaction_is_not_committed_silently(house: House) -> None:
    """PostgreSQL answers the COMMIT of an aborted transaction with a silent ROLLBACK; the unit of work does not."""

    async def scenario() -> None:
        with pytest.raises(UnexpectedRollbackError):
            async with house.unit():
                await house.execute(Paint.__table__.insert().values(name="a", stock=0, edits=0))
                with pytest.raises(DBAPIError):
                    await house.execute(text("SELECT 1/0"))
        async with house.unit():
            await house.execute(Paint.__table__.insert().values(name="b", stock=0, edits=0))
            with pytest.raises(DBAPIError):
                async with house.unit(propagation="nested"):
                    await house.execute(text("SELECT 1/0"))
        assert ["b"] == await house.stored()

    house.run(scenario)


def test_rollback_failure_never_hides_the_first_error(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """If the rollback fails as well, the first error is raised, with a note of the second, and the connection is dropped."""

    async def scenario() -> None:
        def fail(_connection: object) -> None:
            raise OSError("the network is gone")

        event.listen(house.db.engine, "rollback", fail)
        with pytest.raises(Boom) as caught:
            async with house.unit():
                await house.add("a")
                raise Boom
        event.remove(house.db.engine, "rollback", fail)
        assert "the network is gone" in caught.value.__notes__[0]
        assert ambient.unit_of_work.get() is None
        async with house.unit():
            await house.add("b")
        assert ["b"] == await house.stored()

    house.run(scenario)
    assert "closing a unit of work failed" in caplog.text


def test_failure_of_the_commit_itself(house: House) -> None:
    """What fails in the last flush is raised as it is, and the connection goes back."""

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
        with pytest.raises(IntegrityError):
            async with house.unit():
                house.session.add(Paint(name="a"))
        assert ["a"] == await house.stored()

    house.run(scenario)


@blocking_only
def test_generator_owns_its_unit(house: House) -> None:
    """A generator's unit opens at the first item, is ambient in its own code only, and is stored at exhaustion."""
    db = house.db

    async def scenario() -> None:
        @db.with_database_session
        def names():
            db.session.add(Paint(name="a"))
            got = yield ambient.unit_of_work.get()
            db.session.add(Paint(name=got))
            yield ambient.unit_of_work.get()
            return "done"

        items = names()
        assert ambient.unit_of_work.get() is None
        first = next(items)
        assert first is not None
        assert ambient.unit_of_work.get() is None
        assert [] == await house.stored()
        assert first is items.send("sent")
        with pytest.raises(StopIteration) as stop:
            next(items)
        assert "done" == stop.value.value
        assert ["a", "sent"] == await house.stored()

    house.run(scenario)


@blocking_only
def test_closed_generator_rolls_back(house: House) -> None:
    """A generator that is closed early, or into which an error is thrown, stores nothing and gives its connection back."""
    db = house.db

    async def scenario() -> None:
        @db.with_database_session
        def names():
            db.session.add(Paint(name="a"))
            db.session.flush()
            yield 1
            yield 2

        items = names()
        next(items)
        items.close()
        assert 0 == db.get_connection_stats()["checked_out"]
        items = names()
        next(items)
        with pytest.raises(Boom):
            items.throw(Boom())
        assert [] == await house.stored()

    house.run(scenario)


@blocking_only
def test_generator_that_joins(house: House) -> None:
    """A joined generator that is closed early dooms nothing; one that outlives its unit of work is refused."""
    db = house.db

    async def scenario() -> None:
        @db.with_database_session
        def names():
            yield db.session
            yield db.session

        with db.unit_of_work() as session:
            db.session.add(Paint(name="a"))
            for inner in names():
                assert session is inner
                break
            left = names()
            next(left)
        with pytest.raises(NoUnitOfWorkError, match="has ended"):
            next(left)
        assert ["a"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_async_generator_owns_its_unit(house: House) -> None:
    """An async generator's unit behaves as a generator's: sent values, thrown errors and closing included."""
    db = house.db

    async def scenario() -> None:
        @db.with_database_session
        async def names():
            await house.add("a")
            try:
                got = yield ambient.unit_of_work.get()
            except Boom:
                got = "thrown"
            await house.add(got)
            yield ambient.unit_of_work.get()

        items = names()
        first = await anext(items)
        assert first is not None
        assert ambient.unit_of_work.get() is None
        assert first is await items.asend("sent")
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert ["a", "sent"] == await house.stored()

        async with house.unit():
            await house.execute(Paint.__table__.delete())
        items = names()
        await anext(items)
        await items.athrow(Boom())
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert ["a", "thrown"] == await house.stored()

        async with house.unit():
            await house.execute(Paint.__table__.delete())
        items = names()
        await anext(items)
        await items.aclose()
        assert [] == await house.stored()

    house.run(scenario)


def test_a_boundary_is_entered_once(house: House) -> None:
    """A boundary object serves one passage; a second one is refused before anything happens."""

    async def scenario() -> None:
        boundary = house.db.unit_of_work()
        for passage in (1, 2):
            with nullcontext() if passage == 1 else pytest.raises(RuntimeError, match="again"):
                if house.db.is_async:
                    async with boundary:
                        pass
                else:
                    with boundary:
                        pass

    house.run(scenario)


def test_one_colour(house: House) -> None:
    """A function of the other colour is refused at decoration, and a block of the other colour at its start."""
    db = house.db

    def plain() -> None: ...

    async def coroutine() -> None: ...

    wrong = plain if db.is_async else coroutine
    with pytest.raises(TypeError, match="one colour"):
        db.with_database_session(wrong)
    with pytest.raises(TypeError, match="one colour"):
        db.with_database_session(read_only=True)(wrong)

    async def scenario() -> None:
        with pytest.raises(TypeError, match="this manager is"):
            if db.is_async:
                with db.unit_of_work():
                    pass
            else:
                async with db.unit_of_work():
                    pass

    house.run(scenario)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"propagation": "supports"}, ValueError),
        ({"propagation": None}, TypeError),
        ({"read_only": 1}, TypeError),
        ({"isolation": "AUTOCOMMIT"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": True}, TypeError),
        ({"rollback_if": 400}, TypeError),
    ],
)
def test_bad_options_are_refused_at_decoration(options: dict[str, object], error: type[Exception]) -> None:
    """A wrong option raises at decoration, naming itself."""
    db = DatabaseConnectionManager("sqlite://")
    with pytest.raises(error, match=next(iter(options))):
        db.with_database_session(**options)
    db.close()


def test_signature_is_kept() -> None:
    """A decorated method keeps its name, defaults and keyword-only parameters, and its own errors for wrong calls."""
    import inspect

    db = DatabaseConnectionManager("sqlite://")

    class Repository:
        @db.with_database_session
        def find(self, sku: str, /, *, limit: int = 3) -> tuple[str, int]:
            """Find."""
            return sku, limit

    assert ("a", 3) == Repository().find("a")
    assert "(self, sku: str, /, *, limit: int = 3) -> tuple[str, int]" == str(
        inspect.signature(Repository.find)
    )
    with pytest.raises(TypeError, match="find"):
        Repository().find()
    db.close()


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_cancellation_does_not_cut_a_commit_short(house: House) -> None:
    """A cancellation that arrives during the commit is raised when all is done: the commit, its hooks, the return."""

    async def scenario() -> None:
        seen: list[int] = []

        async def work() -> None:
            async with house.unit():
                await house.add("a")
                house.db.on_commit(lambda: seen.append(1))
                event.listen(house.db.engine, "commit", lambda connection: task.cancel(), once=True)

        task = asyncio.ensure_future(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ([1], 0) == (seen, house.db.get_connection_stats()["checked_out"])
        assert ["a"] == await house.stored()

    house.run(scenario)


# Not aiosqlite: it leaves its thread behind when connecting is cancelled.
@pytest.mark.parametrize("url", ["postgres-async"], indirect=True)
def test_cancellation_gives_the_connection_back(house: House) -> None:
    """A task that is cancelled inside a unit of work, at whatever await, stores nothing and leaks no connection."""

    async def scenario() -> None:
        for steps in range(12):
            arrived = 0

            async def work(limit: int = steps) -> None:
                nonlocal arrived
                async with house.unit():
                    for number in range(3):
                        await house.add(f"{limit}-{number}")
                        arrived += 1
                    await asyncio.Event().wait()

            task = asyncio.ensure_future(work())
            for _ in range(steps * 3):
                await asyncio.sleep(0)
            while steps == 11 and arrived < 3:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 0 == house.db.get_connection_stats()["checked_out"]
        assert [] == await house.stored()

    house.run(scenario)
