"""The law of invalidation: a call that begins after it returned never sees a value whose load began before it."""

import asyncio
import contextvars
import itertools
import random
import threading
from unittest import mock

import pytest

from paintkit import CacheManager, ambient
from paintkit.cache import store
from paintkit.cache.flights import Flight
from paintkit.cache.invalidation import Ledger
from tests.cache.threads import PATIENCE, Gate, Running, eventually
from tests.cache.units import unit_of_work

TARGETS = {
    "key": lambda cache, fn: cache.invalidate("paint_1"),
    "tag": lambda cache, fn: cache.invalidate("paints"),
    "glob over keys": lambda cache, fn: cache.invalidate(pattern="paint_*"),
    "glob over tags": lambda cache, fn: cache.invalidate(pattern="pai??s"),
    "function": lambda cache, fn: cache.invalidate(fn),
    "everything": lambda cache, fn: cache.invalidate(),
}
UNRELATED = {
    "key": lambda cache, fn: cache.invalidate("paint_2"),
    "prefix of the key": lambda cache, fn: cache.invalidate("paint_"),
    "tag": lambda cache, fn: cache.invalidate("brands"),
    "glob": lambda cache, fn: cache.invalidate(pattern="paint_1?"),
    "glob in the middle": lambda cache, fn: cache.invalidate(pattern="aint"),
    "function": lambda cache, fn: cache.invalidate(cache.cache_result()(lambda: None)),
}


def cached(cache, colour, body):
    """Cache a function of one argument under a key and a tag."""
    return cache.cache_result(key_func=lambda number: f"paint_{number}", tags=("paints",))(
        colour.function(body)
    )


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def target(request):
    """Every way to name what concerns a call."""
    return request.param


@pytest.fixture(params=UNRELATED.values(), ids=UNRELATED)
def unrelated(request):
    """Ways to name what does not concern it."""
    return request.param


def test_what_is_invalidated_is_loaded_anew(cache, colour, target):
    """After an invalidation the next call loads."""
    values = itertools.count(1)
    load = cached(cache, colour, lambda number: next(values))
    assert [1, 1] == [colour.call(load, 1), colour.call(load, 1)]
    target(cache, load)
    assert [2, 2] == [colour.call(load, 1), colour.call(load, 1)]
    assert 1 == cache.get_stats()["invalidations"]


def test_what_is_not_concerned_stays(cache, colour, unrelated):
    """An invalidation is exact: no prefix and no part of a name is enough."""
    values = itertools.count(1)
    load = cached(cache, colour, lambda number: next(values))
    assert 1 == colour.call(load, 1)
    unrelated(cache, load)
    assert 1 == colour.call(load, 1)


def test_a_load_under_way_is_not_kept(cache, colour, target):
    """A value that was read before the invalidation answers those who asked before it, and nobody else."""
    table = ["old"]
    gate = Gate(lambda: table[0])
    load = cached(cache, colour, gate)
    early = Running(lambda: colour.call(load, 1))
    assert gate.began.wait(PATIENCE)
    table[0] = "new"
    target(cache, load)
    gate.opened.set()
    assert "new" == colour.call(load, 1)
    assert "old" == early.result()
    assert "new" == colour.call(load, 1)


def test_newcomers_do_not_join_a_flight_from_before(cache, colour, target):
    """Who calls after the invalidation, while the old load still runs, loads anew and does not wait for the old."""
    table = ["old"]
    first, second = Gate(lambda: table[0]), Gate(lambda: table[0])
    gates = iter([first, second])
    load = cached(cache, colour, lambda number: next(gates)())
    early = Running(lambda: colour.call(load, 1))
    assert first.began.wait(PATIENCE)
    table[0] = "new"
    target(cache, load)
    second.open()
    assert "new" == colour.call(load, 1)
    first.open()
    assert "old" == early.result()
    assert "new" == colour.call(load, 1)


def test_a_load_that_is_not_concerned_is_kept(cache, colour, unrelated):
    """An invalidation of something else costs a load under way nothing."""
    gate = Gate(lambda: "value")
    load = cached(cache, colour, gate)
    running = Running(lambda: colour.call(load, 1))
    assert gate.began.wait(PATIENCE)
    unrelated(cache, load)
    gate.open()
    assert "value" == running.result() == colour.call(load, 1)
    assert 1 == gate.loads


def test_an_extra_drops_one_call_by_its_arguments(cache, colour):
    """`fn.invalidate(...)` binds its arguments as a call does, and drops that call alone."""
    loads = []
    load = cache.cache_result()(
        colour.function(lambda brand, page=1, *, size=10: loads.append((brand, page)))
    )
    for page in (1, 2):
        colour.call(load, "V", page)
    colour.call(load.invalidate, brand="V", size=10)
    for page in (1, 2):
        colour.call(load, "V", page)
    assert [("V", 1), ("V", 2), ("V", 1)] == loads


def test_a_load_under_way_is_dropped_by_its_arguments(cache, colour):
    """The law holds for `fn.invalidate(...)` too."""
    table = ["old"]
    gate = Gate(lambda: table[0])
    load = cache.cache_result()(colour.function(lambda number: gate()))
    early = Running(lambda: colour.call(load, 1))
    assert gate.began.wait(PATIENCE)
    table[0] = "new"
    colour.call(load.invalidate, 1)
    gate.open()
    assert "new" == colour.call(load, 1)
    assert "old" == early.result()
    assert "new" == colour.call(load, 1)


# --- Histories ---


class History:
    """Readers and writers of a few rows, in a random order in which loads are held for as long as it likes.

    A writer changes a row, invalidates it, and from then on the new version is promised. A reader notes what is promised
    when it calls, and must not get less.
    """

    ROWS = 3

    def __init__(self, colour, seed):
        self.violations = []
        self.loads = self.overlaps = 0
        self._colour = colour
        self._random = random.Random(seed)
        self._cache = CacheManager()
        self._versions = [0] * self.ROWS
        self._promised = [0] * self.ROWS
        self._held = []
        self._load = self._cache.cache_result(tags=lambda row: (f"row:{row}", "rows"))(
            colour.function(self._read)
        )

    def _read(self, row):
        self.loads += 1
        version = self._versions[row]
        let_go = threading.Event()
        self._held.append((row, let_go))
        assert let_go.wait(PATIENCE), "nobody let the load go"
        return version

    def _check(self, row):
        promised = self._promised[row]
        seen = self._colour.call(self._load, row)
        if seen < promised:
            self.violations.append((row, promised, seen))

    def _write(self, row):
        self._versions[row] += 1
        self.overlaps += any(held == row for held, _ in self._held)
        how = self._random.choice(
            [
                lambda: self._cache.invalidate(f"row:{row}"),
                lambda: self._cache.invalidate("rows"),
                lambda: self._cache.invalidate(pattern=f"*:{row}"),
                lambda: self._cache.invalidate(self._load),
                lambda: self._colour.call(self._load.invalidate, row),
                self._cache.invalidate,
            ]
        )
        how()
        self._promised[row] = self._versions[row]

    def _start(self, row):
        """Start a reader and return it when it has its value, waits for it, or loads."""
        before = self._board.call_count + self.loads
        reader = Running(lambda: self._check(row))
        eventually(lambda: not reader.alive or self._board.call_count + self.loads > before)
        return reader

    def _let_one_go(self):
        if self._held:
            _, let_go = self._held.pop(self._random.randrange(len(self._held)))
            let_go.set()

    def run(self, steps):
        """Take as many random steps, then let all loads go; return this history."""
        with mock.patch.object(Flight, "board", autospec=True, side_effect=Flight.board) as self._board:
            return self._run(steps)

    def _run(self, steps):
        running = []
        for _ in range(steps):
            row = self._random.randrange(self.ROWS)
            step = self._random.random()
            if step < 0.6:
                running.append(self._start(row))
            elif step < 0.8:
                self._write(row)
            else:
                self._let_one_go()
        while any(reader.alive for reader in running):
            self._let_one_go()
            threading.Event().wait(0.0001)  # the readers' turn
        for reader in running:
            reader.result()
        return self


@pytest.mark.parametrize("seed", range(5))
def test_no_history_shows_a_stale_value(colour, seed):
    """In no order of calls, writes, invalidations and ends of loads does a reader see less than was promised."""
    history = History(colour, seed).run(steps=150)
    assert [] == history.violations
    assert history.loads > 10
    assert history.overlaps > 2


@pytest.mark.parametrize("mutant", ["keeps what late flights bring", "lets newcomers join old flights"])
def test_the_histories_catch_a_cache_without_the_rule(colour, mutant, monkeypatch):
    """A store that forgets one half of the rule does not pass."""
    right = store.Store.land

    def drop_entries_only(self, target):
        with self.lock:
            for entry in list(target.entries(self.level)):
                self.level.remove(entry, "invalidated")

    def keep_whatever_comes(self, flight, landing):
        self._flights.setdefault((flight.call.table, flight.call.key), flight)
        right(self, flight, landing)

    if mutant == "keeps what late flights bring":
        monkeypatch.setattr(store.Store, "land", keep_whatever_comes)
    else:
        monkeypatch.setattr(store.Store, "drop", drop_entries_only)
    assert any(History(colour, seed).run(steps=150).violations for seed in range(10))


# --- Units of work ---


def inside(colour, body):
    """Run `body(call)` in a context of its own, where `call` calls functions of the colour."""
    if str(colour) == "blocking":
        return contextvars.copy_context().run(body, lambda fn, *args: fn(*args))

    # One loop for all calls of the body, so that they share its context.
    with asyncio.Runner() as runner:
        return contextvars.copy_context().run(
            body, lambda fn, *args: runner.run(fn(*args), context=contextvars.copy_context())
        )


def test_what_a_unit_reads_of_what_it_invalidated_is_its_own(cache, colour, target):
    """It is kept from others, though nobody saw the unit write: who invalidates has changed something in some way."""
    load = cached(cache, colour, lambda number: "theirs" if ambient.unit_of_work.get() is None else "its own")

    def scenario(call):
        with unit_of_work():
            target(cache, load)
            assert "its own" == call(load, 1)
            others = contextvars.Context()
            assert "theirs" == others.run(lambda: colour.call(load, 1))

    inside(colour, scenario)


def test_an_invalidation_waits_for_the_commit(cache, colour, target):
    """Inside a unit of work others go on reading the committed value until the commit."""
    table = ["old"]
    load = cached(cache, colour, lambda number: table[0])

    def scenario(call):
        assert "old" == call(load, 1)
        with unit_of_work() as unit:
            unit.wrote = True
            target(cache, load)
            table[0] = "new"
            others = contextvars.Context()
            assert "old" == others.run(lambda: colour.call(load, 1))
            assert 0 == cache.get_stats()["invalidations"]
        assert "new" == call(load, 1)
        assert 1 == cache.get_stats()["invalidations"]

    inside(colour, scenario)


def test_a_rolled_back_invalidation_never_happens(cache, colour, target):
    """A unit that rolls back leaves the cache as it was."""
    load = cached(cache, colour, lambda number: object())

    def scenario(call):
        before = call(load, 1)
        with pytest.raises(ZeroDivisionError), unit_of_work():
            target(cache, load)
            1 / 0
        assert call(load, 1) is before

    inside(colour, scenario)


def test_a_unit_reads_around_what_it_invalidated(cache, colour, target):
    """A unit of work sees its own changes: what it invalidated it loads itself, and nobody else sees that."""
    table = ["old"]
    loads = []
    load = cached(cache, colour, lambda number: loads.append(number) or table[0])

    def scenario(call):
        assert "old" == call(load, 1)
        with pytest.raises(ZeroDivisionError), unit_of_work() as unit:
            unit.wrote = True
            table[0] = "uncommitted"
            target(cache, load)
            assert "uncommitted" == call(load, 1)
            assert "uncommitted" == call(load, 1)
            table[0] = "old"
            1 / 0
        assert "old" == call(load, 1)
        assert 3 == len(loads)

    inside(colour, scenario)


def test_a_unit_still_hits_what_it_did_not_invalidate(cache, colour, unrelated):
    """Only what the unit changed is read around; a glob makes everything suspect, as nobody can list what it matches."""
    loads = []
    load = cached(cache, colour, loads.append)

    def scenario(call):
        call(load, 1)
        with unit_of_work():
            unrelated(cache, load)
            call(load, 1)

    inside(colour, scenario)
    is_glob = unrelated in {UNRELATED["glob"], UNRELATED["glob in the middle"]}
    assert 1 + is_glob == len(loads)


def test_a_miss_inside_a_unit_that_only_reads_is_kept(cache, colour):
    """A unit that wrote nothing reads what everybody may see."""
    loads = []
    load = cached(cache, colour, loads.append)

    def scenario(call):
        with unit_of_work():
            call(load, 1)
        call(load, 1)

    inside(colour, scenario)
    assert [1] == loads


def test_a_miss_inside_a_unit_that_wrote_is_not_kept(cache, colour):
    """What a unit reads after writing may be its own, and is nobody else's."""
    loads = []
    load = cached(cache, colour, loads.append)

    def scenario(call):
        with unit_of_work() as unit:
            unit.wrote = True
            call(load, 1)
        call(load, 1)

    inside(colour, scenario)
    assert [1, 1] == loads


def test_a_miss_from_an_old_snapshot_is_not_kept(cache, colour, target):
    """A value read in a unit that began before an invalidation may be older than it, so it is not kept."""
    loads = []
    load = cached(cache, colour, loads.append)

    def scenario(call):
        with unit_of_work():
            contextvars.Context().run(target, cache, load)  # by somebody else, at once
            call(load, 1)
        call(load, 1)

    inside(colour, scenario)
    assert [1, 1] == loads


def test_a_miss_from_a_snapshot_that_is_not_concerned_is_kept(cache, colour):
    """An invalidation of something else since the unit began is no reason to load again."""
    loads = []
    load = cached(cache, colour, loads.append)

    def scenario(call):
        with unit_of_work():
            contextvars.Context().run(cache.invalidate, "brands")
            call(load, 1)
        call(load, 1)

    inside(colour, scenario)
    assert [1] == loads


def test_a_miss_inside_a_unit_takes_no_flight(cache, colour):
    """A unit loads in its own thread and does not wait for somebody else's load of the same call."""
    gate = Gate(lambda: "theirs")
    bodies = iter([gate, lambda: "ours"])
    load = cached(cache, colour, lambda number: next(bodies)())
    theirs = Running(lambda: colour.call(load, 1))
    assert gate.began.wait(PATIENCE)

    def scenario(call):
        with unit_of_work():
            assert "ours" == call(load, 1)

    inside(colour, scenario)
    gate.open()
    assert "theirs" == theirs.result()


def test_each_invalidation_begins_an_epoch(cache):
    """Each epoch that takes effect is counted, so that units know what came after them."""
    before = ambient.process.epoch
    cache.invalidate("a")
    cache.invalidate()
    assert before + 2 == ambient.process.epoch


def test_the_ledger_forgets_on_the_safe_side():
    """What was invalidated longer ago than the ledger remembers counts as invalidated for whoever began before that."""
    ledger = Ledger(capacity=3)
    for epoch, mark in enumerate(["a", "b", "c", "d", "e"], start=1):
        ledger.note(mark, epoch)
    assert ledger.noted_since(1, ["a"])
    assert ledger.noted_since(1, ["never"])
    assert not ledger.noted_since(2, ["never"])
    assert ledger.noted_since(4, ["x", "e"])
    assert not ledger.noted_since(5, ["e"])
