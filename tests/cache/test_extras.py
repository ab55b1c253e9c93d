"""The laws of what sits on a cached function: by its arguments, around the cache."""

import asyncio
import contextvars
import itertools

import pytest

from paintkit import CacheManager
from paintkit.cache.store import Store
from paintkit.testing import FakeClock
from tests.cache.threads import PATIENCE, Gate, Running
from tests.cache.units import unit_of_work
from tests.colours import Colour


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


def test_put_stores_a_value_as_if_it_had_been_loaded(cache, colour):
    """`fn.put(value, ...)` makes the next call a hit, replaces what was there, and lives as long as a loaded value."""
    loads = []
    load = cache.cache_result(timeout=10, tags=("t",))(colour.function(loads.append))
    with FakeClock() as time:
        colour.call(load.put, "given", 1)
        assert "given" == colour.call(load, 1)
        colour.call(load.put, "given again", 1)
        assert "given again" == colour.call(load, 1)
        assert [] == loads
        time.advance(10.0)
        colour.call(load, 1)
        assert [1] == loads
        colour.call(load.put, "tagged", 1)
        cache.invalidate("t")
        assert colour.call(load, 1) is None


def test_a_load_that_began_before_a_put_does_not_replace_it(cache, colour):
    """What is put is newer than what was on its way."""
    gate = Gate(lambda: "older")
    load = cache.cache_result()(colour.function(gate.__call__))
    loading = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    colour.call(load.put, "newer")
    gate.open()
    assert "older" == loading.result()
    assert "newer" == colour.call(load)


def test_what_a_unit_of_work_puts_is_there_from_its_commit_on(cache, colour):
    """Others see the old value until the commit, and for ever after a rollback; the unit itself reads around it."""
    load = cache.cache_result()(colour.function(lambda: "loaded"))
    colour.call(load.put, "old")

    def inside(*, fail):
        with unit_of_work() as unit:
            unit.wrote = True
            colour.call(load.put, "new")
            assert "loaded" == colour.call(load)
            assert "old" == contextvars.Context().run(colour.call, load)
            if fail:
                raise LookupError

    with pytest.raises(LookupError):
        contextvars.copy_context().run(inside, fail=True)
    assert "old" == colour.call(load)
    contextvars.copy_context().run(inside, fail=False)
    assert "new" == colour.call(load)


def test_a_put_gives_way_to_an_invalidation_before_its_commit(cache, colour):
    """A value that somebody invalidated between the put and the commit is not stored."""
    load = cache.cache_result(tags=("t",))(colour.function(lambda: "loaded"))

    def inside():
        with unit_of_work():
            colour.call(load.put, "put")
            contextvars.Context().run(cache.invalidate, "t")

    contextvars.copy_context().run(inside)
    assert "loaded" == colour.call(load)


@pytest.mark.parametrize("mutant", ["stores at once", "forgets the loads under way"])
def test_the_laws_of_put_catch_a_put_without_them(cache, mutant, monkeypatch):
    """A put that is no step of its own, or knows no unit of work, does not pass."""

    async def at_once(self, target, replace, runtime):
        await replace(runtime)

    def beside_the_loads(self, target):
        entries = list(target.entries(self.level))
        self._remove(entries, "invalidated")
        return len(entries)

    if mutant == "stores at once":
        monkeypatch.setattr(Store, "exchange", at_once)
        law = test_what_a_unit_of_work_puts_is_there_from_its_commit_on
    else:
        monkeypatch.setattr(Store, "_forget", beside_the_loads)
        law = test_a_load_that_began_before_a_put_does_not_replace_it
    with pytest.raises(AssertionError):
        law(cache, Colour.BLOCKING)


def test_put_refuses_what_a_load_must_not_return(cache, colour):
    """An iterator is no value, whoever brings it."""
    load = cache.cache_result()(colour.function(lambda: 1))
    with pytest.raises(TypeError, match="read only once"):
        colour.call(load.put, iter(()))


def test_explain_tells_why_a_call_would_miss(colour):
    """Never called, fresh, expired, invalidated or evicted: `fn.explain(...)` says which, and counts nothing."""
    cache = CacheManager(maxsize=1)
    load = cache.cache_result(timeout=10, tags=lambda x: (f"t:{x}",))(colour.function(lambda x: x))

    def state():
        told = colour.call(load.explain, 1)
        return told.missed, told.level, told.fresh, told.age, told.expires_in

    with FakeClock() as time:
        assert ("never", None, False, None, None) == state()
        colour.call(load, 1)
        time.advance(4.0)
        assert (None, "memory", True, 4.0, 6.0) == state()
        time.advance(7.0)
        assert ("expired", "memory", False, 11.0, -1.0) == state()
        cache.get_stats()
        assert ("expired", None, False, None, None) == state()
        colour.call(load, 1)
        cache.invalidate("t:1")
        assert ("invalidated", None, False, None, None) == state()
        colour.call(load, 1)
        colour.call(load, 2)
        assert ("evicted", None, False, None, None) == state()
        assert ("t:1",) == colour.call(load.explain, 1).tags
        assert colour.call(load.explain, 1).key != colour.call(load.explain, 2).key
        assert (0, 4) == (cache.get_stats()["hits"], cache.get_stats()["misses"])


def test_explain_sees_the_open_unit_and_the_load_under_way(cache, colour):
    """What the open unit of work has changed is dirty for it; a load that others wait for shows."""
    gate = Gate(lambda: "loaded")
    load = cache.cache_result(tags=("t",))(colour.function(gate.__call__))
    loading = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    assert colour.call(load.explain).loading
    gate.open()
    loading.result()

    def inside():
        with unit_of_work():
            cache.invalidate("t")
            return colour.call(load.explain)

    assert ("dirty", False) == contextvars.copy_context().run(inside)[-2:]


def test_info_tells_misses_by_cause(colour):
    """`fn.info()` counts why values were missing, and what is held; the manager has the sums."""
    cache = CacheManager(maxsize=2)
    load = cache.cache_result(timeout=10)(colour.function(lambda x: "x" * 1_000))
    with FakeClock() as time:
        colour.call(load, 1)
        colour.call(load.invalidate, 1)
        colour.call(load, 1)
        time.advance(10.0)
        colour.call(load, 1)
        colour.call(load, 2)
        colour.call(load, 3)
        colour.call(load, 1)
        info = colour.call(load.info)
        stats = cache.get_stats()
    assert (6, 1, 1, 1, 2) == (info.misses, info.expired, info.invalidated, info.evicted, info.entries)
    assert 2_000 < info.estimated_size < 2_400
    assert (1, 1, 1) == (stats["expired"], stats["invalidated"], stats["evicted"])


def test_causes_of_long_ago_are_forgotten():
    """Only so many reasons are remembered, whatever leaves."""
    cache = CacheManager()
    load = cache.cache_result()(lambda x: x)
    for number in range(5_000):
        load(number)
    cache.invalidate()
    assert 4_096 == len(cache._store.level._causes)
    assert ["never", "invalidated"] == [load.explain(number).missed for number in (0, 4_999)]


def test_the_managers_twin_invalidates_in_asyncio(cache):
    """`await cache.ainvalidate(...)` takes what `invalidate` takes and does the same."""
    load = cache.cache_result(tags=("t",))(lambda: object())  # noqa: PLW0108 - a class has a signature of its own
    for what, named in [(("t",), {}), ((load,), {}), ((), {"pattern": "?"}), ((), {})]:
        before = load()
        asyncio.run(cache.ainvalidate(*what, **named))
        assert load() is not before
    with pytest.raises(TypeError):
        asyncio.run(cache.ainvalidate(None))
