"""The laws of values past their time: who is still answered with them, who renews them, and for how long."""

import asyncio
import contextvars
import itertools
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, CallTimeoutError, DeadlineExceededError, ambient, clock, deadline, observe
from paintkit._runtime import drive
from paintkit.cache.store import Store
from paintkit.machines.freshness import Freshness
from paintkit.testing import FakeClock
from tests.cache.threads import PATIENCE, Gate, Running, eventually
from tests.cache.units import unit_of_work
from tests.colours import Colour


class NotFoundError(LookupError):
    """An answer: there is none."""


class World:
    """One thread or one event loop that lives through a whole test, and a clock that the test moves."""

    def __init__(self, colour, time):
        self.colour = colour
        self.time = time
        self.runner = asyncio.Runner() if colour is Colour.ASYNCIO else None

    def cached(self, cache, body, **options):
        return cache.cache_result(**options)(self.colour.function(body))

    def call(self, function, *args):
        if self.runner is None:
            return function(*args)
        return self.runner.run(function(*args))

    def settle(self, cache):
        """Wait until all refreshes have landed."""
        store = cache._store

        async def turns():
            while store.tasks:
                await asyncio.sleep(0)

        if self.runner is None:
            eventually(lambda: not store._flights and not store.workers._busy)
        else:
            self.runner.run(turns())


@pytest.fixture
def world(colour):
    """A world of each colour."""
    with FakeClock() as time:
        made = World(colour, time)
        yield made
        if made.runner is not None:
            made.runner.close()


def script(*outcomes):
    """Return a body that returns or raises one outcome after another, and how often it was called."""
    calls = []

    def body(*_args):
        outcome = outcomes[min(len(calls), len(outcomes) - 1)]
        calls.append(clock.now())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return body, calls


def test_a_stale_value_is_served_while_one_load_renews_it(cache, world):
    """Within `stale` seconds after its time a call gets the old value at once; the next gets the new one."""
    body, calls = script("old", "new", "newer")
    load = world.cached(cache, body, timeout=10, stale=30)
    assert "old" == world.call(load)
    world.time.advance(10.0)
    assert "old" == world.call(load)
    world.settle(cache)
    assert "new" == world.call(load)
    assert [0.0, 10.0] == calls
    info = world.call(load.info)
    assert (1, 2, 1) == (info.stale, info.hits, info.misses)


def test_after_the_stale_time_a_call_waits_for_its_load(cache, world):
    """A value older than timeout and `stale` together is served to nobody."""
    body, calls = script("old", "new")
    load = world.cached(cache, body, timeout=10, stale=30)
    world.call(load)
    world.time.advance(40.0)
    assert "new" == world.call(load)
    assert 2 == len(calls)
    assert 0 == cache.get_stats()["stale"]


def test_many_calls_begin_one_refresh(cache):
    """While a refresh is under way everybody is served the old value, and nobody begins another, in threads."""
    gate = Gate(lambda: "new")
    bodies = iter([lambda: "old", gate])
    load = cache.cache_result(timeout=10, stale=30)(lambda: (next(bodies))())  # noqa: PLW0108 - one for each load
    with FakeClock() as time:
        load()
        time.advance(11.0)
        assert ["old"] * 20 == [each.result() for each in [Running(load) for _ in range(20)]]
        assert gate.began.wait(PATIENCE)
        assert load.explain().loading
        gate.open()
        eventually(lambda: load.peek() == "new")
    assert (1, 20) == (gate.loads, cache.get_stats()["stale"])


def test_many_tasks_begin_one_refresh(cache):
    """The same in one event loop."""
    loads = itertools.count(1)

    @cache.cache_result(timeout=10, stale=30)
    async def load():
        await asyncio.sleep(1.0)
        return next(loads)

    async def scenario():
        assert 1 == await load()
        await asyncio.sleep(11.0)
        assert [1] * 100 == await asyncio.gather(*(load() for _ in range(100)))
        await asyncio.sleep(2.0)
        assert 2 == await load()

    with FakeClock() as time:
        time.run(scenario())


def test_a_failed_refresh_is_told_and_paused(cache, world):
    """The error of a refresh is observed and counted, the old value served for 5 seconds without another try."""
    body, calls = script("old", OSError("away"), "new")
    load = world.cached(cache, body, timeout=10, stale=30)
    seen = []
    with observe(seen.append):
        world.call(load)
        world.time.advance(10.0)
        for _ in range(3):
            assert "old" == world.call(load)
            world.settle(cache)
        world.time.advance(5.0)
        assert "old" == world.call(load)
        world.settle(cache)
        assert "new" == world.call(load)
    assert [0.0, 10.0, 15.0] == calls
    assert ["away"] == [str(one.details["error"]) for one in seen if one.kind == "cache.load_failed"]
    assert 1 == world.call(load.info).load_errors


def test_a_pause_does_not_lengthen_the_stale_time(cache, world):
    """However a refresh fails, the old value is gone when its time is."""
    body, _ = script("old", OSError("away"))
    load = world.cached(cache, body, timeout=10, stale=3)
    world.call(load)
    world.time.advance(11.0)
    assert "old" == world.call(load)
    world.settle(cache)
    world.time.advance(2.0)
    with pytest.raises(OSError, match="away"):
        world.call(load)


def test_an_old_value_helps_out_when_the_load_fails(cache, world):
    """With `stale_on_error` a failed load is answered with the old value, tried again after a pause, until its time is over."""
    body, calls = script("old", OSError("away"), OSError("away"), "new", OSError("gone"))
    load = world.cached(cache, body, timeout=10, stale_on_error=3600)
    world.call(load)
    world.time.advance(100.0)
    for _ in range(3):
        assert "old" == world.call(load)
    world.time.advance(4.9)
    assert "old" == world.call(load)
    assert [0.0, 100.0] == calls
    world.time.advance(0.1)
    assert "old" == world.call(load)
    world.time.advance(5.0)
    assert "new" == world.call(load)
    assert [0.0, 100.0, 105.0, 110.0] == calls
    world.time.advance(3610.0)
    with pytest.raises(OSError, match="gone"):
        world.call(load)
    assert 2 == world.call(load.info).stale


def test_without_an_old_value_a_failed_load_is_an_error(cache, world):
    """Nothing helps out where there was nothing, or where it was invalidated."""
    body, _ = script(OSError("first"), "old", OSError("second"))
    load = world.cached(cache, body, timeout=10, stale=5, stale_on_error=3600, tags=("t",))
    with pytest.raises(OSError, match="first"):
        world.call(load)
    assert "old" == world.call(load)
    world.time.advance(11.0)
    cache.invalidate("t")
    with pytest.raises(OSError, match="second"):
        world.call(load)


def test_an_answer_is_not_papered_over(cache, world):
    """An error that is an answer replaces the old value, in a load and in a refresh."""
    for stale in (0, 30):
        body, _ = script("old", NotFoundError())
        load = world.cached(
            cache, body, timeout=10, stale=stale, stale_on_error=3600, cache_errors=NotFoundError
        )
        world.call(load)
        world.time.advance(11.0)
        if stale:
            assert "old" == world.call(load)
            world.settle(cache)
        for _ in range(2):
            with pytest.raises(NotFoundError):
                world.call(load)


def test_the_error_of_a_first_load_that_all_wait_for_helps_them_all_out(cache, colour):
    """Whoever waits for a load that fails is answered with the old value alike."""

    def fail():
        gate()
        raise OSError

    gate = Gate(lambda: None)
    bodies = iter([lambda: "old", fail])
    load = cache.cache_result(timeout=10, stale_on_error=60)(
        colour.function(lambda: (next(bodies))())  # noqa: PLW0108 - one for each load
    )
    with FakeClock(start=clock.now() - 20.0):
        Running(lambda: asyncio.run(load()) if colour is Colour.ASYNCIO else load()).result()
    running = [Running(lambda: asyncio.run(load()) if colour is Colour.ASYNCIO else load()) for _ in range(5)]
    eventually(lambda: cache.get_stats()["misses"] == 6)
    gate.open()
    assert ["old"] * 5 == [each.result() for each in running]
    assert 5 == cache.get_stats()["stale"]


def test_an_invalidation_ends_staleness(cache, world):
    """After `invalidate()` no call is answered with the old value, fresh or stale, nor with a refresh that began before."""
    gate = Gate(lambda: "before")
    bodies = iter([lambda: "old", gate, lambda: "after"])
    load = cache.cache_result(timeout=10, stale=30, tags=("t",))(lambda: (next(bodies))())  # noqa: PLW0108 - one for each load
    load()
    world.time.advance(11.0)
    assert "old" == load()
    assert gate.began.wait(PATIENCE)
    cache.invalidate("t")
    gate.open()
    eventually(lambda: cache.get_stats()["loads"] == 2)
    assert "after" == load()


def test_a_refresh_has_the_callers_context_and_none_of_its_limits(cache, world):
    """It sees the caller's context variables, but neither the deadline nor the unit of work."""
    request = contextvars.ContextVar("request", default=None)
    seen = []

    def body():
        seen.append((request.get(), ambient.deadline.get(), ambient.unit_of_work.get()))

    load = world.cached(cache, body, timeout=10, stale=30)
    world.call(load)
    world.time.advance(11.0)
    if world.runner is None:

        def inside():
            request.set("r1")
            with deadline(5.0):
                load()

        contextvars.copy_context().run(inside)
    else:

        async def scenario():
            request.set("r1")
            ambient.deadline.set(clock.now() + 5.0)
            await load()

        world.runner.run(scenario())
    world.settle(cache)
    assert ("r1", None, None) == seen[-1]


def test_inside_a_unit_of_work_a_stale_value_is_a_miss(cache, world):
    """A unit decides what to write on what it reads, so it reads what is true."""
    body, calls = script("old", "new")
    load = world.cached(cache, body, timeout=10, stale=30)
    world.call(load)
    world.time.advance(11.0)

    async def inside():
        with unit_of_work():
            return load() if world.runner is None else await load()

    found = (
        contextvars.copy_context().run(drive, inside())
        if world.runner is None
        else world.runner.run(inside())
    )
    assert "new" == found
    assert 2 == len(calls)


def slow(world, *outcomes, seconds=2.0):
    """Return a body as `script`, which takes its time."""
    body, calls = script(*outcomes)

    def at_work():
        clock.sleep(seconds)
        return body()

    return at_work, calls


def test_a_value_is_renewed_before_its_time_is_over(cache, world, monkeypatch):
    """With `early` a call in the last part of a value's time begins a refresh, the earlier the slower the load."""
    monkeypatch.setattr("paintkit.backoff.shared_rng", type("Half", (), {"random": lambda _: 0.5}))
    body, calls = slow(world, "old", "new")
    load = world.cached(cache, body, timeout=100, early=0.1)
    world.call(load)
    world.time.advance(98.0)
    assert "old" == world.call(load)
    world.settle(cache)
    assert [2.0] == calls
    world.time.advance(1.0)
    assert "old" == world.call(load.peek)
    assert "old" == world.call(load)
    world.settle(cache)
    assert "new" == world.call(load)
    assert 2 == len(calls)
    assert 0 == cache.get_stats()["stale"]


def test_an_early_refresh_that_fails_is_not_repeated(cache, world, monkeypatch):
    """The value is fresh until its time is over; one early try is enough."""
    monkeypatch.setattr("paintkit.backoff.shared_rng", type("Much", (), {"random": lambda _: 0.999}))
    body, calls = slow(world, "old", OSError(), "new")
    load = world.cached(cache, body, timeout=100, early=0.1)
    world.call(load)
    world.time.advance(90.2)
    for _ in range(4):
        assert "old" == world.call(load)
        world.settle(cache)
        world.time.advance(2.0)  # longer in all than the pause after a failure
    assert 2 == len(calls)


def test_a_load_that_takes_too_long_is_an_error_for_all_who_wait(cache):
    """`loader_timeout` bounds a blocking load, also for its first caller; what it brings afterwards is not kept."""
    gate = Gate(lambda: "late")
    load = cache.cache_result(loader_timeout=5)(gate.__call__)
    with FakeClock() as time:
        running = [Running(load) for _ in range(3)]
        assert gate.began.wait(PATIENCE)
        time.until_waiting(3)
        time.advance(5.0)
        assert [CallTimeoutError] * 3 == [type(each.error()) for each in running]
        assert (1, 1) == (cache.get_stats()["loads"], cache.get_stats()["load_errors"])
        gate.open()
        eventually(lambda: not cache._store.workers._busy)
    assert (0, 1) == (cache.get_stats()["entries"], cache.get_stats()["loads"])


def test_a_task_that_takes_too_long_is_cancelled(cache):
    """In asyncio the load itself ends, and a `TimeoutError` of its own stays its own."""
    ended = []

    @cache.cache_result(loader_timeout=5)
    async def load(own):
        try:
            if own:
                raise TimeoutError("its own")
            await asyncio.sleep(60.0)
        finally:
            ended.append(clock.now())

    async def scenario():
        with pytest.raises(TimeoutError, match="its own"):
            await load(True)
        with pytest.raises(CallTimeoutError, match="loader_timeout"):
            await load(False)
        await asyncio.sleep(0)

    with FakeClock() as time:
        time.run(scenario())
    assert [0.0, 5.0] == ended


def test_a_load_knows_its_own_limit(cache, world):
    """Inside a bounded load the deadline is the load's, so that what waits in there ends in time."""
    seen = []
    load = world.cached(cache, lambda: seen.append(ambient.remaining()), loader_timeout=5)
    world.call(load)
    assert [5.0] == seen


def test_the_first_caller_of_a_bounded_load_stops_at_its_own_deadline(cache):
    """Who has less time than the load leaves; the load goes on and is kept."""
    gate = Gate(lambda: "loaded")
    load = cache.cache_result(loader_timeout=50)(gate.__call__)

    def hurried():
        with deadline(3.0):
            return load()

    with FakeClock() as time:
        caller = Running(hurried)
        assert gate.began.wait(PATIENCE)
        time.until_waiting(1)
        time.advance(3.0)
        assert isinstance(caller.error(), DeadlineExceededError)
        gate.open()
        eventually(lambda: load.peek() == "loaded")


def test_a_caller_waits_softly_and_the_load_ends_in_the_background(cache):
    """After `soft_timeout` a call is answered with the old value; what the load brings is there for the next."""
    gate = Gate(lambda: "new")
    bodies = iter([lambda: "old", gate])
    load = cache.cache_result(timeout=10, stale_on_error=3600, soft_timeout=0.2)(
        lambda: (next(bodies))()  # noqa: PLW0108 - one for each load
    )
    with FakeClock() as time:
        assert "old" == Running(load).result()
        time.advance(11.0)
        running = [Running(load) for _ in range(3)]
        assert gate.began.wait(PATIENCE)
        time.until_waiting(3)
        time.advance(0.2)
        assert ["old"] * 3 == [each.result() for each in running]
        gate.open()
        eventually(lambda: load.peek() == "new")
    assert (1, 3) == (gate.loads, cache.get_stats()["stale"])


def test_a_task_waits_softly_and_the_load_ends_in_the_background(cache):
    """The same in asyncio: nobody waits any more, and the load goes on."""
    values = itertools.count(1)

    @cache.cache_result(timeout=10, stale_on_error=3600, soft_timeout=0.2)
    async def load():
        await asyncio.sleep(3.0)
        return next(values)

    async def scenario():
        assert 1 == await load()
        await asyncio.sleep(11.0)
        began = clock.now()
        assert 1 == await load()
        assert 0.2 == pytest.approx(clock.now() - began)
        await asyncio.sleep(3.0)
        assert 2 == await load()

    with FakeClock() as time:
        time.run(scenario())


def test_a_refresh_that_hangs_is_given_up(cache):
    """A refresh that is over its `loader_timeout` counts as failed; after a pause another one begins."""
    gate = Gate(lambda: "late")
    bodies = iter([lambda: "old", gate, lambda: "new"])
    load = cache.cache_result(timeout=10, stale=300, loader_timeout=5)(
        lambda: (next(bodies))()  # noqa: PLW0108 - one for each load
    )
    with FakeClock() as time:
        assert "old" == Running(load).result()
        eventually(lambda: not cache._store.workers._busy)
        time.advance(11.0)
        assert "old" == load()
        assert gate.began.wait(PATIENCE)
        time.advance(5.0)
        assert "old" == load()
        assert 1 == cache.get_stats()["load_errors"]
        time.advance(5.0)
        assert "old" == load()
        eventually(lambda: load.peek() == "new")
        gate.open()
        eventually(lambda: not cache._store.workers._busy)
        assert "new" == load()


def test_a_refresh_in_a_loop_that_closed_is_begun_anew(cache):
    """A refresh whose loop ended in the middle holds up nobody."""
    values = itertools.count(1)

    @cache.cache_result(timeout=10, stale=300)
    async def load():
        await asyncio.sleep(0)
        return next(values)

    with FakeClock() as time:
        assert 1 == asyncio.run(load())
        time.advance(11.0)
        assert 1 == asyncio.run(load())  # which cancels what is under way

        async def later():
            assert 1 == await load()
            while cache._store.tasks:
                await asyncio.sleep(0)
            return await load()

        assert 2 == asyncio.run(later())


def test_a_refresh_goes_on_when_whoever_joined_it_leaves(cache):
    """It belongs to nobody who waits: a call that came when the old value was gone, and gave up, does not end it."""
    values = itertools.count(1)

    async def main(time):
        gate = asyncio.Event()

        @cache.cache_result(timeout=10, stale=30)
        async def load():
            value = next(values)
            if value == 2:
                await gate.wait()
            return value

        assert 1 == await load()
        time.advance(11.0)
        assert 1 == await load()
        time.advance(30.0)
        joined = asyncio.ensure_future(load())
        await asyncio.sleep(0)
        joined.cancel()
        await asyncio.gather(joined, return_exceptions=True)
        gate.set()
        while cache._store.tasks:
            await asyncio.sleep(0)
        return await load()

    with FakeClock() as time:
        assert 2 == asyncio.run(main(time))


def test_no_more_than_eight_loads_run_at_once():
    """Workers are bounded; what comes while all are busy waits its turn and is not lost."""
    cache = CacheManager("eight")  # workers of another test's cache may not have quite ended yet
    gate = Gate(lambda: "new")
    load = cache.cache_result(timeout=10, stale=300)(lambda x: gate() if loaded else "old")
    loaded = False
    with FakeClock() as time:
        for number in range(20):
            load(number)
        loaded = True
        time.advance(11.0)
        assert ["old"] * 20 == [load(number) for number in range(20)]
        eventually(lambda: gate.loads == 8)
        names = [one.name for one in threading.enumerate() if one.name == "paintkit-cache-eight"]
        assert (8, 8) == (gate.loads, len(names))
        gate.open()
        eventually(lambda: gate.loads == 20 and not cache._store.workers._busy)
        assert ["new"] * 20 == [load(number) for number in range(20)]


def test_a_refresh_for_which_there_is_no_thread_is_a_failed_one(cache, monkeypatch):
    """If no thread can be started the old value is served, and the failure counted."""

    def refuse(_self):
        raise RuntimeError("can't start new thread")

    load = cache.cache_result(timeout=10, stale=300)(lambda: "value")
    with FakeClock() as time:
        load()
        time.advance(11.0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert "value" == load()
        assert (1, {}) == (cache.get_stats()["load_errors"], cache._store._flights)


def test_an_interrupted_worker_hands_over(cache):
    """What is no `Exception` ends the load in a worker too, and reaches the caller who began it."""

    def body():
        raise SystemExit(3)

    load = cache.cache_result(loader_timeout=PATIENCE)(body)
    for _ in range(2):
        with pytest.raises(SystemExit):
            load()


def test_a_forked_child_refreshes_with_workers_of_its_own(cache):
    """The parent's workers are not there in the child, which does not wait for them."""
    gate = Gate(lambda: "parent")
    parent = os.getpid()
    load = cache.cache_result(loader_timeout=60)(lambda x: "child" if os.getpid() != parent else gate())
    running = [Running(lambda number=number: load(number)) for number in range(8)]
    eventually(lambda: gate.loads == 8)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, (load(0) + load(8)).encode())
        os._exit(0)
    os.close(writing)
    gate.open()
    with os.fdopen(reading, "rb") as answer:
        assert b"childchild" == answer.read()
    assert 0 == os.waitpid(child, 0)[1]
    assert ["parent"] * 8 == [each.result() for each in running]


def test_the_interpreter_does_not_wait_for_a_refresh():
    """A load that hangs in a worker holds up no exit."""
    program = (
        "import threading; from paintkit import CacheManager, CallTimeoutError\n"
        "@CacheManager().cache_result(loader_timeout=0.01)\n"
        "def load(): threading.Event().wait()\n"
        "try: load()\n"
        "except CallTimeoutError: print('left')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert ("left\n", "") == (done.stdout, done.stderr)


steps = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "wait", "break", "mend", "invalidate"]), st.integers(1, 30)
    ),
    max_size=40,
)


def served_by(load):
    """Return when the value that a call is answered with was loaded, or `None` if it fails."""
    try:
        return load()
    except OSError:
        return None


def check_history(history, stale, stale_on_error):
    """Run a history in one thread; whatever is served is no older than promised and no older than an invalidation."""
    with FakeClock() as time:
        cache = CacheManager()
        broken, mended, invalidated = False, -5.0, -1.0

        def body():
            if broken:
                raise OSError
            return clock.now()

        load = cache.cache_result(timeout=10, stale=stale, stale_on_error=stale_on_error)(body)
        for step, seconds in history:
            if step == "call":
                served = served_by(load)
                age = 0.0 if served is None else clock.now() - served
                assert broken if served is None else served >= invalidated
                assert age < 10 + max(stale, stale_on_error)
                assert age < 10 + stale or broken or clock.now() < mended + 5.0
                eventually(lambda: not cache._store._flights and not cache._store.workers._busy)
            elif step == "wait":
                time.advance(float(seconds))
            elif step == "invalidate":
                load.invalidate()
                invalidated = clock.now()
            elif step == "break":
                broken = True
            elif broken:
                broken, mended = False, clock.now()


@given(steps, st.sampled_from([0, 7, 20]), st.sampled_from([0, 15, 60]))
def test_no_history_shows_a_value_older_than_promised(history, stale, stale_on_error):
    """Whatever fails and whenever, what is served keeps the promise of `stale` and `stale_on_error`."""
    check_history(history, stale, stale_on_error)


MUTANTS = {
    "helps out for ever": (Freshness, "helps_out", lambda _self, _now, _expires: True),
    "helps in need for ever": (Freshness, "helps_in_need", lambda _self, _now, _expires: True),
    "pauses for an hour": (Freshness, "pause", lambda _self, now, _leaves: now + 3600.0),
    "keeps what was invalidated": (Store, "_forget", lambda _self, _target: 0),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_histories_catch_a_cache_without_limits(mutant, monkeypatch):
    """A cache that forgets one of its promises does not pass."""
    monkeypatch.setattr(*MUTANTS[mutant])
    first = [("call", 1), ("wait", 12), ("call", 1), ("break", 1), ("wait", 12), ("call", 1)]
    second = [("call", 1), ("break", 1), ("wait", 12), ("call", 1), ("wait", 12), ("call", 1)]
    for history in (
        first,
        second,
        [("call", 1), ("wait", 15), ("call", 1), ("wait", 30), ("call", 1)],
        [("call", 1), ("wait", 1), ("invalidate", 1), ("call", 1)],
    ):
        for stale, stale_on_error in ((7, 0), (0, 7), (7, 15)):
            try:
                check_history(history, stale, stale_on_error)
            except AssertionError:
                return
    pytest.fail("nobody noticed")
