"""The event bus with a transport: what it hands over, and what it asks of its handlers."""

import asyncio
import gc
import threading

import pytest

from paintkit.envelope import current_event
from paintkit.events.bus import EventBus
from tests.events.memory import MemoryTransport
from tests.events.test_bus import failing, open_unit


def house(**options):
    transport = MemoryTransport(**options)
    return EventBus("studio", transport=transport), transport


def test_an_event_is_heard_where_the_transport_delivers_it():
    """Nobody hears it at once; then everybody who wants it does, as data that is his own."""
    bus, transport = house()
    heard = []
    bus.subscribe("paint.*", heard.append, name="first")
    bus.subscribe("paint.created", heard.append, name="second")
    bus.subscribe("brush.created", heard.append, name="third")
    data = {"id": 7, "tags": ["new"]}
    bus.publish("paint.created", data)
    assert [] == heard
    transport.deliver()
    assert [data, data] == heard
    assert 3 == len({id(one) for one in (data, *heard)})
    assert (1, 2, 0) == tuple(bus.get_stats()[key] for key in ("published", "delivered", "failed"))


def test_a_failing_handler_is_tried_again_alone():
    """Its failure is reported each time, and the others hear once."""
    bus, transport = house()
    heard, failures = [], []
    bus._on_error = failures.append
    bus.subscribe("paint.created", failing(ValueError("broken")), name="broken")
    bus.subscribe("paint.created", heard.append, name="sound")
    bus.publish("paint.created", 1)
    transport.deliver()
    transport.deliver()
    assert [1] == heard
    assert [("paint.created", 1)] * 2 == [(one.event_type, one.data) for one in failures]
    assert (1, 2) == (bus.get_stats()["delivered"], bus.get_stats()["failed"])


def test_a_handler_can_ask_for_the_event_it_was_given():
    """The envelope tells id, type, time and key; outside of a delivery there is none."""
    bus, transport = house()
    seen = []
    bus.subscribe("paint.created", lambda data: seen.append(current_event()), name="curious")
    bus.publish("paint.created", 1, ordering_key="paint:1")
    transport.deliver()
    [event] = seen
    assert transport.stored == [event]
    assert ("paint.created", 1, "paint:1", 0) == (event.type, event.data, event.ordering_key, event.attempts)
    assert current_event() is None


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("transactional", [False, True])
def test_in_a_unit_of_work_an_event_is_stored_with_it_or_sent_after_it(is_async, transactional):
    """Nothing of a rolled back unit is ever sent, by either publish."""
    bus, transport = house(transactional=transactional)

    async def publish():
        bus.publish("paint.created", 1)
        await bus.apublish("paint.created", 2)

    with open_unit(is_async=is_async):
        asyncio.run(publish())
    assert [] == transport.stored
    with open_unit(is_async=is_async) as unit:
        asyncio.run(publish())
    if is_async and not transactional:
        asyncio.run(unit.acommit())
    else:
        unit.commit()
    assert [1, 2] == [one.data for one in transport.stored]
    assert (4, 4) == (bus.get_stats()["published"], bus.get_stats()["deferred"])


def test_an_async_publisher_awaits_the_transport():
    """`apublish` outside of a unit of work is certain when it returns."""
    bus, transport = house()
    asyncio.run(bus.apublish("paint.created", 1))
    assert [1] == [one.data for one in transport.stored]


def test_an_async_handler_is_awaited_by_an_async_transport():
    """And known as such, so that a transport can refuse it."""
    bus, transport = house()
    heard = []

    @bus.subscribe("paint.created")
    async def hear(data):
        await asyncio.sleep(0)
        heard.append((data, current_event().type))

    bus.publish("paint.created", 1)
    [receiver] = bus.receivers()
    assert receiver.is_async
    with pytest.raises(TypeError):
        receiver.deliver(transport.stored[0])
    asyncio.run(receiver.adeliver(transport.stored[0]))
    assert [(1, "paint.created")] == heard


def test_handlers_are_told_apart_by_their_names():
    """The default is module and name; two of one name are refused, and nothing is left behind."""
    bus, transport = house()

    def index(data):
        pass

    bus.subscribe("paint.created", index)
    [receiver] = bus.receivers()
    assert receiver.name.startswith("tests.events.test_transport.")
    with pytest.raises(ValueError, match=r"index.*name="):
        bus.subscribe("paint.sold", index)
    assert [receiver] == transport.receivers == list(bus.receivers())
    with bus.subscribe("paint.sold", index, name="index.sold"):
        assert 2 == len(transport.receivers)
    assert [receiver] == transport.receivers


def test_a_transport_may_refuse_a_handler():
    """What it cannot give is told when the handler subscribes."""
    bus, transport = house(kinds=("work",))
    with pytest.raises(ValueError, match="broadcast"):
        bus.subscribe("paint.created", print, kind="broadcast")
    assert () == bus.receivers()
    bus.subscribe("paint.created", print, idempotent=True)
    assert [("work", True)] == [(one.kind, one.idempotent) for one in transport.receivers]


def test_a_transport_has_one_bus():
    """A second bus is refused, and so is what is no transport."""
    _, transport = house()
    with pytest.raises(ValueError, match="already"):
        EventBus(transport=transport)
    for wrong in (object(), "redis://", MemoryTransport):
        with pytest.raises(TypeError, match="transport"):
            EventBus(transport=wrong)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"kind": "all"}, ValueError, "kind"),
        ({"idempotent": 1}, TypeError, "idempotent"),
        ({"name": ""}, ValueError, "name"),
        ({"weak": True}, TypeError, "weak"),
    ],
)
def test_wrong_options_of_subscribe_are_refused(options, kind, match):
    """By name, and nothing is subscribed."""
    bus, transport = house()
    with pytest.raises(kind, match=match):
        bus.subscribe("paint.created", lambda data: None, **options)
    assert ((), []) == (bus.receivers(), transport.receivers)


def test_what_json_cannot_say_is_refused_at_publish():
    """Nothing is handed over, and nothing is counted."""
    bus, transport = house()
    with pytest.raises(TypeError, match=r"data\['when'\]"):
        bus.publish("paint.created", {"when": threading})
    assert ([], 0) == (transport.stored, bus.get_stats()["published"])


class Listener:
    def __init__(self, heard):
        self.heard = heard

    def hear(self, data):
        self.heard.append(data)


def test_a_weak_subscription_ends_with_its_object():
    """The bus does not keep the object alive, and forgets the handler when it is gone."""
    for bus in (EventBus(), house()[0]):
        heard = []
        listener = Listener(heard)
        bus.subscribe("paint.created", listener.hear, weak=True)
        assert {"paint.created": 1} == bus.get_stats()["handlers"]
        del listener
        gc.collect()
        assert ({}, {}) == (bus.get_stats()["handlers"], bus._handlers)
    bus = EventBus()
    listener = Listener(heard)
    subscription = bus.subscribe("paint.*", listener.hear, weak=True)
    bus.publish("paint.created", 1)
    assert [1] == heard
    subscription.cancel()
    subscription.cancel()
    bus.publish("paint.created", 2)
    assert [1] == heard


def test_an_object_may_die_while_the_bus_is_locked():
    """The garbage collector strikes in any thread at any moment: the thread with the lock forgets the handler then."""
    bus = EventBus()
    listener = Listener([])
    bus.subscribe("paint.created", listener.hear, weak=True)
    with bus._lock:
        del listener
        gc.collect()
        assert 1 == len(bus._registrations)
    bus.subscribe("paint.sold", print)
    assert {"paint.sold": 1} == bus.get_stats()["handlers"]


def test_weak_is_for_methods():
    """A function that only the bus holds would be gone at once."""
    with pytest.raises(TypeError, match="weak"):
        EventBus().subscribe("paint.created", lambda data: None, weak=True)
    with pytest.raises(TypeError, match="weak"):
        EventBus().subscribe("paint.created", weak=True)
