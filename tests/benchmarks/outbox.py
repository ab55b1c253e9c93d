"""Measures events through the outbox, from `publish` to the effect of a handler: `python -m tests.benchmarks.outbox`.

Every event is stored with the data it tells of, claimed, handled with its row in the inbox, and acknowledged; the handler
stores one row. The unit is what the same handler costs when it is simply called, in a unit of work of its own for each
event, and everything runs in one process, on one connection at a time. PAINTKIT_POSTGRES_URL names another server.
"""

import argparse
import asyncio
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, func, insert, make_url, select
from sqlalchemy.pool import NullPool

from paintkit import EventBus
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from tests import services
from tests.benchmarks.course import UnfairError

_TARGET = 2000  # events a second, on PostgreSQL, in groups

_ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}

_SOLD = Table("sold", MetaData(), Column("id", Integer, primary_key=True), Column("paint", Integer))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outbox", description=__doc__)
    parser.add_argument("--events", type=int, default=4000, help="events of each line (>= 100)")
    parser.add_argument("--units", type=int, default=20, help="events that are published in one unit of work")
    options = parser.parse_args()
    for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
        with database() as url:
            print(f"\n{name}, {options.events} events, {options.units} published in one unit of work")
            for line in lines(url, options.events, options.units):
                print(line, flush=True)


def lines(url: str, events: int, units: int) -> Iterator[str]:
    """Measure on one database; raise `UnfairError` if a handler did not do what is measured."""
    db = DatabaseConnectionManager(url)
    _SOLD.metadata.create_all(db.engine)
    Outbox(db).create_tables()
    with _effects(db, events):
        bare = _seconds(lambda: _call_each(db, events))
    yield _line("the handler alone, a unit of work for each", events, bare, bare)
    for group in (1, 10, 50):
        outbox = Outbox(db, batch_size=200, group=group)
        bus = EventBus(transport=outbox)
        bus.subscribe("paint.sold", lambda paint: _store(db, paint), name="store")
        published = _seconds(partial(_publish, db, bus, events, units))
        if group == 1:
            yield _line("publish", events, published, bare)
        with _effects(db, events):
            delivered = _seconds(outbox.run_once)
        yield _line(f"relay, handler and inbox, group={group}", events, delivered, bare)
        yield _line(f"publish, relay, handler and inbox, group={group}", events, published + delivered, bare)
        _publish(db, bus, events, units)
        with _effects(db, events):
            delivered = asyncio.run(_deliver(url, group))
        yield _line(f"the same relay in asyncio, group={group}", events, delivered, bare)
    db.close()


async def _deliver(url: str, group: int) -> float:
    """Return for how many seconds an asynchronous relay delivers what waits."""
    given = make_url(url)
    db = DatabaseConnectionManager(given.set(drivername=_ASYNC[given.get_backend_name()]))
    outbox = Outbox(db, batch_size=200, group=group)
    bus = EventBus(transport=outbox)

    async def store(paint: int) -> None:
        async with db.unit_of_work() as session:
            await session.execute(insert(_SOLD).values(paint=paint))

    bus.subscribe("paint.sold", store, name="store")
    began = time.perf_counter()
    await outbox.arun_once()
    took = time.perf_counter() - began
    await db.aclose()
    return took


@contextmanager
def _effects(db: DatabaseConnectionManager, wanted: int) -> Iterator[None]:
    """Refuse to measure what has not that many effects."""
    count = select(func.count()).select_from(_SOLD)
    with db.engine.connect() as connection:
        before = connection.execute(count).scalar_one()
    yield
    with db.engine.connect() as connection:
        stored = connection.execute(count).scalar_one() - before
    if stored != wanted:
        raise UnfairError(f"{stored} effects of {wanted} events")


def _line(name: str, events: int, seconds: float, bare: float) -> str:
    rate = events / seconds
    return f"  {name:<52} {rate:>8.0f} events/s {seconds / bare:>7.2f}  {'' if rate < _TARGET else f'>= {_TARGET}/s'}".rstrip()


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _store(db: DatabaseConnectionManager, paint: int) -> None:
    with db.unit_of_work() as session:
        session.execute(insert(_SOLD).values(paint=paint))


def _call_each(db: DatabaseConnectionManager, events: int) -> None:
    for number in range(events):
        _store(db, number)


def _publish(db: DatabaseConnectionManager, bus: EventBus, events: int, units: int) -> None:
    for first in range(0, events, units):
        with db.unit_of_work():
            for number in range(first, min(first + units, events)):
                bus.publish("paint.sold", number)


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'paints.db'}"


@contextmanager
def _postgres() -> Iterator[str]:
    url = services.place("postgres")
    server: Engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    name = f"paintkit_bench_{uuid.uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    main()
