"""A second level for caches, in Redis or Valkey.

What one process has loaded the others need not load, and what one has invalidated no other serves.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, finalize

from paintkit import _arguments, circuit_breaker
from paintkit._locks import new_lock
from paintkit.errors import RejectedError
from paintkit.machines.breaker import CircuitState
from paintkit.redis import urls
from paintkit.redis.away import AWAY
from paintkit.redis.commands import Commands
from paintkit.redis.envelope import Envelopes
from paintkit.redis.feeds import ChannelFeed, Feed, StreamFeed
from paintkit.redis.lines import AsyncioLines, BlockingLines
from paintkit.redis.link import BEAT, Link
from paintkit.redis.member import Member
from paintkit.redis.names import Names
from paintkit.redis.payload import pickled, typed
from paintkit.redis.ports import Counts, LevelPort, Run
from paintkit.redis.revival import revive_in_children

if TYPE_CHECKING:
    from paintkit.cache.levels import Codec, Listener, Membership
    from paintkit.redis.wire import Command
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import AnyCallable

__all__ = ["RedisLevel"]

_LOG = logging.getLogger("paintkit.redis")

# Calls in a row that found no server, until none tries for a while; seconds of that while, if the link does not end it before.
_STREAK = 3
_AWAY = 1.0

# Bytes; a shorter key can be guessed.
_SHORTEST_KEY = 16


class RedisLevel:
    """Lets caches of the same name, in many processes, share their values and invalidations.

    Args:
        url: Of a Redis (6.2 or newer) or Valkey server, such as `redis://localhost:6379/0`; `rediss://` for TLS.
        prefix: What keys begin with; caches of one prefix and name belong together.
        timeout: Seconds to wait for an answer. A call waits twice as long at most, when it has to connect first; after three
            calls in a row without an answer none tries for a second, or until the server is back.
        lag: Seconds; for how long at most a copy in another process's memory is served after an invalidation returned, while that
            process does not hear of it. It hears within milliseconds as a rule. At least 0.5.
        longest_load: Seconds; what a loader that takes longer returns is not stored in Redis.
        max_bytes: The largest value to be stored or taken.
        compress_above: Larger values are compressed, in bytes.
        serializer: `"msgspec"` goes by the return annotation and runs no code; `"pickle"` takes any value, and needs signing keys.
        signing_keys: Secrets of at least 16 bytes. The first signs, all verify: to change it, put the new one first, and remove the
            old one when its values have expired.
        stream: Whether messages are kept in a stream, so that a process that was away for a moment learns what it missed. False for
            servers that do not allow streams; all processes must agree.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, `url` is no Redis URL, or pickle is asked for without signing keys.

    Example:
        >>> from paintkit.redis import RedisLevel
        >>> level = RedisLevel("redis://localhost:6379/0")
        >>> level.close()
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "paintkit",
        timeout: float = 0.05,
        lag: float = 1.0,
        longest_load: float = 60.0,
        max_bytes: int = 1_048_576,
        compress_above: int = 1_024,
        serializer: str = "msgspec",
        signing_keys: Sequence[bytes | str] = (),
        stream: bool = True,
    ) -> None:
        self._prefix = _arguments.label("prefix", prefix)
        self._longest_load = _arguments.seconds("longest_load", longest_load, most=86_400.0)
        keys = _keys(signing_keys)
        self._codec = _codec_maker(serializer, keys)
        _arguments.flag("stream", stream)
        self._commands = Commands(
            longest_load=self._longest_load,
            max_bytes=_arguments.count("max_bytes", max_bytes, most=512 * 1024 * 1024),
            stream=stream,
        )
        self._envelopes = Envelopes(
            max_bytes=max_bytes,
            compress_above=_arguments.count("compress_above", compress_above, least=0),
            signing_keys=keys,
        )
        self._counts = Counts()
        self._connect(urls.checked(url), _arguments.seconds("timeout", timeout, most=10.0))
        self._joining = new_lock()  # guards that no two caches join under one name
        self._members: WeakValueDictionary[str, Member] = WeakValueDictionary()
        self._closed = False
        self._link = self._make_link(
            StreamFeed if stream else ChannelFeed,
            _arguments.number("lag", _arguments.seconds("lag", lag), least=2 * BEAT),
        )
        finalize(self, self._link.stop)
        revive_in_children(self)

    def codec(self, fn: AnyCallable) -> Codec:
        """Return what turns the values of a function into bytes.

        Raises:
            TypeError: Its return annotation does not tell how.
        """
        return self._codec(fn)

    def join(self, namespace: str, listener: Listener) -> Membership:
        """Let a cache take part under its name; no connection is made before the first look, or `listen`.

        Raises:
            ValueError: A cache of that name takes part already, or the name has braces.
        """
        names = Names(self._prefix, _arguments.label("namespace", namespace))
        with self._joining:
            if namespace in self._members:
                raise ValueError(
                    f"a cache {namespace!r} takes part here already: use that one, or another name"
                )
            member = self._members[namespace] = Member(names, listener, self._leave, self._ready)
        member.blocking = self._port(member, self._run)
        member.asyncio = self._port(member, self._arun)
        return member

    @property
    def is_connected(self) -> bool:
        """Whether word from other processes arrives at this moment."""
        return self._link.wait(0.0)

    def wait_until_connected(self, seconds: float) -> bool:
        """Block until word arrives, or for so many seconds; for start-up checks and tests."""
        self._link.ensure()
        return self._link.wait(seconds)

    def stats(self) -> dict[str, float]:
        """Return totals: looks, hits, fills, refused fills, drops, errors, bytes; what was rejected or not stored, by reason."""
        none = dict.fromkeys(_COUNTED, 0.0)
        return none | {name: total for name, total in self._counts.totals().items() if ":" not in name}

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return the totals, for exporters, and the circuit breaker in front of the server; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        yield from _catalogue.LEVEL.read(self.name, self.stats())
        yield self._breaker

    def close(self) -> None:
        """Let go of connections and the thread; the caches go on in memory."""
        self._closed = True
        self._link.stop()
        self._link.join()
        with contextlib.suppress(*AWAY, RejectedError):
            self._tell_the_rest()
        self._lines.hang_up()
        self._alines.close()

    def _tell_the_rest(self) -> None:
        """Say what was kept, for nobody will later."""
        for member in list(self._members.values()):
            pending = member.kept.pending()
            for command in self._commands.drops(member.names, list(pending)):
                self._ask(member.names, command)
            member.kept.told(pending)

    def _connect(self, url: str, timeout: float) -> None:
        self._lines = BlockingLines(url, timeout, self._commands.greet)
        self._alines = AsyncioLines(url, timeout, self._commands.greet)
        self._breaker = circuit_breaker(
            "redis level",
            failure_threshold=_STREAK,
            recovery_timeout=_AWAY,
            longest_recovery=_AWAY,
            probes=1,
            on_state_change=_note,
        )
        # Bound here, for every call goes through them.
        self._ask = self._breaker(self._lines.run)
        self._arun: Run = self._breaker(self._alines.run)

    def _make_link(self, feed: type[StreamFeed | ChannelFeed], lag: float) -> Link:
        lines, breaker = self._lines, self._breaker  # not the level, which ends its link by being dropped

        def connect() -> Feed:
            return feed(lines, BEAT)

        def on_whole() -> None:
            if breaker.state is not CircuitState.CLOSED:
                breaker.reset()

        return Link(self._members, self._commands, connect, on_whole, lag)

    def _port(self, member: Member, run: Run) -> LevelPort:
        return LevelPort(
            member,
            run,
            commands=self._commands,
            envelopes=self._envelopes,
            counts=self._counts,
            longest_load=self._longest_load,
            ready=self._ready,
        )

    async def _run(self, names: Names, command: Command) -> Any:
        return self._ask(names, command)

    def _ready(self) -> bool:
        if self._closed:
            return False
        self._link.ensure()
        return True

    def _leave(self, member: Member) -> None:
        if self._members.get(member.names.namespace) is member:
            del self._members[member.names.namespace]

    def _revive(self) -> None:
        """Begin anew in a forked child."""
        self._commands.rename()
        self._lines.forget()
        self._alines.forget()
        self._link.revive()


_COUNTED = ("looks", "hits", "fills", "refused", "drops", "errors", "bytes_read", "bytes_written")


def _note(before: CircuitState, after: CircuitState) -> None:
    if after is CircuitState.OPEN and before is CircuitState.CLOSED:  # not again with every probe
        _LOG.warning(
            "Redis does not answer: caches serve from memory, and keep what they invalidate for later"
        )


def _keys(signing_keys: Sequence[bytes | str]) -> tuple[bytes, ...]:
    if isinstance(signing_keys, str | bytes) or not isinstance(signing_keys, Sequence):
        raise TypeError("signing_keys must be a list of secrets, the one that signs first; pass [key]")
    keys = []
    for key in signing_keys:
        if not isinstance(key, str | bytes):
            raise TypeError(f"signing_keys must hold bytes or strings, not {type(key).__name__}")
        keys.append(key.encode() if isinstance(key, str) else key)
        if len(keys[-1]) < _SHORTEST_KEY:
            raise ValueError(
                f"a signing key must have at least {_SHORTEST_KEY} bytes, not {len(keys[-1])}: "
                f"take one from secrets.token_bytes(32)"
            )
    return tuple(keys)


def _codec_maker(serializer: str, keys: tuple[bytes, ...]) -> Callable[[AnyCallable], Codec]:
    if _arguments.choice("serializer", serializer, ("msgspec", "pickle")) == "msgspec":
        return typed
    if not keys:
        raise ValueError(
            "serializer='pickle' needs signing_keys: whoever can write to Redis could run code here otherwise. "
            "Pass signing_keys=[...], or keep the default serializer"
        )
    return pickled
