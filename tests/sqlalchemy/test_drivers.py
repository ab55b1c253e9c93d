"""What each driver is told when it connects."""

import asyncio
import os
import socket
from typing import Any

import pytest
from sqlalchemy import NullPool, make_url, text

from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, silence
from paintkit.sqlalchemy.drivers import connect_args

LIBPQ = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
ASYNCPG = {"timeout": 5.0, "command_timeout": 30.0}
PYMYSQL = {"connect_timeout": 5, "read_timeout": 30.0, "write_timeout": 30.0}
SQLITE = {"timeout": 5.0}

LIMITS = {"statement_timeout": 20.0, "lock_timeout": 2.5, "idle_in_transaction_timeout": 60.0}
OPTIONS = "-c statement_timeout=20000 -c lock_timeout=2500 -c idle_in_transaction_session_timeout=60000"
SERVER_SETTINGS = {
    "statement_timeout": "20000",
    "lock_timeout": "2500",
    "idle_in_transaction_session_timeout": "60000",
}
INIT_COMMAND = "SET SESSION innodb_lock_wait_timeout=2, lock_wait_timeout=2, max_statement_time=20, idle_transaction_timeout=60"


@pytest.mark.parametrize(
    ("url", "plain", "limited"),
    [
        ("postgresql+psycopg://h/d", LIBPQ, {"options": OPTIONS}),
        ("postgresql+psycopg_async://h/d", LIBPQ, {"options": OPTIONS}),
        ("postgresql+asyncpg://h/d", ASYNCPG, {"server_settings": SERVER_SETTINGS}),
        ("mysql+pymysql://h/d", PYMYSQL, {"init_command": INIT_COMMAND}),
        ("mariadb+pymysql://h/d", PYMYSQL, {"init_command": INIT_COMMAND}),
        ("sqlite:///paints.db", SQLITE, {"timeout": 2.5}),
        ("sqlite+aiosqlite://", SQLITE, {"timeout": 2.5}),
    ],
)
def test_what_each_driver_is_told(url: str, plain: dict[str, Any], limited: dict[str, Any]) -> None:
    """The table of presets: what bounds waiting by default, and what the server is told to bound where that is wanted."""
    assert plain == PoolConfig().as_engine_options(url)["connect_args"]
    assert plain | limited == PoolConfig(**LIMITS).as_engine_options(url)["connect_args"]


def test_all_is_scaled_by_the_same_two_durations() -> None:
    """`connect_timeout` and `silence_timeout` are all there is to set; libpq understands whole seconds, at least 2."""
    quick = PoolConfig(connect_timeout=0.5, silence_timeout=1.5, response_timeout=None)
    assert {
        "connect_timeout": 2,
        "keepalives": 1,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": 1500,
    } == connect_args(make_url("postgresql+psycopg://h/d"), quick)
    assert {"timeout": 0.5, "command_timeout": None} == connect_args(
        make_url("postgresql+asyncpg://h/d"), quick
    )
    assert {"connect_timeout": 1, "read_timeout": None, "write_timeout": None} == connect_args(
        make_url("mysql+pymysql://h/d"), quick
    )


def test_the_url_wins_over_the_preset() -> None:
    """What the URL itself says about the connection stays as it says; start-up options of both are told, the URL's last."""
    url = "postgresql+psycopg://h/d?connect_timeout=2&options=-c%20lock_timeout%3D9"
    arguments = PoolConfig(statement_timeout=1.0).as_engine_options(url)["connect_args"]
    assert "connect_timeout" not in arguments
    assert (15, "-c statement_timeout=1000 -c lock_timeout=9") == (
        arguments["keepalives_idle"],
        arguments["options"],
    )
    assert "options" not in PoolConfig().as_engine_options(url)["connect_args"]


def test_pgbouncer() -> None:
    """Behind PgBouncer nothing is pooled twice, and no prepared statement and no session setting outlives a transaction."""
    pooled = PoolConfig.pgbouncer()
    options = pooled.as_engine_options("postgresql+psycopg://h/d")
    assert {
        "poolclass": NullPool,
        "hide_parameters": True,
        "connect_args": LIBPQ | {"prepare_threshold": None},
    } == options

    options = pooled.as_engine_options("postgresql+asyncpg://h/d")
    name = options["connect_args"].pop("prepared_statement_name_func")
    assert (
        ASYNCPG | {"statement_cache_size": 0, "prepared_statement_cache_size": 0} == options["connect_args"]
    )
    assert 100 == len({name() for _ in range(100)})


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_a_shared_session_are_refused(limit: str) -> None:
    """A session setting leaks through a transaction pooler to strangers: it is refused, with what to do instead."""
    with pytest.raises(ValueError, match=rf"{limit}.*ALTER ROLE"):
        PoolConfig(transaction_pooler=True, **{limit: 1.0})


@pytest.mark.parametrize("url", ["sqlite://", "mysql+pymysql://h/d"])
def test_a_pooler_of_postgresql_is_refused_elsewhere(url: str) -> None:
    """`PoolConfig.pgbouncer()` with another database is refused when the manager is made, not at its first use."""
    with pytest.raises(ValueError, match="transaction_pooler is for PostgreSQL"):
        DatabaseConnectionManager(url, pool=PoolConfig.pgbouncer())
    db = DatabaseConnectionManager("sqlite://")
    with pytest.raises(ValueError, match="transaction_pooler"):
        db.configure_pool(PoolConfig.pgbouncer())
    db.close()


def test_limits_on_postgresql(shared_postgres: str) -> None:
    """PostgreSQL heeds the limits, told by either driver."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    query = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    expected = ("20s", "2500ms", "1min")
    url = make_url(shared_postgres)

    db = DatabaseConnectionManager(url, pool=PoolConfig(**LIMITS))
    with db.unit_of_work() as session:
        assert expected == tuple(session.execute(query).one())
    db.close()

    async def scenario() -> None:
        adb = DatabaseConnectionManager(url.set(drivername="postgresql+asyncpg"), pool=PoolConfig(**LIMITS))
        async with adb.unit_of_work() as session:
            assert expected == tuple((await session.execute(query)).one())
        await adb.aclose()

    asyncio.run(scenario())


def test_limits_on_mariadb(mariadb_url: str) -> None:
    """MariaDB heeds them, too."""
    db = DatabaseConnectionManager(mariadb_url, pool=PoolConfig(**LIMITS))
    with db.unit_of_work() as session:
        found = session.execute(
            text(
                "SELECT @@max_statement_time, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@idle_transaction_timeout"
            )
        ).one()
    assert (20.0, 2, 2, 60) == tuple(found)
    db.close()


def options_of(descriptor: int) -> tuple[int, ...]:
    """Return what a connected socket does about silence."""
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    with socket.socket(fileno=os.dup(descriptor)) as found:
        return (
            int(found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0),
            *(found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names),
        )


LINUX = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux's socket options")


@LINUX
def test_sockets_of_every_driver_end_in_time(shared_postgres: str, mariadb_url: str) -> None:
    """psycopg, asyncpg and PyMySQL: a host that is silent for 9 s is given up, probed every 3 s."""
    pool = PoolConfig(silence_timeout=9.0)
    found: list[tuple[int, ...]] = []

    for url, socket_of in (
        (shared_postgres, lambda driver: driver),
        (mariadb_url, lambda driver: driver._sock),
    ):
        db = DatabaseConnectionManager(url, pool=pool)
        with db.engine.connect() as connection:
            found.append(options_of(socket_of(connection.connection.driver_connection).fileno()))
        db.close()

    async def scenario() -> None:
        url = make_url(shared_postgres).set(drivername="postgresql+asyncpg")
        adb = DatabaseConnectionManager(url, pool=pool)
        async with adb.async_engine.connect() as connection:
            raw = await connection.get_raw_connection()
            found.append(options_of(raw.driver_connection._transport.get_extra_info("socket").fileno()))
        await adb.aclose()

    asyncio.run(scenario())
    assert [(1, 9, 3, 3, 9000)] * 3 == found


def test_what_has_no_network_is_left_alone() -> None:
    """A socket of this machine, or one that a driver hides, is not touched."""
    left, right = socket.socketpair()
    with left, right:
        silence._set(left, 9.0)
        assert 0 == left.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert (None, None) == (silence._of_asyncpg(object()), silence._of_pymysql(object()))
