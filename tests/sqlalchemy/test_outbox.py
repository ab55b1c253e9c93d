"""The outbox: an event exists if and only if its work is stored, and is handled for certain, with effect once."""

from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from paintkit import EventBus, ambient, backoff, observe
from paintkit._runtime import drive
from paintkit.envelope import current_event
from paintkit.errors import CommitOutcomeUnknownError, NoUnitOfWorkError, UnexpectedRollbackError
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from paintkit.sqlalchemy.outbox_store import Store
from paintkit.testing import FakeClock
from tests.sqlalchemy.office import Office
from tests.sqlalchemy.servers import until

KINDS = ("sqlite-file", "postgres", "postgres-async")

on_every_database = pytest.mark.parametrize("url", [*KINDS, "mariadb"], indirect=True)


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def scenario(house, clock):
    """Run a scenario with an office of the given options."""

    def run(body, **options):
        office = Office(house, **options)

        async def furnished():
            await office.open()
            return await body(office)

        return house.run(furnished)

    return run


def heard_by(office, name="hears", event_type="*", **options):
    heard = []
    office.bus.subscribe(event_type, heard.append, name=name, **options)
    return heard


# It exists if and only if the work is stored.


def test_an_event_is_delivered_after_its_commit(scenario):
    """Not before it, nor without a relay; then once."""

    async def body(office):
        heard = heard_by(office)
        async with office.house.unit():
            await office.house.add("red")
            await office.publish("paint.created", {"name": "red"})
            assert [] == heard
        assert [] == heard
        assert 1 == await office.do("run_once")
        assert 0 == await office.do("run_once")
        assert [{"name": "red"}] == heard
        assert 0 == (await office.do("status"))["waiting"]

    scenario(body)


@on_every_database
def test_a_rollback_leaves_no_event(scenario):
    """Of the whole unit of work, of a savepoint, of one that was swallowed."""

    async def body(office):
        heard, house = heard_by(office), office.house
        with pytest.raises(OSError, match="broken"):
            async with house.unit():
                await office.publish("lost", 1)
                raise OSError("broken")
        async with house.unit():
            await office.publish("kept", 2)
            with pytest.raises(OSError, match="broken"):
                async with house.unit(propagation="nested"):
                    await office.publish("lost", 3)
                    raise OSError("broken")
            async with house.unit(propagation="nested"):
                await office.publish("kept", 4)
                async with house.unit(propagation="nested"):
                    await office.publish("kept", 5)
        with pytest.raises(UnexpectedRollbackError):
            async with house.unit():
                with pytest.raises(OSError, match="broken"):
                    async with house.unit():
                        await office.publish("lost", 6)
                        raise OSError("broken")
        await office.do("run_once")
        assert [2, 4, 5] == heard

    scenario(body)


def test_an_event_outside_of_a_unit_of_work_has_its_own(scenario):
    """It is stored when `publish` returns."""

    async def body(office):
        heard = heard_by(office)
        await office.publish("started")
        assert 1 == (await office.do("status"))["waiting"]
        await office.do("run_once")
        assert [None] == heard

    scenario(body)


def test_an_event_of_a_unit_of_work_that_forgets_its_objects_is_kept(scenario):
    """`expunge_all` concerns the objects of a session, not what was published."""

    async def body(office):
        heard = heard_by(office)
        async with office.house.unit():
            await office.publish("paint.created", 1)
            office.house.session.expunge_all()
        await office.do("run_once")
        assert [1] == heard

    scenario(body)


def test_a_blocking_publish_in_an_async_unit_of_work_needs_no_await(scenario):
    """Nothing is sent before the end."""

    async def body(office):
        heard = heard_by(office)
        async with office.house.unit():
            office.bus.publish("paint.created", 1)
        await office.do("run_once")
        assert [1] == heard

    scenario(body)


def test_a_unit_of_work_that_only_reads_has_no_events(scenario):
    """The publisher is told, for the event could not be stored."""

    async def body(office):
        heard_by(office)
        with pytest.raises(NoUnitOfWorkError, match="read-only"):
            async with office.house.unit(read_only=True):
                await office.publish("paint.created", 1)
        assert 0 == await office.do("run_once")

    scenario(body)


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_in_the_unit_of_work_of_another_database_an_event_waits_for_that(house, tmp_path):
    """It is stored after the commit of what it tells of, and not at all after a rollback."""
    office, heard = Office(house), []
    office.bus.subscribe("*", heard.append, name="hears")
    drive(office.open())
    other = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(OSError, match="broken"), other.unit_of_work():
        office.bus.publish("lost", 1)
        raise OSError("broken")
    with other.unit_of_work():
        office.bus.publish("kept", 2)
        assert 0 == office.outbox.status()["waiting"]
    office.outbox.run_once()
    assert [2] == heard
    other.close()


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
@pytest.mark.parametrize("stored", [True, False])
def test_an_event_shares_the_fate_of_a_commit_whose_answer_is_lost(house, monkeypatch, stored):
    """Row 5: nobody knows what became of it, and yet the event is there if and only if the work is."""
    office, heard = Office(house), []
    office.bus.subscribe("*", heard.append, name="hears")
    dialect = house.db.engine.dialect
    commit = dialect.do_commit

    def cut_off(connection):
        if stored:
            commit(connection)
        raise OperationalError("COMMIT", None, ConnectionError("cut off"), connection_invalidated=True)

    async def body():
        await office.open()
        with monkeypatch.context() as patched:
            patched.setattr(dialect, "do_commit", cut_off)
            with pytest.raises(CommitOutcomeUnknownError):
                async with house.unit():
                    await house.add("red")
                    await office.publish("paint.created", 1)
        await office.do("run_once")
        expected = ([1], ["red"]) if stored else ([], [])
        assert expected == (heard, await house.stored())

    house.run(body)


STEPS = st.recursive(
    st.sampled_from(["publish", "flush", "fail"]),
    lambda steps: st.tuples(st.sampled_from(["nested", "required"]), st.lists(steps, max_size=4)),
    max_leaves=12,
)


def model(steps, numbers):
    """What a list of steps leaves behind: the numbers that are published, and whether it fails."""
    kept = []
    for step in steps:
        if step == "publish":
            kept.append(next(numbers))
        elif step == "fail":
            return [], True
        elif isinstance(step, tuple):
            inner, failed = model(step[1], numbers)
            if failed and step[0] == "required":
                return [], True
            kept += inner
    return kept, False


def play(db, bus, steps, numbers):
    for step in steps:
        if step == "publish":
            bus.publish("paint.created", next(numbers))
        elif step == "flush":
            db.session.flush()
        elif step == "fail":
            raise OSError
        else:
            try:
                with db.unit_of_work(propagation=step[0]):
                    play(db, bus, step[1], numbers)
            except OSError:
                if step[0] == "required":
                    raise


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_whatever_is_nested_in_whatever_events_share_the_fate_of_their_work(house, monkeypatch):
    """Beside a model; and the planted fault, events that outlive the rollback of their savepoint, is seen."""
    office = Office(house)
    heard = []
    office.bus.subscribe("*", heard.append, name="hears")
    drive(office.open())

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(st.lists(STEPS, max_size=5))
    @example(["publish", ("nested", ["publish", "fail"])])
    def agree(steps):
        heard.clear()
        expected, _ = model(steps, iter(range(1000)))
        try:
            with house.db.unit_of_work():
                play(house.db, office.bus, steps, iter(range(1000)))
        except OSError:
            pass
        office.outbox.run_once()
        assert expected == heard

    agree()
    from paintkit.sqlalchemy.hooks import Ledger

    monkeypatch.setattr(Ledger, "enclose", lambda self, write, row: self._pages[0].rows.append((write, row)))
    with pytest.raises(AssertionError):
        agree()


# It is handled for certain, with effect once.


def test_a_failing_handler_is_tried_again_alone_later_and_then_given_up(scenario, clock):
    """The others hear once; the delays are those of the schedule; the dead letter tells who failed and how."""

    async def body(office):
        tries, seen = [], []

        def broken(data):
            tries.append(clock.now())
            raise ValueError("out of red")

        heard = heard_by(office, "sound")
        office.bus.subscribe("*", broken, name="broken")
        last = heard_by(office, "last")
        with observe(seen.append):
            await office.publish("paint.created", 1)
            for _ in range(50):
                await office.do("run_once")
                clock.advance(1.0)
        assert [0.0, 10.0, 20.0] == tries
        assert ([1], [1]) == (heard, last)
        [dead] = await office.do("dead_letters")
        assert "broken: builtins.ValueError: out of red" == dead.error
        assert ("paint.created", 1, 3) == (dead.event.type, dead.event.data, dead.event.attempts)
        status = await office.do("status")
        assert (0, 1) == (status["waiting"], status["dead"])
        kinds = [one.kind for one in seen if one.kind.startswith("outbox")]
        assert ["outbox.retrying", "outbox.retrying", "outbox.dead"] == kinds

    scenario(body)


@on_every_database
def test_what_fails_leaves_no_effect_and_what_succeeds_leaves_one(scenario, clock):
    """The effect of a handler and the row that says so are stored together."""

    async def body(office):
        fails = [True, True, False]

        async def after_storing(data):
            await office.store("halfway", data)
            if fails.pop(0):
                raise ValueError("broken")

        office.bus.subscribe("*", office.house.function(after_storing), name="halfway")
        office.storing("sound")
        await office.publish("paint.created", 1)
        for _ in range(4):
            await office.do("run_once")
            clock.advance(10.0)
        assert [("sound", "1"), ("halfway", "1")] == await office.effects()

    scenario(body)


@on_every_database
def test_a_dead_letter_is_replayed_to_those_who_have_not_handled_it(scenario, clock):
    """With all its attempts; by id, by type, or all."""

    async def body(office):
        broken, ids = [True], []

        def fails(data):
            ids.append(current_event().id)
            if broken[0]:
                raise ValueError("broken")

        office.storing("sound")
        office.bus.subscribe("*", fails, name="fragile")
        for kind in ("paint.sold", "brush.sold"):
            await office.publish(kind, kind)
        for _ in range(3):
            await office.do("run_once")
            clock.advance(10.0)
        assert 2 == (await office.do("status"))["dead"]
        assert 0 == await office.do("replay", ["nobody"])
        assert 0 == await office.do("replay", event_type="nothing")
        assert 1 == await office.do("replay", event_type="paint.sold")
        assert 1 == await office.do("replay", [ids[-1]])
        broken[0] = False
        assert 2 == await office.do("run_once")
        assert [("sound", "paint.sold"), ("sound", "brush.sold")] == await office.effects()
        status = await office.do("status")
        assert (0, 0) == (status["waiting"], status["dead"])
        assert 2 == len(set(ids))

    scenario(body)


def test_a_poison_event_does_not_stop_the_others(scenario, clock):
    """Row 21: dead after so many attempts, while all others flow."""

    async def body(office):
        def poisoned(data):
            if data == "poison":
                raise ValueError(data)

        office.storing("paints", before=poisoned)
        for data in ["red", "poison", "blue"]:
            await office.publish("paint.created", data)
        await office.do("run_once")
        assert [("paints", "red"), ("paints", "blue")] == await office.effects()
        await office.publish("paint.created", "green")
        for _ in range(3):
            await office.do("run_once")
            clock.advance(10.0)
        assert [("paints", "red"), ("paints", "blue"), ("paints", "green")] == await office.effects()
        assert ["poison"] == [one.event.data for one in await office.do("dead_letters")]

    scenario(body)


@on_every_database
def test_events_of_one_key_are_handled_in_order_one_after_another(scenario, clock):
    """A failing one holds up those of its key, and nobody else."""

    async def body(office):
        heard, broken = [], [True]

        def hear(data):
            if data == "a2" and broken[0]:
                raise ValueError("broken")
            heard.append(data)

        office.bus.subscribe("*", hear, name="hears")
        for data in ["a1", "a2", "b1", "a3", "c1", "b2"]:
            await office.publish("paint.moved", data, ordering_key=data[0])
        await office.publish("paint.moved", "free")
        await office.do("run_once")
        assert ["a1", "b1", "c1", "b2", "free"] == heard
        await office.publish("paint.moved", "a4", ordering_key="a")
        await office.do("run_once")
        assert 5 == len(heard)
        broken[0] = False
        clock.advance(10.0)
        await office.do("run_once")
        assert ["a2", "a3", "a4"] == heard[5:]

    scenario(body)


def test_the_key_of_an_event_that_is_given_up_is_free(scenario, clock):
    """A dead letter holds up nobody any more."""

    async def body(office):
        heard = []

        def hear(data):
            if data == "a1":
                raise ValueError("broken")
            heard.append(data)

        office.bus.subscribe("*", hear, name="hears")
        for data in ["a1", "a2"]:
            await office.publish("paint.moved", data, ordering_key="a")
        await office.do("run_once")
        assert [] == heard
        clock.advance(5.0)
        await office.do("run_once")
        assert ["a2"] == heard

    scenario(body, max_attempts=2, backoff=backoff.constant(5.0))


def test_an_idempotent_handler_runs_outside_of_a_unit_of_work(scenario, clock):
    """What it does is not undone; it is acknowledged all the same, and not run again for another's failure."""

    async def body(office):
        seen = []

        def outside(data):
            seen.append(office.outbox.db.open_unit())

        def broken(data):
            raise ValueError("broken")

        office.bus.subscribe("*", outside, name="outside", idempotent=True)
        office.bus.subscribe("*", broken, name="broken")
        await office.publish("paint.created", 1)
        for _ in range(3):
            await office.do("run_once")
            clock.advance(10.0)
        assert [None] == seen

    scenario(body)


def test_a_handler_may_publish_in_its_unit_of_work(scenario):
    """What follows from an event is stored with its effect."""

    async def body(office):
        heard = []

        async def chain(data):
            await office.publish("paint.ordered", data + 1)

        office.bus.subscribe("paint.sold", office.house.function(chain), name="chain")
        office.bus.subscribe("paint.ordered", heard.append, name="hears")
        await office.publish("paint.sold", 1)
        assert 2 == await office.do("run_once")
        assert [2] == heard

    scenario(body)


def test_a_handler_that_rolls_back_by_hand_has_failed(scenario):
    """Its event would be gone without effect."""

    async def body(office):
        async def undo(data):
            await office.house.settle(office.house.session.rollback())

        office.bus.subscribe("*", office.house.function(undo), name="undo")
        await office.publish("paint.created", 1)
        await office.do("run_once")
        [dead] = await office.do("dead_letters")
        assert "rollback()" in dead.error

    scenario(body, max_attempts=1)


# In groups.


@on_every_database
def test_a_group_shares_a_unit_of_work_and_is_taken_apart_when_one_fails(scenario, clock):
    """Effects once, in spite of the second run; the poison alone is tried again."""

    async def body(office):
        calls = []

        def poisoned(data):
            calls.append(data)
            if data == 2:
                raise ValueError("broken")

        office.storing("paints", before=poisoned)
        for number in range(5):
            await office.publish("paint.created", number)
        for _ in range(3):
            await office.do("run_once")
            clock.advance(10.0)
        assert [("paints", str(one)) for one in (0, 1, 3, 4)] == await office.effects()
        assert [0, 1, 2, 0, 1, 2, 3, 4, 2, 2] == calls
        assert [2] == [one.event.data for one in await office.do("dead_letters")]

    scenario(body, group=5)


# Leases.


async def abandoned_claim(office, most=100):
    """Claim as a relay does that is never heard of again."""
    claim = office.outbox.hands(is_async=office.is_async).transact(
        lambda session: office.outbox.store.claim(session, most=most, lease=60.0, lost_first=False),
        isolation=office.outbox.isolation,
    )
    return await claim


def test_what_a_relay_does_not_come_back_from_is_taken_over_when_its_lease_is_over(scenario, clock):
    """Not before; then one by one, so that the one that ended it takes no others with it."""

    async def body(office):
        heard = heard_by(office)
        for number in range(3):
            await office.publish("paint.created", number)
        await abandoned_claim(office)
        assert 3 == (await office.do("status"))["in_flight"]
        clock.advance(59.0)
        assert 0 == await office.do("run_once")
        await office.publish("paint.created", 3)
        assert 1 == await office.do("run_once")
        clock.advance(1.0)
        assert 3 == await office.do("run_once")
        assert [3, 0, 1, 2] == heard

    scenario(body)


@on_every_database
def test_an_event_that_ends_its_process_becomes_a_dead_letter(scenario, clock):
    """Every lost lease is a failed attempt of the event that was alone with it."""

    async def body(office):
        heard = heard_by(office)
        await office.publish("paint.created", "poison")
        await office.publish("paint.created", "sound")
        for most in (2, 1, 1):
            await abandoned_claim(office, most)
            clock.advance(60.0)
        for _ in range(3):
            await office.do("run_once")
            clock.advance(60.0)
        assert ["sound"] == [one for one in heard if one != "poison"]
        [dead] = await office.do("dead_letters")
        assert ("poison", 3) == (dead.event.data, dead.event.attempts)
        assert "lease" in dead.error
        assert [] == [one for one in heard if one == "poison"]

    scenario(body)


def test_a_late_acknowledgement_is_ignored(scenario, clock):
    """Row 19: the other relay's verdict stands, here a failure that is to be tried again."""

    async def body(office):
        seen, calls = [], []

        async def slow(data):
            calls.append(data)
            if len(calls) == 1:
                clock.advance(61.0)
                await office.do("run_once")
            elif len(calls) == 2:
                raise ValueError("broken")

        office.bus.subscribe("*", office.house.function(slow), name="slow", idempotent=True)
        with observe(seen.append):
            await office.publish("paint.created", 1)
            await office.do("run_once")
        assert ("outbox.late", {"events": 1}) in [(one.kind, one.details) for one in seen]
        status = await office.do("status")
        assert (1, 1) == (status["waiting"], status["retrying"])
        clock.advance(10.0)
        await office.do("run_once")
        assert [1, 1, 1] == calls
        assert 0 == (await office.do("status"))["waiting"]

    scenario(body)


@pytest.mark.parametrize("url", ["sqlite-file"], indirect=True)
def test_a_store_that_ignores_the_lease_would_be_noticed(house, clock, monkeypatch):
    """The planted fault of the law above: a late acknowledgement removes the event, and nobody tries it again."""
    settle = Store.settle

    def careless(self, session, claim, *args, **kwargs):
        table = self.tables.outbox
        seqs = [one.seq for one in claim.events]
        session.execute(update(table).where(table.c.seq.in_(seqs)).values(lease=claim.lease))
        return settle(self, session, claim, *args, **kwargs)

    monkeypatch.setattr(Store, "settle", careless)
    office = Office(house)

    async def body():
        await office.open()
        calls = []

        def slow(data):
            calls.append(data)
            if len(calls) == 1:
                clock.advance(61.0)
                office.outbox.run_once()
            elif len(calls) == 2:
                raise ValueError("broken")

        office.bus.subscribe("*", slow, name="slow", idempotent=True)
        await office.publish("paint.created", 1)
        await office.do("run_once")
        return await office.do("status")

    assert 1 != house.run(body)["retrying"]


def test_a_slow_batch_keeps_its_lease(scenario, clock):
    """It is renewed while handlers work, and what is done is settled meanwhile."""

    async def body(office):
        waiting = []

        async def slow(data):
            clock.advance(20.0)
            assert 0 == await office.do("run_once")
            status = await office.do("status")
            waiting.append(status["waiting"] + status["in_flight"])

        office.bus.subscribe("*", office.house.function(slow), name="slow", idempotent=True)
        for number in range(6):
            await office.publish("paint.created", number)
        assert 6 == await office.do("run_once")
        assert [6, 5, 4, 3, 2, 1] == waiting

    scenario(body)


def test_a_delivery_is_no_part_of_who_asks_for_it(scenario, clock):
    """Neither of his deadline, which may be over, nor of his unit of work, which may be rolled back."""

    async def body(office):
        office.storing("hears")
        await office.publish("paint.created", 1)
        token = ambient.deadline.set(clock.now() - 1.0)
        try:
            assert 1 == await office.do("run_once")
        finally:
            ambient.deadline.reset(token)
        assert [("hears", "1")] == await office.effects()

    scenario(body)


def test_what_was_lost_has_its_turn_however_much_there_is_to_do(scenario, clock):
    """A relay that never runs out of new events takes over the old ones all the same."""

    async def body(office):
        heard = []

        async def hear(data):
            heard.append(data)
            if data != "lost" and len(heard) < 10:
                await office.publish("paint.created", len(heard))

        office.bus.subscribe("*", office.house.function(hear), name="hears")
        await office.publish("paint.created", "lost")
        async with office.house.unit() as session:
            claim = partial(office.outbox.store.claim, most=1, lease=60.0, lost_first=False)
            await office.house.settle(session.run_sync(claim) if office.is_async else claim(session))
        clock.advance(61.0)
        await office.publish("paint.created", 0)
        await office.do("run_once")
        assert "lost" in heard[:3]

    scenario(body, batch_size=1)


def test_a_relay_holds_no_lease_but_its_own(house, clock):
    """Renewing does not keep alive what another relay has taken and never comes back from."""
    office = Office(house)
    store = office.outbox.store

    async def body():
        await office.open()
        for number in range(2):
            await office.publish("paint.created", number)

        async def within(work):
            async with house.unit() as session:
                return await house.settle(session.run_sync(work) if house.db.is_async else work(session))

        def claim(session):
            return store.claim(session, most=1, lease=60.0, lost_first=False)

        mine, _lost = await within(claim), await within(claim)
        clock.advance(40.0)
        assert 0 == await within(lambda session: store.settle(session, mine, [], others=1, renew=60.0))
        clock.advance(30.0)
        return (await office.do("status"))["in_flight"]

    assert 1 == house.run(body)


# Looking after it.


@on_every_database
def test_purge_keeps_what_may_come_again(scenario, clock):
    """Old rows of the inbox go, not those of an event that waits or is a dead letter; dead letters go if asked for."""

    async def body(office):
        def broken(data):
            if data:
                raise ValueError("broken")

        heard_by(office)
        office.bus.subscribe("*", broken, name="broken")
        await office.publish("paint.created", False)
        await office.publish("paint.created", True)
        await office.do("run_once")
        assert 3 == (await office.do("status"))["handled"]
        clock.advance(100.0)
        assert 0 == await office.do("purge", 101.0)
        assert 2 == await office.do("purge", 99.0)
        for _ in range(3):
            await office.do("run_once")
            clock.advance(10.0)
        assert 1 == (await office.do("status"))["dead"]
        assert 0 == await office.do("purge", 1.0)
        assert 2 == await office.do("purge", 1.0, dead_letters=1.0)
        status = await office.do("status")
        assert (0, 0, 0) == (status["waiting"], status["dead"], status["handled"])

    scenario(body)


def test_the_lag_is_the_age_of_the_oldest_event(scenario, clock):
    """By the database's clock."""

    async def body(office):
        assert 0.0 == (await office.do("status"))["lag"]
        await office.publish("paint.created", 1)
        clock.advance(100.0)
        assert pytest.approx(100.0, abs=5.0) == (await office.do("status"))["lag"]

    scenario(body)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"prefix": "bad-"}, ValueError, "prefix"),
        ({"prefix": 1}, TypeError, "prefix"),
        ({"schema": 5}, TypeError, "schema"),
        ({"name": ""}, ValueError, "name"),
        ({"lease": 0}, ValueError, "lease"),
        ({"handler_timeout": 31.0, "lease": 60.0}, ValueError, "handler_timeout.*half of lease"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 10, "group": 11}, ValueError, "group"),
        ({"max_attempts": 0}, ValueError, "max_attempts"),
        ({"backoff": 3}, TypeError, "backoff"),
        ({"poll_interval": 0}, ValueError, "poll_interval"),
    ],
)
@pytest.mark.parametrize("url", ["sqlite-memory"], indirect=True)
def test_wrong_options_are_refused(house, options, kind, match):
    """By name, when the outbox is made."""
    with pytest.raises(kind, match=match):
        Outbox(house.db, **options)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
@pytest.mark.parametrize("schema", ["a" * 60, 'quoted "name"'])
def test_a_name_that_notifications_cannot_bear_fails_no_commit(house, schema):
    """PostgreSQL refuses channels of more than 63 bytes at NOTIFY, so at every commit with an event."""
    outbox, heard = Outbox(house.db, prefix="p" * 40, schema=schema), []
    quoted = schema.replace('"', '""')
    with house.db.engine.begin() as connection:
        connection.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{quoted}"')
    outbox.create_tables()
    bus = EventBus(transport=outbox)
    bus.subscribe("*", heard.append, name="hears")
    with outbox.relay():
        bus.publish("paint.created", 1)
        until(lambda: heard == [1])
    house.db.close()


def test_an_outbox_is_over_a_manager():
    """Not over an engine or a URL."""
    with pytest.raises(TypeError, match="DatabaseConnectionManager"):
        Outbox("sqlite://")


@pytest.mark.parametrize("url", ["sqlite-memory", "aiosqlite"], indirect=True)
def test_what_an_outbox_cannot_do_is_refused_when_somebody_asks_for_it(house):
    """Broadcasts, async handlers over a blocking manager, a second bus, the other colour, nobody to hear."""
    outbox = Outbox(house.db)
    with pytest.raises(RuntimeError, match="no bus"):
        outbox.receivers()
    bus = EventBus(transport=outbox)
    with pytest.raises(RuntimeError, match="no handlers"):
        outbox.receivers()
    with pytest.raises(ValueError, match="already"):
        EventBus(transport=outbox)
    with pytest.raises(ValueError, match="broadcast"):
        bus.subscribe("paint.created", print, kind="broadcast")
    with pytest.raises(ValueError, match="200 characters"):
        bus.subscribe("paint.created", print, name="x" * 201)

    async def handler(data):
        pass

    if house.db.is_async:
        with pytest.raises(TypeError, match="await"):
            outbox.run_once()
        for method in (outbox.status, outbox.create_tables, outbox.purge):
            with pytest.raises(TypeError, match="async"):
                method()
        bus.subscribe("paint.created", handler)
    else:
        with pytest.raises(ValueError, match="async"):
            bus.subscribe("paint.created", handler)
        with pytest.raises(TypeError, match="blocking"):
            drive(outbox.astatus())
        with pytest.raises(TypeError, match="one string"):
            outbox.replay("an-id")
        with pytest.raises(TypeError, match="event_ids"):
            outbox.replay([7])
        for ask in (outbox.replay, outbox.dead_letters):
            with pytest.raises(TypeError, match="event_type"):
                ask(event_type=7)
    assert all("print" not in one.name for one in bus.receivers())
