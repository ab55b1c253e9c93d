"""How many connections there are, and how long one waits for them."""

from datetime import timedelta

import pytest
import sqlalchemy.exc
import sqlalchemy.pool
from sqlalchemy import create_engine, text

from paintkit.sqlalchemy import POOL_SETTINGS, DatabaseConnectionManager, PoolConfig
from paintkit.sqlalchemy.pool import understood
from tests.sqlalchemy.house import House


def test_defaults_are_the_guides() -> None:
    """The defaults: 5 connections, 10 more, 20 s to wait, 300 s to live, tested at checkout."""
    assert {
        "pool_size": 5,
        "max_overflow": 10,
        "pool_timeout": 20.0,
        "pool_recycle": 300.0,
        "pool_pre_ping": True,
    } == dict(POOL_SETTINGS)
    assert PoolConfig() == PoolConfig(**POOL_SETTINGS)
    assert 15 == PoolConfig().capacity


def test_presets() -> None:
    """Development fails fast and shows values; production keeps them to itself."""
    assert (5.0, False) == (PoolConfig.development().pool_timeout, PoolConfig.development().hide_parameters)
    assert (20.0, True) == (PoolConfig.production().pool_timeout, PoolConfig.production().hide_parameters)


def test_durations_may_be_timedeltas() -> None:
    """A timedelta is as good as its seconds, in every option that is a duration."""
    durations = {
        "pool_timeout": 20.0,
        "pool_recycle": 300.0,
        "connect_timeout": 5.0,
        "silence_timeout": 15.0,
        "response_timeout": 30.0,
        "statement_timeout": 2.0,
        "lock_timeout": 1.0,
        "idle_in_transaction_timeout": 60.0,
        "leak_threshold": 60.0,
    }
    given = {name: timedelta(seconds=value) for name, value in durations.items()}
    assert PoolConfig(**durations) == PoolConfig(**given)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("pool_size", 0, ValueError),
        ("pool_size", 5.0, TypeError),
        ("pool_size", True, TypeError),
        ("max_overflow", -1, ValueError),
        ("pool_timeout", -1, ValueError),
        ("pool_timeout", float("nan"), ValueError),
        ("pool_timeout", "20", TypeError),
        ("pool_recycle", 0, ValueError),
        ("pool_pre_ping", 1, TypeError),
        ("connect_timeout", 0, ValueError),
        ("hide_parameters", None, TypeError),
        ("max_waiting", -1, ValueError),
        ("max_waiting", 1.0, TypeError),
        ("silence_timeout", 0, ValueError),
        ("silence_timeout", None, TypeError),
        ("response_timeout", 0, ValueError),
        ("statement_timeout", -1, ValueError),
        ("lock_timeout", "1s", TypeError),
        ("idle_in_transaction_timeout", float("inf"), ValueError),
        ("transaction_pooler", "pgbouncer", TypeError),
        ("leak_threshold", 0, ValueError),
        ("leak_threshold", "60", TypeError),
    ],
)
def test_bad_options_are_named(option: str, value: object, error: type[Exception]) -> None:
    """A wrong option raises at construction, naming itself."""
    with pytest.raises(error, match=option):
        PoolConfig(**{option: value})


@pytest.mark.parametrize(
    "poolclass", ["QueuePool", "NullPool", "StaticPool", "SingletonThreadPool", "AssertionPool"]
)
def test_every_pool_class_gets_what_it_understands(poolclass: str) -> None:
    """Options that a pool class has no use for are left out, so that no pool class raises TypeError; its stats degrade."""
    chosen = getattr(sqlalchemy.pool, poolclass)
    options = understood(PoolConfig().as_engine_options() | {"poolclass": chosen}, chosen)
    create_engine("sqlite://", **options).dispose()

    db = DatabaseConnectionManager("sqlite://", engine_options={"poolclass": chosen})
    with db.unit_of_work() as session:
        assert 1 == session.scalar(text("select 1"))
    stats = db.get_connection_stats()
    known = {"QueuePool": 5, "SingletonThreadPool": 5}.get(poolclass)
    assert (known, 0) == (stats["size"], stats["invalid"])
    if poolclass != "QueuePool":
        assert (None, None, None) == (stats["checked_in"], stats["overflow"], stats["utilization"])
    db.close()


EVERY = pytest.mark.parametrize(
    "url",
    ["sqlite-memory", "sqlite-file", "aiosqlite", "postgres", "postgres-async", "asyncpg", "mariadb"],
    indirect=True,
)


@EVERY
def test_statistics_of_every_driver(url: str) -> None:
    """A fresh pool reports an overflow of 0, not of minus its size, and a utilization instead of a division by zero."""
    house = House(url, pool=PoolConfig(pool_size=2, max_overflow=1))
    fresh = {
        "size": 2,
        "checked_in": 0,
        "checked_out": 0,
        "overflow": 0,
        "overflow_raw": -2,
        "total": 0,
        "capacity": 3,
        "utilization": 0.0,
        "invalid": 0,
        "leaked": 0,
        "db.client.connection.count.idle": 0,
        "db.client.connection.count.used": 0,
        "db.client.connection.idle.max": 2,
        "db.client.connection.max": 3,
        "db.client.connection.pending_requests": 0,
        "db.client.connection.timeouts": 0,
    }
    assert fresh == house.db.get_connection_stats()
    seen = []

    async def scenario() -> None:
        engine = house.db.async_engine if house.db.is_async else house.db.engine
        held = [await house.settle(engine.connect()) for _ in range(3)]
        seen.append(house.db.get_connection_stats())
        for connection in held:
            await house.settle(connection.close())
        seen.append(house.db.get_connection_stats())

    house.run(scenario)
    in_use = {"checked_out": 3, "db.client.connection.count.used": 3, "utilization": 1.0}
    assert fresh | in_use | {"overflow": 1, "overflow_raw": 1, "total": 3} == seen[0]
    idle = {"checked_in": 2, "db.client.connection.count.idle": 2, "total": 2}
    assert fresh | idle | {"overflow_raw": 0} == seen[1]


def test_invalidations_are_counted() -> None:
    """Connections found broken are counted from the pool's own events, across a disposed pool."""
    db = DatabaseConnectionManager("sqlite://")
    for expected in (1, 2):
        with db.engine.connect() as connection:
            connection.invalidate()
        assert expected == db.get_connection_stats()["invalid"]
        db.engine.dispose()
    db.close()
