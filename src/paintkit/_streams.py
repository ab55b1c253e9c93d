"""Generators under a policy: open one up to its first item, and hand on the rest of it.

A policy that may call again must do so before the first item is out: afterwards the consumer would see items twice. So
opening is a call like any other (create the generator, ask for the first item), and what is opened is then handed on
as `yield from` would, with `send`, `throw` and `close` (PEP 380).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeAlias

__all__ = [
    "ASYNC_DELEGATION",
    "AsyncStream",
    "Paced",
    "Stream",
    "aopen_stream",
    "async_generator_within",
    "generator_within",
    "open_stream",
    "resume",
]


#: A generator that stands at its first item, or has ended without one: what comes after the first item (`None` if there was
#: none), and the first item (the generator's result if there was none).
Stream: TypeAlias = "tuple[Generator[Any, Any, Any] | Paced | None, Any]"

#: The same for an asynchronous generator, which has no result.
AsyncStream: TypeAlias = "tuple[AsyncGenerator[Any, Any] | Paced | None, Any]"


def open_stream(call: Callable[[], Generator[Any, Any, Any]]) -> Stream:
    """Create a generator and ask for its first item."""
    rest = call()
    try:
        return rest, next(rest)
    except StopIteration as stop:
        return None, stop.value


async def aopen_stream(call: Callable[[], AsyncGenerator[Any, Any]]) -> AsyncStream:
    """Create an asynchronous generator and ask for its first item."""
    rest = call()
    try:
        return rest, await anext(rest)
    except StopAsyncIteration:
        return None, None


def resume(stream: Stream) -> Generator[Any, Any, Any]:
    """Yield the first item and all that follow it; return the generator's result."""
    rest, item = stream
    if rest is None:
        return item
    try:
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator to see
                item = rest.throw(error)
            else:
                item = rest.send(sent)
    except StopIteration as stop:
        return stop.value
    finally:
        rest.close()


#: What `yield from` is for the others: the rest of a wrapper's body, from `$rest` and its first `$item` on.
ASYNC_DELEGATION = """\
    if $rest is None:
        return
    try:
        while True:
            try:
                $sent = yield $item
            except GeneratorExit:
                raise
            except BaseException as $error:
                $item = await $rest.athrow($error)
            else:
                $item = await $rest.asend($sent)
    except StopAsyncIteration:
        return
    finally:
        await $rest.aclose()
"""


def generator_within(block: str) -> str:
    """Return the template of a generator that runs within a `with` block, to its end."""
    return f"    {block}\n        return (yield from $call)\n"


def async_generator_within(block: str) -> str:
    """Return the same for an asynchronous generator; `$aopen` opens it."""
    inside = "    $rest, $item = await $aopen($later)\n" + ASYNC_DELEGATION
    return f"    {block}\n" + "".join(f"    {line}" for line in inside.splitlines(keepends=True))


class Paced:
    """A generator, of either kind, whose every step is a call under a policy.

    Args:
        rest: The generator.
        step: Calls a function under the policy: its `call`, or its `acall`.
    """

    __slots__ = ("_rest", "_step")

    def __init__(self, rest: Any, step: Callable[..., Any]) -> None:
        self._rest = rest
        self._step = step

    def send(self, item: Any) -> Any:
        """Send an item in, in time."""
        return self._step(self._rest.send, item)

    def throw(self, error: BaseException) -> Any:
        """Throw an error in, in time."""
        return self._step(self._rest.throw, error)

    def close(self) -> None:
        """Close the generator."""
        self._rest.close()

    async def asend(self, item: Any) -> Any:
        """Send an item in, in time."""
        return await self._step(self._rest.asend, item)

    async def athrow(self, error: BaseException) -> Any:
        """Throw an error in, in time."""
        return await self._step(self._rest.athrow, error)

    async def aclose(self) -> None:
        """Close the generator."""
        await self._rest.aclose()
