"""The sessions: that of a unit of work, which the unit alone commits and closes, and the one that only reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from sqlalchemy import Connection, Engine, TextClause, event, inspect
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.orm.state import InstanceState
from typing_extensions import override

from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy.statements import controls_transaction, only_reads
from paintkit.sqlalchemy.units import current_owner

if TYPE_CHECKING:
    from paintkit.sqlalchemy.units import UnitOfWork

__all__ = ["ReadSession", "UnitSession", "refuse_writes"]


class _BulkSession(Session):
    """Asks before the bulk methods write: no event comes before them."""

    def before_bulk(self) -> None:
        """Refuse, or note, what is about to be written."""

    @override
    def bulk_save_objects(self, *args: Any, **kwargs: Any) -> None:
        """Do as SQLAlchemy's session does, if this one may write."""
        self.before_bulk()
        super().bulk_save_objects(*args, **kwargs)

    @override
    def bulk_insert_mappings(self, *args: Any, **kwargs: Any) -> None:
        """Do as SQLAlchemy's session does, if this one may write."""
        self.before_bulk()
        super().bulk_insert_mappings(*args, **kwargs)

    @override
    def bulk_update_mappings(self, *args: Any, **kwargs: Any) -> None:
        """Do as SQLAlchemy's session does, if this one may write."""
        self.before_bulk()
        super().bulk_update_mappings(*args, **kwargs)


class UnitSession(_BulkSession):
    """The session of a unit of work, which alone decides when it commits and closes."""

    unit: UnitOfWork

    @property
    def label(self) -> object:
        """The manager that it belongs to."""
        return self.unit.label

    @property
    def autobegin(self) -> bool:
        """Whether it begins by itself at its first use; asked then, and each time that nothing is open."""
        self.unit.check_owner()
        self.unit.refuse_to_wait_for_itself()
        return True

    @autobegin.setter
    def autobegin(self, _value: bool) -> None:
        """A session says so when it is made."""

    @override
    def before_bulk(self) -> None:
        """Refuse strangers, and writes where the unit only reads."""
        self.unit.check_owner()
        self.unit.refuse_or_note_write()

    @override
    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin a savepoint; the transaction itself is the unit of work's."""
        self.unit.check_owner()
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
        if not self.unit.over:
            self.unit.check_owner()
            self.unit.rolled_back_by_hand()
        super().rollback()

    @override
    def close(self) -> None:
        """Roll everything back, as `rollback()` does, and forget all objects."""
        if self.in_transaction():
            self.unit.check_owner()
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


class ReadSession(_BulkSession):
    """A session that only reads: every statement sees the latest committed rows, and nothing can be flushed.

    Args:
        bind: An engine in autocommit.
        label: The manager that it belongs to.
    """

    def __init__(self, bind: Engine, label: object = None) -> None:
        super().__init__(bind, expire_on_commit=False)
        self.label = label
        self._owner = current_owner()
        self._is_over = False

    @property
    def autobegin(self) -> bool:
        """Whether it begins by itself at its first use; asked then, and each time that nothing is open."""
        self.check_owner()
        return True

    @autobegin.setter
    def autobegin(self, _value: bool) -> None:
        """A session says so when it is made."""

    @override
    def before_bulk(self) -> None:
        """Refuse: it only reads."""
        raise _reading_only()

    @override
    def begin(self, nested: bool = False) -> SessionTransaction:
        """Refuse: there is nothing that could be committed or rolled back."""
        raise _reading_only()

    def end(self) -> None:
        """Close it for good: its app context is over."""
        self._is_over = True
        super().close()

    def check_owner(self) -> Self:
        """Return the session, or refuse a thread that it does not belong to, and everybody once it is over."""
        if self._is_over:
            raise NoUnitOfWorkError(
                "this read session has ended with its app context: ask for db.session where you need it"
            )
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


def _text_of(state: ORMExecuteState) -> str | None:
    """Return the text of a statement that is text, whatever its rows are read as."""
    statement: Any = getattr(state.statement, "element", state.statement)
    return statement.text if isinstance(statement, TextClause) else None


def _reads_only(state: ORMExecuteState, text: str | None) -> bool:
    return state.is_select if text is None else only_reads(text)


def _on_unit_execute(state: ORMExecuteState) -> None:
    unit = cast("UnitSession", state.session).unit
    unit.check_owner()
    text = _text_of(state)
    if not _reads_only(state, text):
        if text is not None and controls_transaction(text):
            raise _not_yours("begins and ends", "leave BEGIN, COMMIT and ROLLBACK to it")
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
    if not _reads_only(state, _text_of(state)):
        raise _reading_only()


def _on_read_flush(session: ReadSession, *_: object) -> None:
    if _has_changes(session):
        raise _reading_only()


def refuse_writes(
    _connection: Connection, _cursor: Any, sql: str, _values: Any, _context: Any, _many: bool
) -> None:
    """Refuse what changes anything: a listener of the engine that read sessions use, for those who go by its connection."""
    if not only_reads(sql):
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
