"""Every kind of function keeps its signature under every decorator of paintkit: what it takes, and what it gives."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar, assert_type

from paintkit import CacheManager, PerformanceMonitor, circuit_breaker, retry
from paintkit.sqlalchemy import DatabaseConnectionManager, with_database_session
from paintkit.testing import FakeClock

T = TypeVar("T")

again = retry(on=OSError)
supplier = circuit_breaker("supplier", failure_threshold=5)
cache = CacheManager("studio")
monitor = PerformanceMonitor()


class Shelf:
    """Methods of every kind."""

    @again
    @supplier
    def method(self, row: int, /, *, width: float = 1.0) -> str:
        """Of an instance."""
        return f"{self}{row}{width}"

    @classmethod
    @supplier
    @again
    def of_class(cls, row: int) -> str:
        """Of the class."""
        return f"{cls}{row}"

    @staticmethod
    @supplier
    def static(row: int) -> str:
        """Of nobody."""
        return str(row)

    @again
    async def coroutine(self, row: int) -> str:
        """In the other colour."""
        return f"{self}{row}"

    @cache.cache_result(timeout=5)
    def cached(self, row: int) -> str:
        """With extras."""
        return f"{self}{row}"


@again
@supplier
def first(items: list[T], *rest: T, **options: bool) -> T:
    """A generic function."""
    return [*items, *rest][bool(options)]


@supplier
@again
async def afirst(items: list[T]) -> T:
    """A generic coroutine function."""
    return items[0]


@again
def counted(upto: int) -> Iterator[int]:
    """A generator."""
    yield from range(upto)


@supplier
async def acounted(upto: int) -> AsyncIterator[int]:
    """An asynchronous generator."""
    for number in range(upto):
        yield number


@cache.cache_result(timeout=300)
def priced(sku: str, *, currency: str = "EUR") -> float:
    """A cached function."""
    return len(sku + currency)


@cache.cache_result
async def apriced(sku: str) -> float:
    """A cached coroutine function, decorated bare."""
    return len(sku)


@again
@with_database_session
def stored(sku: str) -> int:
    """A unit of work, decorated bare."""
    return len(sku)


@with_database_session(read_only=True)
async def astored(sku: str) -> int:
    """The same with options, and in the other colour."""
    return len(sku)


@monitor.measure("hashing")
def hashed(text: str) -> int:
    """A measured function."""
    return hash(text)


@monitor.measure("hashing")
async def ahashed(text: str) -> int:
    """A measured coroutine function."""
    return hash(text)


def blocking(db: DatabaseConnectionManager, clock: FakeClock) -> None:
    """Results and arguments keep their types."""
    assert_type(Shelf().method(1, width=2.0), str)
    assert_type(Shelf.of_class(1), str)
    assert_type(Shelf.static(1), str)
    assert_type(Shelf().cached(1), str)
    assert_type(first([1, 2], 3, reverse=True), int)
    assert_type(first(["one"]), str)
    assert_type(counted(3), Iterator[int])
    assert_type(acounted(3), AsyncIterator[int])
    assert_type(priced("x", currency="USD"), float)
    assert_type(stored("x"), int)
    assert_type(hashed("x"), int)
    assert_type(monitor.measure("hashing", lambda: 3), int)
    assert_type(again.call(first, ["one"]), str)
    assert_type(db.with_database_session(len)("x"), int)
    assert_type(clock.run(afirst([1])), int)


def refused() -> None:
    """Wrong calls are told by the type checker."""
    Shelf().method(row=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # positional only
    Shelf.of_class("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a row is a number
    first([1], reverse="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # options are bools
    priced(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a SKU is text
    stored()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # an argument is missing
    hashed("x", "y")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # one too many


async def asynchronous() -> None:
    """Coroutine functions stay coroutine functions."""
    assert_type(await Shelf().coroutine(1), str)
    assert_type(await afirst(["one"]), str)
    assert_type(await apriced("x"), float)
    assert_type(await astored("x"), int)
    assert_type(await ahashed("x"), int)
    assert_type(await again.acall(afirst, [1]), int)
    async for number in acounted(3):
        assert_type(number, int)


# What is decorated can be passed on as what it was.
order: Callable[[Shelf, int], str] = Shelf.method
coroutine: Callable[[str], Coroutine[Any, Any, int]] = astored
awaitable: Callable[[str], Awaitable[float]] = apriced
