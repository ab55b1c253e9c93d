"""The server ends connections, dies, refuses to write: what is lost, what is stored, and who is told."""

import itertools
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from paintkit import backoff, retry
from paintkit.errors import CommitOutcomeUnknownError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient
from tests import services
from tests.sqlalchemy import servers
from tests.sqlalchemy.house import House

SERVERS = pytest.mark.parametrize("url", ["postgres", "postgres-async", "asyncpg", "mariadb"], indirect=True)

#: Patient enough for a cluster that recovers from a crash.
persistent = retry(on=is_transient, attempts=1200, backoff=backoff.constant(0.05), name="persistent")


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Postgres]:
    """A PostgreSQL server that may be killed."""
    with servers.postgres() as running:
        yield running


def errors_after_all_idle_connections_end(url: str, pool: PoolConfig) -> int:
    """Let an operator end all idle connections, then use as many; return how many of the uses fail."""
    house = House(url, pool=pool)
    number_of, end = (
        ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 60000)")  # returns when it is gone
        if house.is_postgres
        else ("SELECT connection_id()", "KILL {}")
    )
    failed: list[Exception] = []

    async def scenario() -> None:
        engine = house.db.async_engine if house.db.is_async else house.db.engine
        held = [await house.settle(engine.connect()) for _ in range(4)]
        operator, *others = held
        numbers = [await house.settle(one.scalar(text(number_of))) for one in others]
        for connection in others:
            await house.settle(connection.close())
        for number in numbers:
            await house.settle(operator.execute(text(end.format(number))))
        await house.settle(operator.close())
        for _ in range(8):
            try:
                async with house.unit() as session:
                    await house.settle(session.execute(text("SELECT 1")))
            except DBAPIError as error:
                failed.append(error)

    house.run(scenario)
    return len(failed)


@SERVERS
def test_connections_that_end_while_idle_are_nobodys_error(url: str) -> None:
    """All idle connections are ended by the server: no one who uses the pool sees an error."""
    assert 0 == errors_after_all_idle_connections_end(url, PoolConfig())


@SERVERS
def test_the_test_above_notices_a_pool_that_does_not_look(url: str) -> None:
    """Without the test at checkout users see errors: the mutant of the test above."""
    assert 1 <= errors_after_all_idle_connections_end(url, PoolConfig(pool_pre_ping=False))


@dataclass
class History:
    """What clients of a table were told about each row that they added."""

    acked: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def tell(self, row: str, add: Callable[[str], object]) -> None:
        """Add a row and note the answer."""
        try:
            add(row)
        except CommitOutcomeUnknownError:
            self.unknown.add(row)
        except Exception:
            self.failed.add(row)
        else:
            self.acked.add(row)

    def faults(self, stored: list[str]) -> list[str]:
        """Return what the table and the answers contradict each other in."""
        times = Counter(stored)
        return [
            *(f"{row} was acknowledged and is lost" for row in sorted(self.acked - times.keys())),
            *(f"{row} is there {number} times" for row, number in sorted(times.items()) if number > 1),
            *(f"{row} failed and is there" for row in sorted(self.failed & times.keys())),
        ]


def test_the_history_notices_what_it_should() -> None:
    """A lost row, one that is there twice, and one that is there though it failed are faults; an unknown one is not."""
    history = History(acked={"a", "b", "c"}, unknown={"d", "e"}, failed={"f"})
    assert [] == history.faults(["a", "b", "c", "d"])
    assert [
        "b was acknowledged and is lost",
        "a is there 2 times",
        "f failed and is there",
    ] == history.faults(["a", "a", "c", "f"])


def create(server: servers.Postgres) -> None:
    server.ask("DROP TABLE IF EXISTS note")
    server.ask("CREATE TABLE note (row text)")


def stored(server: servers.Postgres) -> list[str]:
    servers.until(server.answers)
    return [str(row) for (row,) in server.ask("SELECT row FROM note")]


def test_a_backend_that_is_killed_under_load(server: servers.Postgres) -> None:
    """`kill -9` of one backend takes the cluster down for a moment: what was acknowledged is there, nothing twice.

    Those who retry notice nothing but the wait, unless the connection was lost during their COMMIT, which they are told.
    """
    create(server)
    db = DatabaseConnectionManager(server.url, pool=PoolConfig(pool_size=4, max_overflow=0))
    history, stop = History(), threading.Event()

    @persistent
    @db.with_database_session
    def add(row: str) -> None:
        db.session.execute(text("INSERT INTO note VALUES (:row)"), {"row": row})

    def client(name: str) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            history.tell(f"{name}{number}", add)

    def more() -> None:
        """Let some work be done."""
        enough = len(history.acked) + 100
        servers.until(lambda: len(history.acked) > enough)

    with ThreadPoolExecutor(4) as clients:
        try:
            for name in "abcd":
                clients.submit(client, name)
            for _ in range(2):
                more()
                server.kill_backend()
            more()
        finally:
            stop.set()
    assert [] == history.faults(stored(server))
    assert set() == history.failed
    # One for each client and crash; and one more for who has come back before the server has noticed that it crashed.
    assert len(history.unknown) <= 2 * (4 + 1)
    assert 0 == db.get_connection_stats()["checked_out"]
    db.close()


def test_the_test_above_notices_who_acknowledges_too_early(server: servers.Postgres) -> None:
    """A client that acknowledges before the COMMIT, and loses its connection there, is caught by its history."""
    create(server)
    db = DatabaseConnectionManager(server.url)
    history = History()
    with pytest.raises(DBAPIError), db.unit_of_work() as session:
        session.execute(text("INSERT INTO note VALUES ('a')"))
        history.acked.add("a")
        server.ask("SELECT pg_terminate_backend(%s, 60000)", session.scalar(text("SELECT pg_backend_pid()")))
        session.execute(text("SELECT 1"))
    assert ["a was acknowledged and is lost"] == history.faults(stored(server))
    db.close()


def test_a_server_that_restarts(server: servers.Postgres) -> None:
    """A shutdown and a start are a wait for those who retry: refused, starting up, and there again are all transient."""
    create(server)
    db = DatabaseConnectionManager(server.url)
    with db.unit_of_work() as session:
        session.execute(text("SELECT 1"))
    server.stop()
    back = threading.Timer(0.1, server.start)
    back.start()

    @persistent
    @db.with_database_session
    def add() -> None:
        db.session.execute(text("INSERT INTO note VALUES ('after')"))

    add()
    back.join()
    assert ["after"] == stored(server)
    db.close()


@pytest.fixture
def read_only(server: servers.Postgres) -> Iterator[None]:
    """The server accepts no writes, as a replica, or as one that an operator protects."""

    def switch(on: bool) -> None:
        server.ask(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
        server.ask("SELECT pg_reload_conf()")
        servers.until(lambda: server.ask("SHOW default_transaction_read_only") == [("on" if on else "off",)])

    create(server)
    switch(True)
    yield
    switch(False)


def attempts_to_write(db: DatabaseConnectionManager, on: object) -> tuple[int, Exception]:
    """Return how often a write is tried that fails, and how it fails."""
    tries: list[int] = []

    @retry(on=on, attempts=5, backoff=backoff.constant(0))
    @db.with_database_session
    def add() -> None:
        tries.append(1)
        db.session.execute(text("INSERT INTO note SELECT repeat('x', 1000) FROM generate_series(1, 10000)"))

    with pytest.raises(DBAPIError) as caught:
        add()
    return len(tries), caught.value


@pytest.mark.usefixtures("read_only")
def test_a_server_that_accepts_no_writes(server: servers.Postgres) -> None:
    """One attempt and a clear error, no storm of retries; reading goes on. Who retries everything makes the storm."""
    db = DatabaseConnectionManager(server.url)
    tries, error = attempts_to_write(db, is_transient)
    assert (1, True) == (tries, "cannot execute INSERT in a read-only transaction" in str(error))
    with db.unit_of_work() as session:
        assert 0 == session.scalar(text("SELECT count(*) FROM note"))
    assert 5 == attempts_to_write(db, Exception)[0]
    db.close()


@pytest.fixture
def full_disk(server: servers.Postgres) -> Iterator[None]:
    """The server's table lies on a disk of 4 MB."""
    services.place("netns")  # who may make networks may mount
    with servers.own_folder() as folder:
        options = f"size=4m,uid={folder.stat().st_uid},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        create(server)
        server.ask(f"CREATE TABLESPACE small LOCATION '{folder}'")
        server.ask("ALTER TABLE note SET TABLESPACE small")
        yield
        server.ask("DROP TABLE note")
        server.ask("DROP TABLESPACE small")
        # A process of the server that ends just now may still have a file of it open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.usefixtures("full_disk")
def test_a_server_whose_disk_is_full(server: servers.Postgres) -> None:
    """One attempt and a clear error; what fits is stored, what does not is not, and the server lives on."""
    db = DatabaseConnectionManager(server.url)
    tries, error = attempts_to_write(db, is_transient)
    assert (1, True) == (tries, "No space left on device" in str(error))
    with db.unit_of_work() as session:
        assert 0 == session.scalar(text("SELECT count(*) FROM note"))
        session.execute(text("INSERT INTO note VALUES ('fits')"))
    assert ["fits"] == stored(server)
    db.close()
