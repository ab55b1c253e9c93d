"""Who waits for a connection, and who gets it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy.exc
import sqlalchemy.pool
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.util import greenlet_spawn

from paintkit import Observation, ambient, clock, observe
from paintkit.errors import DeadlineExceededError, PoolTimeoutError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from paintkit.sqlalchemy.holders import RETIRES
from paintkit.sqlalchemy.queues import AsyncPool, BlockingPool
from paintkit.testing import FakeClock


@contextmanager
def due_in(seconds: float) -> Iterator[None]:
    """Set the ambient deadline."""
    token = ambient.deadline.set(clock.now() + seconds)
    yield
    ambient.deadline.reset(token)


def test_exhausted_pool_waits_on_the_clock() -> None:
    """Without a free connection one waits for `pool_timeout` exactly, then gets an error of ours, SQLAlchemy's and Python's."""
    seen: list[Observation] = []
    with FakeClock() as fake:
        db = DatabaseConnectionManager(
            "sqlite://", pool=PoolConfig(pool_size=1, max_overflow=0, pool_timeout=7.0)
        )
        with db.engine.connect():  # held meanwhile
            before = fake.now()
            with observe(seen.append), pytest.raises(PoolTimeoutError, match="the only connection") as caught:
                db.engine.connect()
            assert f"it was taken at {line_of('# held meanwhile')}" in str(caught.value)
            assert 7.0 == fake.now() - before
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, sqlalchemy.exc.TimeoutError)
        assert [("pool.exhausted", {"capacity": 1, "timeout": 7.0})] == [
            (one.kind, one.details) for one in seen if one.kind.startswith("pool.")
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
        with pytest.raises(PoolTimeoutError, match="1 waits already") as caught:
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
        with pytest.raises(PoolTimeoutError, match="1 waits already") as caught:
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
            until(lambda: db.engine.pool.waiting == 1 or waiting.done())
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
        async with asyncio.timeout(30):
            ended = (await asyncio.gather(waiting, return_exceptions=True))[0]
        if mutant:
            assert 0.3 <= clock.now() - started  # to the end of its patience, whatever it gets then
        else:
            assert 1 == ended
        await db.aclose()

    asyncio.run(scenario())


def test_a_cancelled_task_passes_its_turn_on() -> None:
    """A task that is cancelled when it is its turn already lets the next one go."""

    async def scenario() -> None:
        db = DatabaseConnectionManager("sqlite+aiosqlite://", pool=PoolConfig(pool_size=1, max_overflow=0))
        pool = db.engine.pool
        held = await db.async_engine.connect()
        waiters = [asyncio.ensure_future(db.async_engine.connect().start()) for _ in range(2)]
        await until_in_loop(lambda: pool.waiting == 2)
        first = pool._line[0]
        await held.close()
        await until_in_loop(first._bell.done)
        waiters[0].cancel()
        await (await asyncio.wait_for(waiters[1], 30)).close()
        assert (True, 0) == (waiters[0].cancelled(), pool.waiting)
        await db.aclose()

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


class Line:
    """A driver's connection that does nothing: what is under test is the pool."""

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def waiting(pool: Any) -> int:
    """Return how many threads wait, be it at a pool of SQLAlchemy's own."""
    return pool.waiting if isinstance(pool, BlockingPool) else len(pool._pool.not_empty._waiters)


def lock_of(pool: Any) -> Any:
    """Return what keeps who has been woken from going on in a pool of SQLAlchemy's own; its holder may go in and out."""
    return pool._pool.mutex


def who_comes_first(
    poolclass: type[sqlalchemy.pool.QueuePool], hold: Callable[[Any], Any] = nullcontext
) -> list[str]:
    """Give a connection back while one waits for it, and ask for one at once; return who got one in which order.

    Args:
        poolclass: The pool's.
        hold: What to hold of the pool meanwhile.
    """
    pool = poolclass(Line, pool_size=1, max_overflow=0)
    order: list[str] = []

    def ask(who: str) -> None:
        connection = pool.connect()
        order.append(who)
        connection.close()

    held = pool.connect()
    with ThreadPoolExecutor(1) as others:
        waiter = others.submit(ask, "who waited")
        until(lambda: waiting(pool) == 1)
        with hold(pool):
            held.close()
            ask("who came later")
        waiter.result(30)
    return order


def test_nobody_is_overtaken() -> None:
    """A connection that comes back is for who waits, even if its former holder asks for another at the same instant."""
    assert all(["who waited", "who came later"] == who_comes_first(BlockingPool) for _ in range(20))


def test_the_test_above_notices_overtaking() -> None:
    """SQLAlchemy's own pool lets the one who came later take it: the mutant of the test above."""
    assert ["who came later", "who waited"] == who_comes_first(sqlalchemy.pool.QueuePool, lock_of)


class Visit(NamedTuple):
    """A task that asks for a connection."""

    gap: int  # steps of the loop before it comes
    stay: int  # steps for which it keeps the connection
    patience: int | None  # steps after which it is cancelled


VISITS = st.lists(
    st.builds(Visit, gap=st.integers(0, 3), stay=st.integers(0, 3), patience=st.none() | st.integers(0, 12)),
    min_size=2,
    max_size=8,
)


async def steps(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def served(visits: list[Visit], poolclass: type[sqlalchemy.pool.QueuePool]) -> list[int]:
    """Let tasks visit a pool of one connection; return who got it in which order, by the order in which they came."""

    async def scenario() -> list[int]:
        pool = poolclass(Line, pool_size=1, max_overflow=0, timeout=30.0)
        order: list[int] = []

        async def visit(number: int, stay: int) -> None:
            connection = await greenlet_spawn(pool.connect)
            order.append(number)
            try:
                await steps(stay)
            finally:
                connection.close()

        async def leave(task: asyncio.Task[None], patience: int) -> None:
            await steps(patience)
            task.cancel()

        tasks = []
        for number, one in enumerate(visits):
            await steps(one.gap)
            tasks.append(visitor := asyncio.ensure_future(visit(number, one.stay)))
            await asyncio.sleep(0)  # it stands in line before the next one comes
            if one.patience is not None:
                tasks.append(asyncio.ensure_future(leave(visitor, one.patience)))
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert 0 == pool.checkedout()
        return order

    return asyncio.run(scenario())


@settings(max_examples=100, deadline=None)
@given(VISITS)
def test_tasks_are_served_in_the_order_in_which_they_came(visits: list[Visit]) -> None:
    """Whoever comes, stays and is cancelled when: those who are served are served in their order, and all who stay are."""
    order = served(visits, AsyncPool)
    assert sorted(order) == order
    assert {number for number, one in enumerate(visits) if one.patience is None} <= set(order)


def test_the_property_above_notices_overtaking() -> None:
    """SQLAlchemy's own pool, on which one who comes at the right instant overtakes, does not have the property."""
    early = [Visit(gap=0, stay=6, patience=None), Visit(gap=0, stay=1, patience=None)]
    orders = [
        served([*early, Visit(gap, 0, None)], sqlalchemy.pool.AsyncAdaptedQueuePool) for gap in range(8)
    ]
    assert [0, 2, 1] in orders


def test_no_wake_up_is_lost() -> None:
    """Threads in great haste for few connections: all are served, long before their patience is over."""
    db = DatabaseConnectionManager(
        "sqlite://", pool=PoolConfig(pool_size=2, max_overflow=1, pool_timeout=60.0)
    )

    def hurry() -> int:
        for _ in range(200):
            db.engine.connect().close()
        return 200

    with ThreadPoolExecutor(8) as others:
        done = [others.submit(hurry) for _ in range(8)]
        assert 1600 == sum(one.result(60) for one in done)
    stats = db.get_connection_stats()
    assert (0, 0, 0) == (
        stats["checked_out"],
        stats["db.client.connection.pending_requests"],
        stats["db.client.connection.timeouts"],
    )
    db.close()
