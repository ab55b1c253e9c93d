"""The contract of transports: kept by one that is a list, and broken, where it should be, by planted faults."""

import contextlib
import inspect

import pytest

from paintkit.testing import TransportContract


class Post:
    """What processes share: all that was sent, and what came of it for each receiver."""

    def __init__(self):
        self.letters, self.processes = [], []
        self.tries: dict[tuple[str, str], int] = {}
        self.settled: set[tuple[str, str]] = set()
        self.dead = []


class MemoryTransport:
    """Delivers when told to."""

    most = 3

    def __init__(self, post):
        self.post, self.bus, self.heard = post, None, len(post.letters)
        post.processes.append(self)

    def attach(self, bus):
        if self.bus is not None:
            raise ValueError("this transport has a bus already")
        self.bus = bus

    def admit(self, receiver):
        pass

    def dismiss(self, receiver):
        pass

    def enlist(self, envelope):
        return False

    def send(self, envelope):
        self.post.letters.append(envelope)

    async def asend(self, envelope):
        self.send(envelope)

    def dead_letters(self):
        return self.post.dead

    def deliver(self):
        for envelope in self.post.letters:
            for receiver in self.wanting("work", envelope):
                if (receiver.name, envelope.id) not in self.post.settled:
                    self.work(receiver, envelope)
        for envelope in self.post.letters[self.heard :]:
            for receiver in self.wanting("broadcast", envelope):
                self.call(receiver, envelope)
        self.heard = len(self.post.letters)

    def wanting(self, kind, envelope):
        return [one for one in self.bus.receivers() if one.kind == kind and one.wants(envelope.type)]

    def work(self, receiver, envelope):
        place = receiver.name, envelope.id
        failures = self.post.tries.get(place, 0)
        error = self.call(receiver, envelope._replace(attempts=failures))
        if error is None:
            self.post.settled.add(place)
            return
        self.post.tries[place] = failures + 1
        if failures + 1 == self.most:
            self.post.settled.add(place)
            self.post.dead.append(Letter(envelope))

    def call(self, receiver, envelope):
        error = None
        try:
            if receiver.is_async:
                import asyncio

                asyncio.run(receiver.adeliver(envelope))
            else:
                receiver.deliver(envelope)
        except Exception as raised:
            error = raised
        receiver.settle(envelope, error)
        return error


class Letter:
    def __init__(self, event):
        self.event = event


class TestMemoryTransport(TransportContract):
    """A list keeps the contract."""

    transport = MemoryTransport

    @contextlib.contextmanager
    def network(self):
        post = Post()
        yield lambda: self.transport(post)

    def deliver(self, transports):
        for one in transports:
            one.deliver()


class _NeverTriesAgain(MemoryTransport):
    most = 1


class _NeverGivesUp(MemoryTransport):
    most = 4


class _WorksEverywhere(MemoryTransport):
    def deliver(self):
        for envelope in self.post.letters[self.heard :]:
            for receiver in self.wanting("work", envelope):
                self.call(receiver, envelope)
        super().deliver()


class _TriesAllAgain(MemoryTransport):
    def work(self, receiver, envelope):
        super().work(receiver, envelope)
        if self.post.tries.get((receiver.name, envelope.id)):
            self.post.settled = {one for one in self.post.settled if one[1] != envelope.id}


class _OneListens(MemoryTransport):
    def wanting(self, kind, envelope):
        first = self is self.post.processes[0]
        return super().wanting(kind, envelope) if kind == "work" or first else []


class _SendsAtOnce(MemoryTransport):
    def enlist(self, envelope):
        self.send(envelope)
        return True


class _ForgetsAttempts(MemoryTransport):
    def call(self, receiver, envelope):
        return super().call(receiver, envelope._replace(attempts=0))


class _SpoilsData(MemoryTransport):
    def send(self, envelope):
        super().send(envelope._replace(payload=envelope.payload.replace("1.5", "2")))


class _NewIds(MemoryTransport):
    def call(self, receiver, envelope):
        return super().call(receiver, envelope._replace(id=receiver.name))


class _Shares(MemoryTransport):
    def attach(self, bus):
        self.bus = bus


class _LosesWhatIsAwaited(MemoryTransport):
    async def asend(self, envelope):
        pass


class _HearsEverything(MemoryTransport):
    def wanting(self, kind, envelope):
        return [one for one in self.bus.receivers() if one.kind == kind]


MUTANTS = [
    _NeverTriesAgain,
    _NeverGivesUp,
    _WorksEverywhere,
    _TriesAllAgain,
    _OneListens,
    _SendsAtOnce,
    _ForgetsAttempts,
    _SpoilsData,
    _NewIds,
    _Shares,
    _LosesWhatIsAwaited,
    _HearsEverything,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_the_contract_catches_planted_faults(mutant, monkeypatch):
    """Every fault breaks a law."""
    monkeypatch.setattr("paintkit.testing.transports._PATIENCE", 0.05)
    contract = TestMemoryTransport()
    contract.transport = mutant
    broken = []
    for name, law in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("test_"):
            try:
                law()
            except (AssertionError, pytest.fail.Exception):
                broken.append(name)
    assert broken
