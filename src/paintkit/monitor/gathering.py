"""Asks sources for their metrics and puts them together: the one way in which numbers reach any exporter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from paintkit.histogram import Histogram
from paintkit.monitor import exposition
from paintkit.telemetry import HistogramSnapshot, Metric, Sample, Source

__all__ = ["OTHER", "checked", "everyone", "gather"]

#: The name under which everything is put for which there was no room.
OTHER: Final = "__other__"

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")

_FAILED: Final = Metric(
    "paintkit.telemetry.failed", "gauge", "", "Sources that could not be read.", (Sample({}, 0),)
)

_Labels = tuple[tuple[str, str], ...]
_Value = float | HistogramSnapshot


def gather(sources: Iterable[Source], *, max_values: int = 1_000) -> list[Metric]:
    """Return the metrics of all sources, each name once.

    A source that several others hold is asked once. Numbers of one metric with the same labels add up. A source that
    raises, or tells what is no metric, is logged, left out, and counted in `paintkit.telemetry.failed`; so is one whose metric
    Prometheus would take for another that was told before: `a.b_c` for `a.b.c`.

    Args:
        sources: Whom to ask, in an order that stays: the first values of a label are those that are kept.
        max_values: How many values of one label of one metric are told apart (>= 1); the rest are `"__other__"`.
    """
    gathering = _Gathering(max_values)
    for source in sources:
        gathering.ask(source)
    return gathering.metrics()


def everyone(sources: Iterable[Source]) -> tuple[Source, ...]:
    """Return the sources and all those that they hold, each once."""
    gathering = _Gathering(1)
    for source in sources:
        gathering.ask(source)
    return tuple(gathering.asked.values())


def checked(sources: Iterable[object]) -> tuple[Source, ...]:
    """Return the sources as they are.

    Raises:
        TypeError: One of them has no `telemetry()`.
    """
    found = []
    for source in sources:
        if not isinstance(source, Source):
            raise TypeError(
                f"a source must have telemetry(), as every primitive has, which a {type(source).__name__} has not;"
                " pass several one after the other: (cache, recovery)"
            )
        found.append(source)
    return tuple(found)


class _Gathering:
    """What has been told so far."""

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self.asked: dict[int, Source] = {}  # holds them: the id of what is gone is given to another
        self._heads: dict[str, Metric] = {}
        self._numbers: dict[str, dict[_Labels, _Value]] = {}
        self._values: dict[tuple[str, str], set[str]] = {}
        self._owners: dict[str, str] = {}  # whose the names are that Prometheus knows
        self._failed = 0
        self._take(_FAILED, self)

    def ask(self, source: Any) -> None:
        """Take what a source tells, and ask those that it holds."""
        if id(source) in self.asked:
            return
        self.asked[id(source)] = source
        try:
            told = list(source.telemetry())
        except Exception as error:  # noqa: BLE001 - one source must not hide the others
            self._fail(source, error)
            return
        for one in told:
            if isinstance(one, Metric):
                self._take(one, source)
            else:
                self.ask(one)

    def metrics(self) -> list[Metric]:
        """Return it all."""
        self._numbers[_FAILED.name][()] = _sum(self._numbers[_FAILED.name][()], self._failed)
        self._heads[_FAILED.name] = self._heads.pop(_FAILED.name)  # the last of all
        return [
            head._replace(
                samples=tuple(Sample(dict(labels), value) for labels, value in self._numbers[name].items())
            )
            for name, head in self._heads.items()
        ]

    def _take(self, metric: Metric, source: object) -> None:
        try:
            _check(metric, self._heads.get(metric.name, metric))
            names = self._unclaimed(metric)
            told = [(self._bounded(metric.name, labels), value) for labels, value in metric.samples]
        except Exception as error:  # noqa: BLE001 - as above: whatever a source makes up
            self._fail(source, error)
            return
        self._heads.setdefault(metric.name, metric)
        self._owners |= names
        numbers = self._numbers.setdefault(metric.name, {})  # a metric may have none
        for labels, value in told:
            numbers[labels] = _sum(numbers[labels], value) if labels in numbers else value

    def _unclaimed(self, metric: Metric) -> dict[str, str]:
        """Return the names that a metric takes in Prometheus, if none of them is another's."""
        names = dict.fromkeys(exposition.reserved(metric), metric.name)
        for name in names:
            owner = self._owners.get(name, metric.name)
            if owner != metric.name:
                raise ValueError(
                    f"{metric.name} and {owner} are both {name} in Prometheus: rename one of them"
                )
        return names

    def _bounded(self, name: str, labels: Mapping[str, str]) -> _Labels:
        return tuple((label, self._value(name, label, _text(labels[label]))) for label in sorted(labels))

    def _value(self, name: str, label: str, value: str) -> str:
        known = self._values.setdefault((name, label), set())
        if value not in known and len(known) >= self._max_values:
            return OTHER
        known.add(value)
        return value

    def _fail(self, source: object, error: Exception) -> None:
        import logging

        self._failed += 1
        logging.getLogger("paintkit.monitor").error(
            "the metrics of %r cannot be read", source, exc_info=error
        )


def _check(metric: Metric, first: Metric) -> None:
    for name in (metric.name, *(label for sample in metric.samples for label in sample.labels)):
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a name for a metric or a label: {name!r}")
    for sample in metric.samples:
        spellings = {exposition.spelt(label) for label in sample.labels}
        if len(spellings) < len(sample.labels):
            raise ValueError(f"labels of {metric.name} are one in Prometheus: {sorted(sample.labels)}")
        if metric.kind == "histogram" and "le" in spellings:
            raise ValueError(f"{metric.name} is a histogram, whose label 'le' is the bound of a bucket")
    if (metric.kind, metric.unit) != (first.kind, first.unit):
        raise ValueError(
            f"{metric.name} is a {metric.kind} in {metric.unit!r} here and a {first.kind} in {first.unit!r} elsewhere"
        )
    wanted = Mapping if metric.kind == "histogram" else int | float
    for sample in metric.samples:
        if not isinstance(sample.value, wanted):
            raise ValueError(f"{metric.name} is a {metric.kind}, which {sample.value!r} is not")
        if isinstance(sample.value, Mapping):
            Histogram().merge(sample.value)  # which refuses what is none


def _sum(one: _Value, other: _Value) -> _Value:
    if isinstance(one, dict) and isinstance(other, dict):
        together = Histogram()
        together.merge(one)
        together.merge(other)
        return together.snapshot()
    return one + other  # type: ignore[operator]  # `_check` saw that both are of one kind


def _text(value: object) -> str:
    """A label's value as text that can be encoded."""
    return str(value).encode("utf-8", "backslashreplace").decode()
