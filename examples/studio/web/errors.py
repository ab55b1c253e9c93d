"""What a visitor sees when something went wrong: what happened, what to do, and an id that finds the log line."""

from __future__ import annotations

import logging
import math

from flask import Flask, g, render_template, request
from flask.globals import request_ctx
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    RequestEntityTooLarge,
    ServiceUnavailable,
)

from paintkit import RejectedError
from paintkit.sqlalchemy import is_transient

__all__ = ["register_errors"]

log = logging.getLogger("studio")

_TITLES = {
    400: "That did not make sense",
    403: "Not for you",
    404: "Nothing here",
    405: "Not this way",
    409: "Somebody was faster",
    413: "Too big",
    429: "Slow down",
    500: "Our fault",
    503: "Back in a moment",
}
_RETRY_AFTER = 5
_OLD_FORM = (
    "This form is no longer good: somebody logged in or out here after it was opened, or the browser keeps no cookies."
    " Go back, load the page again, and send it once more."
)


def register_errors(app: Flask) -> None:
    """Answer every error with a page of ours."""
    app.register_error_handler(HTTPException, _known)
    app.register_error_handler(CSRFError, _old_form)
    app.register_error_handler(Exception, _unknown)


def _known(error: HTTPException) -> tuple[str, int, dict[str, str]]:
    headers = {}
    if (wait := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(wait)
    return _page(error.code or 500, _advice(error)), error.code or 500, headers


def _advice(error: HTTPException) -> str:
    if isinstance(error, RequestEntityTooLarge) and (most := request.max_content_length):
        return f"A file may have {most / 1024**2:.3g} MB at most. Nothing was changed."
    return error.description or ""


def _old_form(_error: CSRFError) -> tuple[str, int]:
    return _page(400, _OLD_FORM), 400


def _unknown(error: Exception) -> tuple[str, int, dict[str, str]]:
    if isinstance(error, RejectedError) or is_transient(error):
        log.warning("[%s] %s %s: %s", g.get("request_id"), request.method, request.path, error)
        away = ServiceUnavailable("The database does not answer. Nothing was changed.")
        wait = getattr(error, "retry_after", None)
        headers = {"Retry-After": str(math.ceil(wait) if wait else _RETRY_AFTER)}
        return _page(503, away.description or ""), 503, headers
    log.error("[%s] %s %s", g.get("request_id"), request.method, request.path, exc_info=error)
    return _page(500, InternalServerError.description), 500, {}


def _page(code: int, description: str) -> str:
    if request_ctx.url_adapter is None:  # a host that we do not trust: there is no address to link to
        return description
    return render_template("error.html", code=code, title=_TITLES.get(code, "Sorry"), description=description)
