"""What primitives know of themselves in numbers, in the one form that every exporter reads.

Nothing is counted for an exporter: a *source* reads its own machines when it is asked. Names are those of OpenTelemetry,
words between dots; Prometheus' spelling follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

__all__ = ["Entry", "HistogramSnapshot", "Kind", "Metric", "Sample", "Source", "Table"]

Kind = Literal["counter", "gauge", "histogram"]


class HistogramSnapshot(TypedDict):
    """A histogram as plain data, ready for JSON; `buckets` holds counts by bucket number, written as a string."""

    count: int
    total: float
    shortest: float
    longest: float
    errors: int
    buckets: dict[str, int]


class Sample(NamedTuple):
    """One number of a metric.

    Attributes:
        labels: What tells it apart from the metric's other numbers.
        value: The number (a bool counts as 0 or 1), or all of a histogram.
    """

    labels: Mapping[str, str]
    value: float | HistogramSnapshot


class Metric(NamedTuple):
    """Numbers of one name and meaning. Those with the same labels add up: over caches of one name, over processes.

    Attributes:
        name: Words of lower-case letters, digits and underscores between dots: `"studio.queue.waiting"`.
        kind: A `counter` only grows, a `gauge` is what there is at this moment, a `histogram` holds durations.
        unit: `"s"`, `"By"` (bytes), `""`, or what is counted in braces: `"{connection}"`.
        help: What the numbers mean, in a sentence.
        samples: The numbers.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    samples: tuple[Sample, ...]


@runtime_checkable
class Source(Protocol):
    """What tells metrics: every primitive, and whatever else has this method.

    Example:
        >>> class Queue:
        ...     def telemetry(self):
        ...         yield Metric("studio.queue.waiting", "gauge", "{job}", "Jobs that wait.", (Sample({}, 3),))
        >>> isinstance(Queue(), Source)
        True
    """

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it knows at this moment, and the sources that it holds; each of those is asked once."""
        ...


class Entry(NamedTuple):
    """How one entry of a primitive's statistics is called outside; see `Metric`."""

    key: str
    name: str
    kind: Kind
    unit: str
    help: str
    labels: Mapping[str, str] = MappingProxyType({})


class Table:
    """How the statistics of one kind of primitive are called outside.

    Args:
        label: The label that holds a primitive's name.
        entries: The metrics, in order.
    """

    def __init__(self, label: str, *entries: Entry) -> None:
        self.label = label
        self.entries = entries

    def read(self, name: str, stats: Mapping[str, Any]) -> Iterator[Metric]:
        """Return the statistics of the primitive of that name; what it does not know is left out."""
        for key, metric, kind, unit, text, labels in self.entries:
            value = stats.get(key)
            if value is not None:
                yield Metric(metric, kind, unit, text, (Sample({self.label: name, **labels}, value),))
