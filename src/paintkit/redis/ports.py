"""Ports: how calls of either colour look, fill and drop in Redis, and what they make of its answers.

Nothing here raises for what Redis does or holds. A server that does not answer is away, a value that is not as we would
have put it there is none; both are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from paintkit._locks import new_lock
from paintkit._runtime import Success
from paintkit.cache.levels import SAME, Codec, Place, Sight
from paintkit.errors import RejectedError
from paintkit.redis import envelope
from paintkit.redis.away import AWAY
from paintkit.redis.commands import LONGEST, Commands
from paintkit.redis.envelope import FRONT, TOKEN, VALUE, VERSION, Envelopes, Front, Rejected, split_tokens
from paintkit.redis.kept import Change
from paintkit.redis.names import Names
from paintkit.redis.wire import Command

if TYPE_CHECKING:
    from paintkit.redis.member import Member

__all__ = ["Counts", "LevelPort", "Run"]

_LOG = logging.getLogger("paintkit.redis")

#: Runs a script for a cache.
Run: TypeAlias = Callable[[Names, Command], Awaitable[Any]]


class Counts:
    """Totals of what happened, by name."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards the totals
        self._totals: dict[str, float] = {}
        # What every hit counts, without a lock: a race may lose one.
        self.looks = self.hits = self.bytes_read = 0

    def add(self, name: str, more: float = 1.0) -> bool:
        """Count; return whether it was the first time."""
        with self._lock:
            before = self._totals.get(name, 0.0)
            self._totals[name] = before + more
            return before == 0.0

    def totals(self) -> dict[str, float]:
        """Return all."""
        with self._lock:
            quick = {"looks": self.looks, "hits": self.hits, "bytes_read": self.bytes_read}
            return {**self._totals, **{name: float(total) for name, total in quick.items()}}


class LevelPort:
    """A cache's way to Redis, in one colour.

    Args:
        member: The cache.
        run: How scripts are run in that colour.
        commands: Makes the commands.
        envelopes: Opens and seals.
        counts: Where to count.
        longest_load: Seconds that a place stands beyond the use of its value, at most.
        ready: Called before anything is asked; returns whether the level may be used.
    """

    def __init__(
        self,
        member: Member,
        run: Run,
        *,
        commands: Commands,
        envelopes: Envelopes,
        counts: Counts,
        longest_load: float,
        ready: Callable[[], bool],
    ) -> None:
        # The parts, not the whole: a member holds on to its ports.
        self._names = member.names
        self._kept = member.kept
        self._run = run
        self._commands = commands
        self._envelopes = envelopes
        self._counts = counts
        self._longest_load = longest_load
        self._ready = ready

    async def look(self, place: Place, codec: Codec, known: bytes | None = None) -> Sight:
        """Return what stands at a place; see `paintkit.cache.levels.Port`."""
        # As long as the server has not been told what was invalidated here, it may show just that.
        if not self._ready() or self._kept:
            return Sight(None)
        self._counts.looks += 1
        try:
            if known is None:
                replies = await self._run(self._names, self._commands.glance(self._names, place))
                sight = self._glanced(place, codec, *replies)
                if sight is not None:
                    return sight
            reply = await self._run(self._names, self._commands.look(self._names, place, known))
        except (*AWAY, RejectedError) as error:
            self._miss(error)
            return Sight(None)
        if len(reply) == 2 and reply[1].__class__ is int:
            data, milliseconds = reply
            compared = split_tokens(data[FRONT : FRONT + TOKEN * len(place.marks)])
            return self._read(place, codec, data, milliseconds, compared, known=known)
        version, tokens, *size = reply
        if size:
            self._reject("too_large" if size[0] > 0 else "malformed", place)
        return Sight(version, split_tokens(tokens))

    def _glanced(self, place: Place, codec: Codec, milliseconds: Any, data: Any, found: Any) -> Sight | None:
        """Make a sight of a value and its tokens; `None` if it takes a script to go on, for something is missing or strange."""
        if data.__class__ is not bytes or found.__class__ is not list or None in found:
            return None
        count, tokens = len(found), b"".join(found)
        if len(tokens) != TOKEN * count or not data.startswith(VALUE):
            return None
        if not FRONT + len(tokens) < len(data) <= self._envelopes.max_bytes:
            return None
        if data[FRONT - 1] != count or not data.startswith(tokens, FRONT):
            return Sight(data[:VERSION], tuple(found))  # it was loaded under other ones
        return self._read(place, codec, data, milliseconds, tuple(found))

    async def fill(
        self,
        place: Place,
        codec: Codec,
        sight: Sight,
        value: Any,
        *,
        fresh: float,
        left: float,
        seconds: float,
        tell: bool = False,
    ) -> bytes | None:
        """Put a value there if that sight still holds; see `paintkit.cache.levels.Port`."""
        if sight.version is None or left <= 0 or not self._ready() or self._kept:
            return None
        left = min(left, LONGEST)
        front = Front(
            version=envelope.version(),
            life=left,
            stale=left - min(fresh, left),
            # So that the place still stands, to be checked against, if the value ends while its next load is on its way.
            grace=min(self._longest_load, left),
            seconds=seconds,
            call=envelope.call_digest(place.canonical),
            tokens=b"".join(sight.tokens),
        )
        data = self._sealed(place, codec, front, value)
        if data is None:
            return None
        command = self._commands.fill(self._names, place, sight, data, left + front.grace, tell=tell)
        try:
            done = await self._run(self._names, command)
        except (*AWAY, RejectedError) as error:
            self._miss(error)
            return None
        self._counts.add("fills" if done else "refused")
        self._counts.add("bytes_written", len(data) if done else 0)
        return front.version if done else None

    async def drop(self, changes: Iterable[Place | str]) -> None:
        """Invalidate places and marks; see `paintkit.cache.levels.Port`."""
        told = [Change("p", one.key) if isinstance(one, Place) else Change("m", one) for one in changes]
        if not told or not self._ready():
            return
        self._counts.add("drops", len(told))
        try:
            for command in self._commands.drops(self._names, told):
                await self._run(self._names, command)
        except (*AWAY, RejectedError) as error:
            self._kept.keep(told)
            self._miss(error)
        except BaseException:  # a task that is cancelled has invalidated all the same
            self._kept.keep(told)
            raise

    def _read(
        self,
        place: Place,
        codec: Codec,
        data: bytes,
        milliseconds: int,
        tokens: tuple[bytes, ...],
        *,
        known: bytes | None = None,
    ) -> Sight:
        """Make a sight of what stands there as a value, and for how many milliseconds; its tokens are the current ones."""
        version = data[:VERSION]
        value: Any = SAME
        try:
            life, stale, grace, seconds = envelope.read_spans(data, place.canonical)
            if version != known:
                address = self._names.place(place.key) if self._envelopes.signs else b""
                value = Success(codec.decode(self._envelopes.payload(address, data)))
        except ValueError as error:
            self._reject(error.reason if isinstance(error, Rejected) else "undecodable", place)
            return Sight(version, tokens)
        left = min(milliseconds / 1000 - grace, life, LONGEST)
        if left <= 0:
            return Sight(version, tokens)
        counts = self._counts
        counts.hits += 1
        counts.bytes_read += len(data)
        return Sight(version, tokens, value, fresh=left - stale, left=left, seconds=seconds)

    def _sealed(self, place: Place, codec: Codec, front: Front, value: object) -> bytes | None:
        """Return the envelope of a value, unless it is unfit for one."""
        try:
            return self._envelopes.seal(self._names.place(place.key), front, codec.encode(value))
        except TypeError as error:
            reason, why = "unfit", str(error)
        except Rejected as error:
            reason, why = error.reason, f"it takes more than {self._envelopes.max_bytes} bytes"
        function = place.key.rpartition(":")[0] or place.key
        self._counts.add(f"not_stored_{reason}")
        if self._counts.add(f"not_stored_{reason}:{function}"):
            _LOG.warning("a value of %s stays in this process's memory: %s", function, why)
        return None

    def _reject(self, reason: str, place: Place) -> None:
        if self._counts.add(f"rejected_{reason}"):
            _LOG.warning("a value in Redis was not taken (%s), the first of its kind: %s", reason, place.key)

    def _miss(self, error: Exception) -> None:
        """Count that the server was not reached."""
        self._counts.add("errors")
        if not isinstance(error, RejectedError):
            _LOG.debug("Redis was not reached: %s", error)
