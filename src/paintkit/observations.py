"""Where the primitives tell what they decided, and observers listen.

An observation is a fact about one decision: "retry waits 0.4 s before attempt 3". A call that succeeds at once says
nothing; totals are read from the machines. With no observer there is no cost beyond one truth test; an observer that
raises is logged and never breaks a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

__all__ = ["Observation", "Observer", "Subscription", "emit", "notify", "observe", "observers"]


class Observation(NamedTuple):
    """One decision of one primitive.

    Attributes:
        kind: What was decided, as `primitive.verb`: `"retry.waiting"`, `"circuit_breaker.rejected"`.
        source: The name of the policy, cache, bus or pool that decided.
        details: Evidence by name; durations in seconds. See each primitive's documentation.
    """

    kind: str
    source: str
    details: Mapping[str, Any]


Observer = Callable[[Observation], object]


class Subscription:
    """A registration that can be taken back: by `cancel()`, or at the end of a `with` block.

    Args:
        cancel: Called once, by the first `cancel()`.
    """

    __slots__ = ("_cancel",)

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel: Callable[[], object] | None = cancel

    def cancel(self) -> None:
        """End the registration; a second call does nothing."""
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.cancel()


#: The registered observers, replaced as a whole on every change: readers take no lock.
observers: tuple[Observer, ...] = ()
_changing = threading.Lock()


def observe(observer: Observer) -> Subscription:
    """Call `observer` with every `Observation` from now on.

    Args:
        observer: A plain function; called in the thread or task that decided, outside all locks, so it must be quick.

    Returns:
        The registration: `.cancel()` it, or use it as a context manager.

    Example:
        >>> seen = []
        >>> with observe(seen.append):
        ...     emit("retry.waiting", "supplier", delay=0.4)
        >>> seen[0].kind, seen[0].details["delay"]
        ('retry.waiting', 0.4)
    """
    from paintkit import _arguments

    entry = _Entry(_arguments.callback("observer", observer))
    _replace(lambda current: (*current, entry))
    return Subscription(lambda: _replace(lambda current: tuple(one for one in current if one is not entry)))


def emit(kind: str, source: str, /, **details: Any) -> None:
    """Tell every observer about one decision; see `Observation` for the arguments."""
    if not observers:
        return
    observation = Observation(kind, source, details)
    for observer in observers:
        notify(observer, observation)


def notify(listener: Callable[..., object], /, *arguments: Any) -> None:
    """Call a listener; its failure is logged and goes no further."""
    try:
        listener(*arguments)
    except Exception:
        import logging

        logging.getLogger("paintkit.observations").exception("listener %r failed", listener)


class _Entry:
    """One registration; its identity tells apart two registrations of the same function."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, observation: Observation) -> object:
        return self._observer(observation)

    def __repr__(self) -> str:
        return repr(self._observer)


def _replace(change: Callable[[tuple[Observer, ...]], tuple[Observer, ...]]) -> None:
    global observers
    with _changing:
        observers = change(observers)
