"""A policy keeps the signature of what it protects."""

from typing import assert_type

from paintkit import CircuitState, ErrorRecoveryManager, backoff, circuit_breaker, retry

supplier = circuit_breaker("supplier", failure_threshold=5)
recovery = ErrorRecoveryManager()


@retry(on=(ConnectionError, TimeoutError), attempts=4, backoff=backoff.constant(0.1))
def fetch(url: str, *, size: int = 10) -> bytes:
    """A function."""
    return url.encode()[:size]


@retry(on=lambda error: isinstance(error, OSError))
async def fetch_async(url: str) -> bytes:
    """A coroutine function."""
    return url.encode()


class Shop:
    """Methods."""

    @retry(on=OSError)
    @supplier
    def order(self, sku: str) -> int:
        """A method under two policies."""
        return len(sku)

    @supplier
    async def order_async(self, sku: str) -> int:
        """The same in the other colour."""
        return len(sku)


@recovery.with_retry(max_retries=3, backoff_base=1, exceptions=(OSError,))
@recovery.circuit_breaker(failure_threshold=5, recovery_timeout=60)
def listed(page: int) -> list[str]:
    """A function under a manager's policies."""
    return [str(page)]


def blocking() -> None:
    """Results and arguments keep their types."""
    assert_type(fetch("x", size=3), bytes)
    assert_type(Shop().order("x"), int)
    assert_type(listed(1), list[str])
    assert_type(supplier.call(len, "abc"), int)
    assert_type(supplier.state, CircuitState)
    fetch(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a URL is text
    fetch("x", length=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # there is no such argument
    Shop().order()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # an argument is missing


async def asynchronous() -> None:
    """Coroutine functions stay coroutine functions."""
    assert_type(await fetch_async("x"), bytes)
    assert_type(await Shop().order_async("x"), int)
    assert_type(await supplier.acall(fetch_async, "x"), bytes)
    await fetch_async(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a URL is text


def forms() -> None:
    """Block forms read the same for both checkers."""
    for attempt in retry(on=OSError, attempts=3).attempts():
        with attempt:
            fetch("x")
    with supplier.guard():
        fetch("x")
    retry()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # `on` is required
