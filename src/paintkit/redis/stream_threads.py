"""The threads of a transport: one that tells receivers of broadcasts, and some that do the work of the others."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, NamedTuple

import redis

from paintkit import clock, observations
from paintkit._arguments import told
from paintkit.policies._timeout import timeout
from paintkit.redis.away import AWAY, keep_on
from paintkit.redis.stream_store import Position, Seat, envelope_of, number_of

if TYPE_CHECKING:
    from paintkit._tally import Tally
    from paintkit.backoff import Schedule
    from paintkit.envelope import Envelope, Kind, Receiver
    from paintkit.redis.stream_store import Delivery, StreamStore

__all__ = ["House", "Listener", "Patient", "Worker"]

_LOG = logging.getLogger("paintkit.redis")

# Seconds after which a thread that hears nothing looks around.
_BEAT = 0.25

# Events that are taken at once.
_MOST = 16
_MOST_BROADCASTS = 100


class House(NamedTuple):
    """What the threads of one transport have in common.

    Attributes:
        store: Where events are; its blocking reads fit into its socket timeout.
        stop: Set when they shall end.
        receivers: Gives those who are subscribed.
        name: What logs and observations call the transport.
        group: What the names of its groups begin with.
        lease: Seconds until others take over what a consumer does not come back from.
        handler_timeout: Seconds that a receiver may take for one event.
        max_attempts: After so many failures an event is given up.
        backoff: How long to wait after each failure.
        tally: What they do is counted there.
    """

    store: StreamStore
    stop: threading.Event
    receivers: Callable[[Kind], list[Receiver]]
    name: str
    group: str
    lease: float
    handler_timeout: float
    max_attempts: int
    backoff: Schedule
    tally: Tally

    def group_of(self, receiver: str) -> str:
        """Return the name of a receiver's group in Redis."""
        return f"{self.group}:{receiver}"


class Patient:
    """A daemon thread that does its rounds, and goes on when Redis is back.

    Args:
        name: What the thread is called.
        house: Where it belongs.
    """

    def __init__(self, name: str, house: House) -> None:
        self._house = house
        self._store = house.store
        self._stop = house.stop
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.is_connected = threading.Event()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, or for so long."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        keep_on(self._thread.name, self._session, stop=self._stop, connected=self.is_connected)
        self._leave()

    def _session(self) -> None:
        try:
            self._arrive()
            self.is_connected.set()
            while not self._stop.is_set():
                self._round()
        except AWAY:
            self._house.tally.add("errors")
            raise

    def _arrive(self) -> None:
        """Get ready, after every connection."""

    def _round(self) -> None:
        """Do what there is to do now, and wait for more for at most a beat."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Tidy up at the end."""


class Handling:
    """Calls receivers with events, outside of every other context and for a time.

    Args:
        house: Says for how long at most, and counts.
    """

    def __init__(self, house: House) -> None:
        self._limit = timeout(house.handler_timeout, thread=True, name="a handler")
        self._tally = house.tally
        self._runner: asyncio.Runner | None = None

    def call(self, receiver: Receiver, event: Envelope) -> Exception | None:
        """Return what came of it, and let the receiver know."""
        error: Exception | None = None
        try:
            (self._acall if receiver.is_async else self._call)(receiver, event)
        except Exception as raised:  # noqa: BLE001 - the outcome is the value
            error = raised
        except BaseException as raised:  # noqa: BLE001 - see below
            # In here it would end a thread that others count on, and nobody would hear of it.
            error = RuntimeError(f"{receiver.name} was interrupted by {type(raised).__name__}")
            error.__cause__ = raised
            self.close()
        self._tally.add("delivered" if error is None else "failed")
        receiver.settle(event, error)
        return error

    def close(self) -> None:
        """End the event loop, if there is one."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _call(self, receiver: Receiver, event: Envelope) -> None:
        Context().run(self._limit.call, receiver.deliver, event)

    def _acall(self, receiver: Receiver, event: Envelope) -> None:
        if self._runner is None:
            self._runner = asyncio.Runner()
        # The loop has one context for all that it runs, unless it is given another.
        self._runner.run(self._limit.acall(receiver.adeliver, event), context=Context())


class Listener(Patient):
    """Hears every event, and tells the receivers of broadcasts.

    Args:
        house: Where it belongs.
        on_gap: Called when events have been missed.
        position: Where to begin; `None` for what comes from now on.
    """

    def __init__(self, house: House, on_gap: Callable[[], object] | None, position: Position | None) -> None:
        super().__init__(f"event-listener-{house.name}", house)
        self._on_gap = on_gap
        self._handling = Handling(house)
        #: How far it is.
        self.position = position

    def _arrive(self) -> None:
        end = self._store.end_of()
        if self.position is None:
            self.position = end
        elif end.number < self.position.number:  # Redis came back with less than it had
            self._miss()
            self.position = Position("0-0", 0)

    def _round(self) -> None:
        position = self.position or Position("0-0", 0)
        for entry, fields in self._store.read(position.entry, _MOST_BROADCASTS, _BEAT):
            number = number_of(fields) or position.number
            if number > position.number + 1 or number < position.number:
                self._miss()
            position = self.position = Position(entry, number)
            event = envelope_of(fields)
            if event is not None:
                self._tell(event)

    def _tell(self, event: Envelope) -> None:
        for receiver in self._house.receivers("broadcast"):
            if receiver.wants(event.type):
                self._handling.call(receiver, event)

    def _miss(self) -> None:
        self._house.tally.add("gaps")
        _LOG.warning("%s: this process has missed events", self._house.name)
        observations.emit("redis_streams.gap", self._house.name)
        if self._on_gap is not None:
            observations.notify(self._on_gap)

    def _leave(self) -> None:
        self._handling.close()


class Worker(Patient):
    """Takes events for the receivers of work, one after another, and settles what comes of each.

    Args:
        house: Where it belongs.
    """

    def __init__(self, house: House) -> None:
        super().__init__(f"event-worker-{house.name}", house)
        #: What Redis calls it.
        self.consumer = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._handling = Handling(house)
        self._look_at = 0.0  # when to look for what others have left

    def _round(self) -> None:
        receivers = self._house.receivers("work")
        abandoned = clock.now() >= self._look_at
        if abandoned:
            self._look_at = clock.now() + self._house.lease / 4
        last = None
        busy = False
        for receiver in receivers:
            end, taken = self._take(receiver, abandoned=abandoned)
            last = last or end
            busy = busy or bool(taken)
            self._work(receiver, taken)
        if last is None:
            self._stop.wait(_BEAT)
        elif not busy:
            self._store.read(last, 1, _BEAT)  # only to wake up

    def _take(self, receiver: Receiver, *, abandoned: bool) -> tuple[str, list[Delivery]]:
        seat = self._seat(receiver)
        try:
            return self._store.take(seat, lease=self._house.lease, most=_MOST, abandoned=abandoned)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # Redis came back with less than it had: whatever there is has come since.
            self._store.begin(seat.group, at="0-0")
            return "0-0", []

    def _seat(self, receiver: Receiver) -> Seat:
        return Seat(self._house.group_of(receiver.name), self.consumer)

    def _work(self, receiver: Receiver, taken: list[Delivery]) -> None:
        begun = clock.now()
        for delivery in taken:
            # Whoever has left since the round began leaves this to other processes.
            if self._stop.is_set() or receiver not in self._house.receivers("work"):
                self._store.again(self._seat(receiver), delivery, 0.0, tried=False)
                continue
            if clock.now() - begun > self._house.lease / 4 and not self._renew(receiver, delivery):
                continue
            self._handle(receiver, delivery)

    def _renew(self, receiver: Receiver, delivery: Delivery) -> bool:
        seat = self._seat(receiver)
        return self._store.renew(seat, delivery, lease=self._house.lease)

    def _handle(self, receiver: Receiver, delivery: Delivery) -> None:
        seat = self._seat(receiver)
        event = delivery.envelope
        if event is None:
            _LOG.error("%s: dropped %s, which is no event", self._house.name, delivery.entry)
        elif delivery.tries > self._house.max_attempts:
            # Nobody ever came back from it to say what went wrong.
            self._give_up(receiver, delivery, event, "every process that took it ended before it was handled")
            return
        elif receiver.wants(event.type):
            error = self._handling.call(receiver, event)
            if error is not None:
                self._fail(receiver, delivery, event, error)
                return
        self._store.done(seat, delivery)

    def _fail(self, receiver: Receiver, delivery: Delivery, event: Envelope, error: Exception) -> None:
        text = f"{type(error).__name__}: {told(error)}"
        if delivery.tries >= self._house.max_attempts:
            self._give_up(receiver, delivery, event, text)
            return
        seat = self._seat(receiver)
        delay = self._delay_after(delivery.tries)
        self._store.again(seat, delivery, delay)

    def _delay_after(self, failures: int) -> float:
        delays = self._house.backoff.delays()
        delay = 0.0
        for _ in range(failures):
            delay = next(delays, delay)
        return delay

    def _give_up(self, receiver: Receiver, delivery: Delivery, event: Envelope, error: str) -> None:
        seat = self._seat(receiver)
        self._store.bury(seat, delivery, receiver.name, error)
        self._house.tally.add("dead")
        _LOG.error(
            "%s: gave up %s (%s) for %s: %s", self._house.name, event.id, event.type, receiver.name, error
        )
        observations.emit(
            "redis_streams.dead_letter",
            self._house.name,
            event_type=event.type,
            event_id=event.id,
            handler=receiver.name,
            error=error,
        )

    def _leave(self) -> None:
        self._handling.close()
        for receiver in self._house.receivers("work"):
            try:
                self._store.leave(self._seat(receiver))
            except AWAY as error:
                _LOG.debug("%s left without a farewell: %s", self.consumer, error)
