"""Instants that all processes share: the database's clock, carried on by the monotonic one of each process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from paintkit import _locks, clock

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["SharedClock"]

#: Seconds since 1970, as each server says it; in SQLite the server is this machine.
_EPOCH: Final = {
    "postgresql": "select extract(epoch from clock_timestamp())",
    "mysql": "select unix_timestamp(sysdate(6))",
    "mariadb": "select unix_timestamp(sysdate(6))",
    "sqlite": "select (julianday('now') - 2440587.5) * 86400.0",
}

# Seconds; a machine that slept, or whose clock is a little slow, is set right after so long.
_GOOD_FOR: Final = 60.0


class SharedClock:
    """Tells the time in seconds since 1970, the same on every machine that asks this database.

    The wall clocks of the machines do not matter, nor do jumps of theirs. It never runs backwards, not even with the
    server's clock.
    """

    def __init__(self) -> None:
        self._lock = _locks.new_lock()
        self._ticking: Callable[[], float] | None = None
        self._offset = 0.0
        self._asked = 0.0

    def now(self, session: Session) -> float:
        """Return the time; a minute after the last time, and at first, the server is asked for it."""
        ticking, instant = clock.now, clock.now()
        with self._lock:
            # A virtual clock counts from elsewhere.
            known = ticking == self._ticking
            if known and instant < self._asked + _GOOD_FOR:
                return instant + self._offset
        told = float(session.execute(text(_EPOCH[session.get_bind().dialect.name])).scalar_one())
        offset = told - clock.now()
        with self._lock:
            self._offset = max(self._offset, offset) if known else offset
            self._ticking, self._asked = ticking, instant
            return instant + self._offset
