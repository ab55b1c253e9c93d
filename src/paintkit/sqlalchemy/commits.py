"""What became of a COMMIT whose answer was lost: the server that took it is asked under the transaction's own number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy.util import await_only, greenlet_spawn

from paintkit import ambient, clock
from paintkit.errors import CommitOutcomeUnknownError
from paintkit.sqlalchemy.transient import outcome_is_unknown

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from paintkit.errors import CommitOutcome

__all__ = ["NUMBERING", "CommitResolver", "Inquiry", "unknown"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

#: How the statement that asks for a transaction's number begins; no guard counts it.
NUMBERING: Final = "SELECT pg_current_xact_id_if_assigned()"

# Numbers of transactions mean something within one history of the server only: a replica that was promoted begins
# another timeline, in which the same number may be another transaction's.
_HISTORY: Final = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

# Where the connection carries the inquiry while it commits.
_KEY: Final = "paintkit_commit"

# Seconds: a server that saw the connection go decides within milliseconds, one that restarts takes longer.
_PATIENCE: Final = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5


def unknown(inquiry: Inquiry | None) -> CommitOutcomeUnknownError:
    """Return the error for a COMMIT of which nobody knows whether it arrived."""
    return CommitOutcomeUnknownError(
        "the connection was lost during COMMIT: the work may or may not be stored; look before you repeat it",
        inquiry,
    )


class Inquiry:
    """One transaction that is being committed, and the way to ask what became of it.

    Args:
        engine: Where its server is.
        number: Its number; `None` if the server gave it none, for it wrote nothing.
        history: The server's timeline.
        pause: Waits for some seconds, in the colour of the engine.
    """

    __slots__ = ("_engine", "_history", "_number", "_pause", "outcome")

    def __init__(
        self, engine: Engine, number: str | None, history: str, pause: Callable[[float], object]
    ) -> None:
        self._engine = engine
        self._number = None if number is None else int(number)
        self._history = history
        self._pause = pause
        #: What is known so far.
        self.outcome: CommitOutcome = "unknown"

    def settle(self) -> CommitOutcome:
        """Ask until the server knows, for at most 5 seconds and no longer than the deadline allows."""
        for pause in _pauses():
            if self.resolve() != "unknown":
                break
            self._pause(pause)
        return self.outcome

    def resolve(self) -> CommitOutcome:
        """Ask once, unless the answer is known."""
        if self._number is None:
            self.outcome = "aborted"  # it had nothing to store
        elif self.outcome == "unknown":
            try:
                self.outcome = self._ask(self._number)
            except Exception:  # noqa: BLE001 - logged; whatever the reason, the answer is that nobody knows
                _log.warning("the server could not be asked what became of a COMMIT", exc_info=True)
        return self.outcome

    async def aresolve(self) -> CommitOutcome:
        """Do as `resolve` does, for an async engine."""
        return await greenlet_spawn(self.resolve)

    def _ask(self, number: int) -> CommitOutcome:
        # A pool of its own: the other may be exhausted, and this is no time to wait for a turn.
        pool = self._engine.pool.recreate()
        connection = pool.connect()
        try:
            cursor = connection.cursor()
            cursor.execute(f"SELECT pg_xact_status('{number}'::xid8), {_HISTORY}")
            status, history = cast("tuple[str | None, str]", cursor.fetchone())
            cursor.close()
        finally:
            connection.close()
            pool.dispose()
        if history != self._history:
            return "unknown"
        return cast("CommitOutcome", status) if status in {"committed", "aborted"} else "unknown"


class CommitResolver:
    """Finds out what became of the commits of one engine, if its server can tell: PostgreSQL 13 and later.

    A COMMIT whose answer was lost, and which the server remembers as committed, has succeeded for everything above it.

    Args:
        engine: The engine; its dialect commits through this resolver from now on.
        is_async: Whether its connections wait in an event loop.
    """

    def __init__(self, engine: Engine, *, is_async: bool) -> None:
        self._engine = engine
        self._pause = _pause_async if is_async else _pause_blocking
        self._commit = engine.dialect.do_commit
        # SQLAlchemy has no event that could answer for a failed COMMIT. This is the one place that commits, so whatever
        # it returns well from is committed: sessions and objects are then in the state that they should be in.
        engine.dialect.do_commit = self._do_commit  # type: ignore[assignment, method-assign]

    def begin_inquiry(self, connection: Connection) -> Inquiry:
        """Note the number of the transaction that is about to be committed on this connection: one round trip."""
        number, history = connection.exec_driver_sql(f"{NUMBERING}::text, {_HISTORY}").one()
        inquiry = Inquiry(self._engine, number, history, self._pause)
        connection.info[_KEY] = inquiry
        return inquiry

    def _do_commit(self, connection: PoolProxiedConnection) -> None:
        inquiry: Inquiry | None = connection.info.pop(_KEY, None)
        if inquiry is None:
            self._commit(connection)
            return
        try:
            self._commit(connection)
        except Exception as failure:
            if not self._leaves_it_open(failure, connection) or inquiry.settle() != "committed":
                raise
            connection.invalidate(failure)

    def _leaves_it_open(self, failure: Exception, connection: PoolProxiedConnection) -> bool:
        dialect = self._engine.dialect
        return outcome_is_unknown(failure) or (
            isinstance(failure, dialect.loaded_dbapi.Error)
            and dialect.is_disconnect(failure, cast("Any", connection), None)
        )


def _pauses() -> Iterator[float]:
    pause, until = _FIRST_PAUSE, clock.now() + _PATIENCE
    due = ambient.deadline.get()
    end = until if due is None else min(until, due)
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
        if clock.now() >= end:
            return


def _pause_blocking(seconds: float) -> None:
    clock.sleep(seconds)


def _pause_async(seconds: float) -> None:
    import asyncio

    await_only(asyncio.sleep(seconds))
