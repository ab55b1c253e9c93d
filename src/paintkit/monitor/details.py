"""Evidence of observations as plain values that may leave the process: short, on one line, without passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from paintkit._arguments import told

__all__ = ["Plain", "on_one_line", "plain"]

Plain = str | bool | int | float

_LONGEST: Final = 500

# More than any text that is worth showing, and little enough for the patterns below.
_LOOKED_AT: Final = 10_000

_SECRETS: Final = (
    (re.compile(r"(://[^\s:/@]*):\S+@"), r"\1:***@"),
    (
        re.compile(r"(?i)\b(password|passwd|pwd|secret|token|api_?key)(['\"]?\s*[=:]\s*)[^\s&;,)}]+"),
        r"\1\2***",
    ),
)


def plain(details: Mapping[str, Any]) -> dict[str, Plain]:
    r"""Return numbers and truth values as they are, errors as `"Type: text"`, all else as text; `None` is left out.

    Example:
        >>> plain({"delay": 0.4, "error": ConnectionError("no redis://:secret@cache:6379\nfor us"), "hint": None})
        {'delay': 0.4, 'error': 'ConnectionError: no redis://:***@cache:6379\\nfor us'}
    """
    return {on_one_line(name): _plain(value) for name, value in details.items() if value is not None}


def on_one_line(text: str) -> str:
    """Return text without passwords, its control characters escaped, cut where it gets too long."""
    text = text[:_LOOKED_AT]
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _plain(value: object) -> Plain:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        return on_one_line(f"{type(value).__name__}: {told(value)}".removesuffix(": "))
    return on_one_line(told(value.value if isinstance(value, Enum) else value))
