"""What a cache tells of itself: the totals of a cache, those of one function, and what is known of one call.

In a module of their own, since classes of named values take long to make, and only who asks needs them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from paintkit.cache.entries import Cause

__all__ = ["CacheInfo", "CacheStats", "Explanation", "Removal", "RemovalCause"]

#: Why a value left: its time was over, it had to make room, somebody invalidated it, there is a newer one, or the function
#: or object that it belongs to is gone.
RemovalCause = Literal["expired", "evicted", "invalidated", "replaced", "collected"]


class CacheStats(TypedDict):
    """What a cache did so far, and what it holds now.

    Attributes:
        entries: Values held now.
        maxsize: How many it holds at most.
        estimated_size: About how many bytes the values take; see `CacheManager.get_stats`.
        hit_rate: Hits by look-ups, from 0 to 1; 0.0 before the first look-up.
        hits: Calls answered from memory.
        misses: Calls that found no fresh value.
        stale: Calls answered with a value whose time was over.
        expired: Misses because the time of the value was over.
        invalidated: Misses because the value had been invalidated.
        evicted: Misses because the value had made room.
        joined: Misses that waited for a load that was under way, instead of loading themselves.
        loads: Loads that returned or raised.
        load_errors: Loads that raised.
        load_time: Seconds spent in loads.
        evictions: Values that had to make room.
        expirations: Values swept away when their time was over.
        invalidations: Invalidations that took effect.
        level2_hits: Values that came from the second level, instead of a load.
        unverified: Misses because other processes may have changed the value, so that the second level was asked.
        level2: What the second level tells of itself; empty without one.
        weight: What the values weigh together; 0 without `max_weight`.
        max_weight: What they may weigh, or `None`.
        too_heavy: Values that were not kept because one alone weighs more.
    """

    entries: int
    maxsize: int
    estimated_size: int
    hit_rate: float
    hits: int
    misses: int
    stale: int
    expired: int
    invalidated: int
    evicted: int
    joined: int
    loads: int
    load_errors: int
    load_time: float
    evictions: int
    expirations: int
    invalidations: int
    level2_hits: int
    unverified: int
    level2: dict[str, float]
    weight: int
    max_weight: int | None
    too_heavy: int


class CacheInfo(NamedTuple):
    """What a cached function did so far.

    Attributes:
        hits: Calls answered from memory.
        misses: Calls that found no fresh value.
        loads: Loads that returned or raised.
        load_errors: Loads that raised.
        load_time: Seconds spent in loads.
        entries: Values held now.
        joined: Misses that waited for a load that was under way.
        expired: Misses because the time of the value was over.
        invalidated: Misses because the value had been invalidated.
        evicted: Misses because the value had made room. The other misses are calls that were never made before, or so
            long ago that nobody remembers.
        estimated_size: About how many bytes the values take.
        stale: Calls answered with a value whose time was over.
        level2_hits: Values that came from the second level, instead of a load.
        unverified: Misses because other processes may have changed the value, so that the second level was asked.
    """

    hits: int
    misses: int
    loads: int
    load_errors: int
    load_time: float
    entries: int
    joined: int
    expired: int
    invalidated: int
    evicted: int
    estimated_size: int
    stale: int
    level2_hits: int
    unverified: int


class Explanation(NamedTuple):
    """What a cache knows of one call.

    Attributes:
        key: The key of the call, as the cache sees it.
        level: Where a value is: `"memory"`, or `None` if there is none.
        fresh: Whether the call would be answered with it (a kept error is an answer).
        age: Seconds since the value came, or `None`.
        expires_in: Seconds until its time is over: negative afterwards, infinite without a timeout, `None` without a
            value.
        tags: What it can be invalidated by: its tags, and the key that a `key_func` made.
        missed: Why the call would miss: its value has `"expired"`, was `"invalidated"` or `"evicted"`, `"never"` came
            (or left so long ago that nobody remembers), other processes may have changed it (`"unverified"`), or the open unit of work has changed what it depends on
            (`"dirty"`). `None` if it is fresh.
        loading: Whether a load is under way that others wait for.
    """

    key: Hashable
    level: Literal["memory"] | None
    fresh: bool
    age: float | None
    expires_in: float | None
    tags: tuple[str, ...]
    missed: Cause | Literal["dirty"] | None
    loading: bool


class Removal(NamedTuple):
    """What left a cache.

    Attributes:
        function: The function that it was a result of, by its full name.
        key: The arguments of the call, as the cache sees them.
        value: What the function returned, or the error that it raised; `None` for a key without a value.
        cause: Why it left: `"expired"`, `"evicted"`, `"invalidated"`, `"replaced"` by a newer one, or `"collected"` with the
            function or object that it belonged to.
        hits: How often it was used.
    """

    function: str
    key: Hashable
    value: Any
    cause: RemovalCause
    hits: int
