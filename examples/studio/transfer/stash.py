"""Keeps an uploaded file between its dry run and its import, so that nobody has to choose it twice."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

__all__ = ["Stash"]

_TICKET = re.compile(r"[0-9a-f]{64}")
_KEPT = 3600.0  # seconds; by the wall clock, as the files' own times are


class Stash:
    """A folder of files, each found again by a ticket that only its content makes.

    Args:
        folder: Made when the first file comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes) -> str:
        """Store the file and return its ticket; files older than an hour leave."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        ticket = hashlib.sha256(data).hexdigest()
        self._path(ticket).write_bytes(data)
        return ticket

    def find(self, ticket: str) -> bytes | None:
        """Return the file of a ticket, `None` if it has left or the ticket is no ticket."""
        if not _TICKET.fullmatch(ticket):
            return None
        try:
            return self._path(ticket).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, ticket: str) -> None:
        """Forget a file that `find` has found."""
        self._path(ticket).unlink(missing_ok=True)

    def _path(self, ticket: str) -> Path:
        return self._folder / f"{ticket}.csv"

    def _sweep(self) -> None:
        for path in self._folder.glob("*.csv"):
            if path.stat().st_mtime < time.time() - _KEPT:
                path.unlink(missing_ok=True)
