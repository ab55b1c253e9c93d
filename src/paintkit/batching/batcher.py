"""Joins single requests of many callers into batches, and gives each caller the result of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar, overload

from paintkit import _arguments, _wrap
from paintkit.batching.answers import BatchFunction
from paintkit.batching.threads import ThreadBatches
from paintkit.machines.batch import BatchQueue

if TYPE_CHECKING:
    from concurrent.futures import Future

    from paintkit.batching.tasks import TaskBatches
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


class RequestBatcher(Generic[Request, Result]):
    """Calls a batch function with the requests that many callers make at about the same time.

    A batch starts as soon as it is full, or when its oldest request has waited for `delay`. It runs outside every caller's
    unit of work and deadline, with the other context variables of the oldest request; each caller waits no longer than its
    own deadline. What one caller does, giving up or being cancelled, changes nothing for the others. Who interrupts a batch that runs (Ctrl+C, the end of its loop) leaves the
    others of it with a `BatchReplyError`, because nobody knows how far it came.

    A plain batch function runs in the thread of one of those who call `add()`. Where nobody does who could wait for it (a
    caller with a deadline, `submit()`, `aadd()`), batches run one after another in a daemon thread, which lives while there
    are any; what still waits when the interpreter ends is run then, for at most 5 seconds.

    An `async def` batch function runs in the event loop of those who call `aadd()`, in a task of its own; every loop has
    its own batches, because what such a function uses belongs to one loop. `add`, `submit`, `flush` and `close` are refused:
    there is no loop that they could borrow. `asyncio.run()` cancels what still runs or waits at its end; `await aclose()` first.

    All methods may be called from any thread, and from the batch function.

    Args:
        process_batch: Called with a list of 1 to `batch_size` requests; returns a list with the result of each, in the
            same order. An exception object in that list is the error of that request alone. What it raises is the error
            of every request of the batch. A plain function or `async def`.
        batch_size: The most requests of one call, at least 1 (default 10).
        delay: How long a request waits for company, in seconds or as a timedelta (default 0.1); 0 never waits, but for
            those who ask in the same turn of an event loop.
        dedupe: Ask only once for requests of one batch that are equal; they count once and share the result. Requests must
            be hashable.
        max_bytes: The most bytes of one call, at least 1, as `size_of` tells them (default `None`: no limit).
        size_of: Called with a request, returns its size in bytes; needed with `max_bytes`.
        name: What logs and observations call it (default: the module and name of `process_batch`).

    Raises:
        TypeError: An argument is of the wrong kind, or `process_batch` is a generator function.
        ValueError: An argument is out of range, or one of `max_bytes` and `size_of` is given without the other.

    Example:
        >>> batcher = RequestBatcher(lambda ids: [f"paint {number}" for number in ids], batch_size=2, delay=0.0)
        >>> batcher.add(7)
        'paint 7'
        >>> futures = [batcher.submit(number) for number in (1, 2)]
        >>> [future.result() for future in futures]
        ['paint 1', 'paint 2']
        >>> batcher.close()
    """

    @overload
    def __init__(
        self,
        process_batch: Callable[[list[Request]], Awaitable[Sequence[Result | BaseException]]],
        batch_size: int = 10,
        delay: Seconds = 0.1,
        *,
        dedupe: bool = False,
        max_bytes: int | None = None,
        size_of: Callable[[Request], int] | None = None,
        name: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        process_batch: Callable[[list[Request]], Sequence[Result | BaseException]],
        batch_size: int = 10,
        delay: Seconds = 0.1,
        *,
        dedupe: bool = False,
        max_bytes: int | None = None,
        size_of: Callable[[Request], int] | None = None,
        name: str | None = None,
    ) -> None: ...

    def __init__(
        self,
        process_batch: Callable[[list[Request]], Any],
        batch_size: int = 10,
        delay: Seconds = 0.1,
        *,
        dedupe: bool = False,
        max_bytes: int | None = None,
        size_of: Callable[[Request], int] | None = None,
        name: str | None = None,
    ) -> None:
        is_async = _is_async(process_batch)
        #: What logs and observations call it.
        self.name = _wrap.name_of(process_batch) if name is None else _arguments.label("name", name)
        size, seconds = (
            _arguments.count("batch_size", batch_size),
            _arguments.seconds("delay", delay, zero=True),
        )
        self._dedupe = _arguments.flag("dedupe", dedupe)
        self._size_of, self._max_bytes = _sizes(size_of, max_bytes)
        self._function: BatchFunction[Request, Result] = BatchFunction(
            process_batch if is_async else _settled(process_batch), dedupe=dedupe, name=self.name
        )

        def new_queue() -> BatchQueue[Any]:
            return BatchQueue(size, seconds, *(() if max_bytes is None else (max_bytes,)))

        self._threads: ThreadBatches[Request, Result] | None = None
        self._tasks: TaskBatches[Request, Result] | None = None
        if is_async:
            from paintkit.batching.tasks import TaskBatches  # late: blocking programs never need asyncio

            self._tasks = TaskBatches(self._function, new_queue, self._question, self._weight)
        else:
            self._threads = ThreadBatches(self._function, new_queue(), self._question, self._weight)

    def add(self, request: Request) -> Result:
        """Return the result of `request`, waiting until its batch has run.

        Raises:
            BatcherClosedError: The batcher is closed.
            BatchReplyError: The batch function did not return one result for each request.
            DeadlineExceededError: The ambient deadline was over first. A request that still waited is withdrawn.
            TypeError: The batch function is `async def`; or, with `dedupe`, the request is not hashable.
            ValueError: The request alone is larger than `max_bytes`.
            Exception: The error of this request, or what the batch function raised.
        """
        return self._blocking("add").add(request)

    async def aadd(self, request: Request) -> Result:
        """Do as `add` does, without blocking the event loop, for a batch function of either colour.

        A caller that is cancelled takes its request out of the batch if it is not under way; the others go on.
        """
        if self._tasks is not None:
            return await self._tasks.add(request)
        return await self._blocking("aadd").aadd(request)

    def submit(self, request: Request) -> Future[Result]:
        """Return a future of the result at once.

        A future that is cancelled in time takes its request out of the batch.

        Raises:
            BatcherClosedError: The batcher is closed.
            TypeError: The batch function is `async def`; or, with `dedupe`, the request is not hashable.
            ValueError: The request alone is larger than `max_bytes`.
        """
        return self._blocking("submit").submit(request)

    def flush(self) -> None:
        """Run everything that waits now, in this thread, in batches of at most `batch_size`.

        Errors go to those who made the requests.
        """
        self._blocking("flush").flush()

    async def aflush(self) -> None:
        """Run everything that waits now, without blocking the event loop; with an `async def` function, in this loop.

        Raises:
            DeadlineExceededError: The ambient deadline was over while the batches still ran.
        """
        if self._tasks is not None:
            await self._tasks.flush()
        else:
            await _in_thread(self.flush)

    def close(self) -> None:
        """Refuse new requests, run those that wait, and return when no batch runs any more; a second call is harmless.

        Raises:
            DeadlineExceededError: The ambient deadline was over while batches still ran in other threads.
        """
        self._blocking("close").close()

    async def aclose(self) -> None:
        """Do as `close` does, without blocking the event loop; with an `async def` function, for this loop.

        Raises:
            DeadlineExceededError: The ambient deadline was over while batches still ran.
        """
        if self._tasks is not None:
            await self._tasks.close()
        else:
            await _in_thread(self.close)

    def get_stats(self) -> RequestBatcherStats:
        """Return the totals since the batcher was made, as plain data."""
        requests, waiting, running = (self._tasks or self._blocking("get_stats")).get_stats()
        return {"requests": requests, **self._function.totals(), "waiting": waiting, "running": running}

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        return _catalogue.BATCHER.read(self.name, self.get_stats())

    def __repr__(self) -> str:
        return f"<RequestBatcher {self.name!r}>"

    def __enter__(self) -> Self:
        self._blocking("with")
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()

    def _blocking(self, what: str) -> ThreadBatches[Request, Result]:
        if self._threads is None:
            raise TypeError(
                f"{what} needs a plain batch function, and {self.name} is `async def`: use `await batcher.aadd(...)`, "
                "`aflush`, `aclose` and `async with` in the event loop that its batches shall run in"
            )
        return self._threads

    def _question(self, request: Request) -> Hashable:
        if not self._dedupe:
            return None
        try:
            hash(request)
        except TypeError as error:
            raise TypeError(f"a request must be hashable with dedupe=True: {error}") from error
        return (request,)  # a request may be None

    def _weight(self, request: Request) -> int:
        if self._size_of is None:
            return 0
        return _arguments.count(
            "the size of a request", self._size_of(request), least=0, most=self._max_bytes
        )


def _is_async(process_batch: Callable[..., Any]) -> bool:
    try:
        if _wrap.colour_of(process_batch) is _wrap.Colour.ASYNCIO:
            return True
    except TypeError:  # told in the argument's own name below
        pass
    _arguments.callback("process_batch", process_batch)
    return False


def _settled(process_batch: Callable[[list[Request]], Any]) -> Callable[[list[Request]], Any]:
    return lambda requests: _arguments.settled("process_batch", process_batch(requests))


def _sizes(
    size_of: Callable[[Request], int] | None, max_bytes: int | None
) -> tuple[Callable[[Request], int] | None, int | None]:
    if max_bytes is None:
        if size_of is not None:
            raise ValueError("size_of has no effect without max_bytes: give both or none")
        return None, None
    if size_of is None:
        raise ValueError("max_bytes needs size_of, which tells the bytes of a request, such as size_of=len")
    return _arguments.callback("size_of", size_of), _arguments.count("max_bytes", max_bytes)


async def _in_thread(wait: Callable[[], None]) -> None:
    """Run what waits, in a thread."""
    import asyncio

    await asyncio.to_thread(wait)
