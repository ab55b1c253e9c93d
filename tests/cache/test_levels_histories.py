"""Histories of processes: in no order of calls, writes, faults and steps does anybody see less than was promised.

`PAINTKIT_HISTORIES=100000` takes so many of each colour (1,000 need 2 to 10 seconds); the suite takes a few.
"""

import os
import random
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from paintkit.cache.invalidation import Ledger
from paintkit.cache.loading import Loader
from paintkit.cache.store import Store
from paintkit.testing.levels import FakeServer, _Membership
from tests.cache.interleaving import history, play
from tests.colours import Colour

HISTORIES = int(os.environ.get("PAINTKIT_HISTORIES", "100"))


def find_no_stale_value(colour, **options):
    """Of as many histories at least 30 % have an invalidation during a load, and none a violation."""
    overlapped = reads = 0
    for seed in range(HISTORIES):
        world = history(colour, random.Random(seed), actions=22, **options)
        assert [] == world.violations, f"seed {seed}"
        overlapped += world.overlapped
        reads += world.reads
    assert overlapped >= 0.3 * HISTORIES
    assert reads > 4 * HISTORIES
    sys.stdout.write(f"{HISTORIES} histories, {overlapped} overlapped, {reads} reads, none stale\n")


@pytest.mark.timeout(max(120, HISTORIES // 10))
def test_no_history_of_two_processes_shows_a_stale_value(colour):
    """T1 across processes: whatever two of them do, with units of work, lost links and servers, nobody is shown old values."""
    find_no_stale_value(colour)


@pytest.mark.timeout(max(120, HISTORIES // 10))
def test_no_history_in_memory_shows_a_stale_value(colour):
    """T1 in one process without a second level, whose loads, refreshes and units of work overlap as they like."""
    find_no_stale_value(colour, shared=False)


# --- Planted faults ---


def keep_late_loads(monkeypatch):
    right = Store.land

    def land(self, flight, landing, **options):
        self._flights.setdefault((flight.call.table, flight.call.key), flight)
        right(self, flight, landing, **options)

    monkeypatch.setattr(Store, "land", land)


def keep_old_snapshots(monkeypatch):
    monkeypatch.setattr(Ledger, "noted_since", lambda self, epoch, marks: False)


def forget_once(monkeypatch):
    async def spread(self, target, runtime):
        await self.sharing.port(runtime).drop(target.changes)

    monkeypatch.setattr(Store, "_spread", spread)


def compare_nothing(monkeypatch):
    right = FakeServer.fill

    def fill(self, namespace, place, sight, *what):
        item = self._item(namespace, place.key)
        sight.version = sight.version if item is None else item.version
        return right(self, namespace, place, sight, *what)

    monkeypatch.setattr(FakeServer, "fill", fill)


def read_tokens_late(monkeypatch):
    right = FakeServer.fill

    def fill(self, namespace, place, sight, *what):
        sight.tokens = tuple(self._token(namespace, mark) for mark in place.marks)
        return right(self, namespace, place, sight, *what)

    monkeypatch.setattr(FakeServer, "fill", fill)


def fill_in_units(monkeypatch):
    right = Loader._load_inside

    async def load_inside(self, unit, call, later, runtime):
        shared = self.section.shared
        sight = await shared.look(call, runtime)
        outcome = await right(self, unit, call, later, runtime)
        await shared.share(call, sight, self.store.judge(call, outcome), runtime)
        return outcome

    monkeypatch.setattr(Loader, "_load_inside", load_inside)


def ignore_gaps(monkeypatch):
    monkeypatch.setattr(Store, "doubt", lambda self: None)


def trust_flights_over_gaps(monkeypatch):
    def doubt(self):
        with self.lock:
            for entry in self.level:
                entry.doubt()

    monkeypatch.setattr(Store, "doubt", doubt)


def look_while_drops_are_kept(monkeypatch):
    monkeypatch.setattr(_Membership, "is_whole", property(lambda self: True))


def leave_flights_alone(monkeypatch):
    right = Store._forget

    def forget(self, target):
        flights, self._flights = self._flights, {}
        dropped = right(self, target)
        self._flights = flights
        return dropped

    monkeypatch.setattr(Store, "_forget", forget)


#: Each with a seed from which on it is found soon.
FAULTS = {
    forget_once: 700,
    compare_nothing: 0,
    read_tokens_late: 0,
    fill_in_units: 0,
    ignore_gaps: 100,
    trust_flights_over_gaps: 1260,
    look_while_drops_are_kept: 0,
    leave_flights_alone: 0,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_histories_catch(fault, monkeypatch):
    """A cache or a level with a planted fault does not pass."""
    fault(monkeypatch)
    seeds = range(FAULTS[fault], FAULTS[fault] + 3000)
    assert any(history(Colour.BLOCKING, random.Random(seed), actions=40).violations for seed in seeds)


@pytest.mark.parametrize(
    "fault", [keep_late_loads, keep_old_snapshots, leave_flights_alone], ids=lambda fault: fault.__name__
)
def test_the_histories_in_memory_catch(fault, monkeypatch):
    """A cache with a planted fault does not pass in memory either."""
    fault(monkeypatch)
    seeds = map(random.Random, range(300))
    assert any(history(Colour.BLOCKING, seed, actions=40, shared=False).violations for seed in seeds)


# --- The same for Hypothesis, which finds the shortest history ---


def finds_nothing(colour, **options):
    """Whether Hypothesis finds no program that shows a violation of the model."""

    @settings(deadline=None, suppress_health_check=list(HealthCheck), **options)
    @given(st.binary(max_size=40))
    def law(program):
        assert [] == play(colour, program).violations

    try:
        law()
    except AssertionError:
        return False
    return True


def test_no_program_of_two_processes_breaks_the_model(colour):
    """Whatever two processes do, step by step, both see what a table of versions and promises allows."""
    assert finds_nothing(colour, max_examples=100)


@pytest.mark.parametrize(
    "fault",
    [read_tokens_late, fill_in_units, ignore_gaps, leave_flights_alone],
    ids=lambda fault: fault.__name__,
)
def test_the_model_catches(fault, monkeypatch):
    """Hypothesis finds a planted fault."""
    fault(monkeypatch)
    assert not finds_nothing(
        Colour.BLOCKING, max_examples=5_000, phases=[Phase.generate], database=None, derandomize=True
    )
