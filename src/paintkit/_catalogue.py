"""What every number of every primitive is called outside: the one list behind all exporters."""

from __future__ import annotations

from typing import Final

from paintkit.telemetry import Entry, Kind, Table

__all__ = [
    "BATCHER",
    "BREAKER",
    "BUDGET",
    "BULKHEAD",
    "BUS",
    "CACHE",
    "COMPONENTS",
    "DEADLINE",
    "FALLBACK",
    "HEDGE",
    "IDEMPOTENCY",
    "LEVEL",
    "MONITOR",
    "OUTBOX",
    "POOL",
    "QUERY_CACHE",
    "QUERY_WATCH",
    "RATE_LIMIT",
    "RETRY",
    "STREAMS",
    "TABLES",
    "TIMEOUT",
]

RETRY: Final = Table(
    "policy",
    Entry("retries", "paintkit.retry.retries", "counter", "{attempt}", "Attempts beyond the first."),
    Entry("gave_up", "paintkit.retry.gave_up", "counter", "{call}", "Calls that no attempt could save."),
)
BUDGET: Final = Table(
    "budget",
    Entry("refused", "paintkit.budget.refused", "counter", "{attempt}", "Extra attempts refused."),
    Entry("balance", "paintkit.budget.balance", "gauge", "{token}", "Tokens in the account."),
)
_STATE: Final = ("paintkit.circuit_breaker.state", "gauge", "", "1 for the state that it is in, else 0.")
BREAKER: Final = Table(
    "policy",
    *(
        Entry(state, *_STATE, {"state": state})
        for state in ("closed", "open", "half_open", "forced_open", "disabled", "metrics_only")
    ),
    Entry("calls", "paintkit.circuit_breaker.window.calls", "gauge", "{call}", "Calls in the window."),
    Entry("failures", "paintkit.circuit_breaker.failures", "counter", "{call}", "Failures recorded."),
    Entry("rejected", "paintkit.circuit_breaker.rejected", "counter", "{call}", "Calls refused."),
    Entry("opened", "paintkit.circuit_breaker.opened", "counter", "", "Times that it opened."),
)
RATE_LIMIT: Final = Table(
    "policy",
    Entry("keys", "paintkit.rate_limit.keys", "gauge", "{key}", "Buckets held."),
    Entry("rejected", "paintkit.rate_limit.rejected", "counter", "{call}", "Calls refused."),
    Entry("waited", "paintkit.rate_limit.waited", "counter", "{call}", "Calls that waited for their turn."),
)
BULKHEAD: Final = Table(
    "policy",
    Entry("limit", "paintkit.bulkhead.limit", "gauge", "{call}", "Calls that may run at once."),
    Entry("running", "paintkit.bulkhead.running", "gauge", "{call}", "Calls that hold a permit."),
    Entry("waiting", "paintkit.bulkhead.waiting", "gauge", "{call}", "Calls that wait for a permit."),
    Entry("rejected", "paintkit.bulkhead.rejected", "counter", "{call}", "Calls refused."),
)
TIMEOUT: Final = Table(
    "policy",
    Entry("expired", "paintkit.timeout.expired", "counter", "{call}", "Calls whose time was up."),
    Entry("abandoned", "paintkit.timeout.abandoned", "gauge", "{thread}", "Threads that nobody waits for."),
)
DEADLINE: Final = Table(
    "policy",
    Entry("exceeded", "paintkit.deadline.exceeded", "counter", "{call}", "Deadlines that were missed."),
)
HEDGE: Final = Table(
    "policy",
    Entry("hedges", "paintkit.hedge.hedges", "counter", "{attempt}", "Tries beside the first."),
)
FALLBACK: Final = Table(
    "policy",
    Entry("used", "paintkit.fallback.used", "counter", "{call}", "Calls answered with something else."),
)

_HITS: Final = ("paintkit.cache.hits", "counter", "{call}", "Calls answered with a fresh value, by level.")
_MISSES: Final = ("paintkit.cache.misses", "counter", "{call}", "Calls that found none in memory, by cause.")
CACHE: Final = Table(
    "cache",
    Entry("entries", "paintkit.cache.entries", "gauge", "{entry}", "Entries held."),
    Entry("estimated_size", "paintkit.cache.estimated_size", "gauge", "By", "Estimated size of the values."),
    Entry("hits", *_HITS, {"level": "memory"}),
    Entry("level2_hits", *_HITS, {"level": "level2"}),
    Entry("never", *_MISSES, {"cause": "never"}),
    Entry("expired", *_MISSES, {"cause": "expired"}),
    Entry("invalidated", *_MISSES, {"cause": "invalidated"}),
    Entry("evicted", *_MISSES, {"cause": "evicted"}),
    Entry("unverified", *_MISSES, {"cause": "unverified"}),
    Entry("stale", "paintkit.cache.stale", "counter", "{call}", "Calls answered with an old value."),
    Entry("joined", "paintkit.cache.joined", "counter", "{call}", "Misses that waited for another's load."),
    Entry("loads", "paintkit.cache.loads", "counter", "{load}", "Loads that returned or raised."),
    Entry("load_errors", "paintkit.cache.load_errors", "counter", "{load}", "Loads that raised."),
    Entry("load_time", "paintkit.cache.load_time", "counter", "s", "Time spent in loads."),
    Entry("evictions", "paintkit.cache.evictions", "counter", "{entry}", "Entries dropped for room."),
    Entry("expirations", "paintkit.cache.expirations", "counter", "{entry}", "Entries dropped by age."),
    Entry("weight", "paintkit.cache.weight", "gauge", "", "Weight of the values, where they are weighed."),
    Entry("too_heavy", "paintkit.cache.too_heavy", "counter", "{entry}", "Values too heavy to be kept."),
    Entry("invalidations", "paintkit.cache.invalidations", "counter", "", "Invalidations that took effect."),
)

LEVEL: Final = Table(
    "level",
    Entry("looks", "paintkit.cache.level.looks", "counter", "{call}", "Questions to the second level."),
    Entry("hits", "paintkit.cache.level.hits", "counter", "{call}", "Questions that it had the answer to."),
    Entry("fills", "paintkit.cache.level.fills", "counter", "{entry}", "Values that it has taken."),
    Entry(
        "refused", "paintkit.cache.level.refused", "counter", "{entry}", "Values that came too late for it."
    ),
    Entry("drops", "paintkit.cache.level.drops", "counter", "", "Invalidations that it was told of."),
    Entry("errors", "paintkit.cache.level.errors", "counter", "", "Commands that failed."),
    Entry(
        "bytes_read", "paintkit.cache.level.read", "counter", "By", "Size of the values that came from it."
    ),
    Entry("bytes_written", "paintkit.cache.level.written", "counter", "By", "Size of those that went there."),
)

_CONNECTION: Final = "db.client.connection"
_OPEN: Final = (f"{_CONNECTION}.count", "gauge", "{connection}", "Open connections, by state.")


def _of_pool(name: str, kind: Kind, unit: str, text: str) -> Entry:
    """One of the pool's statistics, which bear OpenTelemetry's names already."""
    return Entry(f"{_CONNECTION}.{name}", f"{_CONNECTION}.{name}", kind, unit, text)


POOL: Final = Table(
    f"{_CONNECTION}.pool.name",
    Entry(f"{_CONNECTION}.count.idle", *_OPEN, {f"{_CONNECTION}.state": "idle"}),
    Entry(f"{_CONNECTION}.count.used", *_OPEN, {f"{_CONNECTION}.state": "used"}),
    _of_pool("idle.max", "gauge", "{connection}", "Connections kept open at most."),
    _of_pool("max", "gauge", "{connection}", "Connections that the pool may open."),
    _of_pool("pending_requests", "gauge", "{request}", "Callers that wait for a connection."),
    _of_pool("timeouts", "counter", "{timeout}", "Callers that waited in vain."),
    _of_pool("wait_time", "histogram", "s", "How long those waited who had to."),
    _of_pool("create_time", "histogram", "s", "How long opening a connection took."),
    _of_pool("use_time", "histogram", "s", "How long connections were in use."),
    Entry("invalid", "paintkit.pool.invalid", "counter", "{connection}", "Connections found broken."),
    Entry("leaked", "paintkit.pool.leaked", "counter", "{connection}", "Connections kept for too long."),
)

IDEMPOTENCY: Final = Table(
    "keys",
    Entry("done", "paintkit.idempotency.done", "counter", "{call}", "Calls that did their work."),
    Entry(
        "repeated", "paintkit.idempotency.repeated", "counter", "{call}", "Calls given an answer from before."
    ),
    Entry("reused", "paintkit.idempotency.reused", "counter", "{call}", "Calls refused: another's key."),
)
QUERY_CACHE: Final = Table(
    "queries",
    Entry("answered", "paintkit.query_cache.answered", "counter", "{query}", "SELECTs that it answered."),
    Entry("loads", "paintkit.query_cache.loads", "counter", "{query}", "SELECTs that ran to fill it."),
    Entry(
        "uncached",
        "paintkit.query_cache.uncached",
        "counter",
        "{query}",
        "SELECTs of kinds that it leaves be.",
    ),
    Entry("writes", "paintkit.query_cache.writes", "counter", "{table}", "Tables that it heard written."),
)
QUERY_WATCH: Final = Table(
    "watch",
    Entry("blocks", "paintkit.query_watch.blocks", "counter", "{block}", "Blocks that it looked at."),
    Entry("found", "paintkit.query_watch.found", "counter", "", "Repetitions found that took long enough."),
    Entry("told", "paintkit.query_watch.told", "counter", "", "Those that were news."),
)

BUS: Final = Table(
    "bus",
    Entry("published", "paintkit.event_bus.published", "counter", "{event}", "Events published."),
    Entry(
        "deferred", "paintkit.event_bus.deferred", "counter", "{event}", "Events that waited for a commit."
    ),
    Entry("delivered", "paintkit.event_bus.delivered", "counter", "{call}", "Handlers that returned."),
    Entry("failed", "paintkit.event_bus.failed", "counter", "{call}", "Handlers that raised."),
)
OUTBOX: Final = Table(
    "outbox",
    Entry("published", "paintkit.outbox.published", "counter", "{event}", "Events written, to be committed."),
    Entry("in_flight", "paintkit.outbox.in_flight", "gauge", "{event}", "Events that relays here hold."),
    Entry("delivered", "paintkit.outbox.delivered", "counter", "{call}", "Handlers that returned."),
    Entry("failed", "paintkit.outbox.failed", "counter", "{call}", "Handlers that raised or hung."),
    Entry("dead", "paintkit.outbox.dead", "counter", "{event}", "Events given up here."),
    Entry("late", "paintkit.outbox.late", "counter", "{event}", "Events lost to others while handled."),
    Entry("errors", "paintkit.outbox.errors", "counter", "", "Rounds of relays that failed."),
    Entry("lag", "paintkit.outbox.lag", "histogram", "s", "How long events waited for their first try."),
)
STREAMS: Final = Table(
    "streams",
    Entry(
        "published", "paintkit.redis_streams.published", "counter", "{event}", "Events that Redis has taken."
    ),
    Entry(
        "not_sent", "paintkit.redis_streams.not_sent", "counter", "{event}", "Events not sent for certain."
    ),
    Entry("delivered", "paintkit.redis_streams.delivered", "counter", "{call}", "Receivers that returned."),
    Entry("failed", "paintkit.redis_streams.failed", "counter", "{call}", "Receivers that raised or hung."),
    Entry("dead", "paintkit.redis_streams.dead", "counter", "{event}", "Events given up here."),
    Entry("gaps", "paintkit.redis_streams.gaps", "counter", "", "Times that broadcasts were missed."),
    Entry("errors", "paintkit.redis_streams.errors", "counter", "", "Times that a thread lost Redis."),
)
BATCHER: Final = Table(
    "batcher",
    Entry("requests", "paintkit.batcher.requests", "counter", "{request}", "Requests accepted."),
    Entry("batches", "paintkit.batcher.batches", "counter", "{batch}", "Calls of the batch function."),
    Entry("failed_batches", "paintkit.batcher.failed_batches", "counter", "{batch}", "Batches that failed."),
    Entry(
        "failed_requests", "paintkit.batcher.failed_requests", "counter", "{request}", "Requests that failed."
    ),
    Entry("waiting", "paintkit.batcher.waiting", "gauge", "{request}", "Requests that wait for their batch."),
    Entry("running", "paintkit.batcher.running", "gauge", "{batch}", "Batches that run."),
)
COMPONENTS: Final = Table(
    "components",
    Entry("builds", "paintkit.components.builds", "counter", "{component}", "Components built."),
    Entry("build_failures", "paintkit.components.build_failures", "counter", "", "Factories that raised."),
    Entry("closes", "paintkit.components.closes", "counter", "{component}", "Components closed."),
    Entry("close_failures", "paintkit.components.close_failures", "counter", "", "Closings that raised."),
)
MONITOR: Final = Table(
    "name",
    Entry("durations", "paintkit.duration", "histogram", "s", "How long measured work took."),
    Entry("errors", "paintkit.duration.errors", "counter", "{call}", "Measured work that failed."),
)

TABLES: Final = (
    RETRY,
    BUDGET,
    BREAKER,
    RATE_LIMIT,
    BULKHEAD,
    TIMEOUT,
    DEADLINE,
    HEDGE,
    FALLBACK,
    CACHE,
    LEVEL,
    POOL,
    IDEMPOTENCY,
    QUERY_CACHE,
    QUERY_WATCH,
    BUS,
    OUTBOX,
    STREAMS,
    BATCHER,
    COMPONENTS,
    MONITOR,
)
