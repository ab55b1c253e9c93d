"""Feeds: how word of changes arrives, by a stream that is kept, or by a channel where streams are not to be had.

Either way a feed answers one question over and over: what has come since, and which number has been reached? A feed asks for the
number *before* it listens. So whoever has heard less than that, once the feed has listened, has missed something: whether the stream
was trimmed, evicted or restored, or a message got lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from paintkit._record import Record
from paintkit.redis import messages
from paintkit.redis.messages import Message
from paintkit.redis.wire import packed

if TYPE_CHECKING:
    from paintkit.redis.lines import BlockingLine, BlockingLines
    from paintkit.redis.names import Names

__all__ = ["ChannelFeed", "Feed", "Heard", "Position", "StreamFeed"]

# Seconds beyond the time that we asked it to wait, after which a silent server is gone.
_GRACE = 0.25


class Position:
    """How far one has listened to one cache's messages.

    Attributes:
        run: The server's identity.
        number: Of the last message heard.
        last: Its id in the stream.
    """

    __slots__ = ("last", "number", "run")

    def __init__(self, run: bytes, number: int, last: bytes) -> None:
        self.run = run
        self.number = number
        self.last = last


class Heard(Record):
    """What a feed heard of one cache.

    Attributes:
        run: The server's identity as noted, before listening.
        number: Of the last message then.
        messages: What came, in order.
    """

    run: bytes | None
    number: int
    messages: Sequence[Message]


class Feed(Protocol):
    """A way on which messages arrive; for one thread.

    Attributes:
        control: A line on which to say something in between.
    """

    control: BlockingLine

    def follow(self, names: Iterable[Names]) -> None:
        """Begin to listen for caches as well; what is said from now on will be heard."""
        ...

    def hear(self, positions: dict[Names, Position], seconds: float) -> dict[Names, Heard]:
        """Listen until something comes, at most for some seconds; move positions' `last` on."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class StreamFeed:
    """Messages out of streams: those that came while one did not listen come first."""

    def __init__(self, lines: BlockingLines, beat: float) -> None:
        self.control = lines.make(socket_timeout=beat + _GRACE)

    def follow(self, names: Iterable[Names]) -> None:
        """Begin to listen; a position is all that it takes."""

    def hear(self, positions: dict[Names, Position], seconds: float) -> dict[Names, Heard]:
        """Read on from every position."""
        followed = list(positions)
        places = [name.stream for name in followed] + [positions[name].last for name in followed]
        wait = b"%d" % max(1, int(seconds * 1000))
        both = _numbers(followed) + packed(b"XREAD", b"BLOCK", wait, b"STREAMS", *places)
        noted = self.control.exchange(both)
        came = dict(self.control.connection.read_response(disable_decoding=True) or ())
        for name in followed:
            if entries := came.get(name.stream):
                positions[name].last = entries[-1][0]
        return {
            name: _heard(noted, at, [_entry(fields) for _, fields in came.get(name.stream, ())])
            for at, name in enumerate(followed)
        }

    def close(self) -> None:
        """Hang up."""
        self.control.connection.disconnect()


class ChannelFeed:
    """Messages that are not kept: those that came while one did not listen are missed, and their numbers tell so."""

    def __init__(self, lines: BlockingLines, beat: float) -> None:
        self.control = lines.make(socket_timeout=beat + _GRACE)
        self._ear = lines.make(socket_timeout=beat + _GRACE)

    def follow(self, names: Iterable[Names]) -> None:
        """Subscribe, and wait until that is confirmed."""
        channels = [name.stream for name in names]
        if not channels:
            return
        self._ear.connection.send_packed_command([packed(b"SUBSCRIBE", *channels)], check_health=False)
        confirmed = 0
        while confirmed < len(channels):
            kind, *_ = self._ear.connection.read_response(disable_decoding=True)
            # A message on an earlier channel may come between; its number will be missed, and the gap be noticed.
            confirmed += kind == b"subscribe"

    def hear(self, positions: dict[Names, Position], seconds: float) -> dict[Names, Heard]:
        """Take what has arrived."""
        followed = list(positions)
        noted = self.control.exchange(_numbers(followed))
        came: dict[bytes, list[Message]] = {name.stream: [] for name in followed}
        ear = self._ear.connection
        while ear.can_read(seconds):
            _kind, channel, data = ear.read_response(disable_decoding=True)
            came.setdefault(channel, []).append(_spoken(data))
            seconds = 0.0
        return {name: _heard(noted, at, came[name.stream]) for at, name in enumerate(followed)}

    def close(self) -> None:
        """Hang up."""
        self.control.connection.disconnect()
        self._ear.connection.disconnect()


def _numbers(names: Sequence[Names]) -> bytes:
    return packed(b"MGET", *[key for name in names for key in (name.run, name.number)])


def _heard(noted: Sequence[bytes | None], at: int, came: Sequence[Message]) -> Heard:
    run, number = noted[2 * at : 2 * at + 2]
    return Heard(run=run, number=_number(number or b"0"), messages=came)


def _entry(fields: Any) -> Message:
    told = dict(zip(fields[::2], fields[1::2], strict=False)) if isinstance(fields, list) else {}
    return Message(
        number=_number(told.get(b"n", b"")),
        sender=told.get(b"s", b""),
        changes=messages.decode(told.get(b"c", b"")),
    )


def _spoken(data: bytes) -> Message:
    number, _, rest = data.partition(b" ")
    sender, _, changes = rest.partition(b" ")
    return Message(number=_number(number), sender=sender, changes=messages.decode(changes))


def _number(data: bytes) -> int:
    """Return a number; what is none is a number that nobody waits for."""
    return int(data) if data.isdigit() and len(data) < 20 else -1
