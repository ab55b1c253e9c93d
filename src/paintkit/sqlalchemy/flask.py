"""The read session of a Flask app context: opened at its first use, closed when the context ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from flask import Flask, current_app, g, has_app_context

from paintkit.sqlalchemy.sessions import ReadSession

if TYPE_CHECKING:
    from paintkit.sqlalchemy.manager import DatabaseConnectionManager

__all__ = ["EXTENSION", "attach", "current_manager"]

#: Where an app keeps its manager: `app.extensions[EXTENSION]`.
EXTENSION: Final = "paintkit.sqlalchemy"

_ATTRIBUTE: Final = "_paintkit_read_session"

_log: Final = logging.getLogger("paintkit.sqlalchemy")

Finder = Callable[[], ReadSession | None]


def attach(app: Flask, db: DatabaseConnectionManager) -> tuple[Finder, Finder]:
    """Make `db` the manager of `app`.

    Returns:
        What returns the read session of the current app context, opening it; and the same without opening it.

    Raises:
        ValueError: The app has another manager.
    """
    present = app.extensions.setdefault(EXTENSION, db)
    if present is not db:
        raise ValueError("this app has a DatabaseConnectionManager already: use that one")

    def open_here() -> ReadSession | None:
        if not has_app_context() or current_app.extensions.get(EXTENSION) is not db:
            return None
        if _ATTRIBUTE not in g:
            setattr(g, _ATTRIBUTE, ReadSession(db.engine))
        return _session_here().check_owner()

    def find_here() -> ReadSession | None:
        if not has_app_context() or _ATTRIBUTE not in g or current_app.extensions.get(EXTENSION) is not db:
            return None
        return _session_here()

    if not getattr(app, "_paintkit_teardown", False):
        app.teardown_appcontext(_close)
        app._paintkit_teardown = True  # type: ignore[attr-defined]
    return open_here, find_here


def current_manager() -> DatabaseConnectionManager | None:
    """Return the manager of the current app, if there is an app and it has one."""
    return current_app.extensions.get(EXTENSION) if has_app_context() else None


def _session_here() -> ReadSession:
    return cast(ReadSession, g.get(_ATTRIBUTE))


def _close(_error: Any) -> None:
    session: ReadSession | None = g.pop(_ATTRIBUTE, None)
    if session is None:
        return
    if session.pending:
        _log.error(
            "objects were changed outside of a unit of work and the changes are lost: %s",
            [repr(one) for one in (*session.new, *session.deleted, *session.dirty)],
        )
    session.close()
