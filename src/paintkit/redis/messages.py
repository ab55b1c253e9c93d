"""What processes tell each other of changes: who says it, and what has changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from paintkit._record import Record
from paintkit.redis.kept import Change

__all__ = ["Message", "decode", "encode"]


class Message(Record):
    """Word of some changes.

    Attributes:
        number: Its place in the order of all messages of the cache.
        sender: Who says it.
        changes: What has changed; `None` if it cannot be read: then it may be anything.
    """

    number: int
    sender: bytes
    changes: Sequence[Change] | None


def encode(changes: Iterable[Change]) -> bytes:
    """Return changes as they travel."""
    return json.dumps(list(changes), separators=(",", ":")).encode()


def decode(data: bytes) -> Sequence[Change] | None:
    """Return the changes that travelled; `None` for what is none of ours."""
    try:
        changes = [Change(kind, name) for kind, name in json.loads(data)]
    except (ValueError, TypeError, RecursionError):
        return None
    fit = all(change.kind in {"p", "m"} and isinstance(change.name, str) for change in changes)
    return changes if fit else None
