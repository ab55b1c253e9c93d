"""The commands: what an operator reads, and the exit status that a script reads."""

import asyncio
import json

import pytest

from paintkit import (
    CacheManager,
    ComponentManager,
    ErrorRecoveryManager,
    EventBus,
    PerformanceMonitor,
    RequestBatcher,
    bulkhead,
)
from paintkit.flask import PaintKit
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox


def run(app, *arguments):
    result = app.test_cli_runner().invoke(args=["paintkit", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def full(app, db):
    """An app with one of each in use."""
    recovery, bus, components = ErrorRecoveryManager(), EventBus(), ComponentManager()
    recovery.with_retry(2, name="calls")
    recovery.circuit_breaker(name="supplier")
    recovery.add(bulkhead(2, name="renderer"))
    bus.subscribe("paint.*", print)
    components.register("store", dict)
    monitor = PerformanceMonitor()
    monitor.record("mix", 0.25)
    PaintKit(
        app,
        db=db,
        cache=CacheManager("paints", maxsize=123),
        recovery=recovery,
        bus=bus,
        components=components,
        monitor=monitor,
        checks={"disk": lambda: None},
    )
    return app


def test_stats_prints_the_totals(full):
    """Readable by people, and as JSON by programs."""
    text = run(full, "stats")
    assert 0 == text.exit_code
    assert "paints" in text.output
    assert "hit_rate" in text.output
    parsed = json.loads(run(full, "stats", "--json").output)
    assert parsed == json.loads(json.dumps(full.extensions["paintkit"].get_stats()))
    assert 0.25 == parsed["monitors"]["monitor"]["mix"]["max_time"]


def test_explain_names_what_there_is(full):
    """Policies, handlers, components and checks, with their settings."""
    result = run(full, "explain")
    assert 0 == result.exit_code
    for part in (
        "paints",
        "123",
        "retry 'calls': 3 attempts",
        "circuit_breaker 'supplier'",
        "bulkhead 'renderer'",
        "paint.*",
        "store",
        "disk",
        "ErrorRecoveryManager: 3 policies",
        "ComponentManager: 0 of 1 built",
        "PerformanceMonitor: 1 of 1000 names",
    ):
        assert part in result.output
    assert " object at 0x" not in result.output


def test_explain_names_what_carries_events_and_batches(app, db):
    """The transport of a bus, and whose batches they are, rather than an address in memory."""
    outbox = Outbox(db, name="sales")
    batcher = RequestBatcher(list, name="look-ups")
    PaintKit(app, bus=EventBus("shop", transport=outbox), batcher=batcher)
    shown = run(app, "explain").output
    assert "carried by <Outbox 'sales'>" in shown
    assert "<RequestBatcher 'look-ups'>" in shown


def test_check_is_content_when_all_is_well(full):
    """Every finding is printed; exit status 0."""
    result = run(full, "check", "--workers", "2", "--replicas", "3")
    assert 0 == result.exit_code
    assert "connected to sqlite" in result.output
    assert "disk" in result.output


def test_check_fails_when_something_is_wrong(app, tmp_path):
    """Exit status 1, and every trouble is told, not only the first."""

    def fail():
        raise OSError("no space left")

    db = DatabaseConnectionManager(f"sqlite:///{tmp_path}/missing/studio.db")
    PaintKit(app, db=db, checks={"disk": fail})
    result = run(app, "check")
    assert 1 == result.exit_code
    assert "unable to open database file" in result.output
    assert "no space left" in result.output
    db.close()


def test_managers_of_async_engines_are_checked_in_a_loop_of_their_own(app, tmp_path):
    """Findings and totals as of any other; called again, they are there again, for no connection outlives its loop."""
    there = DatabaseConnectionManager(f"sqlite+aiosqlite:///{tmp_path}/studio.db")
    missing = DatabaseConnectionManager("postgresql+psycopg_async://127.0.0.1:1/studio")
    PaintKit(app, db=[there, missing])
    for _ in range(2):
        result = run(app, "check")
        assert 1 == result.exit_code
        assert "connected to sqlite" in result.output
        assert "connection failed" in result.output
    totals = json.loads(run(app, "stats", "--json").output)["databases"]
    assert [(0, 0), (0, 0)] == [(one["checked_in"], one["checked_out"]) for one in totals.values()]
    asyncio.run(there.aclose())
    asyncio.run(missing.aclose())


@pytest.mark.parametrize("server", ["postgres_url", "mariadb_url"])
def test_check_tells_when_the_pools_do_not_fit_the_server(app, server, request):
    """What all workers and replicas may open is compared with what the real server allows."""
    db = DatabaseConnectionManager(request.getfixturevalue(server))
    PaintKit(app, db=db)
    small, large = run(app, "check"), run(app, "check", "--workers", "100", "--replicas", "10")
    db.close()
    assert (0, 1) == (small.exit_code, large.exit_code)
    assert "15 connections × 100 workers × 10 replicas = 15000, the server allows" in large.output


def test_check_says_when_there_is_nothing_to_check(app):
    """Silence would look like success."""
    PaintKit(app)
    result = run(app, "check")
    assert (0, True) == (result.exit_code, "nothing to check" in result.output)


@pytest.mark.parametrize("option", ["--workers", "--replicas"])
def test_check_refuses_senseless_numbers(full, option):
    """A usage error, as of every command line."""
    assert 2 == run(full, "check", option, "0").exit_code
