"""The contenders: what each library has to offer for a row, with its documented defaults wherever there are any.

Each function takes what is to be protected and returns it protected. Libraries are imported inside, for any of them may
be missing. Where a rival does less than the row asks, its label in `rows.py` says so.
"""

import inspect
import itertools
import threading
from collections.abc import Callable
from typing import Any

from tests.benchmarks.race import ARGUMENT

Fn = Callable[..., Any]

SIZE, TTL = 10_000, 300.0
#: Calls per second that no benchmark reaches, and calls at once.
PLENTY, AT_ONCE = 1e9, 8


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


def pyresilience_retry(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(retry=pyresilience.RetryConfig(retry_on=(ConnectionError,)))(fn)


# Circuit breaker ----------------------------------------------------------------------------------------------------


def streak(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier", failure_threshold=5)(fn)


def window(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier")(fn)


def slow_window(fn: Fn) -> Fn:
    import paintkit

    return paintkit.circuit_breaker("supplier", slow_call_duration=2.0)(fn)


def pybreaker_streak(fn: Fn) -> Fn:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=5)(fn)


def circuitbreaker_streak(fn: Fn) -> Fn:
    import circuitbreaker

    return circuitbreaker.circuit(failure_threshold=5)(fn)


def nopanic_breaker(fn: Fn) -> Fn:
    import nopanic

    return nopanic.circuit_breaker()(fn)


def nopanic_slow_breaker(fn: Fn) -> Fn:
    import nopanic

    return nopanic.circuit_breaker(slow_call_duration=2.0)(fn)


def pyresilience_streak(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(circuit_breaker=pyresilience.CircuitBreakerConfig())(fn)


def interlock_window(fn: Fn) -> Fn:
    import interlock

    config = interlock.Config(window_type=interlock.WindowType.TIME_BASED, window_size=30)
    return interlock.CircuitBreaker(name="supplier", config=config)(fn)


# Limits -------------------------------------------------------------------------------------------------------------


def rate_limit(fn: Fn) -> Fn:
    import paintkit

    return paintkit.rate_limit(PLENTY, per=1.0)(fn)


def nopanic_rate_limit(fn: Fn) -> Fn:
    import nopanic

    return nopanic.rate_limit(PLENTY)(fn)


def pyresilience_rate_limit(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(rate_limiter=pyresilience.RateLimiterConfig(max_calls=int(PLENTY)))(fn)


def pyresilience_bulkhead(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(bulkhead=pyresilience.BulkheadConfig(max_concurrent=AT_ONCE))(fn)


def bulkhead(fn: Fn) -> Fn:
    import paintkit

    return paintkit.bulkhead(AT_ONCE)(fn)


def nopanic_bulkhead(fn: Fn) -> Fn:
    import nopanic

    return nopanic.bulkhead(AT_ONCE)(fn)


def timeout(fn: Fn) -> Fn:
    import paintkit

    return paintkit.timeout(2.0)(fn)


def nopanic_timeout(fn: Fn) -> Fn:
    import nopanic

    return nopanic.timeout(2.0)(fn)


def pyresilience_timeout(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(timeout=pyresilience.TimeoutConfig(seconds=2.0))(fn)


def asyncio_timeout(fn: Fn) -> Fn:
    import asyncio

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(2.0):
            return await fn(*args, **kwargs)

    return wrapper


# Pipelines ----------------------------------------------------------------------------------------------------------


def two(fn: Fn) -> Fn:
    import paintkit

    return paintkit.pipeline(
        paintkit.retry(on=ConnectionError),
        paintkit.circuit_breaker("supplier"),
    )(fn)


def nopanic_two(fn: Fn) -> Fn:
    import nopanic

    return nopanic.compose(nopanic.retry(on=ConnectionError), nopanic.circuit_breaker())(fn)


def pyresilience_four(fn: Fn) -> Fn:
    import pyresilience

    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(retry_on=(ConnectionError,)),
        rate_limiter=pyresilience.RateLimiterConfig(max_calls=int(PLENTY)),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=AT_ONCE),
        circuit_breaker=pyresilience.CircuitBreakerConfig(),
    )(fn)


def four(fn: Fn) -> Fn:
    import paintkit

    return paintkit.pipeline(
        paintkit.retry(on=ConnectionError),
        paintkit.rate_limit(PLENTY, per=1.0),
        paintkit.bulkhead(AT_ONCE),
        paintkit.circuit_breaker("supplier"),
    )(fn)


def nopanic_four(fn: Fn) -> Fn:
    import nopanic

    return nopanic.compose(
        nopanic.retry(on=ConnectionError),
        nopanic.rate_limit(PLENTY),
        nopanic.bulkhead(AT_ONCE),
        nopanic.circuit_breaker(),
    )(fn)


# Cache --------------------------------------------------------------------------------------------------------------


def hit(fn: Fn) -> Fn:
    import paintkit

    cache = paintkit.CacheManager("bench", maxsize=SIZE)
    return cache.cache_result(timeout=TTL, tags=lambda number: (f"number:{number}",))(fn)


def missing(protect: Callable[[Fn], Fn]) -> Callable[[Fn], Fn]:
    """Return what makes a function whose every call is a miss: each has a key of its own."""

    def protect_and_miss(fn: Fn) -> Fn:
        keys = itertools.count()
        if inspect.iscoroutinefunction(fn):

            async def load(_key: int) -> Any:
                return await fn(ARGUMENT)

            cached = protect(load)

            async def call(_number: int) -> Any:
                return await cached(next(keys))

            return call

        cached = protect(lambda _key: fn(ARGUMENT))
        return lambda _number: cached(next(keys))

    return protect_and_miss


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
