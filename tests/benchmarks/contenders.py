"""The contenders: what each library has to offer for a row, with its documented defaults wherever there are any.

Each function takes what is to be protected and returns it protected. Libraries are imported inside, for any of them may
be missing. Where a rival does less than the row asks, its label in `rows.py` says so.
"""

import threading
from collections.abc import Callable
from typing import Any

Fn = Callable[..., Any]

SIZE, TTL = 10_000, 300.0


# Retry --------------------------------------------------------------------------------------------------------------


def retry(fn: Fn) -> Fn:
    import paintkit

    return paintkit.retry(on=ConnectionError)(fn)


def tenacity_retry(fn: Fn) -> Fn:
    import tenacity

    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(0.1, max=10),
        reraise=True,
    )(fn)


def nopanic_retry(fn: Fn) -> Fn:
    import nopanic

    return nopanic.retry(on=ConnectionError)(fn)


def stamina_retry(fn: Fn) -> Fn:
    import stamina

    return stamina.retry(on=ConnectionError)(fn)


def backoff_retry(fn: Fn) -> Fn:
    import backoff

    return backoff.on_exception(backoff.expo, ConnectionError, max_tries=3)(fn)


# Circuit breaker ----------------------------------------------------------------------------------------------------


def streak(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier", failure_threshold=5)(fn)


def pybreaker_streak(fn: Fn) -> Fn:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=5)(fn)


def circuitbreaker_streak(fn: Fn) -> Fn:
    import circuitbreaker

    return circuitbreaker.circuit(failure_threshold=5)(fn)


def nopanic_breaker(fn: Fn) -> Fn:
    import nopanic

    return nopanic.circuit_breaker()(fn)


# Cache --------------------------------------------------------------------------------------------------------------


def hit(fn: Fn) -> Fn:
    import paintkit

    cache = paintkit.CacheManager("bench", maxsize=SIZE)
    return cache.cache_result(timeout=TTL, tags=lambda number: (f"number:{number}",))(fn)


def cachetools_hit(fn: Fn) -> Fn:
    import cachetools
    from cachetools.keys import typedkey

    store = cachetools.TTLCache(SIZE, TTL)
    return cachetools.cached(store, key=typedkey, lock=threading.Lock(), info=True)(fn)


def cachebox_hit(fn: Fn) -> Fn:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(SIZE, TTL), key_maker=cachebox.make_typed_key)(fn)


def nopanic_hit(fn: Fn) -> Fn:
    import nopanic

    return nopanic.cache(ttl=TTL, maxsize=SIZE)(fn)
