"""The fake level keeps the contract of second levels, and the contract notices levels that do not."""

import contextlib
import inspect

import pytest

from paintkit import clock
from paintkit.testing import CacheLevelContract, CacheLevelOutageContract, FakeClock, FakeLevel, FakeServer
from paintkit.testing.levels import _Membership


class Virtual:
    """Two fake levels on one server, in virtual time."""

    @pytest.fixture(autouse=True)
    def clock(self):
        with FakeClock() as clock:
            yield clock

    @pytest.fixture
    def server(self):
        return FakeServer()

    @pytest.fixture
    def level(self, server):
        return FakeLevel(server)

    @pytest.fixture
    def other(self, server):
        return FakeLevel(server)

    @pytest.fixture
    def outage(self, level):
        @contextlib.contextmanager
        def outage():
            level.isolate()
            yield
            level.rejoin()

        return outage

    def pass_time(self, seconds):
        clock.sleep(seconds)

    def eventually(self, condition):
        assert condition()


class TestFakeLevel(Virtual, CacheLevelContract):
    """The laws of a level that can be reached."""


class TestFakeLevelAway(Virtual, CacheLevelOutageContract):
    """The laws of a level whose server is away."""


# --- Levels that break a law ---


def _look_without_tokens(right):
    def look(self, namespace, place):
        item, tokens, valid = right(self, namespace, place)
        return item, tokens, valid or item.payload is not None

    return look


def _fill_whatever_stands(right):
    def fill(self, namespace, place, sight, *what):
        item = self._item(namespace, place.key)
        sight.version = sight.version if item is None else item.version
        return right(self, namespace, place, sight, *what)

    return fill


def _fill_under_new_tokens(right):
    def fill(self, namespace, place, sight, *what):
        sight.tokens = tuple(self._token(namespace, mark) for mark in place.marks)
        return right(self, namespace, place, sight, *what)

    return fill


def _drop_without_tombstone(right):
    def drop(self, namespace, changes):
        for change in changes:
            if isinstance(change, str):
                right(self, namespace, [change])
            elif (item := self._item(namespace, change.key)) is not None:
                item.payload = None  # the version stays

    return drop


def _look_under_one_version(right):
    def look(self, namespace, place):
        item, tokens, valid = right(self, namespace, place)
        if item.payload is None:
            item.version = b"nothing"
        return item, tokens, valid

    return look


def _tell_nobody(right):
    return lambda self, sender, changes: None


def _tell_everybody(right):
    return lambda self, sender, changes: [member.receive(changes) for member in self._members]


def _tell_other_namespaces(right):
    return lambda self, sender, changes: [
        member.receive(changes) for member in self._members if member is not sender
    ]


def _ignore_the_canonical_form(right):
    def look(self, namespace, place):
        item, tokens, valid = right(self, namespace, place)
        return item, tokens, valid or (item.payload is not None and item.tokens == tokens)

    return look


def _forget_what_was_kept(right):
    def repeat(self):
        self._kept = {}
        return False

    return repeat


def _answer_while_drops_are_kept(right):
    return property(lambda self: self.level.reachable or bool(self._kept))


def _trust_at_all_times(right):
    return lambda self: None


FAULTS = {
    "tokens are not compared": (FakeServer, "look", _look_without_tokens),
    "a fill compares nothing": (FakeServer, "fill", _fill_whatever_stands),
    "tokens are read after the load": (FakeServer, "fill", _fill_under_new_tokens),
    "a drop leaves the version": (FakeServer, "drop", _drop_without_tombstone),
    "looks leave one version": (FakeServer, "look", _look_under_one_version),
    "nobody is told": (FakeServer, "tell", _tell_nobody),
    "who drops is told, too": (FakeServer, "tell", _tell_everybody),
    "other namespaces are told, too": (FakeServer, "tell", _tell_other_namespaces),
    "the digest is taken for the call": (FakeServer, "look", _ignore_the_canonical_form),
    "what was kept is forgotten": (_Membership, "repeat", _forget_what_was_kept),
    "what was dropped is found while it is kept": (_Membership, "is_whole", _answer_while_drops_are_kept),
    "a lost link is trusted": (_Membership, "cut", _trust_at_all_times),
}


def laws():
    """All laws of both contracts, by name."""
    for contract in (TestFakeLevel, TestFakeLevelAway):
        for name in dir(contract):
            if name.startswith("test_"):
                yield contract, name


def obeys(contract, name):
    """Whether the fake level obeys a law as it is now."""
    here = contract()
    server = FakeServer()
    given = {"level": FakeLevel(server), "other": FakeLevel(server), "colour": "blocking"}
    given |= {"filled": True, "value": None}
    given["outage"] = Virtual.outage.__wrapped__(here, given["level"])
    law = getattr(here, name)
    wanted = inspect.signature(law).parameters
    try:
        with FakeClock():
            if "here" in wanted:
                given["here"] = here.joined(given["level"], "blocking")
            if "there" in wanted:
                given["there"] = here.joined(given["other"], "blocking")
            law(**{name: given[name] for name in wanted})
    except (AssertionError, pytest.fail.Exception):
        return False
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_catches(fault, monkeypatch):
    """A level with a planted fault breaks a law."""
    assert all(obeys(*law) for law in laws())
    owner, name, plant = FAULTS[fault]
    right = vars(owner)[name]
    monkeypatch.setattr(owner, name, plant(right))
    assert not all(obeys(*law) for law in laws())
