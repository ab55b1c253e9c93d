"""A fallback adds its type, and a pipeline has the type of its policies."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from paintkit import (
    RejectedError,
    RetryBudget,
    bulkhead,
    deadline,
    fallback,
    hedge,
    pipeline,
    rate_limit,
    remaining,
    retry,
    timeout,
)

plain = pipeline(deadline(10.0), retry(on=OSError), rate_limit(50, per=1.0), bulkhead(8, max_wait=0.5))
budget = RetryBudget(ratio=0.2, reserve=1.0)


@fallback(None, on=RejectedError)
def find(sku: str) -> int:
    """May be `None`."""
    return len(sku)


@fallback(0.5, on=(OSError, RejectedError))
async def find_async(sku: str) -> int:
    """May be a float."""
    return len(sku)


@fallback(handler=str, on=OSError)
def described(number: int) -> bytes:
    """Either what it returns, or what the handler does."""
    return bytes(number)


async def apologise(error: Exception) -> str:
    """A handler that is awaited."""
    return str(error)


@fallback(handler=apologise, on=OSError)
async def described_async(number: int) -> bytes:
    """Either what it returns, or what the handler comes to."""
    return bytes(number)


@plain
def search(text: str, *, page: int = 1) -> list[str]:
    """Keeps its signature."""
    return [text] * page


@pipeline(fallback(None, on=RejectedError), retry(on=OSError), timeout(2.0, thread=True))
def search_or_none(text: str, *, page: int = 1) -> list[str]:
    """Keeps its signature, and may be `None`."""
    return [text] * page


@pipeline(fallback(None, on=RejectedError), retry(on=OSError))
async def search_async(text: str) -> list[str]:
    """May be `None` once it is awaited."""
    return [text]


@hedge("p95", idempotent=True, budget=budget)
async def quick(text: str) -> str:
    """A coroutine function stays one."""
    return text


@bulkhead(2)
def rows(count: int) -> Iterator[int]:
    """A generator stays one."""
    yield from range(count)


@timeout(2.0)
async def rows_async(count: int) -> AsyncIterator[int]:
    """So does an asynchronous one."""
    for number in range(count):
        yield number


def blocking() -> None:
    """Results and arguments keep their types."""
    assert_type(find("x"), int | None)
    assert_type(described(1), bytes | str)
    assert_type(search("x", page=2), list[str])
    assert_type(search_or_none("x", page=2), list[str] | None)
    assert_type(plain.call(len, "abc"), int)
    assert_type(rows(3), Iterator[int])
    assert_type(remaining(), float | None)
    assert_type(plain.explain().calls, int)
    search(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a text is text
    search_or_none("x", size=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # there is no such argument
    find()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # an argument is missing
    hedge(0.1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # `idempotent` is required


async def asynchronous() -> None:
    """Coroutine functions stay coroutine functions."""
    assert_type(await quick("x"), str)
    assert_type(await find_async("x"), int | float)
    assert_type(await described_async(1), bytes | str)
    assert_type(await search_async("x"), list[str] | None)
    assert_type(rows_async(3), AsyncIterator[int])
    assert_type(await plain.acall(quick, "x"), str)
    async with deadline(2.0), bulkhead(1).hold():
        await quick("x")
    await quick(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a text is text


def forms() -> None:
    """Block forms read the same for both checkers."""
    with deadline(2.0) as span, bulkhead(1).hold():
        assert_type(span.seconds, float)
        find("x")
