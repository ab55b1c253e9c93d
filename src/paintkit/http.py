"""What HTTP says about retrying, read from the responses and errors of whichever client made them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["retry_after_from"]

_SECONDS = re.compile(r"\d+(?:\.\d+)?")


def retry_after_from(source: object) -> float | None:
    """Return how many seconds a server asks to wait, from its `Retry-After` header.

    Reads responses of requests, httpx, urllib3, aiohttp and Werkzeug or Flask, and the exceptions that carry one as
    `.response`, such as `requests.HTTPError`, `httpx.HTTPStatusError` and `werkzeug.exceptions.HTTPException`; also
    `urllib.error.HTTPError`, which carries the headers itself. See RFC 9110, section 10.2.3.

    Args:
        source: A response, or an exception.

    Returns:
        Seconds (>= 0), or `None` if the server does not say, or says what makes no sense.

    Example:
        >>> from paintkit import retry
        >>> policy = retry(on=ConnectionError, on_result=lambda r: r.status_code == 503, retry_after=retry_after_from)
        >>> from types import SimpleNamespace
        >>> retry_after_from(SimpleNamespace(headers={"Retry-After": "120"}))
        120.0
    """
    headers: Any = getattr(source, "headers", None)
    if headers is None:
        headers = getattr(getattr(source, "response", None), "headers", None)
    if headers is None:
        return _attribute(source)
    value = headers.get("Retry-After")
    return _attribute(source) if value is None else _parsed(str(value).strip(), headers.get("Date"))


def _attribute(source: object) -> float | None:
    """Read a hint that is an attribute: a number of seconds, or as Werkzeug keeps it, a `datetime`."""
    hint: Any = getattr(source, "retry_after", None)
    if hasattr(hint, "timestamp"):
        return _seconds_until(hint, None)
    return float(hint) if isinstance(hint, int | float) and not isinstance(hint, bool) and hint >= 0 else None


def _parsed(value: str, date: str | None) -> float | None:
    if _SECONDS.fullmatch(value):
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return _seconds_until(parsedate_to_datetime(value), date and parsedate_to_datetime(date))
    except ValueError:
        return None


def _seconds_until(then: Any, date: Any) -> float:
    """The server's own `Date` is the better start: its clock and ours may differ."""
    from datetime import UTC, datetime

    then, start = (_aware(moment) for moment in (then, date or datetime.now(UTC)))
    left: float = (then - start).total_seconds()
    return max(0.0, left)


def _aware(moment: Any) -> Any:
    """HTTP dates are in UTC, also where they do not say so."""
    from datetime import UTC

    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
