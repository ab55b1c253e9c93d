"""An event on its way between processes: what it carries, and who is to hear it.

This is all that a transport and an event bus have to know of each other's world, so it lies below both.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

from paintkit import _arguments

__all__ = ["LONGEST_NAME", "Envelope", "Kind", "Receiver", "Receivers", "current_event"]

#: Characters of an event type, an ordering key or a receiver's name at most, so that any table or stream can hold them.
LONGEST_NAME: Final = 200

#: Who hears an event: `"work"`, one process of all; `"broadcast"`, every process that listens at that moment.
Kind = Literal["work", "broadcast"]


class Envelope(NamedTuple):
    """An event that crosses a transport. It may arrive more than once; its id tells that it is the same.

    Attributes:
        id: A UUID that no other event has. Ids begin with their time, for the sake of indexes; that is no order.
        type: The type under which it was published.
        payload: The data as JSON text.
        occurred_at: When it was published, by the publisher's wall clock, in UTC.
        ordering_key: Events of one key are handled one after another, in the order of their commits; `None` for no order.
        attempts: How many deliveries of it have failed so far.
    """

    id: str
    type: str
    payload: str
    occurred_at: datetime
    ordering_key: str | None = None
    attempts: int = 0

    @classmethod
    def of(cls, event_type: str, data: Any, *, ordering_key: str | None = None) -> Envelope:
        """Return a new event with an id of its own.

        Args:
            event_type: Its type, at most 200 characters.
            data: Made of `dict` with string keys, `list`, `str`, `int`, finite `float`, `bool` and `None`. A tuple arrives
                as a list; nothing else is changed on the way.
            ordering_key: See the attribute; at most 200 characters.

        Raises:
            TypeError: JSON has no word for something in `data`; the message names the place.
            ValueError: A number in `data` is not finite, `data` contains itself, or a name is empty, too long, or not to be
                stored.
        """
        if ordering_key is not None:
            _storable("ordering_key", _arguments.label("ordering_key", ordering_key))
        _storable("event_type", event_type)
        return cls(_new_id(), event_type, _encoded(data), datetime.now(UTC), ordering_key)

    @property
    def data(self) -> Any:
        """What was published, decoded anew for everyone who asks: nobody can spoil it for the next."""
        import json

        return json.loads(self.payload)


class Receiver(Protocol):
    """One handler of a bus, as a transport sees it."""

    @property
    def name(self) -> str:
        """What it is called in every process and after every restart; no other receiver of its bus is called so."""
        ...

    @property
    def pattern(self) -> str:
        """The type it wants, in which `*` stands for any characters."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether one process is to run it, or every one."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether it may run more than once for one event, outside of any unit of work, by the word of who wrote it."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether it is known to need `adeliver`."""
        ...

    def wants(self, event_type: str) -> bool:
        """Whether it is to hear events of this type."""
        ...

    def deliver(self, envelope: Envelope) -> None:
        """Call the handler in this thread, and raise what it raises."""
        ...

    async def adeliver(self, envelope: Envelope) -> None:
        """Call the handler in this task, `def` or `async def`, and raise what it raises."""
        ...

    def settle(self, envelope: Envelope, error: Exception | None) -> None:
        """Note what came of an attempt, time-outs and failed commits included: counted, and told if it failed."""
        ...


class Receivers(Protocol):
    """A bus, as its transport sees it."""

    name: str

    def receivers(self) -> tuple[Receiver, ...]:
        """Return who is subscribed at this moment, in order of registration."""
        ...


#: The event that is being handled, `None` where it came by no transport.
_handled: ContextVar[Envelope | None] = ContextVar("paintkit.event", default=None)


def current_event() -> Envelope | None:
    """Return the event that the handler around this call was given, with its id; `None` if it came by no transport.

    Example:
        >>> current_event() is None
        True
    """
    return _handled.get()


def _storable(name: str, value: str) -> None:
    """Refuse here, where somebody hears of it, what a database would refuse at the COMMIT."""
    if len(value) > LONGEST_NAME:
        raise ValueError(
            f"{name} must have at most {LONGEST_NAME} characters, not {len(value)}: {value!r:.60}"
        )
    if any(one == "\0" or "\ud800" <= one <= "\udfff" for one in value):
        raise ValueError(f"{name} holds a character that no table or stream can: {value!r:.60}")


def _new_id() -> str:
    """A UUID of version 7 (RFC 9562): milliseconds first, so that neighbours in time are neighbours in an index."""
    import secrets
    import time
    from uuid import UUID

    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds << 80) | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | (0x7 << 76)  # the version
    return str(UUID(int=bits & ~(0x3 << 62) | (0x2 << 62)))  # the variant


def _encoded(data: Any) -> str:
    """Return data as JSON text that means the same."""
    import json

    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        if json.loads(text) == data:
            return text
    except RecursionError:
        raise ValueError(
            "data is nested too deeply, or contains itself: publish ids instead of it all"
        ) from None
    except (TypeError, ValueError):
        pass  # the look below says where and why; it has to refuse what came here
    _look("data", data, [])
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def _look(place: str, value: Any, inside: list[int]) -> None:
    """Refuse the first thing that JSON has no word for, or would turn into something else."""
    if isinstance(value, dict | list | tuple):
        if id(value) in inside:
            raise ValueError(f"{place} contains itself: publish data that ends")
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            if isinstance(value, dict) and not isinstance(key, str):
                raise TypeError(
                    f"{place} has the key {key!r} ({type(key).__name__}): JSON knows only strings as keys"
                )
            _look(f"{place}[{key!r}]", part, [*inside, id(value)])
    elif isinstance(value, float) and not -float("inf") < value < float("inf"):
        raise ValueError(f"{place} is {value!r}: JSON has no word for it; publish None or a text")
    elif value is not None and not isinstance(value, str | int | float):
        raise TypeError(
            f"{place} is {value!r:.80} ({type(value).__name__}), which cannot be JSON: publish ids, texts and numbers, "
            "and let the handler look up the rest"
        )
