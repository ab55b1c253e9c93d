"""Joins single requests of many callers into batches, and gives each caller the result of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, Self, TypedDict, TypeVar

from paintkit import _arguments, _wrap, ambient, clock, observations
from paintkit._runtime import Success
from paintkit.errors import BatcherClosedError, BatchReplyError, DeadlineExceededError
from paintkit.machines.batch import BatchQueue

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["RequestBatcher", "RequestBatcherStats"]

Request = TypeVar("Request")
Result = TypeVar("Result")


class RequestBatcherStats(TypedDict):
    """The totals of a `RequestBatcher` since it was made.

    Attributes:
        requests: Requests accepted.
        batches: Calls of the batch function.
        failed_batches: Those that raised, or replied with something other than one result for each request.
        failed_requests: Requests that ended with an error.
        largest_batch: The most requests that one call got.
        waiting: Requests that wait for their batch now.
        running: Batches that run now.
    """

    requests: int
    batches: int
    failed_batches: int
    failed_requests: int
    largest_batch: int
    waiting: int
    running: int


class _Ticket(Generic[Request, Result]):
    """One request on its way, and the place where its caller waits; the batcher's lock guards it."""

    __slots__ = ("_error", "_result", "_traceback", "future", "is_settled", "request", "settled")

    _result: Result

    def __init__(self, request: Request, lock: threading.Lock, future: Future[Result] | None = None) -> None:
        self.request = request
        self.future = future
        self.settled = threading.Condition(lock)
        self.is_settled = False
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None

    def succeed(self, result: Result) -> None:
        self._result = result
        self._settle()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._traceback = _first_traceback(error)
        self._settle()

    def result(self) -> Result:
        """Return the result or raise the error, which callers may share: each raises it with its first traceback."""
        if self._error is None:
            return self._result
        try:
            raise self._error.with_traceback(self._traceback)
        finally:
            del self  # the error's frames must not lead back to the error: only the collector could free it

    def tell_future(self) -> None:
        """Pass the outcome on, outside the lock: the future's callbacks are foreign code."""
        if self.future is None:
            return
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._error)

    def _settle(self) -> None:
        self.is_settled = True
        self.settled.notify()


class RequestBatcher(Generic[Request, Result]):
    """Calls a batch function with the requests that many callers make at about the same time.

    A batch starts as soon as it is full, or when its oldest request has waited for `delay`. It runs in the thread of one
    of its callers, outside every caller's unit of work and deadline; each caller waits no longer than its own deadline.
    If the thread that runs a batch is interrupted, the others of that batch get a `BatchReplyError`, because nobody knows
    how far it came; requests that still wait are led by the next of their callers.

    All methods may be called from any thread, and from the batch function.

    Args:
        process_batch: Called with a list of 1 to `batch_size` requests; returns a list with the result of each, in the
            same order. An exception object in that list is the error of that request alone. What it raises is the error
            of every request of the batch.
        batch_size: The most requests of one call, at least 1 (default 10).
        delay: How long a request waits for company, in seconds or as a timedelta (default 0.1); 0 never waits.
        dedupe: Ask only once for requests of one batch that are equal; they share the result. Requests must be hashable.
        name: What logs and observations call it (default: the module and name of `process_batch`).

    Raises:
        TypeError: An argument is of the wrong kind, or `process_batch` is `async def` or a generator function.
        ValueError: An argument is out of range.

    Example:
        >>> batcher = RequestBatcher(lambda ids: [f"paint {number}" for number in ids], batch_size=2, delay=0.0)
        >>> batcher.add(7)
        'paint 7'
        >>> futures = [batcher.submit(number) for number in (1, 2)]
        >>> [future.result() for future in futures]
        ['paint 1', 'paint 2']
        >>> batcher.close()
    """

    def __init__(
        self,
        process_batch: Callable[[list[Request]], Sequence[Result | BaseException]],
        batch_size: int = 10,
        delay: Seconds = 0.1,
        *,
        dedupe: bool = False,
        name: str | None = None,
    ) -> None:
        self._process_batch = _arguments.callback("process_batch", process_batch)
        self._dedupe = _arguments.flag("dedupe", dedupe)
        #: What logs and observations call it.
        self.name = _wrap.name_of(process_batch) if name is None else _arguments.label("name", name)
        size, seconds = (
            _arguments.count("batch_size", batch_size),
            _arguments.seconds("delay", delay, zero=True),
        )
        # Guards everything below and all tickets; never held while the batch function or a callback runs.
        self._lock = threading.Lock()
        self._queue: BatchQueue[_Ticket[Request, Result]] = BatchQueue(size, seconds)
        self._runners: list[int] = []  # the threads that run a batch
        self._batch_over = threading.Condition(self._lock)
        self._worker: threading.Thread | None = None
        self._work_came = threading.Condition(self._lock)
        self._is_closed = False
        self._requests = self._batches = self._failed_batches = self._failed_requests = (
            self._largest_batch
        ) = 0

    def add(self, request: Request) -> Result:
        """Return the result of `request`, waiting until its batch has run.

        Raises:
            BatcherClosedError: The batcher is closed.
            BatchReplyError: The batch function did not return one result for each request.
            DeadlineExceededError: The ambient deadline was over first. A request that still waited is withdrawn.
            TypeError: With `dedupe`, the request is not hashable.
            Exception: The error of this request, or what the batch function raised.
        """
        ticket: _Ticket[Request, Result] = _Ticket(request, self._lock)
        try:
            with self._lock:
                self._enqueue(ticket)
            while chunk := self._chunk_to_lead(ticket):
                self._run(chunk)
            return ticket.result()
        except BaseException:
            with self._lock:
                self._queue.withdraw(ticket)
            raise
        finally:
            del ticket  # see `_Ticket.result`

    async def aadd(self, request: Request) -> Result:
        """Do as `add` does, without blocking the event loop: the batch runs in the thread that `submit` describes.

        A caller that is cancelled takes its request out of the batch if it is not under way; the others go on.
        """
        import asyncio

        rest = _rest(f"a request to {self.name} had not been made")
        future = self.submit(request)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=rest)
            if not waiting.done():
                raise DeadlineExceededError(f"the deadline was over while a request to {self.name} waited")
            return waiting.result()
        finally:
            # Both at once, and both in vain if they are done: what the one tells the other takes a turn of the loop.
            future.cancel()
            waiting.cancel()
            del future, waiting  # see `_Ticket.result`

    def submit(self, request: Request) -> Future[Result]:
        """Return a future of the result at once.

        The batches of submitted requests run one after another in a daemon thread that lives while there are any. A
        future that is cancelled in time takes its request out of the batch.

        Raises:
            BatcherClosedError: The batcher is closed.
            TypeError: With `dedupe`, the request is not hashable.
        """
        from concurrent.futures import Future

        future: Future[Result] = Future()
        with self._lock:
            self._enqueue(_Ticket(request, self._lock, future))
            if self._worker is None or not self._worker.is_alive():  # it does not live on in a forked child
                self._worker = threading.Thread(
                    target=self._work, name=f"paintkit-batches-{self.name}", daemon=True
                )
                self._worker.start()
            else:
                self._work_came.notify()
        return future

    def flush(self) -> None:
        """Run everything that waits now, in this thread, in batches of at most `batch_size`.

        Errors go to those who made the requests.
        """
        while True:
            with self._lock:
                chunk = self._begin(self._queue.take_any())
            if not chunk:
                return
            self._run(chunk)

    def close(self) -> None:
        """Refuse new requests, run those that wait, and return when no batch runs any more; a second call is harmless.

        Raises:
            DeadlineExceededError: The ambient deadline was over while batches still ran in other threads.
        """
        with self._lock:
            self._is_closed = True
        self.flush()
        with self._lock:
            while set(self._runners) - {threading.get_ident()}:
                clock.wait(self._batch_over, _rest(f"batches of {self.name} were running"))

    def get_stats(self) -> RequestBatcherStats:
        """Return the totals since the batcher was made, as plain data."""
        with self._lock:
            return {
                "requests": self._requests,
                "batches": self._batches,
                "failed_batches": self._failed_batches,
                "failed_requests": self._failed_requests,
                "largest_batch": self._largest_batch,
                "waiting": len(self._queue),
                "running": len(self._runners),
            }

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        return _catalogue.BATCHER.read(self.name, self.get_stats())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _enqueue(self, ticket: _Ticket[Request, Result]) -> None:
        if self._is_closed:
            raise BatcherClosedError(f"{self.name} takes no more requests: it is closed")
        if self._dedupe:
            hash(ticket.request)
        self._queue.add(ticket, clock.now())
        self._requests += 1

    def _chunk_to_lead(self, ticket: _Ticket[Request, Result]) -> list[_Ticket[Request, Result]]:
        """Wait until this caller has a batch to run, or its request is settled.

        Every caller in the queue wakes up by itself when the next batch is due, and the first to come leads it: no
        leader is appointed, so none can be lost.
        """
        with self._lock:
            while not ticket.is_settled:
                rest = _rest(f"a request to {self.name} waited for its batch")
                now = clock.now()
                chunk = self._begin(self._queue.take(now))
                if chunk:
                    return chunk
                due = self._queue.due
                if due is not None and ticket in self._queue:
                    rest = due - now if rest is None else min(rest, due - now)
                clock.wait(ticket.settled, rest)
        return []

    def _begin(self, chunk: list[_Ticket[Request, Result]]) -> list[_Ticket[Request, Result]]:
        if chunk:
            self._runners.append(threading.get_ident())
        return chunk

    def _run(self, chunk: list[_Ticket[Request, Result]]) -> None:
        """Call the batch function and settle every ticket, whatever happens."""
        tickets = chunk
        outcomes: list[Success[Result] | BaseException] = []
        try:
            tickets = [
                one for one in chunk if one.future is None or one.future.set_running_or_notify_cancel()
            ]
            if tickets:
                outcomes = self._outcomes_of([one.request for one in tickets])
        finally:
            interrupted = (
                f"the thread that ran this batch of {self.name} was interrupted; how far it came is unknown"
            )
            self._settle(tickets, outcomes or [BatchReplyError(interrupted) for _ in tickets])
            del chunk, tickets, outcomes  # see `_Ticket.result`

    def _outcomes_of(self, requests: list[Request]) -> list[Success[Result] | BaseException]:
        asked = list(dict.fromkeys(requests)) if self._dedupe else requests
        try:
            reply = _arguments.settled(
                "process_batch", ambient.detached().run(self._process_batch, list(asked))
            )
        except Exception as error:  # noqa: BLE001 - it goes to everybody who asked
            return self._all_failed(error, [error] * len(requests))
        mistake = _mistake_in(reply, len(asked))
        if mistake:
            return self._all_failed(BatchReplyError(mistake), [BatchReplyError(mistake) for _ in requests])
        outcomes: list[Success[Result] | BaseException] = [
            one if isinstance(one, BaseException) else Success(one) for one in reply
        ]
        if not self._dedupe:
            return outcomes
        by_request = dict(zip(asked, outcomes, strict=True))
        return [by_request[request] for request in requests]

    def _all_failed(
        self, error: Exception, outcomes: Sequence[BaseException]
    ) -> list[Success[Result] | BaseException]:
        with self._lock:
            self._failed_batches += 1
        observations.emit("request_batcher.batch_failed", self.name, error=error, requests=len(outcomes))
        return list(outcomes)

    def _settle(
        self, tickets: list[_Ticket[Request, Result]], outcomes: list[Success[Result] | BaseException]
    ) -> None:
        with self._lock:
            for ticket, outcome in zip(tickets, outcomes, strict=True):
                if isinstance(outcome, Success):
                    ticket.succeed(outcome.value)
                else:
                    ticket.fail(outcome)
                    self._failed_requests += 1
            self._batches += bool(tickets)
            self._largest_batch = max(self._largest_batch, len(tickets))
            self._runners.remove(threading.get_ident())
            self._batch_over.notify_all()
        for ticket in tickets:
            ticket.tell_future()

    def _work(self) -> None:
        """Run the batches of submitted requests until none waits any more."""
        while chunk := self._chunk_to_work():
            try:
                self._run(chunk)
            except BaseException:
                # An exit in here ends nothing but this batch, whose futures know; the others still count on this thread.
                import logging

                logging.getLogger("paintkit.batching").exception("%s: a batch was interrupted", self.name)

    def _chunk_to_work(self) -> list[_Ticket[Request, Result]]:
        with self._lock:
            while any(ticket.future is not None for ticket in self._queue):
                now = clock.now()
                chunk = self._begin(self._queue.take(now))
                if chunk:
                    return chunk
                due = self._queue.due
                clock.wait(self._work_came, None if due is None else due - now)
            self._worker = None
        return []


def _rest(meanwhile: str) -> float | None:
    """Return the seconds left until the ambient deadline, if there is one."""
    rest = ambient.remaining()
    if rest is not None and rest <= 0:
        raise DeadlineExceededError(f"the deadline was over while {meanwhile}")
    return rest


def _first_traceback(error: BaseException) -> TracebackType | None:
    """Return where `error` came from, without the frames that earlier callers of ours have put before that.

    A batch function may return one object again and again; its traceback must not grow with every caller who raises it.
    """
    first = entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code is _Ticket.result.__code__:
            first = entry.tb_next
        entry = entry.tb_next
    return first


def _mistake_in(reply: object, asked: int) -> str | None:
    if not isinstance(reply, Sequence) or isinstance(reply, str | bytes | bytearray):
        return (
            f"process_batch must return a list with one result for each request, not {type(reply).__name__}"
        )
    if len(reply) != asked:
        return (
            f"process_batch must return one result for each request: it got {asked} and returned {len(reply)}"
        )
    return None
