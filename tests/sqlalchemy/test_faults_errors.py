"""What real servers say when something goes wrong, through each driver: which of it may be gone at the next attempt."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import sqlalchemy.exc
from sqlalchemy import NullPool, make_url, text

from paintkit import backoff, retry
from paintkit._runtime import drive
from paintkit.sqlalchemy import PoolConfig, is_transient, transient
from tests.sqlalchemy.house import House, admin_engine

POSTGRES = ("postgres", "postgres-async", "asyncpg")
SERVERS = (*POSTGRES, "mariadb")
EVERY = (*SERVERS, "sqlite-file")

UPDATE = "UPDATE paint SET stock = stock + 1 WHERE name = 'a'"


class Stage:
    """A house with one row in it, and connections of any colour that may be in each other's way."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.dialect = house.db.engine.dialect.name
        self._open: list[Any] = []

    async def connect(self, **options: Any) -> Any:
        """Take a connection."""
        engine = self.house.db.async_engine if self.house.db.is_async else self.house.db.engine
        connection = await self.house.settle(engine.connect())
        self._open.append(connection)
        if options:
            await self.house.settle(connection.execution_options(**options))
        return connection

    async def run(self, connection: Any, statement: str) -> Any:
        """Run a statement on it."""
        return (await self.house.settle(connection.execute(text(statement)))).rowcount

    async def ask(self, connection: Any, query: str) -> Any:
        """Return the one value of a query on it."""
        return await self.house.settle(connection.scalar(text(query)))

    async def commit(self, connection: Any) -> None:
        await self.house.settle(connection.commit())

    async def close(self) -> None:
        """Give all back."""
        for connection in self._open:
            await self.house.settle(connection.close())


Provoke = Callable[[Stage], Awaitable[None]]


class Fault(NamedTuple):
    """A row of the table."""

    is_transient: bool
    kinds: tuple[str, ...]  # through which drivers it is provoked
    provoke: Provoke


FAULTS: dict[str, Fault] = {}


def fault(*kinds: str, transient: bool) -> Callable[[Provoke], Provoke]:
    """Put a fault into the table."""

    def note(provoke: Provoke) -> Provoke:
        FAULTS[provoke.__name__] = Fault(transient, kinds, provoke)
        return provoke

    return note


@fault(*SERVERS, transient=True)
async def a_row_changed_under_a_snapshot(stage: Stage) -> None:
    """Serialization failure: the row was changed after the snapshot was taken."""
    level = "SERIALIZABLE" if stage.dialect == "postgresql" else "REPEATABLE READ"
    late, early = await stage.connect(isolation_level=level), await stage.connect()
    if stage.dialect != "postgresql":
        # Off by default before MariaDB 11.6.2; with it a snapshot is one there, too.
        await stage.run(late, "SET SESSION innodb_snapshot_isolation = ON")
        await stage.commit(late)
    await stage.ask(late, "SELECT stock FROM paint")
    await stage.run(early, UPDATE)
    await stage.commit(early)
    await stage.run(late, UPDATE)


@fault(*EVERY, transient=True)
async def a_lock_that_is_not_free_in_time(stage: Stage) -> None:
    """Another transaction holds the row, or all of SQLite's file."""
    holder, waiter = await stage.connect(), await stage.connect()
    await stage.run(holder, UPDATE)
    await stage.run(waiter, UPDATE)


@fault(*SERVERS, transient=True)
async def a_lock_that_one_does_not_wait_for(stage: Stage) -> None:
    """The same, with NOWAIT."""
    holder, waiter = await stage.connect(), await stage.connect()
    await stage.run(holder, UPDATE)
    await stage.run(waiter, "SELECT * FROM paint FOR UPDATE NOWAIT")


@fault(*SERVERS, transient=True)
async def a_connection_that_an_operator_ended(stage: Stage) -> None:
    """`pg_terminate_backend` or KILL in the midst of a transaction."""
    victim, operator = await stage.connect(), await stage.connect()
    if stage.dialect == "postgresql":
        number = await stage.ask(victim, "SELECT pg_backend_pid()")
        # Waits until it is gone.
        assert await stage.ask(operator, f"SELECT pg_terminate_backend({number}, 60000)")
    else:
        number = await stage.ask(victim, "SELECT connection_id()")
        await stage.run(operator, f"KILL {number}")
    await stage.run(victim, UPDATE)


@fault(*POSTGRES, transient=True)
async def a_transaction_that_was_idle_for_too_long(stage: Stage) -> None:
    """The server ends the session by itself."""
    idle, watcher = await stage.connect(), await stage.connect(isolation_level="AUTOCOMMIT")
    number = await stage.ask(idle, "SELECT pg_backend_pid()")
    await stage.run(idle, "SET idle_in_transaction_session_timeout = '1ms'")
    while await stage.ask(watcher, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {number}"):
        pass
    await stage.run(idle, UPDATE)


@fault(*EVERY, transient=False)
async def a_duplicate_key(stage: Stage) -> None:
    """What the data says will be so at every attempt."""
    await stage.run(await stage.connect(), "INSERT INTO paint (name, stock, edits) VALUES ('a', 0, 0)")


@fault(*EVERY, transient=False)
async def a_missing_value(stage: Stage) -> None:
    """NOT NULL."""
    await stage.run(await stage.connect(), "INSERT INTO paint (name, stock, edits) VALUES (NULL, 0, 0)")


@fault(*EVERY, transient=False)
async def a_mistake_in_a_statement(stage: Stage) -> None:
    """A syntax error."""
    await stage.run(await stage.connect(), "SELEC 1")


@fault(*EVERY, transient=False)
async def a_table_that_is_not_there(stage: Stage) -> None:
    """A schema that lags behind."""
    await stage.run(await stage.connect(), "SELECT * FROM nowhere")


@fault(*SERVERS, transient=False)
async def a_statement_that_takes_too_long(stage: Stage) -> None:
    """The server's limit of one statement: it would take as long again."""
    connection = await stage.connect()
    if stage.dialect == "postgresql":
        await stage.run(connection, "SET LOCAL statement_timeout = '20ms'")
        await stage.ask(connection, "SELECT pg_sleep(10)")
    else:
        await stage.run(connection, "SET SESSION max_statement_time = 0.02")
        # SLEEP is interrupted without an error.
        numbers = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 100000000)"
        await stage.run(connection, "SET SESSION max_recursive_iterations = 4294967295")
        await stage.ask(connection, f"{numbers} SELECT count(*) FROM n")


@fault(*EVERY, transient=False)
async def a_write_that_is_not_allowed(stage: Stage) -> None:
    """A read-only transaction."""
    connection = await stage.connect()
    if stage.dialect == "sqlite":
        await stage.run(connection, "PRAGMA query_only = ON")
    else:
        await stage.commit(connection)
        await stage.run(connection, "SET TRANSACTION READ ONLY")
    try:
        await stage.run(connection, UPDATE)
    finally:
        if stage.dialect == "sqlite":
            await stage.run(connection, "PRAGMA query_only = OFF")


async def nothing() -> None:
    """The scenario that leaves empty tables."""


def verdict(url: str, name: str) -> bool:
    """Provoke a fault and return whether what the driver tells is transient."""
    # Whoever held a lock on the tables before, and whose end the server has not noticed yet, is waited for with patience.
    House(url).run(nothing)
    house = House(url, pool=PoolConfig(lock_timeout=0.05, pool_pre_ping=False))

    async def scenario() -> bool:
        async with house.unit():
            await house.add("a")
        stage = Stage(house)
        try:
            with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
                await FAULTS[name].provoke(stage)
        finally:
            await stage.close()
        return is_transient(caught.value)

    return house.run(scenario)


@pytest.mark.parametrize(
    ("url", "name"), [(kind, name) for name, one in FAULTS.items() for kind in one.kinds], indirect=["url"]
)
def test_errors_of_real_servers(url: str, name: str) -> None:
    """The table: each fault, provoked for real, is transient or not whichever driver tells of it."""
    assert FAULTS[name].is_transient is verdict(url, name)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mariadb", "a_lock_that_one_does_not_wait_for"),
        ("asyncpg", "a_row_changed_under_a_snapshot"),
        ("sqlite-file", "a_lock_that_is_not_free_in_time"),
    ],
    indirect=["url"],
)
def test_the_table_notices_what_is_forgotten(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants that know no number, no SQLSTATE or no result code differ from the table."""
    for known in ("_TRANSIENT_MYSQL", "_TRANSIENT_STATES", "_TRANSIENT_SQLITE"):
        monkeypatch.setattr(transient, known, frozenset())
    assert FAULTS[name].is_transient is not verdict(url, name)


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_lost_connection_is_replaced_by_the_retry(url: str) -> None:
    """A unit whose connection is killed half-way is done again, as a whole, on another connection: stored once."""
    house = House(url)
    attempts: list[int] = []

    async def scenario() -> None:
        stage = Stage(house)
        operator = await stage.connect(isolation_level="AUTOCOMMIT")
        own = "SELECT connection_id()" if stage.dialect == "mysql" else "SELECT pg_backend_pid()"
        end = "KILL {}" if stage.dialect == "mysql" else "SELECT pg_terminate_backend({}, 60000)"

        @retry(on=is_transient, attempts=3, backoff=backoff.constant(0))
        @house.db.with_database_session
        @house.function
        async def work() -> None:
            attempts.append(len(attempts))
            await house.add("a")
            if len(attempts) == 1:
                await stage.run(operator, end.format(await house.settle(house.session.scalar(text(own)))))
            await house.add("b")

        await house.settle(work())
        await stage.close()
        assert ([0, 1], ["a", "b"]) == (attempts, await house.stored())

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres-async", "asyncpg"], indirect=True)
def test_crossed_tasks_deadlock_and_both_are_stored(url: str) -> None:
    """Two tasks that update two rows in opposite order: the victim's retry has a fresh unit, and both add up."""
    house = House(url)
    attempts: list[str] = []

    async def scenario() -> None:
        async with house.unit():
            await house.add("a")
            await house.add("b")
        meeting, crossed = asyncio.Barrier(2), asyncio.Event()

        @retry(on=is_transient, attempts=3, backoff=backoff.constant(0))
        @house.db.with_database_session
        async def move(first: str, second: str) -> None:
            attempts.append(first)
            if attempts.count(first) > 1:
                await crossed.wait()  # or the victim might be quick enough to cross the other once more
            await house.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            update = text("UPDATE paint SET stock = stock + 1 WHERE name = :name")
            await house.session.execute(update, {"name": first})
            if attempts.count(first) == 1:
                await meeting.wait()
            await house.session.execute(update, {"name": second})
            crossed.set()

        await asyncio.gather(move("a", "b"), move("b", "a"))
        async with house.unit() as session:
            assert [2, 2] == list(await session.scalars(text("SELECT stock FROM paint")))
        assert 3 == len(attempts)

    house.run(scenario)


def refused(url: Any) -> Exception:
    """Return how a connection is refused."""
    house = House(url, engine_options={"poolclass": NullPool})

    async def ask() -> None:
        await house.settle((house.db.async_engine if house.db.is_async else house.db.engine).connect())

    with pytest.raises(Exception, match=r".") as caught:
        asyncio.run(ask()) if house.db.is_async else drive(ask())
    return caught.value


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_refused_connections(url: str) -> None:
    """Nobody listens, or too many are there already: transient. An unknown user or database: not."""
    target = make_url(url)
    assert is_transient(refused(target.set(port=1)))
    assert not is_transient(refused(target.set(database="paintkit_none")))
    assert not is_transient(refused(target.set(username="paintkit_none")))


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_too_many_connections(url: str) -> None:
    """A user who has all connections that it may have is refused for the moment only."""
    target = make_url(url)
    is_postgres = target.get_backend_name() == "postgresql"
    admin = admin_engine(target.set(drivername="postgresql+psycopg" if is_postgres else "mysql+pymysql"))
    name = f"{target.database}"[-20:] + "_few"
    with admin.connect() as connection:
        if is_postgres:
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0")
        else:
            connection.exec_driver_sql(f"CREATE USER {name} WITH MAX_USER_CONNECTIONS 1")
            connection.exec_driver_sql(f"GRANT ALL ON {target.database}.* TO {name}")
    held = None if is_postgres else admin_engine(target.set(username=name)).connect()
    try:
        assert is_transient(refused(target.set(username=name)))
    finally:
        if held is not None:
            held.close()
            held.engine.dispose()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP {'ROLE' if is_postgres else 'USER'} {name}")
        admin.dispose()
