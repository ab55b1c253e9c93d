"""The event bus: who hears what, in which order, and what a failing handler may not do."""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paintkit import ambient, observations
from paintkit.events.bus import EventBus, HandlerFailure


class Unit:
    """An open unit of work, as a bus sees it: what it is told to do after the commit."""

    over = False

    def __init__(self, is_async=False):
        self.is_async = is_async
        self.actions: list[Callable[[], object]] = []

    def defer(self, action):
        self.actions.append(action)

    def commit(self):
        for action in self.actions:
            action()

    async def acommit(self):
        for action in self.actions:
            await action()


@contextmanager
def open_unit(*, is_async=False) -> Iterator[Unit]:
    unit = Unit(is_async)
    token = ambient.unit_of_work.set(unit)
    try:
        yield unit
    finally:
        ambient.unit_of_work.reset(token)


def failing(error):
    def fail(data):
        raise error

    return fail


def logged(caplog):
    """Return the errors that buses have logged; others may log, too, such as asyncio about what is collected just now."""
    return [record.exc_info[1] for record in caplog.records if record.name == "paintkit.events"]


def test_a_handler_gets_the_very_object_that_was_published():
    """Data travels by reference."""
    bus, heard, data = EventBus(), [], {"id": 1}
    bus.subscribe("paint.created", heard.append)
    bus.publish("paint.created", data)
    assert [data] == heard
    assert data is heard[0]


def test_an_event_without_data_carries_none():
    """The data may be left out."""
    bus, heard = EventBus(), []
    bus.subscribe("started", heard.append)
    bus.publish("started")
    assert [None] == heard


def test_subscribe_decorates_and_returns_the_function():
    """The decorator form leaves the function as it is."""
    bus, heard = EventBus(), []

    def handler(data):
        heard.append(data)

    assert handler is bus.subscribe("paint.created")(handler)
    bus.publish("paint.created", 1)
    assert [1] == heard


def test_handlers_run_in_order_of_registration_patterns_included():
    """Exact and wildcard handlers share one order."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.*", lambda data: heard.append("pattern"))
    bus.subscribe("paint.created", lambda data: heard.append("exact"))
    bus.subscribe("*", lambda data: heard.append("everything"))
    bus.subscribe("paint.created", lambda data: heard.append("exact again"))
    bus.publish("paint.created")
    assert ["pattern", "exact", "everything", "exact again"] == heard


@pytest.mark.parametrize(
    ("pattern", "event_type", "hears"),
    [
        ("paint.*", "paint.created", True),
        ("paint.*", "paint.stock.moved", True),
        ("paint.*", "paint", False),
        ("paint.*", "paintings.created", False),
        ("*.created", "paint.created", True),
        ("*", "anything\nat all", True),
        ("paint.?", "paint.x", False),
        ("[p]*", "paint", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_magic(pattern, event_type, hears):
    """`*` is the only sign with a meaning."""
    bus, heard = EventBus(), []
    bus.subscribe(pattern, heard.append)
    bus.publish(event_type, 1)
    assert ([1] if hears else []) == heard


def test_a_failing_handler_stops_neither_the_others_nor_the_publisher(caplog):
    """Handlers are isolated; the failure is logged with its traceback, counted, observed and reported."""
    heard, failures, seen, error = [], [], [], ValueError("broken")
    bus = EventBus("studio", on_error=failures.append)
    fail = failing(error)
    bus.subscribe("paint.created", fail)
    bus.subscribe("paint.created", heard.append)
    with observations.observe(seen.append), caplog.at_level(logging.ERROR, "paintkit.events"):
        bus.publish("paint.created", 7)
    assert [7] == heard
    assert [HandlerFailure("paint.created", 7, fail, error)] == failures
    assert [error] == logged(caplog)
    [failed] = [one for one in seen if one.source == "studio"]
    assert "event_bus.handler_failed" == failed.kind
    assert "paint.created" == failed.details["event_type"]
    assert (1, 1) == (bus.get_stats()["delivered"], bus.get_stats()["failed"])


def test_an_error_that_cannot_be_printed_stops_nobody():
    """Reporting does not depend on the manners of the error."""

    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no")

    bus, heard = EventBus(), []
    bus.subscribe("paint.created", failing(Unprintable()))
    bus.subscribe("paint.created", heard.append)
    bus.publish("paint.created", 1)
    assert [1] == heard


def test_a_failing_on_error_stops_nobody(caplog):
    """The report of a failure may fail, too."""
    bus, heard = EventBus(on_error=failing(RuntimeError("worse"))), []
    bus.subscribe("paint.created", failing(ValueError("bad")))
    bus.subscribe("paint.created", heard.append)
    with caplog.at_level(logging.ERROR, "paintkit.events"):
        bus.publish("paint.created", 1)
    assert [1] == heard
    assert ["bad", "worse"] == [str(error) for error in logged(caplog)]


def test_an_interrupt_passes_through():
    """Only `Exception` is isolated."""
    bus = EventBus()
    bus.subscribe("paint.created", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bus.publish("paint.created")


def test_unknown_types_leave_no_trace():
    """Publishing what nobody waits for does not grow the bus."""
    bus = EventBus()
    bus.subscribe("paint.*", lambda data: None)
    for number in range(1000):
        bus.publish(f"unknown.{number}")
        bus.publish(f"paint.{number}")
    assert {} == bus._handlers
    assert {"paint.*": 1} == bus.get_stats()["handlers"]


def test_a_cancelled_subscription_hears_no_more():
    """`cancel()` may come twice; a block cancels at its end."""
    bus, heard = EventBus(), []
    subscription = bus.subscribe("paint.created", heard.append)
    with bus.subscribe("paint.created", heard.append):
        bus.publish("paint.created", 1)
    subscription.cancel()
    subscription.cancel()
    bus.publish("paint.created", 2)
    assert [1, 1] == heard
    assert {} == bus.get_stats()["handlers"]


def test_cancelling_one_of_two_equal_registrations_leaves_the_other():
    """A function registered twice is called twice, and cancelled one by one."""
    bus, heard = EventBus(), []
    first = bus.subscribe("paint.created", heard.append)
    bus.subscribe("paint.created", heard.append)
    first.cancel()
    bus.publish("paint.created", 1)
    assert [1] == heard


@pytest.mark.parametrize("pattern", ["paint.created", "paint.*"])
def test_cancelling_takes_as_long_among_many_as_among_few(pattern):
    """Thousands may leave one after the other, in whatever order: it was twenty times as long when each looked at all."""

    def took(cancelled):
        began = time.thread_time()
        for one in cancelled:
            one.cancel()
        return time.thread_time() - began

    among_many, among_few = [], []
    for _ in range(3):
        bus = EventBus()
        subscriptions = [bus.subscribe(pattern, str) for _ in range(4_000)]
        bus.publish("paint.created")
        among_many.append(took(subscriptions[:400]))
        took(subscriptions[400:-400])
        bus.publish("paint.created")
        among_few.append(took(subscriptions[:-401:-1]))
        assert {} == bus.get_stats()["handlers"] == bus._handlers
    assert min(among_many) < 6 * min(among_few)


def test_handlers_are_kept_alive():
    """A lambda or a bound method that nobody else holds still hears."""
    bus, heard = EventBus(), []

    class Listener:
        def hear(self, data):
            heard.append(data)

    bus.subscribe("paint.created", Listener().hear)
    bus.publish("paint.created", 1)
    assert [1] == heard


def test_delivery_goes_to_the_handlers_of_its_beginning():
    """What a handler subscribes or cancels takes effect from the next event on."""
    bus, heard = EventBus(), []

    def curious(data):
        heard.append("curious")
        later.cancel()
        bus.subscribe("paint.created", lambda data: heard.append("new"))

    bus.subscribe("paint.created", curious)
    later = bus.subscribe("paint.created", lambda data: heard.append("later"))
    bus.publish("paint.created")
    assert ["curious", "later"] == heard
    bus.publish("paint.created")
    assert ["curious", "later", "curious", "new"] == heard


def test_a_handler_may_publish():
    """An event that causes another is delivered within it."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.sold", lambda left: bus.publish("paint.gone") if left == 0 else None)
    bus.subscribe("paint.gone", lambda data: heard.append("gone"))
    bus.subscribe("paint.sold", heard.append)
    bus.publish("paint.sold", 0)
    assert ["gone", 0] == heard


def test_in_a_unit_of_work_an_event_waits_for_the_commit():
    """No handler acts on what may still be rolled back."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.updated", heard.append)
    with open_unit() as unit:
        bus.publish("paint.updated", 1)
        bus.publish("paint.updated", 2)
        assert [] == heard
    unit.commit()
    assert [1, 2] == heard
    assert {
        "published": 2,
        "deferred": 2,
        "delivered": 2,
        "failed": 0,
        "handlers": {"paint.updated": 1},
    } == bus.get_stats()


def test_a_rollback_drops_the_events_of_its_unit():
    """What did not happen is not told."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.updated", heard.append)
    with open_unit():
        bus.publish("paint.updated", 1)
    bus.publish("paint.updated", 2)
    assert [2] == heard


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        (None, TypeError),
        (7, TypeError),
        ([], TypeError),
        (b"x", TypeError),
        ("", ValueError),
        (" ", ValueError),
    ],
)
def test_an_event_type_is_a_string_with_something_in_it(event_type, kind):
    """Anything else is refused by name, publishing and subscribing."""
    bus = EventBus()
    with pytest.raises(kind, match="event_type"):
        bus.publish(event_type)
    with pytest.raises(kind, match="event_type"):
        bus.subscribe(event_type, print)


def test_a_pattern_cannot_be_published():
    """An event is of one type."""
    bus = EventBus()
    bus.subscribe("paint.*", print)
    with pytest.raises(ValueError, match=r"paint\.\*"):
        bus.publish("paint.*")


def _generator_handler(data):
    yield data


async def _async_generator_handler(data):
    yield data


@pytest.mark.parametrize(
    "handler",
    [
        _generator_handler,
        functools.partial(_generator_handler),
        _async_generator_handler,
        None,
        "print",
        ValueError,
    ],
)
def test_a_handler_that_nobody_could_run_is_refused(handler):
    """Generators, errors, and what is no function at all: `TypeError` at registration."""
    with pytest.raises(TypeError):
        EventBus().subscribe("paint.created", handler)


class _AsyncCallable:
    def __init__(self, heard):
        self.heard = heard

    async def __call__(self, data):
        await asyncio.sleep(0)
        self.heard.append(("object", data))


def async_handlers(bus, heard):
    """Subscribe every kind of handler that gives something to await."""

    @bus.subscribe("paint.created")
    async def function(data):
        await asyncio.sleep(0)
        heard.append(("async def", data))

    bus.subscribe("paint.created", functools.partial(function))
    bus.subscribe("paint.created", _AsyncCallable(heard))

    def disguised(data):
        return function(data)

    bus.subscribe("paint.created", disguised)


def test_an_async_publisher_awaits_its_handlers_in_order():
    """Sync and async handlers share one order; each is done before the next begins."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.*", lambda data: heard.append(("def", data)))
    async_handlers(bus, heard)
    asyncio.run(bus.apublish("paint.created", 1))
    kinds = ["def", "async def", "async def", "object", "async def"]
    assert [(kind, 1) for kind in kinds] == heard
    assert (1, 5, 0) == tuple(bus.get_stats()[key] for key in ("published", "delivered", "failed"))


def test_a_blocking_publisher_cannot_await_and_says_so(recwarn, caplog):
    """An async handler is reported as failed, with the way out; no coroutine is left un-awaited."""
    bus, heard, failures = EventBus(), [], []
    bus._on_error = failures.append
    async_handlers(bus, heard)
    bus.subscribe("paint.created", heard.append)
    bus.publish("paint.created", 1)
    assert [1] == heard
    assert ["TypeError"] * 4 == [type(failure.error).__name__ for failure in failures]
    assert "apublish" in caplog.text
    # What an earlier test has left may be collected, and warned of, just now.
    ours = ("async_handlers", "_AsyncCallable")
    assert [] == [one for one in recwarn if any(name in str(one.message) for name in ours)]


def test_a_failing_async_handler_stops_nobody():
    """Isolation is the same in both colours."""
    failures, heard, error = [], [], ValueError("bad")
    bus = EventBus(on_error=failures.append)

    async def fail(data):
        await asyncio.sleep(0)
        raise error

    bus.subscribe("paint.created", fail)
    bus.subscribe("paint.created", heard.append)
    asyncio.run(bus.apublish("paint.created", 1))
    assert [HandlerFailure("paint.created", 1, fail, error)] == failures
    assert [1] == heard


def test_a_cancelled_publisher_stops():
    """Cancellation is no failure of a handler: it passes through."""
    bus, heard = EventBus(), []

    async def forever(data):
        await asyncio.Event().wait()

    bus.subscribe("paint.created", forever)
    bus.subscribe("paint.created", heard.append)

    async def main():
        task = asyncio.create_task(bus.apublish("paint.created"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(main())
    assert [] == heard


@pytest.mark.parametrize("publish", ["publish", "apublish"])
def test_in_an_async_unit_of_work_async_handlers_wait_for_the_commit(publish):
    """Whoever ends the unit awaits them, however the event was published."""
    bus, heard = EventBus(), []
    async_handlers(bus, heard)

    async def main():
        with open_unit(is_async=True) as unit:
            if publish == "publish":
                bus.publish("paint.created", 1)
            else:
                await bus.apublish("paint.created", 1)
            assert [] == heard
        await unit.acommit()

    asyncio.run(main())
    assert 4 == len(heard)
    assert (1, 1) == (bus.get_stats()["published"], bus.get_stats()["deferred"])


def test_in_a_blocking_unit_of_work_nobody_awaits():
    """An event of `apublish` waits for its commit, too, and an async handler is reported as failed."""
    bus, heard = EventBus(), []
    async_handlers(bus, heard)
    bus.subscribe("paint.created", heard.append)

    async def main():
        with open_unit() as unit:
            await bus.apublish("paint.created", 1)
        unit.commit()

    asyncio.run(main())
    assert [1] == heard
    assert 4 == bus.get_stats()["failed"]


def test_a_running_event_loop_may_publish():
    """A blocking publish works inside asyncio, too."""
    bus, heard = EventBus(), []
    bus.subscribe("paint.created", heard.append)

    async def main():
        bus.publish("paint.created", 1)

    asyncio.run(main())
    assert [1] == heard


@pytest.mark.parametrize(("arguments", "kind"), [({"name": ""}, ValueError), ({"name": 1}, TypeError)])
def test_a_bus_needs_a_name(arguments, kind):
    """Construction refuses what logs could not show."""
    with pytest.raises(kind, match="name"):
        EventBus(**arguments)


def test_on_error_is_a_plain_function():
    """Nobody would await it."""
    with pytest.raises(TypeError, match="on_error"):
        EventBus(on_error=_AsyncCallable([]))


def test_totals_are_exact_under_threads():
    """Every publication and delivery of many threads is counted."""
    bus, start = EventBus(), threading.Barrier(4)
    bus.subscribe("tick", lambda data: None)
    bus.subscribe("t*", failing(ValueError()))
    logging.getLogger("paintkit.events").disabled = True

    def work():
        start.wait()
        for _ in range(200):
            bus.publish("tick")
            bus.subscribe("other", print).cancel()

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        logging.getLogger("paintkit.events").disabled = False
    stats = bus.get_stats()
    assert (800, 800, 800) == (stats["published"], stats["delivered"], stats["failed"])
    assert {"tick": 1, "t*": 1} == stats["handlers"]


TYPES = ("a", "b", "a.b", "a.c")
PATTERNS = (*TYPES, "*", "a.*", "*.b")


def _matches(pattern: str, event_type: str) -> bool:
    """The meaning of a pattern, told in another way than the bus computes it."""
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == event_type
    return (
        len(event_type) >= len(head) + len(tail) and event_type.startswith(head) and event_type.endswith(tail)
    )


class BusMachine(RuleBasedStateMachine):
    """Any history of subscribing, cancelling and publishing, beside a list that says who has to hear."""

    bus_class = EventBus

    def __init__(self):
        super().__init__()
        self.bus = self.bus_class()
        self.heard: list[tuple[int, str]] = []
        self.model: list[tuple[int, str, object]] = []
        self.numbers = iter(range(10_000))

    @rule(pattern=st.sampled_from(PATTERNS))
    def subscribe(self, pattern):
        number = next(self.numbers)
        subscription = self.bus.subscribe(pattern, lambda data: self.heard.append((number, data)))
        self.model.append((number, pattern, subscription))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data):
        entry = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        entry[2].cancel()

    @rule(event_type=st.sampled_from(TYPES))
    def publish(self, event_type):
        self.heard.clear()
        self.bus.publish(event_type, event_type)
        assert [
            (n, event_type) for n, pattern, _ in self.model if _matches(pattern, event_type)
        ] == self.heard

    @invariant()
    def counts_its_handlers(self):
        assert len(self.model) == sum(self.bus.get_stats()["handlers"].values())


SOME = settings(max_examples=40, stateful_step_count=25, deadline=None, report_multiple_bugs=False)


def test_any_history_tells_those_who_wait_in_their_order():
    """The bus agrees with a plain list of registrations."""
    run_state_machine_as_test(BusMachine, settings=SOME)


class _ForgetsPatterns(EventBus):
    """A mutant: a wildcard that comes after an exact handler is not merged into its route."""

    def _note_change(self, pattern):
        before = dict(self._handlers)
        super()._note_change(pattern)
        if "*" in pattern:
            self._handlers.update(before)


def test_the_model_catches_a_bus_that_forgets_patterns():
    """The check above has teeth."""
    mutant = type("Mutant", (BusMachine,), {"bus_class": _ForgetsPatterns})
    # Many walks, and always the same: a few that chance chooses may all go another way.
    walks = settings(SOME, max_examples=400, phases=[Phase.generate], derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(mutant, settings=walks)
