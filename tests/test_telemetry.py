"""What primitives tell exporters: every number of the catalogue, read from the machines."""

import asyncio

import pytest

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
from paintkit.errors import BulkheadFullError, CallTimeoutError, CircuitOpenError, DeadlineExceededError
from paintkit.monitor.gathering import gather
from paintkit.redis import RedisLevel
from paintkit.sqlalchemy import DatabaseConnectionManager
from paintkit.telemetry import Source, Table
from paintkit.testing import FakeClock
from paintkit.testing.levels import FakeLevel, FakeServer


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
    (_catalogue.BUS, EventBus),
    (_catalogue.BATCHER, lambda: RequestBatcher(list)),
    (_catalogue.COMPONENTS, ComponentManager),
    (_catalogue.MONITOR, measured),
]


@pytest.mark.parametrize(
    ("table", "make"), PRIMITIVES, ids=[table.entries[0].name for table, _ in PRIMITIVES]
)
def test_every_number_of_the_catalogue_is_told(table, make):
    """And none but those: a key that has no statistic would be left out without a word."""
    assert isinstance(make(), Source)
    found = [(one.name, label) for one in make().telemetry() for label in one.samples[0].labels.items()]
    for entry in table.entries:
        assert any(name == entry.name for name, _ in found)
        for label in entry.labels.items():
            assert (entry.name, label) in found
    assert len(table.entries) == len(list(make().telemetry()))


def test_a_key_without_a_statistic_is_noticed():
    """The law above holds the tables to account."""
    with pytest.raises(AssertionError):
        test_every_number_of_the_catalogue_is_told(
            Table("bus", *_catalogue.BUS.entries, _catalogue.BUS.entries[0]._replace(key="typo")), EventBus
        )


def test_every_table_is_held_to_account():
    """A new primitive comes into the list above; pools and second levels have tests of their own."""
    assert {id(table) for table in _catalogue.TABLES} == {
        id(_catalogue.POOL),
        id(_catalogue.LEVEL),
        *(id(table) for table, _ in PRIMITIVES),
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
