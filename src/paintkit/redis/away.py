"""Being away: what it means that a server is, and how a thread that needs it waits until it is back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import redis

from paintkit import clock
from paintkit._locks import new_lock

if TYPE_CHECKING:
    from threading import Event

__all__ = ["AWAY", "Absence", "keep_on"]

_LOG = logging.getLogger("paintkit.redis")

#: What it means that a server is not to be had, or does not do what it is asked.
AWAY: Final = (redis.RedisError, OSError)

# Seconds until a caller asks a server again that did not answer.
_AWAY_FOR = 1.0

# Seconds between attempts to connect.
_SHORTEST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Absence:
    """Whether a server is known to be away; then one caller a second finds out whether it is back, and no other waits."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards the instant
        self._ask_again_at = 0.0  # 0: it answers

    def may_ask(self) -> bool:
        """Whether to ask the server."""
        if self._ask_again_at == 0.0:
            return True
        with self._lock:
            now = clock.now()
            if now < self._ask_again_at:
                return False
            self._ask_again_at = now + _AWAY_FOR
            return True

    def begin(self) -> bool:
        """Note that it did not answer; return whether that is news."""
        with self._lock:
            is_news = self._ask_again_at == 0.0
            self._ask_again_at = clock.now() + _AWAY_FOR
        return is_news

    def end(self) -> None:
        """Note that it answered."""
        self._ask_again_at = 0.0


def keep_on(who: str, session: Callable[[], object], *, stop: Event, connected: Event) -> None:
    """Connect, do one's work, and connect again, with longer pauses while the server is away.

    Args:
        who: Whose work it is, for the log.
        session: What connects, and works until the connection breaks.
        stop: Set by whoever wants an end of it.
        connected: Set by the session when it has arrived; cleared here when it has ended.
    """
    pause = _SHORTEST_PAUSE
    told = False
    while not stop.is_set():
        try:
            session()
        except AWAY as error:
            # A connection that is lost may be back at once. Who gets none is told why, for it may be the password: once.
            failed = not (connected.is_set() or stop.is_set())
            level = logging.WARNING if failed and not told else logging.DEBUG
            _LOG.log(level, "%s waits for Redis: %s", who, error)
            told = failed
        except Exception:  # noqa: BLE001 - see below
            # Neither may a fault of ours, or of whom we call, silence a thread for ever.
            if not stop.is_set():
                _LOG.exception("%s failed, and begins anew", who)
        pause = _SHORTEST_PAUSE if connected.is_set() else min(pause * 2, _LONGEST_PAUSE)
        connected.clear()
        stop.wait(pause)
