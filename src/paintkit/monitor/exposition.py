"""Writes totals in the text format that Prometheus reads, without any dependency."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import inf, isnan
from typing import Literal, NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "Kind", "Sample", "render"]

#: The media type of what `render` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Sample(NamedTuple):
    """One number of a family.

    Attributes:
        labels: What tells it apart from the family's other numbers.
        value: The number; a bool counts as 0 or 1.
        suffix: What follows the family's name, such as `_bucket`.
    """

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """Numbers of one name and meaning.

    Attributes:
        name: Letters, digits and underscores; the unit and, of counters, `_total` at its end.
        kind: How the numbers behave.
        help: What they mean, in a sentence.
        samples: The numbers.
    """

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def render(families: Iterable[Family]) -> str:
    r"""Return the families as text; those of one name are written as one.

    Raises:
        ValueError: A name or a label's name is not one that Prometheus accepts.

    Example:
        >>> family = Family("sales_total", "counter", "Paints sold.", (Sample({"brand": 'Say "A"'}, 3),))
        >>> print(render([family]), end="")
        # HELP sales_total Paints sold.
        # TYPE sales_total counter
        sales_total{brand="Say \"A\""} 3
    """
    merged: dict[str, Family] = {}
    for family in families:
        first = merged.get(family.name)
        merged[family.name] = (
            family if first is None else first._replace(samples=first.samples + family.samples)
        )
    return "".join(line for family in merged.values() for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    name = _checked(family.name)
    if not family.samples:
        return
    yield f"# HELP {name} {_escaped(family.help)}\n"
    yield f"# TYPE {name} {family.kind}\n"
    for labels, value, suffix in family.samples:
        inner = ",".join(f'{_checked(label)}="{_quoted(text)}"' for label, text in labels.items())
        yield (
            f"{name}{suffix}{{{inner}}} {_number(value)}\n" if inner else f"{name}{suffix} {_number(value)}\n"
        )


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
