"""The laws of watching caches: who changes a shared value is found, and loads are counted."""

import functools
from dataclasses import dataclass, field

import pytest

from paintkit import CacheManager, ambient
from paintkit.testing import MutatedValueError, assert_loads, mutation_guard
from paintkit.testing.caches import portrait


@dataclass
class Paint:
    name: str = "red"
    tags: list[str] = field(default_factory=list)

    @functools.cached_property
    def length(self):
        return len(self.name)


class Slotted:
    __slots__ = ("name",)

    def __init__(self):
        self.name = "red"


@pytest.fixture
def cache():
    return CacheManager()


CHANGES = {
    "list": (lambda: ["red"], lambda value: value.append("blue")),
    "dict": (lambda: {"a": 1}, lambda value: value.update(a=True)),
    "set": (lambda: {1}, lambda value: value.add(2)),
    "bytearray": (lambda: bytearray(b"a"), lambda value: value.extend(b"b")),
    "object": (Paint, lambda value: setattr(value, "name", "blue")),
    "slots": (Slotted, lambda value: setattr(value, "name", "blue")),
    "deep": (lambda: ({"paints": [Paint()]},), lambda value: value[0]["paints"][0].tags.append("x")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_guard_finds_a_caller_that_changes_a_value(kind, cache, colour):
    """The first caller changes what the load returned; the next call, T19's victim, says so."""
    make, change = CHANGES[kind]
    load = cache.cache_result()(colour.function(make))
    with pytest.raises(MutatedValueError, match="and the cache shares"), mutation_guard():
        change(colour.call(load))
        colour.call(load)
        pytest.fail("nobody noticed")


def test_the_guard_looks_once_more_at_the_end(cache):
    """Even if nobody asks again."""
    load = cache.cache_result()(lambda: ["red"])
    with pytest.raises(MutatedValueError), mutation_guard():
        load().clear()


def test_the_guard_knows_values_that_were_there_before(cache):
    """They are looked at when they are first served."""
    load = cache.cache_result()(lambda: ["red"])
    load()
    with pytest.raises(MutatedValueError), mutation_guard():
        load().clear()
        load()


def test_who_changes_nothing_or_a_copy_passes(cache, colour):
    """Reads, cached properties and copies are no changes; without a guard nobody looks; nothing stays behind."""
    paint = cache.cache_result()(colour.function(Paint))
    own = cache.cache_result(copy="deep")(colour.function(Paint))
    nothing = cache.cache_result()(colour.function(lambda: float("nan")))
    with mutation_guard():
        for _ in range(2):
            assert 3 == colour.call(paint).length
            colour.call(own).tags.append("x")
            colour.call(nothing)
    assert 0 == ambient.process.detours
    colour.call(paint).tags.append("x")
    colour.call(paint)


def test_a_second_guard_is_refused():
    """One at a time."""
    with mutation_guard(), pytest.raises(RuntimeError, match="one at a time"), mutation_guard():
        pass
    assert 0 == ambient.process.detours


def test_a_portrait_ends_in_circles():
    """A value that contains itself can be looked at."""
    value = [1]
    value.append(value)
    before = portrait(value)
    assert portrait(value) == before
    value.append(2)
    assert portrait(value) != before


def test_loads_are_counted(cache, colour):
    """Too many and too few are failures that tell how many there were."""
    load = cache.cache_result()(colour.function(lambda key: key))
    with assert_loads(load, 2):
        for key in (1, 1, 2):
            colour.call(load, key)
    with pytest.raises(AssertionError, match="was loaded 1 time instead of 0"), assert_loads(load, 0):
        colour.call(load, 3)
    with pytest.raises(TypeError, match="no cached function"), assert_loads(len, 1):
        pass
    with pytest.raises(ValueError, match="times"), assert_loads(load, -1):
        pass
