"""The two colours of a function: one scenario, written once, runs blocking and in asyncio."""

import asyncio
import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Any


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
        """Call a function of this colour to its end, in a fresh event loop if it needs one."""
        if self is Colour.BLOCKING:
            return function(*args, **kwargs)
        return asyncio.run(function(*args, **kwargs))
