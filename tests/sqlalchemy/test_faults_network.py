"""The host of the database vanishes: whoever waits for it gets an error in time, and all is well when it is back."""

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text

from paintkit import clock
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient
from tests import services
from tests.sqlalchemy import networks, servers

# As small as libpq allows: 2 s + 1 s until a silent host has missed a probe. To connect there are 4 s, or a busy machine
# might take one that answers for silent.
QUICK = PoolConfig(connect_timeout=4.0, silence_timeout=1.5)
# Seconds that a busy machine may take in addition: far less than whoever gives up by the defaults takes, or never does.
SLACK = 8.0
# How often the host vanishes at most until a checkout has met no pause of the machine's.
OUTAGES = 3

DRIVERS = ["psycopg", "psycopg_async", "asyncpg"]
#: With `PAINTKIT_SLOW=1`: MariaDB too, and the defaults, which are done within 25 s for each driver.
SLOW = bool(os.environ.get("PAINTKIT_SLOW"))


@pytest.fixture(scope="module")
def network() -> Iterator[networks.Network]:
    """A network with a host that can vanish."""
    with networks.network(services.place("netns")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(network: networks.Network) -> Iterator[servers.Postgres]:
    """A PostgreSQL server on that host."""
    with servers.postgres(host=network.host, inside=network.inside) as running:
        yield running


class Client:
    """Both colours of a manager, for tasks; what blocks does so in a thread."""

    def __init__(self, db: DatabaseConnectionManager) -> None:
        self.db = db

    async def connect(self) -> Any:
        if self.db.is_async:
            return await self.db.async_engine.connect()
        return await asyncio.to_thread(self.db.engine.connect)

    async def ask(self, connection: Any, statement: str) -> Any:
        if self.db.is_async:
            return await connection.scalar(text(statement))
        return await asyncio.to_thread(connection.scalar, text(statement))

    async def close(self, connection: Any) -> None:
        await (connection.close() if self.db.is_async else asyncio.to_thread(connection.close))

    async def visit(self) -> Any:
        connection = await self.connect()
        try:
            return await self.ask(connection, "SELECT 1")
        finally:
            await self.close(connection)


async def timed(work: Awaitable[Any]) -> tuple[float, BaseException]:
    """Return how long work takes to fail, and how."""
    started = clock.now()
    try:
        await work
    except Exception as error:
        return clock.now() - started, error
    raise AssertionError("it did not fail")


class Naive:
    """The mutant: pre-ping and nothing else, as most write it."""

    def __init__(self, url: URL) -> None:
        self.engine = create_engine(url, pool_pre_ping=True, pool_recycle=300)
        with self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            self._descriptor = os.dup(getattr(driver, "_sock", driver).fileno())

    def visit(self) -> None:
        with self.engine.connect() as connection:
            connection.scalar(text("SELECT 1"))

    def under_way(self, statement: str) -> int:
        """Return how many clients wait for the end of a statement, as the server sees it."""
        where = (
            "pg_stat_activity WHERE state = 'active' AND query = :statement"
            if self.engine.dialect.name == "postgresql"
            else "information_schema.processlist WHERE info = :statement"
        )
        with self.engine.connect() as connection:
            return int(
                connection.scalar(text(f"SELECT count(*) FROM {where}"), {"statement": statement}) or 0
            )

    def end(self) -> None:
        """End what hangs, by its socket."""
        with socket.socket(fileno=self._descriptor) as twin:
            twin.shutdown(socket.SHUT_RDWR)


def check(network: networks.Network, url: URL, pool: PoolConfig, driver: str, slow_query: str) -> None:
    """Let the host vanish while each driver's kinds of waiting are under way, and look at how they end."""
    # In whole seconds: how long a silent host is probed, and a new connection tried.
    limit = math.ceil(pool.silence_timeout) + math.ceil(pool.silence_timeout / 3) + pool.connect_timeout

    async def outage(client: Client) -> float:
        """Let the host vanish and come back; return how long the next checkout takes."""
        naive = Naive(url)
        idle, opened, slow = [await client.connect() for _ in range(3)]
        await client.ask(opened, "SELECT 1")
        await client.close(idle)
        before = naive.under_way(slow_query)
        waiting = asyncio.ensure_future(timed(client.ask(slow, slow_query)))
        async with asyncio.timeout(servers.PATIENCE):
            while await asyncio.to_thread(naive.under_way, slow_query) == before:
                await asyncio.sleep(0.01)
        network.vanish()
        try:
            hanging = asyncio.ensure_future(asyncio.to_thread(naive.visit))
            ended = await asyncio.gather(
                timed(client.visit()), timed(client.ask(opened, "SELECT 1")), waiting
            )
            assert [] == [took for took, _ in ended if took > limit + SLACK]
            assert [] == [error for _, error in ended if not is_transient(error)]
            assert not hanging.done()
        finally:
            network.heal()
            naive.end()
            await hanging
            naive.engine.dispose()
        started = clock.now()
        assert 1 == await client.visit()
        took = clock.now() - started
        await client.close(opened)
        await client.close(slow)
        return took

    async def scenario() -> None:
        db = DatabaseConnectionManager(url.set(drivername=driver), pool=pool)
        for _ in range(OUTAGES):
            # A pause of the machine's takes as long as a wait would, but not each time.
            if (took := await outage(Client(db))) < 1.0:
                break
        assert took < 1.0
        assert 0 == db.get_connection_stats()["checked_out"]
        await (db.aclose() if db.is_async else asyncio.to_thread(db.close))

    asyncio.run(scenario())


POOLS = [pytest.param(QUICK, id="quick"), *([pytest.param(PoolConfig(), id="defaults")] if SLOW else [])]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_host_that_vanishes(
    server: servers.Postgres, network: networks.Network, driver: str, pool: PoolConfig
) -> None:
    """Checkout from an idle pool, a statement on an open connection, a slow result: each fails in time, as transient.

    When the host is back, the next checkout succeeds within a second, and nothing is left in use. With pre-ping alone one
    still waits.
    """
    check(network, server.url, pool, f"postgresql+{driver}", "SELECT pg_sleep(60)")
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")


if SLOW:

    @pytest.mark.parametrize("pool", POOLS)
    def test_a_host_of_mariadb_that_vanishes(network: networks.Network, pool: PoolConfig) -> None:
        """The same through PyMySQL."""
        with servers.mariadb(host=network.host, inside=network.inside) as url:
            check(network, url, pool, "mysql+pymysql", "SELECT SLEEP(60)")
