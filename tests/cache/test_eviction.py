"""The laws of `S3FIFOCache`: a cache of cachetools in every respect, that forgets by S3-FIFO."""

import random
import threading

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.cache.eviction import S3FIFOCache
from tests.machines.test_s3fifo import Machine, lru_hits, zipf_with_scans

operations = st.lists(
    st.tuples(st.sampled_from(["set", "get", "delete", "pop"]), st.integers(0, 12)), max_size=200
)


@given(operations, st.integers(1, 8))
def test_it_is_a_bounded_mapping(history, maxsize):
    """What it holds is what was put in last, and never more than fits."""
    cache: S3FIFOCache[int, int] = S3FIFOCache(maxsize)
    latest: dict[int, int] = {}
    for number, (operation, key) in enumerate(history):
        if operation == "set":
            cache[key] = latest[key] = number
            assert number == cache[key]
        elif operation == "get":
            assert cache.get(key) in {None, latest.get(key)}
        elif operation == "delete":
            cache.pop(key, None)
            assert key not in cache
        elif cache:
            popped, value = cache.popitem()
            assert latest[popped] == value
            assert popped not in cache
        assert cache.currsize == len(cache) == len(cache._nodes) == len(cache._policy) <= maxsize
        assert set(cache) == set(cache._nodes)


def test_it_decides_like_the_machine():
    """As a mapping it hits exactly where the machine does."""
    trace = zipf_with_scans(seed=3, accesses=20_000)
    machine = Machine(200)
    cache: S3FIFOCache[int, int] = S3FIFOCache(200)
    hits = expected = 0
    for name in trace:
        expected += machine.get(name)[0]
        if name in cache:
            hits += 1
            cache[name]
        else:
            cache[name] = name
    assert expected == hits
    assert hits > 1.05 * lru_hits(trace, 200)


def test_it_serves_the_decorator_of_cachetools():
    """`cachetools.cached` takes it like its own."""
    loads = []

    @cachetools.cached(S3FIFOCache(100), lock=threading.Lock(), info=True)
    def load(number):
        loads.append(number)
        return number

    rng = random.Random(1)
    for _ in range(500):
        number = rng.randrange(50)
        assert number == load(number)
    assert 50 == len(loads)
    assert 450 == load.cache_info().hits


def test_sizes_are_weighed():
    """With `getsizeof` the bound is on the sum of sizes, and what can never fit is refused."""
    cache: S3FIFOCache[str, str] = S3FIFOCache(10, getsizeof=len)
    for key in "abcdef":
        cache[key] = key * 3
        assert cache.currsize <= 10
    assert 3 == len(cache)
    with pytest.raises(ValueError, match="too large"):
        cache["huge"] = "x" * 11
    cache["a"] = "y" * 9
    assert ["a"] == list(cache)


def test_an_empty_cache_has_nothing_to_pop():
    """Like the others it raises `KeyError`."""
    with pytest.raises(KeyError, match="S3FIFOCache is empty"):
        S3FIFOCache(3).popitem()
