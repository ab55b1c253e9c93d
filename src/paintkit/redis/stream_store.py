"""What a transport asks of Redis: one stream of events, a group for every receiver, and what waits for another attempt.

An entry of the stream belongs to a receiver from the moment that its group has read it. It leaves the group when the
receiver has handled it; when it failed, it goes from the group into a *parcel* of that receiver, due later, or to the dead
letters. A consumer that dies leaves entries, or parcels, whose lease ends; the next to look takes them over, and its attempt
counts. Every change is one script, so that no crash leaves half of one behind. All times are the server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

import redis

from paintkit.envelope import Envelope

__all__ = ["DeadLetter", "Delivery", "Position", "StreamStore", "envelope_of", "number_of"]

# How often, in events, the stream is trimmed.
_TIDY_EVERY: Final = 100

# KEYS: stream, number. ARGV: entries to keep at least, entries at most, how often to tidy, then the fields.
# Every entry bears a number, so that whoever reads knows what was trimmed before it came. What a group has not read, or not
# handled, is never trimmed: if that fills the stream, the event is refused.
_PUBLISH: Final = """
local function needed(number)
    local most = tonumber(ARGV[1])
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local group = {}
        for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
        local first
        if group['pending'] > 0 then
            first = redis.call('XPENDING', KEYS[1], group['name'])[2]
        else
            first = '(' .. group['last-delivered-id']
        end
        local entry = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)[1]
        if entry then most = math.max(most, number - tonumber(entry[2][2])) end
    end
    return most
end
local number = redis.call('INCR', KEYS[2])
local length = redis.call('XLEN', KEYS[1])
if length > 0 and (number % tonumber(ARGV[3]) == 0 or length >= tonumber(ARGV[2])) then
    redis.call('XTRIM', KEYS[1], 'MAXLEN', needed(number))
end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
    redis.call('DECR', KEYS[2])
    return ''
end
return redis.call('XADD', KEYS[1], '*', 'n', number, unpack(ARGV, 4))
"""

# KEYS: stream, due times, parcels, tries. ARGV: group, consumer, milliseconds of a lease, how many, whether to look for what
# others left. Returns the last entry of the stream, and what was taken: entry, tries so far with this one, fields.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, most)) do
    redis.call('ZADD', KEYS[2], now + lease, id)
    local tries = redis.call('HINCRBY', KEYS[4], id, 1)
    taken[#taken + 1] = {id, tries, cjson.decode(redis.call('HGET', KEYS[3], id))}
end
if ARGV[5] == '1' then
    local left = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], lease, '0-0', 'COUNT', most)
    for _, entry in ipairs(left[2]) do
        if entry then
            local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)[1]
            taken[#taken + 1] = {entry[1], pending[4], entry[2]}
        end
    end
end
if #taken < most then
    local new = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', most - #taken, 'STREAMS', KEYS[1], '>')
    if new then
        for _, entry in ipairs(new[1][2]) do taken[#taken + 1] = {entry[1], 1, entry[2]} end
    end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {last and last[1] or '0-0', taken}
"""

# Whether this consumer, in its try of that number, still has an entry or a parcel; `pending` if it is an entry.
_MINE: Final = """
local tries = redis.call('HGET', KEYS[4], ARGV[3])
local pending = false
if tries then
    if tries ~= ARGV[4] then return 0 end
else
    pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]
    if not pending or pending[4] ~= tonumber(ARGV[4]) then return 0 end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: as above. ARGV: group, consumer, entry, tries, milliseconds of a lease. Returns 0 if somebody else has it by now.
_RENEW: Final = (
    _MINE
    + """
if pending then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
else
    redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[3])
end
return 1
"""
)

# KEYS: as above. ARGV: group, entry. Whoever has it by now need not do it again.
_DONE: Final = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[2])
return 1
"""

# KEYS: as above. ARGV: group, consumer, entry, tries, milliseconds until the next try, tries that count, then the fields.
_AGAIN: Final = (
    _MINE
    + """
redis.call('HSET', KEYS[3], ARGV[3], cjson.encode({unpack(ARGV, 7)}))
redis.call('HSET', KEYS[4], ARGV[3], ARGV[6])
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[3])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
)

# KEYS: as above, dead letters. ARGV: group, consumer, entry, tries, then the fields of the dead letter.
_BURY: Final = (
    _MINE
    + """
redis.call('XADD', KEYS[5], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[3])
redis.call('HDEL', KEYS[4], ARGV[3])
return 1
"""
)

# KEYS: stream, due times, parcels, tries, dead letters. ARGV: the dead letter, then its fields as an event's.
_REPLAY: Final = """
if redis.call('XDEL', KEYS[5], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], cjson.encode({unpack(ARGV, 2)}))
redis.call('HSET', KEYS[4], ARGV[1], 0)
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1
"""


_SCRIPTS: Final = (_PUBLISH, _TAKE, _RENEW, _DONE, _AGAIN, _BURY, _REPLAY)


class Delivery(NamedTuple):
    """An event that a consumer has taken for one receiver.

    Attributes:
        entry: What Redis calls it.
        tries: How many consumers have taken it, with this one.
        envelope: The event; `None` if what was found is none.
        fields: What was found.
    """

    entry: str
    tries: int
    envelope: Envelope | None
    fields: list[str]


class Seat(NamedTuple):
    """A consumer's place in the group of a receiver."""

    group: str
    consumer: str


class DeadLetter(NamedTuple):
    """An event that a receiver could not be given.

    Attributes:
        id: What to `replay()` or `discard()`.
        receiver: The name of the receiver.
        event: The event; its `attempts` are those that failed.
        error: The last error, as text.
    """

    id: str
    receiver: str
    event: Envelope
    error: str


class Position(NamedTuple):
    """How far a reader of all events is: the entry that it has read last, and its number."""

    entry: str
    number: int


class StreamStore:
    """The events of one stream.

    Args:
        client: The connections to use.
        prefix: What all keys begin with.
        stream: The name of the stream.
        keep: How many events stay for those who come back.
        limit: How many events there may be.
    """

    def __init__(self, client: redis.Redis, prefix: str, stream: str, keep: int, limit: int) -> None:
        # The braces keep all keys of a stream in one slot of a cluster, so that one script may touch them.
        root = f"{prefix}:{{{stream}}}"
        self._client = client
        self._root = root
        self._stream = f"{root}:events"
        self._number = f"{root}:number"
        self._dead = f"{root}:dead"
        self._keep = keep
        self._limit = limit
        # They run by their digests, for their texts are longer than most events.
        self._scripts = {text: client.register_script(text) for text in _SCRIPTS}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def revive(self) -> None:
        """Leave the connections to the parent, in a forked child."""
        self._client.connection_pool.reset()

    def publish(self, envelope: Envelope) -> bool:
        """Append an event; False if the stream is full."""
        keys, bounds = (self._stream, self._number), (self._keep, self._limit, _TIDY_EVERY)
        return bool(self._run(_PUBLISH, keys, *bounds, *_fields(envelope)))

    def begin(self, group: str, *, at: str) -> None:
        """Make sure that a group exists, which begins after the entry `at`."""
        try:
            self._client.xgroup_create(self._stream, group, id=at, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def end(self, group: str) -> None:
        """Remove a group with all that waits in it."""
        transaction = self._client.pipeline(transaction=True)
        transaction.xgroup_destroy(self._stream, group)
        transaction.delete(*self._parcels(group))
        transaction.execute()

    def leave(self, seat: Seat) -> None:
        """Remove a consumer that has nothing left to do; what it has left stays for others."""
        if not self._client.xpending_range(self._stream, seat.group, "-", "+", 1, seat.consumer):
            self._client.xgroup_delconsumer(self._stream, *seat)

    def take(self, seat: Seat, *, lease: float, most: int, abandoned: bool) -> tuple[str, list[Delivery]]:
        """Take what a receiver has to do, and return the last entry of the stream with it.

        Args:
            seat: Who takes, and for whom.
            lease: Seconds until others may take it over.
            most: How many events at most.
            abandoned: Whether to look for entries that others have not come back from, too.
        """
        arguments = (*seat, _milliseconds(lease), most, int(abandoned))
        last, taken = self._run(_TAKE, self._keys(seat.group), *arguments)
        return last, [Delivery(one[0], one[1], envelope_of(one[2], one[1]), one[2]) for one in taken]

    def renew(self, seat: Seat, delivery: Delivery, *, lease: float) -> bool:
        """Begin the lease of a delivery anew; False if somebody else has it by now."""
        mine = (*seat, delivery.entry, delivery.tries)
        return bool(self._run(_RENEW, self._keys(seat.group), *mine, _milliseconds(lease)))

    def done(self, seat: Seat, delivery: Delivery) -> None:
        """Note that the receiver has handled it."""
        self._run(_DONE, self._keys(seat.group), seat.group, delivery.entry)

    def again(self, seat: Seat, delivery: Delivery, delay: float, *, tried: bool = True) -> None:
        """Let the receiver have it again, in so many seconds; nothing if somebody else has it by now.

        Args:
            seat: Who gives it back.
            delivery: What was taken.
            delay: Seconds.
            tried: Whether that was a try.
        """
        mine = (*seat, delivery.entry, delivery.tries)
        terms = (_milliseconds(delay), delivery.tries if tried else delivery.tries - 1)
        self._run(_AGAIN, self._keys(seat.group), *mine, *terms, *delivery.fields)

    def bury(self, seat: Seat, delivery: Delivery, receiver: str, error: str) -> None:
        """Give it up; nothing if somebody else has it by now."""
        mine = (*seat, delivery.entry, delivery.tries)
        letter = ("receiver", receiver, "group", seat.group, "error", error, "tries", delivery.tries)
        self._run(_BURY, (*self._keys(seat.group), self._dead), *mine, *letter, *delivery.fields)

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return what was given up, oldest first."""
        found = []
        for entry, fields in cast("Any", self._client.xrange(self._dead, count=limit)):
            event = envelope_of([part for pair in fields.items() for part in pair], int(fields["tries"]) + 1)
            if event is not None:
                found.append(DeadLetter(entry, fields["receiver"], event, fields["error"]))
        return found

    def replay(self, letter: str) -> bool:
        """Give a dead letter to its receiver again, as if for the first time; False if there is none."""
        found = cast("Any", self._client.xrange(self._dead, letter, letter))
        if not found:
            return False
        fields = found[0][1]
        group = fields["group"]
        event = [part for name in _NAMES if name in fields for part in (name, fields[name])]
        return bool(self._run(_REPLAY, (*self._keys(group), self._dead), letter, *event))

    def discard(self, letter: str) -> bool:
        """Drop a dead letter; False if there is none."""
        return bool(self._client.xdel(self._dead, letter))

    def end_of(self) -> Position:
        """Return where a reader begins that wants what comes from now on."""
        transaction = self._client.pipeline(transaction=True)
        transaction.get(self._number)
        transaction.xrevrange(self._stream, count=1)
        number, entries = transaction.execute()
        return Position(entries[0][0] if entries else "0-0", int(number or 0))

    def read(self, entry: str, most: int, patience: float) -> list[tuple[str, list[str]]]:
        """Wait, for so many seconds, for what comes after an entry; every event with its fields."""
        found = cast(
            "Any", self._client.xread({self._stream: entry}, count=most, block=_milliseconds(patience))
        )
        return [
            (one, [part for pair in fields.items() for part in pair])
            for _, news in found
            for one, fields in news
        ]

    def waiting(self, group: str) -> int:
        """Return how many events a receiver has not handled: unread, taken, or due again."""
        transaction = self._client.pipeline(transaction=True)
        transaction.get(self._number)
        transaction.xinfo_groups(self._stream)
        transaction.zcard(self._parcels(group)[0])
        number, groups, again = transaction.execute()
        mine = next((one for one in groups if one["name"] == group), None)
        if mine is None:
            return int(again)
        unread = cast("Any", self._client.xrange(self._stream, f"({mine['last-delivered-id']}", "+", count=1))
        lag = int(number) - int(unread[0][1]["n"]) + 1 if unread else 0
        return int(mine["pending"]) + lag + int(again)

    def _run(self, script: str, keys: Sequence[str], *arguments: str | float) -> Any:
        return self._scripts[script](keys=keys, args=arguments)

    def _parcels(self, group: str) -> tuple[str, str, str]:
        return f"{self._root}:due:{group}", f"{self._root}:parcels:{group}", f"{self._root}:tries:{group}"

    def _keys(self, group: str) -> tuple[str, ...]:
        return (self._stream, *self._parcels(group))


_NAMES: Final = ("n", "id", "type", "payload", "at")


def _fields(envelope: Envelope) -> tuple[str, ...]:
    at = envelope.occurred_at.isoformat()
    return ("id", envelope.id, "type", envelope.type, "payload", envelope.payload, "at", at)


def number_of(fields: list[str]) -> int:
    """Return the number of an entry, 0 if it has none."""
    found = dict(zip(fields[::2], fields[1::2], strict=False)).get("n", "")
    return int(found) if found.isdecimal() else 0


def envelope_of(fields: list[str], tries: int = 1) -> Envelope | None:
    """Read an event; whatever is not one of ours is none."""
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        occurred_at = datetime.fromisoformat(found["at"])
        return Envelope(found["id"], found["type"], found["payload"], occurred_at, attempts=tries - 1)
    except (KeyError, ValueError):
        return None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
