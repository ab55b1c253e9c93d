"""An event bus in this process: a publisher tells what happened, every handler hears it, none can spoil it for the rest."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypedDict, TypeVar, overload

from paintkit import _arguments, _wrap, ambient, observations
from paintkit.observations import Subscription

__all__ = ["EventBus", "EventBusStats", "HandlerFailure"]

Handler = Callable[[Any], object]
H = TypeVar("H", bound=Handler)

_ABSENT: Final[Any] = object()


class HandlerFailure(NamedTuple):
    """One handler failed on one event.

    Attributes:
        event_type: The type under which the event was published.
        data: What was published.
        handler: The handler that failed.
        error: What it raised.
    """

    event_type: str
    data: Any
    handler: Handler
    error: Exception


class EventBusStats(TypedDict):
    """The totals of an `EventBus` since it was made.

    Attributes:
        published: Events given to `publish()` and not refused.
        deferred: How many of them had to wait for the commit of a unit of work.
        delivered: Calls of handlers that returned.
        failed: Calls of handlers that raised.
        handlers: The number of handlers by event type or pattern.
    """

    published: int
    deferred: int
    delivered: int
    failed: int
    handlers: dict[str, int]


class _Registration(NamedTuple):
    pattern: str
    handler: Handler
    wants: Callable[[str], object]

    @classmethod
    def of(cls, pattern: str, handler: Handler) -> _Registration:
        if "*" not in pattern:
            return cls(pattern, handler, pattern.__eq__)
        expression = ".*".join(map(re.escape, pattern.split("*")))
        return cls(pattern, handler, re.compile(expression, re.DOTALL).fullmatch)


class EventBus:
    """Delivers events to handlers, in the publisher's thread or task, in the order in which they were registered.

    A handler that raises an `Exception` is logged, counted and reported, and the next one runs: it stops neither the
    other handlers nor the publisher. `KeyboardInterrupt` and its kind pass through. Inside an open unit of work an event
    waits for the real COMMIT and is dropped by a rollback, so no handler ever acts on what was not stored.

    Handlers are `def` or `async def`. The latter run where somebody awaits them: in `apublish`, and after the commit of an
    async unit of work. Elsewhere they fail, as above: nothing is ever dropped in silence.

    The bus keeps its handlers alive until they are cancelled. All methods may be called from any thread, and from handlers.

    Args:
        name: What the bus is called in logs and observations.
        on_error: Called with each `HandlerFailure`, after it was logged; may not be `async def`. If it raises an
            `Exception`, that is logged.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: `name` is empty.

    Example:
        >>> bus = EventBus()
        >>> @bus.subscribe("paint.created")
        ... def welcome(paint):
        ...     print("welcome,", paint["name"])
        >>> bus.publish("paint.created", {"name": "Ultramarine"})
        welcome, Ultramarine
        >>> with bus.subscribe("paint.*", print):
        ...     bus.publish("paint.sold", 3)
        3
        >>> bus.publish("paint.sold", 4)
    """

    def __init__(
        self, name: str = "events", *, on_error: Callable[[HandlerFailure], object] | None = None
    ) -> None:
        #: What the bus is called in logs and observations.
        self.name = _arguments.label("name", name)
        self._on_error = on_error if on_error is None else _arguments.callback("on_error", on_error)
        # Guards the counts and every change of these three; the tuples are replaced whole and read without it.
        self._lock = threading.Lock()
        self._registrations: tuple[_Registration, ...] = ()
        self._wildcards: tuple[_Registration, ...] = ()
        self._handlers: dict[
            str, tuple[Handler, ...]
        ] = {}  # by event type, of types that somebody named exactly
        self._published = self._deferred = self._delivered = self._failed = 0

    @overload
    def subscribe(self, event_type: str) -> Callable[[H], H]: ...

    @overload
    def subscribe(self, event_type: str, handler: Handler) -> Subscription: ...

    def subscribe(self, event_type: str, handler: Handler = _ABSENT) -> Subscription | Callable[[H], H]:
        """Call `handler(data)` for every event of a type, or decorate a handler.

        Args:
            event_type: The type, in which `*` stands for any characters: `"paint.*"` means `paint.created` and
                `paint.stock.moved`, `"*"` means everything.
            handler: A function, `def` or `async def`. One that is registered twice is called twice. Without it, the return value is a
                decorator that registers a function and returns it unchanged.

        Returns:
            The registration, to be ended by `.cancel()` or as a context manager; or the decorator. An event that is
            being delivered at that moment still reaches the handlers that were there when its delivery began.

        Raises:
            TypeError: An argument is of the wrong kind, or the handler is a generator function, whose body nobody would
                run.
            ValueError: `event_type` is empty.
        """
        pattern = _arguments.label("event_type", event_type)
        if handler is _ABSENT:
            return partial(self._decorate, pattern)
        return self._register(pattern, handler)

    def publish(self, event_type: str, data: Any = None) -> None:
        """Tell every handler of `event_type` what happened; inside an open unit of work, after its commit.

        Args:
            event_type: The exact type. One that nobody waits for is fine.
            data: Handed to each handler as it is: the same object.

        Raises:
            TypeError: `event_type` is no string.
            ValueError: `event_type` is empty or a pattern.
        """
        self._check_published(event_type)
        unit = ambient.unit_of_work.get()
        if unit is None:
            self._deliver(event_type, data, published=1)
        else:
            self._defer(unit, event_type, data)

    async def apublish(self, event_type: str, data: Any = None) -> None:
        """Do as `publish` does, and await the handlers that are `async def`, one after the other.

        Raises:
            TypeError: `event_type` is no string.
            ValueError: `event_type` is empty or a pattern.
        """
        self._check_published(event_type)
        unit = ambient.unit_of_work.get()
        if unit is None:
            await self._adeliver(event_type, data, published=1)
        else:
            self._defer(unit, event_type, data)

    def get_stats(self) -> EventBusStats:
        """Return the totals since the bus was made, as plain data."""
        with self._lock:
            handlers: dict[str, int] = {}
            for registration in self._registrations:
                handlers[registration.pattern] = handlers.get(registration.pattern, 0) + 1
            return {
                "published": self._published,
                "deferred": self._deferred,
                "delivered": self._delivered,
                "failed": self._failed,
                "handlers": handlers,
            }

    def __repr__(self) -> str:
        return f"<EventBus {self.name!r}: {len(self._registrations)} handlers>"

    def _decorate(self, pattern: str, handler: H) -> H:
        self._register(pattern, handler)
        return handler

    def _register(self, pattern: str, handler: Handler) -> Subscription:
        registration = _Registration.of(pattern, _checked_handler(handler))
        with self._lock:
            self._replace((*self._registrations, registration), pattern)
        return Subscription(partial(self._unregister, registration))

    def _unregister(self, registration: _Registration) -> None:
        with self._lock:
            # By identity: an equal registration of the same function is another one.
            kept = tuple(one for one in self._registrations if one is not registration)
            self._replace(kept, registration.pattern)

    def _replace(self, registrations: tuple[_Registration, ...], changed: str) -> None:
        """Make the tables say `registrations`, which differ from before in `changed` alone."""
        self._registrations = registrations
        self._wildcards = tuple(one for one in registrations if "*" in one.pattern)
        for event_type in [*self._handlers] if "*" in changed else [changed]:
            if any(one.pattern == event_type for one in registrations):
                self._handlers[event_type] = tuple(
                    one.handler for one in registrations if one.wants(event_type)
                )
            else:
                del self._handlers[event_type]

    def _check_published(self, event_type: str) -> None:
        try:
            if event_type in self._handlers:
                return  # it was checked when somebody subscribed to it
        except TypeError:  # not even hashable
            pass
        if "*" in _arguments.label("event_type", event_type):
            raise ValueError(f"event_type must be one type to publish, not the pattern {event_type!r}")

    def _defer(self, unit: ambient.UnitOfWork, event_type: str, data: Any) -> None:
        deliver = self._adeliver if unit.is_async else self._deliver
        unit.defer(partial(deliver, event_type, data, published=0))
        with self._lock:
            self._published += 1
            self._deferred += 1

    def _deliver(self, event_type: str, data: Any, *, published: int) -> None:
        handlers = self._handlers_of(event_type)
        failed = 0
        for handler in handlers:
            try:
                result = handler(data)
                if result is not None:
                    _refuse_awaitable(result)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is reported, and stops nobody
                failed += 1
                self._report(HandlerFailure(event_type, data, handler, error))
        self._count(published, len(handlers) - failed, failed)

    async def _adeliver(self, event_type: str, data: Any, *, published: int) -> None:
        handlers = self._handlers_of(event_type)
        failed = 0
        for handler in handlers:
            try:
                result: Any = handler(data)
                if hasattr(result, "__await__"):
                    await result
            except Exception as error:  # noqa: BLE001 - as above
                failed += 1
                self._report(HandlerFailure(event_type, data, handler, error))
        self._count(published, len(handlers) - failed, failed)

    def _handlers_of(self, event_type: str) -> tuple[Handler, ...]:
        handlers = self._handlers.get(event_type)
        if handlers is None:
            return tuple(one.handler for one in self._wildcards if one.wants(event_type))
        return handlers

    def _count(self, published: int, delivered: int, failed: int) -> None:
        with self._lock:
            self._published += published
            self._delivered += delivered
            self._failed += failed

    def _report(self, failure: HandlerFailure) -> None:
        import logging

        event_type, _, handler, error = failure
        log = logging.getLogger("paintkit.events")
        log.error(
            "%s: handler %s failed on %r", self.name, _wrap.name_of(handler), event_type, exc_info=error
        )
        observations.emit(
            "event_bus.handler_failed",
            self.name,
            event_type=event_type,
            handler=_wrap.name_of(handler),
            error=error,
        )
        if self._on_error is None:
            return
        try:
            self._on_error(failure)
        except Exception:
            log.exception("%s: on_error %r failed", self.name, self._on_error)


def _checked_handler(handler: Handler) -> Handler:
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r} ({type(handler).__name__})")
    colour = _wrap.colour_of(handler)
    if colour not in {_wrap.Colour.BLOCKING, _wrap.Colour.ASYNCIO}:
        raise TypeError(
            f"handler must not be a {colour.value} function: nothing would run {_wrap.name_of(handler)}"
        )
    return handler


def _refuse_awaitable(result: object) -> None:
    try:
        _arguments.settled("the handler", result)
    except TypeError as error:
        error.add_note("an async handler needs `await bus.apublish(...)`, or an async unit of work")
        raise
