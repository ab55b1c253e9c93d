"""How many connections there are, and how long one waits for them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import sqlalchemy.pool
from sqlalchemy import create_engine, text
from sqlalchemy.util import greenlet_spawn

from paintkit import Observation, ambient, clock, observe
from paintkit.errors import DeadlineExceededError, PoolTimeoutError
from paintkit.sqlalchemy import POOL_SETTINGS, DatabaseConnectionManager, PoolConfig
from paintkit.sqlalchemy.holders import RETIRES
from paintkit.sqlalchemy.pool import AsyncPool, BlockingPool, understood
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
        ("max_waiting", -1, ValueError),
        ("max_waiting", 1.0, TypeError),
        ("leak_threshold", 0, ValueError),
        ("leak_threshold", "60", TypeError),
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
        "leaked": 0,
        "db.client.connection.count.idle": 0,
        "db.client.connection.count.used": 0,
        "db.client.connection.idle.max": 2,
        "db.client.connection.max": 3,
        "db.client.connection.pending_requests": 0,
        "db.client.connection.timeouts": 0,
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


REAL = pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
REAL_ASYNC = pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)


def line_of(mark: str) -> str:
    """Return `file:line` of the line of this file that ends in a mark."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{__file__}:{next(number for number, line in enumerate(lines, 1) if line.endswith(mark))}"


def until(true: Callable[[], bool]) -> None:
    """Let other threads run until something is true."""
    for _ in range(10_000):
        if true():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came true")


async def until_in_loop(true: Callable[[], bool]) -> None:
    """Let other tasks run until something is true."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


@REAL
def test_too_many_who_wait_are_refused_at_once(url: str) -> None:
    """Who comes when `max_waiting` wait already is refused without a wait, and told who holds the connections."""
    db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=2, max_overflow=0, max_waiting=1))
    pool = db.engine.pool
    held = [db.engine.connect() for _ in range(2)]  # taken here
    with ThreadPoolExecutor(1) as others:
        waiter: Future[Any] = others.submit(db.engine.connect)
        until(lambda: pool.waiting == 1)
        assert 1 == db.get_connection_stats()["db.client.connection.pending_requests"]
        with pytest.raises(PoolTimeoutError, match="1 wait already") as caught:
            db.engine.connect()
        assert f"{line_of('# taken here')} (× 2)" in str(caught.value)
        held.pop().close()
        waiter.result(10).close()
    held.pop().close()
    stats = db.get_connection_stats()
    assert (0, 1, 0) == (
        stats["db.client.connection.pending_requests"],
        stats["db.client.connection.timeouts"],
        stats["checked_out"],
    )
    db.close()


@REAL_ASYNC
def test_too_many_tasks_who_wait_are_refused_at_once(url: str) -> None:
    """The same for tasks; a disposed pool keeps the limit."""

    async def scenario() -> None:
        db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=1, max_overflow=0, max_waiting=1))
        await db.async_engine.dispose()
        held = await db.async_engine.connect()  # taken by a task
        waiter = asyncio.ensure_future(db.async_engine.connect().start())
        await until_in_loop(lambda: db.engine.pool.waiting == 1)
        with pytest.raises(PoolTimeoutError, match="1 wait already") as caught:
            await db.async_engine.connect()
        assert line_of("# taken by a task") in str(caught.value)
        await held.close()
        await (await waiter).close()
        await db.aclose()

    asyncio.run(scenario())


class Door:
    """Opens connections of a blocking engine, the first of them only to fail when it is told to."""

    def __init__(self, url: str) -> None:
        self.url = sqlalchemy.make_url(url)
        self.dialect = create_engine(self.url, poolclass=sqlalchemy.pool.NullPool).dialect
        self.reached, self.release = threading.Event(), threading.Event()

    def __call__(self) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            assert self.release.wait(30)
            raise OSError("no route to host")
        arguments, options = self.dialect.create_connect_args(self.url)
        return self.dialect.connect(*arguments, **options)


def wait_while_a_connect_fails(url: str, patience: float) -> object:
    """Let one thread wait while another fails to connect; return what the first one gets."""
    door = Door(url)
    db = DatabaseConnectionManager(
        url,
        pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=patience, pool_pre_ping=False),
        engine_options={"creator": door},
    )

    def ask() -> object:
        with db.engine.connect() as connection:
            return connection.scalar(text("select 1"))

    try:
        with ThreadPoolExecutor(2) as others:
            failing: Future[Any] = others.submit(ask)
            assert door.reached.wait(30)
            waiting: Future[Any] = others.submit(ask)
            until(lambda: db.engine.pool.waiting == 1)
            door.release.set()
            assert "no route to host" in str(failing.exception(30))
            return waiting.exception(30) or waiting.result()
    finally:
        db.close()


@pytest.mark.parametrize("url", ["sqlite-file", "postgres"], indirect=True)
def test_those_who_wait_try_at_once_when_a_connect_fails(url: str) -> None:
    """A connect that fails leaves room: who waits for it tries by itself, long before its time is up."""
    assert 1 == wait_while_a_connect_fails(url, patience=3600.0)


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_the_test_above_notices_a_pool_that_wakes_nobody(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant whose failures wake nobody lets the one who waits wait to the end, as SQLAlchemy's own pool does."""
    monkeypatch.setattr(BlockingPool, "_dec_overflow", sqlalchemy.pool.QueuePool._dec_overflow)
    started = clock.now()
    wait_while_a_connect_fails(url, patience=0.3)
    assert 0.3 <= clock.now() - started


@pytest.mark.parametrize("url", ["postgres-async"], indirect=True)
@pytest.mark.parametrize("mutant", [False, True])
def test_tasks_that_wait_try_at_once_when_a_connect_fails(
    url: str, mutant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for tasks; the mutant that wakes nobody is noticed."""
    if mutant:
        monkeypatch.setattr(AsyncPool, "_dec_overflow", sqlalchemy.pool.QueuePool._dec_overflow)

    async def scenario() -> None:
        reached, release = asyncio.Event(), asyncio.Event()
        address = sqlalchemy.make_url(url)

        async def connect() -> Any:
            import psycopg

            if not reached.is_set():
                reached.set()
                await release.wait()
                raise OSError("no route to host")
            return await psycopg.AsyncConnection.connect(
                host=address.host, port=address.port, user=address.username, dbname=address.database
            )

        patience = 0.3 if mutant else 3600.0
        db = DatabaseConnectionManager(
            url,
            pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=patience),
            engine_options={"async_creator": connect},
        )

        async def ask() -> object:
            async with db.async_engine.connect() as connection:
                return await connection.scalar(text("select 1"))

        started = clock.now()
        failing = asyncio.ensure_future(ask())
        await reached.wait()
        waiting = asyncio.ensure_future(ask())
        await until_in_loop(lambda: db.engine.pool.waiting == 1)
        release.set()
        with pytest.raises(OSError, match="no route"):
            await failing
        assert 1 == await asyncio.wait_for(waiting, 30)
        assert mutant is (clock.now() - started >= 0.3)
        await db.aclose()

    asyncio.run(scenario())


def test_a_cancelled_task_passes_its_turn_on() -> None:
    """A task that is cancelled when it is its turn already lets the next one go."""

    async def scenario() -> None:
        queue = AsyncPool._queue_class(1)
        waiters = [asyncio.ensure_future(greenlet_spawn(queue.wait, 3600.0, bool)) for _ in range(2)]
        await until_in_loop(lambda: len(queue._waiting) == 2)
        queue.put_nowait(object())
        waiters[0].cancel()
        await asyncio.wait_for(waiters[1], 30)
        assert waiters[0].cancelled()
        assert 0 == len(queue._waiting)

    asyncio.run(scenario())


@REAL_ASYNC
def test_cancelled_tasks_leave_nothing_behind(url: str) -> None:
    """However far a task that waits has come when it is cancelled, the connection reaches the next one."""

    async def scenario() -> None:
        db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=30.0))

        async def ask() -> object:
            async with db.async_engine.connect() as connection:
                return await connection.scalar(text("select 1"))

        for steps in range(12):
            held = await db.async_engine.connect()
            waiters = [asyncio.ensure_future(ask()) for _ in range(2)]
            await until_in_loop(lambda: db.engine.pool.waiting == 2)
            await held.close()
            for _ in range(steps):
                await asyncio.sleep(0)
            waiters[0].cancel()
            assert 1 == (await asyncio.gather(*waiters, return_exceptions=True))[1]
            assert (0, 0) == (db.engine.pool.waiting, db.get_connection_stats()["checked_out"])
        await db.aclose()

    asyncio.run(scenario())


@REAL
def test_connections_retire_at_different_ages(url: str) -> None:
    """Connections that were opened together are replaced one after the other, each before `pool_recycle` is over."""
    with FakeClock() as fake:
        db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=5, pool_recycle=100.0))

        def alive() -> set[int]:
            held = [db.engine.connect() for _ in range(5)]
            ages.update(one.info[RETIRES] for one in held)
            drivers.extend(one.connection.driver_connection for one in held)
            for one in held:
                one.close()
            return {id(one) for one in drivers[-5:]}

        ages: set[float] = set()
        drivers: list[object] = []  # kept, so that no identity is used twice
        first = alive()
        assert 5 == len(ages)
        assert all(90.0 < age <= 100.0 for age in ages)
        fake.advance(90.0)
        assert first == alive()
        fake.advance(10.0)
        assert first.isdisjoint(alive())
        assert (5, 0) == (db.get_connection_stats()["total"], db.get_connection_stats()["invalid"])
        db.close()
