"""Cancellation at every await: a coroutine that cancels its own task where it suspends for the n-th time."""

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Interrupted:
    """Runs a coroutine, and cancels the task at its n-th suspension.

    Args:
        coroutine: What to run.
        at: At which suspension, from 1 on.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        #: How often it has suspended so far.
        self.suspensions = 0

    @property
    def was_reached(self) -> bool:
        return self.suspensions >= self._at

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on: Callable[[], Any] = functools.partial(self._coroutine.send, None)
        while True:
            try:
                future = go_on()
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield future
            except BaseException as error:
                go_on = functools.partial(self._coroutine.throw, error)
            else:
                go_on = functools.partial(self._coroutine.send, None)


def at_every_await(scenario: Callable[[Callable[[Any], Interrupted]], bool]) -> int:
    """Run a scenario with its call cancelled at the first await, then at the second, until there is none left.

    Args:
        scenario: Is given what makes a coroutine interrupted; runs it, checks, and returns whether it was cancelled.

    Returns:
        How many awaits there are.
    """
    for number in itertools.count(1):
        made: list[Interrupted] = []

        def interrupted(coroutine: Any, at: int = number, made: list[Interrupted] = made) -> Interrupted:
            made.append(Interrupted(coroutine, at))
            return made[-1]

        cancelled = scenario(interrupted)
        assert cancelled == made[0].was_reached
        if not cancelled:
            return number - 1
    raise AssertionError
