"""What a cache remembers of one call, and in which section and table it stands.

Readers look into a table without a lock. All else happens under the lock of whoever owns the cache.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from paintkit._runtime import Outcome, Success
from paintkit.cache.keeping import KeptError
from paintkit.machines.s3fifo import Node

if TYPE_CHECKING:
    from paintkit.cache.keeping import Keeping
    from paintkit.cache.keys import Identity
    from paintkit.cache.levels import Place
    from paintkit.cache.sharing import Shared
    from paintkit.machines.freshness import Life

__all__ = ["NEVER", "Cause", "Counters", "Entry", "IndexedEntry", "Section", "SharedEntry", "Table"]

#: Why a value is not there (any more), or cannot be served as it is: other processes may have changed it.
Cause = Literal["never", "expired", "invalidated", "evicted", "unverified"]


#: An instant before all others.
NEVER: Final = -math.inf


class Counters:
    """What happened to the calls of one function."""

    __slots__ = (
        "evicted",
        "expired",
        "hits",
        "invalidated",
        "joined",
        "level2_hits",
        "load_errors",
        "load_time",
        "loads",
        "misses",
        "stale",
        "unverified",
    )

    def __init__(self) -> None:
        #: Hits on entries that have left; those on living entries stand in the entries.
        self.hits = 0
        #: Calls that found no fresh value.
        self.misses = 0
        #: Calls answered with a value whose time was over.
        self.stale = 0
        #: Misses of values whose time was over.
        self.expired = 0
        #: Misses of values that had been invalidated.
        self.invalidated = 0
        #: Misses of values that had made room.
        self.evicted = 0
        #: Misses of values of which it was not known whether other processes had changed them.
        self.unverified = 0
        #: Flights that brought a value of the second level, and needed no load.
        self.level2_hits = 0
        #: Misses that waited for somebody else's load.
        self.joined = 0
        #: Loads that returned or raised.
        self.loads = 0
        #: Loads that raised.
        self.load_errors = 0
        #: Seconds spent in loads.
        self.load_time = 0.0

    def count_miss(self, cause: Cause) -> None:
        """Count one call that found no fresh value."""
        self.misses += 1
        if cause != "never":
            setattr(self, cause, getattr(self, cause) + 1)

    def count_load(self, seconds: float, *, failed: bool) -> None:
        """Count one load."""
        self.loads += 1
        self.load_errors += failed
        self.load_time += seconds

    def add(self, other: Counters) -> None:
        """Add the counts of another."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Section:
    """The part of a level that belongs to one function: one table, or one for each receiver of a method."""

    __slots__ = ("__weakref__", "counters", "keeping", "name", "receivers", "shared", "table")

    def __init__(self, name: str, keeping: Keeping, shared: Shared | None = None) -> None:
        self.name = name
        self.keeping = keeping
        #: The function's part in a second level, if it has one.
        self.shared = shared
        self.counters = Counters()
        self.table = Table(self)
        #: The tables of a method by the address of the receiver; a table leaves with its receiver.
        self.receivers: dict[int, Table] = {}

    def tables(self) -> list[Table]:
        """Return all tables."""
        return [self.table, *list(self.receivers.values())]

    def entries(self) -> list[Entry]:
        """Return the entries of all tables."""
        return [entry for table in self.tables() for entry in list(table.entries.values())]

    def totals(self) -> Counters:
        """Return the counts, the hits on living entries included."""
        totals = Counters()
        totals.add(self.counters)
        totals.hits += sum(entry.hits for entry in self.entries())
        return totals


class Table:
    """The entries of one function, or of one method of one object."""

    __slots__ = ("entries", "get", "identity", "section")

    def __init__(self, section: Section, identity: Identity | None = None) -> None:
        self.section = section
        #: Whose method it is, if it is a method.
        self.identity = identity
        self.entries: dict[Hashable, Entry] = {}
        #: The look-up, bound once.
        self.get = self.entries.get


class Entry(Node):
    """One call and, once it is loaded, its value; `hits` counts its uses."""

    __slots__ = ("due", "expires", "key", "kind", "leaves", "loaded", "table", "value")

    #: Whether there is more to find it by than its key. Most have nothing else: what these would say stands in the class.
    indexed: ClassVar[bool] = False
    #: The tags, and the key that a `key_func` made.
    labels: tuple[str, ...] = ()
    #: The objects that the key speaks of by identity.
    identities: tuple[Identity, ...] = ()
    #: The names by which other processes speak of it, if its value is shared.
    names: tuple[str, ...] = ()
    #: Whether word of some changes was lost since it came.
    doubtful: bool = False

    def __init__(self, table: Table, key: Hashable, kind: type | None = None) -> None:
        self.table = table
        #: The arguments of the call, with what else the value depends on.
        self.key = key
        #: The type of the argument, if the key is the bare argument.
        self.kind = kind
        self.value: Any = None
        #: When the value came: an instant of the clock.
        self.loaded = NEVER
        #: Until when the value is served without a thought, is fresh, is of any use: instants of the clock.
        self.due = self.expires = self.leaves = NEVER
        self.hits = self.spent = 0
        self.queue = None

    @property
    def subject(self) -> Hashable:
        """The arguments of the call."""
        return self.key

    @property
    def varies(self) -> bool:
        """Whether the value depends on more than the arguments."""
        return self.key is not self.subject

    @property
    def address(self) -> tuple[Table, Hashable]:
        """The call among all those of a cache."""
        return (self.table, self.key)

    def answer(self) -> Outcome[Any]:
        """Return what a call is answered with."""
        value = self.value
        return value.failure() if value.__class__ is KeptError else Success(value)

    def fill(self, value: Any, now: float, life: Life) -> None:
        """Take the value."""
        self.value = value
        self.loaded = now
        # Most lives have one end: one number for all three is 48 bytes less for each entry.
        self.due = self.expires = self.leaves = now + life.expires
        if not life.plain:
            self.due, self.leaves = now + life.due, now + life.leaves

    def postpone(self, due: float) -> None:
        """Serve it, though it could not be renewed, until an instant."""
        if self.due > NEVER:  # no wrapper serves an error that is kept, nor what is doubtful
            self.due = due

    def fingerprint(self) -> int:
        """Return a number for the key. Two keys of one number cost no more than a wrong guess of popularity."""
        return hash((self.table, self.key))


class IndexedEntry(Entry):
    """A call that is found by more than its key: by labels, by objects, by its arguments in whatever variant.

    Args:
        table: Where it stands.
        subject: The arguments of the call.
        kind: The type of the argument, if the key is the bare argument.
        identities: The objects that the key speaks of by identity.
        variant: What else the value depends on, or `None`.
    """

    __slots__ = ("_subject", "identities", "labels")

    indexed = True

    def __init__(
        self,
        table: Table,
        subject: Hashable,
        kind: type | None = None,
        identities: tuple[Identity, ...] = (),
        variant: Hashable = None,
    ) -> None:
        super().__init__(table, subject if variant is None else (variant, subject), kind)
        self._subject = subject
        self.identities = identities
        self.labels = ()

    @property
    def subject(self) -> Hashable:
        """The arguments of the call."""
        return self._subject


class SharedEntry(IndexedEntry):
    """An entry of a function whose values are shared through a second level.

    Attributes:
        place: Where its value stands there; `None` as long as nobody asked.
        version: The version of its value there; `None` if it is not there.
    """

    __slots__ = ("doubtful", "names", "place", "version")

    def __init__(
        self,
        table: Table,
        subject: Hashable,
        kind: type | None = None,
        identities: tuple[Identity, ...] = (),
        variant: Hashable = None,
    ) -> None:
        super().__init__(table, subject, kind, identities, variant)
        self.place: Place | None = None
        self.version: bytes | None = None
        self.names = ()
        self.doubtful = False

    def settle(self, place: Place, names: tuple[str, ...]) -> None:
        """Note where its value stands for all processes."""
        self.place, self.names = place, names

    def doubt(self) -> None:
        """Let no wrapper serve it until it is confirmed; its time goes on."""
        self.doubtful, self.due = True, NEVER

    def confirm(self) -> None:
        """Take it for what it was before it became doubtful."""
        if self.doubtful:
            self.doubtful = False
            if self.value.__class__ is not KeptError:
                self.due = self.expires
