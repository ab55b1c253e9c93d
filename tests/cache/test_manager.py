"""The laws of `CacheManager`: what it takes, what it refuses, and what it tells."""

import datetime as dt
import inspect
import math
import subprocess
import sys
from contextvars import ContextVar

import pytest

from paintkit import CacheManager
from tests.colours import Colour


def test_the_decorator_works_bare_called_and_positionally(cache, colour):
    """`@cache.cache_result`, `@cache.cache_result()` and `@cache.cache_result(300)` all decorate."""
    for decorate in (
        cache.cache_result,
        cache.cache_result(),
        cache.cache_result(300),
        cache.cache_result(timeout=dt.timedelta(minutes=5)),
        cache.cache_result(300, lambda x: f"{x}"),
        CacheManager().cache_result(timeout=300, key_func=None),
    ):
        loads = []
        load = decorate(colour.function(loads.append))
        colour.call(load, 1)
        colour.call(load, 1)
        assert [1] == loads


def test_the_wrapper_looks_like_the_function(cache):
    """Name, documentation, module and signature stay."""

    @cache.cache_result
    def load(x: int) -> int:
        """Load."""
        return x

    assert ("load", "Load.", __name__) == (load.__name__, load.__doc__, load.__module__)
    assert {"x": int, "return": int} == load.__annotations__


BAD = [
    (lambda: CacheManager(""), ValueError, "name"),
    (lambda: CacheManager(5), TypeError, "name"),
    (lambda: CacheManager(maxsize=0), ValueError, "maxsize"),
    (lambda: CacheManager(maxsize=True), TypeError, "maxsize"),
    (lambda: CacheManager(maxsize=1.5), TypeError, "maxsize"),
    (lambda: CacheManager(timeout=0), ValueError, "timeout"),
    (lambda: CacheManager().cache_result(timeout=0), ValueError, "timeout"),
    (lambda: CacheManager().cache_result(timeout=-1), ValueError, "timeout"),
    (lambda: CacheManager().cache_result(timeout=math.nan), ValueError, "timeout"),
    (lambda: CacheManager().cache_result(timeout=math.inf), ValueError, "timeout"),
    (lambda: CacheManager().cache_result(timeout=True), TypeError, "timeout"),
    (lambda: CacheManager().cache_result(timeout="300"), TypeError, "timeout"),
    (lambda: CacheManager().cache_result(key_func="paint"), TypeError, "key_func"),
    (lambda: CacheManager().cache_result(key_func=Colour.ASYNCIO.function(str)), TypeError, "key_func"),
    (lambda: CacheManager().cache_result(tags=Colour.ASYNCIO.function(tuple)), TypeError, "tags"),
    (lambda: CacheManager().cache_result(steal=30), TypeError, "steal"),
    (lambda: CacheManager().cache_result(300, str, repr), TypeError, "timeout and key_func once each"),
    (
        lambda: CacheManager().cache_result(300, str, key_func=repr),
        TypeError,
        "timeout and key_func once each",
    ),
    (lambda: CacheManager().cache_result(timeout=Colour.ASYNCIO.function(len)), TypeError, "timeout"),
    (lambda: CacheManager(timeout=len), TypeError, "timeout"),
    (lambda: CacheManager().cache_result(cache_errors=()), ValueError, "cache_errors"),
    (lambda: CacheManager().cache_result(cache_errors=(int,)), TypeError, "cache_errors"),
    (lambda: CacheManager().cache_result(cache_errors=KeyboardInterrupt), ValueError, "cache_errors"),
    (lambda: CacheManager().cache_result(cache_errors="NotFound"), TypeError, "cache_errors"),
    (lambda: CacheManager().cache_result(error_timeout=0), ValueError, "error_timeout"),
    (lambda: CacheManager().cache_result(error_timeout=None), TypeError, "error_timeout"),
    (lambda: CacheManager().cache_result(error_timeout=5), ValueError, "error_timeout.* pass cache_errors"),
    (lambda: CacheManager().cache_result(jitter=1.5), ValueError, "jitter"),
    (lambda: CacheManager().cache_result(jitter=-0.1), ValueError, "jitter"),
    (lambda: CacheManager().cache_result(jitter=True), TypeError, "jitter"),
    (lambda: CacheManager(timeout=None).cache_result(jitter=0.1), ValueError, "jitter"),
    *(
        (lambda name=name: CacheManager(timeout=None).cache_result(**{name: 0.5}), ValueError, name)
        for name in ("early", "stale", "stale_on_error")
    ),
    *(
        (lambda name=name, value=value: CacheManager().cache_result(**{name: value}), kind, name)
        for name in ("stale", "stale_on_error", "loader_timeout", "soft_timeout")
        for value, kind in ((-1, ValueError), ("30", TypeError), (True, TypeError), (math.nan, ValueError))
    ),
    (lambda: CacheManager().cache_result(early=1.5), ValueError, "early"),
    (lambda: CacheManager().cache_result(early=True), TypeError, "early"),
    (lambda: CacheManager().cache_result(loader_timeout=0), ValueError, "loader_timeout"),
    (lambda: CacheManager().cache_result(soft_timeout=0.2), ValueError, "pass stale_on_error"),
    (lambda: CacheManager().cache_result(soft_timeout=0.2, stale=9), ValueError, "pass stale_on_error"),
    (
        lambda: CacheManager().cache_result(soft_timeout=5, loader_timeout=5, stale_on_error=9),
        ValueError,
        "shorter than loader_timeout",
    ),
    (lambda: CacheManager().cache_result(vary=ContextVar("v")), TypeError, "vary"),
    (lambda: CacheManager().cache_result(vary=("v",)), TypeError, "vary"),
    (lambda: CacheManager().cache_result(ignore="trace"), TypeError, "ignore"),
    (lambda: CacheManager().cache_result(ignore=5), TypeError, "ignore"),
    (lambda: CacheManager().cache_result(ignore=("",)), ValueError, "ignore"),
    (lambda: CacheManager().cache_result(ignore=("x",), key_func=str), ValueError, "ignore"),
    (lambda: CacheManager().invalidate(None), TypeError, "key or tag"),
    (lambda: CacheManager().invalidate(""), ValueError, "key or tag"),
    (lambda: CacheManager().invalidate(5), TypeError, "key or tag"),
    (lambda: CacheManager().invalidate(pattern=None), TypeError, "pattern"),
    (lambda: CacheManager().invalidate(pattern=""), ValueError, "pattern"),
    (lambda: CacheManager().invalidate("a", pattern="b"), TypeError, "not both"),
    (lambda: CacheManager().invalidate(len), TypeError, "cached function"),
    (lambda: CacheManager().of(len), TypeError, "cached function"),
    (
        lambda: CacheManager("one").of(CacheManager("two").cache_result(lambda: 1)),
        TypeError,
        "'two', not in 'one'",
    ),
]


@pytest.mark.parametrize(("act", "kind", "words"), BAD, ids=[f"{number}" for number in range(len(BAD))])
def test_bad_input_is_refused(act, kind, words):
    """A wrong kind is a `TypeError`, a wrong value a `ValueError`, and both name what is wrong."""
    with pytest.raises(kind, match=words):
        act()


def test_the_default_of_an_option_may_be_passed_on(cache):
    """Also where it has no effect: a wrapper hands over what it was given, and the signature shows the default."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cache.cache_result).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert 10.0 == defaults["error_timeout"]
    assert "red" == cache.cache_result(**defaults)(lambda: "red")()


def test_statistics_of_a_new_cache():
    """Before the first look-up everything is zero, the hit rate included."""
    stats = CacheManager(maxsize=7).get_stats()
    assert 7 == stats.pop("maxsize")
    assert stats.pop("max_weight") is None
    assert {} == stats.pop("level2")
    assert {0} == set(stats.values())
    assert isinstance(stats["hit_rate"], float)


def test_statistics_count_what_happened(cache, colour):
    """Hits, misses, loads, errors and sizes are those of the calls that were made."""
    load = cache.cache_result()(colour.function(lambda x: "x" * 1_000 if x else 1 / 0))
    for value in (1, 1, 1, 2):
        colour.call(load, value)
    with pytest.raises(ZeroDivisionError):
        colour.call(load, 0)
    stats = cache.get_stats()
    assert (2, 2, 3, 3, 1) == tuple(
        stats[name] for name in ("entries", "hits", "misses", "loads", "load_errors")
    )
    assert pytest.approx(0.4) == stats["hit_rate"]
    assert 2_000 < stats["estimated_size"] < 2_400
    info = colour.call(load.info)
    assert (2, 3, 3, 1, 2) == (info.hits, info.misses, info.loads, info.load_errors, info.entries)


def test_counts_survive_what_left(cache, colour):
    """Hits on values that are gone still count."""
    load = cache.cache_result()(colour.function(lambda x: x))
    for _ in range(3):
        colour.call(load, 1)
    cache.invalidate()
    assert (2, 0) == (cache.get_stats()["hits"], cache.get_stats()["entries"])


def test_two_managers_share_nothing(colour):
    """One function cached by two managers has two entries."""
    function = colour.function(lambda: object())  # noqa: PLW0108 - a class has a signature of its own
    one, two = CacheManager("one"), CacheManager("two")
    first, second = one.cache_result()(function), two.cache_result()(function)
    assert colour.call(first) is not colour.call(second)
    one.invalidate()
    assert (0, 1) == (one.get_stats()["entries"], two.get_stats()["entries"])


def test_nothing_is_printed(cache, capsys):
    """The cache writes to nobody's terminal."""
    load = cache.cache_result()(lambda x: x)
    load(1), load(1)
    cache.invalidate()
    assert ("", "") == tuple(capsys.readouterr())


def test_the_cache_costs_no_heavy_import():
    """Using the cache in blocking code loads neither asyncio nor logging nor inspect."""
    program = (
        "import sys; from paintkit import CacheManager; c = CacheManager()\n"
        "f = c.cache_result(tags=('a',))(lambda x: x); f(1); f(1); f([1]); c.invalidate('a'); c.get_stats()\n"
        "print({'asyncio', 'logging', 'inspect', 'dataclasses', 'cachetools', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


def test_a_manager_shows_itself(cache):
    """`repr` tells name and size."""
    load = cache.cache_result()(lambda: 1)
    load()
    assert "<CacheManager 'test': 1 of 10000 entries>" == repr(cache)
