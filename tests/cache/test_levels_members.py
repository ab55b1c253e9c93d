"""Who takes part in a second level: which functions, which arguments, which caches; and what is refused."""

import gc

import pytest

from paintkit import CacheManager
from paintkit.cache.store import Store
from paintkit.testing import FakeLevel, FakeServer


@pytest.fixture
def server():
    """What the processes share."""
    return FakeServer()


@pytest.fixture
def caches(server):
    """The caches of two processes."""
    return [CacheManager("shop", level2=FakeLevel(server)) for _ in range(2)]


def test_two_functions_of_one_name_are_refused(caches, colour):
    """T16: two functions of one name would find each other's values; in memory they may be two."""
    cache = caches[0]

    def define(number, **options):
        return cache.cache_result(**options)(colour.function(lambda sku: (number, sku)))

    first = define(1)
    with pytest.raises(ValueError, match="level2=False"):
        define(2)
    second = define(3, level2=False)
    assert [(1, "a"), (3, "a")] == [colour.call(first, "a"), colour.call(second, "a")]
    del first
    gc.collect()
    define(4)


def test_a_function_may_stay_in_memory(caches, colour):
    """With `level2=False` nothing of a function is shared, and nobody is asked."""
    loads = []
    here, there = (
        cache.cache_result(level2=False)(colour.function(lambda sku: loads.append(sku) or "a"))
        for cache in caches
    )
    assert ["a"] * 4 == [colour.call(one, "x") for one in (here, there, here, there)]
    assert 2 == len(loads)
    level = caches[0]._store.sharing.level
    level.isolate()
    level.rejoin(lost=True)
    assert "a" == colour.call(here, "x")
    assert 2 == len(loads)
    assert 0 == level.counts["looked"]


class TestInMemoryWithATag:
    """Values that stay in memory, but bear a tag by which other processes can invalidate them."""

    @pytest.fixture
    def loads(self):
        """The names of what was loaded, in order."""
        return []

    @pytest.fixture
    def here(self, caches, colour, loads):
        """A function of the first process."""
        options = {"level2": False, "tags": ("paints",), "timeout": None}
        return caches[0].cache_result(**options)(colour.function(lambda sku: loads.append(sku) or len(loads)))

    def test_word_of_the_tag_drops_them(self, caches, colour, here):
        """An invalidation in another process is one here, too."""
        assert [1, 1] == [colour.call(here, "x"), colour.call(here, "x")]
        caches[1].invalidate("paints")
        assert [2, 2] == [colour.call(here, "x"), colour.call(here, "x")]

    @pytest.mark.parametrize("fault", [None, "only shared copies are doubted"])
    def test_lost_word_drops_them(self, caches, colour, here, monkeypatch, fault):
        """What word was lost of cannot be asked for, so they go; a link that was away and lost nothing drops none."""
        if fault:
            monkeypatch.setattr(Store, "_doubt", lambda _store: None)
        level = caches[0]._store.sharing.level
        colour.call(here, "x")
        level.cut_link()
        level.mend_link()
        assert 1 == colour.call(here, "x")
        level.cut_link()
        caches[1].invalidate("paints")
        assert 1 == colour.call(here, "x")  # nobody can be asked, and it lives on
        level.mend_link(lost=True)
        assert (1 if fault else 2) == colour.call(here, "x")

    def test_what_is_on_its_way_while_word_is_lost_is_not_kept(self, caches, colour, loads):
        """A load that began before is as old as what was dropped."""
        level = caches[0]._store.sharing.level

        def load(sku):
            loads.append(sku)
            if len(loads) == 1:
                level.lose_words()
            return len(loads)

        here = caches[0].cache_result(level2=False, tags=("paints",))(colour.function(load))
        assert [1, 2, 2] == [colour.call(here, "x") for _ in range(3)]


@pytest.mark.parametrize("options", [{}, {"ignore": ("other",)}], ids=repr)
def test_a_changed_signature_is_another_function(caches, colour, options):
    """A function whose arguments changed does not find what was stored before."""

    def price(sku):
        return 1

    def changed(sku, other=None):
        return 7

    changed.__qualname__ = price.__qualname__
    here = caches[0].cache_result()(colour.function(price))
    there = caches[1].cache_result(**options)(colour.function(changed))
    assert [1, 7] == [colour.call(here, "red"), colour.call(there, "red")]


class Thing:
    """Known by its identity."""


class Shelf:
    """Known by its number, in all processes."""

    def __init__(self, number):
        self.number = number

    def __cache_key__(self):
        return self.number


def test_arguments_that_another_process_cannot_tell_are_refused(caches, colour):
    """T14: an object known by its identity is no key for several processes; the error names the ways out."""

    class Local:
        def __cache_key__(self):
            return 1

    load = caches[0].cache_result()(colour.function(lambda thing: thing))
    for thing in (Thing(), [Thing()], Local(), Thing):
        with pytest.raises(TypeError, match="level2=False"):
            colour.call(load, thing)
        with pytest.raises(TypeError, match="level2=False"):
            colour.call(load.invalidate, thing)
    assert 0 == caches[0].get_stats()["entries"]


def methods(cache, colour, stock):
    """Cache a method, as every process does."""

    def label(self, sku):
        return stock[getattr(self, "number", 0)]

    label.__qualname__ = "Shelf.label"
    return cache.cache_result()(colour.function(label))


def test_methods_share_by_what_their_objects_are(caches, colour):
    """T9, T15: objects with an exact key share their values with their equals everywhere, and with nobody else."""
    stock = {1: "a", 2: "b"}
    here, there = (methods(cache, colour, stock) for cache in caches)
    one, two, twin = Shelf(1), Shelf(2), Shelf(1)
    calls = [(here, one), (here, two), (there, one), (here, twin)]
    assert ["a", "b", "a", "a"] == [colour.call(load, shelf, "x") for load, shelf in calls]
    assert 2 == sum(cache.get_stats()["loads"] for cache in caches)
    stock[1] = "c"
    colour.call(here.invalidate, twin, "x")
    assert ["c", "b", "c", "c"] == [colour.call(load, shelf, "x") for load, shelf in calls]


def test_methods_of_what_no_other_process_knows_are_refused(caches, colour):
    """An object known by its identity has no place in a level."""
    here = methods(caches[0], colour, {0: "a"})
    with pytest.raises(TypeError, match="__cache_key__"):
        colour.call(here, Thing(), "x")


def test_a_class_goes_by_its_name(caches, colour):
    """A class method shares its values between the processes that have the class."""
    here, there = (methods(cache, colour, {0: 1, 5: 2}) for cache in caches)
    assert [1, 1] == [colour.call(here, Shelf, "x"), colour.call(there, Shelf, "x")]
    assert 1 == sum(cache.get_stats()["loads"] for cache in caches)


def test_a_glob_is_refused(caches):
    """No server knows what matches; the error says what to do instead."""
    with pytest.raises(ValueError, match="tag"):
        caches[0].invalidate(pattern="sku:*")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"level2": "redis://localhost"}, TypeError, "level2"),
        ({"level2": FakeLevel}, TypeError, "level2"),
        ({"max_unverified": 10}, ValueError, "level2"),
        ({"max_unverified": -1, "level2": FakeLevel()}, ValueError, "max_unverified"),
    ],
    ids=["a URL", "a class", "no level", "a negative span"],
)
def test_what_makes_no_sense_is_refused(options, error, text):
    """A mistake is told when the manager is made."""
    with pytest.raises(error, match=text):
        CacheManager("shop", **options)


def test_a_mistaken_option_is_refused(caches):
    """`level2` of a function is a flag."""
    with pytest.raises(TypeError, match="level2"):
        caches[0].cache_result(level2="redis")(lambda: 1)


def test_a_name_is_taken_as_long_as_its_cache_lives():
    """Two caches of one name in one process cannot share one level; one that is gone leaves its place."""
    level = FakeLevel()
    cache = CacheManager("shop", level2=level)
    with pytest.raises(ValueError, match="shop"):
        CacheManager("shop", level2=level)
    CacheManager("depot", level2=level)
    del cache
    gc.collect()
    CacheManager("shop", level2=level)
