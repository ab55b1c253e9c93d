"""A log-linear histogram of durations: any number of them in little memory, every quantile within 0.8 %, merged by adding.

Each octave (from one power of two to the next) is cut into 64 buckets of equal width, so a bucket is narrow where
durations are short and wide where they are long: at most 1/64 of what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, frexp, inf, isfinite, ldexp
from typing import TYPE_CHECKING, TypedDict

from paintkit._locks import new_lock

if TYPE_CHECKING:
    from paintkit.telemetry import HistogramSnapshot

__all__ = ["Histogram", "Metrics", "count_within", "quantile", "since", "summary"]

_PER_OCTAVE = 64
_PER_MANTISSA = 128.0  # frexp gives mantissas from 0.5 to 1: one octave is half of that range
# Nothing that a clock can tell apart is shorter; what is, counts as this. And nobody waits for 30,000 years.
_SHORTEST, _LONGEST = 1e-9, 1e12
# The buckets of these two.
_FIRST, _LAST = (
    exponent * _PER_OCTAVE + ceil(m * _PER_MANTISSA) for m, exponent in map(frexp, (_SHORTEST, _LONGEST))
)


class Metrics(TypedDict):
    """What is known of the durations recorded under one name; times in seconds.

    Attributes:
        count: How many were recorded.
        total_time: Their sum.
        min_time: The shortest; 0 if there is none.
        max_time: The longest; 0 if there is none.
        avg_time: Their mean; 0 if there is none.
        errors: How many of them ended with an error.
        error_rate: Errors by count, from 0 to 1.
        p50: The median, within 0.8 %.
        p90: The time within which 90 % were done, within 0.8 %.
        p95: The same for 95 %.
        p99: The same for 99 %.
    """

    count: int
    total_time: float
    min_time: float
    max_time: float
    avg_time: float
    errors: int
    error_rate: float
    p50: float
    p90: float
    p95: float
    p99: float


class Histogram:
    """Durations and errors of one thing, recorded from any thread.

    Example:
        >>> histogram = Histogram()
        >>> for milliseconds in range(1, 101):
        ...     histogram.record(milliseconds / 1000)
        >>> metrics = histogram.metrics()
        >>> metrics["count"], round(metrics["p95"], 3)
        (100, 0.095)
    """

    __slots__ = ("_buckets", "_errors", "_lock", "_longest", "_shortest", "_total")

    def __init__(self) -> None:
        self._lock = new_lock()  # guards all of it
        self._buckets: dict[int, int] = {}
        self._errors = 0
        self._total = 0.0
        self._shortest = inf
        self._longest = 0.0

    def record(self, seconds: float, error: BaseException | None = None) -> None:
        """Add one duration, and the error that it ended with, if any.

        Raises:
            TypeError: `seconds` is no number.
            ValueError: `seconds` is negative, not a number, or longer than 10^12.
        """
        try:
            fits = 0.0 <= seconds <= _LONGEST
        except TypeError:
            raise TypeError(f"seconds must be a number, not {seconds!r} ({type(seconds).__name__})") from None
        if not fits:
            raise ValueError(f"seconds must be from 0 to {_LONGEST:g}, not {seconds!r}")
        mantissa, exponent = frexp(seconds if seconds > _SHORTEST else _SHORTEST)  # noqa: FURB136 - `max` costs a call
        bucket = exponent * _PER_OCTAVE + ceil(mantissa * _PER_MANTISSA)
        with self._lock:
            self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
            self._total += seconds
            if seconds < self._shortest:  # noqa: PLR1730 - `min` costs a call
                self._shortest = seconds
            if seconds > self._longest:  # noqa: PLR1730 - `max` costs a call
                self._longest = seconds
            if error is not None:
                self._errors += 1

    def merge(self, other: HistogramSnapshot) -> None:
        """Add what another histogram has recorded.

        Raises:
            ValueError: `other` is no snapshot of a histogram.
        """
        _check(other)
        with self._lock:
            for number, count in other["buckets"].items():
                self._buckets[int(number)] = self._buckets.get(int(number), 0) + count
            self._total += other["total"]
            self._errors += other["errors"]
            if other["count"]:
                self._shortest = min(self._shortest, other["shortest"])
                self._longest = max(self._longest, other["longest"])

    def snapshot(self) -> HistogramSnapshot:
        """Return all of it as plain data."""
        with self._lock:
            buckets = sorted(self._buckets.items())
            total, errors, shortest, longest = self._total, self._errors, self._shortest, self._longest
        return {
            "count": sum(count for _, count in buckets),
            "total": total,
            "shortest": shortest if buckets else 0.0,
            "longest": longest,
            "errors": errors,
            "buckets": {str(number): count for number, count in buckets},
        }

    def metrics(self) -> Metrics:
        """Return the summary of it."""
        return summary(self.snapshot())


def summary(snapshot: HistogramSnapshot) -> Metrics:
    """Return the summary of a snapshot."""
    count, total, errors = snapshot["count"], snapshot["total"], snapshot["errors"]
    return {
        "count": count,
        "total_time": total,
        "min_time": snapshot["shortest"],
        "max_time": snapshot["longest"],
        "avg_time": total / count if count else 0.0,
        "errors": errors,
        "error_rate": errors / count if count else 0.0,
        "p50": quantile(snapshot, 0.5),
        "p90": quantile(snapshot, 0.9),
        "p95": quantile(snapshot, 0.95),
        "p99": quantile(snapshot, 0.99),
    }


def quantile(snapshot: HistogramSnapshot, q: float) -> float:
    """Return the duration that a share `q` (0 to 1) of all does not exceed, within 1/128 of it; 0 if there is none."""
    rank = max(1, ceil(q * snapshot["count"]))
    for number, count in snapshot["buckets"].items():
        rank -= count
        if rank <= 0:
            middle = (_upper_edge(int(number) - 1) + _upper_edge(int(number))) / 2
            return min(max(middle, snapshot["shortest"]), snapshot["longest"])
    return 0.0


def count_within(snapshot: HistogramSnapshot, octave: int) -> int:
    """Return how many durations are at most `2 ** octave` seconds, exactly."""
    last = (octave + 2) * _PER_OCTAVE
    return sum(count for number, count in snapshot["buckets"].items() if int(number) <= last)


def since(snapshot: HistogramSnapshot, earlier: HistogramSnapshot | None) -> Iterator[tuple[float, int]]:
    """Return what was recorded after an earlier snapshot of the same: durations, within 1/128, and how many of each."""
    before = {} if earlier is None else earlier["buckets"]
    for number, count in snapshot["buckets"].items():
        fresh = count - before.get(number, 0)
        if fresh > 0:
            yield (_upper_edge(int(number) - 1) + _upper_edge(int(number))) / 2, fresh


def _upper_edge(bucket: int) -> float:
    """The longest duration that falls into a bucket: the inverse of what `record` computes."""
    octave, step = divmod(bucket - 1, _PER_OCTAVE)
    return ldexp((step + _PER_OCTAVE + 1) / _PER_MANTISSA, octave - 1)


def _check(snapshot: HistogramSnapshot) -> None:
    try:
        counts = [snapshot["count"], snapshot["errors"], *snapshot["buckets"].values()]
        times = [snapshot["total"], snapshot["shortest"], snapshot["longest"]]
        sound = (
            all(type(count) is int and count >= 0 for count in counts)
            and all(isfinite(time) and time >= 0 for time in times)
            and snapshot["count"] == sum(snapshot["buckets"].values())
            and all(_FIRST <= int(number) <= _LAST for number in snapshot["buckets"])
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a snapshot of a histogram: {error!r}") from error
    if not sound:
        raise ValueError("not a snapshot of a histogram: its numbers contradict each other")
