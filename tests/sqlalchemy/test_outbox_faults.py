"""The outbox among processes that die: what was committed is handled, once, in order, whoever is killed in the middle.

`PAINTKIT_OUTBOX_KILLS=200` makes the history of killed relays as long as you like; the default takes a few seconds.
"""

import asyncio
import os
import random
import signal
import time

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, make_url, select, text

from paintkit import CacheManager, EventBus, backoff
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from paintkit.sqlalchemy.outbox_store import Store
from tests.colours import Colour
from tests.sqlalchemy.deliveries import History, faults
from tests.sqlalchemy.office import EFFECT
from tests.sqlalchemy.servers import until

KILLS = int(os.environ.get("PAINTKIT_OUTBOX_KILLS", "6"))

PAINT = Table("stock", MetaData(), Column("id", Integer, primary_key=True), Column("left", Integer))


@pytest.mark.parametrize(
    ("effects", "found"),
    [
        ([("a", 1), ("b", 1), ("a", 2)], set()),
        ([("a", 1), ("a", 2)], {"lost"}),
        ([("a", 1), ("b", 1), ("a", 2), ("a", 1)], {"doubled"}),
        ([("a", 1), ("b", 1), ("a", 2), ("c", 1)], {"made up"}),
        ([("a", 2), ("b", 1), ("a", 1)], {"overtaken"}),
    ],
)
def test_the_checker_finds_every_fault(effects, found):
    """On histories that are made for it."""
    assert found == faults(History([("a", 1), ("a", 2), ("b", 1)], effects))


#: What a relay of the other colour reaches the same database by.
ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    """A database of this test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'paints.db'}"
    return request.getfixturevalue("postgres_database")


class Works:
    """What each process makes for itself: manager, outbox and bus, in one colour."""

    def __init__(self, address, colour=Colour.BLOCKING, **options):
        if colour is Colour.ASYNCIO:
            url = make_url(address)
            address = url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()])
        self.db = DatabaseConnectionManager(address)
        defaults = {
            "lease": 0.4,
            "handler_timeout": None,
            "poll_interval": 0.02,
            "backoff": backoff.constant(0.01),
            "batch_size": 30,
            "max_attempts": 1000,
        }
        self.outbox = Outbox(self.db, **defaults | options)
        self.bus = EventBus("studio", transport=self.outbox)
        handler = self.store if colour is Colour.BLOCKING else self.astore
        self.bus.subscribe("paint.moved", handler, name="store")

    def store(self, data):
        """The handler: its effect is a row, and now and then it fails after storing it."""
        with self.db.unit_of_work() as session:
            session.execute(effect_of(data))
        if random.random() < 0.02:
            raise OSError("the weather")

    async def astore(self, data):
        """The same in the other colour."""
        async with self.db.unit_of_work() as session:
            await session.execute(effect_of(data))
        if random.random() < 0.02:
            raise OSError("the weather")

    def create(self):
        """Make the tables."""
        self.outbox.create_tables()
        EFFECT.metadata.create_all(self.db.engine)

    def deliver_the_rest(self, seconds):
        """Deliver until nothing is left."""
        started = time.monotonic()
        while self.left():
            self.outbox.run_once()
            assert time.monotonic() - started < seconds, self.outbox.status()
            time.sleep(0.02)

    def left(self):
        """Return how many events are there, at one moment: what is in flight now is waiting when its lease is over."""
        status = self.outbox.status()
        return status["waiting"] + status["in_flight"]

    def deliver(self):
        """Be a relay until somebody ends it."""
        relay = self.outbox.relay()
        if self.db.is_async:
            asyncio.run(relay.arun())
        else:
            relay.run()

    def history(self, committed):
        with self.db.unit_of_work(read_only=True) as session:
            rows = session.execute(select(EFFECT.c.handler, EFFECT.c.what).order_by(EFFECT.c.id)).all()
        return History(committed, [(key, int(number)) for key, number in rows])


def effect_of(data):
    key, number = data
    return EFFECT.insert().values(handler=key, what=str(number))


def in_child(act):
    """Do something in a forked process, and return its id."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    return child


def publish_some(works, numbers, committed):
    """Publish in units of work of which some are rolled back."""
    batch = []
    try:
        with works.db.unit_of_work():
            for _ in range(random.randint(1, 6)):
                key = random.choice("abc")
                event = (key, next(numbers[key]))
                works.bus.publish("paint.moved", event, ordering_key=key if key != "c" else None)
                batch.append(event)
            if random.random() < 0.2:
                raise OSError("changed its mind")
    except OSError:
        return
    committed += batch


def killed_relays(address, kills, colour=Colour.BLOCKING):
    """Return the history of events whose relays are killed again and again."""
    works = Works(address)
    works.create()
    numbers, committed = {key: iter(range(10**6)) for key in "abc"}, []
    for _ in range(kills):
        child = in_child(lambda: Works(address, colour).deliver())
        until_killed = time.monotonic() + random.uniform(0.05, 0.3)
        while time.monotonic() < until_killed:
            publish_some(works, numbers, committed)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    works.deliver_the_rest(60 + 5 * kills)
    history = works.history(committed)
    assert 0 == works.outbox.status()["dead"]
    works.db.close()
    return history


class Unlucky(Works):
    """What goes wrong, at the worst moment: the first event fails once, or its process dies right after its commit."""

    def __init__(self, address, fate, **options):
        super().__init__(address, **options)
        self.fate = fate

    def store(self, data):
        with self.db.unit_of_work() as session:
            session.execute(effect_of(data))
            if self.fate == "dies":
                self.db.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        if self.fate == "fails":
            self.fate = None
            raise OSError("the weather")


def worst_moments(address):
    """Return the history of a few events, which runs alike on every machine.

    The first fails, to be tried again when the clock is far ahead; those behind it may not overtake it meanwhile. Then a
    relay dies between the commit of its effect and the acknowledgement, and others go on.
    """
    works = Unlucky(address, "fails", backoff=backoff.constant(3600.0))
    works.create()
    committed = [("a", number) for number in range(6)]
    with works.db.unit_of_work():
        for event in committed:
            works.bus.publish("paint.moved", event, ordering_key="a")
    works.outbox.run_once()
    with works.db.unit_of_work() as session:
        session.execute(works.outbox.store.tables.outbox.update().values(due=0.0))

    def die():
        Unlucky(address, "dies").outbox.run_once()

    os.waitpid(in_child(die), 0)
    works.deliver_the_rest(60)
    history = works.history(committed)
    works.db.close()
    return history


def in_key_order(history):
    """Leave out the key "c", whose events may overtake each other."""
    return History(*([one for one in part if one[0] != "c"] for part in history))


@pytest.mark.parametrize("colour", list(Colour))
def test_a_relay_that_nobody_kills_delivers(address, colour):
    """So those that are killed are at work, and the history is not that of whoever clears up after them."""
    works = Works(address)
    works.create()
    child = in_child(lambda: Works(address, colour).deliver())
    try:
        works.bus.publish("paint.moved", ("a", 1))
        until(lambda: works.history([]).effects == [("a", 1)])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    works.db.close()


@pytest.mark.timeout(600 if KILLS > 20 else 120)
@pytest.mark.parametrize("colour", list(Colour))
def test_killed_relays_lose_double_and_mix_up_nothing(address, colour):
    """Row 18: every committed event has its effect, once, and none of those that were rolled back."""
    history = killed_relays(address, KILLS, colour)
    assert history.effects
    assert set() == faults(in_key_order(history))
    assert faults(history) <= {"overtaken"}


def test_the_worst_moments_change_nothing(address):
    """The same where nothing is left to chance."""
    assert set() == faults(worst_moments(address))


@pytest.mark.parametrize("fault", ["no inbox", "acknowledged first", "no order"])
def test_the_test_above_notices_what_is_planted(address, monkeypatch, fault):
    """Without the inbox effects are doubled; with an early acknowledgement they are lost; without turns they overtake."""
    if fault == "no inbox":
        monkeypatch.setattr(Store, "first", lambda self, session, handler, ids: set(ids))
        wanted = "doubled"
    elif fault == "acknowledged first":
        claim = Store.claim

        def and_forget(self, session, **options):
            claimed = claim(self, session, **options)
            session.execute(self.tables.outbox.delete().where(self.tables.outbox.c.lease == claimed.lease))
            return claimed

        monkeypatch.setattr(Store, "claim", and_forget)
        wanted = "lost"
    else:
        monkeypatch.setattr(Store, "_is_next", lambda self, now: text("1 = 1"))
        monkeypatch.setattr(Store, "_in_order", lambda self, session, rows: rows)
        wanted = "overtaken"
    assert wanted in faults(worst_moments(address))


def test_a_publisher_that_dies_between_commit_and_invalidation_leaves_no_stale_value(address):
    """Row 14: the relay repeats the invalidation, which the dead process owed."""
    works = Works(address)
    works.outbox.create_tables()
    PAINT.metadata.create_all(works.db.engine)
    cache = CacheManager("paints")

    @cache.cache_result(timeout=None)
    def stock(paint_id):
        with works.db.unit_of_work(read_only=True) as session:
            return session.execute(select(PAINT.c.left).where(PAINT.c.id == paint_id)).scalar_one()

    @works.bus.subscribe("paint.sold", idempotent=True)
    def drop(data):
        stock.invalidate(data["id"])

    with works.db.unit_of_work() as session:
        session.execute(PAINT.insert().values(id=7, left=3))
    assert 3 == stock(7)

    def sell():
        there = Works(address)
        with there.db.unit_of_work() as session:
            there.db.on_commit(lambda: os._exit(9))  # it dies before what comes after the commit
            session.execute(PAINT.update().values(left=2))
            there.bus.publish("paint.sold", {"id": 7})
            stock.invalidate(7)

    assert 9 == os.waitstatus_to_exitcode(os.waitpid(in_child(sell), 0)[1])
    assert 3 == stock(7)  # stale, until the relay has come round
    with works.outbox.relay():
        until(lambda: stock(7) == 2)
    works.db.close()
