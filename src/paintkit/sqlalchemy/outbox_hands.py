"""How a relay acts, in its two colours: transactions, and calls of handlers that may fail or hang."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from paintkit import ambient, clock
from paintkit._runtime import ASYNCIO, BLOCKING, Runtime, drive
from paintkit.errors import CallTimeoutError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from paintkit.envelope import Receiver
    from paintkit.sqlalchemy.manager import DatabaseConnectionManager
    from paintkit.sqlalchemy.options import Isolation
    from paintkit.sqlalchemy.outbox_store import Claimed, Store
    from paintkit.sqlalchemy.units import UnitOfWork

__all__ = ["AsyncHands", "BlockingHands", "Hands", "Hung", "Steps"]

T = TypeVar("T")

_log: Final = logging.getLogger("paintkit.sqlalchemy")

# libpq's PQTRANS_ACTIVE: a statement is under way.
_ACTIVE: Final = 1

#: Goes on with the work where it stands, noting each outcome, to its end.
Steps = Callable[["Hands"], Coroutine[Any, Any, None]]

#: Notes a call of a receiver with events, of which it did not come back from that one.
Hung = Callable[["Receiver", "Sequence[Claimed]", "Claimed", CallTimeoutError], None]


class Hands(Protocol):
    """What the choreography of a relay may do."""

    runtime: Runtime

    async def transact(
        self, work: Callable[[Session], T], *, isolation: Isolation | None = None, read_only: bool = False
    ) -> T:
        """Do work in a transaction of its own."""
        ...

    async def call(self, receiver: Receiver, events: Sequence[Claimed]) -> Exception | None:
        """Let a receiver handle events, all in one unit of work, and return what it raised."""
        ...

    async def run(self, steps: Steps, hung: Hung) -> None:
        """Take steps that call handlers, to their end."""
        ...


class AbandonedError(BaseException):
    """Nobody waits for this call any more, and another thread goes on with the work."""


class _Watch:
    """What one thread is doing for a relay, as seen by the thread that waits for it.

    Args:
        limit: Seconds that a handler may take for one event.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.changed = threading.Condition()
        # Guarded by `changed`.
        self.began: float | None = None
        self.unit: UnitOfWork | None = None
        self.call: tuple[Receiver, Sequence[Claimed], Claimed] | None = None
        self.over = False
        self.abandoned = False
        self.failure: BaseException | None = None

    def begin(
        self, unit: UnitOfWork | None, receiver: Receiver, events: Sequence[Claimed], one: Claimed
    ) -> None:
        """A receiver gets one of several events now."""
        with self.changed:
            self._check()
            self.began, self.unit, self.call = clock.now(), unit, (receiver, events, one)

    def end(self) -> None:
        """The call is over."""
        with self.changed:
            self._check()
            self.began = self.unit = self.call = None

    def check(self) -> None:
        """Raise if nobody waits for this thread any more."""
        with self.changed:
            self._check()

    def _check(self) -> None:
        if self.abandoned:
            raise AbandonedError

    def finish(self, failure: BaseException | None) -> None:
        """The thread has nothing left to do."""
        with self.changed:
            self.over, self.failure = True, failure
            self.changed.notify()

    def wait(self) -> bool:
        """Wait until the thread is done; False if it has been busy with one event for too long, and is abandoned."""
        with self.changed:
            while not self.over:
                left = self.limit if self.began is None else self.began + self.limit - clock.now()
                if left <= 0:
                    self.abandoned = True
                    return False
                clock.wait(self.changed, left)
        return True


class BlockingHands:
    """Blocking transactions and handlers. With a time limit handlers run in a thread that is left alone when it is over.

    Args:
        db: The database.
        store: Its tables.
        limit: Seconds that a handler may take for one event; `None` waits for ever, and needs no thread.
        name: What threads are called.
    """

    runtime: Runtime = BLOCKING

    def __init__(self, db: DatabaseConnectionManager, store: Store, limit: float | None, name: str) -> None:
        self._db = db
        self._store = store
        self._limit = limit
        self._name = name
        self._watch: _Watch | None = None

    async def transact(
        self, work: Callable[[Session], T], *, isolation: Isolation | None = None, read_only: bool = False
    ) -> T:
        """Do work in a transaction of its own."""
        with self._db.unit_of_work(isolation=isolation, read_only=read_only) as session:
            return work(session)

    async def call(self, receiver: Receiver, events: Sequence[Claimed]) -> Exception | None:
        """Let a receiver handle events, all in one unit of work, and return what it raised."""
        error: Exception | None = None
        try:
            if receiver.idempotent:
                self._deliver(None, receiver, events)
            else:
                self._handle_once(receiver, events)
        except Exception as failure:  # noqa: BLE001 - whatever a handler raises is its own failure
            error = failure
        if self._watch is not None:
            self._watch.end()
        return error

    def _handle_once(self, receiver: Receiver, events: Sequence[Claimed]) -> None:
        with self._db.unit_of_work() as session:
            unit = self._db.open_unit()
            if self._watch is not None:  # a stranger's row in the inbox may keep us waiting, too
                self._watch.begin(unit, receiver, events, events[0])
            new = self._store.first(session, receiver.name, [one.event.id for one in events])
            self._deliver(unit, receiver, [one for one in events if one.event.id in new])
            _refuse_rollback(unit)
            if self._watch is not None:
                self._watch.check()

    def _deliver(self, unit: UnitOfWork | None, receiver: Receiver, events: Sequence[Claimed]) -> None:
        for one in events:
            if self._watch is not None:
                self._watch.begin(unit, receiver, events, one)
            with _time_limit(self._limit):
                receiver.deliver(one.event)

    async def run(self, steps: Steps, hung: Hung) -> None:
        """Take steps that call handlers, to their end; when a handler hangs, another thread goes on without it."""
        if self._limit is None:
            await steps(self)
            return
        while not self._supervised(_Watch(self._limit), steps, hung):
            pass

    def _supervised(self, watch: _Watch, steps: Steps, hung: Hung) -> bool:
        hands = BlockingHands(self._db, self._store, self._limit, self._name)
        hands._watch = watch
        context = ambient.detached()
        thread = threading.Thread(
            target=lambda: context.run(_work, watch, steps(hands)),
            name=f"paintkit-outbox-{self._name}-handlers",
            daemon=True,
        )
        thread.start()
        if watch.wait():
            if watch.failure is not None:
                raise watch.failure
            return True
        if watch.unit is not None:
            _sever(watch.unit)
        if watch.call is not None:
            receiver, events, one = watch.call
            hung(receiver, events, one, timed_out(receiver, self._limit))
        return False


class AsyncHands:
    """Asynchronous transactions and handlers; a handler whose time is over is cancelled.

    Args:
        db: The database.
        store: Its tables.
        limit: Seconds that a handler may take for one event; `None` waits for ever.
    """

    runtime: Runtime = ASYNCIO

    def __init__(self, db: DatabaseConnectionManager, store: Store, limit: float | None) -> None:
        self._db = db
        self._store = store
        self._limit = limit

    async def transact(
        self, work: Callable[[Session], T], *, isolation: Isolation | None = None, read_only: bool = False
    ) -> T:
        """Do work in a transaction of its own."""
        async with self._db.unit_of_work(isolation=isolation, read_only=read_only) as session:
            return await session.run_sync(work)

    async def call(self, receiver: Receiver, events: Sequence[Claimed]) -> Exception | None:
        """Let a receiver handle events, all in one unit of work, and return what it raised."""
        import asyncio

        try:
            if receiver.idempotent:
                await self._deliver(receiver, events)
            else:
                async with self._db.unit_of_work() as session:
                    ids = [one.event.id for one in events]
                    new = await session.run_sync(self._store.first, receiver.name, ids)
                    await self._deliver(receiver, [one for one in events if one.event.id in new])
                    _refuse_rollback(self._db.open_unit())
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its own failure
            return error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            # It comes from something that the handler awaited.
            failure = RuntimeError(f"{receiver.name} was interrupted by {type(error).__name__}")
            failure.__cause__ = error
            return failure
        return None

    async def _deliver(self, receiver: Receiver, events: Sequence[Claimed]) -> None:
        import asyncio

        for one in events:
            limit = asyncio.timeout(self._limit)
            try:
                async with limit:
                    await receiver.adeliver(one.event)
            except TimeoutError as error:
                if limit.expired():
                    raise timed_out(receiver, self._limit) from error
                raise

    async def run(self, steps: Steps, hung: Hung) -> None:  # noqa: ARG002 - nothing hangs that can be cancelled
        """Take steps that call handlers, to their end."""
        await steps(self)


def _is_cancelled() -> bool:
    """Whether somebody cancels the task that runs."""
    import asyncio

    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def timed_out(receiver: Receiver, limit: float | None) -> CallTimeoutError:
    """Return the error of a handler whose time is over."""
    return CallTimeoutError(f"the handler {receiver.name} did not return within {limit} s")


def _work(watch: _Watch, steps: Coroutine[Any, Any, None]) -> None:
    try:
        drive(steps)
    except BaseException as failure:  # noqa: BLE001 - raised again in the thread that waits for this one
        watch.finish(failure)
        if watch.abandoned and not isinstance(failure, AbandonedError):
            _log.debug("a handler that nobody waits for any more has failed", exc_info=failure)
    else:
        watch.finish(None)


def _refuse_rollback(unit: UnitOfWork | None) -> None:
    if unit is not None and unit.discarded:
        raise RuntimeError(
            "the handler called rollback() or close() on its session: raise an error if the event is to be tried again, "
            "return if it is not"
        )


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Make the limit the ambient deadline, for whatever in the handler heeds it."""
    token = ambient.deadline.set(None if seconds is None else clock.now() + seconds)
    try:
        yield
    finally:
        ambient.deadline.reset(token)


def _sever(unit: UnitOfWork) -> None:
    """Take its connection away from a unit of work whose thread does not come back: it can neither commit nor hold locks.

    The thread finds out when it uses the connection again. A statement that is under way is cancelled instead: closing
    beneath it is not safe with every driver.
    """
    connection = unit.dbapi_connection
    if connection is None:
        return
    try:
        if getattr(getattr(connection, "pgconn", None), "transaction_status", None) == _ACTIVE:
            connection.cancel()
        else:
            if hasattr(connection, "interrupt"):
                connection.interrupt()
            connection.close()
    except Exception:  # noqa: BLE001 - its locks stay until the server ends it; the others go on all the same
        _log.exception("the transaction of a handler that hangs could not be ended")
