"""Behind PgBouncer in transaction mode, for real."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
    """A PgBouncer in front of PostgreSQL."""
    with servers.pgbouncer(services.place("pgbouncer"), make_url(shared_postgres)) as url:
        yield url


def work(url: URL, pool: PoolConfig) -> set[int]:
    """Let several clients run many units of work each; return the server's processes that served them."""
    db = DatabaseConnectionManager(url, pool=pool)
    query = text("SELECT pg_backend_pid() WHERE :one = 1")
    served: set[int] = set()

    def client() -> None:
        for _ in range(UNITS):
            with db.unit_of_work(timeout=30.0) as session:
                served.add(session.scalar(query, {"one": 1}))

    async def aclient() -> None:
        for _ in range(UNITS):
            async with db.unit_of_work(timeout=30.0) as session:
                served.add(await session.scalar(query, {"one": 1}))

    async def crowd() -> list[object]:
        ended = await asyncio.gather(*(aclient() for _ in range(CLIENTS)), return_exceptions=True)
        await db.aclose()
        return ended

    if db.is_async:
        ended = asyncio.run(crowd())
    else:
        with ThreadPoolExecutor(CLIENTS) as others:
            ended = [one.exception(60) for one in [others.submit(client) for _ in range(CLIENTS)]]
        db.close()
    for error in filter(None, ended):
        raise error
    return served


def test_units_of_work_share_the_server_connections(bouncer: URL, driver: str) -> None:
    """Four clients, two server connections: all is served, with prepared statements, limits and transactions in place."""
    served = work(bouncer.set(drivername=f"postgresql+{driver}"), PoolConfig.pgbouncer())
    assert 2 == len(served)


def test_the_test_above_notices_what_a_pooler_cannot_bear(bouncer: URL, driver: str) -> None:
    """Without the preset the same work fails: a prepared statement is missing, or there twice."""
    with pytest.raises(DBAPIError, match="prepared statement"):
        work(bouncer.set(drivername=f"postgresql+{driver}"), PoolConfig())
