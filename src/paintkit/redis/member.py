"""A cache's part in a Redis level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from paintkit.redis.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from paintkit.cache.levels import Listener, Port, Trust
    from paintkit.redis.feeds import Position
    from paintkit.redis.names import Names

__all__ = ["Member"]


class _Trust:
    """See `paintkit.cache.levels.Trust`."""

    __slots__ = ("heard", "until")

    def __init__(self) -> None:
        self.until = self.heard = -math.inf


class Member:
    """A cache that takes part.

    The level's thread knows it weakly: it takes part as long as the cache holds on to it.

    Attributes:
        names: The keys of the cache.
        listener: The cache.
        trust: Until when it may serve copies without asking.
        kept: Changes of its own that the server has not been told yet.
        position: How far it has heard of the others' changes; `None` before the first word.
        blocking: The way to the level from threads.
        asyncio: The way to it from tasks.
    """

    trust: Trust
    blocking: Port
    asyncio: Port

    def __init__(
        self, names: Names, listener: Listener, leave: Callable[[Member], None], ready: Callable[[], bool]
    ) -> None:
        self.names = names
        self.listener = listener
        self.trust = self._trust = _Trust()
        self.kept = Kept()
        self.position: Position | None = None
        self._leave = leave
        self._ready = ready

    def vouch(self, heard: float, lag: float) -> None:
        """Have copies served for some seconds after the instant until which everything was heard."""
        self._trust.heard = heard
        self._trust.until = heard + lag

    def distrust(self) -> None:
        """Have copies verified before they are served."""
        self._trust.until = -math.inf

    def listen(self) -> None:
        """Begin to hear, if the link does not run yet."""
        self._ready()

    def leave(self) -> None:
        """Hear no more."""
        self._leave(self)
        self.distrust()
