"""The memo: what one request has read of a cache reads the same until it ends, whatever others change meanwhile.

It stands above the memory level, belongs to a context, and is seen by all threads and tasks that work in copies of that
context. What the request itself invalidates or puts is read anew. Loads know nothing of a memo: what they bring is for
everybody, and must not be made of what one request remembers.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from paintkit import ambient

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry, Table
    from paintkit.cache.invalidation import Target
    from paintkit.cache.store import Store

__all__ = ["Memo", "forget", "memo_of", "unremembered"]

_memos: ContextVar[Memo | None] = ContextVar("paintkit.cache.memos", default=None)


class Memo:
    """What was read of one cache since it was opened. It works as a context manager; within another one it does nothing.

    Args:
        store: What is read.
    """

    __slots__ = ("_answers", "_changing", "_outer", "changes", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        #: How often the request has invalidated something.
        self.changes = 0
        self._answers: dict[tuple[Table, Hashable], tuple[Entry, Any]] | None = None
        self._outer: Memo | None = None
        # Re-entrant, since any allocation may run the finaliser of some garbage, which may invalidate something.
        self._changing = threading.RLock()

    def open(self) -> None:
        """Remember from now on what this context reads."""
        if memo_of(self.store) is None:
            self._answers = {}
            self._outer = _memos.get()
            _memos.set(self)
            ambient.detour(+1)

    def close(self) -> None:
        """Forget everything; contexts that were copied meanwhile remember nothing any more."""
        if self._answers is not None:
            self._answers = None
            ambient.detour(-1)
            if _memos.get() is self:
                _memos.set(self._outer)

    def __enter__(self) -> None:
        self.open()

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def find(self, call: Entry) -> tuple[Entry, Any] | None:
        """Return what a call was answered with, and under which labels."""
        answers = self._answers
        return None if answers is None else answers.get(call.address)

    def note(self, call: Entry, value: Any, changes: int) -> None:
        """Remember an answer, unless the request has invalidated anything since it asked."""
        with self._changing:
            answers = self._answers
            if answers is not None and self.changes == changes:
                answers[call.table, call.key] = (call, value)
                if self.changes != changes:  # by a finaliser, just now
                    del answers[call.table, call.key]

    def forget(self, target: Target) -> None:
        """Forget what a target covers."""
        with self._changing:
            self.changes += 1
            answers = self._answers or {}
            for place in [place for place, (call, _) in answers.items() if target.covers(call)]:
                answers.pop(place, None)

    @property
    def closed(self) -> bool:
        """Whether it remembers nothing."""
        return self._answers is None

    @property
    def outer(self) -> Memo | None:
        """The memo, of another cache, that was open before."""
        return self._outer


def memo_of(store: Store) -> Memo | None:
    """Return the open memo of a cache in this context."""
    memo = _memos.get()
    while memo is not None and (memo.store is not store or memo.closed):
        memo = memo.outer
    return memo


def forget(store: Store, target: Target) -> None:
    """Let this context's memo forget what a target covers."""
    if ambient.process.detours:
        memo = memo_of(store)
        if memo is not None:
            memo.forget(target)


@contextmanager
def unremembered() -> Iterator[None]:
    """Run a block in which there is no memo."""
    if _memos.get() is None:
        yield
        return
    token = _memos.set(None)
    try:
        yield
    finally:
        # A coroutine that nobody finished is closed in whatever context the garbage collector runs: not ours to change.
        with suppress(ValueError):
            _memos.reset(token)
