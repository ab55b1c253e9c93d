"""The rows of the table, as data: what is measured, how fast it must be, and who else is asked.

A row is one line here and, for each new contender, one function in `contenders.py`.
"""

from typing import NamedTuple

from tests.benchmarks import contenders as by
from tests.benchmarks.contenders import Fn


class Entry(NamedTuple):
    """One contender of a row.

    Attributes:
        package: The distribution that it comes from, whose version is printed.
        protect: What makes a protected function.
        lacks: What the row asks for and this contender does not do.
    """

    package: str
    protect: Fn
    lacks: str = ""

    @property
    def name(self) -> str:
        """What the contender is called in the table."""
        return f"{self.package} ({self.lacks})" if self.lacks else self.package


class Row(NamedTuple):
    """One happy path.

    Attributes:
        title: What is measured.
        target: The ratio to the bare wrapper that ours must not exceed.
        ours: What paintkit offers.
        rivals: The others.
        asynchronous: Whether it is measured on `async def`.
        hit: Whether the function below must not be reached any more once a first call has come back.
    """

    title: str
    target: float
    ours: Entry
    rivals: tuple[Entry, ...]
    asynchronous: bool = False
    hit: bool = False


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


_RETRIES = (
    Entry("nopanic", by.nopanic_retry),
    Entry("backoff", by.backoff_retry),
    Entry("stamina", by.stamina_retry),
    Entry("tenacity", by.tenacity_retry),
)
_BREAKERS = (
    Entry("circuitbreaker", by.circuitbreaker_streak),
    Entry("pybreaker", by.pybreaker_streak),
    Entry("nopanic", by.nopanic_breaker, "a rate over a window, no streak"),
)
_CACHES = (
    Entry("cachebox", by.cachebox_hit, "no tags"),
    Entry("nopanic", by.nopanic_hit, "no tags, types or statistics"),
)
_BLOCKING_CACHES = (*_CACHES, Entry("cachetools", by.cachetools_hit, "no tags"))

_RETRY = Entry("paintkit", by.retry)
_STREAK = Entry("paintkit", by.streak)
_HIT = Entry("paintkit", by.hit)

ROWS: tuple[Row | ImportRow, ...] = (
    Row("retry, def", 1.15, _RETRY, _RETRIES),
    Row("retry, async def", 1.15, _RETRY, _RETRIES, asynchronous=True),
    Row("breaker, streak, def", 1.4, _STREAK, _BREAKERS),
    Row("cache hit: typed key, TTL, tags, statistics, def", 1.6, _HIT, _BLOCKING_CACHES, hit=True),
    Row(
        "cache hit: typed key, TTL, tags, statistics, async def",
        1.15,
        _HIT,
        _CACHES,
        asynchronous=True,
        hit=True,
    ),
    ImportRow(
        "import in a fresh process",
        0.7,
        ("tenacity", "import tenacity"),
        ("import paintkit", "from paintkit import CacheManager, circuit_breaker, retry"),
    ),
)
