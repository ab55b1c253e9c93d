"""Locks that a forked child finds open, whoever held them in the parent at that moment.

A thread that holds a lock while another thread forks does not exist in the child, and would never let go. Our locks guard
a few statements each, without user code or I/O among them; what such a moment can leave behind is a count that is one off.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

__all__ = ["new_lock"]

_locks: WeakSet[threading.Lock] = WeakSet()
_adding = threading.Lock()


def new_lock() -> threading.Lock:
    """Return a lock."""
    lock = threading.Lock()
    with _adding:
        _locks.add(lock)
    return lock


def _open_all() -> None:
    # In place, for wrappers refer to their lock; it is what the standard library does with its own.
    for lock in (_adding, *_locks):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # there is no public way


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)
