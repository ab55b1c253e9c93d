"""The laws of flights: one load for all who wait, and no wait that never ends."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import traceback
import weakref

import pytest

from paintkit import CacheManager, DeadlineExceededError, ambient, clock, observe
from paintkit.cache.runtimes import BLOCKING
from paintkit.testing import FakeClock
from tests.cache.threads import PATIENCE, Gate, Running, eventually
from tests.cache.units import unit_of_work
from tests.colours import Colour


def waiters(cache):
    """Return how many calls wait for flights that are under way."""
    return sum(len(flight._seats or ()) for flight in list(cache._store._flights.values()))


def waiting(colour, others):
    """Return how many seats are taken when `others` calls wait beside the leader, who waits too in asyncio."""
    return others + (colour is Colour.ASYNCIO)


async def turns(condition):
    """Let the other tasks of this loop run until they have got somewhere."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


def test_a_stampede_loads_once(cache, colour):
    """However many threads and event loops ask at once, one load answers all."""
    gate = Gate(lambda: "loaded")
    load = cache.cache_result()(colour.function(gate.__call__))
    leader = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    others = [Running(lambda: colour.call(load)) for _ in range(40)]
    eventually(lambda: waiters(cache) == waiting(colour, 40))
    gate.open()
    assert ["loaded"] * 41 == [each.result() for each in [leader, *others]]
    assert 1 == gate.loads
    stats = cache.get_stats()
    assert (41, 40, 1) == (stats["misses"], stats["joined"], stats["loads"])
    assert {} == cache._store._flights


def test_a_thousand_tasks_load_once(cache):
    """A stampede within one event loop is one load."""
    loads = 0

    @cache.cache_result()
    async def load(key):
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return key

    async def stampede():
        return await asyncio.gather(*(load(7) for _ in range(1_000)))

    assert [7] * 1_000 == asyncio.run(stampede())
    assert 1 == loads


def test_a_failure_goes_to_all_who_wait_and_is_not_kept(cache, colour):
    """The error of a failed load reaches everybody who waited for it; the next call loads anew."""
    attempts = []

    def fail():
        attempts.append(None)
        if len(attempts) == 1:
            gate()
            raise LookupError("no such paint")
        return "found"

    gate = Gate(lambda: None)
    load = cache.cache_result()(colour.function(fail))
    leader = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    others = [Running(lambda: colour.call(load)) for _ in range(3)]
    eventually(lambda: waiters(cache) == waiting(colour, 3))
    gate.open()
    errors = [each.error() for each in [leader, *others]]
    assert ["no such paint"] * 4 == [str(error) for error in errors]
    assert "found" == colour.call(load)
    assert 2 == len(attempts)
    assert (2, 1) == (cache.get_stats()["loads"], cache.get_stats()["load_errors"])


def test_a_failing_key_fails_again_and_does_not_hang(cache, colour):
    """A loader that always raises is called each time, in one thread too."""
    load = cache.cache_result()(colour.function(lambda: 1 / 0))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            colour.call(load)
    assert 3 == cache.get_stats()["load_errors"]


@pytest.mark.parametrize("options", [{}, {"loader_timeout": PATIENCE}], ids=["own thread", "apart"])
@pytest.mark.parametrize("how", ["call", "refresh", "memo", "unit"])
def test_stop_iteration_passes(cache, how, options):
    """It means nothing to us, though we run on generators ourselves."""

    @cache.cache_result(**options)
    def first(items):
        return next(iter(items))

    with pytest.raises(StopIteration):
        if how == "memo":
            with cache.memo():
                first(())
        elif how == "unit":
            with unit_of_work():
                first(())
        else:
            getattr(first, {"call": "__call__"}.get(how, how))(())
    assert "red" == first(("red",))


def test_an_error_shared_by_many_does_not_grow(cache):
    """Each waiter sees the load's own traceback and its own frames, not those of all the others."""
    gate = Gate(lambda: None)

    @cache.cache_result()
    def load():
        gate()
        raise LookupError

    leader = Running(load)
    assert gate.began.wait(PATIENCE)
    others = [Running(load) for _ in range(20)]
    eventually(lambda: waiters(cache) == 20)
    gate.open()
    depths = [len(traceback.extract_tb(each.error().__traceback__)) for each in [leader, *others]]
    assert max(depths) < 20


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_leader_hands_over(cache, interruption):
    """`BaseException` ends the call that it hit; somebody who waits loads in its place."""
    gate = Gate(lambda: None)
    loads = []

    @cache.cache_result()
    def load():
        loads.append(threading.get_ident())
        if len(loads) == 1:
            gate()
            raise interruption
        return "loaded"

    leader = Running(load)
    assert gate.began.wait(PATIENCE)
    others = [Running(load) for _ in range(3)]
    eventually(lambda: waiters(cache) == 3)
    gate.open()
    assert isinstance(leader.error(), interruption)
    assert ["loaded"] * 3 == [each.result() for each in others]
    assert 2 == len(loads)


def test_the_others_survive_the_first_callers_cancellation(cache):
    """Cancelling the task that asked first cancels nobody else's load."""
    loads = 0

    @cache.cache_result()
    async def load():
        nonlocal loads
        loads += 1
        await go.wait()
        return "loaded"

    async def scenario():
        first = asyncio.create_task(load())
        second = asyncio.create_task(load())
        await turns(lambda: waiters(cache) == 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        return await second

    go = asyncio.Event()
    assert "loaded" == asyncio.run(scenario())
    assert 1 == loads


def test_the_last_waiter_takes_the_load_along(cache):
    """When nobody waits any more, the load is cancelled, and the next call begins a new one."""
    ended = []

    @cache.cache_result()
    async def load():
        if not ended:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("cancelled")
        return "loaded"

    async def scenario():
        tasks = [asyncio.create_task(load()) for _ in range(3)]
        await turns(lambda: waiters(cache) == 3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns(lambda: not cache._store._flights)
        return await load()

    assert "loaded" == asyncio.run(scenario())
    assert ["cancelled"] == ended


def test_a_load_that_cancels_itself_reaches_its_caller(cache):
    """A loader that raises `CancelledError` is no reason to wait for ever, or to load for ever."""
    loads = 0

    @cache.cache_result()
    async def load():
        nonlocal loads
        loads += 1
        raise asyncio.CancelledError

    async def scenario():
        return await asyncio.gather(load(), load(), return_exceptions=True)

    assert [asyncio.CancelledError] * 2 == [type(error) for error in asyncio.run(scenario())]
    assert 2 == loads


def test_event_loops_one_after_another_share_the_value(cache):
    """A value loaded in a loop that is closed by now is served in the next."""
    load = cache.cache_result()(Colour.ASYNCIO.function(object))
    assert asyncio.run(load()) is asyncio.run(load())


def test_a_loop_that_closes_strands_nobody(cache):
    """A load whose loop ended in the middle is loaded anew by the next caller."""
    loads = 0

    @cache.cache_result()
    async def load():
        nonlocal loads
        loads += 1
        if loads == 1:
            await asyncio.get_running_loop().create_future()
        return loads

    loop = asyncio.new_event_loop()
    task = loop.create_task(load())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    flight = next(iter(cache._store._flights.values()))
    loop.close()
    assert 2 == asyncio.run(load())
    # Nobody can finish these any more; tell asyncio that we know.
    task._log_destroy_pending = flight.task._log_destroy_pending = False


def test_a_load_that_needs_itself_does_not_wait_for_itself(cache, colour):
    """Re-entry computes: it returns what the function returns without a cache, and never deadlocks."""
    depth = 0

    if colour is Colour.BLOCKING:

        @cache.cache_result()
        def load():
            nonlocal depth
            depth += 1
            return "bottom" if depth == 3 else load()

    else:

        @cache.cache_result()
        async def load():
            nonlocal depth
            depth += 1
            return "bottom" if depth == 3 else await load()

    running = Running(lambda: colour.call(load))
    assert "bottom" == running.result()
    assert 3 == depth
    assert "bottom" == colour.call(load)
    assert 3 == depth


def test_a_load_that_needs_itself_by_way_of_another_does_not_wait_for_itself(cache, colour):
    """Re-entry is seen however many loads lie in between, all in one thread or task."""
    depth = 0

    if colour is Colour.BLOCKING:

        @cache.cache_result()
        def load():
            nonlocal depth
            depth += 1
            return "bottom" if depth == 3 else between()

        @cache.cache_result()
        def between():
            return load()

    else:

        @cache.cache_result()
        async def load():
            nonlocal depth
            depth += 1
            return "bottom" if depth == 3 else await between()

        @cache.cache_result()
        async def between():
            return await load()

    assert "bottom" == Running(lambda: colour.call(load)).result()
    assert 3 == depth


def test_a_load_waits_for_whatever_a_load_within_it_waits_for(cache, colour):
    """A loads B by itself, which waits for C elsewhere: C, which needs A, does not wait for it."""
    meeting = threading.Barrier(2, timeout=PATIENCE)
    began = set()

    def meet(name):
        """Return whether this load is the first of its kind; that of C goes on as soon as B waits for it."""
        if name in began:
            return False
        began.add(name)
        if name != "a":
            meeting.wait()
        if name == "c":
            eventually(lambda: waiters(cache) == (1 if colour is Colour.BLOCKING else 4))
        return True

    def make(name, needed):
        def load():
            return name + loads[needed]() if meet(name) else name

        async def aload():
            return name + await loads[needed]() if meet(name) else name

        return cache.cache_result()(load if colour is Colour.BLOCKING else aload)

    loads = {name: make(name, needed) for name, needed in ("ab", "bc", "ca")}
    one, other = Running(lambda: colour.call(loads["a"])), Running(lambda: colour.call(loads["c"]))
    assert "ca" == other.result()
    assert "abca" == one.result()


def test_two_loads_that_need_each_other_do_not_wait_for_each_other(cache, colour):
    """A loads B while B loads A, in two threads: both return."""
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def body(name, partner):
        if not met[name]:
            met[name] = True
            meeting.wait()
            return name + partner()
        return name

    met = {"a": False, "b": False}
    if colour is Colour.BLOCKING:

        @cache.cache_result()
        def a():
            return body("a", b)

        @cache.cache_result()
        def b():
            return body("b", a)

    else:

        @cache.cache_result()
        async def a():
            if met["a"]:
                return "a"
            met["a"] = True
            meeting.wait()
            return "a" + await b()

        @cache.cache_result()
        async def b():
            if met["b"]:
                return "b"
            met["b"] = True
            meeting.wait()
            return "b" + await a()

    one, other = Running(lambda: colour.call(a)), Running(lambda: colour.call(b))
    assert one.result() in {"ab", "aba"}
    assert other.result() in {"ba", "bab"}


def test_a_ring_of_loads_over_two_managers_does_not_close():
    """Waits are seen across managers: three loads in a ring all return."""
    managers = [CacheManager("one"), CacheManager("two"), CacheManager("three")]
    meeting = threading.Barrier(3, timeout=PATIENCE)
    started = set()

    def make(number):
        @managers[number].cache_result()
        def load():
            if number in started:
                return 1
            started.add(number)
            meeting.wait()
            return 1 + functions[(number + 1) % 3]()

        return load

    functions = [make(number) for number in range(3)]
    running = [Running(function) for function in functions]
    assert all(2 <= each.result() <= 4 for each in running)


def test_waiters_stop_at_their_own_deadline(cache, colour):
    """Who waits for somebody else's load waits no longer than the ambient deadline; the load goes on."""
    gate = Gate(lambda: "loaded")
    load = cache.cache_result()(colour.function(gate.__call__))
    leader = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)

    def hurried():
        ambient.deadline.set(clock.now() - 1.0)
        return colour.call(load)

    context = contextvars.Context()
    waiter = Running(lambda: context.run(hurried))
    assert isinstance(waiter.error(), DeadlineExceededError)
    gate.open()
    assert "loaded" == leader.result()
    assert "loaded" == colour.call(load)


def test_the_leaders_deadline_is_not_the_failure_of_the_others(cache):
    """A load that its first caller's deadline ended is led anew by somebody who has more time."""
    gate = Gate(lambda: None)
    loads = []

    @cache.cache_result()
    def load():
        loads.append(ambient.deadline.get())
        if len(loads) == 1:
            gate()
            raise DeadlineExceededError("no time left")
        return "loaded"

    def hurried():
        ambient.deadline.set(clock.now() - 1.0)
        return load()

    context = contextvars.Context()
    leader = Running(lambda: context.run(hurried))
    assert gate.began.wait(PATIENCE)
    patient = Running(load)
    eventually(lambda: waiters(cache) == 1)
    gate.open()
    assert isinstance(leader.error(), DeadlineExceededError)
    assert "loaded" == patient.result()


def test_an_asyncio_load_runs_without_the_callers_deadline(cache):
    """A load that others may join is not bound by the time of who asked first, but sees its other context."""
    request = contextvars.ContextVar("request")
    seen = []

    @cache.cache_result()
    async def load():
        seen.append((ambient.deadline.get(), request.get()))

    async def scenario():
        request.set("r1")
        ambient.deadline.set(clock.now() + 5.0)
        await load()

    asyncio.run(scenario())
    assert [(None, "r1")] == seen


def test_a_flight_that_was_invalidated_does_not_remove_its_successor(cache, colour):
    """An old flight that fails or lands late leaves the new flight of its key alone: two loads, not three."""
    gates = [Gate(lambda: "old"), Gate(lambda: "new"), Gate(lambda: "too many")]
    order = iter(gates)
    load = cache.cache_result(tags=("paint",))(colour.function(lambda: (next(order))()))  # noqa: PLW0108 - one for each call
    old = Running(lambda: colour.call(load))
    assert gates[0].began.wait(PATIENCE)
    cache.invalidate("paint")
    new = Running(lambda: colour.call(load))
    assert gates[1].began.wait(PATIENCE)
    gates[0].open()
    assert "old" == old.result()
    late = Running(lambda: colour.call(load))
    eventually(lambda: waiters(cache) == waiting(colour, 1))
    gates[1].open()
    assert ["new", "new"] == [new.result(), late.result()]
    assert "new" == colour.call(load)
    assert 0 == gates[2].loads


def test_a_forked_child_does_not_wait_for_its_parents_threads(cache, colour):
    """In a forked child the loads of the parent's threads are forgotten, and no lock is left held."""
    gate = Gate(lambda: "parent")
    load = cache.cache_result()(colour.function(lambda: "child" if os.getpid() != parent else gate()))
    parent = os.getpid()
    leader = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, (colour.call(load) + colour.call(load)).encode())
        os._exit(0)
    os.close(writing)
    gate.open()
    with os.fdopen(reading, "rb") as answer:
        assert b"childchild" == answer.read()
    assert 0 == os.waitpid(child, 0)[1]
    assert "parent" == leader.result()


def test_nobody_is_in_the_midst_of_a_step_while_a_process_forks():
    """The locks of caches and flights are held over a fork, and free in both processes afterwards."""
    program = """
import os, threading
def ask(locks):
    free = []
    def take(lock):
        free.append(lock.acquire(blocking=False))
        free[-1] and lock.release()
    for lock in locks:
        asker = threading.Thread(target=take, args=(lock,))
        asker.start()
        asker.join()
    return free
locks = []
os.register_at_fork(before=lambda: print(ask(locks), flush=True))  # hooks run in reverse order: this one last
from paintkit import CacheManager
from paintkit.cache import flights
cache = CacheManager()
locks += [cache._store.lock, flights._lock]
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
print(ask(locks), flush=True)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ["[False, False]", "[True, True]", "[True, True]"] == told.stdout.splitlines()


def test_a_leader_may_fork(cache):
    """A loader that forks ends its load in both processes."""

    @cache.cache_result()
    def load():
        return os.fork()

    reading, writing = os.pipe()
    parent = os.getpid()
    child = load()
    if os.getpid() != parent:
        os.write(writing, b"done")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert b"done" == answer.read()
    assert 0 == os.waitpid(child, 0)[1]


def test_waiting_obeys_the_virtual_clock(cache):
    """A waiter's deadline is an instant of the clock that tests move."""
    with FakeClock() as clock_of_test:
        gate = Gate(lambda: "loaded")
        load = cache.cache_result()(gate.__call__)
        leader = Running(load)
        assert gate.began.wait(PATIENCE)

        def hurried():
            ambient.deadline.set(clock.now() + 30.0)
            return load()

        context = contextvars.Context()
        waiter = Running(lambda: context.run(hurried))
        clock_of_test.until_waiting()  # a seat is taken a moment before
        clock_of_test.advance(29.0)
        assert 1 == waiters(cache)
        clock_of_test.advance(2.0)
        assert isinstance(waiter.error(), DeadlineExceededError)
        gate.open()
        assert "loaded" == leader.result()


@pytest.mark.parametrize(
    ("where", "apart"), [("begin", {"loader_timeout": PATIENCE}), ("depart", {}), ("lead", {})]
)
def test_an_interrupt_on_the_way_to_the_load_strands_nobody(cache, where, apart, monkeypatch):
    """A `KeyboardInterrupt` between taking the lead and loading leaves no flight that others would wait for."""
    load = cache.cache_result(**apart)(lambda: "loaded")
    begins = getattr(cache._store, where, None)

    def interrupted(*args):
        if begins is not None:
            begins(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if begins is not None:
            patch.setattr(cache._store, where, interrupted)
        else:
            patch.setattr(type(BLOCKING), "lead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert "loaded" == Running(load).result()


def test_an_interrupt_on_the_way_from_the_load_reaches_its_caller(cache):
    """Whatever the function that chooses the time to live raises, also in a thread of the cache's: nobody waits for ever."""

    def chosen(_value):
        raise SystemExit("enough")

    load = cache.cache_result(timeout=chosen, stale_on_error=60, soft_timeout=PATIENCE)(lambda: "loaded")
    caller = Running(load)
    with pytest.raises(SystemExit, match="enough"):
        caller.result()


def test_failures_are_apart_for_each_object(cache, colour):
    """The error of one object's load is no error of another's, even while both load."""
    meeting = threading.Barrier(2, timeout=PATIENCE)

    class Repository:
        def __init__(self, name):
            self.name = name

        def body(self):
            meeting.wait()
            raise LookupError(self.name)

        if colour is Colour.BLOCKING:

            @cache.cache_result()
            def load(self):
                self.body()

        else:

            @cache.cache_result()
            async def load(self):
                self.body()

    repositories = [Repository("one"), Repository("two")]
    running = [Running(lambda each=each: colour.call(each.load)) for each in repositories]
    assert ["one", "two"] == [str(each.error()) for each in running]


def test_failed_loads_are_observed(cache, colour):
    """Who listens hears of a load that failed."""
    load = cache.cache_result()(colour.function(lambda: 1 / 0))
    seen = []
    with observe(seen.append), pytest.raises(ZeroDivisionError):
        colour.call(load)
    assert ["cache.load_failed"] == [one.kind for one in seen]
    assert isinstance(seen[0].details["error"], ZeroDivisionError)


def test_a_flight_that_landed_keeps_nothing_alive(cache, colour):
    """What a load brought dies with its entry, and does not wait for the garbage collector."""

    class Value:
        pass

    load = cache.cache_result()(colour.function(Value))
    gc.collect()
    gc.disable()
    try:
        value = weakref.ref(colour.call(load))
        cache.invalidate()
        assert value() is None
    finally:
        gc.enable()
