"""The sessions, and the unit of work that owns one: what it wrote, what waits for its commit, and how it ends."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self, cast

from sqlalchemy import Connection, Engine, TextClause, event, inspect
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.orm.state import InstanceState
from typing_extensions import override

from paintkit import ambient
from paintkit.errors import CommitOutcomeUnknownError, NoUnitOfWorkError, UnexpectedRollbackError
from paintkit.sqlalchemy import commits
from paintkit.sqlalchemy.hooks import Action, Ledger, Writer
from paintkit.sqlalchemy.transient import outcome_is_unknown

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

    from paintkit.sqlalchemy.commits import CommitResolver

__all__ = ["ReadSession", "UnitOfWork", "UnitSession", "current_owner", "watch_errors"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

_READING_TEXT: Final = re.compile(r"\s*(select|show|explain|pragma|values)\b", re.IGNORECASE)


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
        resolver: Who finds out what became of a COMMIT whose answer was lost, if anybody can.
    """

    __slots__ = (
        "_committed", "_connection", "_dirty", "_failure", "_ledger", "_owner", "_resolver", "_timeout", "_wrote",
        "async_session", "began", "depth", "discarded", "isolation", "label", "outer", "over", "read_only", "session",
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
        """Refuse a thread or task that the unit does not belong to."""
        if self._owner is not None and self._owner != current_owner():
            raise NoUnitOfWorkError(
                "this unit of work belongs to another thread or task: open a unit of work of its own in each"
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
        if self._connection is None and self._timeout is not None and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(self._timeout * 1000))}")
        self._connection = connection

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
        """
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
        return error.args[:1] == (1213,)  # InnoDB answers a deadlock by rolling everything back
    if name == "sqlite" and context.connection is not None:
        return not getattr(context.connection.connection.dbapi_connection, "in_transaction", True)
    return False


def watch_errors(engine: Engine) -> None:
    """Let failing statements of this engine tell the unit of work in which they ran."""
    event.listen(engine, "handle_error", _on_error)


def _on_error(context: ExceptionContext) -> None:
    unit = ambient.unit_of_work.get()
    while isinstance(unit, UnitOfWork) and not unit.note_failure(context):
        unit = unit.outer


class UnitSession(Session):
    """The session of a unit of work, which alone decides when it commits and closes."""

    unit: UnitOfWork

    @property
    def label(self) -> object:
        """The manager that it belongs to."""
        return self.unit.label

    @override
    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin a savepoint; the transaction itself is the unit of work's."""
        if not nested:
            raise _not_yours("begins", "use begin_nested(), or unit_of_work(propagation='nested')")
        return super().begin(nested=True)

    @override
    def commit(self) -> None:
        """Refuse: only the outermost boundary commits."""
        raise _not_yours("commits", "use flush() to send pending changes now")

    @override
    def rollback(self) -> None:
        """Roll everything back; what follows in this unit of work is not stored either."""
        self.unit.rolled_back_by_hand()
        super().rollback()

    @override
    def close(self) -> None:
        """Roll everything back, as `rollback()` does, and forget all objects."""
        if self.in_transaction():
            self.unit.rolled_back_by_hand()
        super().close()

    @override
    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """Return the connection; what is done with it counts as written, for nobody sees it."""
        self.unit.check_owner()
        if not self.unit.read_only:
            self.unit.refuse_or_note_write()
        return super().connection(*args, **kwargs)

    def load_expired(self, result: object) -> None:
        """Load what a flush left to the database, such as `onupdate`, in a mapped object or a list or tuple of them."""
        for one in result if isinstance(result, list | tuple) else (result,):
            state = inspect(one, raiseerr=False)
            if isinstance(state, InstanceState) and state.session is self and state.expired_attributes:
                self.refresh(one, state.expired_attributes)

    def commit_unit(self) -> None:
        """Commit; for the unit of work."""
        super().commit()

    def close_unit(self) -> None:
        """Roll back what is open, and close; for the unit of work."""
        try:
            # Before the close: it makes objects transient again that were new in what is rolled back.
            if self.in_transaction():
                super().rollback()
        finally:
            super().close()


def _not_yours(what: str, fix: str) -> RuntimeError:
    return RuntimeError(f"the unit of work {what} by itself: {fix}")


class ReadSession(Session):
    """A session that only reads: every statement sees the latest committed rows, and nothing can be flushed.

    Args:
        bind: An engine in autocommit.
        label: The manager that it belongs to.
    """

    def __init__(self, bind: Engine, label: object = None) -> None:
        super().__init__(bind, expire_on_commit=False)
        self.label = label
        self._owner = current_owner()

    def check_owner(self) -> Self:
        """Return the session, or refuse a thread that it does not belong to."""
        if not self.is_mine:
            raise NoUnitOfWorkError(
                "this read session belongs to another thread: use an app context of its own there"
            )
        return self

    @property
    def is_mine(self) -> bool:
        """Whether it belongs to this thread."""
        return self._owner == current_owner()

    def rest(self, *, expire: bool) -> None:
        """Give the connection back until the next statement; forget the state of its objects if that may have changed."""
        if not self.pending:
            super().commit()
            if expire:
                self.expire_all()

    @property
    def pending(self) -> bool:
        """Whether it holds changes, which will never be stored."""
        return _has_changes(self)


def _has_changes(session: Session) -> bool:
    return bool(session.new or session.deleted or any(session.is_modified(one) for one in session.dirty))


def _reads_only(state: ORMExecuteState) -> bool:
    if isinstance(state.statement, TextClause):
        return _READING_TEXT.match(state.statement.text) is not None
    return state.is_select


def _on_unit_execute(state: ORMExecuteState) -> None:
    unit = cast("UnitSession", state.session).unit
    unit.check_owner()
    if not _reads_only(state):
        unit.refuse_or_note_write()


def _on_unit_flush(session: UnitSession, *_: object) -> None:
    session.unit.check_owner()
    if session.unit.read_only and _has_changes(session):
        session.unit.refuse_or_note_write()


def _on_begin(session: UnitSession, _transaction: SessionTransaction, connection: Connection) -> None:
    session.unit.note_connection(connection)


def _on_create(session: UnitSession, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.unit.savepoint_began()
    elif transaction.origin is SessionTransactionOrigin.SUBTRANSACTION:
        # Around the writes of every flush, and of the bulk methods, which flush nothing.
        session.unit.note_write()


def _on_commit(session: UnitSession) -> None:
    # SQLAlchemy calls this for savepoints as well.
    if session.in_nested_transaction():
        session.unit.savepoint_released()
    else:
        session.unit.note_commit()


def _on_end(session: UnitSession, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.unit.savepoint_ended()


def _on_read_execute(state: ORMExecuteState) -> None:
    cast("ReadSession", state.session).check_owner()
    if not _reads_only(state):
        raise _reading_only()


def _on_read_flush(session: ReadSession, *_: object) -> None:
    if _has_changes(session):
        raise _reading_only()


def _reading_only() -> NoUnitOfWorkError:
    return NoUnitOfWorkError(
        "outside a unit of work db.session only reads: decorate the function with @db.with_database_session, or write "
        "inside `with db.unit_of_work():`"
    )


def _listen(target: type[Session], **listeners: Callable[..., None]) -> None:
    for name, listener in listeners.items():
        event.listen(target, name, listener)


_listen(
    UnitSession,
    do_orm_execute=_on_unit_execute,
    before_flush=_on_unit_flush,
    after_begin=_on_begin,
    after_transaction_create=_on_create,
    after_commit=_on_commit,
    after_transaction_end=_on_end,
)
_listen(ReadSession, do_orm_execute=_on_read_execute, before_flush=_on_read_flush)
