"""The same boundaries without naming a manager: they act on the current app's, else on the only one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast, overload

from paintkit import ambient
from paintkit.sqlalchemy.boundaries import Boundary
from paintkit.sqlalchemy.decorating import decorate
from paintkit.sqlalchemy.options import Isolation, Options, Propagation
from paintkit.sqlalchemy.registry import managers
from paintkit.sqlalchemy.units import UnitOfWork

if TYPE_CHECKING:
    from paintkit.sqlalchemy.manager import DatabaseConnectionManager
    from paintkit.typing import Decorator, P, R, Seconds

__all__ = ["current_manager", "on_commit", "read_only", "with_database_session"]


def current_manager() -> DatabaseConnectionManager:
    """Return the manager of the current Flask app, else the only one of this process.

    Raises:
        RuntimeError: There is none, or several.
    """
    # Without our module for it, no app has a manager.
    flask = sys.modules.get("paintkit.sqlalchemy.flask")
    if flask is not None and (found := flask.current_manager()) is not None:
        return cast("DatabaseConnectionManager", found)
    candidates = list(managers)
    if len(candidates) != 1:
        raise RuntimeError(
            f"there is {'more than one' if candidates else 'no'} DatabaseConnectionManager: name it, as in "
            "@db.with_database_session, or enter its app's context"
        )
    return candidates[0]


@overload
def with_database_session(fn: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def with_database_session(
    *,
    propagation: Propagation = "required",
    read_only: bool = False,
    isolation: Isolation | None = None,
    timeout: Seconds | None = None,
    rollback_if: Callable[[Any], object] | None = None,
) -> Decorator: ...


def with_database_session(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    propagation: Propagation = "required",
    read_only: bool = False,
    isolation: Isolation | None = None,
    timeout: Seconds | None = None,
    rollback_if: Callable[[Any], object] | None = None,
) -> Callable[..., Any]:
    """Run every call of a function in a unit of work of the current manager, found at the call.

    For modules that are imported before the app and its manager exist. The options are those of
    `DatabaseConnectionManager.with_database_session`; a function of the wrong colour is refused at its call.
    """
    options = Options.checked(propagation, read_only, isolation, timeout, rollback_if)

    def opening() -> Boundary:
        return Boundary(current_manager(), options)

    if fn is not None:
        return decorate(fn, opening, is_async=None)

    def decorator(fn: Callable[P, R], /) -> Callable[P, R]:
        return decorate(fn, opening, is_async=None)

    return decorator


def read_only(fn: Callable[P, R], /) -> Callable[P, R]:
    """Run every call of a function in a unit of work that only reads: `with_database_session(read_only=True)`."""
    return with_database_session(read_only=True)(fn)


def on_commit(action: Callable[[], object]) -> None:
    """Run `action` once the open unit of work is stored; at once if none is open.

    See `DatabaseConnectionManager.on_commit`.

    Args:
        action: Takes nothing.

    Example:
        >>> on_commit(lambda: print("nothing to wait for"))
        nothing to wait for
    """
    unit = ambient.unit_of_work.get()
    if isinstance(unit, UnitOfWork):
        unit.check_owner()
        unit.defer(action)
    else:
        action()
