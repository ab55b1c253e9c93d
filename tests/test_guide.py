"""The guide's patterns as its readers will write them, against paintkit.

What the guide's own snippets get wrong is in `tests/guide`: one test or more for each mistake, by its number.
"""

import ast
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flask import Flask
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship

from paintkit import (
    CacheManager,
    CircuitOpenError,
    CircuitState,
    ComponentManager,
    ErrorRecoveryManager,
    EventBus,
    PerformanceMonitor,
    QueryGuardError,
    RequestBatcher,
)
from paintkit.sqlalchemy import (
    POOL_SETTINGS,
    DatabaseConnectionManager,
    PoolConfig,
    query_guard,
    with_database_session,
)
from paintkit.testing import FakeClock

#: The mistakes that have tests, as their list numbers them.
ROWS = {*range(1, 54)}


class Base(DeclarativeBase):
    pass


class Brand(Base):
    __tablename__ = "brand"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Paint(Base):
    __tablename__ = "paint"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    brand_id: Mapped[int] = mapped_column(ForeignKey("brand.id"))
    brand: Mapped[Brand] = relationship()


@dataclass(frozen=True)
class PaintView:
    """What may be cached of a paint: plain data."""

    id: int
    name: str


class DevelopmentConfig:
    SQLALCHEMY_DATABASE_URI = "sqlite://"
    SQLALCHEMY_ENGINE_OPTIONS: ClassVar = {
        "pool_size": 3,
        "pool_timeout": 30,
        "pool_recycle": 3600,
        "max_overflow": 5,
    }


class ProductionConfig:
    SQLALCHEMY_DATABASE_URI = "sqlite://"
    SQLALCHEMY_ENGINE_OPTIONS: ClassVar = dict(POOL_SETTINGS)


CONFIGURATIONS = {"development": DevelopmentConfig, "production": ProductionConfig}


@pytest.fixture
def app() -> Flask:
    app = Flask("guide")
    app.config.from_object(CONFIGURATIONS["development"])
    return app


@pytest.fixture
def db(app: Flask) -> Iterator[DatabaseConnectionManager]:
    """A database with two brands and four paints."""
    db = DatabaseConnectionManager(app)
    Base.metadata.create_all(db.engine)
    with db.unit_of_work() as session:
        session.add_all([Brand(id=1, name="Citadel"), Brand(id=2, name="Vallejo")])
        session.flush()
        session.add_all(
            [
                Paint(id=number, name=name, brand_id=1 + number % 2)
                for number, name in enumerate(("red", "blue", "green", "black"), start=1)
            ]
        )
    yield db
    db.close()


# Connections and sessions


def test_a_connection_manager_configures_the_pool_of_an_app(
    app: Flask, db: DatabaseConnectionManager
) -> None:
    """What the app sets stays, what it leaves out is filled in, and the statistics have the guide's names."""
    options = app.config["SQLALCHEMY_ENGINE_OPTIONS"]
    assert (3, 5, True) == (options["pool_size"], options["max_overflow"], options["pool_pre_ping"])

    with db.unit_of_work() as session:
        session.scalars(select(Paint)).all()
        stats = db.get_connection_stats()

    assert {"size": 3, "checked_out": 1, "overflow": 0, "invalid": 0}.items() <= stats.items()
    assert 0 == db.get_connection_stats()["checked_out"]
    assert 1 == db.get_connection_stats()["checked_in"]


def test_a_configuration_is_chosen_by_name() -> None:
    """The guide's classes work as they are, for production as for development."""
    sizes = {}
    for name, configuration in CONFIGURATIONS.items():
        app = Flask("guide")
        app.config.from_object(configuration)
        db = DatabaseConnectionManager(app)
        sizes[name] = (db.engine.pool.size(), db.get_connection_stats()["capacity"])
        db.close()

    assert {"development": (3, 8), "production": (5, 15)} == sizes


def test_pool_settings_are_those_of_the_guide() -> None:
    """Five connections, ten more under load, 20 s of patience, five minutes of life, tested before use."""
    expected = {
        "pool_size": 5,
        "max_overflow": 10,
        "pool_timeout": 20,
        "pool_recycle": 300,
        "pool_pre_ping": True,
    }

    assert expected == dict(POOL_SETTINGS)
    assert PoolConfig() == PoolConfig(**POOL_SETTINGS)
    assert expected.items() <= PoolConfig().as_engine_options().items()


def test_a_decorated_function_has_a_session_that_commits_and_closes(db: DatabaseConnectionManager) -> None:
    """What it added is stored when it returns, and nothing of it when it raises."""

    @db.with_database_session
    def add(name: str, *, fail: bool = False) -> int:
        paint = Paint(name=name, brand_id=1)
        db.session.add(paint)
        db.session.flush()
        if fail:
            raise RuntimeError("the shelf is full")
        return paint.id

    assert 5 == add("white")
    with pytest.raises(RuntimeError, match="the shelf is full"):
        add("grey", fail=True)

    with db.unit_of_work(read_only=True) as session:
        assert "white" == session.scalars(select(Paint.name).order_by(Paint.id.desc())).first()
    assert 0 == db.get_connection_stats()["checked_out"]


def test_the_free_decorator_finds_the_app_s_database(app: Flask, db: DatabaseConnectionManager) -> None:
    """`@with_database_session`, as the guide writes it, works in modules that are imported before the app exists."""

    @with_database_session
    def count() -> int:
        return len(db.session.scalars(select(Paint)).all())

    with app.app_context():
        assert 4 == count()


def test_one_query_instead_of_many(db: DatabaseConnectionManager) -> None:
    """A guard finds the loop that loads each paint's brand, and lets the join pass."""

    @db.with_database_session
    def brands(*options: Any) -> set[str]:
        with query_guard(max_queries=1):
            return {paint.brand.name for paint in db.session.scalars(select(Paint).options(*options))}

    with pytest.raises(QueryGuardError):
        brands()
    assert {"Citadel", "Vallejo"} == brands(joinedload(Paint.brand))


# Cache and events


def test_a_cached_query_runs_once(db: DatabaseConnectionManager) -> None:
    """The second call is answered without the database, and the statistics say so."""
    cache = CacheManager()
    queries = []

    @cache.cache_result(timeout=300, key_func=lambda paint_id: f"paint_{paint_id}")
    @db.with_database_session
    def get_paint_data(paint_id: int) -> PaintView:
        queries.append(paint_id)
        paint = db.session.get_one(Paint, paint_id)
        return PaintView(paint.id, paint.name)

    assert PaintView(1, "red") == get_paint_data(1) == get_paint_data(1)
    assert [1] == queries
    stats = cache.get_stats()
    assert (1, 0.5) == (stats["entries"], stats["hit_rate"])
    assert stats["estimated_size"] > 0

    cache.invalidate("paint_1")
    get_paint_data(1)
    assert [1, 1] == queries


def test_values_live_as_long_as_they_may() -> None:
    """`timeout` is in seconds; after it the value is loaded anew."""
    cache, loads = CacheManager(), []

    @cache.cache_result(timeout=300)
    def load() -> int:
        loads.append("load")
        return len(loads)

    with FakeClock() as clock:
        assert [1, 1] == [load(), load()]
        clock.advance(299)
        assert 1 == load()
        clock.advance(1)
        assert 2 == load()


def test_entries_are_dropped_by_pattern_or_altogether() -> None:
    """`pattern=` takes the operator's glob; nothing named is everything."""
    cache = CacheManager()
    load = cache.cache_result(key_func=lambda name: name)(lambda name: name.upper())
    for name in ("paint_1", "paint_2", "brand_1"):
        load(name)

    cache.invalidate(pattern="paint_*")
    assert 1 == cache.get_stats()["entries"]
    cache.invalidate()
    assert 0 == cache.get_stats()["entries"]


def test_an_update_reaches_the_cache_by_an_event_after_the_commit(db: DatabaseConnectionManager) -> None:
    """The guide's handler keeps the cache right, because the event waits for the COMMIT."""
    cache, bus = CacheManager(), EventBus()

    @cache.cache_result(tags=lambda paint_id: (f"paint_{paint_id}",))
    @db.with_database_session
    def name_of(paint_id: int) -> str:
        return db.session.get_one(Paint, paint_id).name

    @bus.subscribe("paint.updated")
    def invalidate_cache(paint: dict[str, int]) -> None:
        cache.invalidate(f"paint_{paint['id']}")

    @db.with_database_session
    def rename(paint_id: int, name: str) -> str:
        db.session.get_one(Paint, paint_id).name = name
        bus.publish("paint.updated", {"id": paint_id})
        return name_of(2)  # somebody else's paint is still served from the cache

    assert ["red", "blue"] == [name_of(1), name_of(2)]
    assert "blue" == rename(1, "crimson")

    assert "crimson" == name_of(1)
    assert "blue" == name_of(2)


# Error recovery


def test_retry_and_circuit_breaker_stack_as_the_guide_stacks_them(db: DatabaseConnectionManager) -> None:
    """Transient errors are retried within one call; a streak of them opens the circuit; it closes when all is well."""
    recovery = ErrorRecoveryManager()
    faults: list[Exception] = []

    @recovery.with_retry(max_retries=3, exceptions=(ConnectionError, TimeoutError), name="paints")
    @recovery.circuit_breaker(failure_threshold=5, recovery_timeout=60, name="database")
    @db.with_database_session
    def database_operation() -> list[str]:
        if faults:
            raise faults.pop()
        return [paint.name for paint in db.session.query(Paint).order_by(Paint.id)]

    breaker = recovery.circuit_breakers["database"]
    with FakeClock() as clock:
        faults += [ConnectionError("reset"), TimeoutError("slow")]
        assert ["red", "blue", "green", "black"] == database_operation()
        assert {"paints": 2} == recovery.retry_counts

        faults += [ConnectionError("down") for _ in range(5)]
        with pytest.raises(ConnectionError, match="down"):
            database_operation()
        with pytest.raises(ConnectionError, match="down"):
            database_operation()  # the fifth failure in a row opens the circuit, which ends the retries
        assert CircuitState.OPEN is breaker.state
        with pytest.raises(CircuitOpenError):
            database_operation()

        clock.advance(60)
        for _ in range(3):
            database_operation()
        assert CircuitState.CLOSED is breaker.state


def test_other_errors_are_neither_retried_nor_hidden() -> None:
    """What is not in `exceptions` is raised as it is, by the first attempt."""
    recovery, attempts = ErrorRecoveryManager(), []

    @recovery.with_retry(max_retries=3, exceptions=(ConnectionError,), name="load")
    def load() -> None:
        attempts.append("attempt")
        raise KeyError("sku")

    with pytest.raises(KeyError, match="sku"):
        load()

    assert ["attempt"] == attempts
    assert {"load": 0} == recovery.retry_counts


# Batches, components, measurements


def test_requests_of_many_threads_are_one_query(db: DatabaseConnectionManager) -> None:
    """Each caller gets the answer to its own request; the database is asked once."""
    batches: list[list[int]] = []

    @db.with_database_session
    def load(ids: list[int]) -> list[str]:
        batches.append(sorted(ids))
        found = {paint.id: paint.name for paint in db.session.scalars(select(Paint).where(Paint.id.in_(ids)))}
        return [found[one] for one in ids]

    batcher = RequestBatcher(load, batch_size=4, delay=60.0)
    with batcher, ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(batcher.add, [3, 1, 4, 2], timeout=20))

    assert ["green", "red", "black", "blue"] == answers
    assert [[1, 2, 3, 4]] == batches


def test_a_component_is_built_when_it_is_first_asked_for() -> None:
    """Once, however many threads ask at the same time, and closed at the end."""
    built, closed = [], []
    together = threading.Barrier(8, timeout=20)

    def make_loader() -> list[str]:
        built.append("loader")
        return ["loader"]

    with ComponentManager() as components:
        components.register("loader", make_loader, close=closed.extend)
        assert [] == built

        def ask(_number: int) -> object:
            together.wait()
            return components.get("loader")

        with ThreadPoolExecutor(8) as threads:
            loaders = list(threads.map(ask, range(8), timeout=20))
        assert all(loader is loaders[0] for loader in loaders)

    assert (["loader"], ["loader"]) == (built, closed)


def test_a_monitor_measures_and_returns() -> None:
    """`measure` returns what was measured; errors are counted and raised."""
    monitor = PerformanceMonitor()

    with FakeClock() as clock:

        def database_query() -> str:
            clock.sleep(0.5)
            return "rows"

        def failing_query() -> None:
            clock.sleep(1.5)
            raise ConnectionError("down")

        assert "rows" == monitor.measure("database_query", database_query)
        with pytest.raises(ConnectionError, match="down"):
            monitor.measure("database_query", failing_query)

    metrics = monitor.get_metrics()["database_query"]
    assert (2, 1, 0.5) == (metrics["count"], metrics["errors"], metrics["error_rate"])
    assert (2.0, 0.5, 1.5, 1.0) == tuple(
        pytest.approx(metrics[name]) for name in ("total_time", "min_time", "max_time", "avg_time")
    )


# The mistakes


def test_every_mistake_has_a_test() -> None:
    """The tests in `tests/guide` answer every number of the list that is ours to answer."""
    answered = set()
    for path in Path(__file__).with_name("guide").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found = re.match(r"Row (\d+): ", ast.get_docstring(node) or "")
                assert found is not None, f"{path.name}: {node.name} does not say which mistake it is about"
                answered.add(int(found[1]))

    assert set() == ROWS - answered
