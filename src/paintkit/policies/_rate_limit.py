"""Rate limit: let only so many calls start in a span of time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from paintkit import _arguments, ambient, clock, observations
from paintkit._locks import new_lock
from paintkit._runtime import ASYNCIO, BLOCKING, Runtime, drive, settle
from paintkit._streams import aopen_stream, async_generator_within, generator_within
from paintkit._wrap import Cost, Policy, Templates, call_of, never_bare, remembered
from paintkit.errors import RateLimitedError
from paintkit.machines.token_bucket import TokenBucket

if TYPE_CHECKING:
    import functools

    from paintkit.telemetry import Metric, Source
    from paintkit.typing import Seconds

__all__ = ["Grant", "RateLimit", "RateLimitMetrics", "SharedLimits", "Tokens", "rate_limit"]

_UNNAMED = "rate_limit"

# The happy path: one clock read, one token under the lock.
_BODY = """\
    $now = $clock.now()
{find}    with $lock:
        $free = $bucket.try_take($now{weight})
    if not $free:
        {wait}($bucket, $now{weight})
    $result = {call}
    return $result
"""

# With a limit that replicas share, every call has to ask.
_SHARED = """\
    {enter}($later)
    $result = {call}
    return $result
"""


def _body(call: str, wait: str, *, keyed: bool, weighed: bool) -> str:
    find = "    $bucket = $bucket_of($key($given), $now)\n" if keyed else ""
    find += "    $weight = $weigh($given)\n" if weighed else ""
    return _BODY.format(call=call, wait=wait, find=find, weight=", $weight" if weighed else "")


class Tokens(NamedTuple):
    """Some tokens of a bucket that is kept elsewhere.

    Attributes:
        interval: Seconds in which one token flows in.
        tolerance: Seconds in which an empty bucket fills up.
        weight: How many tokens.
    """

    interval: float
    tolerance: float
    weight: float


class Grant(NamedTuple):
    """What came of a wish for tokens of a bucket that is kept elsewhere.

    Attributes:
        taken: Whether they were taken.
        wait: Seconds to wait for them, or until they could be had.
        receipt: What giving them back asks for.
    """

    taken: bool
    wait: float
    receipt: str


class SharedLimits(Protocol):
    """Where rate limits of one name in several processes keep their tokens."""

    def take(self, name: str, key: str, tokens: Tokens, patience: float, /) -> Grant | None:
        """Take tokens if the wait for them is within patience, in seconds; `None` if nobody answers."""
        ...

    async def atake(self, name: str, key: str, tokens: Tokens, patience: float, /) -> Grant | None:
        """Take tokens, without blocking the loop."""
        ...

    def give_back(self, name: str, key: str, tokens: Tokens, receipt: str, /) -> None:
        """Return tokens whose call was not made, unless others queue behind them already."""
        ...


class RateLimitMetrics(NamedTuple):
    """What a rate limit knows about itself at one moment.

    Attributes:
        keys: How many buckets are held (1 without `key=`).
        rejected: Calls refused in all, or in shadow mode: that would have been.
        waited: Calls that had to wait for a token.
    """

    keys: int
    rejected: int
    waited: int


class RateLimit(Policy):
    """A rate limit; made by `rate_limit`."""

    _adjustable = frozenset({"burst", "max_keys", "max_wait", "per", "rate"})

    def __init__(
        self,
        buckets: _Buckets,
        *,
        key: Callable[..., Hashable] | None,
        weight: Callable[..., float] | None,
        max_wait: float,
        name: str,
        shadow: bool,
        shared: SharedLimits | None,
    ) -> None:
        self.name = name
        self._buckets = buckets
        self._key = key
        self._weight = weight
        self._max_wait = max_wait
        self._shadow = shadow
        self._shared = shared
        self._lock = buckets.lock
        self._rejected = self._waited = 0
        keyed, weighed = key is not None, weight is not None
        self._templates = Templates(
            name="rate_limit",
            blocking=_SHARED.format(enter="$enter", call="$call")
            if shared
            else _body("$call", "$wait", keyed=keyed, weighed=weighed),
            asyncio=_SHARED.format(enter="await $aenter", call="await $call")
            if shared
            else _body("await $call", "await $await", keyed=keyed, weighed=weighed),
            generator=generator_within("if $enter($later):"),
            async_generator=async_generator_within("if await $aenter($later):"),
        )

    def metrics(self) -> RateLimitMetrics:
        """Return the numbers of this moment."""
        return RateLimitMetrics(len(self._buckets), self._rejected, self._waited)

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.RATE_LIMIT.read(self.name, self.metrics()._asdict())

    def worst_case(self, cost: Cost) -> Cost:
        """The wait for a token comes on top."""
        return Cost(calls=cost.calls, seconds=cost.seconds + self._max_wait)

    def __repr__(self) -> str:
        return f"<rate_limit {self.name!r}: {self._buckets}>"

    def _take_over(self, fresh: RateLimit) -> None:
        self._max_wait = fresh._max_wait
        with self._lock:
            self._buckets.take_over(fresh._buckets, clock.now())

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "clock": clock,
            "lock": self._lock,
            "bucket": self._buckets.only,
            "bucket_of": self._buckets.of,
            "key": self._key,
            "weigh": self._weigh,
            "wait": self._wait,
            "await": self._await,
            "enter": self._enter,
            "aenter": self._aenter,
            "aopen": aopen_stream,
        }

    def _weigh(self, *args: Any, **kwargs: Any) -> float:
        weight = self._weight(*args, **kwargs) if self._weight is not None else 1.0
        return _arguments.number("weight", weight, above=0.0, most=self._buckets.burst)

    def _enter(self, call: functools.partial[Any]) -> bool:
        """Take the token of a call out of line; that of a generator, when its first item is asked for."""
        return drive(self._take(call, BLOCKING))

    async def _aenter(self, call: functools.partial[Any]) -> bool:
        return await self._take(call, ASYNCIO)

    async def _take(self, call: functools.partial[Any], runtime: Runtime) -> bool:
        call = call_of(call)
        key = None if self._key is None else self._key(*call.args, **call.keywords)
        weight = self._weigh(*call.args, **call.keywords)
        if self._shared is not None and await self._take_shared(self._shared, key, weight, runtime):
            return True
        now = clock.now()
        bucket = self._buckets.only if self._key is None else self._buckets.of(key, now)
        with self._lock:
            free = bucket.try_take(now, weight)
        if not free:
            await self._turn(bucket, now, weight, runtime)
        return True

    async def _take_shared(
        self, shared: SharedLimits, key: Hashable, weight: float, runtime: Runtime
    ) -> bool:
        """Take the tokens of all replicas; False if nobody answers."""
        left = ambient.remaining()
        patience = self._max_wait if left is None else min(self._max_wait, left)
        take = shared.atake if runtime is ASYNCIO else shared.take
        name, tokens = _shared_name(key), Tokens(self._buckets.interval, self._buckets.tolerance, weight)
        grant = await settle(take(self.name, name, tokens, patience))
        if grant is None:
            return False
        with self._lock:
            self._rejected += not grant.taken
            self._waited += grant.taken and grant.wait > 0
        if not grant.taken:
            self._refuse(grant.wait)
        elif grant.wait > 0:
            try:
                await runtime.sleep(grant.wait)
            except BaseException:  # cancelled: whoever comes next may have the tokens
                shared.give_back(self.name, name, tokens, grant.receipt)
                raise
        return True

    def _wait(self, bucket: TokenBucket, now: float, weight: float = 1.0) -> None:
        drive(self._turn(bucket, now, weight, BLOCKING))

    async def _await(self, bucket: TokenBucket, now: float, weight: float = 1.0) -> None:
        await self._turn(bucket, now, weight, ASYNCIO)

    async def _turn(self, bucket: TokenBucket, now: float, weight: float, runtime: Runtime) -> None:
        """Wait for a token that is not there yet, if it can come in time.

        Raises:
            RateLimitedError: It cannot.
        """
        left = ambient.remaining()
        with self._lock:
            wait = bucket.wait(now, weight)
            fits = wait <= self._max_wait and (left is None or wait < left)
            taken = bucket.reserve(now, weight) if fits else None
            self._waited += taken is not None
            self._rejected += taken is None
        if taken is None:
            self._refuse(wait)
            return
        try:
            await runtime.sleep(wait)
        except BaseException:  # cancelled: whoever comes next may have the token
            with self._lock:
                bucket.give_back(clock.now(), taken)
            raise

    def _refuse(self, wait: float) -> None:
        kind = "rate_limit.would_reject" if self._shadow else "rate_limit.rejected"
        observations.emit(kind, self.name, retry_after=wait)
        if not self._shadow:
            raise RateLimitedError(self.name, wait)


class _Buckets:
    """One bucket, or a bounded number of them by key.

    A full bucket is like a new one, so it is forgotten without loss. When there is no room for another key, the bucket
    that is full first goes: only if more keys than `max_keys` are in use at once, that is before its time.
    """

    def __init__(self, rate: float, per: float, burst: float, max_keys: int) -> None:
        #: Seconds per token, and seconds until an empty bucket is full.
        self.interval, self.tolerance = per / rate, per / rate * burst
        self._rate, self._per, self.burst = rate, per, burst
        self._max_keys = max_keys
        self._by_key: dict[Hashable, TokenBucket] = {}
        # When each bucket will be full, as far as we knew when we last looked: never later than it is. The number, which
        # no two share, keeps keys from being compared.
        self._next_full: list[tuple[float, int, Hashable]] = []
        self._numbers = count()
        #: Guards the buckets and their table.
        self.lock = new_lock()
        #: The bucket of a limit without keys.
        self.only = self._new()

    def of(self, key: Hashable, now: float) -> TokenBucket:
        """Return the bucket of a key."""
        with self.lock:
            bucket = self._by_key.get(key)
            if bucket is None:
                self._make_room()
                bucket = self._by_key[key] = self._new()
                heappush(self._next_full, (now, next(self._numbers), key))
            return bucket

    def take_over(self, fresh: _Buckets, now: float) -> None:
        """Go on at another rate; what is used up stays used up."""
        self._rate, self._per, self.burst = fresh._rate, fresh._per, fresh.burst
        self.interval, self.tolerance = fresh.interval, fresh.tolerance
        self._max_keys = fresh._max_keys
        for bucket in (self.only, *self._by_key.values()):
            bucket.take_over(fresh.only, now)

    def _make_room(self) -> None:
        while len(self._by_key) >= self._max_keys:
            known, number, key = self._next_full[0]
            full_at = self._by_key[key].full_at
            if full_at > known:
                heapreplace(self._next_full, (full_at, number, key))
            else:
                heappop(self._next_full)
                del self._by_key[key]

    def _new(self) -> TokenBucket:
        return TokenBucket(self.interval, self.burst)

    def __len__(self) -> int:
        return len(self._by_key) or 1

    def __repr__(self) -> str:
        return f"{self._rate:g} per {self._per:g} s, burst {self.burst:g}"


@never_bare("`rate`, the calls that may start in a time", "@rate_limit(50, per=1.0)")
@remembered
def rate_limit(
    rate: float,
    per: Seconds = 1.0,
    *,
    burst: float | None = None,
    max_wait: Seconds = 0,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 10_000,
    weight: Callable[..., float] | None = None,
    name: str = _UNNAMED,
    shadow: bool = False,
    shared: SharedLimits | None = None,
) -> RateLimit:
    """Return a policy that lets calls start at a limited rate (GCRA, a token bucket).

    Args:
        rate: How many calls (> 0) may start in `per`.
        per: Seconds (> 0) or a `timedelta`.
        burst: How many calls may start at once after a pause (>= 1); as many as `rate` by default, at least 1.
        max_wait: Seconds (>= 0) or a `timedelta` that a call may wait for its turn. A wait that is longer, or does not
            fit the ambient deadline, is refused at once, before any of it is waited.
        key: Called with the call's arguments: every key it returns has a limit of its own.
        max_keys: How many keys may be in use at once (>= 1); idle keys do not count.
        weight: Called with the call's arguments: how many calls this one counts for (> 0, at most `burst`).
        name: The label in errors, observations and statistics.
        shadow: Only report what would be refused (observation `rate_limit.would_reject`); every call passes, after the
            wait that it would have had.
        shared: Where limits of this name in several processes share their tokens: `paintkit.redis.RedisLimits`. Every call
            asks there; while nobody answers, each process limits by itself.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.call(fn, ...)`, `.acall(fn, ...)` and `.metrics()`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> @rate_limit(50, per=1.0)
        ... def search(text: str) -> list[str]:
        ...     return [text]
        >>> search("blue")
        ['blue']
    """
    tokens = _arguments.number("rate", rate, above=0.0, most=1e9)
    buckets = _Buckets(
        tokens,
        _arguments.seconds("per", per),
        max(tokens, 1.0) if burst is None else _arguments.number("burst", burst, least=1.0, most=1e9),
        _arguments.count("max_keys", max_keys),
    )
    if shared is not None and name == _UNNAMED:
        raise ValueError("a rate limit with shared= needs a name: the same in every process")
    return RateLimit(
        buckets,
        key=None if key is None else _arguments.callback("key", key),
        weight=None if weight is None else _arguments.callback("weight", weight),
        max_wait=_arguments.seconds("max_wait", max_wait, zero=True),
        name=_arguments.label("name", name),
        shadow=_arguments.flag("shadow", shadow),
        shared=shared,
    )


def _shared_name(key: Hashable) -> str:
    """Return what a key is called in every process.

    Raises:
        TypeError: Its text is not the same everywhere.
    """
    if key is None:
        return ""
    if isinstance(key, bytes):
        return f"bytes:{key.hex()}"
    if isinstance(key, str | int):
        return f"{type(key).__name__}:{key}"
    raise TypeError(
        f"key= of a shared rate limit must return str, int or bytes, not {key!r} ({type(key).__name__})"
    )
