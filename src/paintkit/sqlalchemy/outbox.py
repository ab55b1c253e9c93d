"""The outbox: events that are stored with the data they tell of, and delivered for certain afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar, cast

from sqlalchemy import MetaData

from paintkit import _arguments, backoff
from paintkit._tally import Tally
from paintkit.envelope import LONGEST_NAME
from paintkit.histogram import Histogram
from paintkit.sqlalchemy.manager import DatabaseConnectionManager
from paintkit.sqlalchemy.outbox_hands import AsyncHands, BlockingHands, Hands
from paintkit.sqlalchemy.outbox_relay import Relay
from paintkit.sqlalchemy.outbox_store import DeadLetter, OutboxStatus, Store
from paintkit.sqlalchemy.outbox_tables import outbox_tables
from paintkit.sqlalchemy.own_tables import made_by

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from paintkit.backoff import Schedule
    from paintkit.envelope import Envelope, Receiver, Receivers
    from paintkit.sqlalchemy.options import Isolation
    from paintkit.sqlalchemy.sessions import UnitSession
    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["Outbox"]

T = TypeVar("T")

_DAY: Final = 86_400.0

# For forked processes.
_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Outbox:
    """Carries the events of a bus through the database: an event exists if and only if the work it tells of is stored.

    `EventBus(transport=Outbox(db))`: what is published in a unit of work of `db` is written in its transaction, right
    before the COMMIT; elsewhere, in a transaction of its own. A relay (`relay()`, or `flask paintkit outbox relay`), in
    this process or others, delivers it to the handlers of the bus there:

    - at least once: what a relay does not come back from is taken over by another when its lease is over;
    - with effect exactly once: a handler runs in a unit of work of `db`, together with a row that says that it has handled
      this event (the *inbox*). What it stores is stored once; what it does elsewhere may happen again. Handlers that were
      subscribed as `idempotent` run without either;
    - each handler by itself: one that fails is tried again without the others, later and later, until after `max_attempts`
      the event becomes a *dead letter*, for a human to look at and `replay()`;
    - in the order of commits for events with the same `ordering_key`, one at a time. The others in any order.

    On PostgreSQL (with psycopg 3) a commit wakes the relays; polling is the guarantee, there and everywhere.

    Args:
        db: The manager of the database that holds the data; its colour is the outbox's.
        name: What logs and observations call it.
        prefix: What the names of the tables begin with: letters, digits and underscores.
        schema: The database schema of the tables (default: the connection's).
        poll_interval: Seconds between two looks of an idle relay (> 0).
        batch_size: How many events a relay claims at once, at least 1.
        group: How many events a handler may be given in one unit of work, at least 1. More are faster by far; if one of
            them fails, they are rolled back and tried one by one, so what a handler does outside of the database may then
            happen again.
        lease: Seconds that a relay has before others take its events over; it renews that while it works.
        handler_timeout: Seconds that a handler may take for one event, at most half of `lease`. In blocking code one that takes longer
            is left alone in its thread, without its transaction. `None` waits for ever.
        max_attempts: After so many failures an event is given up, at least 1.
        backoff: How long to wait after each failure (default: exponential from 1 s to 5 minutes, half of it chance).

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.

    Example:
        >>> from paintkit import EventBus
        >>> db = DatabaseConnectionManager("sqlite://")
        >>> outbox = Outbox(db)
        >>> outbox.create_tables()
        >>> bus = EventBus("studio", transport=outbox)
        >>> @bus.subscribe("paint.sold")
        ... def reorder(paint):
        ...     print("reorder", paint["id"])
        >>> with db.unit_of_work():
        ...     bus.publish("paint.sold", {"id": 7})
        >>> outbox.run_once()
        reorder 7
        1
        >>> db.close()
    """

    def __init__(
        self,
        db: DatabaseConnectionManager,
        *,
        name: str = "outbox",
        prefix: str = "paintkit_",
        schema: str | None = None,
        poll_interval: Seconds = 1.0,
        batch_size: int = 100,
        group: int = 1,
        lease: Seconds = 60.0,
        handler_timeout: Seconds | None = 30.0,
        max_attempts: int = 10,
        backoff: Schedule = backoff.exponential(1.0, cap=300.0, jitter="equal"),  # noqa: B008 - it is immutable
    ) -> None:
        if not isinstance(db, DatabaseConnectionManager):
            raise TypeError(f"db must be a DatabaseConnectionManager, not {type(db).__name__}")
        #: The manager of the database.
        self.db = db
        #: What logs and observations call it.
        self.name = _arguments.label("name", name)
        self.poll_interval = _arguments.seconds("poll_interval", poll_interval)
        self.batch_size = _arguments.count("batch_size", batch_size, most=10_000)
        self.group = _arguments.count("group", group, most=self.batch_size)
        self.lease = _arguments.seconds("lease", lease)
        self.handler_timeout = None if handler_timeout is None else _limit(handler_timeout, self.lease)
        self.max_attempts = _arguments.count("max_attempts", max_attempts)
        self.backoff = _arguments.having("backoff", backoff, "delays", "a schedule of paintkit.backoff")
        #: The tables, described; merge it into the `target_metadata` of Alembic, or use `outbox_tables` with your own.
        self.metadata = MetaData()
        prefix = _checked_prefix(prefix)
        schema = None if schema is None else _arguments.label("schema", schema)
        tables = outbox_tables(self.metadata, prefix, schema)
        made_by(
            "the tables of this outbox are not there: call outbox.create_tables(), or merge outbox.metadata into what your "
            "migrations know",
            *tables,
        )
        self.store = Store(tables, _channel(prefix, schema))
        #: What was done in this process, and how long events had waited at their first try.
        self.tally = Tally("published", "in_flight", "delivered", "failed", "dead", "late", "errors")
        self.lags = Histogram()
        self._bus: Receivers | None = None
        self._relays: weakref.WeakSet[Relay] = weakref.WeakSet()  # those that run
        _outboxes.add(self)

    # What the bus asks: see `paintkit.events.transport.Transport`.

    def attach(self, bus: Receivers) -> None:
        """Belong to this bus.

        Raises:
            ValueError: It has a bus already.
        """
        if self._bus is not None:
            raise ValueError(
                f"{self.name} has the bus {self._bus.name!r} already: give each bus an outbox with a prefix of its own"
            )
        self._bus = bus

    def admit(self, receiver: Receiver) -> None:
        """Refuse a handler that could not be served.

        Raises:
            ValueError: It wants a broadcast, its name is too long, or it is `async def` and the manager blocking.
        """
        if receiver.kind != "work":
            raise ValueError(
                f"an outbox delivers each event to one process, so {receiver.name} cannot have kind='broadcast': give that "
                "to a bus with RedisStreams"
            )
        if receiver.is_async and not self.db.is_async:
            raise ValueError(
                f"{receiver.name} is async, and the outbox's manager is blocking: nothing would await it"
            )
        if len(receiver.name) > LONGEST_NAME:
            raise ValueError(
                f"a handler's name must have at most {LONGEST_NAME} characters: give {receiver.name} a name="
            )

    def dismiss(self, receiver: Receiver) -> None:
        """A handler is subscribed no more: relays ask the bus each time."""

    def enlist(self, envelope: Envelope) -> bool:
        """Write the event with the open unit of work, if it is one of this database.

        Raises:
            NoUnitOfWorkError: It only reads, or belongs to another thread.
        """
        unit = self.db.open_unit()
        if unit is None:
            return False
        unit.enclose(self._write, envelope)
        return True

    def send(self, envelope: Envelope) -> None:
        """Write the event in a transaction of its own.

        Raises:
            TypeError: The manager is async: await `bus.apublish`.
        """
        with self.db.unit_of_work():
            self.enlist(envelope)

    async def asend(self, envelope: Envelope) -> None:
        """Do as `send` does, for an async manager; a blocking one blocks."""
        if not self.db.is_async:
            self.send(envelope)
            return
        async with self.db.unit_of_work():
            self.enlist(envelope)

    def _write(self, session: Session, events: list[Envelope]) -> None:
        self.store.write(session, events)
        self.tally.add("published", len(events))
        if self._relays:
            cast("UnitSession", session).unit.defer(self._wake)

    def _wake(self) -> None:
        for relay in list(self._relays):
            relay.wake()

    # Delivering.

    def relay(self) -> Relay:
        """Return a relay: `with outbox.relay():` delivers in a thread, `outbox.relay().run()` here and now."""
        return Relay(self)

    def run_once(self) -> int:
        """Deliver what is due at this moment; return how many events that were. See `Relay.run_once`."""
        return Relay(self).run_once()

    async def arun_once(self) -> int:
        """Do as `run_once` does, for an async manager."""
        return await Relay(self).arun_once()

    def close(self) -> None:
        """Stop all relays of this outbox in this process that run in threads; what is published later waits for others."""
        for relay in list(self._relays):
            relay.close()

    async def aclose(self) -> None:
        """Do as `close` does, for an async manager."""
        for relay in list(self._relays):
            await relay.aclose()

    # Looking after it.

    def telemetry(self) -> Iterable[Metric]:
        """Return what was done in this process, for exporters; see `paintkit.telemetry`. No database is asked for it."""
        from paintkit import _catalogue

        return _catalogue.OUTBOX.read(self.name, {**self.tally.read(), "lag": self.lags.snapshot()})

    def __repr__(self) -> str:
        return f"<Outbox {self.name!r}>"

    def create_tables(self) -> None:
        """Create the tables that are missing, and the row that relays need; for those who do not use migrations."""
        self._check_colour(is_async=False)
        self.metadata.create_all(self.db.engine)

    async def acreate_tables(self) -> None:
        """Do as `create_tables` does, for an async manager."""
        self._check_colour(is_async=True)
        async with self.db.async_engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)

    def status(self) -> OutboxStatus:
        """Return how much waits, is tried again, is in flight, was given up; and the age of the oldest event."""
        return self._read(self.store.status)

    async def astatus(self) -> OutboxStatus:
        """Do as `status` does, for an async manager."""
        return await self._aread(self.store.status)

    def dead_letters(self, event_type: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Return events that were given up, with their errors, the latest first.

        Args:
            event_type: Only those of this type.
            limit: How many at most.
        """
        event_type, most = _wanted(event_type), _arguments.count("limit", limit)
        return self._read(lambda session: self.store.dead_letters(session, event_type, most))

    async def adead_letters(self, event_type: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Do as `dead_letters` does, for an async manager."""
        event_type, most = _wanted(event_type), _arguments.count("limit", limit)
        return await self._aread(lambda session: self.store.dead_letters(session, event_type, most))

    def replay(self, event_ids: Iterable[str] | None = None, *, event_type: str | None = None) -> int:
        """Put events that were given up back into the outbox, with all their attempts; return how many.

        Those who have handled an event are not given it again. It comes behind all that waits.

        Args:
            event_ids: Which ones (default: all).
            event_type: Only those of this type.
        """
        ids, event_type = _ids(event_ids), _wanted(event_type)
        return self._do(lambda session: self.store.replay(session, ids, event_type))

    async def areplay(self, event_ids: Iterable[str] | None = None, *, event_type: str | None = None) -> int:
        """Do as `replay` does, for an async manager."""
        ids, event_type = _ids(event_ids), _wanted(event_type)
        return await self._ado(lambda session: self.store.replay(session, ids, event_type))

    def purge(self, older_than: Seconds = 7 * _DAY, *, dead_letters: Seconds | None = None) -> int:
        """Remove what nobody needs any more; return how many rows that were.

        Args:
            older_than: Rows of the inbox older than so many seconds, whose event cannot come again. Keep them longer than
                the slowest handler may take.
            dead_letters: Dead letters older than so many seconds, too; `None` keeps them.
        """
        age, dead = _ages(older_than, dead_letters)
        return self._do(lambda session: self.store.purge(session, age, dead))

    async def apurge(self, older_than: Seconds = 7 * _DAY, *, dead_letters: Seconds | None = None) -> int:
        """Do as `purge` does, for an async manager."""
        age, dead = _ages(older_than, dead_letters)
        return await self._ado(lambda session: self.store.purge(session, age, dead))

    # What its relays ask.

    def know(self, relay: Relay) -> None:
        """Wake this relay from now on."""
        self._relays.add(relay)

    def forget_relays(self) -> None:
        """Forget all relays: in a forked child, where their threads are not."""
        self._relays.clear()

    @property
    def looks_first(self) -> bool:
        """Whether a look costs less than a claim in vain: SQLite has one writer, and a claim is one."""
        return self.db.engine.dialect.name == "sqlite"

    @property
    def isolation(self) -> Isolation | None:
        """The isolation level of a claim: on servers with several writers each statement has to see what was committed."""
        return None if self.db.engine.dialect.name == "sqlite" else "READ COMMITTED"

    def hands(self, *, is_async: bool) -> Hands:
        """Return what a relay of this colour acts with.

        Raises:
            TypeError: The manager has the other colour.
        """
        self._check_colour(is_async=is_async)
        if is_async:
            return AsyncHands(self.db, self.store, self.handler_timeout)
        return BlockingHands(self.db, self.store, self.handler_timeout, self.name)

    def receivers(self) -> Sequence[Receiver]:
        """Return who is subscribed.

        Raises:
            RuntimeError: Nobody is, so that events would be gone unheard.
        """
        if self._bus is None:
            raise RuntimeError(f"{self.name} has no bus: EventBus(transport=outbox)")
        receivers = self._bus.receivers()
        if not receivers:
            raise RuntimeError(
                f"the bus {self._bus.name!r} has no handlers in this process: import the modules that subscribe them"
            )
        return receivers

    def _check_colour(self, *, is_async: bool) -> None:
        if self.db.is_async is not is_async:
            raise TypeError(
                "the outbox's manager is async: use the method with an `a` in front, and await it"
                if self.db.is_async
                else "the outbox's manager is blocking: use the method without the `a` in front"
            )

    def _read(self, look: Callable[[Session], T]) -> T:
        self._check_colour(is_async=False)
        with self.db.unit_of_work(read_only=True) as session:
            return look(session)

    async def _aread(self, look: Callable[[Session], T]) -> T:
        self._check_colour(is_async=True)
        async with self.db.unit_of_work(read_only=True) as session:
            return await session.run_sync(look)

    def _do(self, work: Callable[[Session], T]) -> T:
        self._check_colour(is_async=False)
        with self.db.unit_of_work() as session:
            return work(session)

    async def _ado(self, work: Callable[[Session], T]) -> T:
        self._check_colour(is_async=True)
        async with self.db.unit_of_work() as session:
            return await session.run_sync(work)


def _checked_prefix(prefix: str) -> str:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {type(prefix).__name__}")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", prefix):
        raise ValueError(
            f"prefix must be 1 to 40 letters, digits and underscores, and begin with no digit, not {prefix!r}"
        )
    return prefix


def _channel(prefix: str, schema: str | None) -> str:
    """Return a name for PostgreSQL's NOTIFY, whose names have at most 63 bytes: a longer one would fail every commit."""
    name = f"{prefix}outbox" if schema is None else f"{schema}.{prefix}outbox"
    if re.fullmatch(r"[A-Za-z0-9_.]{1,63}", name):
        return name
    return f"paintkit_outbox_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _limit(handler_timeout: Seconds, lease: float) -> float:
    limit = _arguments.seconds("handler_timeout", handler_timeout)
    if limit > lease / 2:
        raise ValueError(
            f"handler_timeout must be at most half of lease, so that nobody takes over what a handler is busy with: {limit:g} "
            f"s of {lease:g} s; raise lease or lower handler_timeout"
        )
    return limit


def _ids(event_ids: Iterable[str] | None) -> list[str] | None:
    if isinstance(event_ids, str):
        raise TypeError(f"event_ids must be several ids, not one string: pass [{event_ids!r}]")
    return None if event_ids is None else [_arguments.label("an id in event_ids", one) for one in event_ids]


def _wanted(event_type: str | None) -> str | None:
    return None if event_type is None else _arguments.label("event_type", event_type)


def _ages(older_than: Seconds, dead_letters: Seconds | None) -> tuple[float, float | None]:
    return (
        _arguments.seconds("older_than", older_than, zero=True),
        _arguments.seconds_or_none("dead_letters", dead_letters, none="keeps them", zero=True),
    )


def _forget_relays() -> None:
    for outbox in list(_outboxes):
        outbox.forget_relays()


os.register_at_fork(after_in_child=_forget_relays)
