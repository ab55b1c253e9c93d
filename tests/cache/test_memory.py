"""The laws of the memory level: bounded in number and in time, and what leaves is let go of."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, clock, observe
from paintkit.testing import FakeClock


@pytest.fixture
def time():
    """A clock that the test moves."""
    with FakeClock() as moved:
        yield moved


class Value:
    """Something whose death can be seen."""


def test_a_value_is_served_until_its_time_is_over(time, cache, colour):
    """A value is fresh for exactly its time to live, from the end of its load on."""
    loads = []
    load = cache.cache_result(timeout=10)(colour.function(lambda: loads.append(clock.now())))
    colour.call(load)
    time.advance(9.999)
    colour.call(load)
    assert [0.0] == loads
    time.advance(0.001)
    colour.call(load)
    assert [0.0, 10.0] == loads


def test_time_counts_from_the_end_of_the_load(time, cache, colour):
    """A slow load does not bring a value that is old already."""
    loads = []

    def slow():
        loads.append(clock.now())
        clock.sleep(60.0)

    load = cache.cache_result(timeout=10)(colour.function(slow))
    colour.call(load)
    time.advance(9.0)
    colour.call(load)
    assert [0.0] == loads


def test_a_life_with_one_end_takes_one_number(time, cache, colour):
    """A million entries would keep 48 MB more if each instant were a number of its own."""
    load = cache.cache_result(timeout=10)(colour.function(lambda: "value"))
    time.advance(0.1)
    colour.call(load)
    (entry,) = load._paintkit_extras.section.entries()
    assert 10.1 == entry.due
    assert entry.due is entry.expires is entry.leaves


def test_no_timeout_means_for_ever(time, cache, colour):
    """`timeout=None` never expires; without one the manager's default holds."""
    loads = []
    ever = cache.cache_result(timeout=None)(colour.function(lambda: loads.append("ever")))
    default = cache.cache_result()(colour.function(lambda: loads.append("default")))
    for _ in range(2):
        colour.call(ever)
        colour.call(default)
        time.advance(301.0)
    assert ["ever", "default", "default"] == loads


def test_the_manager_never_holds_more_than_maxsize():
    """Whatever is asked, the number of entries is bounded, and the rest was evicted."""
    cache = CacheManager(maxsize=100)
    load = cache.cache_result(tags=lambda x: (f"tag:{x}",))(lambda x: x)
    for number in range(1_000):
        load(number)
    stats = cache.get_stats()
    assert (100, 900) == (stats["entries"], stats["evictions"])
    assert 100 == len(cache._store.level._by_label)


def test_what_is_used_again_outlives_what_was_used_once():
    """A scan over many keys does not push out the popular ones."""
    cache = CacheManager(maxsize=100)
    load = cache.cache_result()(lambda x: object())
    popular = {number: load(number) for number in range(10)}
    for _ in range(3):
        for number in popular:
            load(number)
    for number in range(1_000, 3_000):
        load(number)
    assert all(load(number) is value for number, value in popular.items())


def test_expired_values_are_swept_away(time, cache, colour):
    """Stores sweep: values whose time is over do not stay until somebody asks for them."""
    load = cache.cache_result(timeout=10)(colour.function(lambda x: Value()))
    late = cache.cache_result(timeout=1_000)(colour.function(lambda x: Value()))
    values = weakref.WeakSet(colour.call(load, number) for number in range(500))
    colour.call(late, 0)
    time.advance(11.0)
    assert 501 == len(cache._store.level)
    colour.call(late, 1)
    gc.collect()
    assert 2 == len(cache._store.level)
    assert 0 == len(values)
    assert 500 == cache.get_stats()["expirations"]


def test_values_die_outside_the_lock(cache):
    """What runs when a value is freed finds the cache between two steps, however the value left."""
    inside = []

    class Mortal:
        def __del__(self):
            inside.append(cache._store._in_a_step())

    load = cache.cache_result()(lambda x: Mortal())
    for leave in (
        lambda: load.invalidate(1),
        lambda: load.refresh(1),
        cache.invalidate,
        lambda: load.put(0, 1),
    ):
        load(1)
        leave()
    assert [False] * 4 == inside


def test_statistics_sweep_too(time, cache):
    """What the statistics call an entry could be served."""
    load = cache.cache_result(timeout=10)(lambda x: x)
    load(1)
    time.advance(10.0)
    assert 0 == load.info().entries
    load(1)
    time.advance(10.0)
    assert 0 == cache.get_stats()["entries"]


def test_entries_that_left_early_do_not_pile_up(cache):
    """The books of expiry stay in proportion to what is held, whatever is invalidated or evicted."""
    load = cache.cache_result(timeout=100_000)(lambda x: x)
    for number in range(5_000):
        load(number)
        load.invalidate(number)
    assert sum(map(len, cache._store.level._queues.values())) < 200


@pytest.mark.parametrize("how", ["invalidated", "evicted", "replaced"])
def test_what_leaves_is_freed_at_once(how):
    """A value that left is held by nobody in the cache."""
    cache = CacheManager(maxsize=5)
    load = cache.cache_result()(lambda x: Value())
    ref = weakref.ref(load(0))
    if how == "invalidated":
        load.invalidate(0)
    elif how == "evicted":
        for number in range(1, 20):
            load(number)
    else:
        with FakeClock(start=clock.now() + 1_000.0):
            load(0)
    assert ref() is None


def test_a_value_may_use_the_cache_when_it_dies():
    """Values are freed outside the lock: a finaliser that calls the cache does not deadlock."""
    cache = CacheManager(maxsize=2)
    deaths = []

    class Talkative:
        def __del__(self):
            cache.invalidate("x")
            deaths.append(1)

    load = cache.cache_result(tags=("t",))(lambda x: Talkative())
    for number in range(10):
        load(number)
    cache.invalidate("t")
    load(1)
    cache.invalidate()
    assert 11 == len(deaths)


def test_evictions_are_observed():
    """Who listens hears what was evicted, and from which function."""
    cache = CacheManager("paints", maxsize=1)
    load = cache.cache_result()(lambda x: x)
    seen = []
    with observe(seen.append):
        load(1)
        load(2)
        cache.invalidate("tag")
    assert [("cache.removed", "paints"), ("cache.invalidated", "paints")] == [
        (one.kind, one.source) for one in seen
    ]
    assert "tag" == seen[1].details["target"]


steps = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "invalidate", "tag", "advance"]), st.integers(0, 9)),
    max_size=80,
)


@given(steps, st.integers(1, 8))
def test_the_books_agree(history, maxsize):
    """After any history the indexes name exactly the entries that are held, and all values are right."""
    with FakeClock() as time:
        cache = CacheManager(maxsize=maxsize)
        versions = [0] * 10
        load = cache.cache_result(timeout=5, tags=lambda x: (f"t:{x % 3}",))(lambda x: (x, versions[x]))
        for step, number in history:
            if step == "call":
                assert (number, versions[number]) == load(number)
            elif step == "advance":
                time.advance(number / 2)
            else:
                for changed in [number] if step == "invalidate" else range(number % 3, 10, 3):
                    versions[changed] += 1
                load.invalidate(number) if step == "invalidate" else cache.invalidate(f"t:{number % 3}")
        level = cache._store.level
        held = set(level)
        assert len(held) == len(level) <= maxsize
        assert held == set(load._paintkit_extras.section.entries())
        assert held == {entry for entries in level._by_label.values() for entry in entries}
        queued = {entry for queue in level._queues.values() for entry in queue if entry.queue is not None}
        assert held == queued
        stats = cache.get_stats()
        assert sum(step == "call" for step, _ in history) == stats["hits"] + stats["misses"]


def test_a_finaliser_in_the_midst_of_a_step_does_not_deadlock(cache, colour):
    """Garbage collected while the lock is held may call the cache: it computes alone, and what it invalidates goes."""
    values = iter(range(10))
    load = cache.cache_result(tags=("t",))(colour.function(lambda x: next(values)))
    assert 0 == colour.call(load, 1)
    seen = []

    class Garbage:
        def __del__(self):
            cache.invalidate("t")
            seen.append(colour.call(load, 2))

    with cache._store.lock:
        Garbage()  # as if an allocation in here had set off the collector
    assert [1] == seen
    assert 2 == colour.call(load, 2)
    assert 3 == colour.call(load, 1)


def test_what_garbage_invalidates_as_a_load_begins_is_gone_before_it(cache, colour, monkeypatch):
    """A load may take long, and others are served meanwhile."""
    values = iter(range(10))
    other = cache.cache_result(tags=("t",))(lambda: next(values))
    assert 0 == other()
    load = cache.cache_result()(colour.function(lambda: (other.peek(),)))
    register = cache._store._register

    def register_and_collect(flight):
        register(flight)
        cache.invalidate("t")  # a finaliser's, with the lock held

    monkeypatch.setattr(cache._store, "_register", register_and_collect)
    assert (None,) == colour.call(load)
