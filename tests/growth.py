"""How the memory in use grows with what is done again and again.

What is kept for every call is kept for every call of each half. A table of the process, such as the one of all tests that ran,
doubles once in a while, by more than any policy may keep, and by chance in the midst of a measurement: in one half of it. A
thread that somebody left behind allocates whenever it likes, 64 KiB for a look at a socket: `others` tells who was there.
"""

import gc
import itertools
import threading
import tracemalloc

__all__ = ["Growth"]


class Growth:
    """Bytes by which the memory in use grew in the quieter half of the calls after the warm-up."""

    def __init__(self) -> None:
        self._marks: list[int] = []

    @property
    def bytes(self) -> int:
        """By how much it grew."""
        return min(later - earlier for earlier, later in itertools.pairwise(self._marks))

    def __enter__(self) -> "Growth":
        gc.collect()
        tracemalloc.start()
        return self

    def mark(self) -> None:
        """Note what is in use now: after the warm-up, and after each half."""
        gc.collect()
        self._marks.append(tracemalloc.get_traced_memory()[0])

    @property
    def others(self) -> list[str]:
        """The threads that are there beside this one."""
        return [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]

    def __exit__(self, *_: object) -> None:
        self.mark()
        tracemalloc.stop()
