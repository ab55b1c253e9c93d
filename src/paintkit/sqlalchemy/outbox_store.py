"""What an outbox does with its tables, each within one transaction: write, claim, settle, look, purge, replay.

Every function works on a blocking session; an asynchronous one lends its own through `run_sync`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, cast

from sqlalchemy import ColumnElement, Row, Select, and_, case, delete, func, insert, or_, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from paintkit import clock
from paintkit.envelope import Envelope
from paintkit.sqlalchemy.instants import SharedClock
from paintkit.sqlalchemy.outbox_tables import MYSQL, OutboxTables

if TYPE_CHECKING:
    from sqlalchemy import CursorResult, Executable
    from sqlalchemy.orm import Session

__all__ = ["LOST", "Claim", "Claimed", "DeadLetter", "OutboxStatus", "Settlement", "Store"]

#: What the error of an event says whose relay was never heard of again.
LOST: Final = "the process that had the event did not come back before its lease was over"


class Claimed(NamedTuple):
    """An event that is leased to a relay.

    Attributes:
        seq: Its place in the table.
        event: The event; its `attempts` are those that failed so far.
        handled: The names of those who have handled it.
    """

    seq: int
    event: Envelope
    handled: frozenset[str]


class Claim(NamedTuple):
    """Events that are leased together.

    Attributes:
        lease: What tells this lease from every other.
        at: When that was, in seconds since 1970 by the clock that all share.
        until: When it is over, by `clock.now()`, unless it is renewed.
        events: In order.
    """

    lease: str
    at: float
    until: float
    events: list[Claimed]


class Settlement(NamedTuple):
    """What came of one claimed event.

    Attributes:
        claimed: The event.
        error: Why not all have handled it; `None` if they have.
        attempts: How many attempts have failed now.
        delay: Seconds until it is tried again; `None` if it is given up.
        handled: Who has handled it now, and has no row in the inbox yet.
        untried: Nobody failed: it was not its turn, and it does not count as an attempt.
    """

    claimed: Claimed
    error: str | None = None
    attempts: int = 0
    delay: float | None = None
    handled: Sequence[str] = ()
    untried: bool = False


class DeadLetter(NamedTuple):
    """An event that was given up.

    Attributes:
        event: The event, with the attempts that failed.
        error: Which handlers failed, and how.
        died_at: When it was given up, in UTC.
    """

    event: Envelope
    error: str
    died_at: datetime


class OutboxStatus(TypedDict):
    """What the tables of an outbox hold.

    Attributes:
        waiting: Events that nobody handles at this moment, those that are tried again later included.
        retrying: How many of them have failed before.
        in_flight: Events that a relay holds a lease on.
        dead: Events that were given up.
        handled: Rows of the inbox.
        lag: The age in seconds of the oldest event that waits or is in flight; 0 without any.
    """

    waiting: int
    retrying: int
    in_flight: int
    dead: int
    handled: int
    lag: float


class Store:
    """The tables of one outbox.

    Args:
        tables: The tables.
        channel: What PostgreSQL's NOTIFY is sent to.
    """

    def __init__(self, tables: OutboxTables, channel: str) -> None:
        self.tables = tables
        self.channel = channel
        self._time = SharedClock()

    # Publishing.

    def write(self, session: Session, events: Sequence[Envelope]) -> None:
        """Write events into the transaction, and wake the relays when it is committed."""
        session.execute(insert(self.tables.outbox), [_fresh(event) for event in events])
        if _dialect(session) == "postgresql":
            session.execute(text("select pg_notify(:channel, '')"), {"channel": self.channel})

    # Claiming.

    def has_work(self, session: Session) -> bool:
        """Whether a claim might find something; for servers whose claims stand in each other's way."""
        table, now = self.tables.outbox, self._time.now(session)
        due = and_(table.c.due <= now, or_(table.c.lease.is_(None), table.c.lease_until <= now))
        return session.execute(select(table.c.seq).where(due).limit(1)).first() is not None

    def claim(self, session: Session, *, most: int, lease: float, lost_first: bool) -> Claim:
        """Lease events to the caller: due ones in the order of their writing, or a single one whose lease was lost.

        An event whose lease was lost may be what ended the process that had it. It comes alone, so that it takes no others
        with it, and that counts as a failed attempt.

        Args:
            session: In a transaction that commits right after this.
            most: How many at most.
            lease: Seconds that the caller has for them.
            lost_first: Which kind to look for first.
        """
        now = self._time.now(session)
        turn = self._take_turn(session)
        rows: Sequence[Row[Any]] = []
        for lost in (lost_first, not lost_first):
            rows = self._in_order(
                session, self._find(session, now, turn, lost=lost, most=1 if lost else most)
            )
            if rows:
                break
        token = secrets.token_hex(16)
        # The claimed events are given their lease by number: none of them can be claimed by anybody else meanwhile.
        if rows:
            table = self.tables.outbox
            session.execute(
                update(table)
                .where(table.c.seq.in_([row.seq for row in rows]))
                .values(
                    lease=token,
                    lease_until=now + lease,
                    attempts=table.c.attempts + int(rows[0].lease is not None),
                )
            )
        return Claim(token, now, clock.now() + lease, self._claimed(session, rows))

    def _take_turn(self, session: Session) -> bool:
        """Whether this transaction alone hands out events with an ordering key."""
        if not _skips_locked(session):
            return True  # SQLite has one writer
        row = self.tables.turn.c.id
        return session.execute(select(row).with_for_update(skip_locked=True)).first() is not None

    def _find(self, session: Session, now: float, turn: bool, *, lost: bool, most: int) -> Sequence[Row[Any]]:
        table = self.tables.outbox
        wanted = table.c.lease_until <= now if lost else and_(table.c.lease.is_(None), table.c.due <= now)
        may_go: ColumnElement[bool] = table.c.ordering_key.is_(None)
        if turn:
            may_go = or_(may_go, self._is_next(now))
        query = select(table).where(wanted, may_go).order_by(table.c.seq).limit(most)
        if _skips_locked(session):
            query = query.with_for_update(skip_locked=True)
        return session.execute(query).all()

    def _is_next(self, now: float) -> ColumnElement[bool]:
        """Whether nothing of the same key is in flight, and nothing before it waits for another attempt."""
        table = self.tables.outbox
        other = table.alias()
        hinders = or_(
            other.c.lease_until > now,
            and_(other.c.seq < table.c.seq, or_(other.c.lease.is_not(None), other.c.due > now)),
        )
        return ~select(other.c.seq).where(other.c.ordering_key == table.c.ordering_key, hinders).exists()

    def _in_order(self, session: Session, rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
        """Leave out of `rows` what would overtake an event of its key that is stored and not among them.

        Such a one was locked by somebody who settles it, and was skipped; or it has been committed since.
        """
        keys = {row.ordering_key for row in rows if row.ordering_key is not None}
        if not keys:
            return rows
        table = self.tables.outbox
        stored = session.execute(
            select(table.c.seq, table.c.ordering_key)
            .where(table.c.ordering_key.in_(keys), table.c.seq <= max(row.seq for row in rows))
            .order_by(table.c.seq)
        ).all()
        claimed, overtaken = {row.seq for row in rows}, set[str]()
        for row in stored:
            if row.seq not in claimed or row.ordering_key in overtaken:
                overtaken.add(row.ordering_key)
                claimed.discard(row.seq)
        return [row for row in rows if row.seq in claimed]

    def _claimed(self, session: Session, rows: Sequence[Row[Any]]) -> list[Claimed]:
        inbox = self.tables.inbox
        handled: dict[str, set[str]] = {row.event_id: set() for row in rows if row.attempts or row.lease}
        if handled:
            query = select(inbox.c.event_id, inbox.c.handler).where(inbox.c.event_id.in_(handled))
            for event_id, handler in session.execute(query):
                handled[event_id].add(handler)
        return [
            Claimed(
                row.seq,
                _event(row, row.attempts + (row.lease is not None)),
                frozenset(handled.get(row.event_id, ())),
            )
            for row in rows
        ]

    # Settling.

    def first(self, session: Session, handler: str, event_ids: Sequence[str]) -> set[str]:
        """Note in the transaction that a handler handles events; return those that it has not handled before.

        Somebody else who is just handling one of them is waited for.
        """
        inbox, now = self.tables.inbox, self._time.now(session)
        statement = _NEW[_dialect(session)](inbox)
        rows = [{"event_id": one, "handler": handler, "handled_at": now} for one in event_ids]
        if _dialect(session) not in MYSQL:
            return (
                set(session.execute(statement.returning(inbox.c.event_id), rows).scalars()) if rows else set()
            )
        statement = statement.execution_options(preserve_rowcount=True)  # of an insert it is forgotten else
        return {one for one, row in zip(event_ids, rows, strict=True) if _count(session, statement, row)}

    def settle(
        self,
        session: Session,
        claim: Claim,
        settlements: Sequence[Settlement],
        others: int = 0,
        renew: float | None = None,
    ) -> int:
        """Note what came of claimed events, and let the lease on `others` last for `renew` seconds from now.

        Returns:
            How many of all these belong to somebody else by now: what came of those is ignored.
        """
        late = 0
        for one in settlements:
            if one.error is not None or one.untried:
                late += not self._put_back(session, claim.lease, one)
        done = [one.claimed.seq for one in settlements if one.error is None and not one.untried]
        table = self.tables.outbox
        mine = table.c.lease == claim.lease
        if done:
            late += len(done) - _count(session, delete(table).where(mine, table.c.seq.in_(done)))
        if renew is not None:
            until = self._time.now(session) + renew
            renewed = _count(session, update(table).where(mine).values(lease_until=until))
            late += others - renewed
        return late

    def _put_back(self, session: Session, lease: str, one: Settlement) -> bool:
        """Leave an event for another attempt, or give it up; False if it belongs to another by now."""
        table, event, now = self.tables.outbox, one.claimed.event, self._time.now(session)
        mine = and_(table.c.lease == lease, table.c.seq == one.claimed.seq)
        values: dict[str, Any] = {"lease": None, "lease_until": None}
        if one.delay is not None:
            values |= {"attempts": one.attempts, "due": now + one.delay, "error": one.error}
        given_up = one.delay is None and not one.untried
        if not _count(
            session, delete(table).where(mine) if given_up else update(table).where(mine).values(values)
        ):
            return False
        if given_up:
            dead = _columns(event) | {"attempts": one.attempts, "error": one.error, "died_at": now}
            session.execute(insert(self.tables.dead), dead)
        for handler in one.handled:
            self.first(session, handler, [event.id])
        return True

    # Looking after it.

    def prepare(self, session: Session) -> None:
        """Put the row of turns into its table, if it is not there."""
        session.execute(_NEW[_dialect(session)](self.tables.turn), {"id": 1})

    def status(self, session: Session) -> OutboxStatus:
        """Count what is there."""
        table, now = self.tables.outbox, self._time.now(session)
        in_flight = _how_many(table.c.lease_until > now)
        every, flying, failed, oldest = session.execute(
            select(func.count(), in_flight, _how_many(table.c.attempts > 0), func.min(table.c.occurred_at))
        ).one()
        dead = session.execute(select(func.count()).select_from(self.tables.dead)).scalar_one()
        handled = session.execute(select(func.count()).select_from(self.tables.inbox)).scalar_one()
        return {
            "waiting": every - int(flying or 0),
            "retrying": int(failed or 0),
            "in_flight": int(flying or 0),
            "dead": dead,
            "handled": handled,
            "lag": 0.0 if oldest is None else max(0.0, now - oldest),
        }

    def dead_letters(self, session: Session, event_type: str | None, most: int) -> list[DeadLetter]:
        """Return what was given up, the latest first."""
        dead = self.tables.dead
        query = self._of_type(select(dead), event_type).order_by(dead.c.seq.desc()).limit(most)
        return [
            DeadLetter(_event(row, row.attempts), row.error, datetime.fromtimestamp(row.died_at, UTC))
            for row in session.execute(query)
        ]

    def replay(self, session: Session, event_ids: Sequence[str] | None, event_type: str | None) -> int:
        """Put events that were given up back into the outbox, as new ones; return how many."""
        dead = self.tables.dead
        query = self._of_type(select(dead), event_type).order_by(dead.c.seq)
        if event_ids is not None:
            query = query.where(dead.c.event_id.in_(event_ids))
        events = [_event(row, 0) for row in session.execute(query)]
        # Each by itself: who replays the same at the same time finds it gone.
        mine = [one for one in events if _count(session, delete(dead).where(dead.c.event_id == one.id))]
        if mine:
            self.write(session, mine)
        return len(mine)

    def purge(self, session: Session, older_than: float, dead_letters: float | None) -> int:
        """Remove rows of the inbox, and dead letters, that are older than so many seconds; return how many."""
        inbox, outbox, dead, now = (
            self.tables.inbox,
            self.tables.outbox,
            self.tables.dead,
            self._time.now(session),
        )
        # What may come again has to be known again.
        again = [
            select(one.c.event_id).where(one.c.event_id == inbox.c.event_id).exists()
            for one in (outbox, dead)
        ]
        removed = 0
        if dead_letters is not None:
            removed += _count(session, delete(dead).where(dead.c.died_at < now - dead_letters))
        old = inbox.c.handled_at < now - older_than
        return removed + _count(session, delete(inbox).where(old, *(~one for one in again)))

    def _of_type(self, query: Select[Any], event_type: str | None) -> Select[Any]:
        return query if event_type is None else query.where(self.tables.dead.c.type == event_type)


def _fresh(event: Envelope) -> dict[str, Any]:
    return _columns(event) | {"attempts": 0, "due": 0.0}  # at once, by any clock


def _columns(event: Envelope) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "type": event.type,
        "payload": event.payload,
        "occurred_at": event.occurred_at.timestamp(),
        "ordering_key": event.ordering_key,
    }


def _event(row: Row[Any], attempts: int) -> Envelope:
    when = datetime.fromtimestamp(row.occurred_at, UTC)
    return Envelope(row.event_id, row.type, row.payload, when, row.ordering_key, attempts)


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _skips_locked(session: Session) -> bool:
    return _dialect(session) != "sqlite"


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))


def _count(session: Session, statement: Executable, values: Any = None) -> int:
    """Execute a statement and return how many rows it wrote."""
    return cast("CursorResult[Any]", session.execute(statement, values)).rowcount


_NEW: Final[dict[str, Callable[[Any], Any]]] = {
    "postgresql": lambda table: postgresql.insert(table).on_conflict_do_nothing(),
    "sqlite": lambda table: sqlite.insert(table).on_conflict_do_nothing(),
    "mysql": lambda table: mysql.insert(table).prefix_with("IGNORE"),
    "mariadb": lambda table: mysql.insert(table).prefix_with("IGNORE"),
}
