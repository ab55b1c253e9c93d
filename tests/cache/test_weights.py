"""The laws of weights: together the values never weigh more than they may."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, observe
from paintkit.cache.weights import Weights


def heaviest_moment(weights, most):
    """Return the most that a manager's values ever weighed together, by what it holds, not by what it says."""
    cache = CacheManager(maxsize=1_000, max_weight=most, weigh=len)
    load = cache.cache_result()(lambda number, weight: "x" * weight)
    worst = 0
    for number, weight in weights:
        load(number, weight)
        entries = list(cache._store.level)
        held = sum(len(entry.value) for entry in entries)
        assert held == cache.get_stats()["weight"] or isinstance(cache._store.level.weights, Careless)
        worst = max(worst, held)
    return worst


class Careless(Weights):
    """A planted fault: always has room."""

    def lack_room(self, weight):
        return False


calls = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), max_size=60)


@given(calls, st.integers(1, 30))
def test_values_never_weigh_more_than_they_may(weights, most):
    """Whatever is loaded, the sum stays within the limit, and the statistics tell it exactly."""
    assert heaviest_moment(weights, most) <= most


def test_the_law_finds_weights_that_always_have_room(monkeypatch):
    """A manager that forgets its limit is found out."""
    monkeypatch.setattr("paintkit.cache.manager.weights", Careless)
    assert heaviest_moment([(1, 6), (2, 6)], 10) > 10


def test_what_alone_is_too_heavy_is_not_kept(colour):
    """It is returned, told, counted, and makes nobody leave."""
    cache = CacheManager("prints", max_weight=10, weigh=len)
    load = cache.cache_result()(colour.function(lambda weight: "x" * weight))
    seen = []
    with observe(seen.append):
        colour.call(load, 3)
        assert "x" * 11 == colour.call(load, 11)
    assert [("cache.too_heavy", 11, 10)] == [
        (one.kind, one.details["weight"], one.details["max_weight"]) for one in seen
    ]
    stats = cache.get_stats()
    assert (1, 3, 10, 1) == (stats["entries"], stats["weight"], stats["max_weight"], stats["too_heavy"])


def test_a_value_too_heavy_to_keep_replaces_the_old_one(colour):
    """What was there is out of date, and leaves without a successor."""
    cache = CacheManager(max_weight=10, weigh=len)
    load = cache.cache_result()(colour.function(lambda: "short"))
    colour.call(load)
    colour.call(load.put, "x" * 11)
    assert 0 == cache.get_stats()["weight"]
    assert "short" == colour.call(load)


def test_without_a_measure_weight_is_bytes():
    """About the size of the value and its parts."""
    cache = CacheManager(max_weight=1_000_000)
    load = cache.cache_result()(lambda: "x" * 1_000)
    assert sys.getsizeof(load()) == cache.get_stats()["weight"]


@pytest.mark.parametrize("bad", [-1, 1.5, None, "3"])
def test_a_measure_that_gives_no_weight_fails_the_load(bad, colour):
    """The error names what is wrong, and nothing is kept."""
    cache = CacheManager(max_weight=10, weigh=lambda value: bad)
    load = cache.cache_result()(colour.function(lambda: 1))
    with pytest.raises((TypeError, ValueError), match="what weigh returns"):
        colour.call(load)
    assert 0 == cache.get_stats()["entries"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weigh": len}, ValueError, "pass max_weight"),
        ({"max_weight": 0}, ValueError, "max_weight"),
        ({"max_weight": 1.5}, TypeError, "max_weight"),
        ({"max_weight": 1, "weigh": 3}, TypeError, "weigh"),
    ],
)
def test_bad_weights_are_refused(options, error, words):
    """At construction, with a name and a fix."""
    with pytest.raises(error, match=words):
        CacheManager(**options)
