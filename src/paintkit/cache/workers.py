"""Workers: daemon threads that load on behalf of a cache, so many at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Workers"]

#: So many loads run at once; the others stand in line.
_MOST = 8


class Workers:
    """Runs jobs in the order in which they came, in threads that end when there is nothing to do.

    Being daemons they hold up no exit of the interpreter.

    Args:
        name: What the threads are called.
        lock: Guards the line; held by whoever forks.
    """

    def __init__(self, name: str, lock: threading.RLock) -> None:
        self._name = name
        self._lock = lock
        self._jobs: deque[Callable[[], object]] = deque()
        self._busy = 0

    def run(self, job: Callable[[], object]) -> None:
        """Run a job, which raises nothing, as soon as a worker is free.

        Raises:
            RuntimeError: No thread can be started; the job will not run.
        """
        with self._lock:
            self._jobs.append(job)
            if self._busy == _MOST:
                return
            self._busy += 1
        try:
            threading.Thread(target=self._work, name=f"paintkit-cache-{self._name}", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._busy -= 1
                if job not in self._jobs:
                    return  # another worker has taken it
                self._jobs.remove(job)
            raise

    def forget(self) -> None:
        """Forget all jobs, in a forked child: their threads are not there. The lock is held."""
        self._jobs.clear()
        self._busy = 0

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._busy -= 1
                    return
                job = self._jobs.popleft()
            job()
            del job  # it holds on to what it loaded
