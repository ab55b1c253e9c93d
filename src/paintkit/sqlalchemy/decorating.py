"""Functions inside a boundary: one for each call, or around the steps of a generator."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from paintkit._wrap import Colour, Templates, colour_of, name_of, wrap
from paintkit.sqlalchemy.boundaries import Boundary, Owner

if TYPE_CHECKING:
    from paintkit.sqlalchemy.options import Options
    from paintkit.typing import P, R

__all__ = ["bound", "decorate", "refuse_other_colour"]

T = TypeVar("T")

# What the generated wrappers do; see `paintkit._wrap`.
_BLOCKING: Final = """\
    $boundary = $open()
    with $boundary:
        return $boundary.judged($call)
"""
_ASYNCIO: Final = """\
    $boundary = $open()
    async with $boundary:
        return $boundary.judged(await $call)
"""
_GENERATOR: Final = """\
    return (yield from $stream($open(), $later))
"""
# Sent values and thrown errors are passed on by hand: there is no `yield from` under asyncio.
_ASYNC_GENERATOR: Final = """\
    $steps, $sent, $thrown = $astream($open(), $later), None, None
    try:
        while True:
            $item = await ($steps.asend($sent) if $thrown is None else $steps.athrow($thrown))
            $sent = $thrown = None
            try:
                $sent = yield $item
            except $GeneratorExit:
                raise
            except $BaseException as $error:
                $thrown = $error
    except $StopAsyncIteration:
        return
    finally:
        await $steps.aclose()
"""
_TEMPLATES: Final = Templates(
    name="with_database_session",
    blocking=_BLOCKING,
    asyncio=_ASYNCIO,
    generator=_GENERATOR,
    async_generator=_ASYNC_GENERATOR,
)


def decorate(
    fn: Callable[P, R], open_boundary: Callable[[], Boundary], *, is_async: bool | None
) -> Callable[P, R]:
    """Return `fn` inside a boundary of its own for every call.

    Args:
        fn: A function, method or generator function.
        open_boundary: Makes the boundary of one call.
        is_async: The colour of the manager, `None` if it is not known before the call.

    Raises:
        TypeError: `fn` has the other colour, or cannot be called.
    """
    if is_async is not None:
        refuse_other_colour(fn, is_async=is_async)
    helpers = {
        "open": open_boundary,
        "stream": _stream,
        "astream": _astream,
        "GeneratorExit": GeneratorExit,
        "BaseException": BaseException,
        "StopAsyncIteration": StopAsyncIteration,
    }
    return wrap(fn, _TEMPLATES, helpers)


def refuse_other_colour(fn: Callable[..., Any], *, is_async: bool) -> None:
    """Raise if a function is not of the colour of the manager that is to work for it.

    Raises:
        TypeError: It is not, or cannot be called.
    """
    if is_async is not (colour_of(fn) in {Colour.ASYNCIO, Colour.ASYNC_GENERATOR}):
        raise TypeError(
            f"{name_of(fn)} is {'a plain' if is_async else 'an async'} function and this manager is "
            f"{'async' if is_async else 'blocking'}: a manager has one colour; make another with "
            f"{'a blocking' if is_async else 'an async'} engine"
        )


def bound(db: Owner, options: Options) -> Callable[[], Boundary]:
    """Return what opens the boundaries of one decorated function."""
    return functools.partial(Boundary, db, options)


def _stream(boundary: Boundary, make: Callable[[], Generator[Any, Any, T]]) -> Generator[Any, Any, T]:
    """Run a generator inside a boundary that is ambient only while the generator's own code runs."""
    with boundary:
        items = make()
        step, argument = items.send, None
        while True:
            try:
                item = step(argument)
            except StopIteration as stop:
                return cast("T", stop.value)
            boundary.suspend()
            try:
                step, argument = items.send, (yield item)
            except BaseException as error:  # noqa: BLE001 - it belongs to the generator, GeneratorExit included
                step, argument = items.throw, error
            finally:
                boundary.resume()


async def _astream(
    boundary: Boundary, make: Callable[[], AsyncGenerator[Any, Any]]
) -> AsyncGenerator[Any, Any]:
    """The same for an async generator."""
    async with boundary:
        items = make()
        step, argument = items.asend, None
        while True:
            try:
                item = await step(argument)
            except StopAsyncIteration:
                return
            boundary.suspend()
            try:
                step, argument = items.asend, (yield item)
            except BaseException as error:  # noqa: BLE001 - it belongs to the generator, GeneratorExit included
                step, argument = items.athrow, error
            finally:
                boundary.resume()
