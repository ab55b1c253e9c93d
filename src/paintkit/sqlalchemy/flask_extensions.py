"""The session of Flask-SQLAlchemy and of Flask-SQLAlchemy-Lite: inside a unit of work it is the unit's own.

Nothing is swapped when a unit begins and swapped back when it ends. What looks up their session asks first which unit of work is
ambient, so nested units, generators, threads and tasks find theirs just as they do by `db.session`.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from flask import g, has_app_context
from sqlalchemy import Engine, Table, UpdateBase, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.util import ScopedRegistry
from typing_extensions import override

from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy.flask import current_manager
from paintkit.sqlalchemy.sessions import UnitSession

if TYPE_CHECKING:
    from sqlalchemy.orm import sessionmaker

    from paintkit.sqlalchemy.units import UnitOfWork

__all__ = ["join"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

# What a unit of work decides by itself, whatever the options of their sessions are.
_OURS: Final = ("autobegin", "bind", "expire_on_commit", "join_transaction_mode", "twophase")

# Where we note the session that Flask-SQLAlchemy-Lite has made for an app context, in `g`.
_THEIRS: Final = "_paintkit_their_session"


class Owner(Protocol):
    """What is needed of a manager."""

    def open_unit(self) -> UnitOfWork | None:
        """Return the innermost open unit of work of this manager."""
        ...


def join(extension: Any, db: Owner) -> Callable[[Engine], UnitSession]:
    """Let `extension.session` be the session of the open unit of work of `db`, as long as one is open.

    Args:
        extension: The `SQLAlchemy` object of Flask-SQLAlchemy or Flask-SQLAlchemy-Lite.
        db: The manager of the current app, one of those of the extension.

    Returns:
        What makes the session of a unit of work: of their class, with their options and listeners.
    """
    finder = _lite(extension) if hasattr(extension, "get_session") else _scoped(extension)
    finder.managers.add(db)
    factory = finder.factory()
    # A class of both, so that what listens to their sessions hears of units of work, too.
    joined = type("JoinedSession", (_JoinedSession, factory.class_), {})
    return functools.partial(_make, joined, factory, finder)


def _make(
    joined: type[_JoinedSession], factory: sessionmaker[Session], finder: _Finder, bind: Engine
) -> UnitSession:
    options = {name: value for name, value in factory.kw.items() if name not in _OURS}
    session = joined(bind=bind, expire_on_commit=False, **options)
    session.stand_in_for(finder.own())
    return session


class _Finder:
    """Finds the session of the open unit of work, and their own beside it."""

    def __init__(self) -> None:
        self.managers: weakref.WeakSet[Owner] = weakref.WeakSet()

    def of_unit(self) -> Session | None:
        """Return the session of the open unit of work of the current app's manager.

        Raises:
            NoUnitOfWorkError: It belongs to another thread or task.
        """
        manager = current_manager()
        if manager not in self.managers:
            return None
        unit = cast(Owner, manager).open_unit()
        return None if unit is None else unit.session

    def own(self) -> Session | None:
        """Return their own session of this app context, if there is one."""
        raise NotImplementedError

    def factory(self) -> sessionmaker[Session]:
        """Return what makes their sessions for the current app."""
        raise NotImplementedError


# Flask-SQLAlchemy has a scoped session, which asks its registry.


def _scoped(extension: Any) -> _Finder:
    scoped = extension.session
    if not isinstance(scoped.registry, _Registry):
        scoped.registry = _Registry(scoped.registry, scoped.session_factory)
    return scoped.registry.finder


class _Registry(ScopedRegistry[Session]):
    """The registry of their scoped session, with the session of the open unit of work in front of it."""

    def __init__(self, theirs: ScopedRegistry[Session], factory: sessionmaker[Session]) -> None:
        self.theirs = theirs
        self.finder: _Finder = _RegistryFinder(theirs, factory)

    @override
    def __call__(self) -> Session:
        return self.finder.of_unit() or self.theirs()

    @override
    def has(self) -> bool:
        # So `remove()`, which closes what is there, leaves the unit's session to the unit: the teardown of an app context may
        # come in the middle of one.
        return self.finder.of_unit() is None and self.theirs.has()

    @override
    def set(self, obj: Session) -> None:
        if self.finder.of_unit() is not None:
            raise InvalidRequestError(
                "a unit of work is open, and its session takes no options: ask for a session with options before or after it"
            )
        self.theirs.set(obj)

    @override
    def clear(self) -> None:
        if self.theirs.has():
            self.theirs().close()
            self.theirs.clear()


class _RegistryFinder(_Finder):
    def __init__(self, theirs: ScopedRegistry[Session], factory: sessionmaker[Session]) -> None:
        super().__init__()
        self._theirs = theirs
        self._factory = factory

    @override
    def own(self) -> Session | None:
        return self._theirs() if has_app_context() and self._theirs.has() else None

    @override
    def factory(self) -> sessionmaker[Session]:
        return self._factory


# Flask-SQLAlchemy-Lite keeps sessions by name, and `session` is the one called "default".


def _lite(extension: Any) -> _Finder:
    if not isinstance(extension.get_session, _Store):
        extension.get_session = _Store(extension)
    return cast(_Store, extension.get_session)


class _Store(_Finder):
    """Takes the place of the extension's `get_session`."""

    def __init__(self, extension: Any) -> None:
        super().__init__()
        self._extension = extension
        self._theirs: Callable[[str], Session] = extension.get_session

    def __call__(self, name: str = "default") -> Session:
        if name != "default":
            return self._theirs(name)
        session = self.of_unit()
        if session is None:
            session = self._theirs(name)
            setattr(g, _THEIRS, session)
        return session

    @override
    def own(self) -> Session | None:
        return g.get(_THEIRS) if has_app_context() else None

    @override
    def factory(self) -> sessionmaker[Session]:
        return cast("sessionmaker[Session]", self._extension.sessionmaker)


class _JoinedSession(UnitSession):
    """The session of a unit of work while theirs is the same: of one database, and with an eye on what theirs was before."""

    _theirs: Session | None = None

    def stand_in_for(self, theirs: Session | None) -> None:
        """Note the changes that their own session holds already: they are no business of this unit."""
        self._theirs = theirs
        self._before = _changes(theirs)

    @override
    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any) -> Any:
        if bind is not None:
            return bind
        key = _bind_key(mapper, clause)
        # Not theirs: Flask-SQLAlchemy's returns the plain engine, and only in an app context.
        if key is None and Session.get_bind(self, mapper, clause=clause, **options) is self.bind:
            return self.bind
        what = clause if mapper is None else mapper
        raise NoUnitOfWorkError(
            f"a unit of work is of one database, and {what} is of {'another engine' if key is None else f'the bind key {key!r}'}: "
            "make a DatabaseConnectionManager of that engine, and a unit of work of its own"
        )

    @override
    def close_unit(self) -> None:
        left = {one: what for one, what in _changes(self._theirs).items() if one not in self._before}
        if left:
            _log.error(
                "objects that the extension's session had loaded before a unit of work were changed inside it, and are not part "
                "of it: load them inside, or merge() them: %s",
                list(left.values()),
            )
        super().close_unit()


def _changes(session: Session | None) -> dict[int, str]:
    if session is None:
        return {}
    changed = (*session.new, *session.deleted, *filter(session.is_modified, session.dirty))
    return {id(one): f"a {type(one).__qualname__}" for one in changed}


def _bind_key(mapper: Any, clause: Any) -> str | None:
    """Return Flask-SQLAlchemy's name of another database than the default one, if this is of that."""
    found = inspect(mapper, raiseerr=False) if mapper is not None else None
    table = found.local_table if isinstance(found, Mapper) else clause
    if isinstance(table, UpdateBase):
        table = getattr(table, "table", None)
    return table.metadata.info.get("bind_key") if isinstance(table, Table) else None
