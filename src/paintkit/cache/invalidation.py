"""What an invalidation concerns, and when something was last invalidated.

Every cached call bears *marks*: everything, its function, itself, and its labels (tags, and the key of a `key_func`).
A target names what is to go: it finds the entries to drop, tells whether a load under way is concerned, and which mark
a unit of work has to call dirty until its commit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from paintkit import ambient

if TYPE_CHECKING:
    from paintkit.cache.memory import Entry, MemoryLevel, Section

__all__ = [
    "EVERYTHING",
    "Everything",
    "Labelled",
    "Ledger",
    "Matching",
    "OfCall",
    "OfFunction",
    "Target",
    "marks_of",
    "next_epoch",
]

#: The mark that every call bears.
EVERYTHING: Final = object()


def marks_of(call: Entry) -> tuple[Hashable, ...]:
    """Return the marks that a call bears."""
    return (EVERYTHING, call.table.section, (call.table, call.subject), *call.labels)


class Target(Protocol):
    """What is to be invalidated."""

    @property
    def mark(self) -> Hashable:
        """The narrowest mark that all calls concerned bear."""
        ...

    def covers(self, call: Entry) -> bool:
        """Whether a call is concerned."""
        ...

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return the entries concerned; they may be removed while this is iterated."""
        ...


class Everything:
    """All that a cache holds."""

    mark: Hashable = EVERYTHING

    def covers(self, call: Entry) -> bool:  # noqa: ARG002 - the protocol's signature
        """Whether a call is concerned: always."""
        return True

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return all entries."""
        return list(level)

    def __str__(self) -> str:
        return "everything"


class Labelled:
    """The calls with one tag, or with one key of a `key_func`."""

    def __init__(self, label: str) -> None:
        self.mark: Hashable = label
        self._label = label

    def covers(self, call: Entry) -> bool:
        """Whether a call bears the label."""
        return self._label in call.labels

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return the entries with the label."""
        return level.labelled(self._label)

    def __str__(self) -> str:
        return self._label


class Matching:
    """The calls with a tag or key that matches a glob."""

    #: Nobody can list the labels that will match, so a unit of work has to take everything for dirty.
    mark: Hashable = EVERYTHING

    def __init__(self, pattern: str) -> None:
        import fnmatch
        import re

        self._pattern = pattern
        self._matches: Callable[[str], object] = re.compile(fnmatch.translate(pattern)).match

    def covers(self, call: Entry) -> bool:
        """Whether a label of the call matches."""
        return any(map(self._matches, call.labels))

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return the entries with a label that matches."""
        return level.matching(self._matches)

    def __str__(self) -> str:
        return self._pattern


class OfFunction:
    """All calls of one function."""

    def __init__(self, section: Section) -> None:
        self.mark: Hashable = section
        self._section = section

    def covers(self, call: Entry) -> bool:
        """Whether the call is one of the function."""
        return call.table.section is self._section

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:  # noqa: ARG002 - the protocol's signature
        """Return the entries of the function."""
        return self._section.entries()

    def __str__(self) -> str:
        return self._section.name


class OfCall:
    """One call of one function, in all its variants."""

    def __init__(self, call: Entry) -> None:
        self.mark: Hashable = (call.table, call.subject)
        self._table = call.table
        self._subject = call.subject

    def covers(self, call: Entry) -> bool:
        """Whether it is that call."""
        return call.table is self._table and call.subject == self._subject

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return the entries of the call."""
        return level.about(self._table, self._subject)

    def __str__(self) -> str:
        return f"one call of {self._table.section.name}"


_counting = threading.Lock()  # guards ambient.process.epoch


def next_epoch() -> int:
    """Begin a new epoch of the process and return it: one for each invalidation that takes effect."""
    with _counting:
        ambient.process.epoch += 1
        return ambient.process.epoch


class Ledger:
    """Remembers when which mark was last invalidated; of long ago only that it was long ago.

    Args:
        capacity: How many marks it remembers one by one (>= 1).
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._epochs: OrderedDict[Hashable, int] = OrderedDict()
        self._horizon = 0

    def note(self, mark: Hashable, epoch: int) -> None:
        """Remember an invalidation."""
        self._epochs[mark] = epoch
        self._epochs.move_to_end(mark)
        if len(self._epochs) > self._capacity:
            _, forgotten = self._epochs.popitem(last=False)
            self._horizon = max(self._horizon, forgotten)

    def noted_since(self, epoch: int, marks: Iterable[Hashable]) -> bool:
        """Whether one of these marks was, or may have been, invalidated after an epoch."""
        return self._horizon > epoch or any(self._epochs.get(mark, 0) > epoch for mark in marks)
