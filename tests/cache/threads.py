"""Threads that a test can hold and let go."""

import threading
from collections.abc import Callable
from typing import Any

#: A wait that takes longer than this is a deadlock, and no pause of a busy machine.
PATIENCE = 60.0


class Running:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def alive(self) -> bool:
        """Whether the call still runs."""
        return self._thread.is_alive()

    def result(self) -> Any:
        """Return or raise what the call did."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException | None:
        """Return what the call raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call hangs"
        return self._error


class Gate:
    """A loader's body: tells that it began, waits to be let through, and returns what it read before."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self.began = threading.Event()
        self.opened = threading.Event()
        self.loads = 0

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        self.loads += 1
        value = self._read()
        self.began.set()
        assert self.opened.wait(PATIENCE), "nobody opened the gate"
        return value

    def open(self) -> None:
        """Let all loads through from now on."""
        self.opened.set()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until other threads have got somewhere; real time is theirs, so this yields the processor, not a second."""
    deadline = threading.Event()
    timer = threading.Timer(PATIENCE, deadline.set)
    timer.daemon = True
    timer.start()
    try:
        while not condition():
            assert not deadline.wait(0.0005), "it never happened"
    finally:
        timer.cancel()
