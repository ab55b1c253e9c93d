"""What a call finds around itself: the deadline it has to meet and the unit of work it runs in.

Both travel in context variables, so that they follow a call into tasks and copied contexts and end with their block.
Lower layers fill them (`deadline`, `paintkit.sqlalchemy`); cache, events and retry read them without knowing who did.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextvars import Context, ContextVar, Token, copy_context
from typing import Protocol

from paintkit import clock
from paintkit._locks import new_lock

__all__ = ["UnitOfWork", "deadline", "detached", "detour", "process", "remaining", "unit_of_work"]


class UnitOfWork(Protocol):
    """An open unit of work, as far as its surroundings need to know it."""

    @property
    def wrote(self) -> bool:
        """Whether anything was written in it so far."""
        ...

    @property
    def began(self) -> int:
        """The value of `process.epoch` when it was opened."""
        ...

    @property
    def over(self) -> bool:
        """Whether it has ended: what still finds it then is not inside of it."""
        ...

    @property
    def outer(self) -> UnitOfWork | None:
        """The unit of work around it, if there is one."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether a deferred action may be `async def`: it is awaited then."""
        ...

    def defer(self, action: Callable[[], object], /, *, even_if_unknown: bool = False) -> None:
        """Run `action` after the real COMMIT; forget it if the unit, or its savepoint, is rolled back.

        With `even_if_unknown` it also runs if nobody knows whether the COMMIT arrived: say so of what is safe in any case.
        """
        ...

    def mark_dirty(self, tags: Iterable[Hashable], /) -> None:
        """Note that cached values under these tags are out of date for this unit, until it ends."""
        ...

    def is_dirty(self, tags: Iterable[Hashable], /) -> bool:
        """Whether one of these tags was marked."""
        ...

    def is_doomed(self) -> bool:
        """Whether the unit can only be rolled back."""
        ...


#: When the work around us has to be done: an instant of `clock.now()`, or `None`.
deadline: ContextVar[float | None] = ContextVar("paintkit.deadline", default=None)


class _Innermost:
    """The unit of work of this context, read and set as a context variable is.

    Tasks and copied contexts that began inside of a unit, and outlive it, still hold it. It is nobody's any more: an event
    or an invalidation that waited for its commit would wait for ever.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: ContextVar[UnitOfWork | None] = ContextVar("paintkit.unit_of_work", default=None)

    def get(self) -> UnitOfWork | None:
        """Return the innermost unit of work that is open, or `None`."""
        unit = self.held.get()
        while unit is not None and unit.over:
            unit = unit.outer
        return unit

    def set(self, unit: UnitOfWork | None) -> Token[UnitOfWork | None]:
        """Let a unit of work be the innermost one; `reset` makes that undone."""
        return self.held.set(unit)

    def reset(self, token: Token[UnitOfWork | None]) -> None:
        """Let the one that was replaced be the innermost again."""
        self.held.reset(token)


#: The innermost open unit of work, or `None`.
unit_of_work = _Innermost()


class _Process:
    """Counters that all units of work and caches of this process share.

    A context variable is too slow to read on every cache hit; these are plain attributes. They change under the lock of
    whoever changes them and are read without one.
    """

    __slots__ = ("detours", "epoch")

    def __init__(self) -> None:
        #: Grows with every invalidation that takes effect in any cache.
        self.epoch = 0
        #: How many reasons there are that a cached call cannot be answered in passing: units of work that marked something
        #: dirty, and whatever else has to see every call. 0 spares every cache hit these questions.
        self.detours = 0


process = _Process()
_counting = new_lock()  # guards process.detours


def detour(change: int) -> None:
    """Add a reason for cached calls to go out of line (+1), or take it back (-1)."""
    with _counting:
        process.detours += change


def remaining() -> float | None:
    """Return the seconds left until the ambient deadline (negative when it is over), or `None` without one.

    Example:
        >>> remaining() is None
        True
    """
    due = deadline.get()
    return None if due is None else due - clock.now()


def detached() -> Context:
    """Return a copy of the current context without deadline and unit of work, for work that outlives its caller."""
    context = copy_context()
    if deadline.get() is not None:
        context.run(deadline.set, None)
    if unit_of_work.held.get() is not None:
        context.run(unit_of_work.set, None)
    return context
