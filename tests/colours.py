"""The two colours of a function: one scenario, written once, runs blocking and in asyncio."""

import asyncio
import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from paintkit.testing import FakeClock, Scripted, ScriptedAsync, ascripted, scripted


class Colour(StrEnum):
    """How the code under test is called; equal to its plain name."""

    BLOCKING = "blocking"
    ASYNCIO = "asyncio"

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return `body` as a function of this colour: itself, or a coroutine function with its name and signature."""
        if self is Colour.BLOCKING:
            return body

        @functools.wraps(body)
        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        return coroutine_function

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of this colour to its end, in a fresh event loop if it needs one: a virtual one if a clock is."""
        if self is Colour.BLOCKING:
            return function(*args, **kwargs)
        run = FakeClock._active.run if FakeClock._active else asyncio.run
        return run(function(*args, **kwargs))

    def script(self, *outcomes: object, **options: object) -> Scripted | ScriptedAsync:
        """Return a scripted callable of this colour."""
        return (scripted if self is Colour.BLOCKING else ascripted)(*outcomes, **options)

    def protect(self, policy: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of this colour once, under a policy."""
        return self.call(policy.call if self is Colour.BLOCKING else policy.acall, function, *args, **kwargs)
