"""Handlers as a bus keeps them: what they are called, what they want, and how one of them is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakMethod

from typing_extensions import override

from paintkit import _arguments, _wrap, envelope

if TYPE_CHECKING:
    from paintkit.envelope import Envelope, Kind

__all__ = ["Handler", "HandlerFailure", "Registration", "Weak", "checked", "refuse_awaitable"]

Handler = Callable[[Any], object]


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


class Registration:
    """One subscription of one handler; its identity tells it from an equal one.

    It is also what a transport sees of the handler: see `paintkit.envelope.Receiver`.

    Args:
        pattern: The type it wants, in which `*` stands for any characters.
        handler: What is called.
        name: What it is called, in every process.
        kind: Who hears the event.
        idempotent: Whether it may run more than once.
        settle: Told what came of every attempt by a transport.
    """

    __slots__ = ("_settle", "_wants", "handler", "idempotent", "is_async", "kind", "name", "pattern")

    def __init__(
        self,
        pattern: str,
        handler: Handler,
        *,
        name: str,
        kind: Kind = "work",
        idempotent: bool = False,
        settle: Callable[[HandlerFailure | None], None],
    ) -> None:
        self.pattern = pattern
        self.handler = handler
        self.name = name
        self.kind = kind
        self.idempotent = idempotent
        #: Whether it is known to give something to await.
        self.is_async = _wrap.colour_of(handler) is _wrap.Colour.ASYNCIO
        self._settle = settle
        self._wants: Callable[[str], object] = pattern.__eq__
        if "*" in pattern:
            expression = ".*".join(map(re.escape, pattern.split("*")))
            self._wants = re.compile(expression, re.DOTALL).fullmatch

    def wants(self, event_type: str) -> bool:
        """Whether it is to hear events of this type."""
        return bool(self._wants(event_type))

    def deliver(self, event: Envelope) -> None:
        """Call the handler in this thread, and raise what it raises."""
        token = envelope._handled.set(event)
        try:
            refuse_awaitable(self.handler(event.data))
        finally:
            envelope._handled.reset(token)

    async def adeliver(self, event: Envelope) -> None:
        """Call the handler in this task, `def` or `async def`, and raise what it raises."""
        token = envelope._handled.set(event)
        try:
            result: Any = self.handler(event.data)
            if hasattr(result, "__await__"):
                await result
        finally:
            envelope._handled.reset(token)

    def settle(self, event: Envelope, error: Exception | None) -> None:
        """Note what came of an attempt."""
        self._settle(None if error is None else HandlerFailure(event.type, event.data, self.handler, error))

    @override
    def __repr__(self) -> str:
        return f"<{self.name} for {self.pattern!r}>"


class Weak:
    """A bound method that does not keep its object alive; calling it when that is gone does nothing.

    Args:
        method: The bound method.
        died: Called when its object is gone: by the garbage collector, at any moment and in any thread.
    """

    def __init__(self, method: Handler, died: Callable[[], None]) -> None:
        if not (hasattr(method, "__self__") and hasattr(method, "__func__")):
            raise TypeError(
                f"weak=True is for a method of an object, and nothing but the bus would hold {_wrap.name_of(method)}"
            )
        self._method: WeakMethod[Any] = WeakMethod(method, lambda _: died())
        self.__module__, self.__qualname__ = method.__module__, method.__qualname__  # what logs call it

    def __call__(self, data: Any) -> object:
        """Call the method, if its object is there."""
        method = self._method()
        return None if method is None else method(data)


def checked(handler: Handler) -> Handler:
    """Return a handler that can be called with an event, `def` or `async def`."""
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r} ({type(handler).__name__})")
    if isinstance(handler, type) and issubclass(handler, BaseException):
        raise TypeError(
            f"handler must be a function, not the exception class {handler.__name__}, which does nothing"
        )
    colour = _wrap.colour_of(handler)
    if colour not in {_wrap.Colour.BLOCKING, _wrap.Colour.ASYNCIO}:
        raise TypeError(
            f"handler must not be a {colour.value} function: nothing would run {_wrap.name_of(handler)}"
        )
    return handler


def refuse_awaitable(result: object) -> None:
    """Refuse what a handler returned if somebody would have to await it."""
    if result is None:
        return
    try:
        _arguments.settled("the handler", result)
    except TypeError as error:
        error.add_note("an async handler needs `await bus.apublish(...)`, or an async unit of work")
        raise
