"""A second level in memory, whose server and links fail when a test tells them to.

A `FakeServer` is what several processes share. Each `FakeLevel` stands for one process: give every cache that should be in a
process of its own a level of its own on the same server. Time is `paintkit.clock`, so a `FakeClock` moves it.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from paintkit import clock
from paintkit._locks import new_lock
from paintkit._runtime import Success, settle
from paintkit.cache.levels import SAME, Codec, Listener, Membership, Place, Port, Sight, Trust

if TYPE_CHECKING:
    from paintkit.typing import AnyCallable

__all__ = ["FakeLevel", "FakeServer"]

#: A mark of a look, or of a drop, outlives any load: after so many seconds a load counts as too late.
LONGEST_LOAD: Final = 60.0

#: For so many seconds after the last word copies are trusted.
LAG: Final = 1.0

_MOST_KEPT: Final = 1_000


class _Item:
    """What stands at a place: a value, or (without a payload) the mark of a look or of a drop."""

    __slots__ = ("canonical", "fresh_until", "leaves", "payload", "seconds", "tokens", "version")

    def __init__(self, version: bytes, leaves: float) -> None:
        self.version = version
        self.leaves = leaves
        self.payload: bytes | None = None
        self.canonical = b""
        self.tokens: tuple[bytes, ...] = ()
        self.fresh_until = self.seconds = 0.0


class FakeServer:
    """The places, the tokens and the words that several processes share."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self._items: dict[tuple[str, str], _Item] = {}
        self._tokens: dict[tuple[str, str], bytes] = {}
        self._numbers = itertools.count(1)
        self._members: list[_Membership] = []

    # --- Faults ---

    def restart(self) -> None:
        """Lose everything, as a server without persistence does; all who take part notice."""
        with self.lock:
            self._items.clear()
            self._tokens.clear()
            members = list(self._members)
        for member in members:
            member.lose_words()

    def evict_tokens(self) -> None:
        """Lose the tokens alone, as a server does that makes room."""
        with self.lock:
            self._tokens.clear()

    # --- The steps, each whole under the lock ---

    def look(self, namespace: str, place: Place) -> tuple[_Item, tuple[bytes, ...], bool]:
        """Return what stands at a place, the current tokens, and whether it is a value and valid."""
        with self.lock:
            tokens = tuple(self._token(namespace, mark) for mark in place.marks)
            item = self._item(namespace, place.key)
            if item is None:
                item = self._put(namespace, place.key, clock.now() + LONGEST_LOAD)
            elif item.payload is None:
                item.leaves = clock.now() + LONGEST_LOAD
            valid = item.payload is not None and item.canonical == place.canonical and item.tokens == tokens
            return item, tokens, valid

    def fill(
        self, namespace: str, place: Place, sight: Sight, payload: bytes, spans: Iterable[float]
    ) -> bytes | None:
        """Put a value where still stands what that sight saw."""
        fresh, left, seconds = spans
        with self.lock:
            item = self._item(namespace, place.key)
            if item is None or item.version != sight.version:
                return None
            now = clock.now()
            item = self._put(namespace, place.key, now + left)
            item.payload, item.canonical, item.tokens = payload, place.canonical, sight.tokens
            item.fresh_until, item.seconds = now + fresh, seconds
            return item.version

    def drop(self, namespace: str, changes: Iterable[Place | str]) -> None:
        """Invalidate places and marks."""
        with self.lock:
            for change in changes:
                if isinstance(change, str):
                    self._tokens[namespace, change] = self._new()
                else:
                    self._put(namespace, change.key, clock.now() + LONGEST_LOAD)

    def tell(self, sender: _Membership, changes: Iterable[Place | str]) -> None:
        """Pass word of changes on to the others."""
        words = list(changes)
        with self.lock:
            others = [one for one in self._members if one is not sender and one.namespace == sender.namespace]
        for other in others:
            other.receive(words)

    def enter(self, member: _Membership) -> None:
        """Let somebody take part."""
        with self.lock:
            self._members.append(member)

    def quit(self, member: _Membership) -> None:
        """Let somebody go."""
        with self.lock:
            if member in self._members:
                self._members.remove(member)

    def _new(self) -> bytes:
        return b"%d" % next(self._numbers)

    def _token(self, namespace: str, mark: str) -> bytes:
        token = self._tokens.get((namespace, mark))
        if token is None:
            token = self._tokens[namespace, mark] = self._new()
        return token

    def _item(self, namespace: str, key: str) -> _Item | None:
        item = self._items.get((namespace, key))
        if item is not None and item.leaves <= clock.now():
            del self._items[namespace, key]
            return None
        return item

    def _put(self, namespace: str, key: str, leaves: float) -> _Item:
        item = self._items[namespace, key] = _Item(self._new(), leaves)
        return item


class FakeLevel:
    """One process's way to a `FakeServer`: `CacheManager(level2=FakeLevel(server))`.

    Args:
        server: What it shares with others; `None`: a new one.

    Attributes:
        name: `"fake"`.
        server: The server.
        slow: Seconds that every question to the server takes, default 0.
        interlude: Is called before and after every step with its name (`"look"`, `"looked"`, `"fill"`, `"filled"`, `"drop"`,
            `"dropped"`): the place for what happens just then. In asyncio it may be `async def`.

    Example:
        >>> from paintkit import CacheManager
        >>> server = FakeServer()
        >>> here, there = (CacheManager("shop", level2=FakeLevel(server)) for _ in range(2))
        >>> def price(sku: str) -> int:
        ...     print("loading")
        ...     return 350
        >>> price_here, price_there = here.cache_result(price), there.cache_result(price)
        >>> price_here("red"), price_there("red")
        loading
        (350, 350)
    """

    name = "fake"

    def __init__(self, server: FakeServer | None = None) -> None:
        self.server = FakeServer() if server is None else server
        self.slow = 0.0
        self.interlude: Callable[[str], object] = _nothing
        self.counts: Counter[str] = Counter()
        #: Whether questions reach the server.
        self.reachable = True
        self._members: dict[str, _Membership] = {}

    # --- Faults ---

    def cut_link(self) -> None:
        """Let no more word come in, and let the level know; questions still reach the server."""
        for member in self._members.values():
            member.cut()

    def mend_link(self, *, lost: bool = False) -> None:
        """Let what was said meanwhile come in, or tell that some of it was `lost`; then word comes in as it is said."""
        for member in self._members.values():
            member.mend(lost=lost)

    def isolate(self) -> None:
        """Let nothing reach the server, or come from there."""
        self.reachable = False
        self.cut_link()

    def rejoin(self, *, lost: bool = False) -> None:
        """Reach the server again: invalidations that were kept are repeated, and the link is mended."""
        self.reachable = True
        for member in self._members.values():
            repeated = member.repeat()
            member.mend(lost=lost or repeated)

    def hold_words(self) -> None:
        """Let word be slow: what is said comes in when it is delivered by hand; the level does not know."""
        for member in self._members.values():
            member.held = True

    def deliver_words(self) -> None:
        """Let what was said come in, and what is said from now on at once."""
        for member in self._members.values():
            member.deliver()

    def lose_words(self) -> None:
        """Lose what has not come in, and let the level notice."""
        for member in self._members.values():
            member.lose_words()

    # --- `SharedLevel` ---

    def codec(self, fn: AnyCallable, /) -> Codec:  # noqa: ARG002 - the protocol's signature
        """Return what turns values into bytes: any that `pickle` can, as they never leave this process."""
        return _Pickled()

    def join(self, namespace: str, listener: Listener, /) -> Membership:
        """Let a cache take part under its name.

        Raises:
            ValueError: A cache of that name takes part already.
        """
        if namespace in self._members:
            raise ValueError(
                f"a cache called {namespace!r} shares this level already: give the other one another name, or, as "
                f"another process, a FakeLevel of its own on the same server"
            )
        member = self._members[namespace] = _Membership(self, namespace, listener)
        self.server.enter(member)
        return member

    def stats(self) -> dict[str, float]:
        """Return how often what happened."""
        return dict(self.counts)

    def close(self) -> None:
        """Reach nothing any more."""
        self.isolate()

    def remove(self, member: _Membership) -> None:
        """Let a cache go."""
        if self._members.get(member.namespace) is member:
            del self._members[member.namespace]
            self.server.quit(member)


def _nothing(_step: str) -> None:
    """Do nothing."""


class _Pickled:
    def encode(self, value: Any, /) -> bytes:
        try:
            return pickle.dumps(value)
        except Exception as error:
            raise TypeError(f"cannot pickle a {type(value).__qualname__}") from error

    def decode(self, payload: bytes, /) -> Any:
        return pickle.loads(payload)  # noqa: S301 - written by `encode`, in this process


class _Trust:
    """Trusts as long as nobody says that the link is lost."""

    def __init__(self) -> None:
        self.lost_at: float | None = None

    @property
    def until(self) -> float:
        return clock.now() + LAG if self.lost_at is None else -math.inf

    @property
    def heard(self) -> float:
        return clock.now() if self.lost_at is None else self.lost_at


class _Membership:
    def __init__(self, level: FakeLevel, namespace: str, listener: Listener) -> None:
        self.level = level
        self.namespace = namespace
        self.link = _Trust()
        self.trust: Trust = self.link
        self.held = False
        self.blocking: Port = _BlockingPort(self)
        self.asyncio: Port = _AsyncioPort(self)
        self._listener = listener
        self._pending: deque[Place | str] = deque()
        self._kept: dict[str, Place | str] = {}

    @property
    def is_whole(self) -> bool:
        """Whether the server is there, and knows what we invalidated."""
        return self.level.reachable and not self._kept

    def listen(self) -> None:
        """It hears from the start."""

    def leave(self) -> None:
        self.level.remove(self)

    def keep(self, changes: Iterable[Place | str]) -> None:
        """Keep what could not be said; too much of it becomes everything."""
        for change in changes:
            self._kept[change if isinstance(change, str) else f"at {change.key}"] = change
        if len(self._kept) > _MOST_KEPT:
            self._kept = {"all": "all"}

    def repeat(self) -> bool:
        """Say what was kept; return whether there was anything."""
        kept, self._kept = list(self._kept.values()), {}
        self.level.server.drop(self.namespace, kept)
        self.level.server.tell(self, kept)
        return bool(kept)

    def receive(self, words: Iterable[Place | str]) -> None:
        self._pending.extend(words)
        if not self.held and self.link.lost_at is None:
            self.deliver()

    def deliver(self) -> None:
        self.held = False
        while self._pending:
            word = self._pending.popleft()
            if isinstance(word, str):
                self._listener.changed(word)
            else:
                self._listener.changed_at(word.key)

    def cut(self) -> None:
        if self.link.lost_at is None:
            self.link.lost_at = clock.now()

    def mend(self, *, lost: bool) -> None:
        if lost:
            self.lose_words()
        self.deliver()
        if self.level.reachable:
            self.link.lost_at = None

    def lose_words(self) -> None:
        lost_at = self.link.lost_at
        self.cut()
        self._pending.clear()
        self._listener.gap()
        self.link.lost_at = lost_at


class _BlockingPort:
    """The steps, as blocking code takes them."""

    def __init__(self, member: _Membership) -> None:
        self._member = member

    async def look(self, place: Place, codec: Codec, known: bytes | None = None, /) -> Sight:
        await self._begin("look")
        sight = self._look(place, codec, known)
        await self._end("looked")
        return sight

    async def fill(
        self,
        place: Place,
        codec: Codec,
        sight: Sight,
        value: Any,
        /,
        *,
        fresh: float,
        left: float,
        seconds: float,
        tell: bool = False,
    ) -> bytes | None:
        await self._begin("fill")
        version = self._fill(place, codec, sight, value, (fresh, left, seconds))
        if version is not None and tell:
            self._member.level.server.tell(self._member, [place])
        await self._end("filled")
        return version

    async def drop(self, changes: Iterable[Place | str], /) -> None:
        changes = list(changes)
        await self._begin("drop")
        if self._member.level.reachable:
            self._member.level.server.drop(self._member.namespace, changes)
            self._member.level.server.tell(self._member, changes)
        else:
            self._member.keep(changes)
        await self._end("dropped")

    async def _pause(self) -> None:
        if self._member.level.slow:
            clock.sleep(self._member.level.slow)

    async def _begin(self, step: str) -> None:
        await settle(self._member.level.interlude(step))
        await self._pause()

    async def _end(self, step: str) -> None:
        self._member.level.counts[step] += 1
        await settle(self._member.level.interlude(step))

    def _look(self, place: Place, codec: Codec, known: bytes | None) -> Sight:
        if not self._member.is_whole:
            return Sight(None)
        item, tokens, valid = self._member.level.server.look(self._member.namespace, place)
        if not valid or item.payload is None:
            return Sight(item.version, tokens)
        now = clock.now()
        return Sight(
            item.version,
            tokens,
            SAME if item.version == known else Success(codec.decode(item.payload)),
            fresh=item.fresh_until - now,
            left=item.leaves - now,
            seconds=item.seconds,
        )

    def _fill(
        self, place: Place, codec: Codec, sight: Sight, value: Any, spans: tuple[float, float, float]
    ) -> bytes | None:
        if sight.version is None or not self._member.is_whole:
            return None
        try:
            payload = codec.encode(value)
        except TypeError:
            self._member.level.counts["unfit"] += 1
            return None
        version = self._member.level.server.fill(self._member.namespace, place, sight, payload, spans)
        self._member.level.counts["refused"] += version is None
        return version


class _AsyncioPort(_BlockingPort):
    """The same in asyncio: every step suspends."""

    async def _pause(self) -> None:
        import asyncio

        await asyncio.sleep(self._member.level.slow)
