"""Behind PgBouncer in transaction mode, for real."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError

from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from tests import services
from tests.sqlalchemy import servers

CLIENTS = 4
UNITS = 12  # more than psycopg executes before it prepares

pytestmark = pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])


@pytest.fixture(scope="module")
def bouncer(shared_postgres: str) -> Iterator[URL]:
    """A PgBouncer in front of PostgreSQL, with two connections to it."""
    with servers.pgbouncer(services.place("pgbouncer"), make_url(shared_postgres)) as url:
        yield url


class Switch:
    """Holds both of the pooler's connections to the server and lets one go: whoever comes next is served there."""

    def __init__(self, bouncer: URL) -> None:
        where = bouncer.set(drivername="postgresql").render_as_string(hide_password=False)
        self._holders = [psycopg.connect(where) for _ in range(2)]
        for holder in self._holders:
            holder.execute("SELECT 1")  # the transaction that this begins keeps a connection until it ends

    def turns(self) -> Iterator[None]:
        """Give as many turns on the first connection, then as many on the other."""
        first, second = self._holders
        first.rollback()
        yield from [None] * UNITS
        first.execute("SELECT 1")  # takes its connection back: no other is free
        second.rollback()
        yield from [None] * UNITS

    def close(self) -> None:
        """Let go of both."""
        for holder in self._holders:
            holder.close()


def work(url: URL, pool: PoolConfig, *clients: Iterable[object]) -> set[int]:
    """Let each client run a unit of work for each of its turns; return the server's processes that served them."""
    db = DatabaseConnectionManager(url, pool=pool)
    query = text("SELECT pg_backend_pid() WHERE :one = 1")
    served: set[int] = set()

    def client(turns: Iterable[object]) -> None:
        for _ in turns:
            with db.unit_of_work(timeout=30.0) as session:
                served.add(session.scalar(query, {"one": 1}))

    async def aclient(turns: Iterable[object]) -> None:
        for _ in turns:
            async with db.unit_of_work(timeout=30.0) as session:
                served.add(await session.scalar(query, {"one": 1}))

    async def crowd() -> list[object]:
        ended = await asyncio.gather(*map(aclient, clients), return_exceptions=True)
        await db.aclose()
        return ended

    if db.is_async:
        ended = asyncio.run(crowd())
    else:
        with ThreadPoolExecutor(len(clients)) as others:
            ended = [one.exception(60) for one in [others.submit(client, turns) for turns in clients]]
        db.close()
    for error in filter(None, ended):
        raise error
    return served


def test_units_of_work_share_the_server_connections(bouncer: URL, driver: str) -> None:
    """Four clients, two server connections: all is served, with limits and transactions in place."""
    crowd = [range(UNITS)] * CLIENTS
    served = work(bouncer.set(drivername=f"postgresql+{driver}"), PoolConfig.pgbouncer(), *crowd)
    assert len(served) in {1, 2}  # how often they meet is up to the machine


def test_a_client_is_served_on_either_connection(bouncer: URL, driver: str) -> None:
    """What a client made on one server connection is not missed on the other."""
    with closing(Switch(bouncer)) as switch:
        served = work(bouncer.set(drivername=f"postgresql+{driver}"), PoolConfig.pgbouncer(), switch.turns())
    assert len(served) == 2


def test_the_test_above_notices_what_a_pooler_cannot_bear(bouncer: URL, driver: str) -> None:
    """Without the preset the same work fails: a statement prepared on one connection is missing on the other."""
    with (
        closing(Switch(bouncer)) as switch,
        pytest.raises(DBAPIError, match=r"prepared statement .* does not exist"),
    ):
        work(bouncer.set(drivername=f"postgresql+{driver}"), PoolConfig(), switch.turns())
