"""The unit of work: what it wrote, what waits for its commit, and how it ends."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, Engine, event

from paintkit import ambient
from paintkit.errors import CommitOutcomeUnknownError, NoUnitOfWorkError, UnexpectedRollbackError
from paintkit.sqlalchemy import commits
from paintkit.sqlalchemy.hooks import Action, Ledger, Writer
from paintkit.sqlalchemy.transient import outcome_is_unknown

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

    from paintkit.sqlalchemy.commits import CommitResolver
    from paintkit.sqlalchemy.sessions import UnitSession

__all__ = ["SHORT_LOCKS", "UnitOfWork", "current_owner", "watch"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

#: How the statement begins that bounds waits for locks, where nobody else has; no guard counts it. The server cannot see that
#: who holds a lock waits for who wants it, when both are in one thread.
SHORT_LOCKS: Final = "SELECT set_config('lock_timeout', '3s', true)"


def current_owner() -> object:
    """Return the running asyncio task, or the identity of this thread where no loop runs."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task()
    return threading.get_ident()


class UnitOfWork:
    """An open unit of work: one session, one transaction, and everything that depends on how it ends.

    It is what `paintkit.ambient.unit_of_work` holds while code runs inside it.

    Args:
        session: Its session, of its own.
        outer: The unit of work that was open around it, if any.
        label: The manager that it belongs to.
        read_only: Whether writes are refused.
        isolation: The isolation level that was asked for.
        timeout: Seconds that the server may spend on one statement, where it can be told.
        beside: The unit of the same manager that waits meanwhile, if any: a lock that it holds is not waited for for ever.
        resolver: Who finds out what became of a COMMIT whose answer was lost, if anybody can.
    """

    __slots__ = (
        "_beside", "_committed", "_connection", "_dirty", "_failure", "_ledger", "_owner", "_resolver", "_timeout", "_wrote",
        "async_session", "began", "depth", "discarded", "is_ending", "isolation", "label", "outer", "over", "read_only", "session",
        "unresolved",
    )  # fmt: skip

    def __init__(
        self,
        session: UnitSession,
        outer: ambient.UnitOfWork | None,
        *,
        label: object,
        read_only: bool = False,
        isolation: str | None = None,
        timeout: float | None = None,
        beside: UnitOfWork | None = None,
        resolver: CommitResolver | None = None,
    ) -> None:
        self.session = session
        #: The asyncio face of the session, if there is one.
        self.async_session: Any = None
        self.outer = outer
        self.label = label
        self.read_only = read_only
        self.isolation = isolation
        #: `ambient.process.epoch` at the start.
        self.began = ambient.process.epoch
        #: How many boundaries are open, this unit's own included.
        self.depth = 1
        #: Whether the owner asked for a rollback, so that nobody is surprised by it.
        self.discarded = False
        #: Whether its owner is about to commit it.
        self.is_ending = False
        #: Whether it has ended.
        self.over = False
        self._owner: object = current_owner()
        self._ledger = Ledger()
        self._committed = False
        self._wrote = False
        self._dirty: set[Hashable] = set()
        self._connection: Connection | None = None
        self._failure: BaseException | None = None
        self._timeout = timeout
        self._beside = beside
        self._resolver = resolver
        #: What has to be raised once the actions that `end` returned have run.
        self.unresolved: CommitOutcomeUnknownError | None = None
        session.unit = self

    # What the surroundings ask: see `ambient.UnitOfWork`.

    @property
    def wrote(self) -> bool:
        """Whether anything was written in it, or in a unit of work around it."""
        return self._wrote or (self.outer is not None and self.outer.wrote)

    @property
    def is_async(self) -> bool:
        """Whether a deferred action may be `async def`: it is awaited then."""
        return self.async_session is not None

    def defer(self, action: Action, /, *, even_if_unknown: bool = False) -> None:
        """Run `action` after the real COMMIT; forget it with a rollback, of its savepoint or of everything."""
        self._ledger.add(action, even_if_unknown=even_if_unknown)

    def enclose(self, write: Writer, row: Any) -> None:
        """Let `write(session, rows)` write `row`, with all others of this writer, right before the COMMIT.

        Forgotten with a rollback, of its savepoint or of everything. Nothing is sent before the end, so this may be called
        where nothing can be awaited.

        Raises:
            NoUnitOfWorkError: The unit of work only reads.
        """
        self.refuse_or_note_write()
        self._ledger.enclose(write, row)

    def mark_dirty(self, tags: Iterable[Hashable], /) -> None:
        """Note that cached values under these tags are out of date for this unit, until it ends."""
        first = not self._dirty
        self._dirty.update(tags)
        if first and self._dirty:
            ambient.detour(+1)

    def is_dirty(self, tags: Iterable[Hashable], /) -> bool:
        """Whether one of these tags was marked in it, or in a unit of work around it."""
        tags = tuple(tags)
        return not self._dirty.isdisjoint(tags) or (self.outer is not None and self.outer.is_dirty(tags))

    def is_doomed(self) -> bool:
        """Whether the unit, or the savepoint that is open in it, can only be rolled back."""
        return self.discarded or self._ledger.cause is not None or not self.session.is_active

    # What its boundaries and its session tell it.

    def check_owner(self) -> None:
        """Refuse a thread or task that the unit does not belong to, and everybody once it has ended."""
        if self.over:
            raise NoUnitOfWorkError(
                "this unit of work has ended, and its session with it: do inside what needs the session, or open another unit"
            )
        if self._owner is not None and self._owner != current_owner():
            raise NoUnitOfWorkError(
                "this unit of work belongs to another thread or task: open a unit of work of its own in each, in a copied context "
                "by propagation='requires_new'"
            )

    def refuse_to_wait_for_itself(self) -> None:
        """Refuse to write on SQLite beside the unit of this thread or task that is its one writer, and waits for this one.

        Raises:
            ValueError: It is.
        """
        writer = self._beside
        if writer is None or self.read_only or writer.read_only or not writer.is_connected:
            return
        if writer._owner == self._owner and self.session.get_bind().dialect.name == "sqlite":
            raise ValueError(
                "propagation='requires_new' cannot write here: SQLite has one writer, and that is the unit of work around it; "
                "use 'nested', or read_only=True"
            )

    def doom(self, cause: BaseException) -> None:
        """A boundary that joined has failed: nothing since the innermost savepoint may be stored."""
        self._ledger.doom(cause)

    def refuse_or_note_write(self) -> None:
        """Note that something is being written, or refuse it."""
        if self.read_only:
            raise NoUnitOfWorkError(
                "this unit of work is read-only: write in one that was opened without read_only=True"
            )
        self._wrote = True

    def note_write(self) -> None:
        """The session writes what it was allowed to."""
        self._wrote = True

    def note_connection(self, connection: Connection) -> None:
        """The session has taken its connection, or has begun a savepoint on it."""
        if self._connection is None:
            for statement in self._preparations(connection.dialect.name):
                connection.exec_driver_sql(statement)
        self._connection = connection

    def _preparations(self, dialect: str) -> Iterator[str]:
        """What the server is told about the transaction, before anything else is done in it."""
        if dialect == "postgresql":
            if self._timeout is not None:
                yield f"SET LOCAL statement_timeout = {max(1, round(self._timeout * 1000))}"
            if self._beside is not None and self._beside.is_connected:
                yield f"{SHORT_LOCKS} WHERE current_setting('lock_timeout') = '0'"
        elif dialect in {"mysql", "mariadb"} and self.read_only:
            yield "START TRANSACTION READ ONLY"

    @property
    def is_connected(self) -> bool:
        """Whether it has taken a connection, on which it may hold locks."""
        return self._connection is not None

    def holds(self, connection: Connection) -> bool:
        """Whether it works on this connection."""
        return self._connection is connection

    def note_failure(self, context: ExceptionContext) -> bool:
        """A statement failed; tell whether it failed on the connection of this unit."""
        if self._connection is None or context.connection is not self._connection:
            return False
        self._failure = context.original_exception
        if _ended_by_server(context):
            self._ledger.doom(context.original_exception, root=True)
        elif context.dialect.name == "postgresql":
            # The server ignores everything until a rollback, and answers COMMIT with a silent ROLLBACK.
            self._ledger.doom(context.original_exception)
        return True

    def rolled_back_by_hand(self) -> None:
        """`session.rollback()` or `.close()` was called inside."""
        if self.depth == 1:
            self.discarded = True
        else:
            self._ledger.doom(
                RuntimeError("an inner boundary called rollback() or close() on the session"), root=True
            )

    def note_commit(self) -> None:
        """The transaction was committed."""
        self._committed = True

    def savepoint_began(self) -> None:
        """A nested transaction began, ours or the user's."""
        self._ledger.open()

    def savepoint_released(self) -> None:
        """The innermost nested transaction was committed."""
        self._ledger.release()

    def savepoint_ended(self) -> None:
        """The innermost nested transaction is over, committed or not."""
        self._ledger.close()

    @property
    def dbapi_connection(self) -> Any:
        """The driver's connection, if it has taken one: for who has to end its transaction from outside."""
        connection = self._connection
        return None if connection is None or connection.closed else connection.connection.dbapi_connection

    def leave_to_parent(self) -> None:
        """This process is a child that was forked inside: the unit, and its connection, are the parent's."""
        self.over = True
        if self._dirty:
            ambient.detour(-1)

    # How it ends.

    def refuse_doomed(self) -> None:
        """Raise if what was done since the innermost savepoint cannot be stored.

        Raises:
            UnexpectedRollbackError: It cannot; its cause is the failure that was swallowed.
        """
        cause = self._ledger.innermost_cause
        if cause is not None or not self.session.is_active:
            cause = cause or self._failure
            raise UnexpectedRollbackError(
                f"nothing was stored: {cause!r} happened inside this unit of work and was swallowed; let it through, or "
                "give the inner boundary propagation='nested'"
            ) from cause

    def end(self, error: BaseException | None, result: object = None) -> list[Action]:
        """Commit, or roll back because of `error`; close the session and return the actions that may run now.

        If the connection was lost during COMMIT and nobody can tell what became of it, they are only those that are safe
        in any case, and `unresolved` is the error to raise after them.

        Args:
            error: What ended the outermost boundary, if it did not end well.
            result: What its function returned: mapped objects in it stay readable.

        Raises:
            UnexpectedRollbackError: A failure inside was swallowed.
            NoUnitOfWorkError: This is a forked child, and the unit its parent's.
        """
        if self.over:
            if error is None:
                raise NoUnitOfWorkError(
                    "this unit of work belongs to the process that forked this one: it ends there"
                )
            return []
        self.is_ending = True
        self._owner = None  # asyncio ends a unit in a task of its own, out of reach of a cancellation
        try:
            if error is not None or self.discarded:
                return []
            self.refuse_doomed()
            self._commit(result)
            return self._ledger.take(unknown=self.unresolved is not None)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._close(error)

    def _commit(self, result: object) -> None:
        session, rows = self.session, self._ledger.rows
        if not rows and not session.in_transaction():
            return
        session.flush()
        for write, of_this_writer in rows.items():
            write(session, of_this_writer)
        session.load_expired(result)
        inquiry = None
        if self._wrote and self._resolver is not None and self._connection is not None:
            inquiry = self._resolver.begin_inquiry(self._connection)
        entry = self._pool_entry()
        try:
            session.commit_unit()
        except Exception as failure:
            if self._committed:
                # The connection could not be given back as it was taken; what is stored is stored.
                _log.exception("the work is stored, but closing its transaction failed")
                self._drop(entry, failure)
                return
            aborted = inquiry is not None and inquiry.outcome == "aborted"
            if not self._wrote or aborted or not outcome_is_unknown(failure):
                raise
            self.unresolved = commits.unknown(inquiry)
            self.unresolved.__cause__ = failure

    def _pool_entry(self) -> Any:
        """The pool's entry of the connection, if something has to be set back in it before it is used again."""
        if self.isolation is None or self._connection is None:
            return None
        return cast("Any", self._connection.connection)._connection_record

    def _drop(self, entry: Any, failure: Exception) -> None:
        """Give up a connection whose way back into the pool failed: SQLAlchemy would count it as taken for ever."""
        if entry is not None and entry.fairy_ref is None and self._connection is not None:
            entry.finalize_callback.clear()
            entry.invalidate(failure)
            self._connection.engine.pool._return_conn(entry)

    def _close(self, error: BaseException | None) -> None:
        """Give everything back; a failure here never hides the first error."""
        self.over = True
        try:
            self.session.close_unit()
        except Exception as failure:  # noqa: BLE001 - told and logged; the first error is the one to raise
            # SQLAlchemy has closed the session all the same, and its pool resets or drops the connection.
            _log.exception("closing a unit of work failed")
            if error is not None:
                error.add_note(f"paintkit: the rollback failed, too: {failure!r}")
        finally:
            if self._dirty:
                self._dirty.clear()
                ambient.detour(-1)


def _ended_by_server(context: ExceptionContext) -> bool:
    """Whether the whole transaction is gone, outer savepoints included."""
    if context.is_disconnect:
        return True
    error, name = context.original_exception, context.dialect.name
    if name in {"mysql", "mariadb"}:
        # InnoDB answers a deadlock, and a row that was changed under its snapshot, by rolling everything back.
        return error.args[:1] in {(1213,), (1020,)}
    if name == "sqlite" and context.connection is not None:
        return not getattr(context.connection.connection.dbapi_connection, "in_transaction", True)
    return False


def watch(engine: Engine) -> None:
    """Let what happens to a connection of this engine tell the unit of work that holds it."""
    event.listen(engine, "handle_error", _on_error)
    event.listen(engine, "commit", _on_commit)


def _on_commit(connection: Connection) -> None:
    unit = ambient.unit_of_work.get()
    while isinstance(unit, UnitOfWork):
        if unit.holds(connection) and not unit.is_ending:
            raise RuntimeError(
                "the unit of work commits by itself: its connection cannot, for half of it would be stored"
            )
        unit = unit.outer


def _on_error(context: ExceptionContext) -> None:
    unit = ambient.unit_of_work.get()
    while isinstance(unit, UnitOfWork) and not unit.note_failure(context):
        unit = unit.outer
