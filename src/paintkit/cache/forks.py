"""Forks: a child finds every cache in order, for no other thread is in the middle of a step while the process forks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["attend"]


class Forkable(Protocol):
    """What has a lock and goes on in a child."""

    lock: threading.RLock

    def forget_flights(self) -> None:
        """Forget what only the parent's threads can end. The lock is held."""
        ...


_forking = threading.Lock()  # guards _attended and _held
_attended: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []


def attend(cache: Forkable) -> None:
    """Hold this one's lock through every fork, as long as it lives."""
    with _forking:
        _attended.add(cache)


def _hold_all() -> None:
    _forking.acquire()
    _held.extend(_attended)
    for cache in _held:
        cache.lock.acquire()


def _release_all() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


def _restart_all() -> None:
    for cache in _held:
        cache.forget_flights()
    _release_all()


os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_restart_all)
