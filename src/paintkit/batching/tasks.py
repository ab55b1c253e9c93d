"""The batches of an `async def` batch function: each runs in a task of its own, in the loop of those who ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from paintkit import ambient, clock
from paintkit._locks import new_lock
from paintkit._runtime import ASYNCIO
from paintkit.batching.threads import rest_for
from paintkit.errors import BatcherClosedError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from paintkit.batching.answers import Answer, BatchFunction
    from paintkit.machines.batch import BatchQueue

__all__ = ["TaskBatches"]

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Ticket(Generic[Request, Result]):
    """One request on its way, and the future in which its caller finds the answer."""

    __slots__ = ("answer", "context", "request")

    def __init__(self, request: Request, answer: asyncio.Future[Answer[Result]]) -> None:
        self.request = request
        self.context = ambient.detached()
        self.answer = answer


class _Line(Generic[Request, Result]):
    """The requests and batches of one loop; touched in its thread only.

    Args:
        function: What answers a batch.
        queue: Where requests wait.
    """

    def __init__(
        self, function: BatchFunction[Request, Result], queue: BatchQueue[_Ticket[Request, Result]]
    ) -> None:
        self._function = function
        self.queue = queue
        self.batches: set[asyncio.Task[None]] = set()  # the loop itself would let them be collected
        self._timer: asyncio.TimerHandle | None = None

    def add(self, ticket: _Ticket[Request, Result], asks: Hashable, weight: int) -> None:
        """Let a request wait, and begin its batch if that is full now."""
        self.queue.add(ticket, clock.now(), asks=asks, weight=weight)
        while self.queue.is_full:
            self._begin(self.queue.take_any())
        self._arm()

    def begin_all(self) -> None:
        """Begin the batches of all who wait."""
        while chunk := self.queue.take_any():
            self._begin(chunk)

    def _arm(self) -> None:
        """Wake up when the next batch is due; one timer, which looks after the oldest request, is enough for all."""
        due = self.queue.due
        if self._timer is None and due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(due - clock.now(), 0.0), self._fire)

    def _fire(self) -> None:
        self._timer = None
        while chunk := self.queue.take(clock.now()):
            self._begin(chunk)
        self._arm()

    def _begin(self, chunk: list[_Ticket[Request, Result]]) -> None:
        batch = asyncio.get_running_loop().create_task(self._run(chunk), context=chunk[0].context)
        self.batches.add(batch)
        batch.add_done_callback(self.batches.discard)

    async def _run(self, chunk: list[_Ticket[Request, Result]]) -> None:
        """Await the batch function and answer everybody, whatever happens."""
        tickets = [one for one in chunk if not one.answer.done()]  # the others have gone since
        answers: list[Answer[Result]] = []
        if not tickets:
            return
        try:
            answers = await self._function.answers([one.request for one in tickets], ASYNCIO)
        finally:
            answers = answers or self._function.interrupted(len(tickets))
            for ticket, answer in zip(tickets, answers, strict=True):
                if not ticket.answer.done():
                    ticket.answer.set_result(answer)


class TaskBatches(Generic[Request, Result]):
    """Gathers the requests of many tasks and runs their batches, for each event loop by itself.

    Args:
        function: What answers a batch.
        new_queue: Makes the place where the requests of one loop wait.
        asks: Gives what a request asks, for the queue; refuses what it cannot tell.
        weigh: Gives what a request weighs, for the queue; refuses what is too heavy.
    """

    def __init__(
        self,
        function: BatchFunction[Request, Result],
        new_queue: Callable[[], BatchQueue[_Ticket[Request, Result]]],
        asks: Callable[[Request], Hashable],
        weigh: Callable[[Request], int],
    ) -> None:
        self._function = function
        self._new_queue = new_queue
        self._asks = asks
        self._weigh = weigh
        self._lock = new_lock()  # guards what follows
        self._lines: dict[asyncio.AbstractEventLoop, _Line[Request, Result]] = {}
        self._is_closed = False
        self._requests = 0

    async def add(self, request: Request) -> Result:
        """Return the answer to a request, or raise it."""
        rest = rest_for(f"a request to {self._function.name} had not been made")
        asks, weight = self._asks(request), self._weigh(request)
        line = self._line()
        ticket: _Ticket[Request, Result] = _Ticket(request, asyncio.get_running_loop().create_future())
        try:
            line.add(ticket, asks, weight)
            if rest is not None:
                await asyncio.wait({ticket.answer}, timeout=rest)
                if not ticket.answer.done():
                    raise DeadlineExceededError(
                        f"the deadline was over while a request to {self._function.name} waited"
                    )
            return (await ticket.answer).unwrap()
        finally:
            line.queue.withdraw(ticket)
            ticket.answer.cancel()
            del ticket  # an error's frames must not lead back to the error: only the collector could free it

    async def flush(self) -> None:
        """Run everything that waits in this loop now, and return when that is done."""
        line = self._line(anew=False)
        before = set(line.batches)
        line.begin_all()
        await self._over(line.batches - before)

    async def close(self) -> None:
        """Refuse new requests, run those that wait in this loop, and return when none of its batches runs any more."""
        with self._lock:
            self._is_closed = True
        line = self._line(anew=False)
        line.begin_all()
        await self._over(set(line.batches))

    def get_stats(self) -> tuple[int, int, int]:
        """Return how many requests came, how many of them wait, and how many batches run, in all loops."""
        with self._lock:
            lines = list(self._lines.values())
            return (
                self._requests,
                sum(len(one.queue) for one in lines),
                sum(len(one.batches) for one in lines),
            )

    def _line(self, *, anew: bool = True) -> _Line[Request, Result]:
        """Return the line of the running loop; with `anew`, for one more request."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if anew and self._is_closed:
                raise BatcherClosedError(f"{self._function.name} takes no more requests: it is closed")
            self._requests += anew
            return self._lines.get(loop) or self._add_line(loop)

    def _add_line(self, loop: asyncio.AbstractEventLoop) -> _Line[Request, Result]:
        """Begin a line, and forget those of loops that are closed."""
        self._lines = {known: line for known, line in self._lines.items() if not known.is_closed()}
        line = self._lines[loop] = _Line(self._function, self._new_queue())
        return line

    async def _over(self, batches: set[asyncio.Task[None]]) -> None:
        batches -= {asyncio.current_task()}
        rest = rest_for(f"batches of {self._function.name} were running")
        if batches and (await asyncio.wait(batches, timeout=rest))[1]:
            raise DeadlineExceededError(
                f"the deadline was over while batches of {self._function.name} were running"
            )
