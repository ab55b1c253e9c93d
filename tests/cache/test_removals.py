"""The laws of removals: whoever listens hears of everything that left, why, in order, and can do no harm."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, observe
from paintkit.cache.memory import MemoryLevel
from paintkit.testing import FakeClock
from tests.cache.threads import PATIENCE, Running
from tests.cache.units import unit_of_work


def test_every_cause_is_told():
    """Expired, evicted, invalidated, replaced, collected: with function, key, value and uses."""
    told = []
    cache = CacheManager(maxsize=2, on_removal=told.append)
    with FakeClock() as clock:
        load = cache.cache_result(timeout=10)(lambda key: f"value {key}")
        for key in (1, 2, 2, 3):
            load(key)
        load.put("new", 3)
        load.invalidate(3)
        clock.advance(10.0)
        load(4)
        del load
        gc.collect()
        cache.get_stats()  # nothing is told in the midst of a collection
    assert [
        (1, "value 1", "evicted", 0),
        (3, "value 3", "replaced", 0),
        (3, "new", "invalidated", 0),
        (2, "value 2", "expired", 1),
        (4, "value 4", "collected", 0),
    ] == [one[1:] for one in told]
    assert told[0].function.endswith("<lambda>")


def test_a_refresh_replaces(colour):
    """A newer value for the same call is no invalidation."""
    told = []
    cache = CacheManager(on_removal=told.append)
    load = cache.cache_result()(colour.function(object))
    first = colour.call(load)
    second = colour.call(load.refresh)
    assert [(first, "replaced")] == [(one.value, one.cause) for one in told]
    assert second is colour.call(load)


def test_errors_that_were_kept_leave_as_errors():
    """The value of a kept error is the error."""
    told = []
    cache = CacheManager(on_removal=told.append)
    error = LookupError("green")

    @cache.cache_result(cache_errors=LookupError)
    def load():
        raise error

    with pytest.raises(LookupError):
        load()
    cache.invalidate()
    assert [error] == [one.value for one in told]


def test_a_rollback_removes_nothing():
    """An invalidation that never took effect is not told; one that did is told after the commit."""
    told = []
    cache = CacheManager(on_removal=told.append)
    load = cache.cache_result()(lambda: 1)
    load()
    with pytest.raises(ValueError, match="rolled back"), unit_of_work():
        load.invalidate()
        raise ValueError("rolled back")
    assert [] == told
    with unit_of_work():
        load.invalidate()
        assert [] == told
    assert ["invalidated"] == [one.cause for one in told]


def test_a_listener_may_use_the_cache_and_hears_in_order():
    """It is called outside the lock; what it removes itself is told after what it hears of now."""
    told = []

    def listen(removal):
        told.append(("begin", removal.key))
        if removal.key == 1:
            load.invalidate(2)
        told.append(("end", removal.key))

    cache = CacheManager(on_removal=listen)
    load = cache.cache_result()(lambda key: key)
    load(1), load(2)
    load.invalidate(1)
    assert [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)] == told


def test_a_listener_that_raises_breaks_nothing(caplog):
    """Its failure is logged, and the next removal is told all the same."""
    told = []

    def listen(removal):
        told.append(removal.key)
        raise RuntimeError("listener")

    cache = CacheManager(on_removal=listen)
    load = cache.cache_result()(lambda key: key)
    load(1), load(2)
    cache.invalidate()
    assert [1, 2] == sorted(told)
    assert 2 == caplog.text.count("RuntimeError: listener")


def test_other_threads_go_on_while_a_listener_takes_its_time():
    """A listener that blocks holds up neither hits nor invalidations of other threads; what those remove waits for it."""
    import threading

    began, go_on, told = threading.Event(), threading.Event(), []

    def listen(removal):
        told.append(removal.key)
        began.set()
        assert go_on.wait(PATIENCE)

    cache = CacheManager(on_removal=listen)
    load = cache.cache_result()(lambda key: key)
    load(1), load(2)
    slow = Running(lambda: load.invalidate(1))
    assert began.wait(PATIENCE)
    load.invalidate(2)
    assert 2 == load(2)
    assert [1] == told
    go_on.set()
    slow.result()
    assert [1, 2] == told


def test_observers_hear_of_removals_too():
    """As `cache.removed`, without the value."""
    cache = CacheManager("paints")
    load = cache.cache_result()(lambda key: key)
    load(7), load(7)
    seen = []
    with observe(seen.append):
        load.invalidate(7)
    (removed,) = [one for one in seen if one.kind == "cache.removed"]
    assert ("paints", 7, "invalidated", 1) == (
        removed.source,
        removed.details["key"],
        removed.details["cause"],
        removed.details["hits"],
    )


steps = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "drop", "put", "clear", "later"]), st.integers(0, 5)),
    max_size=60,
)


def books_differ(history, maxsize):
    """Whether what was told to have left is not exactly what came and is no longer there."""
    came, told = [], []
    cache = CacheManager(maxsize=maxsize, timeout=10, on_removal=lambda removal: told.append(removal.value))

    @cache.cache_result()
    def load(key):
        came.append(object())
        return came[-1]

    with FakeClock() as clock:
        for verb, key in history:
            match verb:
                case "call":
                    load(key)
                case "drop":
                    load.invalidate(key)
                case "put":
                    came.append(object())
                    load.put(came[-1], key)
                case "clear":
                    cache.invalidate()
                case "later":
                    clock.advance(key)
        cache.get_stats()
        held = [entry.value for entry in cache._store.level]
    return sorted(map(id, came)) != sorted(map(id, [*told, *held]))


@given(steps, st.integers(1, 4))
def test_what_came_is_held_or_was_told_once(history, maxsize):
    """Nothing leaves unheard, and nothing is told twice."""
    assert not books_differ(history, maxsize)


def test_the_law_finds_a_removal_that_is_not_told(monkeypatch):
    """A level that forgets to note evictions is found out."""
    unlink = MemoryLevel._unlink

    def forgetful(self, entry, cause):
        if cause == "evicted":
            removals, self._removals = self._removals, type("Deaf", (), {"note": lambda *_: None})()
            unlink(self, entry, cause)
            self._removals = removals
        else:
            unlink(self, entry, cause)

    monkeypatch.setattr(MemoryLevel, "_unlink", forgetful)
    assert books_differ([("call", 1), ("call", 2)], 1)
