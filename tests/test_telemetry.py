"""What primitives tell exporters: every number of the catalogue, read from the machines."""

import asyncio

import pytest
from sqlalchemy import column, insert, select, table, text

from paintkit import (
    CacheManager,
    ComponentManager,
    ErrorRecoveryManager,
    EventBus,
    PerformanceMonitor,
    RequestBatcher,
    RetryBudget,
    _catalogue,
    backoff,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    observations,
    pipeline,
    rate_limit,
    retry,
    timeout,
)
from paintkit.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    EventNotSentError,
    IdempotencyKeyReusedError,
)
from paintkit.monitor.gathering import gather
from paintkit.redis import RedisLevel, RedisStreams
from paintkit.sqlalchemy import (
    DatabaseConnectionManager,
    FromCache,
    IdempotencyKeys,
    Outbox,
    QueryCache,
    QueryWatch,
)
from paintkit.sqlalchemy.urls import pool_name
from paintkit.telemetry import Source, Table
from paintkit.testing import FakeClock
from paintkit.testing.levels import FakeLevel, FakeServer
from tests.redis.conftest import own_redis, until

__all__ = ["own_redis"]


def told(*sources: Source) -> dict[tuple[str, ...], float]:
    """Return all numbers by metric and label values, in the order of the labels' names."""
    return {
        (metric.name, *sample.labels.values()): sample.value
        for metric in gather(sources)
        for sample in metric.samples
    }


def failing(*_arguments):
    raise ConnectionError("down")


def measured() -> PerformanceMonitor:
    monitor = PerformanceMonitor()
    monitor.record("mix", 0.5)
    return monitor


def embedded() -> DatabaseConnectionManager:
    return DatabaseConnectionManager("sqlite://")


def watching() -> QueryWatch:
    with QueryWatch(sample=1.0, repeat_threshold=2, min_seconds=0) as queries:
        return queries


PRIMITIVES = [
    (_catalogue.RETRY, lambda: retry(on=OSError)),
    (_catalogue.BUDGET, RetryBudget),
    (_catalogue.BREAKER, lambda: circuit_breaker("supplier")),
    (_catalogue.RATE_LIMIT, lambda: rate_limit(5)),
    (_catalogue.BULKHEAD, lambda: bulkhead(5)),
    (_catalogue.TIMEOUT, lambda: timeout(1.0)),
    (_catalogue.DEADLINE, lambda: deadline(1.0)),
    (_catalogue.HEDGE, lambda: hedge(1.0, idempotent=True)),
    (_catalogue.FALLBACK, lambda: fallback(1, on=OSError)),
    (_catalogue.CACHE, CacheManager),
    (_catalogue.IDEMPOTENCY, lambda: IdempotencyKeys(embedded())),
    (_catalogue.QUERY_CACHE, lambda: QueryCache(embedded(), CacheManager())),
    (_catalogue.QUERY_WATCH, watching),
    (_catalogue.BUS, EventBus),
    (_catalogue.OUTBOX, lambda: Outbox(embedded())),
    (_catalogue.STREAMS, lambda: RedisStreams("redis://127.0.0.1:1")),
    (_catalogue.BATCHER, lambda: RequestBatcher(list)),
    (_catalogue.COMPONENTS, ComponentManager),
    (_catalogue.MONITOR, measured),
]


@pytest.mark.parametrize(
    ("names", "make"), PRIMITIVES, ids=[names.entries[0].name for names, _ in PRIMITIVES]
)
def test_every_number_of_the_catalogue_is_told(names, make):
    """And none but those: a key that has no statistic would be left out without a word."""
    assert isinstance(make(), Source)
    found = [(one.name, label) for one in make().telemetry() for label in one.samples[0].labels.items()]
    for entry in names.entries:
        assert any(name == entry.name for name, _ in found)
        for label in entry.labels.items():
            assert (entry.name, label) in found
    assert len(names.entries) == len(list(make().telemetry()))


def test_a_key_without_a_statistic_is_noticed():
    """The law above holds the tables to account."""
    with pytest.raises(AssertionError):
        test_every_number_of_the_catalogue_is_told(
            Table("bus", *_catalogue.BUS.entries, _catalogue.BUS.entries[0]._replace(key="typo")), EventBus
        )


def test_every_table_is_held_to_account():
    """A new primitive comes into the list above; pools and second levels have tests of their own."""
    assert {id(names) for names in _catalogue.TABLES} == {
        id(_catalogue.POOL),
        id(_catalogue.LEVEL),
        *(id(names) for names, _ in PRIMITIVES),
    }


def test_a_first_success_emits_nothing_and_is_told_all_the_same():
    """Totals are read from the machines, whoever listens or not."""
    cache, bus = CacheManager("paints"), EventBus("studio")
    supplier = circuit_breaker("supplier", failure_rate=0.5)
    load = cache.cache_result()(retry(on=OSError, name="load")(supplier(abs)))
    seen = []
    with observations.observe(seen.append):
        assert [load(-1), load(-1)] == [1, 1]
        bus.publish("paint.created")
    numbers = told(cache, bus, supplier)
    assert [] == seen
    assert 1 == numbers["paintkit.cache.hits", "paints", "memory"]
    assert 1 == numbers["paintkit.cache.misses", "paints", "never"]
    assert 1 == numbers["paintkit.event_bus.published", "studio"]
    assert 1 == numbers["paintkit.circuit_breaker.window.calls", "supplier"]


def test_policies_tell_what_they_did():
    """Each decision once, out of the way of calls that succeed."""
    budget = RetryBudget(ratio=0.1, reserve=0, name="supplier")
    again = retry(on=OSError, attempts=3, backoff=backoff.constant(1), name="again")
    bounded = retry(on=OSError, attempts=3, backoff=backoff.constant(0), budget=budget, name="bounded")
    supplier = circuit_breaker("supplier", failure_threshold=1)
    printer, limit = bulkhead(1, name="printer"), rate_limit(1, per=1.0, max_wait=2.0, name="limit")
    late, instead = deadline(1.0), fallback(0, on=OSError, name="instead")
    with FakeClock() as clock:
        for policy in (again, bounded, supplier):
            with pytest.raises(ConnectionError):
                policy.call(failing)
        with pytest.raises(CircuitOpenError):
            supplier.call(failing)
        with printer.hold(), pytest.raises(BulkheadFullError):
            printer.call(failing)
        assert 0 == instead.call(failing)
        limit.call(abs, 1)
        limit.call(abs, 1)
        with late:
            clock.advance(2.0)
            with pytest.raises(DeadlineExceededError):
                late.call(abs, 1)
        numbers = told(again, bounded, supplier, printer, limit, late, instead)
    expected = {
        ("paintkit.retry.retries", "again"): 2,
        ("paintkit.retry.gave_up", "again"): 1,
        ("paintkit.retry.retries", "bounded"): 0,
        ("paintkit.retry.gave_up", "bounded"): 1,
        ("paintkit.budget.refused", "supplier"): 1,
        ("paintkit.circuit_breaker.failures", "supplier"): 1,
        ("paintkit.circuit_breaker.rejected", "supplier"): 1,
        ("paintkit.circuit_breaker.opened", "supplier"): 1,
        ("paintkit.circuit_breaker.state", "supplier", "open"): 1,
        ("paintkit.circuit_breaker.state", "supplier", "closed"): 0,
        ("paintkit.bulkhead.rejected", "printer"): 1,
        ("paintkit.rate_limit.waited", "limit"): 1,
        ("paintkit.fallback.used", "instead"): 1,
        ("paintkit.deadline.exceeded", "deadline"): 1,
    }
    assert expected == {key: numbers.get(key) for key in expected}


def test_asynchronous_policies_tell_the_same():
    """The counts are kept by what both colours share."""
    late, beside = timeout(1.0, name="late"), hedge(1.0, idempotent=True, name="beside")

    async def never():
        await asyncio.Event().wait()

    async def run():
        with pytest.raises(CallTimeoutError):
            await late.acall(never)
        with pytest.raises(CallTimeoutError):
            await timeout(3.0).acall(beside(never))

    with FakeClock() as clock:
        clock.run(run())
    numbers = told(late, beside)
    assert (1, 1) == (numbers["paintkit.timeout.expired", "late"], numbers["paintkit.hedge.hedges", "beside"])


def test_what_is_held_by_several_is_asked_once():
    """A budget of two retries, a policy of a registry and of a pipeline."""
    budget = RetryBudget(ratio=0.1, reserve=0)
    recovery = ErrorRecoveryManager()
    first = retry(on=OSError, attempts=2, budget=budget, backoff=backoff.constant(0), name="first")
    second = retry(on=OSError, attempts=2, budget=budget, backoff=backoff.constant(0), name="second")
    whole = pipeline(recovery.add(first), circuit_breaker("supplier"))
    with pytest.raises(ConnectionError):
        whole.call(failing)
    numbers = told(recovery, whole, second, first)
    assert 1 == numbers["paintkit.budget.refused", "budget"]
    assert 1 == numbers["paintkit.retry.gave_up", "first"]
    assert 1 == numbers["paintkit.circuit_breaker.failures", "supplier"]


def test_a_pool_tells_its_connections_under_opentelemetrys_names(tmp_path):
    """All of the catalogue; named after the database, never with its folders or a password."""
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")
    with db.unit_of_work() as session:
        session.connection()
        numbers = told(db)
    assert {entry.name for entry in _catalogue.POOL.entries} == {metric.name for metric in db.telemetry()}
    assert len(_catalogue.POOL.entries) == len(list(db.telemetry()))
    assert 1 == numbers["db.client.connection.count", "studio.db", "used"]
    assert 15 == numbers["db.client.connection.max", "studio.db"]
    assert 0 == numbers["db.client.connection.timeouts", "studio.db"]
    assert 1 == numbers["db.client.connection.create_time", "studio.db"]["count"]
    db.close()


def test_a_second_level_is_told_once_by_all_its_caches():
    """All of the catalogue, and its circuit breaker; nothing is connected for it."""
    level = RedisLevel("redis://127.0.0.1:1")
    caches = CacheManager("paints", level2=level), CacheManager("brands", level2=level)
    numbers = told(*caches)
    assert {(entry.name, "redis") for entry in _catalogue.LEVEL.entries} <= numbers.keys()
    assert 1 == numbers["paintkit.circuit_breaker.state", "redis level", "closed"]
    level.close()


def test_a_hit_of_the_second_level_is_told_apart():
    """It is a miss in memory, and no load."""
    server = FakeServer()
    first, second = (CacheManager("paints", level2=FakeLevel(server)) for _ in range(2))

    def load(number: int) -> int:
        return -number

    assert [-1, -1] == [cache.cache_result()(load)(1) for cache in (first, second)]
    numbers = told(second)
    assert 1 == numbers["paintkit.cache.hits", "paints", "level2"]
    assert 1 == numbers["paintkit.cache.misses", "paints", "never"]
    assert 0 == numbers["paintkit.cache.loads", "paints"]


def test_an_outbox_is_told_by_its_bus(tmp_path):
    """What is rolled back was not published; the second of two handlers fails until its event is given up."""
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")
    outbox = Outbox(db, max_attempts=2, backoff=backoff.constant(1.0))
    outbox.create_tables()
    bus = EventBus("studio", transport=outbox)
    held = []
    with FakeClock() as clock:
        bus.subscribe(
            "paint.sold", lambda _: held.append(told(bus)["paintkit.outbox.in_flight", "outbox"]), name="sees"
        )
        bus.subscribe("paint.sold", failing, name="fails")
        bus.publish("paint.sold", 7)
        with pytest.raises(ZeroDivisionError), db.unit_of_work():
            bus.publish("paint.sold", 8)
            raise ZeroDivisionError
        outbox.run_once()
        clock.advance(2.0)
        outbox.run_once()
    numbers = told(bus)
    expected = {
        "published": 1,
        "in_flight": 0,
        "delivered": 1,
        "failed": 2,
        "dead": 1,
        "late": 0,
        "errors": 0,
    }
    assert expected == {key: numbers[f"paintkit.outbox.{key}", "outbox"] for key in expected}
    assert [1] == held
    assert 1 == numbers["paintkit.outbox.lag", "outbox"]["count"]
    db.close()


def test_redis_streams_are_told_by_their_bus(own_redis):
    """Work, its failures, a dead letter, and what could not be sent; reading asks nobody."""
    streams = RedisStreams(own_redis.url, max_attempts=1, timeout=30.0)
    bus = EventBus("studio", transport=streams)
    heard = []
    bus.subscribe("paint.sold", heard.append, name="hears")
    bus.subscribe("paint.sold", failing, name="fails")
    bus.publish("paint.sold", 7)

    def numbers(*keys):
        found = told(bus)
        return {key: found[f"paintkit.redis_streams.{key}", "redis-streams"] for key in keys}

    # Each is counted when its work is over, which is later than it is heard.
    until(lambda: {1} == set(numbers("delivered", "failed", "dead").values()), 60.0)
    assert [7] == heard
    own_redis.kill()
    with pytest.raises(EventNotSentError):
        bus.publish("paint.sold", 8)
    until(lambda: numbers("errors")["errors"], 60.0)
    expected = {"published": 1, "not_sent": 1, "delivered": 1, "failed": 1, "dead": 1, "gaps": 0}
    assert expected == numbers(*expected)
    streams.close()


def test_idempotency_keys_tell_what_was_done_and_what_repeated():
    """And who used another's key."""
    db = embedded()
    keys = IdempotencyKeys(db)
    keys.table.create(db.engine)
    pay = keys.idempotent(key=lambda token, amount: token, fingerprint=lambda token, amount: str(amount))(
        lambda token, amount: amount
    )
    assert [20, 20, 5] == [pay("a", 20), pay("a", 20), pay("b", 5)]
    with pytest.raises(IdempotencyKeyReusedError):
        pay("a", 21)
    numbers = told(keys)
    assert [2, 1, 1] == [
        numbers[f"paintkit.idempotency.{key}", "idempotency_key"] for key in ("done", "repeated", "reused")
    ]
    db.close()


def test_a_query_cache_tells_what_it_answered_and_what_it_heard():
    """A SELECT that locks is none of its business."""
    db = embedded()
    pool, queries = pool_name(db.engine), QueryCache(db, CacheManager("queries"))
    names = select(column("name")).select_from(table("paint")).options(FromCache(tables=("paint",)))
    with db.unit_of_work() as session:
        session.connection().exec_driver_sql("CREATE TABLE paint (name TEXT)")
    before = told(queries)["paintkit.query_cache.writes", pool]
    for _ in range(2):
        with db.unit_of_work(read_only=True) as session:
            assert [] == session.scalars(names).all()
    with db.unit_of_work() as session:
        session.execute(insert(table("paint", column("name"))).values(name="red"))
        session.scalars(names.with_for_update()).all()
    numbers = told(queries)
    assert [2, 1, 1] == [
        numbers[f"paintkit.query_cache.{key}", pool] for key in ("answered", "loads", "uncached")
    ]
    assert 1 == numbers["paintkit.query_cache.writes", pool] - before
    db.close()


def test_a_query_watch_tells_what_it_found():
    """A line that was told of is found again, and no news."""
    db = embedded()
    with QueryWatch(sample=1.0, repeat_threshold=2, min_seconds=0) as queries:
        for _ in range(2):
            with queries.block(), db.unit_of_work() as session:
                for number in range(3):
                    session.execute(text("SELECT :number"), {"number": number})
    numbers = told(queries)
    assert [2, 2, 1] == [
        numbers[f"paintkit.query_watch.{key}", "queries"] for key in ("blocks", "found", "told")
    ]
    db.close()
