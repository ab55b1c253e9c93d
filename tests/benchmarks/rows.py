"""The rows of the table, as data: what is measured, how fast it must be, and who else is asked.

A row is one line here and, for each new contender, one function in `contenders.py`.
"""

from typing import NamedTuple

from tests.benchmarks import contenders as by
from tests.benchmarks.contenders import Fn


class Entry(NamedTuple):
    """One contender of a row.

    Attributes:
        package: The distribution that it comes from, whose version is printed; `Python` for the standard library.
        protect: What makes a protected function.
        note: What else to know of it, such as what the row asks for and it does not do.
    """

    package: str
    protect: Fn
    note: str = ""

    @property
    def name(self) -> str:
        """What the contender is called in the table."""
        return f"{self.package} ({self.note})" if self.note else self.package


class Row(NamedTuple):
    """One happy path.

    Attributes:
        title: What is measured.
        target: The ratio to the baseline that ours must not exceed.
        ours: What paintkit offers.
        rivals: The others.
        asynchronous: Whether it is measured on `async def`.
        hit: Whether the function below must not be reached any more once a first call has come back.
        threads: How many threads call at once.
        baseline: What the ratios are to, in place of the bare wrapper.
        server: The service that takes part; then real time counts, not the processor's for us.
    """

    title: str
    target: float
    ours: Entry
    rivals: tuple[Entry, ...]
    asynchronous: bool = False
    hit: bool = False
    threads: int = 1
    baseline: Entry | None = None
    server: str = ""


class ImportRow(NamedTuple):
    """What it costs to import something, in a fresh process without what Python itself takes to start.

    Attributes:
        title: What is measured.
        target: The ratio to the baseline that ours must not exceed.
        baseline: The distribution and the statement that is the unit.
        ours: Our statements.
    """

    title: str
    target: float
    baseline: tuple[str, str]
    ours: tuple[str, ...]


def _missing(entry: Entry) -> Entry:
    return entry._replace(protect=by.missing(entry.protect))


_RETRIES = (
    Entry("nopanic", by.nopanic_retry),
    Entry("pyresilience", by.pyresilience_retry),
    Entry("backoff", by.backoff_retry),
    Entry("stamina", by.stamina_retry),
    Entry("tenacity", by.tenacity_retry),
)
_BREAKERS = (
    Entry("circuitbreaker", by.circuitbreaker_streak),
    Entry("pybreaker", by.pybreaker_streak),
    Entry("pyresilience", by.pyresilience_streak),
    Entry("nopanic", by.nopanic_breaker, "a rate over a window, no streak"),
)
_CACHES = (
    Entry("cachebox", by.cachebox_hit, "no tags"),
    Entry("nopanic", by.nopanic_hit, "no tags, types or statistics"),
)
_BLOCKING_CACHES = (
    *_CACHES,
    Entry("cachetools", by.cachetools_hit, "no tags"),
    Entry("theine", by.theine_hit, "no tags"),
    Entry("dogpile.cache", by.dogpile_in_memory, "no bound, tags, types or statistics"),
    Entry("Flask-Caching", by.flask_caching_hit, "no tags, types or statistics"),
)
_ASYNC_CACHES = (
    *_CACHES,
    Entry("async-lru", by.async_lru_hit, "no tags"),
    Entry("theine", by.theine_hit, "no tags"),
    Entry("cashews", by.cashews_in_memory, "no types or statistics"),
    Entry("aiocache", by.aiocache_in_memory, "no bound, tags, types or statistics"),
)

_WINDOWS = (Entry("nopanic", by.nopanic_breaker),)
_SLOW_WINDOWS = (
    Entry("nopanic", by.nopanic_slow_breaker),
    Entry("interlock-cb", by.interlock_window),
)
_FOURS = (
    Entry("nopanic", by.nopanic_four),
    Entry("pyresilience", by.pyresilience_four, "a streak, no window"),
)

_SESSION_BEGIN = Entry("SQLAlchemy", by.session_begin, "with Session.begin()")
_SESSION_ALONE = Entry("SQLAlchemy", by.session_begin_alone, "the same on an engine without us, and no BEGIN")

_QUERY = Entry("paintkit", by.query, "the query of one row")

_RETRY = Entry("paintkit", by.retry)
_WINDOW = Entry("paintkit", by.window)
_SLOW_WINDOW = Entry("paintkit", by.slow_window)
_HIT = Entry("paintkit", by.hit)
_UNTAGGED = Entry("paintkit", by.untagged)

ROWS: tuple[Row | ImportRow, ...] = (
    Row("retry, def", 1.15, _RETRY, _RETRIES),
    Row("retry, async def", 1.15, _RETRY, _RETRIES, asynchronous=True),
    Row("breaker, streak, def", 1.4, Entry("paintkit", by.streak), _BREAKERS),
    Row("breaker, 30 s window, def", 2.2, _WINDOW, _WINDOWS),
    Row("breaker, 30 s window, async def", 1.6, _WINDOW, _WINDOWS, asynchronous=True),
    Row("breaker, 30 s window with slow calls, def", 2.6, _SLOW_WINDOW, _SLOW_WINDOWS),
    Row(
        "breaker, 30 s window with slow calls, async def", 1.9, _SLOW_WINDOW, _SLOW_WINDOWS, asynchronous=True
    ),
    Row(
        "rate limit, def",
        3.5,
        Entry("paintkit", by.rate_limit),
        (Entry("nopanic", by.nopanic_rate_limit), Entry("pyresilience", by.pyresilience_rate_limit)),
    ),
    Row(
        "bulkhead, def",
        2.0,
        Entry("paintkit", by.bulkhead),
        (Entry("nopanic", by.nopanic_bulkhead), Entry("pyresilience", by.pyresilience_bulkhead)),
    ),
    Row(
        "timeout, async def",
        10.0,
        Entry("paintkit", by.timeout),
        (
            Entry("Python", by.asyncio_timeout, "asyncio.timeout"),
            Entry("nopanic", by.nopanic_timeout),
            Entry("pyresilience", by.pyresilience_timeout),
        ),
        asynchronous=True,
    ),
    Row("retry + breaker window, def", 2.8, Entry("paintkit", by.two), (Entry("nopanic", by.nopanic_two),)),
    Row(
        "retry + rate limit + bulkhead + breaker window, def",
        6.5,
        Entry("paintkit", by.four),
        _FOURS,
    ),
    Row("retry, 4 threads", 1.15, _RETRY, _RETRIES, threads=4),
    Row("breaker, 30 s window, 4 threads", 2.2, _WINDOW, _WINDOWS, threads=4),
    Row(
        "retry + rate limit + bulkhead + breaker window, 4 threads",
        6.5,
        Entry("paintkit", by.four),
        _FOURS,
        threads=4,
    ),
    Row("cache hit: typed key, TTL, tags, statistics, def", 1.6, _HIT, _BLOCKING_CACHES, hit=True),
    Row(
        "cache hit: typed key, TTL, tags, statistics, async def",
        1.15,
        _HIT,
        _ASYNC_CACHES,
        asynchronous=True,
        hit=True,
    ),
    Row(
        "cache hit: typed key, TTL, tags, statistics, 4 threads",
        1.6,
        _HIT,
        _BLOCKING_CACHES,
        hit=True,
        threads=4,
    ),
    # 3 and 10 microseconds beyond the load, by bare wrappers of 120 and 200 ns.
    Row("cache miss, def", 25.0, _missing(_UNTAGGED), tuple(map(_missing, _BLOCKING_CACHES))),
    Row(
        "cache miss, async def",
        50.0,
        _missing(_UNTAGGED),
        tuple(map(_missing, _ASYNC_CACHES)),
        asynchronous=True,
    ),
    Row("cache miss with a tag, def", 25.0, _missing(_HIT), ()),
    Row("cache miss with a tag, async def", 50.0, _missing(_HIT), (), asynchronous=True),
    # What surrounds work that is not ours: ratios to what one would write without us.
    Row(
        "unit of work, block with one statement",
        1.3,
        Entry("paintkit", by.unit_of_work),
        (_SESSION_ALONE,),
        baseline=_SESSION_BEGIN,
    ),
    Row(
        "unit of work, decorator with one statement",
        1.3,
        Entry("paintkit", by.with_database_session),
        (_SESSION_ALONE,),
        baseline=_SESSION_BEGIN,
    ),
    # SQLAlchemy alone sends no BEGIN to SQLite; on a server both do the same.
    Row(
        "unit of work on PostgreSQL, block with one statement",
        1.3,
        Entry("paintkit", by.remote_unit_of_work),
        (),
        baseline=Entry("SQLAlchemy", by.remote_session_begin, "with Session.begin(), an engine without us"),
        server="postgres",
    ),
    Row(
        "unit of work that writes one row, resolve_commits",
        1.4,
        Entry("paintkit", by.resolved_commit),
        (),
        baseline=Entry("paintkit", by.commit, "without"),
        server="postgres",
    ),
    Row(
        "query cache hit, one row",
        0.2,
        Entry("paintkit", by.cached_query),
        (),
        baseline=_QUERY,
        server="postgres",
    ),
    Row(
        "query cache hit, a hundred entities",
        1.5,
        Entry("paintkit", by.cached_entities),
        (),
        baseline=_QUERY,
        server="postgres",
    ),
    Row(
        "checkout with leak detection",
        2.0,
        Entry("paintkit", by.watched_checkout),
        (),
        baseline=Entry("SQLAlchemy", by.bare_checkout, "QueuePool"),
    ),
    Row(
        "publish to three handlers, isolated from each other",
        2.0,
        Entry("paintkit", by.publish),
        (),
        baseline=Entry("blinker", by.blinker_send, "the first that raises stops the others"),
    ),
    Row(
        "record a duration",
        1.0,
        Entry("paintkit", by.record, "any name"),
        (Entry("prometheus-client", by.prometheus_labels_observe, "any name"),),
        baseline=Entry("prometheus-client", by.prometheus_observe, "histogram of one name"),
    ),
    # A microsecond beyond the call, by a bare wrapper of 120 ns.
    Row("measure, def", 9.0, Entry("paintkit", by.measure), ()),
    Row(
        "cache hit in Redis, def",
        1.3,
        Entry("paintkit", by.level2_hit),
        (Entry("dogpile.cache", by.dogpile_hit, "unsigned pickle, no tags"),),
        hit=True,
        baseline=Entry("redis", by.redis_get, "GET"),
        server="redis",
    ),
    Row(
        "cache hit in Redis, async def",
        1.3,
        Entry("paintkit", by.level2_hit),
        (
            Entry("cashews", by.cashews_hit, "unsigned pickle, no tags"),
            Entry("aiocache", by.aiocache_hit, "JSON, no tags"),
        ),
        asynchronous=True,
        hit=True,
        baseline=Entry("redis", by.redis_get_async, "GET"),
        server="redis",
    ),
    ImportRow(
        "import in a fresh process",
        0.7,
        ("tenacity", "import tenacity"),
        ("import paintkit", "from paintkit import CacheManager, circuit_breaker, retry"),
    ),
)
