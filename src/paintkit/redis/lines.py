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

__all__ = ["AsyncioLines", "BlockingLine", "BlockingLines"]

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
            self.connection.send_packed_command([command.data], check_health=False)
            return [self._reply() for _ in range(command.count)]
        script, keys, arguments = command
        try:
            return self.exchange(script.call(keys, arguments))
        except redis.exceptions.NoScriptError:
            return self.exchange(script.first_call(keys, arguments))

    def _reply(self) -> Any:
        try:
            return self.connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:  # the replies behind it have to be read all the same
            return error

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
        line = self._take()
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

    def _take(self) -> BlockingLine:
        try:
            return self._idle.pop()
        except IndexError:
            return self.make()

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

    async def run(self, command: Command) -> Any:
        if isinstance(command, Batch):
            await self.connection.send_packed_command([command.data], check_health=False)
            return [await self._reply() for _ in range(command.count)]
        script, keys, arguments = command
        try:
            return await self._exchange(script.call(keys, arguments))
        except redis.exceptions.NoScriptError:
            return await self._exchange(script.first_call(keys, arguments))

    async def _reply(self) -> Any:
        try:
            return await self.connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:
            return error

    async def _exchange(self, command: bytes) -> Any:
        await self.connection.send_packed_command([command], check_health=False)
        return await self.connection.read_response(disable_decoding=True)


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
        here = await self._here()
        async with here.room:
            line = here.idle.pop() if here.idle else self._make()
            try:
                return await self._run(here, line, names, command)
            except redis.ConnectionError:
                if not line.used:
                    raise
                await _hang_up(here.idle)  # as for threads
                return await self._run(here, self._make(), names, command)

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

    async def _here(self) -> _Loop:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            here = self._loops[loop] = _Loop()
            await anext(here.farewell)
        return here

    async def _run(
        self,
        here: _Loop,
        line: _AsyncioLine,
        names: Names,
        command: Command,
    ) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                if names.namespace not in line.greeted:
                    await line.run(self._greeting(names))
                    line.greeted.add(names.namespace)
                reply = await line.run(command)
        except redis.ResponseError:
            here.idle.append(line)
            raise
        except BaseException:
            await line.connection.disconnect(nowait=True)
            raise
        line.used = True
        here.idle.append(line)
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
