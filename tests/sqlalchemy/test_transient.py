"""Which database errors may be gone at the next attempt."""

import errno
import socket
import sqlite3
import threading
from pathlib import Path

import psycopg
import pymysql.err
import pytest
import sqlalchemy.exc
from sqlalchemy import create_engine, text

from paintkit import backoff, retry
from paintkit.errors import (
    CircuitOpenError,
    CommitOutcomeUnknownError,
    DeadlineExceededError,
    PoolTimeoutError,
    UnexpectedRollbackError,
)
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient
from paintkit.sqlalchemy.transient import outcome_is_unknown
from tests.sqlalchemy.house import Base, House, Paint
from tests.sqlalchemy.servers import PATIENCE

no_wait = backoff.constant(0)


def wrapped(orig: BaseException, *, invalidated: bool = False) -> sqlalchemy.exc.DBAPIError:
    """Return what SQLAlchemy makes of a driver's error."""
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, orig, connection_invalidated=invalidated)


def postgres(state: str) -> BaseException:
    return psycopg.errors.lookup(state)("told by the server")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"SQLite error {code}")
    error.sqlite_errorcode = code
    return error


class Asyncpg(Exception):
    """Gives its SQLSTATE as asyncpg and psycopg2 do."""

    pgcode = "40001"


@pytest.mark.parametrize(
    "error",
    [
        *(
            postgres(state)
            for state in ("40001", "40P01", "55P03", "53300", "57P01", "57P03", "08006", "25P03")
        ),
        psycopg.OperationalError("connection failed: Connection refused"),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.OperationalError("connection failed: FATAL:  the database system is starting up"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        Asyncpg(),
        pymysql.err.OperationalError(1213, "Deadlock found"),
        pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"),
        pymysql.err.OperationalError(2013, "Lost connection"),
        pymysql.err.OperationalError(
            3101, "Plugin instructed the server to rollback the current transaction"
        ),
        pymysql.err.OperationalError(
            3572, "Statement aborted because lock(s) could not be acquired immediately"
        ),
        sqlite_error(sqlite3.SQLITE_BUSY),
        sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT),
        sqlite_error(sqlite3.SQLITE_LOCKED_SHAREDCACHE),
        ConnectionResetError(),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(
            "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed ('::', 1)"
        ),
    ],
    ids=repr,
)
def test_transient_errors(error: BaseException) -> None:
    """What the server or the network may have got over is transient: raw, wrapped by SQLAlchemy, or as a cause."""
    assert is_transient(error)
    assert is_transient(wrapped(error))
    assert is_transient(caused(RuntimeError("of the application"), wrapped(error)))


@pytest.mark.parametrize(
    "error",
    [
        *(
            postgres(state)
            for state in ("23505", "42601", "22012", "57014", "53100", "25006", "28P01", "40002")
        ),
        psycopg.OperationalError("connection failed: FATAL:  password authentication failed for user"),
        psycopg.OperationalError('connection failed: FATAL:  database "x" does not exist'),
        pymysql.err.IntegrityError(1062, "Duplicate entry"),
        pymysql.err.OperationalError(1045, "Access denied"),
        sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        sqlite_error(sqlite3.SQLITE_FULL),
        sqlite_error(sqlite3.SQLITE_READONLY),
        ValueError("connection refused"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("connection refused"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        KeyError("sku"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_lasting_errors(error: BaseException) -> None:
    """What the data, the program or the configuration caused is not transient, in whatever wrapper."""
    assert not is_transient(error)
    assert not is_transient(wrapped(error))
    assert not is_transient(caused(RuntimeError("of the application"), error))


def test_lost_connection() -> None:
    """A connection that SQLAlchemy found dead is transient, whatever the driver called it."""
    assert is_transient(wrapped(psycopg.InterfaceError("?"), invalidated=True))


def test_our_own_errors() -> None:
    """An exhausted pool is transient; a refusal, a spent deadline and an unknown outcome are not, whatever caused them."""
    deadlock = postgres("40P01")
    assert is_transient(PoolTimeoutError("full"))
    assert is_transient(sqlalchemy.exc.TimeoutError("full"))
    assert not is_transient(caused(CircuitOpenError("supplier"), deadlock))
    assert not is_transient(caused(DeadlineExceededError("late"), PoolTimeoutError("full")))
    assert not is_transient(caused(CommitOutcomeUnknownError("?"), wrapped(deadlock, invalidated=True)))


def test_unexpected_rollback_is_as_transient_as_its_cause() -> None:
    """A swallowed deadlock is still a deadlock for whoever retries the whole unit of work."""
    assert is_transient(caused(UnexpectedRollbackError("lost"), wrapped(postgres("40P01"))))
    assert not is_transient(caused(UnexpectedRollbackError("lost"), KeyError("sku")))


def test_only_exceptions_are_judged() -> None:
    """Anything else is a mistake, named as such."""
    for given in ("40001", None, ConnectionError):
        with pytest.raises(TypeError, match="an exception that was raised"):
            is_transient(given)  # type: ignore[arg-type]


def test_circular_causes_end() -> None:
    """Errors that cause each other are looked at once."""
    one, two = RuntimeError(1), RuntimeError(2)
    one.__cause__, two.__cause__ = two, one
    assert not is_transient(one)


def test_unknown_outcomes() -> None:
    """A lost connection, an answer that came too late, SQLSTATE 08007 and 40003 leave open what became of a COMMIT.

    A deadlock does not, nor does a pool that has no connection for it.
    """
    assert outcome_is_unknown(wrapped(OSError(), invalidated=True))
    assert outcome_is_unknown(TimeoutError())
    assert outcome_is_unknown(ConnectionResetError())
    assert not outcome_is_unknown(PoolTimeoutError("full"))
    assert outcome_is_unknown(wrapped(postgres("40003")))
    assert not outcome_is_unknown(wrapped(postgres("40P01")))


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_refused_connections_for_real(house: House) -> None:
    """A port where nobody listens is transient; a database that does not exist is not."""
    url = house.db.engine.url.set(drivername="postgresql+psycopg")
    for wrong, transient in ((url.set(port=1), True), (url.set(database="paintkit_none"), False)):
        engine = create_engine(wrong)
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            engine.connect()
        assert transient is is_transient(caught.value)


def cross(db: DatabaseConnectionManager) -> tuple[list[int], dict[str, int]]:
    """Let two writers update two rows in opposite order at once, each retried as a whole; return attempts and stock."""
    Base.metadata.drop_all(db.engine)
    Base.metadata.create_all(db.engine)
    with db.unit_of_work() as session:
        session.add_all([Paint(name="a"), Paint(name="b")])
    meeting, over = threading.Barrier(2), threading.Event()
    attempts: list[int] = []
    committed: list[str] = []

    def writer(first: str, second: str) -> None:
        tries = 0

        @retry(on=is_transient, attempts=5, backoff=no_wait)
        @db.with_database_session
        def move() -> None:
            nonlocal tries
            tries += 1
            if tries > 1:
                over.wait(PATIENCE)  # or the victim might be quick enough to cross the other once more
            db.on_commit(lambda: committed.append(first))
            update = text("UPDATE paint SET stock = stock + 1 WHERE name = :name")
            db.session.execute(update, {"name": first})
            if tries == 1:
                meeting.wait(PATIENCE)
            db.session.execute(update, {"name": second})

        move()
        over.set()
        attempts.append(tries)

    threads = [threading.Thread(target=writer, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.unit_of_work() as session:
        stock = {paint.name: paint.stock for paint in session.query(Paint)}
    Base.metadata.drop_all(db.engine)
    db.close()
    assert ["a", "b"] == sorted(committed)
    return attempts, stock


def test_deadlock_on_postgres(shared_postgres: str) -> None:
    """Crossed writers on PostgreSQL deadlock; the victim's retry has a fresh unit of work, and hooks run once each."""
    attempts, stock = cross(DatabaseConnectionManager(shared_postgres))
    assert (True, {"a": 2, "b": 2}) == (max(attempts) > 1, stock)


def test_deadlock_on_mariadb(shared_mariadb: str) -> None:
    """The same on MariaDB."""
    attempts, stock = cross(DatabaseConnectionManager(shared_mariadb))
    assert (True, {"a": 2, "b": 2}) == (max(attempts) > 1, stock)


def test_serialization_failure(shared_postgres: str) -> None:
    """Two SERIALIZABLE units that read what the other writes: one fails as transient, and its retry adds up."""
    db = DatabaseConnectionManager(shared_postgres)
    Base.metadata.create_all(db.engine)
    with db.unit_of_work() as session:
        session.add(Paint(name="a"))
    meeting = threading.Barrier(2)
    tries: list[int] = []

    def writer() -> None:
        first = True

        @retry(on=is_transient, attempts=5, backoff=no_wait)
        @db.with_database_session(isolation="SERIALIZABLE")
        def add() -> None:
            nonlocal first
            tries.append(1)
            paint = db.session.query(Paint).one()
            if first:
                first = False
                meeting.wait(PATIENCE)
            paint.stock += 1

        add()

    threads = [threading.Thread(target=writer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.unit_of_work() as session:
        assert (2, 3) == (session.query(Paint).one().stock, len(tries))
    Base.metadata.drop_all(db.engine)
    db.close()


def test_locked_sqlite_file(tmp_path: Path) -> None:
    """A SQLite file that another process holds locked is transient, once the busy timeout is over."""
    path = tmp_path / "paints.db"
    db = DatabaseConnectionManager(f"sqlite:///{path}", engine_options={"connect_args": {"timeout": 0.0}})
    Base.metadata.create_all(db.engine)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(sqlalchemy.exc.OperationalError, match="locked") as caught,
        db.unit_of_work() as session,
    ):
        session.add(Paint(name="a"))
        session.flush()
    assert is_transient(caught.value)
    other.execute("ROLLBACK")
    other.close()
    with db.unit_of_work() as session:
        session.add(Paint(name="a"))
    db.close()


def test_retry_outside_has_a_fresh_unit_each_time(house: House) -> None:
    """Retry around a unit of work: each attempt has a session of its own, nothing of the failed ones remains."""

    async def scenario() -> None:
        sessions: list[object] = []
        seen: list[int] = []

        @retry(on=is_transient, attempts=3, backoff=no_wait)
        @house.db.with_database_session
        @house.function
        async def work() -> None:
            sessions.append(house.session)
            house.db.on_commit(lambda: seen.append(len(sessions)))
            await house.add("a")
            if len(sessions) < 3:
                raise ConnectionResetError

        await house.settle(work())
        assert (3, [3], ["a"]) == (len(set(map(id, sessions))), seen, await house.stored())

    house.run(scenario)


def test_retry_inside_a_doomed_unit_stops(house: House) -> None:
    """Retry inside a unit of work gives up at once when the unit is doomed, but repeats a nested boundary."""

    async def scenario() -> None:
        calls: list[str] = []

        @retry(on=is_transient, attempts=3, backoff=no_wait)
        @house.db.with_database_session
        @house.function
        async def joined() -> None:
            calls.append("joined")
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            async with house.unit():
                await house.settle(joined())
        assert ["joined"] == calls

        @retry(on=is_transient, attempts=3, backoff=no_wait)
        @house.db.with_database_session(propagation="nested")
        @house.function
        async def nested() -> None:
            calls.append("nested")
            await house.add(f"try {len(calls)}")
            if len(calls) < 4:
                raise ConnectionResetError

        async with house.unit():
            await house.settle(nested())
        assert ["try 4"] == await house.stored()

    house.run(scenario)


def test_exhausted_pool_is_retried() -> None:
    """An exhausted pool is a transient error of the unit that needed a connection, and the retry finds one returned."""
    db = DatabaseConnectionManager("sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=0))
    held = [db.engine.connect()]

    def give_back(error: Exception) -> bool:
        held.pop().close()
        return is_transient(error)

    @retry(on=give_back, attempts=2, backoff=no_wait)
    @db.with_database_session
    def work() -> int:
        return db.session.scalar(text("select 1"))

    assert 1 == work()
    db.close()
