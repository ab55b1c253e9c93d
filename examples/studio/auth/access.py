"""Who may open what: a view that does not say who it is for is for the administrator."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from flask import Flask, abort, current_app, g, redirect, request, session, url_for
from werkzeug.wrappers import Response

from studio.auth.users import Person
from studio.services import services

__all__ = ["anyone", "current_user", "register_access"]

P = ParamSpec("P")
R = TypeVar("R")

#: Views that others wrote: files of packages, what a load balancer asks, and metrics, which ask for their own token.
_OPEN_ENDPOINTS = {"static", "bootstrap.static", "paintkit.live", "paintkit.ready", "paintkit.metrics"}
_SAFE = {"GET", "HEAD", "OPTIONS"}


def anyone(view: Callable[P, R]) -> Callable[P, R]:
    """Open a view to readers who have not logged in."""
    view.open_to_anyone = True  # type: ignore[attr-defined]  # a mark on our own function, read below
    return view


def current_user() -> Person | None:
    """Return who is logged in; asked of the database once per request, and never for a visitor."""
    if "user" not in g:
        g.user = _from_session()
    return g.user  # type: ignore[no-any-return]  # `g` holds what the line above put there


def register_access(app: Flask) -> None:
    """Check every request before its view runs, and tell the pages who is there."""
    app.before_request(_check)
    app.context_processor(lambda: {"user": current_user})


def _from_session() -> Person | None:
    user_id, version = session.get("user"), session.get("version")
    if not isinstance(user_id, int):
        return None
    person = services().users.by_id(user_id)
    if person is None or person.session_version != version:
        session.clear()
        return None
    return person


def _check() -> Response | None:
    endpoint = request.endpoint
    if endpoint is None or _is_open(endpoint):
        return None
    person = current_user()
    if person is not None and person.is_admin:
        return None
    if person is None and request.method in _SAFE:
        return redirect(url_for("auth.login", next=request.full_path.rstrip("?")), 303)
    return abort(403)


def _is_open(endpoint: str) -> bool:
    return endpoint in _OPEN_ENDPOINTS or hasattr(current_app.view_functions[endpoint], "open_to_anyone")
