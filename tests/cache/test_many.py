"""The laws of many keys at once: each key is cached as a call of its own, and what is missing comes in one load."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, ambient, observe
from paintkit.cache import many
from paintkit.cache.store import Store
from paintkit.testing import FakeClock, assert_loads
from tests.cache.threads import PATIENCE, Gate, Running, eventually
from tests.cache.units import unit_of_work


class Shop:
    """A loader of many keys, of either colour, that keeps account of what it was asked."""

    def __init__(self, cache, colour=None, **options):
        self.prices = {1: 10, 2: 20, 3: 30}
        self.asked = []
        self.error = None
        self.get = cache.cache_many(**options)(colour.function(self.load) if colour else self.load)

    def load(self, keys):
        self.asked.append(list(keys))
        if self.error is not None:
            raise self.error
        return {key: self.prices[key] for key in keys if key in self.prices}


@pytest.fixture
def shop(cache, colour):
    return Shop(cache, colour)


def test_only_what_is_missing_is_loaded(shop, colour):
    """In one load, in the order asked, each key once."""
    assert {2: 20, 1: 10} == colour.call(shop.get, [2, 1, 2])
    assert [(3, 30), (1, 10)] == list(colour.call(shop.get, iter([3, 1])).items())
    assert {} == colour.call(shop.get, [])
    assert [[2, 1], [3]] == shop.asked
    info = shop.get.info() if colour == "blocking" else asyncio.run(shop.get.info())
    assert (1, 3, 2, 3) == (info.hits, info.misses, info.loads, info.entries)


def test_the_decorator_works_bare_and_called(colour):
    """`@cache.cache_many` is `@cache.cache_many()`: the manager's time to live, and ten seconds for an absent key."""
    with FakeClock() as clock:
        for decorate in (CacheManager(timeout=20).cache_many, CacheManager(timeout=20).cache_many()):
            shop = Shop(CacheManager())
            load = decorate(colour.function(shop.load))
            for _ in range(5):
                assert {1: 10} == colour.call(load, [1, 9])
                clock.advance(5.0)
            assert [[1, 9], [9], [1, 9]] == shop.asked


def test_a_key_without_a_value_is_remembered_for_its_own_time(cache, colour):
    """Absent keys are not in the result, and not asked for again until their time is over, or never if that is 0."""
    shop, forgetful = Shop(cache, colour, absent_timeout=5.0), Shop(cache, colour, absent_timeout=0)
    with FakeClock() as clock:
        for _ in range(2):
            assert {1: 10} == colour.call(shop.get, [1, 9])
            assert {1: 10} == colour.call(forgetful.get, [1, 9])
        clock.advance(5.0)
        shop.prices[9] = 90
        assert {1: 10, 9: 90} == colour.call(shop.get, [1, 9])
        assert 90 == colour.call(shop.get.peek, 9)
    assert [[1, 9], [9]] == shop.asked
    assert [[1, 9], [9]] == forgetful.asked


def test_a_value_may_be_none(cache, colour):
    """`None` is a value, and no absence."""
    load = cache.cache_many()(colour.function(dict.fromkeys))
    assert {1: None} == colour.call(load, [1]) == colour.call(load, [1])


def test_the_extras_are_those_of_one_key(shop, colour):
    """Invalidate, refresh, peek, put and explain act on one key; an absent one shows as `None`."""
    colour.call(shop.get, [1, 2, 9])
    colour.call(shop.get.invalidate, 1)
    assert (None, 20, None) == tuple(colour.call(shop.get.peek, key) for key in (1, 2, 9))
    assert ("invalidated", None) == tuple(colour.call(shop.get.explain, key).missed for key in (1, 2))
    shop.prices |= {2: 21}
    assert (21, None) == tuple(colour.call(shop.get.refresh, key) for key in (2, 9))
    colour.call(shop.get.put, 11, 1)
    assert {1: 11, 2: 21} == colour.call(shop.get, [1, 2, 9])
    assert [[1, 2, 9], [2], [9]] == shop.asked


def test_tags_function_and_everything_invalidate(cache, colour):
    """Tags are made of one key; the manager's invalidations reach every key concerned."""
    shop = Shop(cache, colour, tags=lambda key: (f"paint:{key}",))
    for target in ("paint:1", shop.get, None):
        colour.call(shop.get, [1, 2])
        shop.asked.clear()
        cache.invalidate() if target is None else cache.invalidate(target)
        colour.call(shop.get, [1, 2])
        assert [[1]] == shop.asked if target == "paint:1" else [[1, 2]] == shop.asked


def test_keys_are_exact(cache, colour):
    """1, "1" and (1,) are different keys; equal keys of different types are not mixed up between calls."""
    load = cache.cache_many()(colour.function(lambda keys: {key: repr(key) for key in keys}))
    for key in (1, "1", (1,), True, 1.0):
        assert {key: repr(key)} == colour.call(load, [key])
        assert {key: repr(key)} == colour.call(load, [key])


def test_an_error_is_everybodys_and_kept_for_nobody(shop, colour):
    """A failed load raises, once in the statistics and observations, and the next call tries again."""
    seen = []
    shop.error = ConnectionError("away")
    with observe(seen.append), pytest.raises(ConnectionError):
        colour.call(shop.get, [1, 2])
    assert ["cache.load_failed"] == [one.kind for one in seen]
    shop.error = None
    assert {1: 10} == colour.call(shop.get, [1])


@pytest.mark.parametrize("how", ["call", "refresh", "memo", "unit"])
def test_stop_iteration_passes(cache, how):
    """It means nothing to us, though we run on generators ourselves."""

    @cache.cache_many()
    def first(keys):
        return {key: next(iter(key)) for key in keys}

    around = {"memo": cache.memo, "unit": unit_of_work}.get(how, contextlib.nullcontext)
    with around(), pytest.raises(StopIteration):
        first.refresh("") if how == "refresh" else first(["red", ""])
    assert {"red": "r"} == first(["red"])
    assert {"entries": 1, "load_errors": 1}.items() <= cache.get_stats().items()


@pytest.mark.parametrize("option", ["tags", "timeout"])
def test_stop_iteration_of_an_option_passes(cache, option):
    """Also where a function of the user's own raises it."""
    load = cache.cache_many(**{option: lambda _: next(iter(()))})(dict.fromkeys)
    with pytest.raises(StopIteration):
        load(["red"])


class AwayError(Exception):
    """One that can be watched leaving."""


@pytest.mark.parametrize("around", ["nothing", "unit"])
def test_a_failed_load_leaves_no_circle_of_references(cache, around):
    """Its error goes with the caller who drops it, and does not wait for the collector (as it does under `asyncio.run`)."""
    shop = Shop(cache)
    shop.error = AwayError("away")
    gone = weakref.ref(shop.error)
    gc.collect()
    gc.disable()
    try:
        with unit_of_work() if around == "unit" else contextlib.nullcontext(), contextlib.suppress(AwayError):
            shop.get([1, 2])
        shop.error = None
        assert gone() is None
    finally:
        gc.enable()


def test_what_is_no_mapping_is_refused(cache, colour):
    """The error names the function; nothing is kept."""
    load = cache.cache_many()(colour.function(lambda keys: [1]))
    with pytest.raises(TypeError, match="must return a mapping"):
        colour.call(load, [1])
    assert 0 == cache.get_stats()["entries"]


def test_options_hold_for_each_key(colour):
    """Copies, weights, variants and removals are those of single calls."""
    told = []
    variable = contextvars.ContextVar("variable", default="a")
    cache = CacheManager(max_weight=4, weigh=len, on_removal=told.append)
    load = cache.cache_many(copy="shallow", vary=(variable,), jitter=0.1)(
        colour.function(lambda keys: {key: [variable.get()] * key for key in keys if key})
    )
    colour.call(load, [1, 2, 0])[1].append("changed")
    assert {1: ["a"]} == colour.call(load, [1])
    assert 3 == cache.get_stats()["weight"]
    variable.set("b")
    assert {1: ["b"]} == colour.call(load, [1])
    colour.call(load.invalidate, 0)
    assert [(0, None, "invalidated")] == [(one.key, one.value, one.cause) for one in told]
    variable.set("a")


def test_a_memo_remembers_each_key(cache, colour):
    """Within a request every key reads the same, whatever else is asked with it."""
    shop = Shop(cache, colour)
    with cache.memo():
        assert {1: 10} == colour.call(shop.get, [1])
        shop.prices |= {1: 11, 2: 21}
        contextvars.Context().run(cache.invalidate)
        assert {1: 10, 2: 21} == colour.call(shop.get, [1, 2])
        colour.call(shop.get.invalidate, 1)
        assert {1: 11, 2: 21} == colour.call(shop.get, [1, 2])
    assert 0 == ambient.process.detours


def test_in_a_unit_of_work_only_what_everybody_may_see_is_kept(cache, colour):
    """A unit that wrote loads for itself; one that only read shares, unless that was invalidated since."""
    shop = Shop(cache, colour)
    with unit_of_work() as unit:
        assert {1: 10} == colour.call(shop.get, [1])
        unit.wrote = True
        assert {1: 10, 2: 20} == colour.call(shop.get, [1, 2])
        assert {2: 20} == colour.call(shop.get, [2])
    assert [[1], [2], [2]] == shop.asked
    assert 1 == cache.get_stats()["entries"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: {1: 1}, "one argument"),
        (lambda keys, more: {}, "one argument"),
        (lambda *, keys: {}, "one argument"),
        ((lambda keys: (yield)), "generator"),
    ],
    ids=["none", "two", "by name", "generator"],
)
def test_what_takes_anything_but_keys_is_refused(cache, function, words):
    """At decoration, with the way out."""
    for decorate in (cache.cache_many, cache.cache_many()):
        with pytest.raises(TypeError, match=words):
            decorate(function)
    with pytest.raises(ValueError, match="jitter"):
        cache.cache_many(timeout=None, jitter=0.1)
    for positional in (300, None, "tag"):
        with pytest.raises(TypeError, match=f"by name, such as timeout=60, not {positional!r}"):
            cache.cache_many(positional)
    bound = cache.cache_many()(functools.partial(lambda session, keys: dict.fromkeys(keys, session), "s"))
    assert {1: "s"} == bound([1])
    for keys in ("abc", 1, None):
        with pytest.raises(TypeError, match=rf"such as \[{keys!r}\]"):
            bound(keys)


def test_the_function_leaves_with_its_values(cache):
    """Nothing in the cache keeps a function alive."""

    class Value:
        pass

    load = cache.cache_many()(lambda keys: {key: Value() for key in keys})
    value = weakref.ref(load([1])[1])
    function = weakref.ref(load)
    del load
    gc.collect()
    assert function() is None
    assert value() is None


# --- Concurrency ---


def test_threads_wait_for_each_others_keys(cache):
    """Two calls that overlap: each loads what the other does not, and takes the rest from the other's load."""
    began, go_on, asked = threading.Event(), threading.Event(), []

    @cache.cache_many()
    def load(keys):
        asked.append(list(keys))
        if 1 in keys:
            began.set()
            assert go_on.wait(PATIENCE)
        return {key: key * 10 for key in keys}

    first = Running(lambda: load([1, 2]))
    assert began.wait(PATIENCE)
    second = Running(lambda: load([2, 3]))
    eventually(lambda: len(asked) == 2)
    assert {3: 30} == load([3])  # landed with the second's own load, though the second still waits
    assert second.alive
    go_on.set()
    assert {1: 10, 2: 20} == first.result()
    assert {2: 20, 3: 30} == second.result()
    assert [[1, 2], [3]] == asked


def test_loads_that_need_each_others_keys_do_not_deadlock(cache):
    """T4: one loads 1 and then needs 2, the other loads 2 and then needs 1; T3: a load that needs its own key."""
    barrier = threading.Barrier(2)
    apart = threading.local()

    @cache.cache_many()
    def load(keys):
        if getattr(apart, "inside", False):
            return dict.fromkeys(keys, "direct")
        apart.inside = True
        try:
            barrier.wait(PATIENCE)
            return {key: load([3 - key])[3 - key] for key in keys}
        finally:
            apart.inside = False

    pair = [Running(lambda key=key: load([key])) for key in (1, 2)]
    assert [{1: "direct"}, {2: "direct"}] == [one.result() for one in pair]

    @cache.cache_many()
    def own(keys):
        if not getattr(apart, "again", False):
            apart.again = True
            return {key: own(list(keys))[key] + 1 for key in keys}
        return dict.fromkeys(keys, 1)

    assert {7: 2, 8: 2} == own([7, 8])


def test_an_invalidation_beats_a_load_of_many(cache):
    """T1, for one key of many: what was read before is not stored, the other keys are."""
    values = {1: "old", 2: "old"}
    gate = Gate(values.copy)
    load = cache.cache_many()(gate)
    running = Running(lambda: load([1, 2]))
    assert gate.began.wait(PATIENCE)
    values[1] = "new"
    load.invalidate(1)
    gate.open()
    assert {1: "old", 2: "old"} == running.result()
    assert (None, "old") == (load.peek(1), load.peek(2))
    assert {1: "new", 2: "old"} == load([1, 2])


def test_a_cancelled_caller_takes_nothing_from_others(cache):
    """T6: the load belongs to the manager; who joined for one key gets it."""

    async def scenario():
        began, go_on, asked = asyncio.Event(), asyncio.Event(), []

        @cache.cache_many()
        async def load(keys):
            asked.append(list(keys))
            began.set()
            await go_on.wait()
            return {key: key * 10 for key in keys}

        first = asyncio.create_task(load([1, 2]))
        await began.wait()
        second = asyncio.create_task(load([2]))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        assert {2: 20} == await second
        assert {1: 10} == await load([1])
        assert [[1, 2]] == asked

    asyncio.run(scenario())


def test_a_stampede_of_tasks_loads_once(cache):
    """A thousand tasks with overlapping keys: every key is loaded once."""

    async def scenario():
        asked = []

        @cache.cache_many()
        async def load(keys):
            asked.extend(keys)
            await asyncio.sleep(0)
            return {key: key for key in keys}

        replies = await asyncio.gather(*(load([n % 7, (n + 1) % 7]) for n in range(1_000)))
        assert all(len(reply) == 2 for reply in replies)
        assert list(range(7)) == sorted(asked)

    asyncio.run(scenario())


def test_a_closed_loop_strands_nobody(cache):
    """T8: the loop that loaded is gone; the next caller loads anew instead of waiting for ever."""

    async def never(keys):
        await asyncio.Event().wait()

    async def value(keys):
        return dict.fromkeys(keys, 1)

    behaviour = [never, value]

    @cache.cache_many()
    async def load(keys):
        return await behaviour.pop(0)(keys)

    loop = asyncio.new_event_loop()
    task = loop.create_task(load([1]))
    loop.run_until_complete(asyncio.sleep(0.0))
    loop.run_until_complete(asyncio.sleep(0.0))
    loading = next(iter(cache._store.tasks))
    loop.close()
    assert {1: 1} == asyncio.run(asyncio.wait_for(load([1]), PATIENCE))
    # Nobody can finish these any more; tell asyncio that we know.
    task._log_destroy_pending = loading._log_destroy_pending = False


def test_an_interrupted_leader_leaves_nobody_behind(cache):
    """A `KeyboardInterrupt` in the load goes to the leader; others load for themselves."""

    @cache.cache_many()
    def load(keys):
        if len(keys) > 1:
            raise KeyboardInterrupt
        return dict.fromkeys(keys, 1)

    with pytest.raises(KeyboardInterrupt):
        load([1, 2])
    assert {1: 1} == load([1])
    with assert_loads(load, 1):
        load([2])


# --- Against a model: a dictionary of what each key was when it was last loaded ---

steps = st.lists(
    st.tuples(
        st.sampled_from(["get", "get", "get", "set", "drop", "quiet", "delete"]),
        st.lists(st.integers(0, 4), min_size=1, max_size=4),
    ),
    max_size=40,
)


def first_wrong_reply(history):
    """Return the first step at which the reply, or what is loaded for it, is not that of the model; `None` if all are right."""
    cache = CacheManager(timeout=None)
    data, known, asked = {}, {}, []

    @cache.cache_many(timeout=None, absent_timeout=1e9)
    def load(keys):
        asked.append(list(keys))
        return {key: data[key] for key in keys if key in data}

    for place, (verb, keys) in enumerate(history):
        match verb:
            case "get":
                missing = [key for key in dict.fromkeys(keys) if key not in known]
                known |= {key: data.get(key) for key in missing}
                asked.clear()
                reply = load(keys)
                expected = {key: known[key] for key in keys if known[key] is not None}
                if reply != expected or asked != ([missing] if missing else []):
                    return place
            case "quiet":
                data[keys[0]] = place
            case "delete" | "set":
                data.pop(keys[0], None) if verb == "delete" else data.update({keys[0]: place})
                load.invalidate(keys[0])
                known.pop(keys[0], None)
            case "drop":
                cache.invalidate()
                known.clear()
    return None


@given(steps)
def test_many_keys_are_like_a_dictionary_of_single_loads(history):
    """Whatever is asked together, each key is as it was when it was last loaded, and only the missing are asked for."""
    assert first_wrong_reply(history) is None


def test_the_law_finds_a_load_of_keys_that_are_there(monkeypatch):
    """A cache that loads all keys if one is missing is found out."""
    honest = many._Many._look

    def careless(self, key, found, memo):
        call = honest(self, key, {}, memo)
        return call or self.loader.locate(self.bind(key))

    def register(self, flight):
        self._register(flight)
        return flight

    monkeypatch.setattr(many._Many, "_look", careless)
    monkeypatch.setattr(Store, "_find", register)
    assert first_wrong_reply([("get", [1]), ("get", [1, 2])]) is not None


def test_the_law_finds_absent_keys_that_are_forgotten(monkeypatch):
    """A cache that asks for absent keys again is found out."""
    monkeypatch.setattr(
        "paintkit.cache.manager.but_absent",
        lambda timeout, absent: lambda value: 0 if value is many.ABSENT else None,
    )
    assert 1 == first_wrong_reply([("get", [1]), ("get", [1])])
