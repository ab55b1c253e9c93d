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
    from paintkit.cache.entries import Entry, Section
    from paintkit.cache.levels import Place
    from paintkit.cache.memory import MemoryLevel

__all__ = [
    "EVERYTHING",
    "SHARED",
    "Everything",
    "Labelled",
    "Ledger",
    "Matching",
    "OfCall",
    "OfFunction",
    "OfPlace",
    "Target",
    "marks_of",
    "next_epoch",
]

#: The mark that every call bears.
EVERYTHING: Final = object()

#: The mark that every call bears that another process may have invalidated: by its place, or by a label.
SHARED: Final = object()


def marks_of(call: Entry) -> tuple[Hashable, ...]:
    """Return the marks that a call bears."""
    marks = (EVERYTHING, call.table.section, (call.table, call.subject), *call.labels)
    return (*marks, SHARED, *map(_at, call.names)) if call.names or call.labels else marks


def _at(name: str) -> Hashable:
    return ("at", name)  # no label is called so


class Target(Protocol):
    """What is to be invalidated."""

    @property
    def mark(self) -> Hashable:
        """The narrowest mark that all calls concerned bear."""
        ...

    @property
    def changes(self) -> tuple[Place | str, ...]:
        """What to drop in a second level."""
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
    changes: tuple[Place | str, ...] = ("all",)

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
        self.changes: tuple[Place | str, ...] = (f"t:{label}",)
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
    #: No second level knows what matches.
    changes: tuple[Place | str, ...] = ()

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
        self.changes: tuple[Place | str, ...] = () if section.shared is None else (section.shared.mark,)
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
    """One call of one function that is kept in memory only, in all its variants."""

    changes: tuple[Place | str, ...] = ()

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


class OfPlace:
    """One call of one function whose values are shared, on whatever object and, by that name, in all its variants.

    Args:
        name: By which processes speak of it.
        changes: What to drop in the second level; nothing if word of it comes from there.
    """

    def __init__(self, name: str, changes: tuple[Place | str, ...] = ()) -> None:
        self.mark: Hashable = _at(name)
        self.changes = changes
        self._name = name

    def covers(self, call: Entry) -> bool:
        """Whether it is that call."""
        return self._name in call.names

    def entries(self, level: MemoryLevel) -> Iterable[Entry]:
        """Return the entries of the call."""
        return level.named(self._name)

    def __str__(self) -> str:
        return self._name


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
