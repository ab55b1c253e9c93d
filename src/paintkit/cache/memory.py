"""The memory level: all that it takes, beside the entries in their tables, to let go of the right ones.

Everything in here happens under the lock of whoever owns the level.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from paintkit.cache.entries import NEVER, Entry
from paintkit.machines.s3fifo import S3FIFO

if TYPE_CHECKING:
    from paintkit.cache.entries import Cause, Table
    from paintkit.cache.keys import Identity
    from paintkit.cache.oracle import Oracle
    from paintkit.cache.removals import Removals
    from paintkit.cache.reports import RemovalCause
    from paintkit.cache.weights import Weights

__all__ = ["MemoryLevel", "Policy"]

#: Of so many values that left it is remembered why.
_MOST_CAUSES = 4_096


class Policy(Protocol):
    """Decides which entry has to go; an entry that is in has a `queue`, whatever that is."""

    def __iter__(self) -> Iterator[Entry]: ...

    def admit(self, entry: Entry, fingerprint: Hashable, /) -> None:
        """Take in an entry, of this fingerprint, that was never in before."""
        ...

    def remove(self, entry: Entry, /) -> None:
        """Let an entry go that somebody else has no more use for."""
        ...

    def evict(self) -> tuple[Entry, bool]:
        """Let the entry go that is the least likely to be used again; return it, and whether it is remembered."""
        ...

    def remembers(self, fingerprint: Hashable, /) -> bool:
        """Whether an entry that was evicted is remembered."""
        ...


class MemoryLevel:
    """Entries, bounded in number, in time and, if they have weights, in weight.

    Args:
        maxsize: How many entries it holds at most (>= 1).
        removals: Where to note what leaves.
        oracle: Decides what has to go, and wants to know of hits; `None`: S3-FIFO, which counts them in the entries.
        weights: What the values weigh.
    """

    def __init__(
        self, maxsize: int, removals: Removals, oracle: Oracle | None = None, weights: Weights | None = None
    ) -> None:
        #: How many entries it holds at most.
        self.maxsize = maxsize
        #: What the values weigh, if that is bounded.
        self.weights = weights
        #: What a hit has to be noted with, beside its count; needs no lock.
        self.note: Callable[[Entry], object] | None = None if oracle is None else oracle.note
        self._policy: Policy = S3FIFO[Entry]() if oracle is None else oracle
        self._removals = removals
        self._count = 0
        # Entries of one span leave in the order in which they came. Those that left early are skipped.
        self._queues: dict[float, deque[Entry]] = {}
        self._queued = 0
        self._soonest = math.inf  # nothing leaves before
        self._by_label: dict[str, set[Entry]] = {}
        self._by_identity: dict[Identity, set[Entry]] = {}
        self._by_subject: dict[tuple[Table, Hashable], set[Entry]] = {}
        self._by_name: dict[str, set[Entry]] = {}
        # What the values that left hold on to may run code when it is freed, which must not happen under the lock.
        self._waste: list[Any] = []
        self._causes: OrderedDict[Hashable, Cause] = OrderedDict()
        self.evictions = 0
        self.expirations = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._policy)

    def touch(self, entry: Entry) -> None:
        """Count a hit; needs no lock. The generated wrappers do the same in place."""
        entry.hits += 1
        if self.note is not None:
            self.note(entry)

    def add(self, entry: Entry, now: float, span: float | None, weight: int = 0) -> None:
        """Take in an entry in place of the one with its key, and let go of what has to make room for it.

        Args:
            entry: It has its value.
            now: An instant of the clock.
            span: What its life is booked under, see `Life`.
            weight: What it weighs: no more than all may.
        """
        if now >= self._soonest:
            self.sweep(now)
        table, key = entry.table, entry.key
        former = table.get(key)
        if former is not None:
            self.remove(former, "replaced")
        while self._count >= self.maxsize:
            self._evict()
        weights = self.weights
        if weights is not None:
            while weights.lack_room(weight):
                self._evict()
            weights.take_in(entry, weight)
        fingerprint = hash((table, key))
        self._policy.admit(entry, fingerprint)
        if self._causes:
            self._causes.pop(fingerprint, None)
        self._count += 1
        if entry.indexed:
            self._index(entry)
        if span is not None:
            self._book(entry, span)
        table.entries[key] = entry  # last: from here on it is served

    def _evict(self) -> None:
        """Let go of the entry that is the least likely to be used again."""
        leaving, remembered = self._policy.evict()
        if not remembered:
            self._note_cause(leaving, "evicted")
        self._unlink(leaving, "evicted")
        self.evictions += 1

    def _book(self, entry: Entry, span: float) -> None:
        """Note when an entry leaves."""
        queue = self._queues.get(span)
        if queue is None:
            queue = self._queues[span] = deque()
        self._soonest = min(self._soonest, entry.leaves)
        queue.append(entry)
        self._queued += 1

    def remove(self, entry: Entry, cause: RemovalCause) -> None:
        """Let an entry go, if it is still in."""
        if entry.queue is not None:
            self._policy.remove(entry)
            if cause != "collected":
                self._note_cause(entry, "expired" if cause == "replaced" else cause)
            self._unlink(entry, cause)

    def cause_of(self, address: tuple[Table, Hashable]) -> Cause:
        """Return why a call has no value: `never` also if that was too long ago to remember."""
        fingerprint = hash(address)
        if self._policy.remembers(fingerprint):
            return "evicted"
        return self._causes.get(fingerprint, "never")

    def sweep(self, now: float) -> None:
        """Let go of what is past its time."""
        for span, queue in list(self._queues.items()):
            while queue and (queue[0].queue is None or queue[0].leaves <= now):
                entry = queue.popleft()
                self._queued -= 1
                if entry.queue is not None:
                    self.remove(entry, "expired")
                    self.expirations += 1
            if not queue:
                del self._queues[span]
        self._soonest = min((queue[0].leaves for queue in self._queues.values()), default=math.inf)

    def take_waste(self) -> list[Any]:
        """Return the values that left since the last time, for the caller to let go outside the lock."""
        waste = self._waste
        if waste:
            self._waste = []
        return waste

    def labelled(self, label: str) -> list[Entry]:
        """Return the entries with a label."""
        return list(self._by_label.get(label, ()))

    def named(self, name: str) -> list[Entry]:
        """Return the entries of which other processes speak by a name."""
        return list(self._by_name.get(name, ()))

    def matching(self, matches: Callable[[str], object]) -> list[Entry]:
        """Return the entries with a label that matches."""
        return list(
            {entry for label, entries in self._by_label.items() if matches(label) for entry in entries}
        )

    def speaking_of(self, identity: Identity) -> list[Entry]:
        """Return the entries whose key speaks of an object."""
        return list(self._by_identity.get(identity, ()))

    def about(self, table: Table, subject: Hashable) -> list[Entry]:
        """Return the entries of a call with these arguments, in all variants."""
        entry = table.get(subject)
        varied = self._by_subject.get((table, subject), ())
        return list(varied) if entry is None else [entry, *varied]

    def _index(self, entry: Entry) -> None:
        """Note an entry under all that it can be found by, beside its key."""
        for label in entry.labels:
            self._by_label.setdefault(label, set()).add(entry)
        for identity in entry.identities:
            self._by_identity.setdefault(identity, set()).add(entry)
        for name in entry.names:
            self._by_name.setdefault(name, set()).add(entry)
        if entry.varies:
            self._by_subject.setdefault((entry.table, entry.subject), set()).add(entry)

    def _note_cause(self, entry: Entry, cause: Cause) -> None:
        """Remember why an entry leaves; of what the policy remembers it is known."""
        self._causes[entry.fingerprint()] = cause
        if len(self._causes) > _MOST_CAUSES:
            self._causes.popitem(last=False)

    def _unlink(self, entry: Entry, cause: RemovalCause) -> None:
        """Take out of all books what the policy has let go."""
        self._count -= 1
        self._removals.note(entry, cause)
        if self.weights is not None:
            self.weights.let_go(entry)
        table, key = entry.table, entry.key
        if table.get(key) is entry:
            del table.entries[key]
        table.section.counters.hits += entry.hits
        # In this order: a reader takes the value first and looks at the time afterwards.
        entry.due = entry.expires = NEVER
        self._waste.append(entry.value)
        entry.value = None
        if entry.indexed:
            self._unindex(entry)
        if self._queued > 2 * self._count + 64:
            self._compact()

    def _unindex(self, entry: Entry) -> None:
        if entry.labels:
            _discard(self._by_label, entry.labels, entry)
        if entry.identities:
            _discard(self._by_identity, entry.identities, entry)
        if entry.names:
            _discard(self._by_name, entry.names, entry)
        if entry.varies:
            _discard(self._by_subject, ((entry.table, entry.subject),), entry)

    def _compact(self) -> None:
        """Drop those that left early, for they outnumber those that are in."""
        for span, queue in self._queues.items():
            self._queues[span] = deque([entry for entry in queue if entry.queue is not None])
        self._queued = sum(map(len, self._queues.values()))


def _discard(index: dict[Any, set[Entry]], names: Iterable[Hashable], entry: Entry) -> None:
    for name in names:
        entries = index.get(name)
        if entries is not None:
            entries.discard(entry)
            if not entries:
                del index[name]
