"""What a Flask app has of a database by itself: a read session for each app context, and a watch over its requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, cast

from paintkit import _arguments
from paintkit._extras import Extra
from paintkit.errors import QueryGuardError
from paintkit.sqlalchemy.queries import query_guard
from paintkit.sqlalchemy.query_watch import QueryWatch
from paintkit.sqlalchemy.sessions import ReadSession

with Extra("flask"):
    from flask import Flask, current_app, g, has_app_context, request

__all__ = ["EXTENSION", "attach", "current_manager", "query_budget", "query_watch", "this_app"]

#: Where an app keeps its manager: `app.extensions[EXTENSION]`.
EXTENSION: Final = "paintkit.sqlalchemy"

_ATTRIBUTE: Final = "_paintkit_read_session"
_GUARD: Final = "_paintkit_query_guard"
_SAMPLE: Final = "_paintkit_query_sample"

_log: Final = logging.getLogger("paintkit.sqlalchemy")

Finder = Callable[[], ReadSession | None]


def attach(app: Flask, db: object, make: Callable[[], ReadSession]) -> tuple[Finder, Finder]:
    """Make `db` the manager of `app`.

    Args:
        app: The app.
        db: Its manager.
        make: Returns a new read session.

    Returns:
        What returns the read session of the current app context, opening it; and the same without opening it.

    Raises:
        ValueError: The app has another manager.
    """
    if EXTENSION not in app.extensions:
        app.extensions[EXTENSION] = db
        app.teardown_appcontext(_close)
    elif app.extensions[EXTENSION] is not db:
        raise ValueError("this app has a DatabaseConnectionManager already: use that one")

    def find_here() -> ReadSession | None:
        session = _session_here() if current_manager() is db else None
        return session if session is not None and session.is_mine else None

    def open_here() -> ReadSession | None:
        if current_manager() is not db:
            return None
        if _ATTRIBUTE not in g:
            setattr(g, _ATTRIBUTE, make())
        session = _session_here()
        return session and session.check_owner()

    return open_here, find_here


def current_manager() -> object:
    """Return the manager of the current app, if there is an app and it has one."""
    return current_app.extensions.get(EXTENSION) if has_app_context() else None


def this_app() -> Flask:
    """Return the app whose context is open."""
    return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]  # the proxy's own method


def give_up_session() -> ReadSession:
    """Take the read session out of the current app context, and leave it as it is."""
    return cast("ReadSession", g.pop(_ATTRIBUTE))


def _session_here() -> ReadSession | None:
    return cast("ReadSession | None", g.get(_ATTRIBUTE))


def _close(_error: BaseException | None) -> None:
    session: ReadSession | None = g.pop(_ATTRIBUTE, None)
    if session is None:
        return
    if session.pending:
        _log.error(
            "objects were changed outside of a unit of work and the changes are lost: %s",
            [repr(one) for one in (*session.new, *session.deleted, *session.dirty)],
        )
    session.end()


def query_budget(
    app: Flask, *, max_queries: int | None = None, routes: Mapping[str, int | None] | None = None
) -> None:
    """Log every request of `app` that runs more statements than its route may, or one for each row.

    For development: `if app.debug: query_budget(app, max_queries=10)`. A request is never failed by it.

    Args:
        app: The app, before its first request.
        max_queries: The most statements of a request, 0 or more; `None` does not limit them.
        routes: The same for single endpoints, by name, such as `{"catalogue.index": 3}`. They may be registered later; which of
            them are not there is logged with the first request.

    Raises:
        TypeError: A limit or a name is of the wrong kind.
        ValueError: A limit is negative, or a name empty.
    """
    limits = {_arguments.label("a route", endpoint): limit for endpoint, limit in (routes or {}).items()}
    for limit in (max_queries, *limits.values()):
        query_guard(max_queries=limit)  # refuses what is no limit now, not at the first request

    unchecked = iter(list(limits))

    def begin() -> None:
        for endpoint in unchecked:  # by the first request, after which Flask takes no more routes
            _check_endpoint(app, endpoint)
        guard = query_guard(max_queries=limits.get(request.endpoint or "", max_queries))
        setattr(g, _GUARD, guard.__enter__())

    def end(_error: BaseException | None) -> None:
        guard: query_guard | None = g.pop(_GUARD, None)
        if guard is None:
            return
        try:
            guard.__exit__(None)
        except QueryGuardError as error:
            _log.warning("%s %s (%s): %s", request.method, request.path, request.endpoint, error)

    app.before_request(begin)
    app.teardown_request(end)


def _check_endpoint(app: Flask, endpoint: str) -> None:
    """Tell of an endpoint that the app does not have, and which may be meant."""
    endpoints = sorted({rule.endpoint for rule in app.url_map.iter_rules()})
    if endpoint in endpoints:
        return
    import difflib

    near = [one for one in endpoints if one.endswith(f".{endpoint}")]
    near = near or difflib.get_close_matches(endpoint, endpoints)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`flask routes` shows them all"
    _log.warning("query_budget limits %r, which is no endpoint of this app; %s", endpoint, hint)


def query_watch(app: Flask, watch: QueryWatch | None = None) -> QueryWatch:
    """Tell of requests of `app` in production that run a statement for each row, by a sample of them.

    Args:
        app: The app, before its first request.
        watch: What looks, and how (default: `QueryWatch()`, one request of a hundred).

    Returns:
        What looks, to be closed if the app ends before the process.

    Raises:
        TypeError: `watch` is something else.
    """
    watching = QueryWatch() if watch is None else watch
    if not isinstance(watching, QueryWatch):
        raise TypeError(f"watch must be a QueryWatch, not {type(watching).__name__}")

    def begin() -> None:
        setattr(g, _SAMPLE, watching.begin())

    def end(_error: BaseException | None) -> None:
        watching.end(g.pop(_SAMPLE, None), f"{request.method} {request.endpoint}")

    app.before_request(begin)
    app.teardown_request(end)
    return watching
