"""A process that forks while another thread is in the midst of a policy."""

import os
import threading

import pytest

from paintkit import PerformanceMonitor, RetryBudget, bulkhead, circuit_breaker, rate_limit
from paintkit._locks import new_lock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def child_can(lock, work, *, patience=60.0):
    """Fork while a thread holds the lock; whether the child gets its work done, for which it has so many seconds."""
    held, leave = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            leave.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(60)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        worker = threading.Thread(target=lambda: (work(), os.write(writing, b"done")), daemon=True)
        worker.start()
        worker.join(patience)  # who waits for a lock that nobody will open waits for ever
        os._exit(0)
    os.close(writing)
    leave.set()
    holder.join()
    with os.fdopen(reading, "rb") as answer:
        done = answer.read()
    os.waitpid(child, 0)
    return b"done" == done


def fail(policy):
    """Call something that fails."""
    try:
        policy.call(int, "x")
    except ValueError:
        return


@pytest.mark.parametrize(
    "name", ["rate_limit", "circuit_breaker", "bulkhead", "budget", "monitor", "histogram"]
)
def test_a_forked_child_is_not_locked_out(name):
    """Whoever held the lock in the parent does not exist here."""
    limit, breaker = rate_limit(1_000), circuit_breaker(failure_threshold=3)
    hall, budget = bulkhead(1, max_wait=1.0), RetryBudget()
    monitor = PerformanceMonitor()
    monitor.record("mix", 0.25)
    lock, work = {
        "rate_limit": (limit._lock, lambda: limit.call(int)),
        "circuit_breaker": (breaker._lock, lambda: fail(breaker)),
        "bulkhead": (hall._lock, lambda: hall.reconfigure(limit=2)),
        "budget": (budget._lock, budget.deposit),
        "monitor": (monitor._changing, lambda: monitor.record("render", 0.25)),
        "histogram": (monitor._histograms["mix"]._lock, lambda: monitor.record("mix", 0.25)),
    }[name]

    assert child_can(lock, work)


def test_locks_go_with_their_policies():
    """Nothing remembers a lock that nobody has any more."""
    from paintkit import _locks

    before = len(_locks._locks)
    for _ in range(100):
        new_lock()

    assert before >= len(_locks._locks) - 1


def test_a_planted_fault_is_found():
    """A plain lock stays closed for ever."""
    lock = threading.Lock()

    def work():
        with lock:
            pass

    assert not child_can(lock, work, patience=1.0)
