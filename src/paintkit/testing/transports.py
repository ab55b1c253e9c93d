"""What every transport of an event bus has to keep, as tests to inherit: say how to connect yours, and pytest runs them.

```python
class TestMyTransport(TransportContract):
    @contextlib.contextmanager
    def network(self):
        with my_server() as url:
            yield lambda: MyTransport(url)  # one more process
```
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from paintkit import ambient
from paintkit.envelope import Envelope, current_event
from paintkit.events.bus import EventBus

if TYPE_CHECKING:
    from paintkit.envelope import Kind
    from paintkit.events.transport import Transport

__all__ = ["TransportContract"]

# Real seconds that a transport may take for what takes none.
_PATIENCE = 30.0


class TransportContract:
    """The laws of a `paintkit.events.transport.Transport`.

    A subclass overrides `network`, and of the rest what does not fit.
    """

    #: What the transport carries.
    kinds: tuple[Kind, ...] = ("work", "broadcast")

    #: Whether it runs handlers that are `async def`.
    runs_coroutines = True

    def network(self) -> AbstractContextManager[Callable[[], Transport]]:
        """Return a context in which nobody else publishes, with a function that makes the transport of one more process.

        The transports try again soon (within milliseconds), and give up after the third failure.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a network()")

    def unit_of_work(self, transport: Transport) -> AbstractContextManager[object]:  # noqa: ARG002 - for subclasses
        """Return a unit of work that commits at its end, and rolls back if it is left by an error."""
        return _unit_of_work()

    def given_up(self, transport: Transport) -> list[Envelope]:
        """Return the dead letters."""
        return [letter.event for letter in transport.dead_letters()]  # type: ignore[attr-defined]

    def deliver(self, transports: list[Transport]) -> None:  # noqa: ARG002 - for subclasses
        """Let the transports deliver for a moment; those that do so by themselves need some time."""
        time.sleep(0.01)

    def until(self, condition: Callable[[], object], *transports: Transport) -> None:
        """Let the transports deliver until something holds."""
        due = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < due, "it never came about"
            self.deliver(list(transports))

    def test_a_transport_belongs_to_one_bus(self) -> None:
        """A second one is refused."""
        with self.network() as connect:
            transport = connect()
            EventBus("first", transport=transport)
            with pytest.raises(ValueError, match="bus"):
                EventBus("second", transport=transport)

    def test_an_event_arrives_as_it_was_published(self) -> None:
        """Data, type and time are the same for every receiver; the id is one, and the first attempt has no failure before it."""
        data = {"id": 7, "name": "Ölfarbe \u2028 🎨", "tags": ["a", None, 1.5, True], "empty": {}}
        with self.network() as connect:
            bus, transport = _house(connect)
            seen: list[tuple[Any, Envelope | None]] = []
            for name in ("first", "second"):
                bus.subscribe("paint.*", lambda got: seen.append((got, current_event())), name=name)
            bus.publish("paint.created", data)
            self.until(lambda: len(seen) == 2, transport)
        assert [data, data] == [got for got, _ in seen]
        events = [event for _, event in seen if event is not None]
        assert [event.type for event in events] == ["paint.created"] * 2
        assert len({(event.id, event.occurred_at) for event in events}) == 1
        assert [event.attempts for event in events] == [0, 0]

    def test_a_receiver_hears_what_it_wants(self) -> None:
        """By type or pattern, and only while it is subscribed."""
        with self.network() as connect:
            bus, transport = _house(connect)
            heard, all_heard = Heard(), Heard()
            bus.subscribe("*", all_heard, name="all")
            subscription = bus.subscribe("paint.created", heard, name="created")
            bus.publish("paint.created", 1)
            bus.publish("paint.sold", 2)
            self.until(lambda: all_heard.counts() == {1: 1, 2: 1} and heard.counts(), transport)
            subscription.cancel()
            bus.publish("paint.created", 3)
            self.until(lambda: all_heard.counts().get(3), transport)
            assert heard.counts() == {1: 1}

    def test_work_is_done_in_one_process(self) -> None:
        """By receivers of one name in several processes, each event once where nothing fails."""
        with self.network() as connect:
            heard = [Heard(), Heard()]
            houses = [_house(connect) for _ in heard]
            for (bus, _), one in zip(houses, heard, strict=True):
                bus.subscribe("paint.created", one, name="indexer")
            for number in range(30):
                houses[number % 2][0].publish("paint.created", number)
            self.until(lambda: _together(heard).keys() == set(range(30)), *(one for _, one in houses))
            assert dict.fromkeys(range(30), 1) == _together(heard)

    def test_a_broadcast_is_heard_in_every_process(self) -> None:
        """In the order in which it was published; a transport that carries none refuses who wants to hear them."""
        with self.network() as connect:
            if "broadcast" not in self.kinds:
                with pytest.raises(ValueError, match="broadcast"):
                    _house(connect)[0].subscribe("*", Heard(), name="cache", kind="broadcast")
                return
            heard = [Heard(), Heard()]
            houses = [_house(connect) for _ in heard]
            for (bus, _), one in zip(houses, heard, strict=True):
                bus.subscribe("paint.created", one, name="cache", kind="broadcast")
            for number in range(20):
                houses[0][0].publish("paint.created", number)
            self.until(lambda: all(len(one.heard) >= 20 for one in heard), *(one for _, one in houses))
            assert [list(range(20))] * 2 == [one.heard for one in heard]

    def test_a_failure_is_tried_again_alone(self) -> None:
        """The other receivers hear once, and the attempts are counted."""
        with self.network() as connect:
            bus, transport = _house(connect)
            sound, attempts = Heard(), Heard()

            def recovering(_: Any) -> None:
                event = current_event()
                assert event is not None
                attempts(event.attempts)
                if event.attempts < 2:
                    raise OSError("not yet")

            bus.subscribe("paint.created", recovering, name="recovering")
            bus.subscribe("paint.created", sound, name="sound")
            bus.publish("paint.created", 1)
            self.until(lambda: len(attempts.heard) == 3 and sound.heard, transport)
            self.until(lambda: bus.get_stats()["delivered"] == 2, transport)
            assert (attempts.heard, sound.heard) == ([0, 1, 2], [1])
            assert bus.get_stats()["failed"] == 2
            assert self.given_up(transport) == []

    def test_poison_is_given_up_and_holds_up_nobody(self) -> None:
        """After the third failure it is a dead letter; the events behind it, and the other receivers, do not wait for it."""
        with self.network() as connect:
            bus, transport = _house(connect)
            heard, sound = Heard(), Heard()

            def picky(data: Any) -> None:
                heard(data)
                if data == "poison":
                    raise ValueError("no good")

            bus.subscribe("paint.created", picky, name="picky")
            bus.subscribe("paint.created", sound, name="sound")
            for data in ("before", "poison", "behind"):
                bus.publish("paint.created", data)
            self.until(lambda: self.given_up(transport), transport)
            self.until(lambda: heard.counts().get("behind") and len(sound.heard) == 3, transport)
            assert heard.counts() == {"before": 1, "poison": 3, "behind": 1}
            assert sound.counts() == {"before": 1, "poison": 1, "behind": 1}
            [letter] = self.given_up(transport)
            assert (letter.type, letter.data) == ("paint.created", "poison")

    def test_an_event_goes_with_its_unit_of_work(self) -> None:
        """It is sent if that commits, and never if it is rolled back."""
        with self.network() as connect:
            bus, transport = _house(connect)
            heard = Heard()
            bus.subscribe("paint.created", heard, name="indexer")
            with pytest.raises(KeyError):
                self._publish_in_vain(bus, transport)
            with self.unit_of_work(transport):
                bus.publish("paint.created", "committed")
            self.until(lambda: heard.counts().get("committed"), transport)
            assert heard.counts() == {"committed": 1}

    def _publish_in_vain(self, bus: EventBus, transport: Transport) -> None:
        with self.unit_of_work(transport):
            bus.publish("paint.created", "rolled back")
            raise KeyError

    def test_a_coroutine_publishes_and_receives(self) -> None:
        """`apublish` is certain when it returns; a receiver that is `async def` is awaited."""
        with self.network() as connect:
            bus, transport = _house(connect)
            heard = Heard()

            async def coroutine_function(data: Any) -> None:
                await asyncio.sleep(0)
                heard(data)

            receiver: Callable[[Any], object] = coroutine_function if self.runs_coroutines else heard
            bus.subscribe("paint.created", receiver, name="indexer")
            asyncio.run(bus.apublish("paint.created", 1))
            self.until(lambda: heard.heard, transport)
            assert heard.heard == [1]


class Heard:
    """A handler that remembers what it heard; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: list[Any] = []

    def __call__(self, data: Any) -> None:
        """Hear."""
        with self._lock:
            self._heard.append(data)

    @property
    def heard(self) -> list[Any]:
        """What was heard, in order."""
        with self._lock:
            return [*self._heard]

    def counts(self) -> dict[Any, int]:
        """How often each was heard."""
        return _counted(self.heard)


class _Unit:
    """An open unit of work, as far as a bus needs it."""

    is_async = False
    over = False
    outer = None
    wrote = True
    began = 0

    def __init__(self) -> None:
        self.actions: list[Callable[[], object]] = []

    def defer(self, action: Callable[[], object], /, *, even_if_unknown: bool = False) -> None:  # noqa: ARG002
        self.actions.append(action)

    def mark_dirty(self, tags: Iterable[Hashable], /) -> None:
        pass

    def is_dirty(self, _: Iterable[Hashable], /) -> bool:
        return False

    def is_doomed(self) -> bool:
        return False


@contextmanager
def _unit_of_work() -> Iterator[_Unit]:
    unit = _Unit()
    token = ambient.unit_of_work.set(unit)
    try:
        yield unit
    finally:
        ambient.unit_of_work.reset(token)
    for action in unit.actions:
        action()


def _house(connect: Callable[[], Transport]) -> tuple[EventBus, Transport]:
    transport = connect()
    return EventBus("contract", transport=transport), transport


def _together(heard: list[Heard]) -> dict[Any, int]:
    return _counted([data for one in heard for data in one.heard])


def _counted(heard: Iterable[Any]) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for data in heard:
        counts[data] = counts.get(data, 0) + 1
    return counts
