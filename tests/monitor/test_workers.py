"""Numbers of several processes as one, with real processes that end in every way."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paintkit import PerformanceMonitor
from paintkit.monitor import workers as module
from paintkit.monitor.gathering import gather
from paintkit.monitor.workers import Workers
from tests.monitor.worker import Jobs, numbers

ROOT = Path(__file__).parents[2]


class Process:
    """A worker on the side."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.monitor.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def __call__(self, *words):
        for word in words:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        return answer

    def end(self):
        """In order."""
        self.process.stdin.write("exit\n")
        self.process.stdin.close()
        self.process.wait(60)

    def kill(self):
        """Without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "numbers"


@pytest.fixture
def spawn(folder):
    """Start workers that share the folder."""
    started = []

    def start():
        started.append(Process(folder))
        return started[-1]

    yield start
    for one in started:
        one.close()


def metrics(count):
    monitor = PerformanceMonitor()
    for _ in range(count):
        monitor.record("mix", 0.25)
    return monitor


def files(folder):
    return sorted(path.name for path in folder.glob("*-*.json"))


def test_whoever_is_asked_gives_the_sum(spawn):
    """Whichever process it is: what each counted, once."""
    one, other = spawn(), spawn()
    one("start", "record", "record", "write")
    other("start", "record", "write")
    assert "workers=2 jobs=10 mixed=3" == one("sum") == other("sum")
    one("record")
    assert "workers=2 jobs=10 mixed=4" == one("sum")  # its own are those of this moment
    assert "workers=2 jobs=10 mixed=3" == other("sum")  # the other's those of its last writing


def test_what_the_dead_have_counted_stays(spawn, folder):
    """Counters go on, whether a process ended in order or was killed; what there was at the moment goes with it."""
    orderly, killed, asked = spawn(), spawn(), spawn()
    for one in (orderly, killed, asked):
        one("start", "record", "write", "record")
    assert "workers=3 jobs=15 mixed=4" == asked("sum")
    orderly.end()
    assert "workers=2 jobs=10 mixed=5" == asked("sum")  # it wrote once more when it ended
    killed.kill()
    assert "workers=1 jobs=5 mixed=5" == asked("sum")
    assert 1 == len(files(folder))
    assert "workers=1 jobs=5 mixed=5" == asked("sum")


def test_a_new_process_adds_to_what_the_dead_have_left(spawn):
    """Nobody is left: the sum goes on all the same."""
    first = spawn()
    first("start", "record")
    first.end()
    second = spawn()
    second("start", "record")
    assert "workers=1 jobs=5 mixed=2" == second("sum")


def test_a_process_that_has_not_started_is_read_and_writes_nothing(spawn, folder):
    """A command on the terminal sees the sum of the others and its own."""
    one, asking = spawn(), spawn()
    one("start", "record", "write")
    asking("write")
    assert "workers=2 jobs=10 mixed=1" == asking("sum")
    assert 1 == len(files(folder))


def test_a_child_does_not_keep_a_dead_parent_alive(spawn):
    """It has a copy of the locked file, and lets go of it."""
    parent, asked = spawn(), spawn()
    parent("start", "record", "write")
    child = int(parent("fork"))
    asked("start")
    assert "workers=2 jobs=10 mixed=1" == asked("sum")  # the child wrote nothing into its parent's file
    parent.kill()
    assert "workers=1 jobs=5 mixed=1" == asked("sum")
    os.kill(child, signal.SIGKILL)


def test_a_number_of_a_process_that_is_used_again_is_nobodys_sign_of_life(folder):
    """A dead worker's file bears the number of a process that lives: ours."""
    folder.mkdir()
    with Workers(folder, metrics(2)):
        pass
    (name,) = files(folder)
    (folder / name).rename(folder / f"{os.getpid()}-0000.json")
    assert "workers=1 jobs=5 mixed=2" == numbers(Workers(folder, metrics(0), Jobs()))
    assert [] == files(folder)


def test_who_is_killed_while_clearing_away_counts_nothing_twice(folder, monkeypatch):
    """The sum knows which files are in it."""
    with Workers(folder, metrics(2)):
        pass
    kept = {name: (folder / name).read_bytes() for name in files(folder)}
    asked = Workers(folder, metrics(1), Jobs())
    assert "workers=1 jobs=5 mixed=3" == numbers(asked)
    for name, text in kept.items():  # as if it had died before taking the file away
        (folder / name).write_bytes(text)
    assert "workers=1 jobs=5 mixed=3" == numbers(asked)
    assert [] == files(folder)


def test_without_that_knowledge_it_would(folder, monkeypatch):
    """The law above notices."""
    loaded = module._loaded
    monkeypatch.setattr(module, "_loaded", lambda text: (loaded(text)[0], []))
    with pytest.raises(AssertionError):
        test_who_is_killed_while_clearing_away_counts_nothing_twice(folder, monkeypatch)


def test_sums_never_fall_while_workers_come_and_go(spawn, folder):
    """Two ask all the time, workers write and die: counters only grow, and nothing is lost in the end."""
    asked = [Workers(folder, metrics(0), Jobs()) for _ in range(2)]
    seen = [[] for _ in asked]
    over = threading.Event()

    def ask(one, mine):
        while not over.is_set():
            mine.append(int(numbers(one).rpartition("=")[2]))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(asked, seen, strict=True)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            first, second = spawn(), spawn()
            first("start", *("record", "write") * 5)
            second("start", *("record", "write") * 5)
            first.end()
            second.kill()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert all(mine == sorted(mine) for mine in seen)
    assert "workers=1 jobs=5 mixed=30" == numbers(asked[0])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "metrics": [["x"]], "merged": []}',
        b'{"version": 1, "metrics": [["x", "histogram", "s", "X.", [[{}, {"count": 1}]]]], "merged": []}',
    ],
)
@pytest.mark.parametrize("name", ["17-0000.json", "gone.json"])
def test_a_file_of_anything_else_spoils_nothing(folder, name, text, caplog):
    """It is logged and left out."""
    folder.mkdir()
    (folder / name).write_bytes(text)
    with caplog.at_level(logging.ERROR, logger="paintkit.monitor"):
        assert "workers=1 jobs=5 mixed=1" == numbers(Workers(folder, metrics(1), Jobs()))
    assert name in caplog.text


def test_half_a_file_is_never_seen_and_taken_away_later(folder):
    """Who is killed while writing leaves a file that nobody reads; after a minute it goes."""
    folder.mkdir()
    fresh, old = folder / "a.tmp", folder / "b.tmp"
    for path in (fresh, old):
        path.write_bytes(b'{"version": 1')
    os.utime(old, (time.time() - 61, time.time() - 61))
    assert "workers=1 jobs=5 mixed=0" == numbers(Workers(folder, metrics(0), Jobs()))
    assert (True, False) == (fresh.exists(), old.exists())


def test_it_writes_by_itself(folder):
    """At its interval, from a thread that ends with it."""
    monitor, before = metrics(0), set(threading.enumerate())
    with Workers(folder, monitor, interval=0.01):
        monitor.record("mix", 0.25)
        while '"mix"' not in "".join((folder / name).read_text() for name in files(folder)):
            time.sleep(0.001)
    left = set(threading.enumerate()) - before
    assert "paintkit writes its numbers" not in [thread.name for thread in left]


def test_a_full_disk_is_logged_and_tried_again(folder, monkeypatch, caplog):
    """Nobody's call breaks, and the numbers come later."""
    failed, put = threading.Event(), module._put

    def fails_once(*arguments, **options):
        if failed.is_set():
            return put(*arguments, **options)
        failed.set()
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "_put", fails_once)
    with caplog.at_level(logging.ERROR, logger="paintkit.monitor"):
        workers = Workers(folder, metrics(1), interval=0.01)
        workers.start()
        while not files(folder):
            time.sleep(0.001)
        workers.close()
    assert "no space left" in caplog.text
    assert "workers=0 jobs=0 mixed=1" == numbers(workers)


def test_after_its_end_it_tells_what_is_left(folder):
    """And does not count itself twice."""
    workers = Workers(folder, metrics(3))
    workers.start()
    workers.close()
    workers.close()
    assert "workers=0 jobs=0 mixed=3" == numbers(workers)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "named"),
    [
        (("paints",), {}, TypeError, "telemetry"),
        ((), {"interval": 0}, ValueError, "interval"),
        ((), {"interval": "5"}, TypeError, "interval"),
    ],
)
def test_a_mistake_is_told_at_once(folder, arguments, options, kind, named):
    """And no folder is made."""
    with pytest.raises(kind, match=named):
        Workers(folder, *arguments, **options)
    assert not folder.exists()


def test_what_is_no_folder_is_told():
    """By its name."""
    with pytest.raises(TypeError, match="directory must be the path of a folder"):
        Workers(5)


def test_a_system_without_such_locks_is_told(folder, monkeypatch):
    """When it is made, not at the first scrape."""
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="Linux, macOS or BSD"):
        Workers(folder, metrics(1))
    assert not folder.exists()


def test_the_sum_is_gathered_like_any_source(folder):
    """Beside others."""
    with Workers(folder, metrics(1)) as workers:
        found = {metric.name: metric for metric in gather([workers, metrics(2)])}
    (sample,) = found["paintkit.duration"].samples
    assert 3 == sample.value["count"]
