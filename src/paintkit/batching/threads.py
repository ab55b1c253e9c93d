"""The batches of a plain batch function: they run in the threads of those who ask, or in one of our own."""

from __future__ import annotations

import atexit
import math
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from paintkit import ambient, clock
from paintkit._locks import new_lock
from paintkit._runtime import ASYNCIO, BLOCKING, Handover, Success, drive
from paintkit.errors import BatcherClosedError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from concurrent.futures import Future
    from logging import Logger

    from paintkit.batching.answers import Answer, BatchFunction
    from paintkit.machines.batch import BatchQueue

__all__ = ["ThreadBatches", "rest_for"]

Request = TypeVar("Request")
Result = TypeVar("Result")

# Seconds that batches may take when the interpreter ends.
_FAREWELL = 5.0


class _Ticket(Generic[Request, Result]):
    """One request on its way, and the place where its caller waits; the lock of the batches guards it."""

    __slots__ = ("answer", "context", "future", "is_led", "request", "settled")

    def __init__(
        self, request: Request, lock: threading.Lock, *, is_led: bool, future: Future[Result] | None = None
    ) -> None:
        self.request = request
        self.context = ambient.detached()
        self.future = future
        self.is_led = is_led  # its caller runs its batch if nobody else does
        self.settled = threading.Condition(lock)
        self.answer: Answer[Result] | None = None

    def settle(self, answer: Answer[Result]) -> None:
        self.answer = answer
        self.settled.notify()

    def tell_future(self) -> None:
        """Pass the answer on, outside the lock: the future's callbacks are foreign code."""
        if self.future is None or self.answer is None:
            return
        if isinstance(self.answer, Success):
            self.future.set_result(self.answer.value)
        else:
            self.future.set_exception(self.answer.error)


class ThreadBatches(Generic[Request, Result]):
    """Gathers the requests of many threads and runs their batches.

    Args:
        function: What answers a batch.
        queue: Where requests wait.
        asks: Gives what a request asks, for the queue; refuses what it cannot tell.
        weigh: Gives what a request weighs, for the queue; refuses what is too heavy.
    """

    def __init__(
        self,
        function: BatchFunction[Request, Result],
        queue: BatchQueue[_Ticket[Request, Result]],
        asks: Callable[[Request], Hashable],
        weigh: Callable[[Request], int],
    ) -> None:
        self._function = function
        self._asks = asks
        self._weigh = weigh
        # Guards everything below and all tickets; never held while the batch function or a callback runs.
        self._lock = new_lock()
        self._queue = queue
        self._runners: list[int] = []  # the threads that run a batch
        self._batch_over = threading.Condition(self._lock)
        self._worker: threading.Thread | None = None
        self._work_came = threading.Condition(self._lock)
        self._is_closed = False
        self._requests = 0
        _alive.add(self)

    def add(self, request: Request) -> Result:
        """Return the answer to a request, or raise it."""
        # Who has a deadline must be able to leave a batch that takes longer, and so does not run it.
        is_led = ambient.deadline.get() is None
        ticket: _Ticket[Request, Result] = _Ticket(request, self._lock, is_led=is_led)
        try:
            self._enqueue(ticket)
            while chunk := self._chunk_to_lead(ticket):
                self._run(chunk)
            return self._answer_of(ticket).unwrap()
        except BaseException:
            self._withdraw(ticket)
            raise
        finally:
            del ticket  # an error's frames must not lead back to the error: only the collector could free it

    async def aadd(self, request: Request) -> Result:
        """Return the answer to a request, or raise it, without blocking the loop."""
        rest = rest_for(f"a request to {self._function.name} had not been made")
        ticket, future = self._submitted(request)
        over = Handover()
        # Not through a future of asyncio: one that should hold a StopIteration would never end.
        future.add_done_callback(lambda _: over.give())
        try:
            if not await ASYNCIO.receive(over, math.inf if rest is None else rest):
                raise DeadlineExceededError(
                    f"the deadline was over while a request to {self._function.name} waited"
                )
            return self._answer_of(ticket).unwrap()
        finally:
            future.cancel()  # in vain if it is done
            del ticket, future  # as above

    def submit(self, request: Request) -> Future[Result]:
        """Return a future of the answer."""
        return self._submitted(request)[1]

    def flush(self) -> None:
        """Run everything that waits now, in this thread."""
        while True:
            with self._lock:
                chunk = self._begin(self._queue.take_any())
            if not chunk:
                return
            self._run(chunk)

    def close(self) -> None:
        """Refuse new requests, run those that wait, and return when no batch runs any more."""
        with self._lock:
            self._is_closed = True
        self.flush()
        self._wait_for_runners()

    def get_stats(self) -> tuple[int, int, int]:
        """Return how many requests came, how many of them wait, and how many batches run."""
        with self._lock:
            return self._requests, len(self._queue), len(self._runners)

    def finish(self) -> None:
        """Answer those who wait when the interpreter ends; the thread that would do it dies with it."""
        token = ambient.deadline.set(clock.now() + _FAREWELL)
        try:
            self.flush()
            self._wait_for_runners()
        except DeadlineExceededError:
            _log().warning("%s: a batch that runs still was left alone at the exit", self._function.name)
        finally:
            ambient.deadline.reset(token)

    def forget(self) -> None:
        """Forget all requests, in a forked child: their callers, and who answers them, are in the parent."""
        for ticket in list(self._queue):
            self._queue.withdraw(ticket)
        here = threading.get_ident()
        self._runners = [one for one in self._runners if one == here]
        self._worker = None

    def _enqueue(self, ticket: _Ticket[Request, Result]) -> None:
        asks, weight = self._asks(ticket.request), self._weigh(ticket.request)
        with self._lock:
            if self._is_closed:
                raise BatcherClosedError(f"{self._function.name} takes no more requests: it is closed")
            self._queue.add(ticket, clock.now(), asks=asks, weight=weight)
            self._requests += 1
            if not ticket.is_led:
                self._call_worker()

    def _submitted(self, request: Request) -> tuple[_Ticket[Request, Result], Future[Result]]:
        from concurrent.futures import Future

        future: Future[Result] = Future()
        ticket = _Ticket(request, self._lock, is_led=False, future=future)
        self._enqueue(ticket)
        future.add_done_callback(lambda ended: self._withdraw(ticket) if ended.cancelled() else None)
        return ticket, future

    def _withdraw(self, ticket: _Ticket[Request, Result]) -> None:
        with self._lock:
            self._queue.withdraw(ticket)

    def _call_worker(self) -> None:
        if self._worker is not None and self._worker.is_alive():
            self._work_came.notify()
            return
        self._worker = threading.Thread(
            target=self._work, name=f"paintkit-batches-{self._function.name}", daemon=True
        )
        self._worker.start()

    def _chunk_to_lead(self, ticket: _Ticket[Request, Result]) -> list[_Ticket[Request, Result]]:
        """Wait until this caller has a batch to run, or its request is settled.

        Every caller in the queue wakes up by itself when the next batch is due, and the first to come leads it: no
        leader is appointed, so none can be lost.
        """
        with self._lock:
            while ticket.answer is None:
                rest = rest_for(f"a request to {self._function.name} waited for its batch")
                if ticket.is_led:
                    now = clock.now()
                    chunk = self._begin(self._queue.take(now))
                    if chunk:
                        return chunk
                    due = self._queue.due
                    rest = due - now if due is not None and ticket in self._queue else None
                clock.wait(ticket.settled, rest)
        return []

    def _answer_of(self, ticket: _Ticket[Request, Result]) -> Answer[Result]:
        if ticket.answer is None:
            raise RuntimeError("the request has not been answered")
        return ticket.answer

    def _begin(self, chunk: list[_Ticket[Request, Result]]) -> list[_Ticket[Request, Result]]:
        if chunk:
            self._runners.append(threading.get_ident())
        return chunk

    def _run(self, chunk: list[_Ticket[Request, Result]]) -> None:
        """Call the batch function and settle every ticket, whatever happens."""
        tickets = chunk
        answers: list[Answer[Result]] = []
        try:
            tickets = [
                one for one in chunk if one.future is None or one.future.set_running_or_notify_cancel()
            ]
            if tickets:
                requests = [one.request for one in tickets]
                answers = chunk[0].context.run(drive, self._function.answers(requests, BLOCKING))
        finally:
            if tickets and not answers:
                answers = self._function.interrupted(len(tickets))
            self._settle(tickets, answers)
            del chunk, tickets, answers  # as above

    def _settle(self, tickets: list[_Ticket[Request, Result]], answers: list[Answer[Result]]) -> None:
        with self._lock:
            for ticket, answer in zip(tickets, answers, strict=True):
                ticket.settle(answer)
            self._runners.remove(threading.get_ident())
            self._batch_over.notify_all()
        for ticket in tickets:
            ticket.tell_future()

    def _work(self) -> None:
        """Run the batches of those who do not lead until none of them waits any more."""
        while chunk := self._chunk_to_work():
            try:
                self._run(chunk)
            except BaseException:  # noqa: BLE001 - see below
                # An exit in here ends nothing but this batch, whose callers know; the others still count on this thread.
                _log().exception("%s: a batch was interrupted", self._function.name)
            del chunk

    def _chunk_to_work(self) -> list[_Ticket[Request, Result]]:
        with self._lock:
            while not all(ticket.is_led for ticket in self._queue):
                now = clock.now()
                chunk = self._begin(self._queue.take(now))
                if chunk:
                    return chunk
                due = self._queue.due
                clock.wait(self._work_came, None if due is None else due - now)
            self._worker = None
        return []

    def _wait_for_runners(self) -> None:
        with self._lock:
            while set(self._runners) - {threading.get_ident()}:
                clock.wait(self._batch_over, rest_for(f"batches of {self._function.name} were running"))


def rest_for(meanwhile: str) -> float | None:
    """Return the seconds left until the ambient deadline, if there is one.

    Raises:
        DeadlineExceededError: It is over; `meanwhile` tells what the caller was about to wait for.
    """
    rest = ambient.remaining()
    if rest is not None and rest <= 0:
        raise DeadlineExceededError(f"the deadline was over while {meanwhile}")
    return rest


def _log() -> Logger:
    import logging

    return logging.getLogger("paintkit.batching")


# All of this process, for its end and for its forked children.
_alive: WeakSet[ThreadBatches[Any, Any]] = WeakSet()


def _finish_all() -> None:
    for batches in list(_alive):
        batches.finish()


def _forget_all() -> None:
    for batches in list(_alive):
        batches.forget()


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
