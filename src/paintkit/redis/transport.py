"""Events through Redis Streams: to one process that does the work, or to every process that listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar

import redis

from paintkit import _arguments, backoff, clock, observations
from paintkit._locks import new_lock
from paintkit._tally import Tally
from paintkit.errors import EventNotSentError
from paintkit.redis import urls
from paintkit.redis.away import AWAY, Absence
from paintkit.redis.revival import revive_in_children
from paintkit.redis.stream_store import DeadLetter, Position, StreamStore
from paintkit.redis.stream_threads import House, Listener, Patient, Worker

if TYPE_CHECKING:
    from paintkit.backoff import Schedule
    from paintkit.envelope import Envelope, Kind, Receiver, Receivers
    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["RedisStreams", "RedisStreamsStatus"]

T = TypeVar("T")

_LOG: Final = logging.getLogger("paintkit.redis")

# Seconds after which a thread that hears nothing of Redis connects anew, and that closing waits for each thread.
_SILENCE: Final = 2.0


class RedisStreamsStatus(TypedDict):
    """What Redis holds for the receivers that are subscribed here.

    Attributes:
        waiting: Events that each receiver of kind `"work"` has not handled yet, by its name.
        dead_letters: Events that were given up, at most 10,000.
    """

    waiting: dict[str, int]
    dead_letters: int


class RedisStreams:
    """Carries the events of a bus through Redis: `EventBus(transport=RedisStreams(url))`.

    Receivers of kind `"work"` get every event at least once, in one process of all that subscribe a receiver of that name:

    - what a process does not come back from is taken over by another when its lease is over;
    - a receiver that fails is tried again without the others, later and later, until after `max_attempts` the event becomes
      a *dead letter*, for a human to look at and `replay()`. A process that dies while it handles an event counts, too;
    - a receiver hears what is published after it was subscribed for the first time, and then everything, also what comes
      while no process is there. No order is promised: `ordering_key` is refused.

    Receivers of kind `"broadcast"` get every event in every process that listens, in order, and are not tried again. A
    process that loses its connection goes on where it stopped; if that is not there any more, `on_gap` is called first, so
    that what depends on hearing everything (a cache in memory) can be emptied.

    An event is certain, as far as Redis keeps what it is told, when `publish` returns. If Redis does not answer in time,
    that raises `EventNotSentError`; further events are refused at once for a second. After the commit of a unit of work,
    where nobody is left to hear an error, it is logged and the event is lost: what must never be lost belongs into an
    `Outbox`. So does what has to survive a Redis that forgets: Redis may lose its last second, or everything, when it is
    killed; then groups begin anew, and `on_gap` is called.

    Receivers run in daemon threads of the transport, which start with the first one: `async def` receivers in an event loop
    of that thread. The threads connect, and connect again, by themselves. All methods may be called from any thread.

    Args:
        url: Of a Redis or Valkey server (6.2 or newer), such as `redis://localhost:6379/0`.
        group: What belongs together: processes with the same group share the work; each group gets every event.
        stream: The name of the stream; buses with the same stream hear each other.
        prefix: What keys begin with.
        timeout: Seconds that `publish` waits for Redis at most (> 0).
        workers: How many threads of this process do work, at least 0: then others have to.
        keep: How many events stay for those who come back, at least 1. What a receiver of work has not handled stays in any case.
        max_events: How many events there may be (> `keep`); a full stream refuses events with `EventNotSentError`.
        lease: Seconds that a process has before others take its events over.
        handler_timeout: Seconds that a receiver may take for one event, at most half of `lease`. A plain function that takes
            longer is left alone in its thread.
        max_attempts: After so many failures an event is given up, at least 1.
        backoff: How long to wait after each failure (default: exponential from 1 s to 5 minutes, half of it chance).
        on_gap: Called, in the listener's thread, when this process has missed events.
        name: What logs and observations call it.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or `url` is no Redis URL.

    Example:
        >>> from paintkit import EventBus
        >>> streams = RedisStreams("redis://localhost:6379/0", group="studio")
        >>> bus = EventBus("studio", transport=streams)
        >>> streams.close()
    """

    def __init__(
        self,
        url: str,
        *,
        group: str = "paintkit",
        stream: str = "events",
        prefix: str = "paintkit",
        timeout: Seconds = 0.1,
        workers: int = 1,
        keep: int = 10_000,
        max_events: int = 1_000_000,
        lease: Seconds = 60.0,
        handler_timeout: Seconds = 30.0,
        max_attempts: int = 10,
        backoff: Schedule = backoff.exponential(1.0, cap=300.0, jitter="equal"),  # noqa: B008 - it is immutable
        on_gap: Callable[[], object] | None = None,
        name: str = "redis-streams",
    ) -> None:
        #: What logs and observations call it.
        self.name = _arguments.label("name", name)
        lease = _arguments.seconds("lease", lease)
        limit = _arguments.seconds("handler_timeout", handler_timeout)
        if limit > lease / 2:
            raise ValueError(
                f"handler_timeout must be at most half of lease, so that nobody takes over what a receiver is busy with: "
                f"{limit:g} s of {lease:g} s; raise lease or lower handler_timeout"
            )
        keep = _arguments.count("keep", keep)
        most = _arguments.count("max_events", max_events, least=keep + 1)
        names = _plain("prefix", prefix), _plain("stream", stream)
        url = urls.checked(url)
        self._quick = StreamStore(_client(url, _arguments.seconds("timeout", timeout)), *names, keep, most)
        self._tally = Tally("published", "not_sent", "delivered", "failed", "dead", "gaps", "errors")
        self._house = House(
            store=StreamStore(_client(url, _SILENCE), *names, keep, most),
            stop=threading.Event(),
            receivers=self._receivers,
            name=self.name,
            group=_arguments.label("group", group),
            lease=lease,
            handler_timeout=limit,
            max_attempts=_arguments.count("max_attempts", max_attempts),
            backoff=_arguments.having("backoff", backoff, "delays", "a schedule of paintkit.backoff"),
            tally=self._tally,
        )
        self._workers = _arguments.count("workers", workers, least=0)
        self._on_gap = on_gap if on_gap is None else _arguments.callback("on_gap", on_gap)
        self._bus: Receivers | None = None
        self._lock = new_lock()  # guards what follows
        self._listener: Listener | None = None
        self._crew: list[Worker] = []
        self._absence = Absence()
        revive_in_children(self)

    # What the bus asks: see `paintkit.events.transport.Transport`.

    def attach(self, bus: Receivers) -> None:
        """Belong to this bus.

        Raises:
            ValueError: It has a bus already.
        """
        if self._bus is not None:
            raise ValueError(
                f"{self.name} has the bus {self._bus.name!r} already: give each bus a RedisStreams of its own"
            )
        self._bus = bus

    def admit(self, receiver: Receiver) -> None:
        """Get ready for a receiver: from now on, what is published is for it, too, if Redis is there."""
        try:
            if receiver.kind == "work":
                self._quick.begin(self._house.group_of(receiver.name), at="$")
                position: Position | None = None
            else:
                position = self._quick.end_of()
        except AWAY as error:
            _LOG.warning("%s: %s begins to hear when Redis is there: %s", self.name, receiver.name, error)
            position = None
        with self._lock:
            if self._house.stop.is_set():
                raise ValueError(f"{self.name} is closed: subscribe {receiver.name} elsewhere")
            self._ensure(receiver.kind, position)

    def dismiss(self, receiver: Receiver) -> None:
        """A receiver is subscribed no more here; its events wait for other processes, or for `forget()`."""

    def enlist(self, envelope: Envelope) -> bool:
        """Have no part in any transaction: the event is sent after the commit."""
        _refuse_order(envelope)
        return False

    def send(self, envelope: Envelope) -> None:
        """Append the event to the stream.

        Raises:
            EventNotSentError: Redis does not answer in time, or the stream is full.
            ValueError: The event has an `ordering_key`.
        """
        _refuse_order(envelope)
        if not self._absence.may_ask():
            raise self._not_sent(envelope, "Redis did not answer a moment ago", None)
        try:
            sent = self._quick.publish(envelope)
        except AWAY as error:
            self._absence.begin()
            raise self._not_sent(envelope, "it is unknown whether Redis got it", error) from error
        self._absence.end()
        if not sent:
            raise self._not_sent(envelope, "the stream is full of events that nobody has handled", None)
        self._tally.add("published")

    async def asend(self, envelope: Envelope) -> None:
        """Do as `send` does, without blocking the loop.

        In a thread: connections of asyncio belong to one loop and have to be closed in it, ours serve every loop.
        """
        import asyncio

        await asyncio.to_thread(self.send, envelope)

    # For those who run it.

    @property
    def is_connected(self) -> bool:
        """Whether all that listens or works in this process has its connection at this moment."""
        with self._lock:
            threads = self._threads()
        return all(one.is_connected.is_set() for one in threads)

    def wait_until_connected(self, seconds: float) -> bool:
        """Block until `is_connected`, or for so many seconds; for start-up checks and tests."""
        due = clock.now() + seconds
        with self._lock:
            threads = self._threads()
        return all(one.is_connected.wait(max(0.0, due - clock.now())) for one in threads)

    def telemetry(self) -> Iterable[Metric]:
        """Return what was done in this process, for exporters; see `paintkit.telemetry`. Redis is not asked for it."""
        from paintkit import _catalogue

        return _catalogue.STREAMS.read(self.name, self._tally.read())

    def __repr__(self) -> str:
        return f"<RedisStreams {self.name!r}>"

    def status(self) -> RedisStreamsStatus:
        """Return what waits in Redis.

        Raises:
            ConnectionError: Redis does not answer.
        """
        with _spoken():
            waiting = {
                one.name: self._house.store.waiting(self._house.group_of(one.name))
                for one in self._receivers("work")
            }
            return {"waiting": waiting, "dead_letters": len(self.dead_letters(10_000))}

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Return events that were given up, of all groups, oldest first.

        Raises:
            ConnectionError: Redis does not answer.
        """
        with _spoken():
            return self._house.store.dead_letters(_arguments.count("limit", limit))

    def replay(self, letter: str) -> bool:
        """Let the receiver of a dead letter have it again, with new attempts; False if there is no such letter.

        Raises:
            ConnectionError: Redis does not answer.
        """
        with _spoken():
            return self._house.store.replay(_arguments.label("letter", letter))

    def discard(self, letter: str) -> bool:
        """Drop a dead letter for good; False if there is no such letter.

        Raises:
            ConnectionError: Redis does not answer.
        """
        with _spoken():
            return self._house.store.discard(_arguments.label("letter", letter))

    def forget(self, receiver: str) -> None:
        """Drop all that waits for a receiver of this group that no process subscribes any more.

        Until then its unread events stay, and fill the stream in the end.

        Raises:
            ConnectionError: Redis does not answer.
            ValueError: It is subscribed here.
        """
        if any(one.name == receiver for one in self._receivers("work")):
            raise ValueError(f"{receiver} is subscribed here: cancel its subscription everywhere before")
        with _spoken():
            self._house.store.end(self._house.group_of(receiver))

    def close(self) -> None:
        """Stop hearing, when the receivers that run have returned (for at most 2 s each), and refuse new receivers."""
        with self._lock:
            self._house.stop.set()
            threads = self._threads()
        for one in threads:
            one.join(_SILENCE)
        self._quick.close()
        self._house.store.close()

    def _ensure(self, kind: Kind, position: Position | None) -> None:
        """Start the threads that a receiver needs, unless they run."""
        if kind == "broadcast" and self._listener is None:
            self._listener = Listener(self._house, self._on_gap, position)
            self._listener.start()
        if kind == "work" and not self._crew:
            self._crew = [Worker(self._house) for _ in range(self._workers)]
            for one in self._crew:
                one.start()

    def _threads(self) -> list[Patient]:
        return [*self._crew] if self._listener is None else [self._listener, *self._crew]

    def _receivers(self, kind: Kind) -> list[Receiver]:
        receivers = () if self._bus is None else self._bus.receivers()
        return [one for one in receivers if one.kind == kind]

    def _not_sent(self, envelope: Envelope, why: str, error: Exception | None) -> EventNotSentError:
        self._tally.add("not_sent")
        observations.emit(
            "redis_streams.not_sent", self.name, event_type=envelope.type, event_id=envelope.id, error=error
        )
        return EventNotSentError(self.name, envelope.type, envelope.id, why)

    def _revive(self) -> None:
        """Begin anew in a forked child: threads and connections stay with the parent."""
        self._quick.revive()
        self._house.store.revive()
        stopped = self._house.stop.is_set()
        self._house = self._house._replace(stop=threading.Event())
        listener, self._listener = self._listener, None
        had_crew, self._crew = bool(self._crew), []
        if stopped:
            self._house.stop.set()
            return
        if listener is not None:
            self._ensure("broadcast", listener.position)
        if had_crew:
            self._ensure("work", None)


def _client(url: str, seconds: float) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        decode_responses=True,
        encoding_errors="replace",
        retry=None,
    )


def _plain(name: str, value: str) -> str:
    if set("{}") & set(_arguments.label(name, value)):
        raise ValueError(f"no braces, please, in {name}={value!r}: Redis Cluster reads them")
    return value


def _refuse_order(envelope: Envelope) -> None:
    if envelope.ordering_key is not None:
        raise ValueError(
            "RedisStreams promises no order, so ordering_key has no effect: leave it out, or use an Outbox"
        )


@contextmanager
def _spoken() -> Iterator[None]:
    """Tell in the words of the standard library that Redis is away: who runs us need not know its client."""
    try:
        yield
    except AWAY as error:
        raise ConnectionError(f"Redis does not answer: {error}") from error
