"""The one source of time: everything that reads a clock or waits does so through this module.

Call these as attributes of the module (`clock.now()`), at the moment of use: a virtual clock
(`paintkit.testing.FakeClock`) rebinds them, and policies that were created at import time obey it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

__all__ = ["now", "sleep", "wait"]


def _wait(condition: threading.Condition, timeout: float | None) -> bool:
    return condition.wait(timeout)


#: Monotonic seconds since an arbitrary start; the wall clock is never used for spans.
now: Callable[[], float] = time.monotonic

#: Blocks this thread for a number of seconds.
sleep: Callable[[float], None] = time.sleep

#: Waits on a held `threading.Condition` for at most `timeout` seconds (`None`: for ever); False when time is up.
wait: Callable[[threading.Condition, float | None], bool] = _wait
