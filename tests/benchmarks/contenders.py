"""The contenders: what each library has to offer for a row, with its documented defaults wherever there are any.

Each function takes what is to be protected and returns it protected. Libraries are imported inside, for any of them may
be missing. Where a rival does less than the row asks, its label in `rows.py` says so.
"""

import atexit
import functools
import inspect
import itertools
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

from tests.benchmarks.race import ARGUMENT

Fn = Callable[..., Any]

# What rows have opened, and share.
_open = ExitStack()


def close() -> None:
    """Close what rows have opened: threads would go on reading. A row that comes later opens it anew."""
    _open.close()
    for shared in (_redis, _value, _database, _paints, _manager, _query_cached):
        shared.cache_clear()


atexit.register(close)

SIZE, TTL = 10_000, 300.0
#: Calls per second that no benchmark reaches, and calls at once.
PLENTY, AT_ONCE = 1e9, 8


# Retry --------------------------------------------------------------------------------------------------------------


def retry(fn: Fn) -> Fn:
    import paintkit

    return paintkit.retry(on=ConnectionError)(fn)


def tenacity_retry(fn: Fn) -> Fn:
    import tenacity

    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(0.1, max=10),
        reraise=True,
    )(fn)


def nopanic_retry(fn: Fn) -> Fn:
    import nopanic

    return nopanic.retry(on=ConnectionError)(fn)


def stamina_retry(fn: Fn) -> Fn:
    import stamina

    return stamina.retry(on=ConnectionError)(fn)


def backoff_retry(fn: Fn) -> Fn:
    import backoff

    return backoff.on_exception(backoff.expo, ConnectionError, max_tries=3)(fn)


def pyresilience_retry(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(retry=pyresilience.RetryConfig(retry_on=(ConnectionError,)))(fn)


# Circuit breaker ----------------------------------------------------------------------------------------------------


def streak(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier", failure_threshold=5)(fn)


def window(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier")(fn)


def slow_window(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier", slow_call_duration=2.0)(fn)


def pybreaker_streak(fn: Fn) -> Fn:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=5)(fn)


def circuitbreaker_streak(fn: Fn) -> Fn:
    import circuitbreaker

    return circuitbreaker.circuit(failure_threshold=5)(fn)


def nopanic_breaker(fn: Fn) -> Fn:
    import nopanic

    return nopanic.circuit_breaker()(fn)


def nopanic_slow_breaker(fn: Fn) -> Fn:
    import nopanic

    return nopanic.circuit_breaker(slow_call_duration=2.0)(fn)


def pyresilience_streak(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(circuit_breaker=pyresilience.CircuitBreakerConfig())(fn)


def interlock_window(fn: Fn) -> Fn:
    import interlock

    config = interlock.Config(window_type=interlock.WindowType.TIME_BASED, window_size=30)
    return interlock.CircuitBreaker(name="supplier", config=config)(fn)


# Limits -------------------------------------------------------------------------------------------------------------


def rate_limit(fn: Fn) -> Fn:
    import paintkit

    return paintkit.rate_limit(PLENTY, per=1.0)(fn)


def nopanic_rate_limit(fn: Fn) -> Fn:
    import nopanic

    return nopanic.rate_limit(PLENTY)(fn)


def pyresilience_rate_limit(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(rate_limiter=pyresilience.RateLimiterConfig(max_calls=int(PLENTY)))(fn)


def pyresilience_bulkhead(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(bulkhead=pyresilience.BulkheadConfig(max_concurrent=AT_ONCE))(fn)


def bulkhead(fn: Fn) -> Fn:
    import paintkit

    return paintkit.bulkhead(AT_ONCE)(fn)


def nopanic_bulkhead(fn: Fn) -> Fn:
    import nopanic

    return nopanic.bulkhead(AT_ONCE)(fn)


def timeout(fn: Fn) -> Fn:
    import paintkit

    return paintkit.timeout(2.0)(fn)


def nopanic_timeout(fn: Fn) -> Fn:
    import nopanic

    return nopanic.timeout(2.0)(fn)


def pyresilience_timeout(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(timeout=pyresilience.TimeoutConfig(seconds=2.0))(fn)


def asyncio_timeout(fn: Fn) -> Fn:
    import asyncio

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(2.0):
            return await fn(*args, **kwargs)

    return wrapper


# Pipelines ----------------------------------------------------------------------------------------------------------


def two(fn: Fn) -> Fn:
    import paintkit

    return paintkit.pipeline(
        paintkit.retry(on=ConnectionError),
        paintkit.circuit_breaker("supplier"),
    )(fn)


def nopanic_two(fn: Fn) -> Fn:
    import nopanic

    return nopanic.compose(nopanic.retry(on=ConnectionError), nopanic.circuit_breaker())(fn)


def pyresilience_four(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(retry_on=(ConnectionError,)),
        rate_limiter=pyresilience.RateLimiterConfig(max_calls=int(PLENTY)),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=AT_ONCE),
        circuit_breaker=pyresilience.CircuitBreakerConfig(),
    )(fn)


def four(fn: Fn) -> Fn:
    import paintkit

    return paintkit.pipeline(
        paintkit.retry(on=ConnectionError),
        paintkit.rate_limit(PLENTY, per=1.0),
        paintkit.bulkhead(AT_ONCE),
        paintkit.circuit_breaker("supplier"),
    )(fn)


def nopanic_four(fn: Fn) -> Fn:
    import nopanic

    return nopanic.compose(
        nopanic.retry(on=ConnectionError),
        nopanic.rate_limit(PLENTY),
        nopanic.bulkhead(AT_ONCE),
        nopanic.circuit_breaker(),
    )(fn)


# Cache --------------------------------------------------------------------------------------------------------------


def hit(fn: Fn) -> Fn:
    import paintkit

    cache = paintkit.CacheManager("bench", maxsize=SIZE)
    return cache.cache_result(timeout=TTL, tags=lambda number: (f"number:{number}",))(fn)


def untagged(fn: Fn) -> Fn:
    import paintkit

    return paintkit.CacheManager("bench", maxsize=SIZE).cache_result(timeout=TTL)(fn)


def missing(protect: Callable[[Fn], Fn]) -> Callable[[Fn], Fn]:
    """Return what makes a function whose every call is a miss: each has a key of its own."""

    def protect_and_miss(fn: Fn) -> Fn:
        keys = itertools.count()
        if inspect.iscoroutinefunction(fn):

            async def load(_key: int) -> Any:
                return await fn(ARGUMENT)

            cached = protect(load)

            async def call(_number: int) -> Any:
                return await cached(next(keys))

            return call

        cached = protect(lambda _key: fn(ARGUMENT))
        return lambda _number: cached(next(keys))

    return protect_and_miss


def cachetools_hit(fn: Fn) -> Fn:
    import cachetools
    from cachetools.keys import typedkey

    store = cachetools.TTLCache(SIZE, TTL)
    return cachetools.cached(store, key=typedkey, lock=threading.Lock(), info=True)(fn)


def cachebox_hit(fn: Fn) -> Fn:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(SIZE, TTL), key_maker=cachebox.make_typed_key)(fn)


def nopanic_hit(fn: Fn) -> Fn:
    import nopanic

    return nopanic.cache(ttl=TTL, maxsize=SIZE)(fn)


def theine_hit(fn: Fn) -> Fn:
    import datetime as dt

    import theine

    return theine.Memoize(SIZE, dt.timedelta(seconds=TTL), typed=True)(fn)


def async_lru_hit(fn: Fn) -> Fn:
    import async_lru

    return async_lru.alru_cache(maxsize=SIZE, ttl=TTL, typed=True)(fn)


def cashews_in_memory(fn: Fn) -> Fn:
    import cashews

    cache = cashews.Cache()
    cache.setup("mem://", size=SIZE)
    return cache(ttl=TTL)(fn)


def dogpile_in_memory(fn: Fn) -> Fn:
    import dogpile.cache

    region = dogpile.cache.make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    return region.cache_on_arguments(namespace=str(id(fn)))(fn)


def aiocache_in_memory(fn: Fn) -> Fn:
    import aiocache

    return aiocache.cached(ttl=TTL, namespace=str(id(fn)))(fn)


def flask_caching_hit(fn: Fn) -> Fn:
    import flask
    import flask_caching

    app = flask.Flask("bench")
    cache = flask_caching.Cache(
        app, config={"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": TTL, "CACHE_THRESHOLD": SIZE}
    )
    fn.__name__ = fn.__qualname__ = f"measured_{id(fn)}"
    return cache.memoize()(fn)


# A cache on Redis -----------------------------------------------------------------------------------------------------
#
# Every call goes to the server, on this machine: whoever has a memory of its own has it emptied.


@functools.cache
def _redis() -> tuple[str, str]:
    """Return where Redis is, and a prefix for this run, whose keys are removed at the end."""
    import redis

    from tests import services

    url, prefix = services.place("redis"), f"paintkit-bench-{uuid.uuid4().hex}"

    def clean() -> None:
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(f"{prefix}*"):
                client.delete(key)

    _open.callback(clean)
    return url, prefix


@functools.cache
def _value() -> str:
    """Return a key with a value of about the size that a number has in the cache."""
    import redis

    url, prefix = _redis()
    with redis.Redis.from_url(url) as client:
        client.set(prefix, bytes(100))
    return prefix


def redis_get(fn: Fn) -> Fn:
    """Ask for one value, and do nothing with it: what a hit is compared with."""
    import redis

    key, client = _value(), redis.Redis.from_url(_redis()[0])

    def call(number: int) -> Any:
        client.get(key)
        return fn(number)

    return call


def redis_get_async(fn: Fn) -> Fn:
    import redis.asyncio

    key, client = _value(), redis.asyncio.Redis.from_url(_redis()[0])

    async def farewell() -> AsyncIterator[None]:
        """Close the connection at the end of the loop, which ends such generators."""
        try:
            yield
        finally:
            await client.aclose()

    ends: list[AsyncIterator[None]] = []

    async def call(number: int) -> Any:
        if not ends:
            ends.append(farewell())
            await anext(ends[0])
        await client.get(key)
        return await fn(number)

    return call


def level2_hit(fn: Fn) -> Fn:
    import paintkit
    from paintkit.redis import RedisLevel

    url, prefix = _redis()
    level = RedisLevel(url, prefix=f"{prefix}-{uuid.uuid4().hex}", timeout=5.0)
    _open.callback(level.close)
    cache = paintkit.CacheManager("bench", maxsize=SIZE, level2=level)
    cached = cache.cache_result(timeout=TTL, tags=lambda number: (f"number:{number}",))(fn)
    store = cache._store

    def empty() -> None:
        for section in store._sections:
            for table in section.tables():
                table.entries.clear()

    if inspect.iscoroutinefunction(fn):

        async def acall(number: int) -> Any:
            empty()
            return await cached(number)

        return acall

    def call(number: int) -> Any:
        empty()
        return cached(number)

    return call


def dogpile_hit(fn: Fn) -> Fn:
    from dogpile.cache import make_region

    url, prefix = _redis()
    region = make_region(key_mangler=f"{prefix}-{uuid.uuid4().hex}:".__add__)
    region.configure("dogpile.cache.redis", expiration_time=TTL, arguments={"url": url})
    return region.cache_on_arguments()(fn)  # type: ignore[no-any-return]


def cashews_hit(fn: Fn) -> Fn:
    from cashews import Cache

    url, prefix = _redis()
    cache = Cache()
    cache.setup(url)
    return cache(ttl=TTL, prefix=f"{prefix}-{uuid.uuid4().hex}")(fn)  # type: ignore[no-any-return]


def aiocache_hit(fn: Fn) -> Fn:
    from urllib.parse import urlsplit

    from aiocache import RedisCache, cached
    from aiocache.serializers import JsonSerializer

    url, prefix = _redis()
    place = urlsplit(url)
    return cached(  # type: ignore[no-any-return]
        ttl=TTL,
        cache=RedisCache,
        serializer=JsonSerializer(),
        namespace=f"{prefix}-{uuid.uuid4().hex}",
        endpoint=place.hostname,
        port=place.port or 6379,
    )(fn)


# Database -----------------------------------------------------------------------------------------------------------
#
# One statement on SQLite in memory: what stands around it weighs most there.


@functools.cache
def _database() -> Any:
    from paintkit.sqlalchemy import DatabaseConnectionManager

    return DatabaseConnectionManager("sqlite://")


def session_begin(fn: Fn) -> Fn:
    """On the engine of our contenders: its pool and its `BEGIN` are on both sides."""
    return _session_begin(_database().engine, fn)


def session_begin_alone(fn: Fn) -> Fn:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import QueuePool

    return _session_begin(create_engine("sqlite://", poolclass=QueuePool, pool_pre_ping=True), fn)


def _session_begin(engine: Any, fn: Fn) -> Fn:
    from sqlalchemy import text
    from sqlalchemy.orm import sessionmaker

    make, statement = sessionmaker(engine), text("select :number")

    def call(number: int) -> Any:
        with make.begin() as session:
            return fn(session.scalar(statement, {"number": number}))

    return call


def unit_of_work(fn: Fn) -> Fn:
    return _unit_of_work(_database(), fn)


def _unit_of_work(db: Any, fn: Fn) -> Fn:
    from sqlalchemy import text

    statement = text("select :number")

    def call(number: int) -> Any:
        with db.unit_of_work() as session:
            return fn(session.scalar(statement, {"number": number}))

    return call


def with_database_session(fn: Fn) -> Fn:
    from sqlalchemy import text

    db, statement = _database(), text("select :number")

    def call(number: int) -> Any:
        return fn(db.session.scalar(statement, {"number": number}))

    return db.with_database_session(call)  # type: ignore[no-any-return]  # _database is Any


# On PostgreSQL, for what costs or saves a way to the server.


@functools.cache
def _paints() -> tuple[str, Any, Any]:
    """Return the URL of a server, a mapped class whose table has a hundred rows there, and a SELECT of one."""
    from sqlalchemy import NullPool, bindparam, create_engine, insert, select
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    from paintkit.sqlalchemy.urls import normalized_url
    from tests import services

    class Base(DeclarativeBase):
        """For one table."""

    class Paint(Base):
        """A row of it."""

        __tablename__ = f"paintkit_bench_{uuid.uuid4().hex}"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        stock: Mapped[int]

    url = normalized_url(services.place("postgres"))
    engine = create_engine(url, poolclass=NullPool)
    Base.metadata.create_all(engine)
    _open.callback(Base.metadata.drop_all, engine)
    with engine.begin() as connection:
        rows = [{"id": number, "name": f"paint {number}", "stock": number} for number in range(1, 101)]
        connection.execute(insert(Paint), rows)
    return (
        str(url.render_as_string(hide_password=False)),
        Paint,
        select(Paint.stock).where(Paint.id == bindparam("id")),
    )


@functools.cache
def _manager(**options: bool) -> Any:
    from paintkit.sqlalchemy import DatabaseConnectionManager

    db = DatabaseConnectionManager(_paints()[0], **options)
    _open.callback(db.close)
    return db


def remote_session_begin(fn: Fn) -> Fn:
    """SQLAlchemy without us, on an engine that looks after its connections as ours does."""
    from sqlalchemy import create_engine

    engine = create_engine(_paints()[0], pool_pre_ping=True)
    _open.callback(engine.dispose)
    return _session_begin(engine, fn)


def remote_unit_of_work(fn: Fn) -> Fn:
    return _unit_of_work(_manager(), fn)


def commit(fn: Fn, *, resolve_commits: bool = False) -> Fn:
    """Write one row in a unit of work."""
    from sqlalchemy import bindparam, update

    db, paint = _manager(resolve_commits=resolve_commits), _paints()[1]
    number = bindparam("number")
    statement = update(paint).where(paint.id == number).values(stock=number).returning(paint.stock)

    def call(number: int) -> Any:
        with db.unit_of_work() as session:
            return fn(session.scalar(statement, {"number": number}))

    return call


def resolved_commit(fn: Fn) -> Fn:
    return commit(fn, resolve_commits=True)


@functools.cache
def _query_cached() -> Any:
    from paintkit import CacheManager
    from paintkit.sqlalchemy import QueryCache

    db = _manager()
    QueryCache(db, CacheManager("bench"))
    return db


def query(fn: Fn, option: Any = None) -> Fn:
    """Read one column of one row in a unit of work of its own, as a request would."""
    db, statement = _query_cached(), _paints()[2]
    if option is not None:
        statement = statement.options(option)

    def call(number: int) -> Any:
        with db.unit_of_work(read_only=True) as session:
            return fn(session.scalar(statement, {"id": number}))

    return call


def cached_query(fn: Fn) -> Fn:
    from paintkit.sqlalchemy import FromCache

    return query(fn, FromCache())


def cached_entities(fn: Fn) -> Fn:
    """Read a hundred mapped objects."""
    from sqlalchemy import select

    from paintkit.sqlalchemy import FromCache

    db, paint = _query_cached(), _paints()[1]
    statement = select(paint).order_by(paint.id).options(FromCache())

    def call(number: int) -> Any:
        with db.unit_of_work(read_only=True) as session:
            return fn(session.scalars(statement).all()[number - 1].id)

    return call


def bare_checkout(fn: Fn) -> Fn:
    from sqlalchemy.pool import QueuePool

    pool = QueuePool(_sqlite)

    def call(number: int) -> Any:
        connection = pool.connect()
        try:
            return fn(number)
        finally:
            connection.close()

    return call


def watched_checkout(fn: Fn) -> Fn:
    """A checkout from a manager's pool, which notes who holds the connection since when."""
    from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig

    config = PoolConfig(leak_threshold=60.0, pool_pre_ping=False)
    pool = DatabaseConnectionManager("sqlite://", pool=config).engine.pool

    def call(number: int) -> Any:
        connection = pool.connect()
        try:
            return fn(number)
        finally:
            connection.close()

    return call


def _sqlite() -> Any:
    import sqlite3

    return sqlite3.connect(":memory:", check_same_thread=False)


# Events and measurements --------------------------------------------------------------------------------------------


def _handlers() -> list[Callable[..., None]]:
    """Three that do nothing; each is another function, and each takes what either library sends."""
    return [lambda _sender, **_data: None for _ in range(3)]


def blinker_send(fn: Fn) -> Fn:
    import blinker

    signal, handlers = blinker.Signal(), _handlers()
    for handler in handlers:
        signal.connect(handler, weak=False)

    def call(number: int) -> Any:
        signal.send(number)
        return fn(number)

    return call


def publish(fn: Fn) -> Fn:
    import paintkit

    bus = paintkit.EventBus()
    for handler in _handlers():
        bus.subscribe("paint.updated", handler)

    def call(number: int) -> Any:
        bus.publish("paint.updated", number)
        return fn(number)

    return call


def prometheus_observe(fn: Fn) -> Fn:
    import prometheus_client

    histogram = prometheus_client.Histogram(
        "bench", "Bench.", ["name"], registry=prometheus_client.CollectorRegistry()
    ).labels("mix")

    def call(number: int) -> Any:
        histogram.observe(0.25)
        return fn(number)

    return call


def prometheus_labels_observe(fn: Fn) -> Fn:
    import prometheus_client

    histogram = prometheus_client.Histogram(
        "bench", "Bench.", ["name"], registry=prometheus_client.CollectorRegistry()
    )

    def call(number: int) -> Any:
        histogram.labels("mix").observe(0.25)
        return fn(number)

    return call


def record(fn: Fn) -> Fn:
    import paintkit

    monitor = paintkit.PerformanceMonitor()

    def call(number: int) -> Any:
        monitor.record("mix", 0.25)
        return fn(number)

    return call


def measure(fn: Fn) -> Fn:
    import paintkit

    return paintkit.PerformanceMonitor().measure("mix")(fn)
