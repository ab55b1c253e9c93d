"""The commands of the shared cache level: which script, with which keys and arguments."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paintkit.redis import messages, scripts
from paintkit.redis.envelope import tombstone, vacancy
from paintkit.redis.kept import Change
from paintkit.redis.names import ALL, Names
from paintkit.redis.wire import Batch, part

if TYPE_CHECKING:
    from paintkit.cache.levels import Place, Sight
    from paintkit.redis.wire import Command

__all__ = ["LONGEST", "Commands"]

_DAY = 86_400

#: Seconds that a value stands at most.
LONGEST = 7.0 * _DAY

# Milliseconds that a token stands; every fill under it begins them anew, so it outlives what was filled.
_TOKEN_MS = b"%d" % (9 * _DAY * 1000)

# Messages kept for those who were away, and changes in one message.
_STREAM = b"10000"
_BATCH = 100


# PTTL, GETRANGE and MGET, packed in one go: every hit in Redis begins with them.
_PTTL = b"*2\r\n$4\r\nPTTL\r\n"
_GETRANGE = b"*4\r\n$8\r\nGETRANGE\r\n"
_FROM = b"$1\r\n0\r\n"
_MGET = b"*%d\r\n$4\r\nMGET\r\n"


class Commands:
    """Makes the commands of one level.

    Args:
        longest_load: Seconds within which a load has to end for its value to be stored.
        max_bytes: The largest value that may travel.
        stream: Whether messages are kept.
    """

    def __init__(self, *, longest_load: float, max_bytes: int, stream: bool) -> None:
        self._hold = b"%d" % (longest_load * 1000)
        self._most = b"%d" % max_bytes
        self._range = _FROM + part(self._most)
        self._mode = b"stream" if stream else b"channel"
        self.rename()

    def rename(self) -> None:
        """Take another name as sender of messages: a forked child is not its parent."""
        self.sender = uuid.uuid4().hex.encode()

    def greet(self, names: Names) -> Command:
        """What comes first on every connection."""
        keys = (names.run, names.token(ALL), names.number, names.stream)
        return scripts.GREET, keys, (os.urandom(8), _TOKEN_MS)

    def look(self, names: Names, place: Place, known: bytes | None) -> Command:
        """What stands there?"""
        fresh = vacancy()
        keys = (names.place(place.key), *[names.token(mark) for mark in place.marks])
        return scripts.LOOK, keys, (known or b"", fresh, self._hold, fresh[-8:], _TOKEN_MS, self._most)

    def glance(self, names: Names, place: Place) -> Batch:
        """What stands there, if it is a value? Without a script, which would cost the server ten times as much.

        The place is read before the tokens: if these are those of the value, it is valid at that later moment. Its time is
        read first: a value that comes in between has just been filled, and its own life bounds what the time says too much.
        """
        at = part(names.place(place.key))
        marks = place.marks
        tokens = _MGET % (1 + len(marks)) + names.parts(marks)
        return Batch(b"".join((_PTTL, at, _GETRANGE, at, self._range, tokens)), count=3)

    def fill(
        self, names: Names, place: Place, sight: Sight, data: bytes, seconds: float, *, tell: bool
    ) -> Command:
        """Put a value there, if nothing has changed since that sight."""
        tokens = [names.token(mark) for mark in place.marks]
        keys = (names.place(place.key), names.stream, names.number, *tokens)
        word = messages.encode([Change("p", place.key)]) if tell else b""
        span = b"%d" % max(1, seconds * 1000)
        seen = (sight.version or b"", b"".join(sight.tokens))
        return scripts.FILL, keys, (*seen, data, span, _TOKEN_MS, word, self._mode, self.sender, _STREAM)

    def drops(self, names: Names, changes: Sequence[Change]) -> Iterator[Command]:
        """Drop places and marks: one command for every hundred."""
        for begin in range(0, len(changes), _BATCH):
            yield self._drop(names, changes[begin : begin + _BATCH])

    def _drop(self, names: Names, changes: Sequence[Change]) -> Command:
        places = [names.place(change.name) for change in changes if change.kind == "p"]
        tokens = [names.token(change.name) for change in changes if change.kind == "m"]
        keys = (names.stream, names.number, *places, *tokens)
        spans = (tombstone(), self._hold, os.urandom(8), _TOKEN_MS)
        word = (messages.encode(changes), self._mode, self.sender, _STREAM)
        return scripts.DROP, keys, (b"%d" % len(places), *spans, *word)
