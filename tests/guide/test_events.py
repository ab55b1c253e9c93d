import asyncio
import gc

import pytest

from paintkit import CacheManager, EventBus, backoff
from paintkit.envelope import current_event
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from paintkit.testing import FakeClock


def test_subscribe_decorates_and_returns_the_function() -> None:
    """Row 44: `@bus.subscribe(type)` registers the handler, and its name stays bound to the function."""
    bus = EventBus()
    heard = []

    @bus.subscribe("paint.created")
    def remember(paint: dict[str, int]) -> None:
        heard.append(paint)

    bus.publish("paint.created", {"id": 1})
    remember({"id": 2})

    assert [{"id": 1}, {"id": 2}] == heard


def test_subscribe_takes_a_handler_directly() -> None:
    """Row 44: the call form stays, and what it returns ends the subscription."""
    bus = EventBus()
    heard: list[int] = []

    subscription = bus.subscribe("paint.created", heard.append)
    bus.publish("paint.created", 1)
    subscription.cancel()
    bus.publish("paint.created", 2)

    assert [1] == heard


def test_a_bus_is_ready_when_it_is_made() -> None:
    """Row 45: it needs nothing but its import, and a type that nobody has named yet is fine in either order."""
    bus = EventBus()

    bus.publish("paint.created", {"id": 1})
    heard: list[int] = []
    bus.subscribe("paint.updated", heard.append)
    bus.publish("paint.updated", 1)

    assert [1] == heard


def test_a_failing_handler_stops_neither_the_others_nor_the_publisher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 46: all handlers hear the event, in their order; the failure is logged with its traceback and counted."""
    bus = EventBus()
    heard: list[str] = []

    def fail(name: str) -> None:
        raise RuntimeError("cannot notify")

    bus.subscribe("paint.created", lambda name: heard.append(f"first {name}"))
    bus.subscribe("paint.created", fail)
    bus.subscribe("paint.created", lambda name: heard.append(f"last {name}"))

    bus.publish("paint.created", "red")

    assert ["first red", "last red"] == heard
    assert 1 == bus.get_stats()["failed"]
    (record,) = caplog.records
    assert "paintkit.events" == record.name
    assert record.exc_info is not None


def test_unknown_event_types_leave_nothing_behind() -> None:
    """Row 47: after a thousand types that nobody waits for, the bus knows none of them."""
    bus = EventBus()

    for number in range(1000):
        bus.publish(f"type.{number}", number)

    assert {} == bus.get_stats()["handlers"]
    assert {} == bus._handlers


def test_a_handler_never_sees_what_is_not_committed() -> None:
    """Row 49: an event published in a unit of work is delivered after its commit, so a reader caches the new value."""
    db, bus, cache = DatabaseConnectionManager("sqlite://"), EventBus(), CacheManager()
    committed = {"stock": 3}
    found_by_handler = []

    @cache.cache_result(tags=lambda: ("paint:1",))
    def stock() -> int:
        return committed["stock"]

    @bus.subscribe("paint.updated")
    def refill(_paint: int) -> None:
        cache.invalidate("paint:1")
        found_by_handler.append(stock())

    @db.with_database_session
    def sell() -> None:
        db.on_commit(lambda: committed.update(stock=2))
        bus.publish("paint.updated", 1)
        assert [] == found_by_handler

    assert 3 == stock()
    sell()

    assert [2] == found_by_handler
    assert 2 == stock()


def test_an_event_of_a_unit_of_work_that_failed_is_never_told() -> None:
    """Row 49: a rollback drops it."""
    db, bus = DatabaseConnectionManager("sqlite://"), EventBus()
    heard: list[int] = []
    bus.subscribe("paint.updated", heard.append)

    @db.with_database_session
    def sell() -> None:
        bus.publish("paint.updated", 1)
        raise RuntimeError("out of stock")

    with pytest.raises(RuntimeError, match="out of stock"):
        sell()

    assert [] == heard


def test_who_subscribes_or_leaves_meanwhile_changes_the_next_event() -> None:
    """Row 48: an event goes to those who were subscribed when it was published, in the order in which they came."""
    bus = EventBus()
    heard: list[str] = []

    def first(_paint: int) -> None:
        heard.append("first")
        second.cancel()
        bus.subscribe("paint.updated", lambda _paint: heard.append("third"))

    bus.subscribe("paint.updated", first)
    second = bus.subscribe("paint.updated", lambda _paint: heard.append("second"))

    bus.publish("paint.updated", 1)
    assert ["first", "second"] == heard
    bus.publish("paint.updated", 2)
    assert ["first", "second", "first", "third"] == heard


def test_a_weak_subscription_keeps_no_object_alive() -> None:
    """Row 48: with `weak=True` the bus forgets the method of an object that nobody else needs."""
    bus = EventBus()
    heard: list[int] = []

    class Page:
        def refresh(self, paint: int) -> None:
            heard.append(paint)

    page = Page()
    bus.subscribe("paint.updated", page.refresh, weak=True)
    bus.publish("paint.updated", 1)
    del page
    gc.collect()
    bus.publish("paint.updated", 2)

    assert [1] == heard
    assert {} == bus.get_stats()["handlers"]


def test_a_pattern_hears_every_type_that_fits() -> None:
    """Row 48: `paint.*` is subscribed once for all that happens to paints, and takes its turn among the others."""
    bus = EventBus()
    heard: list[str] = []
    bus.subscribe("paint.sold", lambda paint: heard.append(f"sold {paint}"))
    bus.subscribe("paint.*", lambda paint: heard.append(f"any {paint}"))

    for event_type in ("paint.sold", "paint.mixed", "brand.sold"):
        bus.publish(event_type, event_type)

    assert ["sold paint.sold", "any paint.sold", "any paint.mixed"] == heard


def test_a_coroutine_function_is_awaited() -> None:
    """Row 48: `apublish` returns when all handlers are done, whatever their colour."""
    bus = EventBus()
    heard: list[str] = []

    @bus.subscribe("paint.updated")
    async def notify(_paint: int) -> None:
        await asyncio.sleep(1)
        heard.append("awaited")

    bus.subscribe("paint.updated", lambda _paint: heard.append("called"))

    with FakeClock() as clock:
        clock.run(bus.apublish("paint.updated", 1))

    assert ["awaited", "called"] == heard


def test_an_event_reaches_other_processes_until_it_is_handled() -> None:
    """Row 50: with a transport, one process publishes, another handles, again after a failure, by an id that stays."""
    db = DatabaseConnectionManager("sqlite://")
    outbox = Outbox(db)
    outbox.create_tables()
    relay = Outbox(db, backoff=backoff.constant(0.0))
    here, there = EventBus("shop", transport=outbox), EventBus("shop", transport=relay)
    heard: list[tuple[str, int]] = []

    @there.subscribe("paint.sold")
    def reorder(paint: dict[str, int]) -> None:
        heard.append((current_event().id, paint["id"]))
        if len(heard) == 1:
            raise ConnectionError("the supplier is away")

    here.publish("paint.sold", {"id": 7})
    assert [] == heard
    relay.run_once()

    assert [7, 7] == [number for _, number in heard]
    assert 1 == len({event_id for event_id, _ in heard})
    assert 0 == relay.status()["waiting"]
    db.close()
