"""A cached function keeps its signature, and its extras share its parameters."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, assert_type

import cachetools

from paintkit import CacheManager, S3FIFOCache
from paintkit.cache.levels import SharedLevel
from paintkit.cache.reports import CacheInfo, Explanation, Removal
from paintkit.testing import FakeLevel, FakeServer

cache = CacheManager("studio", maxsize=100, timeout=None)


def tags_of(paint_id: int, page: int) -> tuple[str, ...]:
    """Tags by the bound arguments."""
    return (f"paint:{paint_id}", f"page:{page}")


def key_of(sku: str) -> str:
    """A key by the call as it is made."""
    return f"stock_{sku}"


@cache.cache_result(timeout=timedelta(minutes=5), tags=tags_of)
def paint(paint_id: int, *, page: int = 1) -> str:
    """A function."""
    return f"{paint_id}{page}"


@cache.cache_result(60, key_of)
async def stock(sku: str) -> int:
    """A coroutine function."""
    return len(sku)


@cache.cache_result(
    timeout=lambda value: 5 if value is None else timedelta(minutes=1),
    vary=(ContextVar[int]("user"),),
    ignore=("trace",),
    jitter=0.1,
    cache_errors=(LookupError,),
    error_timeout=timedelta(seconds=5),
    early=0.1,
    stale=timedelta(seconds=30),
    stale_on_error=3600,
    loader_timeout=5.0,
    soft_timeout=0.2,
    copy="deep",
)
def varied(paint_id: int, trace: str = "") -> str | None:
    """Every option."""
    return trace or str(paint_id)


level: SharedLevel = FakeLevel(FakeServer())
shared_cache = CacheManager("shop", level2=level, max_unverified=timedelta(minutes=1))


@shared_cache.cache_result(timeout=60, level2=True)
async def shared(paint_id: int) -> str:
    """Shared with other processes."""
    return str(paint_id)


@shared_cache.cache_result(level2=False)
def private(paint_id: int) -> str:
    """Kept in memory."""
    return str(paint_id)


@cache.cache_many(timeout=lambda value: 5, absent_timeout=1, tags=lambda key: (f"x:{key}",), copy="shallow")
def prices(ids: Sequence[int]) -> Mapping[int, str]:
    """Many keys."""
    return {key: str(key) for key in ids}


@cache.cache_many()
async def aprices(ids: list[str]) -> dict[str, bytes]:
    """Many keys, as a coroutine function."""
    return dict.fromkeys(ids, b"")


@cache.cache_many
def bare_prices(ids: list[int]) -> dict[int, str]:
    """Many keys, without options."""
    return dict.fromkeys(ids, "")


@cache.cache_many
async def abare_prices(ids: list[str]) -> dict[str, bytes]:
    """Many keys without options, as a coroutine function."""
    return dict.fromkeys(ids, b"")


class Shelf:
    """Methods."""

    @cache.cache_result
    def row(self, number: int) -> list[str]:
        """A method."""
        return [str(self), str(number)]

    @cache.cache_result()
    async def column(self, number: int) -> bytes:
        """A coroutine method."""
        return b"" * number


leaving: list[Removal] = []


def blocking() -> None:
    """Everything that is checked of blocking code."""
    assert_type(paint(1, page=2), str)
    assert_type(paint.info(), CacheInfo)
    assert_type(varied(1), str | None)
    assert_type(paint.refresh(1), str)
    assert_type(paint.peek(1, page=2), str | None)
    assert_type(cache.of(Shelf().row).refresh(1), list[str])
    assert_type(paint.explain(1, page=2), Explanation)
    paint.put("red", 1, page=2)
    cache.of(Shelf().row).put(["red"], 1)
    paint.invalidate(1)
    paint.invalidate(paint_id=1, page=2)
    assert_type(Shelf().row(1), list[str])
    assert_type(Shelf.row(Shelf(), 1), list[str])
    Shelf.row.invalidate(Shelf(), 1)
    cache.of(Shelf().row).invalidate(1)
    cache.of(paint).invalidate(1, page=2)
    assert_type(private(1), str)
    assert_type(shared_cache.get_stats()["level2"], dict[str, float])
    as_callable: Callable[[int], str] = paint
    as_callable(1)
    assert_type(prices({1, 2}), dict[int, str])
    assert_type(prices.peek(1), str | None)
    assert_type(prices.refresh(1), str | None)
    prices.put("red", 1)
    prices.invalidate(1)
    assert_type(prices.info(), CacheInfo)
    assert_type(bare_prices([1]), dict[int, str])
    assert_type(bare_prices.peek(1), str | None)
    cache.invalidate(prices)
    cache.invalidate()
    cache.invalidate("paint_1")
    cache.invalidate(paint)
    cache.invalidate(pattern="paint_*")
    assert_type(cache.get_stats()["hit_rate"], float)
    assert_type(S3FIFOCache[str, int](10)["a"], int)
    CacheManager(policy=cachetools.LRUCache, max_weight=10, weigh=len, on_removal=leaving.append)
    CacheManager(policy=S3FIFOCache)
    CacheManager(policy=lambda maxsize: cachetools.RRCache(maxsize, choice=min))
    assert_type(leaving[0].hits, int)


async def asynchronous() -> None:
    """Everything that is checked of asyncio."""
    assert_type(await stock("x"), int)
    await stock.invalidate("x")
    assert_type(await stock.info(), CacheInfo)
    assert_type(await stock.refresh("x"), int)
    assert_type(await stock.explain("x"), Explanation)
    await stock.put(3, "x")
    await cache.ainvalidate("x")
    assert_type(await aprices(["x"]), dict[str, bytes])
    assert_type(await aprices.peek("x"), bytes | None)
    await aprices.put(b"", "x")
    assert_type(await abare_prices(["x"]), dict[str, bytes])
    assert_type(await abare_prices.refresh("x"), bytes | None)
    assert_type(await cache.of(Shelf().column).peek(1), bytes | None)
    assert_type(await Shelf().column(1), bytes)
    await cache.of(Shelf().column).invalidate(1)
    assert_type(await shared(1), str)
    await shared.put("x", 1)
    as_callable: Callable[[str], Coroutine[Any, Any, int]] = stock
    await as_callable("x")


def refused() -> None:
    """What a type checker refuses."""
    paint("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    paint.invalidate("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    paint.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    paint.put(b"red", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.of(Shelf().row).invalidate("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.invalidate(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CacheManager(level2="redis://localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.cache_result(level2="redis")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    cache.cache_result(copy="all")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    prices(["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    bare_prices(["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    cache.cache_many(300)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    prices.put(3, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CacheManager(policy=dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.cache_result(steal=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
