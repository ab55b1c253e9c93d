"""What templates need to know to look right."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Flask, g, request
from flask_bootstrap import Bootstrap5

from studio.transfer.csv_out import price

__all__ = ["register_appearance"]


def register_appearance(app: Flask) -> None:
    """Add Bootstrap, served from its package, and our own filters."""
    Bootstrap5(app)
    app.jinja_env.filters.update(when=when, price=price, signed=signed, thousands=thousands)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.context_processor(_context)


def _context() -> dict[str, object]:
    theme = request.cookies.get("theme", "auto")
    return {
        "theme": theme if theme in {"light", "dark"} else "auto",
        "nonce": g.get("nonce", ""),
        "request_id": g.get("request_id", ""),
    }


def when(at: datetime) -> str:
    """Return an instant for people, in UTC; SQLite forgets the zone that it was given.

    Example:
        >>> when(datetime(2026, 1, 2, 3, 4))
        '2026-01-02 03:04'
    """
    return (at if at.tzinfo is None else at.astimezone(UTC)).strftime("%Y-%m-%d %H:%M")


def signed(number: int) -> str:
    """Return a change with its sign, a real minus as on the buttons.

    Example:
        >>> signed(5), signed(-1) == "\u22121"
        ('+5', True)
    """
    return f"{number:+d}".replace("-", "\u2212")


def thousands(number: int) -> str:
    """Return a number with a thin space between thousands.

    Example:
        >>> thousands(9908) == "9\u202f908"
        True
    """
    return f"{number:,}".replace(",", "\u202f")
