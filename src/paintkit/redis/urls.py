"""The address of a server, looked at when it is given.

redis-py looks when it connects: an unknown option would fail every call, and a database that is no number would silently be
number 0. An option that is ours to set would silently be another: `timeout` would bound nothing, or words not be understood.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import redis

from paintkit import _arguments

__all__ = ["checked"]

_OURS = ("socket_timeout", "socket_connect_timeout", "protocol", "decode_responses")


def checked(url: object) -> str:
    """Return a URL that a connection can be made of; none is made.

    Raises:
        TypeError: It is no string.
        ValueError: It is no Redis URL, or has a part or an option that means nothing.

    Example:
        >>> checked("redis://localhost/paints")
        Traceback (most recent call last):
        ValueError: url must be like 'redis://localhost:6379/0', not 'redis://localhost/paints': its database is no number
    """
    text = _arguments.label("url", url)
    fault = _fault(text)
    if fault is not None:
        raise ValueError(
            f"url must be like 'redis://localhost:6379/0', not {_without_secrets(text)!r}: {fault}"
        )
    return text


def _fault(url: str) -> str | None:
    try:
        pool = redis.ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.RedisError) as error:
        return str(error)
    parts = urlsplit(url)
    for option in _OURS:
        if option in parse_qs(parts.query):
            return f"{option!r} is not for the URL to set"
    numbered = parts.scheme == "unix" or re.fullmatch(r"(/[0-9]*)?", parts.path)
    return None if numbered else "its database is no number"


def _without_secrets(url: str) -> str:
    return re.sub(r"//.*@", "//***@", re.sub(r"(password=)[^&]*", r"\1***", url))
