"""Changes that the server has not been told yet, because it was not to be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from paintkit._locks import new_lock
from paintkit.redis.names import ALL

__all__ = ["Change", "Kept"]

# Beyond so many, everything is dropped instead.
_MOST: Final = 1_000


class Change(NamedTuple):
    """Something that is no longer valid: the value at a place (`p`), or all values under a mark (`m`)."""

    kind: str
    name: str


class Kept:
    """The latest changes, each once; while there are any, what the server has is not to be believed."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards the changes
        self._changes: dict[Change, object] = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    def keep(self, changes: Iterable[Change]) -> None:
        """Keep changes until they have been told."""
        with self._lock:
            for change in changes:
                self._changes[change] = object()  # another one each time, see `told`
            if len(self._changes) > _MOST:
                self._changes = {Change("m", ALL): object()}

    def pending(self) -> Mapping[Change, object]:
        """Return what has to be told."""
        with self._lock:
            return dict(self._changes)

    def told(self, pending: Mapping[Change, object]) -> None:
        """Forget what has been told, but for what was changed once more meanwhile."""
        with self._lock:
            for change, once in pending.items():
                if self._changes.get(change) is once:
                    del self._changes[change]
