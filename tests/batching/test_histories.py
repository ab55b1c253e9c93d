"""Any history of callers, in threads and in tasks, beside a small model of what each of them has to get."""

import asyncio
import threading
import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paintkit import ambient
from paintkit._runtime import drive
from paintkit.batching import answers
from paintkit.batching.batcher import RequestBatcher
from paintkit.errors import BatchReplyError, DeadlineExceededError
from paintkit.machines.batch import BatchQueue
from paintkit.testing import FakeClock
from tests.colours import Colour

# Windows end at multiples of twice this, deadlines in between: which of two comes first is never left to chance.
QUANTUM = 0.25

# Real seconds after which somebody hangs.
PATIENCE = 60.0


class Request(NamedTuple):
    """What is asked; `number` tells apart what would be equal."""

    kind: str
    size: int
    number: int


class Ask(NamedTuple):
    """One more caller, with a deadline after so many quanta, or none."""

    kind: str
    size: int
    patience: int | None


class Cancel(NamedTuple):
    """The caller of that number, counted round, is cancelled."""

    which: int


class Pass(NamedTuple):
    """Time passes."""

    quanta: int


class Options(NamedTuple):
    """Of the batcher."""

    batch_size: int
    delay: float
    dedupe: bool
    max_bytes: int


KINDS = ["fine", "fine", "fine", "wrong", "raise", "short"]
histories = st.lists(
    st.one_of(
        st.builds(
            Ask, st.sampled_from(KINDS), st.integers(1, 3), st.one_of(st.none(), st.sampled_from([1, 3, 5]))
        ),
        st.builds(Cancel, st.integers(0, 9)),
        st.builds(Pass, st.integers(1, 4)),
    ),
    max_size=20,
)
options = st.builds(
    Options, st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.sampled_from([3, 5, 99])
)


def reply_to(requests):
    """What the backend does, by what is among the requests."""
    kinds = {one.kind for one in requests}
    if "raise" in kinds:
        raise OSError("down")
    replies = [KeyError(one) if one.kind == "wrong" else one for one in requests]
    return replies[:-1] if "short" in kinds else replies


class Model:
    """Who gets what, by the words of the documentation."""

    def __init__(self, wanted):
        self.options = wanted
        self.waiting: list[tuple[int, Request, int, int | None]] = []  # caller, request, came at, deadline
        self.batches: list[list[Request]] = []
        self.outcomes: dict[int, object] = {}
        self.now = 0  # quanta

    def ask(self, caller, request, patience):
        self.waiting.append((caller, request, self.now, patience and self.now + patience))
        self.run_what_is_ready()

    def cancel(self, caller):
        if caller not in self.outcomes:
            self.leave(caller, asyncio.CancelledError)

    def leave(self, caller, reason):
        self.outcomes[caller] = reason
        self.waiting = [one for one in self.waiting if one[0] != caller]

    def tick(self):
        self.now += 1
        for caller, _, _, deadline in list(self.waiting):
            if deadline == self.now:
                self.leave(caller, DeadlineExceededError)
        self.run_what_is_ready()

    def asked_by(self, waiting):
        requests = [request for _, request, _, _ in waiting]
        return list(dict.fromkeys(requests)) if self.options.dedupe else requests

    def room_left(self, waiting):
        """How many more requests and bytes fit; negative if there are too many."""
        asked = self.asked_by(waiting)
        return self.options.batch_size - len(asked), self.options.max_bytes - sum(one.size for one in asked)

    def run_what_is_ready(self):
        while self.waiting and (
            min(self.room_left(self.waiting)) <= 0
            or self.waiting[0][2] * QUANTUM + self.options.delay <= self.now * QUANTUM
        ):
            self.run_one()

    def run_one(self):
        length = max(n for n in range(len(self.waiting) + 1) if min(self.room_left(self.waiting[:n])) >= 0)
        batch, self.waiting = self.waiting[:length], self.waiting[length:]
        asked = self.asked_by(batch)
        self.batches.append(asked)
        kinds = {one.kind for one in asked}
        for caller, request, _, _ in batch:
            if "raise" in kinds:
                self.outcomes[caller] = OSError
            elif "short" in kinds:
                self.outcomes[caller] = BatchReplyError
            else:
                self.outcomes[caller] = KeyError if request.kind == "wrong" else request


class Threads:
    """Callers are threads, or futures if they may be cancelled."""

    def __init__(self, wanted, clock):
        self.clock, self.batches = clock, []
        self.batcher = RequestBatcher(self.process, size_of=lambda one: one.size, **wanted._asdict())
        self.callers = []

    def process(self, requests):
        self.batches.append(list(requests))
        return reply_to(requests)

    async def ask(self, request, patience):
        before = self.batcher.get_stats()["requests"]
        if patience is None and request.number % 2:
            self.callers.append(self.batcher.submit(request))
        else:
            self.callers.append(
                Caller(self.batcher, request, patience and self.clock.now() + patience * QUANTUM)
            )
        until(lambda: self.batcher.get_stats()["requests"] > before)

    async def cancel(self, caller):
        return isinstance(self.callers[caller], Caller) or not self.callers[caller].cancel()

    async def tick(self):
        self.clock.advance(QUANTUM)

    async def settle(self, model):
        self.rest()
        assert all(self.callers[one].done() for one in model.outcomes)
        stats = self.batcher.get_stats()
        assert (len(model.waiting), 0) == (stats["waiting"], stats["running"])

    def rest(self):
        """Return when nobody of ours has anything left to do but to wait for the time to pass."""
        until(lambda: self.threads() <= self.clock._timeline.resting())

    def threads(self):
        worker = self.batcher._threads._worker
        mine = [one.thread for one in self.callers if isinstance(one, Caller)]
        return {one.ident for one in [worker, *mine] if one is not None and one.is_alive()}

    async def close(self):
        self.batcher.close()
        self.rest()
        assert all(one.done() for one in self.callers)

    def outcome(self, caller):
        return outcome_of(self.callers[caller])


class Caller:
    """A thread that waits in `add`, with the face of a future."""

    def __init__(self, batcher, request, due):
        self.batcher, self.request, self.due = batcher, request, due
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        ambient.deadline.set(self.due)
        try:
            self.value, self.error = self.batcher.add(self.request), None
        except Exception as error:
            self.error = error

    def done(self):
        return not self.thread.is_alive()

    def result(self):
        if self.error is not None:
            raise self.error
        return self.value


class Tasks:
    """Callers are tasks of one loop."""

    def __init__(self, wanted, clock):
        self.clock, self.batches, self.callers = clock, [], []
        self.batcher = RequestBatcher(self.process, size_of=lambda one: one.size, **wanted._asdict())

    async def process(self, requests):
        self.batches.append(list(requests))
        await asyncio.sleep(0)
        return reply_to(requests)

    async def ask(self, request, patience):
        token = ambient.deadline.set(patience and self.clock.now() + patience * QUANTUM)
        caller = asyncio.ensure_future(self.batcher.aadd(request))
        caller.add_done_callback(
            lambda over: over.cancelled() or over.exception()
        )  # seen, whatever is made of it
        self.callers.append(caller)
        ambient.deadline.reset(token)

    async def cancel(self, caller):
        return not self.callers[caller].cancel()

    async def tick(self):
        await asyncio.sleep(QUANTUM)

    async def settle(self, model):
        for _ in range(12):
            await asyncio.sleep(0)
        stats = self.batcher.get_stats()
        assert (len(model.waiting), 0) == (stats["waiting"], stats["running"])

    async def close(self):
        await self.batcher.aclose()
        await self.settle(Model(None))
        assert all(one.done() for one in self.callers)

    def outcome(self, caller):
        return outcome_of(self.callers[caller])


def outcome_of(caller):
    try:
        return caller.result()
    except BaseException as error:
        known = (DeadlineExceededError, BatchReplyError, OSError, KeyError)
        return next((kind for kind in known if isinstance(error, kind)), asyncio.CancelledError)


def until(condition):
    """Wait, really, for threads that are at work."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "somebody hangs"
        time.sleep(0)


async def play(history, wanted, world):
    """Play a history in a world of threads or tasks, and compare it with the model at every step."""
    model = Model(wanted)
    for step in history:
        if isinstance(step, Ask):
            caller = len(world.callers)
            request = Request(step.kind, step.size, 0 if wanted.dedupe else caller)
            await world.ask(request, step.patience)
            model.ask(caller, request, step.patience)
        elif isinstance(step, Cancel) and world.callers:
            caller = step.which % len(world.callers)
            if not await world.cancel(caller):
                model.cancel(caller)
        elif isinstance(step, Pass):
            for _ in range(step.quanta):
                await world.tick()
                model.tick()
                await world.settle(model)
        await world.settle(model)
    await world.close()
    while model.waiting:
        model.run_one()
    assert model.batches == world.batches
    assert model.outcomes == {caller: world.outcome(caller) for caller in range(len(world.callers))}


def check(colour, history, wanted):
    with FakeClock() as clock:
        if colour is Colour.BLOCKING:
            drive(play(history, wanted, Threads(wanted, clock)))
        else:
            clock.run(play(history, wanted, Tasks(wanted, clock)))


def test_any_history_gives_every_caller_what_the_model_says(colour):
    """Results, errors, deadlines and cancellations of one caller are nobody else's, and nobody hangs."""

    @settings(max_examples=60, deadline=None)
    @given(history=histories, wanted=options)
    def any_history(history, wanted):
        check(colour, history, wanted)

    any_history()


_withdraw = BatchQueue.withdraw


def _take_any(self):
    chunk = self._next_chunk()
    for item in chunk:
        _withdraw(self, item)
    return chunk


def _withdraw_all(self, item):
    for one in list(self):
        _withdraw(self, one)


def _filled_up(reply, asked):
    reply.extend([None] * (asked - len(reply)))


class Mutant(NamedTuple):
    """What is planted, and a history that shows it: what a search finds, and after how long, is chance."""

    planted: list[tuple[object, str, object]]
    history: list[Ask | Cancel | Pass]
    options: Options = Options(batch_size=3, delay=0.5, dedupe=False, max_bytes=5)


ASK = Ask("fine", 1, None)

MUTANTS = {
    "who has gone is asked for": Mutant(
        [(BatchQueue, "take_any", _take_any), (BatchQueue, "withdraw", lambda self, item: False)],
        [ASK, ASK, Cancel(1)],
    ),
    "who goes takes the others along": Mutant(
        [(BatchQueue, "take_any", _take_any), (BatchQueue, "withdraw", _withdraw_all)],
        [ASK, ASK, Cancel(1)],
    ),
    "short replies are filled up": Mutant(
        [(answers, "_mistake_in", _filled_up)],
        [Ask("short", 1, None), Pass(2)],
    ),
    "a limit of bytes is ignored": Mutant(
        [(RequestBatcher, "_weight", lambda self, request: 0)],
        [Ask("fine", 3, None), Ask("fine", 2, None)],
    ),
    "equal requests share nothing": Mutant(
        [(RequestBatcher, "_question", lambda self, request: None)],
        [ASK, ASK, ASK],
        Options(batch_size=3, delay=0.5, dedupe=True, max_bytes=5),
    ),
    "nobody has a deadline": Mutant(
        [(ambient, "remaining", lambda: None)],
        [Ask("fine", 1, 1), Pass(1)],
    ),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_the_model_catches_planted_faults(colour, fault, monkeypatch):
    """The check above has teeth: a history that is right is wrong with the fault."""
    mutant = MUTANTS[fault]
    check(colour, mutant.history, mutant.options)
    for home, name, planted in mutant.planted:
        monkeypatch.setattr(home, name, planted)
    with pytest.raises(AssertionError):
        check(colour, mutant.history, mutant.options)
