"""The laws of numbers in messages: one of a kind is told in the singular."""

import pytest

from paintkit import (
    BulkheadFullError,
    CacheManager,
    ErrorRecoveryManager,
    EventBus,
    PerformanceMonitor,
    QueryGuardError,
    bulkhead,
    observations,
    pipeline,
    retry,
)
from paintkit._words import counted
from paintkit.monitor.logging import log_observations
from paintkit.sqlalchemy import DatabaseConnectionManager, query_guard
from paintkit.testing import FakeClock, assert_loads


def test_a_number_comes_with_its_noun():
    """The plural takes an s, or is given."""
    assert ["0 calls", "1 call", "2 calls"] == [counted(number, "call") for number in range(3)]
    assert ["1 call runs", "2 calls run"] == [counted(number, "call runs", "calls run") for number in (1, 2)]


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("<retry 'retry': 1 attempt>", retry(on=OSError, attempts=1)),
        ("<CacheManager 'cache': 0 of 1 entry>", CacheManager(maxsize=1)),
        ("<PerformanceMonitor: 0 of 1 name>", PerformanceMonitor(max_names=1)),
    ],
)
def test_a_form_counts_well(shown, value):
    """Whatever holds one of a kind."""
    assert shown == repr(value)


def test_a_registry_and_a_bus_count_well():
    """What they hold came one by one."""
    recovery, bus = ErrorRecoveryManager(), EventBus()
    recovery.circuit_breaker(name="supplier")
    bus.subscribe("paint.sold", print)
    assert "<ErrorRecoveryManager: 1 policy>" == repr(recovery)
    assert "<EventBus 'events': 1 handler>" == repr(bus)
    recovery.with_retry(name="supplier")
    bus.subscribe("paint.*", print)
    assert "<ErrorRecoveryManager: 2 policies>" == repr(recovery)
    assert "<EventBus 'events': 2 handlers>" == repr(bus)


def test_a_pipeline_counts_calls():
    """One at worst, without a retry."""
    assert "at worst 1 call, without bound" in str(pipeline(bulkhead(1)).explain())


def test_a_bulkhead_counts_what_runs():
    """Also if it lets one call in."""
    policy = bulkhead(1)
    with policy.hold(), pytest.raises(BulkheadFullError, match="1 call runs"):
        policy.call(print)


def test_a_guard_counts_statements():
    """What ran, and what is allowed."""
    db = DatabaseConnectionManager("sqlite://")
    for most, words in ((0, "1 statement ran and 0 are allowed"), (1, "2 statements ran and 1 is allowed")):
        with (
            pytest.raises(QueryGuardError, match=words),
            query_guard(max_queries=most),
            db.unit_of_work() as session,
        ):
            for _ in range(most + 1):
                session.connection().exec_driver_sql("SELECT 1")
    db.close()


def test_tests_count_well():
    """What the kit says of loads."""
    cache = CacheManager()
    load = cache.cache_result(lambda key: key)
    with pytest.raises(AssertionError, match="was loaded 1 time instead of 2"), assert_loads(load, 2):
        load(1)


def test_a_log_counts_what_it_leaves_out(caplog):
    """One or more."""
    caplog.set_level("INFO", "studio")
    with FakeClock() as clock, log_observations("studio", most=1, per=60.0):
        for _ in range(2):
            observations.emit("circuit_breaker.rejected", "supplier")
        clock.advance(60.0)
        observations.emit("circuit_breaker.rejected", "supplier")
    assert "(1 more was not logged)" in caplog.messages[-1]
