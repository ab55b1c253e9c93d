"""Circuit breakers that open together: replicas tell each other through Redis what they have found out.

A breaker decides by itself, from its own calls. When it opens, or closes after good probes, it leaves word in Redis;
the same breaker in every other process follows. One daemon thread per process sends and listens; callers never wait for
Redis, and while Redis is away every breaker goes on by itself.

Two things are kept. A message on a channel reaches the processes that listen; a key with the remaining open time as its
lifetime reaches those that start, or come back, later. Both carry spans, never instants: no two clocks are compared.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from paintkit import _arguments
from paintkit.machines.breaker import CircuitState
from paintkit.redis import urls
from paintkit.redis.away import keep_on
from paintkit.redis.revival import revive_in_children

__all__ = ["RedisBreakerState"]

# Seconds. How soon word goes out, and how long the link may be silent before it counts as broken.
_TICK = 0.1
_SILENCE = 2.0

# What another process may make us do is bounded: nobody opens our circuits for longer than this.
_LONGEST_OPEN = 86_400.0

#: Told to a breaker: the state to follow, and for how many seconds if it is open.
Adopt = Callable[[CircuitState, float], object]


class _Word(NamedTuple):
    """What one process tells the others."""

    sender: str
    name: str
    state: CircuitState
    seconds: float

    def encoded(self) -> str:
        return json.dumps([self.sender, self.name, self.state.value, self.seconds])

    @classmethod
    def decoded(cls, data: object) -> _Word | None:
        """Read a message; whatever is not one of ours is none."""
        if not isinstance(data, bytes | str) or len(data) > 4_096:
            return None
        try:
            sender, name, state, seconds = json.loads(data)
            known = {"open": CircuitState.OPEN, "closed": CircuitState.CLOSED}[state]
            span = float(seconds)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        valid = isinstance(sender, str) and isinstance(name, str) and 0 <= span <= _LONGEST_OPEN
        return cls(sender, name, known, span) if valid else None


class RedisBreakerState:
    """Lets circuit breakers of the same name, in many processes, open and close together.

    Args:
        url: Of a Redis or Valkey server, such as `redis://localhost:6379/0`.
        prefix: What keys and the channel begin with; processes with the same prefix belong together.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `url` is no Redis URL.

    Example:
        >>> from paintkit import circuit_breaker
        >>> shared = RedisBreakerState("redis://localhost:6379/0")
        >>> supplier = circuit_breaker("supplier", failure_threshold=5, shared=shared)
        >>> shared.close()
    """

    def __init__(self, url: str, *, prefix: str = "paintkit") -> None:
        self._client: redis.Redis = redis.Redis.from_url(
            urls.checked(url),
            socket_timeout=_SILENCE,
            socket_connect_timeout=_SILENCE,
            health_check_interval=1,
            retry=None,
        )
        self._prefix = _arguments.label("prefix", prefix)
        self._members: dict[str, Adopt] = {}
        self._outbox: deque[_Word] = deque(maxlen=1_000)
        self._lock = threading.Lock()  # guards the thread and the members
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._id = uuid.uuid4().hex
        self._connected = threading.Event()
        revive_in_children(self)

    @property
    def is_connected(self) -> bool:
        """Whether word from other processes arrives at this moment."""
        return self._connected.is_set()

    def wait_until_connected(self, seconds: float) -> bool:
        """Block until word arrives, or for so many seconds; for start-up checks and tests."""
        return self._connected.wait(seconds)

    def join(self, name: str, adopt: Adopt) -> None:
        """Follow what other processes tell of a breaker; called by the breaker.

        Raises:
            ValueError: A breaker of that name follows already.
        """
        with self._lock:
            if name in self._members:
                raise ValueError(
                    f"a circuit breaker {name!r} shares its state here already: use that one, or another name"
                )
            self._members[name] = adopt
            self._start()

    def announce(self, name: str, state: CircuitState, seconds: float) -> None:
        """Leave word for the other processes; never waits. Called by the breaker."""
        self._outbox.append(_Word(self._id, name, state, min(seconds, _LONGEST_OPEN)))

    def close(self) -> None:
        """Stop telling and following; the breakers go on by themselves."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_SILENCE * 2)
        self._client.close()

    def _start(self) -> None:
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="circuit-link", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        keep_on(
            "the link of the circuit breakers", self._exchange, stop=self._stop, connected=self._connected
        )

    def _exchange(self) -> None:
        """Listen, catch up on what was missed, and then tell and follow until the link breaks."""
        pubsub: Any = self._client.pubsub  # redis-py gives it no type
        with pubsub(ignore_subscribe_messages=True) as link:
            link.subscribe(self._channel)
            self._catch_up()
            self._connected.set()
            while not self._stop.is_set():
                self._send()
                link.check_health()
                message = link.get_message(timeout=_TICK)
                if message is not None:
                    self._follow(_Word.decoded(message["data"]))

    def _send(self) -> None:
        while self._outbox:
            word = self._outbox[0]
            transaction = self._client.pipeline(transaction=True)
            key = self._key(word.name)
            if word.state is CircuitState.OPEN and word.seconds > 0:
                transaction.set(key, word.encoded(), px=max(1, int(word.seconds * 1000)))
            else:
                transaction.delete(key)
            transaction.publish(self._channel, word.encoded())
            transaction.execute()
            self._outbox.popleft()  # only what has arrived: the rest is said when Redis is back

    def _catch_up(self) -> None:
        """Learn which circuits are open already, and for how long they still will be."""
        with self._lock:
            names = list(self._members)
        for name in names:
            self._learn(name)

    def _learn(self, name: str) -> None:
        transaction = self._client.pipeline(transaction=True)
        transaction.get(self._key(name))
        transaction.pttl(self._key(name))
        data, milliseconds = transaction.execute()
        word = _Word.decoded(data)
        if word is not None and milliseconds > 0:
            self._follow(word._replace(name=name, seconds=milliseconds / 1000))

    def _follow(self, word: _Word | None) -> None:
        if word is None or word.sender == self._id:
            return
        with self._lock:
            adopt = self._members.get(word.name)
        if adopt is not None:
            adopt(word.state, word.seconds)

    @property
    def _channel(self) -> str:
        return f"{self._prefix}:circuits"

    def _key(self, name: str) -> str:
        return f"{self._prefix}:circuit:{name}"

    def _revive(self) -> None:
        """Begin anew in a forked child: threads and connections stay with the parent."""
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._id = uuid.uuid4().hex
        self._client.connection_pool.reset()
        self._outbox.clear()
        if self._thread is not None:
            self._thread = None
            self._start()
