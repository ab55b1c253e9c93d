"""Rate limits that replicas share: one bucket per key in Redis, filled and emptied by one script.

The script is the token bucket of `paintkit.machines.token_bucket` on the server's own clock. A call asks Redis, which is
what a limit for all replicas costs; while Redis does not answer in time, each replica limits by itself and asks again
once in a while, so that an outage of Redis costs one caller a few hundredths of a second now and then, and nobody an
error.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import redis

from paintkit import _arguments
from paintkit.policies._rate_limit import Grant
from paintkit.redis import urls
from paintkit.redis.away import Absence

if TYPE_CHECKING:
    from paintkit.policies._rate_limit import Tokens

__all__ = ["RedisLimits"]

_LOG = logging.getLogger("paintkit.redis")

# Seconds to wait for an answer.
_ANSWER = 0.02

# KEYS: the bucket. ARGV: the fields of `Tokens`, seconds of patience.
# Returns whether they were taken, the seconds to wait for them, and the instant at which the bucket is now full: the receipt.
# A bucket that is full again expires by itself.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local weight, patience = tonumber(ARGV[3]), tonumber(ARGV[4])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + weight * interval
local wait = math.max(full - tolerance - now, 0)
if wait > patience then
    return {0, string.format('%.6f', wait), ''}
end
local receipt = string.format('%.6f', full)
redis.call('SET', KEYS[1], receipt, 'PX', math.ceil((full - now) * 1000))
return {1, string.format('%.6f', wait), receipt}
"""

# KEYS: the bucket. ARGV: seconds per token, tokens to give back, their receipt. Those behind have been promised their
# instants: if the next to come got one of these, two calls would start where one may. So only the last can give back.
_GIVE_BACK = """
if redis.call('GET', KEYS[1]) ~= ARGV[3] then
    return 0
end
redis.call('SET', KEYS[1], string.format('%.6f', ARGV[3] - ARGV[1] * ARGV[2]), 'KEEPTTL')
return 1
"""


class RedisLimits:
    """Lets rate limits of the same name, in many processes, share their tokens.

    Args:
        url: Of a Redis or Valkey server (6.0 or newer), such as `redis://localhost:6379/0`.
        prefix: What keys begin with; processes with the same prefix belong together.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `url` is no Redis URL.

    Example:
        >>> from paintkit import rate_limit
        >>> shared = RedisLimits("redis://localhost:6379/0")
        >>> supplier = rate_limit(50, per=1.0, name="supplier", shared=shared)
        >>> shared.close()
    """

    def __init__(self, url: str, *, prefix: str = "paintkit") -> None:
        self._prefix = _arguments.label("prefix", prefix)
        self._client = redis.Redis.from_url(
            urls.checked(url), socket_timeout=_ANSWER, socket_connect_timeout=_ANSWER, retry=None
        )
        self._absence = Absence()

    def take(self, name: str, key: str, tokens: Tokens, patience: float) -> Grant | None:
        """Take tokens of a bucket for all replicas, if the wait for them is within patience (in seconds).

        Returns:
            What came of it; `None` if Redis does not answer.
        """
        if not self._absence.may_ask():
            return None
        try:
            reply = cast("list[Any]", self._client.eval(_TAKE, 1, self._key(name, key), *tokens, patience))
        except (redis.RedisError, OSError) as error:
            self._miss(error)
            return None
        self._absence.end()
        taken, wait, receipt = reply
        return Grant(bool(taken), float(wait), receipt.decode() if isinstance(receipt, bytes) else receipt)

    async def atake(self, name: str, key: str, tokens: Tokens, patience: float) -> Grant | None:
        """Take tokens like `take`, without blocking the loop; whoever is cancelled meanwhile leaves none behind.

        In a thread: connections of asyncio belong to one loop and have to be closed in it, ours serve every loop.
        """
        import asyncio

        left = threading.Event()
        landed: list[Grant | None] = []

        def give_back() -> None:
            for grant in landed:
                if grant is not None and grant.taken:
                    self.give_back(name, key, tokens, grant.receipt)

        def take() -> Grant | None:
            landed.append(self.take(name, key, tokens, patience))
            if left.is_set():
                give_back()
            return landed[0]

        try:
            return await asyncio.to_thread(take)
        except asyncio.CancelledError:
            # The thread goes on. Each side looks after it has spoken, so one sees the other; the same receipt is good once.
            left.set()
            give_back()
            raise

    def give_back(self, name: str, key: str, tokens: Tokens, receipt: str) -> None:
        """Return tokens whose call was not made; lost if others queue behind them, or Redis does not answer."""
        try:
            self._client.eval(_GIVE_BACK, 1, self._key(name, key), tokens.interval, tokens.weight, receipt)
        except (redis.RedisError, OSError) as error:
            self._miss(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _miss(self, error: Exception) -> None:
        """Leave Redis alone for a while."""
        if self._absence.begin():
            _LOG.warning("Redis does not answer, each process limits by itself: %s", error)

    def _key(self, name: str, key: str) -> str:
        return f"{self._prefix}:limit:{name}:{key}"
