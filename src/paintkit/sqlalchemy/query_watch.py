"""What runs once for each row in production, found by looking at a few requests, and told once in a while."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from typing_extensions import override

from paintkit import _arguments, clock, observations
from paintkit._locks import new_lock
from paintkit._tally import Tally
from paintkit.backoff import shared_rng
from paintkit.sqlalchemy.queries import Repetition, query_guard, watch

if TYPE_CHECKING:
    from random import Random

    from paintkit.sqlalchemy.queries import _Record
    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["QueryWatch"]

_LOG: Final = logging.getLogger("paintkit.sqlalchemy")

# Statements of one block that are kept, and lines that are remembered: what is bounded cannot leak.
_MOST_STATEMENTS: Final = 5_000
_MOST_SITES: Final = 1_000


class QueryWatch:
    """Looks at a sample of blocks of code for statements that run once for each row, and tells of them: for production.

    A line is told of when `repeat_threshold` of its statements are alike, as `query_guard` sees it, and take `min_seconds`
    together; then not again within `every`. It is told as a warning of the logger `paintkit.sqlalchemy` and as the
    observation `query_watch.repetition`, with `kind`, `sql`, `site`, `times`, `seconds`, `fix` and `block`. No block is ever
    failed by it.

    It listens from its construction until `close()`. That costs every statement of the process the call of two listeners,
    and those of the blocks that it looks at a walk up the stack; without a watch, nothing listens.

    Args:
        sample: The share of blocks to look at, above 0 and at most 1.
        repeat_threshold: How many statements that are alike are too many, at least 2.
        min_seconds: How long they have to take together, in seconds or as a timedelta; 0 tells of all.
        every: How long to be silent about a line after it was told of, in seconds or as a timedelta.
        name: What observations call it.
        rng: Chooses the sample; for tests.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.

    Example:
        >>> with QueryWatch(sample=1.0) as queries, queries.block("nightly report"):
        ...     pass
    """

    def __init__(
        self,
        *,
        sample: float = 0.01,
        repeat_threshold: int = 5,
        min_seconds: Seconds = 0.05,
        every: Seconds = 3600.0,
        name: str = "queries",
        rng: Random | None = None,
    ) -> None:
        #: What observations call it.
        self.name = _arguments.label("name", name)
        self._sample = _arguments.ratio("sample", sample)
        self._threshold = _arguments.count("repeat_threshold", repeat_threshold, least=2)
        self._min_seconds = _arguments.seconds("min_seconds", min_seconds, zero=True)
        self._every = _arguments.seconds("every", every)
        self._rng = rng
        self._lock = new_lock()  # guards the two below
        self._told: OrderedDict[str, float] = OrderedDict()  # when a line was told of, oldest first
        self._tally = Tally("blocks", "found", "told")
        self._listens = True
        watch(+1)

    @contextmanager
    def block(self, name: str = "") -> Iterator[None]:
        """Look at a block, if it is chosen: a request, a job, a unit of work.

        Args:
            name: What the report calls it.
        """
        guard = self.begin()
        try:
            yield
        finally:
            self.end(guard, name)

    def begin(self) -> query_guard | None:
        """Begin a block that ends elsewhere, with `end`; `None` if it is not chosen."""
        if not self._listens or (self._rng or shared_rng()).random() >= self._sample:
            return None
        return _Sample(lazy_threshold=self._threshold, repeat_threshold=self._threshold).__enter__()

    def end(self, guard: query_guard | None, name: str = "") -> None:
        """End what `begin` began, and tell what was found."""
        if guard is None:
            return
        guard.close()
        self._tally.add("blocks")
        for one in guard.repetitions:
            if one.seconds < self._min_seconds:
                continue
            self._tally.add("found")
            if self._is_news(one.site):
                self._tell(one, name)

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        return _catalogue.QUERY_WATCH.read(self.name, self._tally.read())

    def close(self) -> None:
        """Stop looking; a second call does nothing."""
        with self._lock:
            listened, self._listens = self._listens, False
        if listened:
            watch(-1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _is_news(self, site: str) -> bool:
        now = clock.now()
        with self._lock:
            told = self._told.get(site)
            if told is not None and now < told + self._every:
                return False
            self._told[site] = now
            self._told.move_to_end(site)
            if len(self._told) > _MOST_SITES:
                self._told.popitem(last=False)
            return True

    def _tell(self, one: Repetition, block: str) -> None:
        self._tally.add("told")
        _LOG.warning("%s: %s (%.0f ms)", block or self.name, one, one.seconds * 1000)
        observations.emit("query_watch.repetition", self.name, block=block, **one._asdict())


class _Sample(query_guard):
    """A guard that remembers so many statements and no more."""

    @override
    def note(self, record: _Record) -> None:
        if len(self._records) < _MOST_STATEMENTS:
            super().note(record)
