"""How many connections there are, and how long one waits for them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import sqlalchemy.exc
import sqlalchemy.pool
from sqlalchemy import create_engine, text

from paintkit import Observation, ambient, clock, observe
from paintkit.errors import DeadlineExceededError, PoolTimeoutError
from paintkit.sqlalchemy import POOL_SETTINGS, DatabaseConnectionManager, PoolConfig
from paintkit.sqlalchemy.pool import understood
from paintkit.testing import FakeClock

PSYCOPG = "postgresql+psycopg://localhost/studio"


@contextmanager
def due_in(seconds: float) -> Iterator[None]:
    """Set the ambient deadline."""
    token = ambient.deadline.set(clock.now() + seconds)
    yield
    ambient.deadline.reset(token)


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
    ],
)
def test_bad_options_are_named(option: str, value: object, error: type[Exception]) -> None:
    """A wrong option raises at construction, naming itself."""
    with pytest.raises(error, match=option):
        PoolConfig(**{option: value})


def test_psycopg_gets_timeouts_that_bound_a_vanished_host() -> None:
    """Psycopg gets all three: a connect timeout, keepalives, and a limit for unacknowledged data."""
    arguments = PoolConfig().as_engine_options(PSYCOPG)["connect_args"]
    assert {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    } == arguments


def test_the_url_wins_over_the_preset() -> None:
    """What the URL itself says about the connection stays as it says."""
    arguments = PoolConfig().as_engine_options(f"{PSYCOPG}?connect_timeout=2")["connect_args"]
    assert "connect_timeout" not in arguments
    assert 15 == arguments["keepalives_idle"]


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


def test_fresh_pool_has_no_overflow(url: str) -> None:
    """A fresh pool reports an overflow of 0, not of minus its size, and a utilization instead of a division by zero."""
    db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=2, max_overflow=1))
    stats = db.get_connection_stats()
    assert {
        "size": 2,
        "checked_in": 0,
        "checked_out": 0,
        "overflow": 0,
        "overflow_raw": -2,
        "total": 0,
        "capacity": 3,
        "utilization": 0.0,
        "invalid": 0,
    } == stats
    held = [db.engine.connect() for _ in range(3)]
    stats = db.get_connection_stats()
    assert (3, 1, 1.0) == (stats["checked_out"], stats["overflow"], stats["utilization"])
    for connection in held:
        connection.close()
    db.close()


def test_invalidations_are_counted() -> None:
    """Connections found broken are counted from the pool's own events, across a disposed pool."""
    db = DatabaseConnectionManager("sqlite://")
    for expected in (1, 2):
        with db.engine.connect() as connection:
            connection.invalidate()
        assert expected == db.get_connection_stats()["invalid"]
        db.engine.dispose()
    db.close()


def test_exhausted_pool_waits_on_the_clock() -> None:
    """Without a free connection one waits for `pool_timeout` exactly, then gets an error of ours, SQLAlchemy's and Python's."""
    seen: list[Observation] = []
    with FakeClock() as fake:
        db = DatabaseConnectionManager(
            "sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=7.0)
        )
        with db.engine.connect():
            before = fake.now()
            with observe(seen.append), pytest.raises(PoolTimeoutError, match="all 1 connections") as caught:
                db.engine.connect()
            assert 7.0 == fake.now() - before
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, sqlalchemy.exc.TimeoutError)
        assert [("pool.exhausted", {"capacity": 1, "timeout": 7.0})] == [
            (one.kind, one.details) for one in seen
        ]
        db.close()


def test_pool_waits_no_longer_than_the_deadline() -> None:
    """The ambient deadline ends the wait for a connection; the error says that it was the deadline."""
    with FakeClock() as fake:
        db = DatabaseConnectionManager("sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0))
        with db.engine.connect(), due_in(3.0):
            with pytest.raises(DeadlineExceededError):
                db.engine.connect()
            assert 3.0 == fake.now()
        with due_in(-1.0), db.engine.connect():
            pass  # a connection that is free is no wait
        db.close()


def test_waiting_thread_gets_what_another_gives_back() -> None:
    """A thread that waits for a connection gets it as soon as it comes back."""
    db = DatabaseConnectionManager("sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0))
    held = db.engine.connect()
    got: list[object] = []

    def wait() -> None:
        with db.engine.connect() as connection:
            got.append(connection.scalar(text("select 1")))

    thread = threading.Thread(target=wait)
    thread.start()
    held.close()
    thread.join(timeout=10)
    assert [1] == got
    db.close()


def test_asyncio_pool_waits_no_longer_than_the_deadline() -> None:
    """The same for an async engine, whose error is the same."""

    async def scenario() -> None:
        db = DatabaseConnectionManager(
            "sqlite+aiosqlite://", pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=0)
        )
        async with db.async_engine.connect():
            with pytest.raises(PoolTimeoutError):
                async with db.async_engine.connect():
                    pass
            with due_in(-1.0), pytest.raises(DeadlineExceededError):
                async with db.async_engine.connect():
                    pass
        await db.aclose()

    asyncio.run(scenario())


def test_exhausted_pool_can_be_retried() -> None:
    """An exhausted pool leaves nothing behind: the next one who asks after a return gets a connection."""
    db = DatabaseConnectionManager("sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=0))
    with db.unit_of_work() as session:
        session.scalar(text("select 1"))
        with suppress(PoolTimeoutError), db.engine.connect():
            pass
    with db.unit_of_work() as session:
        assert 1 == session.scalar(text("select 1"))
    assert 0 == db.get_connection_stats()["checked_out"]
    db.close()
