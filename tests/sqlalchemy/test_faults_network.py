"""The host of the database vanishes: whoever waits for it gets an error in time, and all is well when it is back."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from paintkit import clock
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient
from tests import services
from tests.sqlalchemy import networks, servers

# As small as libpq allows: 2 s to connect, and 2 s + 1 s until a silent host has missed a probe.
POOL = PoolConfig(connect_timeout=2.0, silence_timeout=1.5)
# Seconds: 4/3 of the silence, in whole seconds, a new connection, and the slack of a busy machine.
LIMIT = 3.0 + 2.0 + 1.5

KINDS = ["psycopg", "psycopg_async", "asyncpg"]


@pytest.fixture(scope="module")
def network() -> Iterator[networks.Network]:
    """A network with a host that can vanish."""
    with networks.network(services.place("netns")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(network: networks.Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Postgres]:
    """A PostgreSQL server on that host."""
    folder = tmp_path_factory.mktemp("vanishing") / "data"
    with servers.postgres(folder, host=network.host, inside=network.inside) as running:
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


async def until(server: servers.Postgres, statement: str) -> None:
    async with asyncio.timeout(10):
        while not (await asyncio.to_thread(server.ask, statement))[0][0]:
            await asyncio.sleep(0.01)


class Naive:
    """The mutant: pre-ping and nothing else, as most write it."""

    def __init__(self, server: servers.Postgres) -> None:
        self.engine = create_engine(server.url, pool_pre_ping=True, pool_recycle=300)
        with self.engine.connect() as connection:
            self._descriptor = os.dup(connection.connection.driver_connection.fileno())

    def visit(self) -> None:
        with self.engine.connect() as connection:
            connection.scalar(text("SELECT 1"))

    def end(self) -> None:
        """End what hangs, by its socket."""
        with socket.socket(fileno=self._descriptor) as twin:
            twin.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("driver", KINDS)
def test_a_host_that_vanishes(server: servers.Postgres, network: networks.Network, driver: str) -> None:
    """Checkout from an idle pool, a statement on an open connection, a slow result: each fails in time, as transient.

    When the host is back, the next checkout succeeds within a second, and nothing is left in use. With pre-ping alone one
    still waits.
    """
    naive = Naive(server)

    async def scenario() -> None:
        db = DatabaseConnectionManager(server.url.set(drivername=f"postgresql+{driver}"), pool=POOL)
        client = Client(db)
        idle, opened, slow = [await client.connect() for _ in range(3)]
        await client.ask(opened, "SELECT 1")
        await client.close(idle)
        waiting = asyncio.ensure_future(timed(client.ask(slow, "SELECT pg_sleep(60)")))
        await until(server, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")
        network.vanish()
        try:
            hanging = asyncio.ensure_future(asyncio.to_thread(naive.visit))
            ended = await asyncio.gather(
                timed(client.visit()), timed(client.ask(opened, "SELECT 1")), waiting
            )
            assert [] == [took for took, _ in ended if took > LIMIT]
            assert [] == [error for _, error in ended if not is_transient(error)]
            assert not hanging.done()
        finally:
            network.heal()
            naive.end()
            await hanging
            naive.engine.dispose()
        started = clock.now()
        assert 1 == await client.visit()
        assert clock.now() - started < 1.0
        await client.close(opened)
        await client.close(slow)
        assert 0 == db.get_connection_stats()["checked_out"]
        await (db.aclose() if db.is_async else asyncio.to_thread(db.close))

    asyncio.run(scenario())
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")
