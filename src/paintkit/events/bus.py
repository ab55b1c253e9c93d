"""An event bus in this process: a publisher tells what happened, every handler hears it, none can spoil it for the rest."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, overload

from paintkit import _arguments, _wrap, ambient, observations
from paintkit._words import counted
from paintkit.events.handlers import (
    Handler,
    HandlerFailure,
    Registration,
    Weak,
    checked,
    refuse_awaitable,
)
from paintkit.observations import Subscription

if TYPE_CHECKING:
    from paintkit.envelope import Envelope, Kind
    from paintkit.events.transport import Transport
    from paintkit.telemetry import Metric, Source

__all__ = ["EventBus", "EventBusStats", "HandlerFailure"]

H = TypeVar("H", bound=Handler)

_ABSENT: Final[Any] = object()
_KINDS: Final = ("work", "broadcast")


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


class EventBus:
    """Delivers events to handlers, in the publisher's thread or task, in the order in which they were registered.

    A handler that raises an `Exception` is logged, counted and reported, and the next one runs: it stops neither the
    other handlers nor the publisher. `KeyboardInterrupt` and its kind pass through. Inside an open unit of work an event
    waits for the real COMMIT and is dropped by a rollback, so no handler ever acts on what was not stored.

    Handlers are `def` or `async def`. The latter run where somebody awaits them: in `apublish`, and after the commit of an
    async unit of work. Elsewhere they fail, as above: nothing is ever dropped in silence.

    With a transport, events go to whoever is subscribed in the process that the transport delivers in, this one or
    another: at least once, and each handler's failure is tried again without the others. What is published then has to be
    JSON. See `paintkit.sqlalchemy.Outbox` and `paintkit.redis.RedisStreams`.

    The bus keeps its handlers alive until they are cancelled. All methods may be called from any thread, and from handlers.

    Args:
        name: What the bus is called in logs and observations.
        transport: What carries the events; it belongs to this bus alone. Without one, they stay in this process.
        on_error: Called with each `HandlerFailure`, after it was logged; may not be `async def`. If it raises an
            `Exception`, that is logged.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: `name` is empty, or the transport has a bus already.

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
        self,
        name: str = "events",
        *,
        transport: Transport | None = None,
        on_error: Callable[[HandlerFailure], object] | None = None,
    ) -> None:
        #: What the bus is called in logs and observations.
        self.name = _arguments.label("name", name)
        self._on_error = on_error if on_error is None else _arguments.callback("on_error", on_error)
        # Guards the counts and every change of what follows, which is read without it.
        self._lock = threading.Lock()
        # Who is subscribed, with the numbers that tell their order: all, by the type that they named, and the rest.
        self._registrations: dict[Registration, int] = {}
        self._named: dict[str, dict[Registration, int]] = {}
        self._wildcards: dict[Registration, int] = {}
        self._numbers = itertools.count()
        self._changes = 0
        # Who hears a type that somebody named, and who may hear the others: made by the first event after a change, so that
        # many changes cost no more than each of them.
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._listeners: tuple[Registration, ...] | None = ()
        self._dead: deque[Registration] = deque()  # weak ones whose object is gone
        self._published = self._deferred = self._delivered = self._failed = 0
        self._transport = transport
        if transport is not None:
            _arguments.having("transport", transport, "attach", "a transport, such as an Outbox").attach(self)

    @overload
    def subscribe(
        self, event_type: str, *, name: str | None = None, kind: Kind = "work", idempotent: bool = False
    ) -> Callable[[H], H]: ...

    @overload
    def subscribe(
        self,
        event_type: str,
        handler: Handler,
        *,
        weak: bool = False,
        name: str | None = None,
        kind: Kind = "work",
        idempotent: bool = False,
    ) -> Subscription: ...

    def subscribe(
        self,
        event_type: str,
        handler: Handler = _ABSENT,
        *,
        weak: bool = False,
        name: str | None = None,
        kind: Kind = "work",
        idempotent: bool = False,
    ) -> Subscription | Callable[[H], H]:
        """Call `handler(data)` for every event of a type, or decorate a handler.

        Args:
            event_type: The type, in which `*` stands for any characters: `"paint.*"` means `paint.created` and
                `paint.stock.moved`, `"*"` means everything.
            handler: A function, `def` or `async def`. One that is registered twice is called twice. Without it, the return value is a
                decorator that registers a function and returns it unchanged.
            weak: Do not keep the object alive whose bound method the handler is: the registration ends with it.
            name: What a transport calls the handler, in every process and after every restart (default: the module and
                name of the function). It is how a transport knows who has handled an event, so keep it when you rename
                the function. Without a transport it is not used.
            kind: With a transport: `"work"` runs the handler in one of the processes that subscribe it, `"broadcast"` in
                each of them that is there at the time.
            idempotent: With a transport: it does no harm to run the handler again for the same event. It then runs outside
                of any unit of work. Say so of what acts elsewhere than in the database, such as on a cache.

        Returns:
            The registration, to be ended by `.cancel()` or as a context manager; or the decorator. An event that is
            being delivered at that moment still reaches the handlers that were there when its delivery began.

        Raises:
            TypeError: An argument is of the wrong kind, or the handler is a generator function, whose body nobody would
                run; `weak` was said of something else than a bound method.
            ValueError: `event_type` is empty. With a transport: another handler is called so, or the transport cannot
                give this one what it needs.
        """
        pattern = _arguments.label("event_type", event_type)
        _arguments.choice("kind", kind, _KINDS)
        _arguments.flag("idempotent", idempotent)
        register = partial(self._register, pattern, name=name, kind=kind, idempotent=idempotent)
        if handler is not _ABSENT:
            return register(handler, weak=_arguments.flag("weak", weak))
        if weak:
            raise TypeError(
                "weak=True is for a method of an object: subscribe(event_type, an_object.method, weak=True)"
            )

        def decorator(handler: H) -> H:
            register(handler)
            return handler

        return decorator

    def publish(self, event_type: str, data: Any = None, *, ordering_key: str | None = None) -> None:
        """Tell every handler of `event_type` what happened; inside an open unit of work, after its commit.

        Args:
            event_type: The exact type. One that nobody waits for is fine.
            data: Handed to each handler as it is: the same object. With a transport: data that JSON can carry.
            ordering_key: With a transport: events of one key are handled one after another, in the order of their commits.
                Without one, all events are anyway.

        Raises:
            TypeError: `event_type` is no string; with a transport, `data` cannot be JSON, and nothing was published.
            ValueError: `event_type` is empty or a pattern; with a transport, a number in `data` is not finite.
        """
        self._check_published(event_type)
        if self._transport is not None:
            envelope = self._enclosed(self._transport, event_type, data, ordering_key)
            if envelope is not None:
                self._transport.send(envelope)
                self._count(1, 0, 0)
            return
        unit = ambient.unit_of_work.get()
        if unit is None:
            self._deliver(event_type, data, published=1)
        else:
            self._defer(unit, event_type, data)

    async def apublish(self, event_type: str, data: Any = None, *, ordering_key: str | None = None) -> None:
        """Do as `publish` does, and await the handlers that are `async def`, one after the other, or the transport.

        Raises:
            TypeError: As for `publish`.
            ValueError: As for `publish`.
        """
        self._check_published(event_type)
        if self._transport is not None:
            envelope = self._enclosed(self._transport, event_type, data, ordering_key)
            if envelope is not None:
                await self._transport.asend(envelope)
                self._count(1, 0, 0)
            return
        unit = ambient.unit_of_work.get()
        if unit is None:
            await self._adeliver(event_type, data, published=1)
        else:
            self._defer(unit, event_type, data)

    @property
    def transport(self) -> Transport | None:
        """What carries the events; `None` if they stay in this process."""
        return self._transport

    def receivers(self) -> tuple[Registration, ...]:
        """Return who is subscribed at this moment, in order of registration: for transports."""
        return tuple(self._registrations.copy())

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

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return the totals, for exporters, and the transport if it has any; see `paintkit.telemetry`."""
        from paintkit import _catalogue
        from paintkit.telemetry import Source

        yield from _catalogue.BUS.read(self.name, self.get_stats())
        transport: object = self._transport
        if isinstance(transport, Source):
            yield transport

    def __repr__(self) -> str:
        return f"<EventBus {self.name!r}: {counted(len(self._registrations), 'handler')}>"

    def _register(
        self,
        pattern: str,
        handler: Handler,
        *,
        weak: bool = False,
        name: str | None,
        kind: Kind,
        idempotent: bool,
    ) -> Subscription:
        registration = Registration(
            pattern,
            checked(handler),
            name=_wrap.name_of(handler) if name is None else _arguments.label("name", name),
            kind=kind,
            idempotent=idempotent,
            settle=self._settle,
        )
        if weak:
            registration.handler = Weak(handler, partial(self._died, registration))
        with self._lock:
            if self._transport is not None:
                self._admit(self._transport, registration)
            self._add(registration)
        self._bury()
        return Subscription(partial(self._unregister, registration))

    def _admit(self, transport: Transport, registration: Registration) -> None:
        if any(one.name == registration.name for one in self._registrations):
            raise ValueError(
                f"{self.name} has a handler called {registration.name!r} already: give each a name=, which stays the same "
                "in every process, for by it the transport knows who has handled an event"
            )
        transport.admit(registration)

    def _unregister(self, registration: Registration) -> None:
        with self._lock:
            self._forget(registration)
        self._bury()

    def _forget(self, registration: Registration) -> None:
        if self._registrations.pop(registration, None) is None:
            return
        pattern = registration.pattern
        if "*" in pattern:
            del self._wildcards[registration]
        else:
            del self._named[pattern][registration]
            if not self._named[pattern]:
                del self._named[pattern]
        self._note_change(pattern)
        if self._transport is not None:
            self._transport.dismiss(registration)

    def _died(self, registration: Registration) -> None:
        """Note that a weak handler's object is gone: told by the garbage collector, maybe while this thread has the lock."""
        self._dead.append(registration)
        self._bury()

    def _bury(self) -> None:
        """Forget the dead, unless somebody has the lock, who will do it then."""
        while self._dead and self._lock.acquire(blocking=False):
            try:
                while self._dead:
                    self._forget(self._dead.popleft())
            finally:
                self._lock.release()

    def _add(self, registration: Registration) -> None:
        """Append a registration to the tables; what is there already is not looked at."""
        pattern = registration.pattern
        number = self._registrations[registration] = next(self._numbers)
        if "*" in pattern:
            self._wildcards[registration] = number
        else:
            self._named.setdefault(pattern, {})[registration] = number
        self._note_change(pattern)

    def _note_change(self, pattern: str) -> None:
        """Let the next event look anew for those who hear it, if the pattern may concern it."""
        self._changes += 1
        if "*" in pattern:
            self._handlers.clear()
            self._listeners = None
        else:
            self._handlers.pop(pattern, None)

    def _check_published(self, event_type: str) -> None:
        try:
            if event_type in self._named:
                return  # it was checked when somebody subscribed to it
        except TypeError:  # not even hashable
            pass
        if "*" in _arguments.label("event_type", event_type):
            raise ValueError(f"event_type must be one type to publish, not the pattern {event_type!r}")

    def _enclosed(
        self, transport: Transport, event_type: str, data: Any, ordering_key: str | None
    ) -> Envelope | None:
        """Make an envelope; `None` if it goes with the open unit of work, else it is for the caller to send."""
        from paintkit.envelope import Envelope

        envelope = Envelope.of(event_type, data, ordering_key=ordering_key)
        unit = ambient.unit_of_work.get()
        if unit is None:
            return envelope
        if not transport.enlist(envelope):
            unit.defer(partial(transport.asend if unit.is_async else transport.send, envelope))
        with self._lock:
            self._published += 1
            self._deferred += 1
        return None

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
                    refuse_awaitable(result)
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
        if handlers is not None:
            return handlers
        if event_type in self._named:
            return self._find_handlers(event_type)
        listeners = self._listeners
        if listeners is None:
            listeners = self._find_listeners()
        # Not kept: there is no end of types that nobody named.
        return tuple(one.handler for one in listeners if one.wants(event_type))

    def _find_handlers(self, event_type: str) -> tuple[Handler, ...]:
        """Look who hears events of a type that somebody named, and keep it."""
        while True:
            changes = self._changes
            found = self._named.get(event_type, {}).copy()  # in one step, whatever other threads do
            wildcards = self._wildcards.copy()
            if changes == self._changes:  # so both are of one moment
                break
        found |= {one: number for one, number in wildcards.items() if one.wants(event_type)}
        handlers = tuple([one.handler for one in sorted(found, key=found.__getitem__)])
        with self._lock:
            if changes == self._changes and event_type in self._named:
                self._handlers[event_type] = handlers
        return handlers

    def _find_listeners(self) -> tuple[Registration, ...]:
        """Look who hears more than one type, and keep it."""
        changes = self._changes
        listeners = tuple(self._wildcards.copy())
        with self._lock:
            if changes == self._changes:
                self._listeners = listeners
        return listeners

    def _settle(self, failure: HandlerFailure | None) -> None:
        """An attempt by the transport is over."""
        if failure is not None:
            self._report(failure)
        self._count(0, failure is None, failure is not None)

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
