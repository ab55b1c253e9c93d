"""Events through Redis: the contract of transports, and what becomes of them when processes and servers fail."""

import asyncio
import contextlib
import contextvars
import multiprocessing
import os
import signal
import threading
import uuid
from unittest import mock

import pytest
import redis

from paintkit import backoff, observations
from paintkit.envelope import Envelope, current_event
from paintkit.errors import EventNotSentError
from paintkit.events.bus import EventBus
from paintkit.redis import RedisStreams, away, stream_threads
from paintkit.redis import transport as transport_module
from paintkit.testing import FakeClock, TransportContract
from tests.colours import Colour
from tests.redis.conftest import PATIENCE, until

SOON = backoff.constant(0.01)
LEASE = 60.0  # seconds, unless told otherwise


@contextlib.contextmanager
def processes(url, **defaults):
    """Return what makes the transport of one more process, on a stream of its own."""
    stream = f"test-{uuid.uuid4().hex[:12]}"
    made = []

    def connect(**options):
        made.append(RedisStreams(url, **{"stream": stream, "backoff": SOON, **defaults, **options}))
        return made[-1]

    # A thread that loses an answer to a pause of the machine leaves what it was about until its lease is over.
    with mock.patch.object(transport_module, "_SILENCE", PATIENCE):
        try:
            yield connect
        finally:
            for one in made:
                one.close()
            with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url) as client:
                if keys := list(client.scan_iter(f"paintkit:{{{stream}}}:*")):
                    client.delete(*keys)


class TestRedisStreams(TransportContract):
    """It keeps the contract."""

    @pytest.fixture(autouse=True)
    def server(self, redis_url):
        self.url = redis_url

    @contextlib.contextmanager
    def network(self):
        with processes(self.url, max_attempts=3, timeout=PATIENCE) as connect:
            yield connect


@pytest.fixture
def connect(redis_url):
    with processes(redis_url, timeout=PATIENCE) as connect:
        yield connect


@pytest.fixture
def connect_own(own_redis):
    with processes(own_redis.url) as connect:
        yield connect


class History:
    """What was published, and what each process handled, in order."""

    def __init__(self):
        self.published, self.handled = [], {}

    def handler(self, process):
        heard = self.handled.setdefault(process, [])
        return heard.append

    def lost(self):
        """What nobody handled."""
        return set(self.published) - {one for heard in self.handled.values() for one in heard}

    def disordered(self):
        """Processes that did not hear just what was published, in that order."""
        return [process for process, heard in self.handled.items() if heard != self.published]


def test_the_checker_of_histories_finds_faults():
    """One event that nobody handled; one that a process did not hear, heard twice, or too early."""
    history = History()
    history.published = [1, 2, 3]
    history.handled = {"a": [1, 3], "b": [1]}
    assert {2} == history.lost()
    history.handled = {"a": [1, 2, 3], "b": [1, 3, 2], "c": [1, 2, 2, 3], "d": [1, 2]}
    assert (set(), ["b", "c", "d"]) == (history.lost(), history.disordered())


def test_each_group_gets_every_event(connect):
    """Two applications on one stream do not take each other's work."""
    heard = {}
    for group in ("shop", "studio"):
        bus = EventBus(transport=connect(group=group))
        bus.subscribe("paint.sold", heard.setdefault(group, []).append, name="count")
    bus.publish("paint.sold", 1)
    until(lambda: heard == {"shop": [1], "studio": [1]})


def test_a_receiver_gets_what_came_while_no_process_was_there(connect):
    """From its first subscription on, its group keeps everything; not what was before."""
    publisher = EventBus(transport=connect())
    publisher.publish("paint.sold", "before")
    first = connect()
    EventBus(transport=first).subscribe("paint.sold", print, name="count")
    first.close()
    publisher.publish("paint.sold", "meanwhile")
    heard = []
    EventBus(transport=connect()).subscribe("paint.sold", heard.append, name="count")
    until(lambda: heard)
    assert ["meanwhile"] == heard


def test_a_process_without_workers_leaves_the_work_to_others(connect):
    """It publishes, and hears broadcasts."""
    idle, busy = EventBus(transport=connect(workers=0)), EventBus(transport=connect())
    heard = {"idle": [], "busy": [], "broadcast": []}
    idle.subscribe("paint.sold", heard["idle"].append, name="count")
    idle.subscribe("paint.sold", heard["broadcast"].append, name="cache", kind="broadcast")
    busy.subscribe("paint.sold", heard["busy"].append, name="count")
    for number in range(10):
        idle.publish("paint.sold", number)
    until(lambda: [len(one) for one in heard.values()] == [0, 10, 10])


def test_who_has_left_is_given_nothing_that_is_published_afterwards(connect):
    """Also by a round of a thread that had begun before; it waits for others, and does not count as an attempt."""
    transport, heard = connect(workers=0), []
    bus = EventBus(transport=transport)
    subscription = bus.subscribe("paint.sold", heard.append, name="count")
    [receiver] = bus.receivers()
    worker = stream_threads.Worker(transport._house)
    subscription.cancel()
    bus.publish("paint.sold", 1)
    worker._work(receiver, worker._take(receiver, abandoned=False)[1])
    assert [] == heard
    bus.subscribe("paint.sold", lambda data: heard.append((data, current_event().attempts)), name="count")
    [receiver] = bus.receivers()

    def handled():  # it is due in a millisecond
        worker._work(receiver, worker._take(receiver, abandoned=False)[1])
        return heard

    until(handled)
    assert [(1, 0)] == heard


def test_a_dead_letter_tells_why_and_can_be_replayed_or_dropped(connect):
    """A replay goes to the one receiver that failed, with new attempts."""
    transport = connect(max_attempts=2, group="studio")
    bus, broken, tried, told = EventBus(transport=transport), [True], [], []

    def picky(data):
        tried.append(data)
        if broken:
            raise ValueError(f"no {data}")

    bus.subscribe("paint.sold", picky, name="picky")
    with observations.observe(told.append):
        bus.publish("paint.sold", "umber")
        bus.publish("paint.sold", "ochre")
        until(lambda: len(transport.dead_letters()) == 2)
    assert {"waiting": {"picky": 0}, "dead_letters": 2} == transport.status()
    first, second = sorted(transport.dead_letters(), key=lambda one: one.event.payload, reverse=True)
    assert ("picky", "ValueError: no umber", "umber", 2) == (
        first.receiver,
        first.error,
        first.event.data,
        first.event.attempts,
    )
    assert {"picky"} == {one.details["handler"] for one in told if one.kind == "redis_streams.dead_letter"}
    broken.clear()
    tried.clear()
    assert transport.replay(first.id)
    assert not transport.replay(first.id)
    assert transport.discard(second.id)
    assert not transport.discard(second.id)
    until(lambda: tried == ["umber"] and transport.status() == {"waiting": {"picky": 0}, "dead_letters": 0})


def test_a_handler_that_hangs_is_left_alone(connect):
    """Its time-out counts as a failure, and the others go on."""
    transport = connect(lease=2.0, handler_timeout=0.05, max_attempts=2)
    bus, release, heard = EventBus(transport=transport), threading.Event(), []
    bus.subscribe("paint.sold", lambda data: release.wait(PATIENCE), name="hanging")
    bus.subscribe("paint.sold", heard.append, name="sound")
    bus.publish("paint.sold", 1)

    def hung():
        # On a busy machine the sound one may take too long as well.
        return [letter for letter in transport.dead_letters() if letter.receiver == "hanging"]

    until(lambda: heard and hung())
    release.set()
    [letter] = hung()
    assert letter.error.startswith("CallTimeoutError")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("colour", list(Colour))
@pytest.mark.parametrize("kind", ["work", "broadcast"])
def test_an_interrupt_in_a_handler_is_its_failure_and_ends_no_thread(connect, error, colour, kind):
    """Nobody else would go on in the thread's place: `sys.exit()` in one handler would silence this process."""
    transport = connect(max_attempts=1)
    bus, heard = EventBus(transport=transport), []

    def exits(data):
        if data == 1:
            raise error

    bus.subscribe("*", colour.function(exits), name="exits", kind=kind)
    bus.subscribe("*", heard.append, name="sound", kind=kind)
    for number in (1, 2):
        bus.publish("paint.sold", number)
        until(lambda: number in heard)  # noqa: B023 - it is asked at once
    until(lambda: bus.get_stats()["delivered"] == 3)
    assert 1 == bus.get_stats()["failed"]
    assert [f"RuntimeError: exits was interrupted by {error.__name__}"] * (kind == "work") == [
        letter.error for letter in transport.dead_letters()
    ]


@pytest.mark.parametrize("colour", list(Colour))
@pytest.mark.parametrize("kind", ["work", "broadcast"])
def test_a_handler_leaves_nothing_behind_in_its_context(connect, colour, kind):
    """What it sets in context variables is not there for the next event."""
    bus, variable, found = EventBus(transport=connect()), contextvars.ContextVar("user", default=None), []

    def sets(data):
        found.append(variable.get())
        variable.set(data)

    bus.subscribe("*", colour.function(sets), name="sets", kind=kind)
    for number in (1, 2):
        bus.publish("paint.sold", number)
    until(lambda: len(found) == 2)
    assert [None, None] == found


def test_an_error_that_cannot_be_printed_is_a_failure_like_any_other(connect):
    """It is tried again after its delay, and given up in the end."""

    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def broken(data):
        raise Broken

    transport = connect(max_attempts=2)
    EventBus(transport=transport).subscribe("*", broken, name="broken")
    transport.send(Envelope.of("paint.sold", 1))
    until(transport.dead_letters)
    assert ["Broken: <unprintable>"] == [letter.error for letter in transport.dead_letters()]


def test_what_fails_waits_longer_and_longer(connect):
    """The schedule is asked for each failure; meanwhile others are handled."""
    transport = connect(backoff=backoff.linear(1_000.0, cap=5_000.0), max_attempts=3)
    bus, failures, heard = EventBus(transport=transport), [], []

    def failing(data):
        failures.append(data)
        raise OSError("down")

    bus.subscribe("paint.sold", failing, name="failing")
    bus.subscribe("paint.moved", heard.append, name="sound")
    bus.publish("paint.sold", 1)
    assert 900.0 < delay_of(transport, "failing") <= 1_000.0
    bus.publish("paint.moved", 2)
    until(lambda: heard)
    assert 1 == len(failures)
    let_delays_pass(transport, "failing")
    until(lambda: len(failures) == 2)
    assert 1_900.0 < delay_of(transport, "failing") <= 2_000.0
    let_delays_pass(transport, "failing")
    until(transport.dead_letters)
    assert 3 == len(failures)


def delay_of(transport, receiver):
    """Wait until something waits for its next attempt; how long it will."""
    client, due = waiting_room(transport, receiver)

    def delays():
        return [at / 1000 - now(client) for _, at in client.zrange(due, 0, -1, withscores=True)]

    until(lambda: any(delay > LEASE for delay in delays()))  # else it is under way
    [delay] = delays()
    return delay


def let_delays_pass(transport, receiver):
    """Make what waits due, as time would."""
    client, due = waiting_room(transport, receiver)
    [entry] = client.zrange(due, 0, -1)
    client.zadd(due, {entry: 0})


def waiting_room(transport, receiver):
    store = transport._quick
    return store._client, store._parcels(transport._house.group_of(receiver))[0]


def now(client):
    seconds, microseconds = client.time()
    return seconds + microseconds / 1_000_000


def test_a_stream_keeps_what_was_not_handled_and_little_else(connect):
    """Old events go, the unread ones of a receiver that is away stay; a full stream refuses more, and says so."""
    transport = connect(keep=10, max_events=500)
    bus = EventBus(transport=transport)
    for number in range(450):
        bus.publish("paint.sold", number)
    client = transport._quick._client
    assert client.xlen(transport._quick._stream) < 150
    away = connect()
    EventBus(transport=away).subscribe("paint.sold", print, name="away")
    away.close()
    sent = 0
    with pytest.raises(EventNotSentError, match="full of events that nobody has handled"):
        for _ in range(600):
            bus.publish("paint.sold", sent)
            sent += 1
    assert sent >= 480
    with pytest.raises(ValueError, match="subscribed here"):
        bus.subscribe("x", print, name="here")
        transport.forget("here")
    heard = []
    EventBus(transport=connect(keep=10, max_events=500)).subscribe("paint.sold", heard.append, name="away")
    until(lambda: len(heard) == sent)
    assert list(range(sent)) == heard
    bus.publish("paint.sold", "room again")


def test_what_nobody_will_handle_can_be_forgotten(connect):
    """A receiver that was renamed does not fill the stream for ever."""
    gone = connect()
    EventBus(transport=gone).subscribe("paint.sold", print, name="old-name")
    gone.close()
    transport = connect(keep=5, max_events=20)
    bus = EventBus(transport=transport)
    with pytest.raises(EventNotSentError):
        for number in range(30):
            bus.publish("paint.sold", number)
    transport.forget("old-name")
    bus.publish("paint.sold", "room again")


def test_who_was_away_for_too_long_is_told_of_the_gap(connect):
    """Before the next event, so that a cache in memory can be emptied; a short absence is no gap."""
    said = []
    listener = connect(on_gap=lambda: said.append("gap"))
    bus = EventBus(transport=listener)
    bus.subscribe("paint.sold", said.append, name="cache", kind="broadcast")
    publisher = EventBus(transport=connect())
    publisher.publish("paint.sold", 1)
    until(lambda: said == [1])
    with cut_off(listener):
        publisher.publish("paint.sold", 2)
    until(lambda: said == [1, 2])
    with cut_off(listener):
        for number in (3, 4, 5):
            publisher.publish("paint.sold", number)
        listener._quick._client.xtrim(listener._quick._stream, maxlen=1, approximate=False)
    until(lambda: said == [1, 2, "gap", 5])


@contextlib.contextmanager
def cut_off(transport):
    """Let a listener lose its connection at every read."""
    cut, store = threading.Event(), transport._house.store

    def read(*_):
        cut.set()
        raise redis.ConnectionError("cut off")

    store.read = read
    assert cut.wait(PATIENCE)
    yield
    del store.read


@pytest.fixture
def absence(monkeypatch):
    """The time for which an absent Redis is left alone, which stands until it is moved on."""
    clock = FakeClock()
    monkeypatch.setattr(away, "clock", clock)
    return clock


def test_an_absent_redis_makes_publishing_fail_at_once(own_redis, connect_own, absence):
    """With an error that names the event; further callers do not even wait; then all goes on by itself."""
    heard, told = [], []
    transport = connect_own(timeout=PATIENCE)
    bus = EventBus(transport=transport)
    bus.subscribe("paint.sold", heard.append, name="count")
    bus.publish("paint.sold", 1)
    until(lambda: heard == [1])
    own_redis.kill()
    with observations.observe(told.append), pytest.raises(EventNotSentError, match=r"paint\.sold"):
        bus.publish("paint.sold", 2)
    with pytest.raises(EventNotSentError, match="did not answer a moment ago"):
        bus.publish("paint.sold", 3)
    assert ["redis_streams.not_sent"] == [one.kind for one in told]
    assert (1, isinstance(EventNotSentError("", "", "", ""), ConnectionError)) == (
        bus.get_stats()["published"],
        True,
    )
    own_redis.start()
    until(lambda: published(bus, 4, absence))
    until(lambda: heard == [1, 4])


def published(bus, data, absence):
    absence.advance(1.1)
    try:
        bus.publish("paint.sold", data)
    except EventNotSentError:
        return False
    return True


def test_a_hanging_redis_holds_up_nobody_for_long(own_redis, connect_own, absence):
    """A publisher waits for the timeout; those after it not at all; what was handled is handled once it wakes."""
    heard, transport = [], connect_own(timeout=0.05)
    bus = EventBus(transport=transport)
    bus.subscribe("paint.sold", heard.append, name="count")
    until(lambda: published(bus, 1, absence))
    until(lambda: 1 in heard)
    own_redis.hang()
    try:
        with pytest.raises(EventNotSentError, match="unknown whether Redis got it"):
            bus.publish("paint.sold", 2)
        for _ in range(10):
            with pytest.raises(EventNotSentError, match="did not answer a moment ago"):
                bus.publish("paint.sold", 3)
    finally:
        own_redis.wake()
    until(lambda: published(bus, 4, absence))
    until(lambda: 4 in heard)
    assert {1, 4} <= set(heard) <= {1, 2, 4}


def test_a_redis_that_comes_back_empty_loses_what_it_had_and_nothing_more(own_redis, connect_own, absence):
    """Listeners are told of the gap; groups begin anew, with everything that comes after."""
    said, heard = [], []
    bus = EventBus(transport=connect_own(timeout=PATIENCE, on_gap=lambda: said.append("gap")))
    bus.subscribe("paint.sold", said.append, name="cache", kind="broadcast")
    bus.subscribe("paint.sold", heard.append, name="count")
    for number in range(5):
        bus.publish("paint.sold", number)
    until(lambda: len(said) == len(heard) == 5)
    own_redis.kill()
    own_redis.start()
    until(lambda: "gap" in said)  # at once: the next event may be a long time in coming
    until(lambda: published(bus, "after", absence))
    until(lambda: heard[5:] == ["after"] and "after" in said)
    assert [0, 1, 2, 3, 4, "gap", "after"] == said


def work_until_killed(url, stream, numbers, handled, acknowledge_first):
    """A process that dies in the middle of an event, when all are published."""
    if acknowledge_first:  # the planted fault
        take = stream_threads.Worker._take

        def careless(self, receiver, *, abandoned):
            end, taken = take(self, receiver, abandoned=abandoned)
            for one in taken:
                self._store.done(self._seat(receiver), one)
            return end, taken

        stream_threads.Worker._take = careless

    def handler(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        handled.put(number)

    options = {"stream": stream, "lease": LEASE, "handler_timeout": LEASE / 2, "timeout": PATIENCE}
    publisher = EventBus(transport=RedisStreams(url, workers=0, **options))
    publisher.subscribe("paint.sold", print, name="count")  # from now on all that is published is for it
    for number in range(numbers):
        publisher.publish("paint.sold", number)
    EventBus(transport=RedisStreams(url, **options)).subscribe("paint.sold", handler, name="count")
    threading.Event().wait(PATIENCE)


def survivors_history(redis_url, connect, *, acknowledge_first):
    context = multiprocessing.get_context("spawn")
    history, numbers, handled = History(), 12, context.SimpleQueue()
    stream = connect()._quick._root.split("{")[1].rstrip("}")
    victim = context.Process(
        target=work_until_killed, args=(redis_url, stream, numbers, handled, acknowledge_first)
    )
    victim.start()
    victim.join(PATIENCE * 3)
    assert -signal.SIGKILL == victim.exitcode
    history.published = list(range(numbers))
    history.handled["victim"] = []
    while not handled.empty():
        history.handled["victim"].append(handled.get())
    survivor = connect(lease=1.0, handler_timeout=0.5)
    EventBus(transport=survivor).subscribe("paint.sold", history.handler("survivor"), name="count")
    until(lambda: survivor.status()["waiting"] == {"count": 0})
    return history


def test_what_a_killed_process_left_is_handled_by_another(redis_url, connect):
    """Everything at least once, also the event that it died of."""
    history = survivors_history(redis_url, connect, acknowledge_first=False)
    assert set() == history.lost()
    assert 3 in history.handled["survivor"]


def test_acknowledging_before_handling_would_lose_events(redis_url, connect):
    """The check above has teeth."""
    assert survivors_history(redis_url, connect, acknowledge_first=True).lost()


def handled_by_one_who_is_slow(connect):
    """What is handled while six events take one process longer than the lease, and another looks for what is left."""
    publisher = EventBus(transport=connect(workers=0))
    publisher.subscribe("paint.sold", print, name="count")
    for number in range(6):
        publisher.publish("paint.sold", number)
    transport, handled = connect(workers=0, lease=40.0, handler_timeout=20.0), []
    bus = EventBus(transport=transport)
    bus.subscribe("paint.sold", print, name="count")
    [receiver] = bus.receivers()
    worker, other = stream_threads.Worker(transport._house), stream_threads.Seat("paintkit:count", "other")

    def slow(_receiver, event):
        handled.append(event.data)
        clock.advance(11.0)
        grow_older(transport._quick, worker._seat(receiver), 11.0)
        for one in transport._quick.take(other, lease=40.0, most=5, abandoned=True)[1]:
            handled.append(one.envelope.data)
            transport._quick.done(other, one)

    worker._handling.call = slow
    with FakeClock() as clock:
        worker._work(receiver, worker._take(receiver, abandoned=False)[1])
    assert {"waiting": {"count": 0}, "dead_letters": 0} == transport.status()
    return handled


def grow_older(store, seat, seconds):
    """Let time pass for what a consumer has taken: on the server, whose leases these are."""
    for one in store._client.xpending_range(store._stream, seat.group, "-", "+", 100, seat.consumer):
        idle = one["time_since_delivered"] + round(seconds * 1000)
        store._client.xclaim(store._stream, *seat, 0, [one["message_id"]], idle=idle, justid=True)


def test_who_is_slow_keeps_what_he_has_in_hand(connect):
    """The lease begins anew with each event, and who has lost one that waited for its turn leaves it alone."""
    assert list(range(6)) == handled_by_one_who_is_slow(connect)


def test_who_is_slow_and_renews_nothing_does_what_others_did(connect, monkeypatch):
    """The check above has teeth."""
    monkeypatch.setattr(stream_threads.Worker, "_renew", lambda *_: True)
    assert list(range(6)) != sorted(handled_by_one_who_is_slow(connect))


def test_an_event_that_kills_processes_is_given_up(connect):
    """A consumer that did not come back counts as an attempt, though nobody saw its error."""
    transport = connect(lease=0.1, handler_timeout=0.05, max_attempts=2)
    bus, heard = EventBus(transport=transport), []
    store, group = transport._quick, transport._house.group_of("count")
    store.begin(group, at="0-0")
    bus.publish("paint.sold", "deadly")
    for number in range(2):
        until(
            lambda number=number: store.take(
                stream_threads.Seat(group, f"victim-{number}"), lease=0.1, most=5, abandoned=True
            )[1]
        )
    bus.subscribe("paint.sold", heard.append, name="count")
    until(transport.dead_letters)
    [letter] = transport.dead_letters()
    assert ("deadly", [], True) == (letter.event.data, heard, "ended before" in letter.error)


def test_who_comes_late_changes_nothing(connect):
    """Once the lease is over and another has taken the event, a failure of the first does not count."""
    transport = connect()
    store = transport._quick
    store.begin("late", at="0-0")
    EventBus(transport=transport).publish("paint.sold", 1)
    slow, quick = stream_threads.Seat("late", "slow"), stream_threads.Seat("late", "quick")
    [mine] = store.take(slow, lease=0.05, most=1, abandoned=False)[1]
    assert store.renew(slow, mine, lease=0.05)
    taken = []
    until(lambda: taken.extend(store.take(quick, lease=0.05, most=1, abandoned=True)[1]) or taken)
    assert not store.renew(slow, mine, lease=0.05)
    store.again(slow, mine, 0.0)
    store.bury(slow, mine, "count", "late")
    assert ([], 1) == (transport.dead_letters(), store.waiting("late"))
    store.done(quick, taken[0])
    assert 0 == store.waiting("late")


def test_who_comes_late_with_a_second_try_changes_nothing(connect):
    """As above, for an event that has failed before and was due again."""
    transport = connect()
    store = transport._quick
    store.begin("late", at="0-0")
    EventBus(transport=transport).publish("paint.sold", 1)
    slow, quick = stream_threads.Seat("late", "slow"), stream_threads.Seat("late", "quick")

    def take(seat):
        taken = []
        until(lambda: taken.extend(store.take(seat, lease=0.05, most=1, abandoned=False)[1]) or taken)
        return taken[0]

    store.again(slow, take(slow), 0.0)
    mine, theirs = take(slow), take(quick)
    assert (2, 3) == (mine.tries, theirs.tries)
    assert not store.renew(slow, mine, lease=60.0)
    store.again(slow, mine, 60.0)
    store.bury(slow, mine, "count", "late")
    assert ([], 1) == (transport.dead_letters(), store.waiting("late"))
    assert store.renew(quick, theirs, lease=0.05)
    store.done(quick, theirs)
    assert 0 == store.waiting("late")


def test_strange_entries_are_dropped(connect, caplog):
    """Who writes something else into the stream stops nobody; the log tells."""
    transport = connect()
    bus, heard = EventBus(transport=transport), []
    bus.subscribe("*", heard.append, name="count")
    bus.subscribe("*", heard.append, name="cache", kind="broadcast")
    assert transport.wait_until_connected(PATIENCE)
    transport._quick._client.xadd(transport._quick._stream, {"what": b"\xff"})
    bus.publish("paint.sold", 1)
    until(lambda: heard == [1, 1])
    until(lambda: transport.status()["waiting"] == {"count": 0})
    assert "which is no event" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_and_connections_of_its_own(connect):
    """Both processes publish and hear."""
    transport = connect()
    bus, heard = EventBus(transport=transport), []
    bus.subscribe("paint.sold", heard.append, name="cache", kind="broadcast")
    bus.publish("paint.sold", "from the parent")
    until(lambda: heard == ["from the parent"])
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child():
        bus.publish("paint.sold", "from the child")
        until(lambda: "from the child" in heard)
        answers.put(heard)
        transport.close()

    forked = context.Process(target=child)
    forked.start()
    until(lambda: "from the child" in heard)
    assert ["from the parent", "from the child"] == answers.get()
    forked.join()
    bus.publish("paint.sold", "from the parent again")
    until(lambda: heard == ["from the parent", "from the child", "from the parent again"])


def test_closing_leaves_no_idle_consumer_behind(connect):
    """Nor is a closed transport given receivers."""
    transport = connect()
    bus, heard = EventBus(transport=transport), []
    bus.subscribe("paint.sold", heard.append, name="count")
    bus.publish("paint.sold", 1)
    until(lambda: heard == [1] and transport.status()["waiting"] == {"count": 0})
    transport.close()
    group = transport._house.group_of("count")
    until(lambda: [] == transport._quick._client.xinfo_consumers(transport._quick._stream, group))
    with pytest.raises(ValueError, match="is closed"):
        bus.subscribe("paint.sold", heard.append, name="late")


def test_closing_gives_back_what_was_taken_and_not_begun(connect):
    """Others have it at once, not when the lease ends, and it does not count as an attempt."""
    first, begun, attempts = connect(), threading.Event(), []
    bus = EventBus(transport=connect(workers=0))

    def slow(data):
        begun.set()
        until(first._house.stop.is_set)

    store, group = first._quick, first._house.group_of("count")
    store.begin(group, at="0-0")
    for number in range(4):
        bus.publish("paint.sold", number)
    EventBus(transport=first).subscribe("paint.sold", slow, name="count")
    assert begun.wait(PATIENCE)
    first.close()

    def count(number):
        attempts.append((number, current_event().attempts))

    EventBus(transport=connect()).subscribe("paint.sold", count, name="count")
    until(lambda: len(attempts) == 3)
    assert [(1, 0), (2, 0), (3, 0)] == sorted(attempts)


def test_an_order_is_refused_before_anything_is_sent(connect):
    """It would have no effect: the outbox keeps one."""
    bus = EventBus(transport=connect())
    with pytest.raises(ValueError, match="ordering_key"):
        bus.publish("paint.sold", 1, ordering_key="paint:1")
    assert 0 == bus.get_stats()["published"]


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"url": ""}, ValueError, "url"),
        ({"url": "http://x"}, ValueError, "Redis URL"),
        ({"group": ""}, ValueError, "group"),
        ({"stream": "a{b"}, ValueError, "stream"),
        ({"prefix": "}"}, ValueError, "prefix"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"workers": -1}, ValueError, "workers"),
        ({"keep": 0}, ValueError, "keep"),
        ({"keep": 10, "max_events": 10}, ValueError, "max_events"),
        ({"lease": "1"}, TypeError, "lease"),
        ({"lease": 10}, ValueError, "30 s of 10 s; raise lease or lower handler_timeout"),
        ({"max_attempts": 0}, ValueError, "max_attempts"),
        ({"backoff": 1}, TypeError, "backoff"),
        ({"on_gap": 1}, TypeError, "on_gap"),
        ({"name": ""}, ValueError, "name"),
    ],
)
def test_senseless_arguments_are_refused(options, kind, named):
    """The error names the argument."""
    with pytest.raises(kind, match=named):
        RedisStreams(**{"url": "redis://localhost", **options})


def test_an_envelope_survives_its_way(connect):
    """As the other side reads it, it is the same."""
    transport = connect()
    sent = Envelope.of("paint.sold", {"name": "Ölfarbe", "n": [1, None]})
    transport.attach(EventBus())
    transport.send(sent)
    [(_, fields)] = transport._quick.read("0-0", 5, 0.01)
    assert sent == stream_threads.envelope_of(fields)
