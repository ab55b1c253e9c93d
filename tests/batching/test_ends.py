"""What is left of a batcher when the interpreter ends, and in a forked child."""

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from paintkit import ambient, clock
from paintkit.batching.batcher import RequestBatcher
from paintkit.errors import DeadlineExceededError
from paintkit.testing import FakeClock

PATIENCE = 60.0  # real seconds


def test_the_exit_of_the_interpreter_answers_those_who_wait():
    """A submitted request is not lost because the thread that would run it is a daemon."""
    program = (
        "from paintkit import RequestBatcher\n"
        "batcher = RequestBatcher(lambda requests: print('asked', requests) or requests, delay=3600)\n"
        "batcher.submit(1).add_done_callback(lambda future: print('answered', future.result()))\n"
        "print('leaving')\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (["leaving", "asked [1]", "answered 1"], "") == (said.stdout.splitlines(), said.stderr)


def test_a_batch_that_never_ends_does_not_hold_the_exit():
    """It is left alone, and the log tells."""
    program = (
        "import threading\n"
        "from paintkit.batching import threads\n"
        "from paintkit import RequestBatcher\n"
        "threads._FAREWELL = 0.05\n"
        "begun = threading.Event()\n"
        "def process(requests):\n"
        "    begun.set()\n"
        "    threading.Event().wait()\n"
        "batcher = RequestBatcher(process, batch_size=1, name='lookups')\n"
        "batcher.submit(1)\n"
        "begun.wait()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert "lookups: a batch that runs still was left alone" in said.stderr


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_requests_of_its_own_only():
    """Those of the parent are answered in the parent, once; the child works, whatever was going on."""
    begun, release, asked = threading.Event(), threading.Event(), []

    def process(requests):
        if "held" in requests:
            begun.set()
            release.wait(PATIENCE)
        asked.extend(requests)
        return requests

    def child(answers):
        batcher.flush()
        answers.put((list(asked), batcher.submit("child").result(PATIENCE), batcher.get_stats()["running"]))

    batcher = RequestBatcher(process, delay=0.05)
    held = batcher.submit("held")
    begun.wait(PATIENCE)
    waiting = batcher.submit("waiting")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    forked = context.Process(target=child, args=(answers,))
    forked.start()
    assert ([], "child", 0) == answers.get()
    forked.join()
    release.set()
    assert ("held", "waiting") == (held.result(PATIENCE), waiting.result(PATIENCE))
    assert ["held", "waiting"] == asked


def test_who_has_a_deadline_leaves_a_batch_that_takes_longer():
    """Such a caller does not run it in its own thread, which nothing could interrupt."""
    begun, release = threading.Event(), threading.Event()

    def process(requests):
        begun.set()
        release.wait(PATIENCE)
        return requests

    def hasty():
        ambient.deadline.set(clock.now() + 1.0)
        return batcher.add("hasty")

    batcher = RequestBatcher(process, batch_size=1)
    with FakeClock() as fake, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(hasty)
        assert begun.wait(PATIENCE)
        fake.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            waits.result(PATIENCE)
        release.set()
        batcher.close()
