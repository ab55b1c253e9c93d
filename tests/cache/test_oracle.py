"""The laws of foreign policies: a cache of cachetools decides as it would alone, though it hears of hits late."""

import functools

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager
from paintkit.cache import oracle
from paintkit.cache.eviction import S3FIFOCache

KINDS = [cachetools.LRUCache, cachetools.LFUCache, cachetools.FIFOCache, S3FIFOCache]


def held(load, keys):
    """Return which of these calls would be hits."""
    return {key for key in keys if load.explain(key).level == "memory"}


def differs_from_the_policy_alone(make, history, maxsize):
    """Return the first step after which a manager holds other keys than the policy alone; `None` if there is none."""
    cache = CacheManager(maxsize=maxsize, policy=make)
    load = cache.cache_result(timeout=None)(lambda key: key)
    alone = make(maxsize)
    for place, (drop, key) in enumerate(history):
        if drop:
            load.invalidate(key)
            alone.pop(key, None)
        else:
            load(key)
            if alone.get(key) is None:
                alone[key] = key + 1
        if held(load, range(12)) != set(alone):
            return place
    return None


histories = st.lists(st.tuples(st.sampled_from([False] * 9 + [True]), st.integers(0, 11)), max_size=120)


@pytest.mark.parametrize("make", KINDS)
@given(history=histories, maxsize=st.integers(1, 6))
def test_the_victims_are_those_of_the_policy_alone(make, history, maxsize):
    """As long as no hit is lost, a manager lets go of exactly what the same cache lets go of by itself."""
    assert differs_from_the_policy_alone(make, history, maxsize) is None


def test_the_law_finds_a_policy_that_does_not_hear_of_hits(monkeypatch):
    """A buffer that loses every hit makes least recently used the first that came, and the law says so."""
    monkeypatch.setattr(oracle, "NOTES", 0)
    history = [(False, key) for key in (1, 2, 1, 3)]
    assert 3 == differs_from_the_policy_alone(cachetools.LRUCache, history, 2)


def test_hits_beyond_the_buffer_lose_the_oldest(monkeypatch):
    """Between two changes only the latest hits are remembered: the policy sees those, in order."""
    monkeypatch.setattr(oracle, "NOTES", 2)
    cache = CacheManager(maxsize=3, policy=cachetools.LRUCache)
    load = cache.cache_result()(lambda key: key)
    for key in (1, 2, 3, 1, 2, 3, 4):  # of the three hits, that on 1 is lost
        load(key)
    assert {2, 3, 4} == held(load, range(5))


def test_hits_of_both_colours_are_heard_of(colour):
    """A hit in passing and a look out of line count alike, for a function and for a key that no wrapper can build."""
    cache = CacheManager(maxsize=2, policy=cachetools.LRUCache)
    load = cache.cache_result()(colour.function(lambda key: key))
    for key in ((1,), 2, (1,), 3):
        colour.call(load, key)
    assert ["memory", None, "memory"] == [colour.call(load.explain, key).level for key in ((1,), 2, 3)]


def test_a_function_may_make_the_policy():
    """Whatever gets `maxsize` and returns a cache will do."""
    made = []

    def make(maxsize):
        made.append(maxsize)
        return cachetools.RRCache(maxsize, choice=min)

    cache = CacheManager(maxsize=2, policy=make)
    load = cache.cache_result()(lambda key: key)
    for _ in range(5):
        load(_)
    assert [2] == made
    assert 2 == cache.get_stats()["entries"]


def test_a_policy_that_lets_go_by_itself_leaves_nothing_behind():
    """A subclass may drop more than it is asked to: what it dropped makes room first."""

    class Forgetful(cachetools.FIFOCache):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            if len(self) > 2:
                self.popitem()

    cache = CacheManager(maxsize=3, policy=Forgetful)
    load = cache.cache_result()(lambda key: key)
    for key in range(10):
        load(key)
    assert 3 == cache.get_stats()["entries"]
    assert 7 == cache.get_stats()["evictions"]
    cache.invalidate()
    assert 0 == cache.get_stats()["entries"]


@pytest.mark.parametrize(
    ("policy", "error", "words"),
    [
        (cachetools.LRUCache(10), TypeError, "policy=LRUCache"),
        ("lru", TypeError, "'lru'"),
        (dict, TypeError, "policy must be a class of cachetools, .* not dict"),
        (lambda maxsize: {}, TypeError, "must make a cache of cachetools"),
        (cachetools.TTLCache, TypeError, "must not be a TTLCache.*pass timeout="),
        (cachetools.TLRUCache, TypeError, "must not be a TLRUCache.*pass timeout="),
        (functools.partial(cachetools.TTLCache, ttl=5), TypeError, "pass timeout="),
        (lambda maxsize: cachetools.TLRUCache(maxsize, lambda *_: 5), TypeError, "pass timeout="),
        (functools.partial(cachetools.LRUCache, getsizeof=len), ValueError, "max_weight="),
        (lambda maxsize: cachetools.LRUCache(5), ValueError, "maxsize that it is given, 10"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(policy, error, words):
    """The message names the value and the fix."""
    with pytest.raises(error, match=words):
        CacheManager(maxsize=10, policy=policy)
