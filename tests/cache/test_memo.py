"""The laws of the memo: repeatable reads inside one request, its own changes seen, nothing of it outside."""

import asyncio
import contextvars
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager, ambient
from paintkit.cache import memo as memos
from paintkit.testing import FakeClock
from tests.cache.units import unit_of_work


class Data:
    """What functions of either colour read, and others change."""

    def __init__(self, cache, colour=None, **options):
        self.values = {}
        self.loads = 0
        options = {"tags": lambda key: (f"tag:{key}",)} | options
        self.read = cache.cache_result(**options)(colour.function(self._load) if colour else self._load)

    def _load(self, key):
        self.loads += 1
        return self.values.get(key, 0)

    def change(self, key, value):
        """Write and invalidate, as another request does."""
        self.values[key] = value
        elsewhere(lambda: self.read.invalidate(key))


def elsewhere(action):
    """Do something in a context without memo."""

    def act():
        result = action()
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    return contextvars.Context().run(act)


@pytest.fixture(autouse=True)
def nothing_stays():
    """However a memo ends, hits take the short way again."""
    yield
    assert 0 == ambient.process.detours


def test_reads_are_repeatable(cache, colour):
    """What a request has read it reads again, though others change it and it expires; the next request sees the change."""
    data = Data(cache, colour)
    with FakeClock() as clock:
        with cache.memo():
            assert 0 == colour.call(data.read, 1)
            data.change(1, 5)
            clock.advance(1_000.0)
            assert 0 == colour.call(data.read, 1)
            assert 5 == elsewhere(lambda: data.read(1))
            assert 0 == colour.call(data.read, 1)
        assert 5 == colour.call(data.read, 1)


@pytest.mark.parametrize("how", ["call", "tag", "function", "everything", "put", "refresh"])
def test_own_changes_are_seen(cache, colour, how):
    """What a request invalidates, puts or refreshes itself, it reads anew; the rest stays as it was."""
    data = Data(cache, colour)
    with cache.memo():
        assert [0, 0] == [colour.call(data.read, key) for key in (1, 2)]
        data.change(2, 7)
        data.values[1] = 5
        match how:
            case "call":
                colour.call(data.read.invalidate, 1)
            case "tag":
                cache.invalidate("tag:1")
            case "function":
                cache.invalidate(data.read)
            case "everything":
                cache.invalidate()
            case "put":
                colour.call(data.read.put, 5, 1)
            case "refresh":
                assert 5 == colour.call(data.read.refresh, 1)
        assert 5 == colour.call(data.read, 1)
        assert (7 if how in {"function", "everything"} else 0) == colour.call(data.read, 2)


def test_a_unit_of_work_sees_its_own_writes_and_a_rollback_leaves_none(cache):
    """Inside the unit reads bypass the memo for what is dirty; what it read then is nobody's memory."""
    data = Data(cache)
    with cache.memo():
        assert 0 == data.read(1)
        with pytest.raises(ValueError, match="rolled back"), unit_of_work() as unit:
            data.values[1] = 5
            unit.wrote = True
            data.read.invalidate(1)
            assert 5 == data.read(1)
            assert 0 == data.read(2)
            data.values[2] = 9
            raise ValueError("rolled back")
        data.values[1] = 0
        assert 0 == data.read(1)
        assert 9 == data.read(2)  # what a unit that wrote has loaded may be what it wrote
        with unit_of_work():
            data.values[1] = 6
            data.read.invalidate(1)
        assert 6 == data.read(1)


def test_a_unit_of_work_reads_around_what_another_task_of_the_request_remembers(cache, colour):
    """What a unit has invalidated is no answer for it, though the memo has heard the old value from outside the unit since."""
    data = Data(cache, colour)
    with cache.memo():
        beside = contextvars.copy_context()
        with unit_of_work() as unit:
            unit.wrote = True
            colour.call(data.read.invalidate, 1)
            assert 0 == beside.run(lambda: colour.call(data.read, 1))
            data.values[1] = 5
            assert 5 == colour.call(data.read, 1)
            assert 0 == beside.run(lambda: colour.call(data.read, 1))


def test_loads_know_nothing_of_a_memo(cache, colour):
    """What is made of remembered values must not be served to others: a nested call in a load reads the cache itself."""
    data = Data(cache)
    outer = cache.cache_result()(colour.function(lambda: data.read(1) * 10))
    with cache.memo():
        assert 0 == data.read(1)
        data.change(1, 5)
        assert 50 == colour.call(outer)
        data.change(1, 6)
        assert 60 == colour.call(outer.refresh)
    assert 60 == colour.call(outer)


def test_a_memo_never_outlives_its_block(cache):
    """A context that was copied inside it remembers nothing afterwards, and values are let go."""
    data = Data(cache)
    with cache.memo():
        assert 0 == data.read(1)
        later = contextvars.copy_context()
        data.change(1, 5)
        assert 0 == later.run(data.read, 1)
    assert 5 == later.run(data.read, 1)
    opened = cache.memo()
    with opened:
        data.read(1)
    assert opened.closed


def test_a_memo_ends_with_an_error_too(cache):
    """Whatever ends the block ends the memo."""
    data = Data(cache)
    with pytest.raises(ValueError, match="view"), cache.memo():
        data.read(1)
        raise ValueError("view")
    data.change(1, 5)
    assert 5 == data.read(1)


def test_one_within_another_joins(cache):
    """The inner block ends nothing; an own invalidation inside it is seen outside."""
    data = Data(cache)
    with cache.memo():
        data.read(1)
        with cache.memo():
            data.change(1, 5)
            assert 0 == data.read(1)
        assert 0 == data.read(1)


def test_each_cache_has_its_own(cache):
    """A memo of one cache leaves another as it is; both can be open."""
    other = CacheManager("other")
    data, apart = Data(cache), Data(other)
    with cache.memo():
        assert (0, 0) == (data.read(1), apart.read(1))
        data.change(1, 5), apart.change(1, 5)
        assert (0, 5) == (data.read(1), apart.read(1))
        with other.memo():
            assert (0, 5) == (data.read(1), apart.read(1))
            apart.change(1, 6)
            assert (0, 5) == (data.read(1), apart.read(1))
        assert (0, 6) == (data.read(1), apart.read(1))


def test_another_thread_reads_the_cache(cache):
    """A memo is of a context, not of the process."""
    data, seen = Data(cache), []
    with cache.memo():
        data.read(1)
        data.change(1, 5)
        thread = threading.Thread(target=lambda: seen.append(data.read(1)))
        thread.start()
        thread.join()
    assert [5] == seen


def test_the_tasks_of_a_request_share_its_memo(cache):
    """Tasks begun inside read what it read, and their invalidations count as its own, even for a load under way."""

    async def scenario():
        began, go_on = asyncio.Event(), asyncio.Event()
        value = 0

        @cache.cache_result()
        async def slow():
            found = value
            began.set()
            await go_on.wait()
            return found

        with cache.memo():
            first = asyncio.create_task(slow())
            await began.wait()
            value = 5
            await slow.invalidate()  # the load under way began before
            go_on.set()
            assert 0 == await first
            assert 5 == await slow()
            value = 6
            await asyncio.create_task(slow.invalidate())
            assert 6 == await slow()

    asyncio.run(scenario())


def test_errors_are_not_remembered(cache, colour):
    """A failed load is tried again; a kept error comes from the cache."""
    outcomes = iter([ValueError("away"), 7])

    def load():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    read = cache.cache_result()(colour.function(load))
    with cache.memo():
        with pytest.raises(ValueError, match="away"):
            colour.call(read)
        assert 7 == colour.call(read)


steps = st.lists(
    st.tuples(st.sampled_from(["read", "read", "own", "own tag", "other"]), st.integers(0, 2)), max_size=25
)


def first_wrong_read(history):
    """Return the first step at which a request reads what the model does not; `None` if there is none."""
    cache = CacheManager()
    data = Data(cache)
    remembered = {}
    with cache.memo():
        for place, (verb, key) in enumerate(history):
            match verb:
                case "read":
                    expected = remembered.setdefault(key, data.values.get(key, 0))
                    if data.read(key) != expected:
                        return place
                case "other":
                    data.change(key, place + 1)
                case _:
                    data.values[key] = place + 1
                    data.read.invalidate(key) if verb == "own" else cache.invalidate(f"tag:{key}")
                    remembered.pop(key, None)
    return None


@given(steps)
def test_a_request_reads_like_a_dictionary_of_its_first_reads(history):
    """The whole behaviour in a model of three lines."""
    assert first_wrong_read(history) is None


def test_the_law_finds_a_memo_that_forgets_nothing(monkeypatch):
    """Own invalidations that do not reach the memo are found out."""
    monkeypatch.setattr(memos.Memo, "forget", lambda self, target: None)
    assert 2 == first_wrong_read([("read", 1), ("own", 1), ("read", 1)])


def test_the_law_finds_a_memo_that_remembers_nothing(monkeypatch):
    """Reads that are not repeatable are found out."""
    monkeypatch.setattr(memos.Memo, "find", lambda self, call: None)
    assert 2 == first_wrong_read([("read", 1), ("other", 1), ("read", 1)])
