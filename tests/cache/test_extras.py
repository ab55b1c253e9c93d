"""The laws of what sits on a cached function: by its arguments, around the cache."""

import contextvars
import itertools

import pytest

from tests.cache.threads import PATIENCE, Gate, Running
from tests.cache.units import unit_of_work


def test_refresh_loads_anew_and_replaces(cache, colour):
    """`fn.refresh(...)` loads although a fresh value is there, returns the new one, and everybody gets it from then on."""
    values = itertools.count(1)
    load = cache.cache_result(tags=("t",))(colour.function(lambda x: next(values)))
    assert 1 == colour.call(load, "a")
    assert 2 == colour.call(load.refresh, "a")
    assert 2 == colour.call(load, "a")
    cache.invalidate("t")
    assert 3 == colour.call(load, "a")


def test_the_old_value_is_served_during_a_refresh(cache, colour):
    """Nobody waits for somebody else's refresh."""
    gate = Gate(lambda: "new")
    bodies = iter([lambda: "old", gate])
    load = cache.cache_result()(colour.function(lambda: (next(bodies))()))  # noqa: PLW0108 - one for each load
    colour.call(load)
    refreshing = Running(lambda: colour.call(load.refresh))
    assert gate.began.wait(PATIENCE)
    assert "old" == colour.call(load)
    gate.open()
    assert "new" == refreshing.result() == colour.call(load)


def test_a_failed_refresh_changes_nothing(cache, colour):
    """The error goes to who asked; the old value stays."""
    bodies = iter([lambda: "old", lambda: 1 / 0])
    load = cache.cache_result()(colour.function(lambda: (next(bodies))()))  # noqa: PLW0108 - one for each load
    colour.call(load)
    with pytest.raises(ZeroDivisionError):
        colour.call(load.refresh)
    assert "old" == colour.call(load)


def test_a_refresh_obeys_the_law_of_invalidation(cache, colour):
    """A refresh that began before an invalidation stores nothing."""
    gate = Gate(lambda: "before")
    bodies = iter([gate, lambda: "after"])
    load = cache.cache_result(tags=("t",))(colour.function(lambda: (next(bodies))()))  # noqa: PLW0108 - one for each load
    refreshing = Running(lambda: colour.call(load.refresh))
    assert gate.began.wait(PATIENCE)
    cache.invalidate("t")
    gate.open()
    assert "before" == refreshing.result()
    assert "after" == colour.call(load)


def test_an_older_load_does_not_replace_a_refreshed_value(cache, colour):
    """A load that was under way when a refresh brought something newer stores nothing when it lands."""
    gate = Gate(lambda: "older")
    bodies = iter([gate, lambda: "newer"])
    load = cache.cache_result()(colour.function(lambda: (next(bodies))()))  # noqa: PLW0108 - one for each load
    loading = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    assert "newer" == colour.call(load.refresh)
    gate.open()
    assert "older" == loading.result()
    assert "newer" == colour.call(load)


def test_a_refresh_in_a_unit_that_wrote_is_its_own(cache, colour):
    """What a unit of work loads after writing is nobody else's, refreshed or not."""
    values = itertools.count(1)
    load = cache.cache_result()(colour.function(lambda: next(values)))
    colour.call(load)

    def inside():
        with unit_of_work() as unit:
            unit.wrote = True
            return colour.call(load.refresh)

    assert 2 == contextvars.copy_context().run(inside)
    assert 1 == colour.call(load)


def test_peek_looks_and_does_nothing_else(cache, colour):
    """`fn.peek(...)` returns a fresh value or `None`; it loads nothing and counts nothing."""
    load = cache.cache_result()(colour.function(lambda x, y=2: (x, y)))
    assert colour.call(load.peek, 1) is None
    colour.call(load, 1)
    assert (1, 2) == colour.call(load.peek, 1)
    stats = cache.get_stats()
    assert (0, 1) == (stats["hits"], stats["misses"])


def test_extras_of_a_method_speak_of_one_object(cache):
    """`cache.of(obj.method)` refreshes and peeks for that object alone."""

    class Counter:
        def __init__(self):
            self.count = 0

        @cache.cache_result()
        def load(self, step):
            self.count += step
            return self.count

    one, two = Counter(), Counter()
    assert [1, 1] == [one.load(1), two.load(1)]
    assert 2 == cache.of(one.load).refresh(1)
    assert [2, 1] == [cache.of(each.load).peek(1) for each in (one, two)]
