"""The second level: what a cache asks of a place that several processes share, such as Redis.

Nobody can lock what processes share, so every step is one question that the level answers as a whole, and what a load
brings is taken in only if nothing has changed since the question before it:

1. `Port.look` tells what stands at a call's place, and under which *version* and *tokens*. Where nothing stands, it leaves
   a mark of that look, which is a version, too.
2. `Port.fill` puts a value there, if that version still stands there. Tokens travel with the value: whoever reads it later
   compares them with the current ones, so a value loaded under an old token is born invalid.
3. `Port.drop` gives a place a new version, or a tag a new token, and tells the other processes so in the same step.

After "Scaling Memcache at Facebook" (NSDI 2013), whose leases these versions are, and Symfony's tag-aware cache, whose
tokens these are: a token that was lost is replaced by another, so what was filled under it is invalid, never wrongly valid.

A level never makes a call fail: a port that cannot reach its server, or does not try, says so in what it returns.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from paintkit._runtime import Success
    from paintkit.typing import AnyCallable

__all__ = ["SAME", "Codec", "Listener", "Membership", "Place", "Port", "SharedLevel", "Sight", "Trust"]


class _Same(enum.Enum):
    SAME = "same"


#: What a look returns for a value that the caller holds already.
SAME: Final = _Same.SAME


class Place:
    """Where the value of one call stands, in every process alike.

    Attributes:
        key: The function's name in the level and a digest of the call.
        canonical: The exact form of the call; two calls of one digest are told apart by it.
        marks: What invalidates the value beside its own place; each has a token. (`all` and the function are among them.)
    """

    __slots__ = ("canonical", "key", "marks")

    def __init__(self, *, key: str, canonical: bytes, marks: tuple[str, ...]) -> None:
        self.key = key
        self.canonical = canonical
        self.marks = marks


class Sight:
    """What a look found.

    Attributes:
        version: What stands there, for `fill`; `None` if the level was not reached: then nothing can be filled.
        tokens: The current tokens of the place's marks.
        value: The value; `SAME` if it is the one that the caller knows; `None` if there is none.
        fresh: For how many seconds more it is fresh; negative if that is over.
        left: For how many seconds more it is of any use (at least `fresh`); infinite if for ever.
        seconds: How long its load took.
    """

    __slots__ = ("fresh", "left", "seconds", "tokens", "value", "version")

    def __init__(
        self,
        version: bytes | None,
        tokens: tuple[bytes, ...] = (),
        value: Success[Any] | _Same | None = None,
        *,
        fresh: float = 0.0,
        left: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        self.version = version
        self.tokens = tokens
        self.value = value
        self.fresh = fresh
        self.left = left
        self.seconds = seconds


class Codec(Protocol):
    """Turns the values of one function into bytes and back; made once, when the function is decorated."""

    def encode(self, value: Any, /) -> bytes:
        """Return the bytes of a value.

        Raises:
            TypeError: The value is not what the function promises, or would not come back as it is.
        """
        ...

    def decode(self, payload: bytes, /) -> Any:
        """Return the value of bytes that somebody else may have written.

        Raises:
            ValueError: They are no value of the function.
        """
        ...


class Trust(Protocol):
    """Until when copies in memory may be served without asking: the instant until which all word of changes has arrived.

    Wrappers read `until` on every hit. It moves on as long as the level hears from its server, and is minus infinity
    from the moment the link is lost until it is whole again. While it is lost, `heard` tells for how long.
    """

    @property
    def until(self) -> float:
        """An instant of the clock, or minus infinity."""
        ...

    @property
    def heard(self) -> float:
        """When the level last heard from its server: an instant of the clock, or minus infinity."""
        ...


class Port(Protocol):
    """A level as callers of one colour reach it; the coroutines of the blocking one never suspend."""

    async def look(self, place: Place, codec: Codec, known: bytes | None = None, /) -> Sight:
        """Return what stands at a place; `known` is the version that the caller holds a copy of."""
        ...

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
        """Put a value there if the version of that sight still stands; return its own version, or `None` if refused.

        Args:
            place: Where.
            codec: How.
            sight: What was there before the value was loaded.
            value: The value.
            fresh: For how many seconds it is fresh, and may be served.
            left: For how many seconds it is of any use.
            seconds: How long its load took.
            tell: Whether to tell the other processes to drop their copies.
        """
        ...

    async def drop(self, changes: Iterable[Place | str], /) -> None:
        """Invalidate places and marks, and tell the other processes; kept and repeated if the level is not reached."""
        ...


class Listener(Protocol):
    """A cache that hears of what other processes changed; called in a thread of the level's."""

    def changed(self, mark: str, /) -> None:
        """Drop the copies under a mark."""
        ...

    def changed_at(self, key: str, /) -> None:
        """Drop the copy of a place."""
        ...

    def gap(self) -> None:
        """Take all copies for unverified, and drop what cannot be verified: word of some changes was lost."""
        ...


class Membership(Protocol):
    """A cache's part in a level.

    Attributes:
        trust: Until when copies in memory may be served without asking.
        blocking: The way to the level from blocking code.
        asyncio: The way to it from a coroutine, in whatever event loop.
    """

    trust: Trust
    blocking: Port
    asyncio: Port

    def listen(self) -> None:
        """Begin to hear, if that has not begun yet, as with the first look; called often, so without waiting."""
        ...

    def leave(self) -> None:
        """Hear no more."""
        ...


class SharedLevel(Protocol):
    """A second level.

    Attributes:
        name: What kind it is, as `explain` tells it.
    """

    name: str

    def codec(self, fn: AnyCallable, /) -> Codec:
        """Return what turns the values of a function into bytes.

        Raises:
            TypeError: Its return annotation does not tell how.
        """
        ...

    def join(self, namespace: str, listener: Listener, /) -> Membership:
        """Let a cache take part under its name; no connection is made before the first look, or `listen`.

        Raises:
            ValueError: A cache of that name takes part already.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Return totals: looks, fills, refused fills, rejected payloads by reason, errors, bytes."""
        ...

    def close(self) -> None:
        """Let go of connections and threads; the caches go on in memory."""
        ...
