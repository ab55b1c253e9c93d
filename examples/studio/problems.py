"""The studio's own errors, each a thing that a person can be told."""

from __future__ import annotations

__all__ = [
    "ImportConflictError",
    "NotEnoughStockError",
    "StaleVersionError",
    "StartupError",
    "TwinError",
    "sentence",
]


def sentence(reason: str) -> str:
    """Return a reason as a page says it.

    Example:
        >>> sentence("name is empty")
        'Name is empty.'
    """
    return f"{reason[0].upper()}{reason[1:]}."


class StartupError(Exception):
    """The studio cannot start; the message is the one line to print."""


class TwinError(Exception):
    """A paint of the same brand, range, code, name and colour exists already."""


class StaleVersionError(Exception):
    """Somebody else changed the paint after this form was opened."""


class NotEnoughStockError(Exception):
    """A move would take out more than there is, or put in more than a shelf can hold."""


class ImportConflictError(Exception):
    """Somebody else stored some of these paints while the file was being imported."""

    def __init__(self) -> None:
        super().__init__("somebody stored some of these paints meanwhile: nothing was imported, try again")
