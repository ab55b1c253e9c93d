"""The laws of what is kept of an outcome, and for how long."""

import contextvars
import datetime as dt
import gc
import random

import pytest

from paintkit import CacheManager, backoff, clock
from paintkit.cache.entries import Entry
from paintkit.cache.keeping import Keeping
from paintkit.testing import FakeClock
from tests.cache.threads import PATIENCE, Gate, Running, eventually
from tests.cache.units import unit_of_work
from tests.colours import Colour


class NotFoundError(LookupError):
    """An answer: there is none."""


@pytest.fixture
def time():
    """A clock that the test moves."""
    with FakeClock() as moved:
        yield moved


def failing(loads, *errors):
    """Return a body that raises the errors one after another, and then returns what it was asked for."""
    script = iter(errors)

    def body(x):
        loads.append(x)
        for error in script:
            raise error
        return x

    return body


def test_an_error_that_is_an_answer_is_kept(time, cache, colour):
    """A chosen error is raised to every call until its own time is over; then the function is asked again."""
    loads = []
    load = cache.cache_result(timeout=300, cache_errors=(NotFoundError,), error_timeout=5.0)(
        colour.function(failing(loads, NotFoundError("no paint 1")))
    )
    for _ in range(3):
        with pytest.raises(NotFoundError, match="no paint 1"):
            colour.call(load, 1)
        time.advance(1.0)
    assert [1] == loads
    time.advance(2.0)
    assert 1 == colour.call(load, 1)
    assert [1, 1] == loads
    info = colour.call(load.info)
    assert (2, 2, 1, 1) == (info.hits, info.misses, info.load_errors, info.expired)


def test_other_errors_are_not_kept(cache, colour):
    """An error that was not chosen goes to its caller and is forgotten; a predicate chooses, too."""
    for chosen in (NotFoundError, lambda error: isinstance(error, NotFoundError)):
        loads = []
        load = cache.cache_result(cache_errors=chosen)(
            colour.function(failing(loads, LookupError(), OSError()))
        )
        for kind in (LookupError, OSError):
            with pytest.raises(kind):
                colour.call(load, 1)
        assert 1 == colour.call(load, 1)
        assert 3 == len(loads)


def test_a_kept_error_is_no_value(time, cache, colour):
    """It is not what `peek` returns, it counts as an entry, and an invalidation drops it."""
    loads = []
    load = cache.cache_result(cache_errors=NotFoundError, tags=("t",))(
        colour.function(failing(loads, NotFoundError(), NotFoundError()))
    )
    for drop in (lambda: cache.invalidate("t"), lambda: colour.call(load.invalidate, 1)):
        with pytest.raises(NotFoundError):
            colour.call(load, 1)
        assert colour.call(load.peek, 1) is None
        told = colour.call(load.explain, 1)
        assert "memory" == told.level
        assert (True, 10.0) == (told.fresh, pytest.approx(told.age + told.expires_in))
        assert 1 == cache.get_stats()["entries"]
        drop()
    assert 1 == colour.call(load, 1)
    assert 3 == len(loads)


def test_a_kept_error_does_not_grow(time, cache, colour):
    """However often it is raised, its traceback is that of the last time."""
    load = cache.cache_result(cache_errors=NotFoundError)(
        colour.function(failing([], NotFoundError(), NotFoundError()))
    )
    depths = []
    for _ in range(5):
        with pytest.raises(NotFoundError) as caught:
            colour.call(load, 1)
        depths.append(len(caught.traceback))
    assert depths[1] == depths[4]


def test_an_answer_replaces_a_refreshed_value(time, cache, colour):
    """A refresh that finds that there is nothing any more replaces the old value; any other failure changes nothing."""
    outcomes = iter([None, OSError(), NotFoundError()])

    def body():
        error = next(outcomes)
        if error is not None:
            raise error
        return "found"

    load = cache.cache_result(cache_errors=NotFoundError)(colour.function(body))
    colour.call(load)
    with pytest.raises(OSError):
        colour.call(load.refresh)
    assert "found" == colour.call(load)
    with pytest.raises(NotFoundError):
        colour.call(load.refresh)
    with pytest.raises(NotFoundError):
        colour.call(load)


def test_a_kept_error_obeys_the_law_of_invalidation(cache, colour):
    """An error whose load began before an invalidation is not kept."""

    def body(_x=0):
        gate()
        raise NotFoundError

    gate = Gate(lambda: None)
    load = cache.cache_result(cache_errors=NotFoundError, tags=("t",))(colour.function(body))
    loading = Running(lambda: colour.call(load))
    assert gate.began.wait(PATIENCE)
    cache.invalidate("t")
    gate.open()
    assert isinstance(loading.error(), NotFoundError)
    assert 0 == cache.get_stats()["entries"]


def fail_to_renew_a_kept_error(time, cache, colour):
    loads = []
    # With a key function wrappers of either colour look by themselves, whatever they wrap.
    load = cache.cache_result(timeout=60, key_func=str, cache_errors=NotFoundError)(
        colour.function(failing(loads, NotFoundError("no paint 1"), ConnectionError("down")))
    )
    with pytest.raises(NotFoundError):
        colour.call(load, 1)
    time.advance(1.0)
    with pytest.raises(ConnectionError):
        colour.call(load.refresh, 1)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no paint 1"):
            colour.call(load, 1)
    assert [1, 1] == loads


def test_a_kept_error_that_cannot_be_renewed_is_still_raised(time, cache, colour):
    """A refresh that fails leaves it as it was: an error to raise, never a value to return."""
    fail_to_renew_a_kept_error(time, cache, colour)


def test_an_error_that_is_served_as_a_value_is_noticed(time, cache, colour, monkeypatch):
    """The law above notices what postpones errors like values."""
    monkeypatch.setattr(Entry, "postpone", lambda entry, due: setattr(entry, "due", due))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        fail_to_renew_a_kept_error(time, cache, colour)


def test_all_who_wait_for_a_kept_error_get_it(cache, colour):
    """Whoever waited for the load and whoever comes later are told the same."""

    def body(_x=0):
        gate()
        raise NotFoundError("gone")

    gate = Gate(lambda: None)
    load = cache.cache_result(cache_errors=NotFoundError, error_timeout=300)(colour.function(body))
    running = [Running(lambda: colour.call(load)) for _ in range(5)]
    eventually(lambda: cache.get_stats()["misses"] == 5)
    gate.open()
    assert ["gone"] * 5 == [str(each.error()) for each in running]
    with pytest.raises(NotFoundError, match="gone"):
        colour.call(load)
    assert 1 == gate.loads


def test_what_a_writing_unit_does_not_find_is_its_own(time, cache, colour):
    """A unit of work that has written keeps no error for others; one that only reads does."""
    loads = []
    errors = [NotFoundError(), NotFoundError()]
    load = cache.cache_result(cache_errors=NotFoundError)(colour.function(failing(loads, *errors)))

    def inside(wrote):
        with unit_of_work() as unit:
            unit.wrote = wrote
            with pytest.raises(NotFoundError):
                colour.call(load, 1)

    for wrote in (True, False):
        contextvars.copy_context().run(inside, wrote)
    with pytest.raises(NotFoundError):
        colour.call(load, 1)
    assert [1, 1] == loads


def test_the_result_may_choose_its_time(time, cache, colour):
    """`timeout=` of the result: seconds, a `timedelta`, `None` for ever, or 0 for not at all."""
    lives = {"a": 5, "b": dt.timedelta(seconds=20), "c": None, "d": 0}
    loads = []

    def body(x):
        loads.append(x)
        return x

    load = cache.cache_result(timeout=lives.__getitem__)(colour.function(body))

    def ask():
        loads.clear()
        for key in lives:
            colour.call(load, key)
        return "".join(loads)

    assert ["abcd", "d"] == [ask(), ask()]
    time.advance(5.0)
    assert "ad" == ask()
    time.advance(15.0)
    assert "abd" == ask()
    time.advance(1e9)
    assert "abd" == ask()


def test_values_of_many_times_leave_in_time(time, cache):
    """However many different times to live there are, what is past its time is swept, in few books."""
    load = cache.cache_result(timeout=lambda x: 1.0 + x / 7)(lambda x: x)
    for number in range(1_000):
        load(number)
    assert len(cache._store.level._queues) < 40
    time.advance(200.0)
    assert 0 == cache.get_stats()["entries"]


def test_a_newer_value_that_is_not_kept_drops_the_old_one(cache, colour):
    """A refresh whose value lives for 0 seconds leaves nothing behind."""
    values = iter([60, 0, 60])
    load = cache.cache_result(timeout=lambda seconds: seconds)(colour.function(lambda: next(values)))
    assert [60, 0, 60] == [colour.call(load), colour.call(load.refresh), colour.call(load)]


@pytest.mark.parametrize(
    ("chosen", "kind"), [(-1, ValueError), ("60", TypeError), (True, TypeError), (float("nan"), ValueError)]
)
def test_a_result_that_chooses_nonsense_is_an_error(cache, colour, chosen, kind):
    """What `timeout` returns is checked; the error goes to the caller and nothing is kept."""
    load = cache.cache_result(timeout=lambda _value: chosen)(colour.function(lambda: 1))
    with pytest.raises(kind, match="what timeout returns"):
        colour.call(load)
    assert (0, 1) == (cache.get_stats()["entries"], cache.get_stats()["load_errors"])


def test_a_result_that_chooses_infinity_is_told_of_none(cache, colour):
    """`None` is what never expires."""
    load = cache.cache_result(timeout=lambda _value: float("inf"))(colour.function(lambda: 1))
    with pytest.raises(ValueError, match="pass None, which never expires"):
        colour.call(load)


@pytest.fixture
def seeded(monkeypatch):
    """Chance that repeats itself."""
    rng = random.Random(7)
    monkeypatch.setattr(backoff, "shared_rng", lambda: rng)


def lives(cache, colour, time, jitter):
    """Return for how long 20 values that came together are served."""
    load = cache.cache_result(timeout=100, jitter=jitter)(colour.function(lambda _x: clock.now()))
    for number in range(20):
        colour.call(load, number)
    found = {}
    for _ in range(101):
        time.advance(1.0)
        for number in range(20):
            if number not in found and colour.call(load.peek, number) is None:
                found[number] = clock.now()
    return sorted(found.values())


@pytest.mark.usefixtures("seeded")
def test_jitter_spreads_what_came_together(time, cache, colour):
    """Values that came together go one by one, within the jitter's part of their time, and none is served too long."""
    spread = lives(cache, colour, time, 0.5)
    assert 20 == len(spread)
    assert 50.0 <= spread[0] <= spread[-1] <= 100.0
    assert len(set(spread)) > 10


def test_without_jitter_they_go_together(time, cache, colour):
    """No jitter is the default."""
    assert {100.0} == set(lives(cache, colour, time, 0.0))


def test_an_error_in_a_predicate_of_errors_is_told(cache, colour):
    """A broken `cache_errors` is an error of the call, chained to nothing that is kept."""
    load = cache.cache_result(cache_errors=lambda error: error.missing)(colour.function(lambda: 1 / 0))
    with pytest.raises(AttributeError):
        colour.call(load)
    assert 0 == cache.get_stats()["entries"]


@pytest.mark.parametrize("mutant", ["keeps every error", "keeps none"])
def test_the_laws_of_kept_errors_catch_a_cache_without_them(time, mutant, monkeypatch):
    """A cache that keeps the wrong errors does not pass."""
    monkeypatch.setattr(Keeping, "keeps", lambda _self, _error: mutant == "keeps every error")
    with pytest.raises((AssertionError, pytest.fail.Exception, LookupError)):
        if mutant == "keeps every error":
            test_other_errors_are_not_kept(CacheManager(), Colour.BLOCKING)
        else:
            test_a_kept_error_is_no_value(time, CacheManager(), Colour.BLOCKING)


def test_a_kept_error_lets_go_of_what_its_load_held(time, cache):
    """Once it has been raised again, the frames of its load are free."""
    held = []

    class Held:
        def __del__(self):
            held.append("freed")

    def body():
        holder = Held()
        raise NotFoundError(str(type(holder)))

    load = cache.cache_result(cache_errors=NotFoundError)(body)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            load()
    gc.collect()
    assert ["freed"] == held
