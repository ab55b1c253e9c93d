"""Two threads in every order: run by `test_interleavings`, as a program of its own because it patches locks.

Writes "holds" or "broken" for the scenario and the variant that it is called with. How long that takes says nothing: all time
is virtual, and who loses a wake-up is refused at the end of its patience. What was not decided ends the program with an error.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import frontrun

from paintkit import CircuitState, bulkhead, circuit_breaker, clock
from paintkit.errors import CircuitOpenError, PaintkitError
from paintkit.policies._bulkhead import Bulkhead
from paintkit.policies._circuit_breaker import CircuitBreaker

#: Real seconds for which no order takes: without them a busy machine would decide.
PATIENCE = 600.0


class Crowd:
    """Counts who is inside at once, and who came out."""

    def __init__(self) -> None:
        self.inside = self.most = self.done = 0

    def visit(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.inside -= 1
        self.done += 1


class Queue(Crowd):
    """A bulkhead with one permit, for which both threads are ready to wait for as long as it takes."""

    calls = 1
    orders = 150  # of very many

    def __init__(self) -> None:
        super().__init__()
        self.policy = bulkhead(1, max_wait=86_400.0)

    def work(self) -> None:
        for _ in range(self.calls):
            self.policy.call(self.visit)

    def is_sound(self) -> bool:
        metrics = self.policy.metrics()
        return (1, 2 * self.calls, 0, 0) == (self.most, self.done, metrics.running, metrics.waiting)


class Newcomers(Queue):
    """The same with threads that come back at once."""

    calls = 2


class Probes(Crowd):
    """A breaker that has just become half-open and wants one probe."""

    orders = 600  # all there are

    def __init__(self) -> None:
        super().__init__()
        self.policy = circuit_breaker("supplier", failure_threshold=1, recovery_timeout=30.0, probes=1)
        with contextlib.suppress(OSError), self.policy.guard():
            raise OSError
        self.policy._machine._open_until = 0.0
        assert self.policy.state is CircuitState.HALF_OPEN

    def work(self) -> None:
        with contextlib.suppress(CircuitOpenError), self.policy.guard():
            self.visit()

    def is_sound(self) -> bool:
        return self.most == 1 and self.done >= 1 and self.policy.state is CircuitState.CLOSED


def does_not_look_again() -> None:
    def join(self: Bulkhead, place: Any) -> bool:
        with self._lock:
            return self._permits.enqueue(place)

    Bulkhead._join = join  # type: ignore[method-assign]  # the planted fault


def admits_without_a_lock() -> None:
    acquire = CircuitBreaker._acquire

    def unlocked(self: CircuitBreaker) -> Any:
        self._lock = contextlib.nullcontext()  # type: ignore[assignment]  # the planted fault
        try:
            return acquire(self)
        finally:
            self._lock = threading.Lock()

    CircuitBreaker._acquire = unlocked  # type: ignore[method-assign]  # see above


SCENARIOS: dict[str, type[Queue | Probes]] = {"queue": Queue, "newcomers": Newcomers, "probes": Probes}
VARIANTS: dict[str, Callable[[], None]] = {
    "real": lambda: None,
    "does not look again": does_not_look_again,
    "admits without a lock": admits_without_a_lock,
}


def main(scenario: str, variant: str) -> None:
    VARIANTS[variant]()
    clock.now = lambda: time.monotonic()  # noqa: PLW0108 - looked up at each call: that of the virtual clock
    try:
        result = frontrun.explore(
            setup=SCENARIOS[scenario],
            workers=lambda crowd: crowd.work(),
            count=2,
            invariant=lambda crowd: crowd.is_sound(),
            clock="virtual",
            detect_io=False,
            max_executions=SCENARIOS[scenario].orders,
            timeout_per_run=PATIENCE,
            deadlock_timeout=PATIENCE,
            reproduce_on_failure=0,
            trace_packages=["paintkit*"],
        )
    except (PaintkitError, LookupError) as error:  # raised by a thread, in some interleaving
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sound = False
    else:
        if result.property_holds is None or result.num_explored <= 10:
            raise RuntimeError(f"undecided: {result.inconclusive_reason or result}")
        sys.stderr.write(str(result.explanation or ""))
        sound = result.property_holds
    sys.stdout.write("holds\n" if sound else "broken\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
