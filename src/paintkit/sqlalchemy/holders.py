"""Who holds the connections of a pool, since when, and what else a pool does not know of itself."""

from __future__ import annotations

import logging
import random
import sys
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from paintkit import clock, observations
from paintkit.histogram import Histogram
from paintkit.sqlalchemy import call_sites

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

    from paintkit.telemetry import HistogramSnapshot

__all__ = ["RETIRES", "PoolWatch"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

#: Where a connection's entry notes the time from which it is replaced at its next use.
RETIRES: Final = "paintkit_retires"

# Where it notes when the connection began to be opened.
_CONNECTING: Final = "paintkit_connecting"

# Connections that were opened together do not end together: each lives up to so much shorter.
_JITTER: Final = 0.1

# The lines that a warning names: the one that took the connection, and who called it.
_DEPTH: Final = 3


class _Holder:
    """One connection that is in use."""

    __slots__ = ("is_told", "places", "proxy", "since")

    def __init__(self, proxy: PoolProxiedConnection) -> None:
        self.since = clock.now()
        self.places = call_sites.places(sys._getframe(2), _DEPTH)
        # With a callback it is dead by the time the collector gives the connection back, on every version of Python.
        self.proxy = weakref.ref(proxy, _ignore)
        self.is_told = False

    @property
    def site(self) -> str:
        """The line that took it."""
        return _shown(self.places[:1])


class PoolWatch:
    """Watches what happens to a pool.

    Args:
        leak_threshold: Seconds in use after which a connection counts as leaked; `None` watches for none.
    """

    def __init__(self, leak_threshold: float | None = None) -> None:
        self.leak_threshold = leak_threshold
        self._invalidated = 0
        self._leaked = 0
        self._holders: dict[ConnectionPoolEntry, _Holder] = {}
        #: How long those waited who had to.
        self.waited = Histogram()
        self._created = Histogram()
        self._used = Histogram()
        self._next_look = 0.0
        self._lifetime: float | None = None

    def follow(self, engine: Engine) -> None:
        """Watch the engine's pool, and those that replace it: listeners move on with it."""
        pool = engine.pool
        event.listen(engine, "do_connect", self._on_connecting)
        self._lifetime = getattr(pool, "lifetime", None)  # other pools than ours replace by themselves
        event.listen(pool, "invalidate", self._on_invalidate)
        event.listen(pool, "soft_invalidate", self._on_invalidate)
        event.listen(pool, "connect", self._on_connect)
        if self.leak_threshold is not None:
            event.listen(pool, "checkout", self._on_checkout)
            event.listen(pool, "checkin", self._on_checkin)
            event.listen(pool, "detach", self._on_checkin)

    def forget(self) -> None:
        """Forget who holds connections: in a forked process they are the parent's."""
        self._holders.clear()

    def holders(self) -> str:
        """Return the lines that took the connections in use, the most frequent first."""
        sites = Counter(holder.site for holder in list(self._holders.values()))
        return ", ".join(f"{site} (× {times})" if times > 1 else site for site, times in sites.most_common())

    def look_for_leaks(self) -> None:
        """Tell, once each, of the connections that have been in use for too long."""
        now = clock.now()
        if self.leak_threshold is None:
            return
        self._next_look = now + self.leak_threshold / 4
        for holder in list(self._holders.values()):
            if not holder.is_told and now - holder.since >= self.leak_threshold:
                self._tell(holder, "is still in use")

    def read(self, pool: Pool) -> dict[str, int | float | None]:
        """Return the statistics of `pool`; `None` stands where this class of pool knows nothing."""
        self.look_for_leaks()
        size, checked_in, checked_out = (_number(pool, name) for name in ("size", "checkedin", "checkedout"))
        raw, most = _number(pool, "overflow"), _number(pool, "_max_overflow")
        waiting, timeouts = _number(pool, "waiting"), _number(pool, "timeouts")
        capacity = None if size is None or most is None or most < 0 else size + most
        return {
            "size": size,
            "checked_in": checked_in,
            "checked_out": checked_out,
            # A fresh pool reports minus its size: what it could still open, not what it has beyond its size.
            "overflow": None if raw is None else max(0, raw),
            "overflow_raw": raw,
            "total": None if checked_in is None or checked_out is None else checked_in + checked_out,
            "capacity": capacity,
            "utilization": None if not capacity or checked_out is None else checked_out / capacity,
            "invalid": self._invalidated,
            "leaked": self._leaked,
            "db.client.connection.count.idle": checked_in,
            "db.client.connection.count.used": checked_out,
            "db.client.connection.idle.max": size,
            "db.client.connection.max": capacity,
            "db.client.connection.pending_requests": waiting,
            "db.client.connection.timeouts": timeouts,
        }

    def times(self) -> dict[str, HistogramSnapshot | None]:
        """Return how long it took to wait for, to open and to use connections; `None` for use where nobody watches it."""
        return {
            "db.client.connection.wait_time": self.waited.snapshot(),
            "db.client.connection.create_time": self._created.snapshot(),
            "db.client.connection.use_time": None if self.leak_threshold is None else self._used.snapshot(),
        }

    def _tell(self, holder: _Holder, what: str) -> None:
        holder.is_told = True
        self._leaked += 1
        held = clock.now() - holder.since
        observations.emit("pool.leaked", "pool", held=held, site=holder.site)
        _log.warning(
            "a connection %s after %.1f s: give it back sooner; it was taken at %s",
            what,
            held,
            _shown(holder.places),
        )

    def _on_checkout(
        self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        self._holders[entry] = holder = _Holder(proxy)
        if holder.since >= self._next_look:
            self.look_for_leaks()

    def _on_checkin(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        holder = self._holders.pop(entry, None)
        if holder is not None:
            self._used.record(_since(holder.since))
        if holder is None or holder.is_told or self.leak_threshold is None:
            return
        if holder.proxy() is None:
            self._tell(holder, "was left to the garbage collector")
        elif clock.now() - holder.since >= self.leak_threshold:
            self._tell(holder, "was given back")

    def _on_connecting(
        self, _dialect: object, entry: ConnectionPoolEntry, _arguments: object, _options: object
    ) -> None:
        entry.info[_CONNECTING] = clock.now()

    def _on_connect(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        began = entry.info.pop(_CONNECTING, None)
        if began is not None:  # else an engine with a `creator` of its own opened it
            self._created.record(_since(began))
        if self._lifetime is not None:
            shorter = 1.0 - _JITTER * random.random()  # noqa: S311 - spreads load, keeps no secret
            entry.info[RETIRES] = clock.now() + self._lifetime * shorter

    def _on_invalidate(self, *_: object) -> None:
        self._invalidated += 1


def _since(began: float) -> float:
    # A clock that was exchanged meanwhile (a test began or ended) must not break a connection.
    return max(0.0, clock.now() - began)


def _ignore(_reference: object) -> None:
    """Do nothing."""


def _shown(places: tuple[tuple[str, int], ...]) -> str:
    return ", called from ".join(f"{file}:{line}" for file, line in places) or "an unknown line"


def _number(pool: Any, name: str) -> int | None:
    value = getattr(pool, name, None)
    if callable(value):
        value = value()
    return value if isinstance(value, int) else None
