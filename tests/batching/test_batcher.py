"""The request batcher: who runs a batch, what each caller gets, and that nobody waits for ever."""

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from paintkit import ambient, clock, observations
from paintkit.batching.batcher import RequestBatcher
from paintkit.errors import BatcherClosedError, BatchReplyError, DeadlineExceededError
from paintkit.testing import FakeClock

# Seconds after which something that has to happen has not.
PATIENCE = 60.0


class Doubler:
    """A batch function that remembers its batches and their threads."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.threads: list[int] = []

    def __call__(self, requests):
        self.batches.append(requests)
        self.threads.append(threading.get_ident())
        return [request * 2 for request in requests]


def depth_of(error):
    length, entry = 0, error.__traceback__
    while entry is not None:
        length, entry = length + 1, entry.tb_next
    return length


@pytest.fixture
def fake():
    with FakeClock() as fake_clock:
        yield fake_clock


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as executor:
        yield executor


def waiting(batcher, count):
    """Return once that many requests wait."""
    while batcher.get_stats()["waiting"] < count:
        os.sched_yield()


def test_a_lone_request_waits_for_company_and_runs_in_its_own_thread(fake):
    """The delay is measured on paintkit's clock; no thread is started."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=0.1)
    assert 14 == batcher.add(7)
    assert pytest.approx(0.1) == fake.now()
    assert ([[7]], [threading.get_ident()]) == (double.batches, double.threads)


def test_no_delay_means_no_waiting(fake):
    """With `delay=0` a request runs at once."""
    assert 14 == RequestBatcher(Doubler(), delay=0).add(7)
    assert 0.0 == fake.now()


def test_the_caller_who_fills_a_batch_runs_it_at_once(fake, pool):
    """Nobody waits for the delay when the batch is full; each gets its own result."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=3, delay=60.0)
    early = [pool.submit(batcher.add, number) for number in (1, 2)]
    waiting(batcher, 2)
    assert 6 == batcher.add(3)
    assert [2, 4] == [future.result() for future in early]
    assert [threading.get_ident()] == double.threads
    assert [[1, 2, 3]] == [sorted(batch) for batch in double.batches]
    assert 0.0 == fake.now()


def test_the_window_ends_for_all_who_joined_it(fake, pool):
    """A batch that never fills runs when its oldest request has waited for the delay."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=10, delay=1.0)
    early = pool.submit(batcher.add, 1)
    waiting(batcher, 1)
    fake.advance(0.9)
    late = pool.submit(batcher.add, 2)
    waiting(batcher, 2)
    fake.advance(0.1)
    assert [2, 4] == [early.result(), late.result()]
    assert [[1, 2]] == double.batches


def test_flush_runs_what_waits_in_chunks(fake):
    """The batch size holds in `flush()`, too."""
    double, release = Doubler(), threading.Event()

    def process(requests):
        if requests == ["first"]:
            release.wait()
            return ["first"]
        return double(requests)

    batcher = RequestBatcher(process, batch_size=10, delay=5.0)
    head = batcher.submit("first")
    waiting(batcher, 1)
    fake.advance(5.0)
    while not batcher.get_stats()["running"]:
        pass
    futures = [batcher.submit(number) for number in range(25)]
    batcher.flush()
    assert [10, 10, 5] == [len(batch) for batch in double.batches]
    assert [number * 2 for number in range(25)] == [future.result() for future in futures]
    release.set()
    assert "first" == head.result()


def test_an_exception_in_the_reply_is_the_error_of_its_request_alone():
    """The others of the batch get their results."""

    def process(requests):
        return [KeyError(one) if one == 2 else one for one in requests]

    batcher = RequestBatcher(process, batch_size=3, delay=60.0)
    futures = [batcher.submit(number) for number in (1, 2, 3)]
    assert [1, 3] == [futures[0].result(), futures[2].result()]
    with pytest.raises(KeyError):
        futures[1].result()
    stats = batcher.get_stats()
    assert (1, 0, 1) == (stats["batches"], stats["failed_batches"], stats["failed_requests"])


def test_what_the_batch_function_raises_reaches_every_caller(pool):
    """All get the same error, each with the traceback of its origin and nobody else's frames."""
    error, seen = OSError("down"), []

    def process(requests):
        raise error

    batcher = RequestBatcher(process, batch_size=8, delay=60.0, name="lookups")

    def caught():
        try:
            batcher.add(1)
        except OSError as raised:
            return raised, depth_of(raised)

    with observations.observe(seen.append):
        outcomes = [future.result() for future in [pool.submit(caught) for _ in range(8)]]
    assert {error} == {raised for raised, _ in outcomes}
    assert max(depth for _, depth in outcomes) <= 10
    assert [("request_batcher.batch_failed", "lookups", 8)] == [
        (one.kind, one.source, one.details["requests"]) for one in seen if one.source == "lookups"
    ]


def test_one_error_object_returned_again_and_again_does_not_grow():
    """A constant error keeps the traceback of its origin, however many callers raise it."""
    missing = LookupError("missing")
    batcher = RequestBatcher(lambda requests: [missing] * len(requests), delay=0)
    depths = []
    for _ in range(5):
        with pytest.raises(LookupError):
            batcher.add(1)
        depths.append(depth_of(missing))
    assert 1 == len(set(depths))


def test_an_error_leaves_nothing_for_the_collector():
    """The error, its frames and what they hold die with the `except` block."""

    def process(requests):
        raise ValueError("bad")

    class Held:
        pass

    def ask(local):
        batcher.add(1)

    batcher, held = RequestBatcher(process, delay=0), Held()
    gone = weakref.ref(held)
    with contextlib.suppress(ValueError):
        ask(held)
    del held
    assert gone() is None


@pytest.mark.parametrize(
    "reply",
    [[], [1], [1, 2, 3], None, {1: 1, 2: 2}, "ab", (one for one in (1, 2))],
    ids=["empty", "short", "long", "None", "dict", "str", "generator"],
)
def test_a_reply_of_another_shape_is_an_error_for_every_caller(reply):
    """One result for each request, in a list: nothing else can be given out."""
    batcher = RequestBatcher(lambda requests: reply, batch_size=2, delay=60.0)
    futures = [batcher.submit(1), batcher.submit(2)]
    errors = [future.exception() for future in futures]
    assert [BatchReplyError, BatchReplyError] == [type(error) for error in errors]
    assert errors[0] is not errors[1]
    assert 1 == batcher.get_stats()["failed_batches"]


def test_a_batch_runs_outside_its_callers_unit_and_deadline():
    """It works for many callers, so it lives in the unit of work of none."""
    variable = contextvars.ContextVar("variable", default="unset")
    batcher = RequestBatcher(
        lambda requests: (
            [(ambient.deadline.get(), ambient.unit_of_work.get(), variable.get())] * len(requests)
        ),
        delay=0,
    )
    tokens = ambient.deadline.set(clock.now() + 60), ambient.unit_of_work.set(object()), variable.set("kept")
    try:
        assert (None, None, "kept") == batcher.add(1)
    finally:
        ambient.deadline.reset(tokens[0])
        ambient.unit_of_work.reset(tokens[1])
        variable.reset(tokens[2])


def test_whoever_waits_stops_at_the_own_deadline(fake):
    """A request that is out of time is withdrawn, not run."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=10.0)
    token = ambient.deadline.set(fake.now() + 2.0)
    try:
        with pytest.raises(DeadlineExceededError):
            batcher.add(1)
    finally:
        ambient.deadline.reset(token)
    assert pytest.approx(2.0) == fake.now()
    batcher.flush()
    assert [] == double.batches


def test_a_deadline_ends_the_wait_for_a_batch_that_runs_elsewhere(fake, pool):
    """The batch goes on for the others."""
    started, release = threading.Event(), threading.Event()

    def process(requests):
        started.set()
        release.wait()
        return requests

    batcher = RequestBatcher(process, batch_size=2, delay=60.0)

    def hasty():
        ambient.deadline.set(fake.now() + 1.0)
        batcher.add("hasty")

    waiter = pool.submit(contextvars.copy_context().run, hasty)
    waiting(batcher, 1)
    leader = pool.submit(batcher.add, "patient")
    started.wait()
    fake.advance(1.0)
    with pytest.raises(DeadlineExceededError):
        waiter.result()
    release.set()
    assert "patient" == leader.result()


def test_an_interrupted_waiter_takes_only_itself_away(fake, pool, monkeypatch):
    """When the first of a window is interrupted, the next of its callers leads."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=1.0)
    wait, interrupted = clock.wait, threading.Event()

    def interrupting(condition, timeout):
        if threading.current_thread() is threading.main_thread():
            interrupted.set()
            raise KeyboardInterrupt
        return wait(condition, timeout)

    monkeypatch.setattr(clock, "wait", interrupting)
    other = pool.submit(batcher.add, 2)
    waiting(batcher, 1)
    with pytest.raises(KeyboardInterrupt):
        batcher.add(1)
    assert 1 == batcher.get_stats()["waiting"]
    fake.advance(1.0)
    assert 4 == other.result()
    assert [[2]] == double.batches


def test_an_interrupted_batch_hangs_nobody(pool):
    """Its other callers are told that nobody knows how far it came, and later requests work."""

    def process(requests):
        if "stop" in requests:
            raise KeyboardInterrupt
        return requests

    batcher = RequestBatcher(process, batch_size=2, delay=60.0)
    other = pool.submit(batcher.add, "other")
    waiting(batcher, 1)
    with pytest.raises(KeyboardInterrupt):
        batcher.add("stop")
    with pytest.raises(BatchReplyError, match="interrupted"):
        other.result()
    assert 0 == batcher.get_stats()["running"]
    both = [batcher.submit("a"), batcher.submit("b")]
    assert ["a", "b"] == [future.result() for future in both]


def test_an_exit_in_the_worker_leaves_it_working(caplog):
    """A batch function that calls `sys.exit` spoils its own batch only."""

    def process(requests):
        if "stop" in requests:
            raise SystemExit
        return requests

    batcher = RequestBatcher(process, batch_size=1)
    with pytest.raises(BatchReplyError):
        batcher.submit("stop").result()
    assert "go" == batcher.submit("go").result()
    batcher.close()
    assert 1 == [record.name for record in caplog.records].count("paintkit.batching")


def test_submit_returns_at_once(fake):
    """The delay passes in a thread that ends when nothing waits."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=1.0)
    futures = [batcher.submit(1), batcher.submit(2)]
    assert not any(future.done() for future in futures)
    worker = batcher._threads._worker
    assert worker.daemon
    fake.advance(1.0)
    assert [2, 4] == [future.result() for future in futures]
    worker.join()
    assert batcher._threads._worker is None
    assert [[1, 2]] == double.batches
    again = batcher.submit(3)
    fake.advance(1.0)
    assert 6 == again.result()


def test_added_and_submitted_requests_share_batches(fake, pool):
    """There is one queue."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=2, delay=60.0)
    future = batcher.submit(1)
    assert 4 == batcher.add(2)
    assert 2 == future.result()
    assert [[1, 2]] == double.batches


def test_a_cancelled_future_is_not_asked_for(fake):
    """What nobody wants any more does not reach the batch function; a batch of nothing does not run."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=60.0)
    futures = [batcher.submit(number) for number in (1, 2)]
    assert futures[0].cancel()
    batcher.flush()
    assert ([[2]], 4) == (double.batches, futures[1].result())
    lonely = batcher.submit(3)
    lonely.cancel()
    batcher.close()
    assert [[2]] == double.batches
    assert 1 == batcher.get_stats()["batches"]


def test_close_runs_what_waits_and_refuses_the_rest(fake, pool):
    """Nobody who was accepted is left without an answer; a second `close()` is harmless."""
    double = Doubler()
    with RequestBatcher(double, delay=60.0, name="lookups") as batcher:
        waiter = pool.submit(batcher.add, 1)
        waiting(batcher, 1)
        future = batcher.submit(2)
    assert [2, 4] == [waiter.result(), future.result()]
    batcher.close()
    for refused in (batcher.add, batcher.submit):
        with pytest.raises(BatcherClosedError, match="lookups"):
            refused(3)


def test_close_waits_for_batches_that_run(pool):
    """After `close()` nothing is under way."""
    started, release, over = threading.Event(), threading.Event(), []

    def process(requests):
        started.set()
        release.wait()
        over.append(1)
        return requests

    batcher = RequestBatcher(process, batch_size=1)
    running = pool.submit(batcher.add, 1)
    started.wait()
    closing = pool.submit(lambda: (batcher.close(), list(over))[1])
    while not batcher._threads._is_closed:
        pass
    release.set()
    assert [1] == closing.result()
    assert 1 == running.result()


def test_close_stops_waiting_at_the_deadline(fake, pool):
    """A batch that never ends cannot hold the program."""
    started, release = threading.Event(), threading.Event()

    def process(requests):
        started.set()
        release.wait()
        return requests

    batcher = RequestBatcher(process, batch_size=1)
    running = pool.submit(batcher.add, 1)
    started.wait()
    token = ambient.deadline.set(fake.now())
    try:
        with pytest.raises(DeadlineExceededError):
            batcher.close()
    finally:
        ambient.deadline.reset(token)
        release.set()
    assert 1 == running.result()


def test_a_batch_function_may_use_its_own_batcher():
    """A request within a batch leads a batch of its own; closing within one does not wait for itself."""

    def process(requests):
        inner = [batcher.add(one - 1) if one else 0 for one in requests]
        if not any(requests):
            batcher.close()
        return inner

    batcher = RequestBatcher(process, delay=0)
    assert 0 == batcher.add(3)


def test_equal_requests_are_asked_once_if_wished():
    """With `dedupe` the callers of equal requests share one place and one result, else each asks for its own."""
    for size, dedupe, expected in ((2, True, [[1, 2]]), (3, False, [[1, 1, 2]])):
        double = Doubler()
        batcher = RequestBatcher(double, batch_size=size, delay=60.0, dedupe=dedupe)
        futures = [batcher.submit(number) for number in (1, 1, 2)]
        assert [2, 2, 4] == [future.result() for future in futures]
        assert expected == double.batches


def test_none_can_be_asked_for_once_too():
    """It is a request like any other."""
    asked = []
    batcher = RequestBatcher(lambda requests: asked.extend(requests) or requests, delay=60.0, dedupe=True)
    futures = [batcher.submit(None) for _ in range(2)]
    batcher.flush()
    assert [None, None] == [future.result() for future in futures]
    assert [None] == asked


def test_the_bytes_of_a_batch_are_limited():
    """What does not fit begins the next one; what never fits is refused, and only its own caller hears of it."""
    asked = []
    batcher = RequestBatcher(
        lambda requests: asked.append(requests) or requests, delay=60.0, max_bytes=10, size_of=len
    )
    futures = [batcher.submit(bytes(size)) for size in (6, 4, 7, 2)]
    with pytest.raises(ValueError, match="size of a request must be at least 0 and at most 10, not 11"):
        batcher.add(bytes(11))
    batcher.close()
    assert [6, 4, 7, 2] == [len(future.result()) for future in futures]
    assert [[6, 4], [7, 2]] == [[len(one) for one in batch] for batch in asked]


def test_a_request_that_cannot_be_compared_is_refused_before_it_waits():
    """Only its own caller hears of it."""
    batcher = RequestBatcher(Doubler(), dedupe=True)
    with pytest.raises(TypeError, match="dedupe=True: unhashable"):
        batcher.add([])
    assert 0 == batcher.get_stats()["waiting"]


def test_a_batch_function_may_spoil_its_list():
    """The list is its own."""

    def process(requests):
        taken = list(requests)
        requests.clear()
        return taken

    assert 5 == RequestBatcher(process, delay=0).add(5)


def test_tasks_share_a_batch():
    """`aadd` joins the requests of many tasks; each gets its own result or error."""

    def process(requests):
        batches.append(sorted(requests))
        return [KeyError(one) if one == 2 else one * 2 for one in requests]

    batches = []
    batcher = RequestBatcher(process, batch_size=3, delay=60.0)

    async def main():
        return await asyncio.gather(*(batcher.aadd(number) for number in (1, 2, 3)), return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (2, KeyError, 6) == (first, type(second), third)
    assert [[1, 2, 3]] == batches


@pytest.mark.parametrize(
    "process",
    [lambda requests: next(iter(())), lambda requests: [StopIteration()]],
    ids=["it is raised", "it is in the list"],
)
def test_a_task_does_not_wait_for_ever_for_an_error_that_no_coroutine_may_raise(process):
    """A `StopIteration` reaches it as Python lets it: as the cause of a `RuntimeError`."""
    batcher = RequestBatcher(process, delay=0)

    async def main():
        async with asyncio.timeout(PATIENCE):
            await batcher.aadd(1)

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_task_waits_for_company_on_paintkits_clock(fake):
    """The window is the same as for threads."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=0.5)
    assert 14 == fake.run(batcher.aadd(7))
    assert pytest.approx(0.5) == fake.now()
    assert threading.get_ident() not in double.threads


def test_a_task_stops_at_its_own_deadline(fake):
    """Its request is withdrawn; a deadline that is over refuses at once."""
    double = Doubler()
    batcher = RequestBatcher(double, delay=60.0)

    async def main(seconds):
        ambient.deadline.set(fake.now() + seconds)
        await batcher.aadd(1)

    for seconds in (2.0, 0.0):
        with pytest.raises(DeadlineExceededError):
            fake.run(main(seconds))
    assert pytest.approx(2.0) == fake.now()
    batcher.close()
    assert [] == double.batches


def test_a_cancelled_task_takes_only_itself_away():
    """The other requests of the batch are asked for."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=3, delay=60.0)

    async def main():
        tasks = [asyncio.create_task(batcher.aadd(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        batcher.flush()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, result = asyncio.run(main())
    assert (asyncio.CancelledError, 4) == (type(cancelled), result)
    assert [[2]] == double.batches


async def _coroutine_function(requests):
    raise AssertionError("never reached")


def _generator_function(requests):
    yield from requests


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"process_batch": None}, TypeError, "process_batch"),
        ({"process_batch": _generator_function}, TypeError, "process_batch"),
        ({"process_batch": functools.partial(_generator_function)}, TypeError, "process_batch"),
        ({"max_bytes": 0, "size_of": len}, ValueError, "max_bytes"),
        ({"max_bytes": 10}, ValueError, "max_bytes needs size_of"),
        ({"size_of": len}, ValueError, "size_of has no effect"),
        ({"max_bytes": 10, "size_of": 3}, TypeError, "size_of"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size"),
        ({"delay": -1}, ValueError, "delay"),
        ({"delay": float("nan")}, ValueError, "delay"),
        ({"delay": "1"}, TypeError, "delay"),
        ({"dedupe": 1}, TypeError, "dedupe"),
        ({"name": ""}, ValueError, "name"),
    ],
)
def test_senseless_arguments_are_refused(options, kind, named):
    """The error names the argument."""
    with pytest.raises(kind, match=named):
        RequestBatcher(**{"process_batch": list, **options})


def test_a_delay_may_be_a_timedelta(fake):
    """Durations are seconds or timedelta."""
    RequestBatcher(Doubler(), delay=timedelta(milliseconds=250)).add(1)
    assert pytest.approx(0.25) == fake.now()


def test_a_coroutine_as_reply_is_an_error(recwarn):
    """Nothing would await it."""

    def disguised(requests):
        return _coroutine_function(requests)

    with pytest.raises(TypeError, match="process_batch"):
        RequestBatcher(disguised, delay=0).add(1)
    assert [] == [one for one in recwarn if "never awaited" in str(one.message)]


def test_many_threads_get_their_own_results():
    """Under contention each caller gets its own result, once, in batches no larger than allowed."""
    double = Doubler()
    batcher = RequestBatcher(double, batch_size=5, delay=0.001)

    def work(start):
        return [batcher.add(number) for number in range(start, start + 50)]

    with ThreadPoolExecutor(8) as executor:
        results = [future.result() for future in [executor.submit(work, n * 50) for n in range(8)]]
    assert [[number * 2 for number in range(n * 50, n * 50 + 50)] for n in range(8)] == results
    assert list(range(400)) == sorted(number for batch in double.batches for number in batch)
    assert max(len(batch) for batch in double.batches) <= 5
    stats = batcher.get_stats()
    assert (400, len(double.batches), 0, 0) == (
        stats["requests"],
        stats["batches"],
        stats["waiting"],
        stats["running"],
    )
