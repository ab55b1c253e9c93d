"""The relay: who wakes it, what a handler that hangs may not do, and what order commits may come in."""

import asyncio
import os
import threading

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from paintkit import EventBus, backoff
from paintkit import clock as time
from paintkit.envelope import Envelope
from paintkit.errors import CallTimeoutError
from paintkit.sqlalchemy.outbox_batch import Batch
from paintkit.sqlalchemy.outbox_store import Claimed, Store
from paintkit.testing import FakeClock
from tests.sqlalchemy.office import Office
from tests.sqlalchemy.servers import PATIENCE, until

KINDS = ("sqlite-file", "postgres", "mariadb")


# The order of commits.


def commits_out_of_order(house):
    """Return what is heard after each of two commits, of which the later written event comes first."""
    office, heard = Office(house), []
    office.bus.subscribe("*", heard.append, name="hears")
    rounds = []

    async def body():
        await office.open()
        with house.db.unit_of_work() as session:
            office.outbox.store.write(session, [Envelope.of("paint.created", "written first")])
            with house.db.unit_of_work(propagation="requires_new"):
                office.bus.publish("paint.created", "committed first")
            office.outbox.run_once()
            rounds.append(heard.copy())
        office.outbox.run_once()
        rounds.append(heard.copy())

    house.run(body)
    return rounds


@pytest.mark.parametrize("url", ["postgres", "mariadb"], indirect=True)
def test_an_event_that_is_committed_late_is_not_skipped(house):
    """Row 20: its number is lower than that of one that was delivered long ago."""
    assert [["committed first"], ["committed first", "written first"]] == commits_out_of_order(house)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_cursor_would_skip_it(house, monkeypatch):
    """The planted fault: looking only behind the last number that was delivered."""
    find, last = Store._find, [0]

    def behind_the_last(self, *args, **kwargs):
        rows = [row for row in find(self, *args, **kwargs) if row.seq > last[0]]
        last[0] = max([last[0], *(row.seq for row in rows)])
        return rows

    monkeypatch.setattr(Store, "_find", behind_the_last)
    assert ["committed first", "written first"] != commits_out_of_order(house)[-1]


@pytest.mark.parametrize("url", ["postgres", "mariadb"], indirect=True)
def test_a_claim_passes_over_what_another_relay_is_claiming(house):
    """Nobody waits, nothing is claimed twice, and a key is handed out by one relay at a time."""
    office = Office(house)
    office.bus.subscribe("*", print, name="hears")

    async def body():
        await office.open()
        store, isolation = office.outbox.store, office.outbox.isolation
        with house.db.unit_of_work() as session:
            store.prepare(session)
        for key in (None, "a", "a", None):
            office.bus.publish("paint.moved", 0, ordering_key=key)

        def claim(session):
            return [one.seq for one in store.claim(session, most=2, lease=60.0, lost_first=False).events]

        with house.db.unit_of_work(isolation=isolation) as session:
            first = claim(session)
            with house.db.unit_of_work(isolation=isolation, propagation="requires_new") as other:
                second = claim(other)
        with house.db.unit_of_work(isolation=isolation) as session:
            third = claim(session)
        return first, second, third

    first, second, third = house.run(body)
    assert (2, 1, 0) == (len(first), len(second), len(third))
    assert [first[0] + 3] == second


@pytest.mark.parametrize("url", ["postgres", "mariadb"], indirect=True)
def test_nothing_overtakes_an_event_of_its_key_that_somebody_has_locked(house):
    """A claim passes over the locked one, and leaves those behind it in its key; other keys go on."""
    office = Office(house)
    table = office.outbox.store.tables.outbox

    async def body():
        await office.open()
        store, isolation = office.outbox.store, office.outbox.isolation
        with house.db.unit_of_work() as session:
            store.prepare(session)
        for key in ("a", "a", "b"):
            office.bus.publish("paint.moved", key, ordering_key=key)
        with house.db.unit_of_work(isolation=isolation) as session:
            first = session.scalars(
                select(table.c.seq).order_by(table.c.seq).limit(1).with_for_update()
            ).one()
            with house.db.unit_of_work(isolation=isolation, propagation="requires_new") as other:
                claim = store.claim(other, most=10, lease=60.0, lost_first=False)
        return [one.seq - first for one in claim.events]

    assert [2] == house.run(body)


# Handlers that hang.

# Real seconds that a handler may take; none that returns needs them.
LIMIT = 25.0


class Hang:
    """A place where a handler stays, on the clock, until it is let go."""

    def __init__(self):
        self.condition = threading.Condition()
        self.is_open = False

    def __call__(self):
        with self.condition:
            while not self.is_open:
                time.wait(self.condition, None)

    def let_go(self):
        with self.condition:
            self.is_open = True
            self.condition.notify_all()
        for thread in threading.enumerate():
            if thread.name.startswith("paintkit-outbox") and thread is not threading.current_thread():
                thread.join(PATIENCE)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("idempotent", [False, True])
def test_a_handler_that_hangs_keeps_nobody_from_anything(house, group, idempotent):
    """Row 23: it is a failure of its own after its time; its transaction is taken from it, and its effect is there once."""
    hang, failures = Hang(), []

    async def body(office):
        await office.open()
        calls = []

        async def hangs(data):
            if not idempotent:
                await office.store("hangs", data)
            calls.append(data)
            if data == 1 and 1 == calls.count(1):
                hang()

        office.bus._on_error = failures.append
        office.bus.subscribe("*", house.function(hangs), name="hangs", idempotent=idempotent)
        office.storing("sound")
        for number in range(3):
            await office.publish("paint.created", number)
        try:
            assert 3 == await office.do("run_once")
            assert 5.0 == clock.now()
            assert [CallTimeoutError] == [type(one.error) for one in failures]
            assert {("sound", str(one)) for one in range(3)} <= set(await office.effects())
            assert 1 == (await office.do("status"))["retrying"]
        finally:
            hang.let_go()
        clock.advance(10.0)
        assert 1 == await office.do("run_once")
        effects = await office.effects()
        assert len(effects) == len(set(effects)) == (3 if idempotent else 6)
        assert 0 == (await office.do("status"))["waiting"]

    with FakeClock() as clock:
        house.run(lambda: body(Office(house, handler_timeout=5.0, group=group)))


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_an_async_handler_that_hangs_is_cancelled(house, monkeypatch):
    """And rolled back; the others run."""

    async def body(office):
        await office.open()

        async def hangs(data):
            await office.store("hangs", data)
            loop = asyncio.get_running_loop()
            real = loop.time
            monkeypatch.setattr(
                loop, "time", lambda: real() + LIMIT
            )  # so its time is over, and no one else's
            await asyncio.Event().wait()

        async def gives_up(data):
            raise TimeoutError("of its own")

        office.bus.subscribe("*", hangs, name="hangs")
        office.bus.subscribe("*", gives_up, name="gives up")
        office.storing("sound")
        await office.publish("paint.created", 1)
        await office.do("run_once")
        assert [("sound", "1")] == await office.effects()
        [dead] = await office.do("dead_letters")
        assert "hangs: paintkit.errors.CallTimeoutError" in dead.error
        assert "gives up: builtins.TimeoutError: of its own" in dead.error

    house.run(lambda: body(Office(house, handler_timeout=LIMIT, max_attempts=1)))


def test_an_interrupt_in_a_handler_ends_the_delivery(house):
    """It is no failure of the handler, and no other thread goes on in its place."""

    async def body(office):
        await office.open()

        def interrupted(data):
            raise KeyboardInterrupt

        office.bus.subscribe("*", interrupted, name="interrupted")
        await office.publish("paint.created", 1)
        with pytest.raises(KeyboardInterrupt):
            await office.do("run_once")
        assert 1 == (await office.do("status"))["in_flight"]

    house.run(lambda: body(Office(house, handler_timeout=5.0)))


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_an_interrupt_in_a_handler_does_not_end_the_relay_of_a_thread(house, caplog):
    """Nobody would hear of it: the event is left to its lease, and the others are delivered."""

    async def body(office):
        await office.open()
        heard = []

        def exits(data):
            if data == 1:
                raise SystemExit
            heard.append(data)

        with running(office, exits):
            for number in (1, 2):
                office.bus.publish("paint.created", number)
            until(lambda: heard == [2])
        assert "was interrupted" in caplog.text
        assert 1 == office.outbox.status()["in_flight"]

    house.run(lambda: body(Office(house, poll_interval=0.05, batch_size=1, handler_timeout=5.0)))


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_a_cancellation_inside_of_an_async_handler_is_its_failure(house):
    """Something that it awaited was cancelled, and not the relay."""

    async def body(office):
        await office.open()

        async def awaits(data):
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        office.bus.subscribe("*", awaits, name="awaits")
        office.storing("sound")
        await office.publish("paint.created", 1)
        await office.do("run_once")
        assert [("sound", "1")] == await office.effects()
        [dead] = await office.do("dead_letters")
        assert "awaits was interrupted by CancelledError" in dead.error

    house.run(lambda: body(Office(house, max_attempts=1, handler_timeout=5.0)))


# Threads, wake-ups, forks.

# Seconds after which a relay looks by itself, when that is too late for the test.
NEVER = 3600.0


def running(office, heard):
    """Subscribe and return a relay; `heard` is set for every event."""
    office.bus.subscribe("*", heard, name="hears")
    return office.outbox.relay()


def test_a_commit_wakes_the_relays_of_its_process(house):
    """Long before they would have looked."""

    async def body(office):
        await office.open()
        heard = []
        with running(office, heard.append):
            with house.db.unit_of_work():
                office.bus.publish("paint.created", 1)
            until(lambda: heard == [1])
            office.outbox.close()
            office.bus.publish("paint.created", 2)
        assert [1] == heard
        assert 1 == office.outbox.status()["waiting"]

    house.run(lambda: body(Office(house, poll_interval=NEVER)))


def listeners(session):
    return (
        session.execute(
            text(
                "select pid from pg_stat_activity where datname = current_database() and query like 'LISTEN%'"
                " and pid <> pg_backend_pid()"
            )
        )
        .scalars()
        .all()
    )


def look(house):
    with house.db.unit_of_work(read_only=True) as session:
        return listeners(session)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_commit_of_another_process_wakes_it_too(house):
    """PostgreSQL tells it, long before it would have looked."""

    async def body(office):
        await office.open()
        heard = []
        stranger = EventBus("stranger", transport=office.another())
        until(lambda: not look(house))  # those of the tests before have ended
        with running(office, heard.append):
            until(lambda: look(house))
            stranger.publish("paint.created", 1)
            until(lambda: heard == [1])

    house.run(lambda: body(Office(house, poll_interval=NEVER)))


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_without_its_notifications_it_polls_until_they_come_back(house, caplog):
    """Row 22: their connection is terminated, and events are delivered all the same."""

    async def body(office):
        await office.open()
        heard = []
        stranger = EventBus("stranger", transport=office.another())
        until(lambda: not look(house))  # as above
        with running(office, heard.append):
            until(lambda: look(house))
            before = look(house)
            with house.db.unit_of_work() as session:
                session.execute(text("select pg_terminate_backend(:pid)"), {"pid": before[0]})
            stranger.publish("paint.created", 1)
            until(lambda: heard == [1])
            until(lambda: look(house) not in ([], before))
        assert "polling goes on" in caplog.text

    house.run(lambda: body(Office(house, poll_interval=0.2)))


@pytest.mark.parametrize("url", ["aiosqlite", "postgres-async"], indirect=True)
def test_an_async_relay_runs_as_a_task(house):
    """Woken by commits here, and on PostgreSQL by those elsewhere."""

    async def body(office):
        await office.open()
        heard = asyncio.Queue()

        async def hear(data):
            await heard.put(data)

        publishers = [office.bus]
        if house.is_postgres:
            publishers.append(EventBus("stranger", transport=office.another()))
        async with running(office, hear) as relay:
            for bus in publishers:
                async with house.unit():
                    await bus.apublish("paint.created", bus.name)
                async with asyncio.timeout(PATIENCE):
                    assert bus.name == await heard.get()
            await office.outbox.aclose()
            assert relay._task is None

    house.run(lambda: body(Office(house, poll_interval=NEVER)))


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_a_relay_outlives_trouble_with_its_database(house, caplog, monkeypatch):
    """It tells, waits and tries again; nothing is lost."""

    def away(*_args, **_options):
        raise OperationalError("SELECT", None, ConnectionError("away"))

    async def body(office):
        await office.open()
        heard = []
        with running(office, heard.append):
            office.bus.publish("paint.created", 1)
            until(lambda: heard == [1])
            with monkeypatch.context() as trouble:
                trouble.setattr(Store, "has_work", away)
                until(lambda: 2 <= caplog.text.count("could not go on"))
                office.bus.publish("paint.created", 2)
            until(lambda: heard == [1, 2])

    house.run(lambda: body(Office(house, poll_interval=0.05)))


@pytest.mark.parametrize(
    "url", ["postgres"], indirect=True
)  # SQLite must not be forked while a thread is in it
def test_a_forked_child_publishes_and_the_parents_relay_delivers(house):
    """The child has no relay of its own until it starts one; both are well."""

    async def body(office):
        await office.open()
        heard = []
        with running(office, heard.append) as relay:
            office.bus.publish("paint.created", "parent")
            until(lambda: heard == ["parent"])
            assert 0 == in_child(
                lambda: office.bus.publish("paint.created", list(office.outbox._relays) or "child")
            )
            until(lambda: heard == ["parent", "child"])
            assert relay._thread.is_alive()

    house.run(lambda: body(Office(house, poll_interval=0.05)))


def in_child(act):
    """Do something in a forked process; return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


# What has come of a batch.


def claimed(seq, key=None, attempts=0, handled=()):
    return Claimed(
        seq, Envelope.of("paint.moved", seq, ordering_key=key)._replace(attempts=attempts), frozenset(handled)
    )


class Listener:
    idempotent = False

    def __init__(self, name):
        self.name = name

    def wants(self, event_type):
        return True


def outcome_of(events, verdicts, names=("one", "two"), max_attempts=3):
    """Play a batch in which each (name, seq) of `verdicts` fails; what was called, and what followed for each event."""
    batch = Batch(events, [Listener(name) for name in names], max_attempts, backoff.linear(1.0))
    calls, over = [], []
    while batch:
        chunk = batch.head(10)
        for receiver, together in batch.calls(chunk):
            calls.append((receiver.name, [one.seq for one in together]))
            failed = any((receiver.name, one.seq) in verdicts for one in together)
            batch.note(receiver, together, ValueError("broken") if failed else None)
        over += batch.take(chunk)
    return calls, over


def test_a_group_that_fails_is_taken_apart():
    """The others of the group are tried alone, the failure counts for one."""
    calls, over = outcome_of([claimed(1), claimed(2)], {("one", 2)}, names=["one"])
    assert [("one", [1, 2]), ("one", [1]), ("one", [2])] == calls
    assert [None, "one: builtins.ValueError: broken"] == [one.error for one in over]


def test_what_failed_before_is_alone():
    """In a unit of work of its own, and for those only who have not handled it."""
    calls, over = outcome_of(
        [claimed(1), claimed(2, attempts=1, handled=["one"]), claimed(3), claimed(4)], set()
    )
    assert [("one", [1]), ("two", [1]), ("two", [2]), ("one", [3, 4]), ("two", [3, 4])] == calls
    assert [None] * 4 == [one.error for one in over]


def test_the_delay_grows_with_the_attempts_and_ends():
    """By the schedule; the last attempt has no delay."""
    for attempts, delay in ((0, 1.0), (1, 2.0), (2, None)):
        _, [one] = outcome_of([claimed(1, attempts=attempts)], {("one", 1)})
        assert (attempts + 1, delay) == (one.attempts, one.delay)


def test_a_key_waits_for_its_failure_and_not_for_its_dead():
    """What comes behind is untried, unless the failure is given up."""
    calls, over = outcome_of([claimed(1, "a", 1), claimed(2, "a", 1)], {("two", 1)})
    assert [("one", [1]), ("two", [1])] == calls
    assert [False, True] == [one.untried for one in over]
    calls, over = outcome_of([claimed(1, "a", 2), claimed(2, "a", 1)], {("two", 1)})
    assert [("one", [1]), ("two", [1]), ("one", [2]), ("two", [2])] == calls
    assert [False, False] == [one.untried for one in over]


def test_what_was_lost_too_often_is_given_up_untried():
    """It may be what ends the processes."""
    calls, [one] = outcome_of([claimed(1, attempts=3)], set())
    assert ([], 3, None) == (calls, one.attempts, one.delay)
    assert "lease" in one.error
