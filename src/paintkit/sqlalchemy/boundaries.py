"""Where a unit of work begins and ends: one boundary, entered once and left once, in either colour."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from paintkit import ambient, clock
from paintkit._runtime import drive
from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy import hooks

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction

    from paintkit.sqlalchemy.options import Options, Propagation
    from paintkit.sqlalchemy.units import UnitOfWork

__all__ = ["Boundary", "Owner"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

T = TypeVar("T")

# HTTP's first error status.
_BAD_REQUEST: Final = 400


class Owner(Protocol):
    """What a boundary needs of the manager that it belongs to."""

    is_async: bool

    def open_unit(self) -> UnitOfWork | None:
        """Return the innermost open unit of work of this manager."""
        ...

    def unit_around(self) -> UnitOfWork | None:
        """Return the same, whichever thread or task it belongs to."""
        ...

    def begin(self, options: Options, outer: UnitOfWork | None) -> UnitOfWork:
        """Begin a unit of work with a session of its own."""
        ...

    def ended(self, unit: UnitOfWork) -> None:
        """A unit of work of this manager has ended."""
        ...


class Boundary:
    """One passage through a boundary: enter it once, leave it once.

    The outermost boundary begins a unit of work and ends it. One inside joins it, or guards a savepoint in it.
    """

    __slots__ = (
        "_db",
        "_deadline",
        "_discard",
        "_entered",
        "_joined",
        "_options",
        "_outer",
        "_outer_deadline",
        "_result",
        "_savepoint",
        "_unit",
    )

    def __init__(self, db: Owner, options: Options) -> None:
        self._db = db
        self._options = options
        self._unit: UnitOfWork | None = None
        self._entered = False
        self._joined = False
        self._savepoint: SessionTransaction | None = None
        self._discard = False
        self._result: object = None
        self._deadline: float | None = None

    def __enter__(self) -> Session:
        self._require(asyncio=False)
        self.open()
        return cast("Session", self._session())

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        actions = self.close(error)
        if actions:
            with _outside():
                drive(hooks.run(actions, asyncio=False))
        self._raise_unresolved()

    async def __aenter__(self) -> AsyncSession:
        self._require(asyncio=True)
        if self._options.propagation == "nested":
            await _in_greenlet(self.open)
        else:
            self.open()
        return cast("AsyncSession", self._session())

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._joined and self._savepoint is None:
            self.close(error)
            return
        try:
            await _uncancelled(self._finish(error))
        finally:
            self.suspend()  # in this context: the end had one of its own

    async def _finish(self, error: BaseException | None) -> None:
        actions = await _in_greenlet(self.close, error)
        if actions:
            with _outside():
                await hooks.run(actions, asyncio=True)
        self._raise_unresolved()

    def _raise_unresolved(self) -> None:
        if self._unit is not None and not self._joined and self._unit.unresolved is not None:
            raise self._unit.unresolved

    def judged(self, result: T) -> T:
        """Return a result, having noted whether it asks for a rollback."""
        rule = self._options.rollback_if or _is_error_response
        self._discard = bool(rule(result))
        self._result = result
        return result

    def open(self) -> None:
        """Begin, join or refuse, and make the unit of work ambient."""
        if self._entered:
            raise RuntimeError("a boundary is entered once: call unit_of_work() again")
        self._entered = True
        options = self._options
        is_new = options.propagation == "requires_new"
        # One that begins another beside it, in a child task as well, uses nothing of what is around.
        unit = self._db.unit_around() if is_new else self._db.open_unit()
        _refuse(options.propagation, unit)
        if unit is None or is_new:
            if options.propagation != "never":
                self._unit = self._db.begin(options, unit)
        else:
            self._join(unit)
        self._deadline = _sooner(options.timeout)
        self.resume()

    def _join(self, unit: UnitOfWork) -> None:
        isolation = self._options.isolation
        if isolation is not None and isolation != unit.isolation:
            raise ValueError(
                f"isolation={isolation!r} cannot be had inside a unit of work of isolation {unit.isolation or 'default'!r}: "
                "open the outer one with it, or use propagation='requires_new'"
            )
        if self._options.propagation == "nested":
            self._savepoint = unit.session.begin_nested()
        self._unit = unit
        self._joined = True
        unit.depth += 1

    def close(self, error: BaseException | None) -> list[hooks.Action]:
        """Leave the boundary as it was left; return the actions that may run now."""
        unit = self._unit
        try:
            if unit is None:
                return []
            if self._savepoint is not None:
                self._end_savepoint(unit, self._savepoint, error)
            elif self._joined:
                self._leave(unit, error)
            else:
                unit.discarded = unit.discarded or self._discard
                return self._end(unit, error)
            return []
        finally:
            if unit is not None:
                unit.depth -= 1
            self.suspend()

    def _end(self, unit: UnitOfWork, error: BaseException | None) -> list[hooks.Action]:
        try:
            return unit.end(error, self._result)
        finally:
            self._db.ended(unit)

    def _leave(self, unit: UnitOfWork, error: BaseException | None) -> None:
        if error is None and self._discard:
            error = RuntimeError("the result of an inner boundary asked for a rollback")
        # An early end of a generator is no failure of the work around it.
        if error is not None and not isinstance(error, GeneratorExit):
            unit.doom(error)

    def _end_savepoint(
        self, unit: UnitOfWork, savepoint: SessionTransaction, error: BaseException | None
    ) -> None:
        if unit.over:
            return  # a forked child: the unit ends in its parent
        if error is None and not self._discard:
            try:
                unit.refuse_doomed()
                savepoint.commit()
            except BaseException as failure:
                _roll_back(unit, savepoint, failure)
                raise
        else:
            _roll_back(unit, savepoint, error)

    def resume(self) -> None:
        """Make the unit of work ambient, in the place of whatever is."""
        self._outer = ambient.unit_of_work.get()
        self._outer_deadline = ambient.deadline.get()
        if self._unit is not None:
            if self._unit.over:
                raise NoUnitOfWorkError(
                    "the unit of work that this generator joined has ended: exhaust it inside"
                )
            ambient.unit_of_work.set(self._unit)
        if self._deadline is not None:
            ambient.deadline.set(self._deadline)

    def suspend(self) -> None:
        """Make ambient again what was before `resume`."""
        # Not by tokens: a generator may be closed in another context than the one it was opened in.
        ambient.unit_of_work.set(self._outer)
        ambient.deadline.set(self._outer_deadline)

    def _session(self) -> object:
        unit = self._unit
        return None if unit is None else unit.async_session or unit.session

    def _require(self, *, asyncio: bool) -> None:
        if self._db.is_async is not asyncio:
            raise TypeError(
                "this manager is blocking: use `with`, or give a manager an async engine"
                if asyncio
                else "this manager is async: use `async with`"
            )


def _refuse(propagation: Propagation, unit: UnitOfWork | None) -> None:
    if propagation == "mandatory" and unit is None:
        raise NoUnitOfWorkError(
            "propagation='mandatory' joins a unit of work, and none is open: open one around it"
        )
    if propagation == "never" and unit is not None:
        raise RuntimeError(
            "propagation='never' refuses to run inside a unit of work: call it before or after"
        )


def _sooner(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    due, outer = clock.now() + timeout, ambient.deadline.get()
    return due if outer is None else min(due, outer)


def _roll_back(unit: UnitOfWork, savepoint: SessionTransaction, error: BaseException | None) -> None:
    if not _is_open(unit, savepoint):
        return
    try:
        savepoint.rollback()
    except Exception as failure:
        # Without its savepoint nobody knows what the transaction holds; and the first error is the one to tell.
        unit.doom(failure)
        if error is None:
            raise
        error.add_note(f"paintkit: the rollback to the savepoint failed, too: {failure!r}")


def _is_open(unit: UnitOfWork, savepoint: SessionTransaction) -> bool:
    """Whether nobody has rolled it back by hand, directly or with all around it."""
    current = unit.session.get_nested_transaction()
    while current is not None and current is not savepoint:
        current = current.parent
    return current is not None


def _is_error_response(result: object) -> bool:
    status = getattr(result, "status_code", None)
    return isinstance(status, int) and status >= _BAD_REQUEST and not hasattr(type(result), "__mapper__")


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Leave every unit of work: what runs after a commit is no part of anything that may still roll back."""
    token = ambient.unit_of_work.set(None)
    try:
        yield
    finally:
        ambient.unit_of_work.reset(token)


async def _in_greenlet(call: Callable[..., T], *args: object) -> T:
    from sqlalchemy.util import greenlet_spawn

    return await greenlet_spawn(call, *args)


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Await work to its end even if this task is cancelled meanwhile; the cancellation follows then."""
    import asyncio

    task = asyncio.ensure_future(_failure_of(work))
    try:
        failure = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if (failure := task.result()) is not None:
            _log.error("a unit of work was cancelled while it ended, and failed", exc_info=failure)
        raise
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # the frame refers to the error, the error to the frame: break the circle


async def _failure_of(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """Return the error as a value: an interrupt that a task raises would stop the loop before its caller knows."""
    try:
        await work
    except BaseException as failure:  # noqa: BLE001 - raised again by the caller
        return failure
    return None
