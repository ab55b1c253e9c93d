"""Metrics as Prometheus spells them, and as the text that it reads, without any dependency."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import inf, isnan
from typing import TYPE_CHECKING, Final, NamedTuple

from paintkit import histogram

if TYPE_CHECKING:
    from paintkit.telemetry import HistogramSnapshot, Metric

__all__ = ["CONTENT_TYPE", "Point", "points", "prometheus_name", "render", "reserved", "spelt"]

#: The media type of what `render` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_UNITS: Final = {"s": "seconds", "By": "bytes"}

# The bounds of histograms, as powers of two, at which they count exactly: 0.12 ms to 32 s.
_OCTAVES: Final = range(-13, 6)


class Point(NamedTuple):
    """One line of a metric in Prometheus' form.

    Attributes:
        suffix: What follows the metric's name: `""`, `"_bucket"`, `"_sum"` or `"_count"`.
        labels: The labels, as Prometheus spells their names.
        value: The number.
    """

    suffix: str
    labels: Mapping[str, str]
    value: float


def prometheus_name(metric: Metric) -> str:
    """Return the metric's name as OpenTelemetry translates it for Prometheus: with its unit, counters with `_total`, once.

    Example:
        >>> from paintkit.telemetry import Metric
        >>> prometheus_name(Metric("paintkit.cache.load_time", "counter", "s", "Time spent in loads.", ()))
        'paintkit_cache_load_time_seconds_total'
    """
    unit, total = _UNITS.get(metric.unit, ""), "total" if metric.kind == "counter" else ""
    name = spelt(metric.name)
    if total:
        name = name.removesuffix("_total")
    if unit:
        name = name.removesuffix(f"_{unit}")
    return "_".join(filter(None, [name, unit, total]))


def reserved(metric: Metric) -> Iterator[str]:
    """Return the names that the metric takes in Prometheus: its own, those of its lines, and that of a counter's family.

    Example:
        >>> from paintkit.telemetry import Metric
        >>> list(reserved(Metric("studio.sales", "counter", "", "Paints sold.", ())))
        ['studio_sales_total', 'studio_sales']
    """
    name = prometheus_name(metric)
    yield name
    if metric.kind == "counter":
        yield name.removesuffix("_total")
    elif metric.kind == "histogram":
        yield from (name + suffix for suffix in ("_bucket", "_sum", "_count"))


def points(metric: Metric) -> Iterator[Point]:
    """Return the numbers of a metric; a histogram's as counts within bounds, which add up over processes."""
    for given, value in metric.samples:
        labels = {spelt(label): text for label, text in given.items()}
        if isinstance(value, Mapping):
            yield from _buckets(labels, value)
        else:
            yield Point("", labels, value)


def render(metrics: Iterable[Metric]) -> str:
    r"""Return metrics, each name once, as text.

    Raises:
        ValueError: A name or a label's name is not one that Prometheus accepts.

    Example:
        >>> from paintkit.telemetry import Metric, Sample
        >>> metric = Metric("studio.sales", "counter", "", "Paints sold.", (Sample({"brand": 'Say "A"'}, 3),))
        >>> print(render([metric]), end="")
        # HELP studio_sales_total Paints sold.
        # TYPE studio_sales_total counter
        studio_sales_total{brand="Say \"A\""} 3
    """
    return "".join(line for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    name = _checked(prometheus_name(metric))
    if not metric.samples:
        return
    yield f"# HELP {name} {_escaped(metric.help)}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    for suffix, labels, value in points(metric):
        inner = ",".join(f'{_checked(label)}="{_quoted(text)}"' for label, text in labels.items())
        yield f"{name}{suffix}{f'{{{inner}}}' if inner else ''} {_number(value)}\n"


def _buckets(labels: Mapping[str, str], snapshot: HistogramSnapshot) -> Iterator[Point]:
    for octave in _OCTAVES:
        bound = {**labels, "le": repr(2.0**octave)}
        yield Point("_bucket", bound, histogram.count_within(snapshot, octave))
    yield Point("_bucket", {**labels, "le": "+Inf"}, snapshot["count"])
    yield Point("_sum", labels, snapshot["total"])
    yield Point("_count", labels, snapshot["count"])


def spelt(name: str) -> str:
    """Return words between dots as Prometheus spells them."""
    return name.replace(".", "_")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a metric or a label: {name!r}")
    return name


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value + 0)
