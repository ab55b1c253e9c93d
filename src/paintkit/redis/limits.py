"""Rate limits that replicas share: one bucket per key in Redis, filled and emptied by one script.

The script is the token bucket of `paintkit.machines.token_bucket` on the server's own clock. A call asks Redis, which is
what a limit for all replicas costs; while Redis does not answer in time, each replica limits by itself and asks again
once in a while, so that an outage of Redis costs one caller a few hundredths of a second now and then, and nobody an
error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import redis

from paintkit import _arguments, clock
from paintkit._locks import new_lock

if TYPE_CHECKING:
    from paintkit.policies._rate_limit import Tokens

__all__ = ["RedisLimits"]

_LOG = logging.getLogger("paintkit.redis")

# Seconds to wait for an answer, and until Redis is asked again after it gave none.
_ANSWER = 0.02
_AWAY = 1.0

# KEYS: the bucket. ARGV: the fields of `Tokens`, seconds of patience.
# Returns whether they were taken, and the seconds to wait for them. A bucket that is full again expires by itself.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local weight, patience = tonumber(ARGV[3]), tonumber(ARGV[4])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + weight * interval
local wait = math.max(full - tolerance - now, 0)
if wait > patience then
    return {0, string.format('%.6f', wait)}
end
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000))
return {1, string.format('%.6f', wait)}
"""

# KEYS: the bucket. ARGV: seconds per token, tokens to give back.
_GIVE_BACK = """
local full = redis.call('GET', KEYS[1])
if full then
    redis.call('SET', KEYS[1], string.format('%.6f', full - ARGV[1] * ARGV[2]), 'KEEPTTL')
end
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
            _arguments.label("url", url), socket_timeout=_ANSWER, socket_connect_timeout=_ANSWER, retry=None
        )
        self._lock = new_lock()  # guards _ask_again_at
        self._ask_again_at = 0.0  # 0: Redis answers

    def take(self, name: str, key: str, tokens: Tokens, patience: float) -> tuple[bool, float] | None:
        """Take tokens of a bucket for all replicas.

        Returns:
            Whether they were taken, and the seconds to wait for them; `None` if Redis does not answer.
        """
        if not self._may_ask():
            return None
        try:
            taken, wait = cast(
                "list[Any]", self._client.eval(_TAKE, 1, self._key(name, key), *tokens, patience)
            )
        except (redis.RedisError, OSError) as error:
            self._miss(error)
            return None
        self._ask_again_at = 0.0
        return bool(taken), float(wait)

    async def atake(self, name: str, key: str, tokens: Tokens, patience: float) -> tuple[bool, float] | None:
        """Take tokens like `take`, without blocking the loop.

        In a thread: connections of asyncio belong to one loop and have to be closed in it, ours serve every loop.
        """
        import asyncio

        return await asyncio.to_thread(self.take, name, key, tokens, patience)

    def give_back(self, name: str, key: str, tokens: Tokens) -> None:
        """Return tokens whose call was not made; lost if Redis does not answer."""
        try:
            self._client.eval(_GIVE_BACK, 1, self._key(name, key), tokens.interval, tokens.weight)
        except (redis.RedisError, OSError) as error:
            self._miss(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _may_ask(self) -> bool:
        """Whether to ask Redis; while it is away, one caller in a while finds out whether it is back."""
        if self._ask_again_at == 0.0:
            return True
        with self._lock:
            now = clock.now()
            if now < self._ask_again_at:
                return False
            self._ask_again_at = now + _AWAY
            return True

    def _miss(self, error: Exception) -> None:
        """Leave Redis alone for a while."""
        with self._lock:
            first = self._ask_again_at == 0.0
            self._ask_again_at = clock.now() + _AWAY
        if first:
            _LOG.warning("Redis does not answer, each process limits by itself: %s", error)

    def _key(self, name: str, key: str) -> str:
        return f"{self._prefix}:limit:{name}:{key}"
