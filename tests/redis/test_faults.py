"""What two and four processes serve while Redis, the network, or one of them fails.

Every law has a planted fault on which its scenario fails, so that it is known to look.
"""

import functools
import os
import signal
import statistics
import sys
import time

import pytest
import redis

from paintkit.redis.names import Names
from tests.redis.conftest import PATIENCE, stop, until
from tests.redis.history import violations
from tests.redis.proxy import Proxy
from tests.redis.worker import Worker

LAG = 1.0  # seconds, as promised
LONG = 600.0  # seconds; a lag that ends in no test, so that only what is heard can help
HISTORY = float(os.environ.get("PAINTKIT_HISTORY_SECONDS", "2.5"))  # more of them for a soak
NAMES = Names("paintkit", "faults")


@pytest.fixture
def truth(tmp_path):
    """The folder of the truth: what cached functions read."""
    folder = tmp_path / "truth"
    folder.mkdir()
    for name in ("red", "blue", "green", "gold"):
        (folder / name).write_text("0")
    return folder


@pytest.fixture
def start(own_redis, truth):
    """Start workers, which end with the test."""
    workers = []

    def start(*, url=None, **options):
        # A server that is there answers in this time, however busy the machine is.
        options = {"timeout": 5.0} | options
        workers.append(Worker(url or own_redis.url, truth, **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.__exit__()


def together(*workers):
    """Wait until they all hear each other, with the value in all their memories."""
    for worker in workers:
        worker.send("get", name="red")
    for worker in workers:
        worker.answer()
        assert worker.ask("ready")["connected"]
    for worker in workers:
        assert worker.get() == 0
    return workers


def gone(*workers):
    """Wait until they all have noticed that the server is away."""
    for worker in workers:
        until(lambda worker=worker: not worker.ask("connected")["connected"])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "channel"])
def test_an_invalidation_reaches_all(start, stream, capsys):
    """P2: within milliseconds as a rule, and a lag at the latest."""
    first, *others = together(*[start(stream=stream) for _ in range(4)])
    delays = []
    for value in range(1, 11):
        by = ("call", "tag", "everything")[value % 3]
        for other in others:
            other.send("watch", name="red", value=value)
        done = first.ask("put", name="red", value=value, by=by)["ended"]
        answers = [other.answer() for other in others]
        assert [answer["value"] for answer in answers] == [value] * 3
        assert all(answer["late"] is None or answer["late"] <= done + LAG for answer in answers)
        delays += [answer["ended"] - done for answer in answers]
        assert first.get() == value
    with capsys.disabled():
        sys.stdout.write(
            f"\n  all know after {statistics.median(delays) * 1000:.1f} ms (median of {len(delays)})\n"
        )
    assert statistics.median(delays) < LAG  # as a rule: a pause of the machine is in one round of ten


def test_one_load_serves_all_processes(start):
    """What one has loaded the others find; what one has invalidated none of them finds."""
    first, second = together(start(), start())
    first.ask("put", name="red", value=1)
    assert first.ask("get", name="red")["loads"] == 1
    found = second.ask("watch", name="red", value=1)
    assert (found["value"], found["loads"]) == (1, 0)


# --- Each scenario returns what was served, which has to be 1 ---


def late_fill(start, _server, truth, fault=""):
    """A load begins, the value changes, the load ends: what it brings must not be left to the others."""
    first, second, third = start(fault=fault), start(fault=fault), start(fault=fault)
    for worker in (first, second, third):
        worker.ask("ready")
        worker.get("blue")
    hold = truth / "red.hold"
    hold.touch()
    first.send("get", name="red")
    until((truth / "red.read").exists)
    second.ask("put", name="red", value=1)
    hold.unlink()
    assert first.answer()["value"] == 0
    return third.get()


def trimmed_stream(start, server, _truth, fault=""):
    """Word of a change is trimmed away before a process that was cut off has heard it."""
    with _cut_off(server) as network:
        first, second = together(start(), start(url=network.url, fault=fault, lag=LONG))
        network.cut()
        gone(second)
        first.ask("put", name="red", value=1)
        with redis.Redis.from_url(server.url) as client:
            client.xtrim(NAMES.stream, maxlen=0)
        network.mend()
        assert second.ask("ready")["connected"]
        return second.get()


def restored_snapshot(start, server, _truth, fault=""):
    """The server comes back with data from before the change: what was invalidated stands there again."""
    first, second = together(start(fault=fault), start(fault=fault))
    old = server.snapshot()
    first.ask("put", name="red", value=1)
    server.kill()
    gone(first, second)
    server.start(snapshot=old)
    with redis.Redis.from_url(server.url) as client:
        assert client.exists(*client.keys(b"*:p:*"))  # it is there, and must not be served
    fresh = start(fault=fault)
    return min(worker.get() for worker in (fresh, second, first))


def kept_change(start, server, _truth, fault=""):
    """A process invalidates while it is cut off: it repeats that as soon as it can, and does not serve the old value itself."""
    with _cut_off(server) as network:
        first, second = together(start(url=network.url, fault=fault), start())
        network.cut()
        gone(first)
        first.ask("put", name="red", value=1)
        own = first.get()
        network.mend()
        assert first.ask("ready")["connected"]
        return min(own, seen_in_the_end(second, fault), first.get())


def stopped_process(start, _server, _truth, fault=""):
    """A process is stopped while another invalidates: its first call afterwards does not trust its memory."""
    first, second = together(start(), start(fault=fault))
    stop(second.process)
    first.ask("put", name="red", value=1)
    time.sleep(LAG)
    second.signal(signal.SIGCONT)
    return second.get()


def lost_link(start, server, _truth, fault=""):
    """A process is cut off for a moment: what was said meanwhile is heard."""
    with _cut_off(server) as network:
        first, second = together(start(), start(url=network.url, fault=fault, lag=LONG))
        network.cut()
        gone(second)
        first.ask("put", name="red", value=1)
        network.mend()
        assert second.ask("ready")["connected"]
        return second.get()


def restarted_empty(start, server, _truth, fault=""):
    """The server is killed, the value changes, the server starts again with nothing."""
    first, second = together(start(), start(fault=fault))
    server.kill()
    gone(first, second)
    first.ask("put", name="red", value=1)
    server.start()
    assert first.ask("ready")["connected"]
    return seen_in_the_end(second, fault)


def seen_in_the_end(worker, fault):
    """What a worker sees when the new value has had time to arrive: with a planted fault it never does."""
    return worker.ask("watch", name="red", value=1, seconds=LAG if fault else PATIENCE)["value"]


LAWS = {
    late_fill: "a fill compares nothing",
    trimmed_stream: "gaps go unnoticed",
    restored_snapshot: "restarts go unnoticed",
    kept_change: "nothing is kept",
    stopped_process: "nobody hears anything, and trust has no end",
    lost_link: "nobody hears anything, and trust has no end",
    restarted_empty: "nobody hears or misses anything, and trust has no end",
}


class _cut_off:
    def __init__(self, server):
        self._network = Proxy(server.port)

    def __enter__(self):
        return self._network

    def __exit__(self, *error):
        self._network.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "channel"])
@pytest.mark.parametrize("scenario", LAWS, ids=lambda law: law.__name__)
def test_what_was_invalidated_is_not_served(start, own_redis, truth, scenario, stream):
    """Whatever fails, and whether or not messages are kept."""
    assert scenario(functools.partial(start, stream=stream), own_redis, truth) == 1


@pytest.mark.parametrize("scenario", LAWS, ids=lambda law: law.__name__)
def test_a_planted_fault_is_noticed(start, own_redis, truth, scenario):
    """Else the law above would look at nothing."""
    assert scenario(start, own_redis, truth, LAWS[scenario]) == 0


def test_a_hung_server_costs_no_error_and_little_time(start, own_redis):
    """Calls serve from memory or load; an own invalidation acts at once, and reaches the others when the server is back."""
    first, second = together(start(timeout=0.25), start())
    own_redis.hang()
    calls = [first.ask("get", name=name) for name in ("red", "blue", "green", "gold") * 10]
    first.ask("put", name="red", value=1)
    calls += [first.ask("get", name="red") for _ in range(5)]
    assert [call["value"] for call in calls[-5:]] == [1] * 5
    slow = [call for call in calls if call["ended"] - call["began"] > 0.2]
    # The streak that opens the circuit, and a probe or two; if every call asked, they would be all.
    assert len(slow) < len(calls) / 2
    assert first.ask("stats")["errors"] > 0

    own_redis.wake()

    assert second.ask("watch", name="red", value=1)["value"] == 1


@pytest.mark.parametrize(
    "fault", ["", "nobody hears anything, and trust has no end"], ids=["as it is", "with a planted fault"]
)
def test_a_history_of_four_processes(start, own_redis, fault):
    """P1 and P2, over all reads and writes of four processes, with connections killed all the while."""
    workers = [start(fault=fault) for _ in range(4)]
    names = ["red", "blue", "green", "gold"]
    for worker in workers:
        for name in names:
            worker.get(name)
        worker.ask("ready")
    for number, (worker, name) in enumerate(zip(workers, names, strict=True)):
        others = [other for other in names if other != name]
        worker.send("live", seconds=HISTORY, least=400, mine=[name], others=others, seed=number)
    if not fault:
        with redis.Redis.from_url(own_redis.url) as client:
            for _ in range(3):
                time.sleep(0.5)
                client.client_kill_filter(_type="normal", skipme=True)
    answers = [worker.answer()["events"] for worker in workers]
    time.sleep(LAG)
    for worker, events in zip(workers, answers, strict=True):
        events += [{"did": "get", "name": name} | worker.ask("get", name=name) for name in names]
    events = [event | {"process": number} for number, events in enumerate(answers) for event in events]
    assert len(events) > 1_000
    assert bool(violations(events, LAG)) == bool(fault)
