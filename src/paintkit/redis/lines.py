"""Lines: connections to one server, at hand for callers of either colour.

A line that has just been made *greets* the server in the name of a cache before it carries the cache's first question: what a
restart changed is known before anybody reads. Lines are redis-py's connections, which know about addresses, passwords and TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio

from paintkit.redis.away import AWAY
from paintkit.redis.names import Names
from paintkit.redis.wire import Batch, Command

__all__ = ["AsyncioLines", "BlockingLine", "BlockingLines", "Patience"]

#: Makes the command by which a cache greets.
Greeting = Callable[[Names], Command]

# Lines of one event loop; who finds none free waits for one.
_MOST = 32


class BlockingLine:
    """One connection for threads, one after the other.

    Attributes:
        greeted: The caches in whose name it has greeted.
        used: Whether it has carried a question before.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection  # redis-py's; untyped, for its classes have one base only by name
        self.greeted: set[str] = set()
        self.used = False

    def run(self, command: Command) -> Any:
        """Return the reply of a script, or the replies of a batch: where there is none, the server's error."""
        if isinstance(command, Batch):
            return self._replies(command)
        script, keys, arguments = command
        try:
            return self.exchange(script.call(keys, arguments))
        except redis.exceptions.NoScriptError:
            return self.exchange(script.first_call(keys, arguments))

    def _replies(self, batch: Batch) -> list[Any]:
        connection, replies = self.connection, []
        connection.send_packed_command((batch.data,), check_health=False)
        for _ in range(batch.count):
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except redis.ResponseError as error:  # the replies behind it have to be read all the same
                replies.append(error)
        return replies

    def exchange(self, command: bytes) -> Any:
        """Send a command and return its reply."""
        self.connection.send_packed_command([command], check_health=False)
        return self.connection.read_response(disable_decoding=True)


class BlockingLines:
    """Lines for threads: each that asks has one to itself.

    Args:
        url: Of the server.
        timeout: Seconds to wait for a connection, and for an answer.
        greeting: How a cache greets.
    """

    def __init__(self, url: str, timeout: float, greeting: Greeting) -> None:
        self._connections = redis.ConnectionPool.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2
        )
        self._greeting = greeting
        self._idle: deque[BlockingLine] = deque()  # appends and pops are atomic: it needs no lock

    def make(self, **options: object) -> BlockingLine:
        """Return a line of its own, not yet connected, with other options than the rest."""
        pool = self._connections
        return BlockingLine(pool.connection_class(**{**pool.connection_kwargs, **options}))

    def run(self, names: Names, command: Command) -> Any:
        """Run a script for a cache and return its reply."""
        try:
            line = self._idle.pop()
        except IndexError:
            line = self.make()
        try:
            return self._run(line, names, command)
        except redis.ConnectionError:
            if not line.used:
                raise
            # The server has hung up on a line that was idle; it will have on the others, too.
            self.hang_up()
            return self._run(self.make(), names, command)

    def hang_up(self) -> None:
        """Close the lines that are idle."""
        while True:
            try:
                self._idle.pop().connection.disconnect()
            except IndexError:
                return

    def forget(self) -> None:
        """Leave the lines to the process that was forked."""
        self._idle = deque()

    def _run(
        self,
        line: BlockingLine,
        names: Names,
        command: Command,
    ) -> Any:
        try:
            if names.namespace not in line.greeted:
                line.run(self._greeting(names))
                line.greeted.add(names.namespace)
            reply = line.run(command)
        except redis.ResponseError:
            self._idle.append(line)  # the server has spoken, if only to refuse
            raise
        except BaseException:
            line.connection.disconnect()  # an answer may still come, and must not reach another
            raise
        line.used = True
        self._idle.append(line)
        return reply


class _AsyncioLine:
    """One connection for the tasks of one event loop, one after the other."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.greeted: set[str] = set()
        self.used = False
        self.patience = Patience()

    async def run(self, command: Command) -> Any:
        if isinstance(command, Batch):
            return await self._replies(command)
        script, keys, arguments = command
        try:
            return await self._exchange(script.call(keys, arguments))
        except redis.exceptions.NoScriptError:
            return await self._exchange(script.first_call(keys, arguments))

    async def _replies(self, batch: Batch) -> list[Any]:
        connection, replies = self.connection, []
        await connection.send_packed_command((batch.data,), check_health=False)
        for _ in range(batch.count):
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except redis.ResponseError as error:
                replies.append(error)
        return replies

    async def _exchange(self, command: bytes) -> Any:
        await self.connection.send_packed_command([command], check_health=False)
        return await self.connection.read_response(disable_decoding=True)


class Patience:
    """Ends waits that take too long, as `asyncio.timeout` does, for one task after the other.

    A timer for every wait would cost more than most waits take. So one is left running when a wait ends in time, and
    moves on when it rings for one that began later.
    """

    __slots__ = ("_cancels", "_due", "_loop", "_rang", "_task", "_timer")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Begin a wait of the current task."""
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("only a task can wait for Redis")
        self._loop, self._task, self._cancels, self._rang = loop, task, task.cancelling(), False
        self._due = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_at(self._due, self._ring)

    def end(self) -> bool:
        """End the wait; return whether it was cancelled from here, and by nobody else."""
        task, self._task = self._task, None
        return self._rang and task is not None and task.uncancel() <= self._cancels

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._ring)
            return
        self._rang = True
        self._task.cancel()


class _Loop:
    """What belongs to one event loop."""

    def __init__(self) -> None:
        self.idle: deque[_AsyncioLine] = deque()
        self.room = asyncio.Semaphore(_MOST)
        self.farewell = _farewell(self.idle)


class AsyncioLines:
    """Lines for tasks, of whatever event loop; arguments as for threads."""

    def __init__(self, url: str, timeout: float, greeting: Greeting) -> None:
        # We set the time for all of an answer at once; redis-py would for each part.
        self._connections = redis.asyncio.ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=timeout, protocol=2
        )
        self._timeout = timeout
        self._greeting = greeting
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def run(self, names: Names, command: Command) -> Any:
        """Run a script for a cache and return its reply."""
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop) or await self._arrive(loop)
        async with here.room:
            line = here.idle.pop() if here.idle else self._make()
            try:
                return await self._run(loop, here.idle, line, names, command)
            except redis.ConnectionError:
                if not line.used:
                    raise
                await _hang_up(here.idle)  # as for threads
                return await self._run(loop, here.idle, self._make(), names, command)

    def close(self) -> None:
        """Close the idle lines of the loops that run; those of the others have gone with them."""
        for loop, here in list(self._loops.items()):
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(_hang_up(here.idle), loop)

    def forget(self) -> None:
        """Leave the lines to the process that was forked."""
        self._loops = WeakKeyDictionary()

    def _make(self) -> _AsyncioLine:
        return _AsyncioLine(self._connections.make_connection())  # type: ignore[no-untyped-call]

    async def _arrive(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        here = self._loops[loop] = _Loop()
        await anext(here.farewell)
        return here

    async def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        idle: deque[_AsyncioLine],
        line: _AsyncioLine,
        names: Names,
        command: Command,
    ) -> Any:
        line.patience.begin(loop, self._timeout)
        try:
            if names.namespace not in line.greeted:
                await line.run(self._greeting(names))
                line.greeted.add(names.namespace)
            reply = await line.run(command)
        except redis.ResponseError:
            line.patience.end()
            idle.append(line)
            raise
        except BaseException as error:
            late = line.patience.end()
            await line.connection.disconnect(nowait=True)
            if late and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error
            raise
        line.patience.end()
        line.used = True
        idle.append(line)
        return reply


async def _farewell(idle: deque[_AsyncioLine]) -> AsyncIterator[None]:
    """Close the lines of a loop at its end.

    Connections of asyncio have to be closed in their loop, and nothing tells when that ends, but for one thing: `asyncio.run`
    closes asynchronous generators that are not exhausted. So this one waits for that.
    """
    try:
        yield
    finally:
        await _hang_up(idle)


async def _hang_up(idle: deque[_AsyncioLine]) -> None:
    while idle:
        with contextlib.suppress(*AWAY):
            await idle.pop().connection.disconnect(nowait=True)
