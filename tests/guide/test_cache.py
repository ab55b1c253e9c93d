import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import paintkit.clock
from paintkit import CacheManager, EventBus
from paintkit.testing import FakeClock
from tests.colours import Colour


class Base(DeclarativeBase):
    pass


class Paint(Base):
    __tablename__ = "guide_cached_paint"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def cache() -> CacheManager:
    return CacheManager()


class Counting:
    """What a cached function does: answers with its arguments, and counts how often."""

    def __init__(self) -> None:
        self.loads = 0

    def of(self, *arguments: Any) -> tuple[Any, ...]:
        self.loads += 1
        return arguments


def test_keyword_arguments_are_in_the_key(colour: Colour, cache: CacheManager) -> None:
    """Row 10: `f(id=1)` and `f(id=2)` are two calls; `f(1)`, `f(id=1)` and `f(1, page=1)` are one."""
    counting = Counting()

    def page_of(id: int, page: int = 1) -> tuple[Any, ...]:  # noqa: A002 - the name of the failing case
        return counting.of(id, page)

    async def page_of_async(id: int, page: int = 1) -> tuple[Any, ...]:  # noqa: A002 - the same
        return counting.of(id, page)

    load = cache.cache_result()(page_of if colour is Colour.BLOCKING else page_of_async)

    assert (1, 1) == colour.call(load, id=1)
    assert (2, 1) == colour.call(load, id=2)
    assert 2 == counting.loads
    assert (1, 1) == colour.call(load, 1)
    assert (1, 1) == colour.call(load, 1, page=1)
    assert 2 == counting.loads


def test_functions_of_one_name_do_not_share_entries(colour: Colour, cache: CacheManager) -> None:
    """Row 11: neither in two modules, nor as two closures of one factory."""

    def made(answer: str) -> Callable[[int], Any]:
        def load(number: int) -> str:
            return f"{answer} {number}"

        return cache.cache_result()(colour.function(load))

    red, blue = made("red"), made("blue")

    assert ["red 1", "blue 1", "red 1"] == [colour.call(load, 1) for load in (red, blue, red)]


class Shelf:
    cache = CacheManager()

    def __init__(self, number: int) -> None:
        self.number = number

    @cache.cache_result()
    def label(self) -> str:
        return f"shelf {self.number}"

    @cache.cache_result()
    async def label_async(self) -> str:
        return f"shelf {self.number}"


def test_objects_that_follow_each_other_in_memory_do_not_share_entries(colour: Colour) -> None:
    """Row 12: fifty objects, each born where the last one died, have fifty right labels."""

    def label(number: int) -> str:
        shelf = Shelf(number)
        return colour.call(shelf.label if colour is Colour.BLOCKING else shelf.label_async)

    assert [f"shelf {number}" for number in range(50)] == [label(number) for number in range(50)]


def test_a_cached_method_keeps_no_object_alive() -> None:
    """Row 12: what is gone is gone, and its entries with it."""
    shelf = Shelf(1)
    shelf.label()
    assert 1 <= Shelf.cache.get_stats()["entries"]

    del shelf

    assert 0 == Shelf.cache.get_stats()["entries"]


@dataclass(frozen=True)
class Samples:
    """Prints like an array of a thousand numbers: with dots for most of them."""

    numbers: tuple[int, ...]

    def __repr__(self) -> str:
        return f"samples([{self.numbers[0]} ... {self.numbers[-1]}])"


def test_arguments_that_print_alike_are_told_apart(cache: CacheManager) -> None:
    """Row 13: no `repr`, `str` or `hash` is the key: values and their types are."""
    middle_differs = [Samples((0, *([number] * 998), 0)) for number in (1, 2)]
    assert 1 == len({repr(samples) for samples in middle_differs})
    load = cache.cache_result()(lambda value: [value, type(value).__name__])

    answers = [load(value) for value in (*middle_differs, 1, 1.0, True, "1")]

    assert [[value, type(value).__name__] for value in (*middle_differs, 1, 1.0, True, "1")] == answers
    assert ["int", "float", "bool", "str"] == [answer[1] for answer in answers[2:]]


def test_an_event_handler_can_invalidate_one_paint(colour: Colour, cache: CacheManager) -> None:
    """Row 14: `invalidate("paint_5")` drops what is tagged so, which is what the guide's handler is for."""
    bus, counting = EventBus(), Counting()

    def get_paint(paint_id: int) -> tuple[Any, ...]:
        return counting.of(paint_id)

    load = cache.cache_result(timeout=300, tags=lambda paint_id: (f"paint_{paint_id}",))(
        colour.function(get_paint)
    )

    @bus.subscribe("paint.updated")
    def forget(paint: dict[str, int]) -> None:
        cache.invalidate(f"paint_{paint['id']}")

    colour.call(load, 5)
    colour.call(load, 6)
    bus.publish("paint.updated", {"id": 5})
    colour.call(load, 5)
    colour.call(load, 6)

    assert 3 == counting.loads


def test_a_name_that_begins_like_another_stays(cache: CacheManager) -> None:
    """Row 15: `paint_1` is not `paint_10` nor `paint_100`."""
    counting = Counting()
    load = cache.cache_result(key_func=lambda number: f"paint_{number}")(counting.of)
    for number in (1, 10, 100):
        load(number)

    cache.invalidate("paint_1")
    for number in (10, 100):
        load(number)
    assert 3 == counting.loads

    load(1)
    assert 4 == counting.loads


def test_nothing_named_is_not_everything(cache: CacheManager) -> None:
    """Row 15: an empty name is a mistake, told; only `invalidate()` drops everything."""
    load = cache.cache_result()(lambda number: number)
    load(1)

    with pytest.raises(ValueError, match="empty"):
        cache.invalidate("")
    with pytest.raises(TypeError):
        cache.invalidate(None)
    assert 1 == cache.get_stats()["entries"]

    cache.invalidate()
    assert 0 == cache.get_stats()["entries"]


def test_a_cache_has_a_bound() -> None:
    """Row 16: of a thousand entries it keeps as many as it may."""
    cache = CacheManager(maxsize=100)
    load = cache.cache_result()(lambda number: number)

    for number in range(1000):
        load(number)

    assert 100 == cache.get_stats()["entries"]


def test_entries_whose_time_is_over_go(cache: CacheManager) -> None:
    """Row 16: a thousand expired entries do not stay until the thousand first."""
    load = cache.cache_result(timeout=10)(lambda number: number)

    with FakeClock() as clock:
        for number in range(1000):
            load(number)
        clock.advance(11)
        for number in range(1000, 1100):
            load(number)

        assert cache.get_stats()["entries"] < 1000


def test_a_value_is_as_old_as_its_arrival() -> None:
    """Row 17: what took longer to load than it may live is fresh when it comes."""
    cache, counting = CacheManager(), Counting()

    with FakeClock() as clock:

        @cache.cache_result(timeout=300)
        def slow() -> tuple[Any, ...]:
            clock.sleep(400)
            return counting.of()

        slow()
        clock.advance(299)
        slow()
        assert 1 == counting.loads
        clock.advance(2)
        slow()
        assert 2 == counting.loads


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0], ids=["a day back", "a day ahead"])
def test_the_wall_clock_has_no_say(
    colour: Colour, cache: CacheManager, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Row 18: setting the computer's clock makes nothing expire, and nothing live longer."""
    assert paintkit.clock.now is time.monotonic
    counting, set_to = Counting(), time.time() + jump
    load = cache.cache_result(timeout=300)(colour.function(counting.of))
    with FakeClock() as clock:
        colour.call(load)
        monkeypatch.setattr(time, "time", lambda: set_to)
        colour.call(load)
        assert 1 == counting.loads

        clock.advance(301)
        colour.call(load)
        assert 2 == counting.loads


def test_threads_that_miss_together_load_once(cache: CacheManager) -> None:
    """Row 19: fifty threads ask for what nobody has; one loads, all get it."""
    counting, leave = Counting(), threading.Event()
    asked = threading.Semaphore(0)

    @cache.cache_result()
    def load(number: int) -> tuple[Any, ...]:
        assert leave.wait(timeout=20)
        return counting.of(number)

    def ask() -> tuple[Any, ...]:
        asked.release()
        return load(7)

    with ThreadPoolExecutor(50) as threads:
        answers = [threads.submit(ask) for _ in range(50)]
        for _ in range(50):
            assert asked.acquire(timeout=20)
        leave.set()
        assert {(7,)} == {answer.result(timeout=20) for answer in answers}

    assert 1 == counting.loads


def test_tasks_that_miss_together_load_once(cache: CacheManager) -> None:
    """Row 19: the same for a thousand tasks."""
    counting = Counting()

    @cache.cache_result()
    async def load(number: int) -> tuple[Any, ...]:
        await asyncio.sleep(1)
        return counting.of(number)

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(load(7) for _ in range(1000)))

    with FakeClock() as clock:
        assert [(7,)] * 1000 == clock.run(scenario())

    assert 1 == counting.loads


def test_invalidation_and_loads_do_not_trip_over_each_other(cache: CacheManager) -> None:
    """Row 19: threads that load, invalidate by pattern and read statistics all at once raise nothing."""
    load = cache.cache_result(key_func=lambda number: f"paint_{number}")(lambda number: number)
    together = threading.Barrier(6, timeout=20)

    def use(action: Callable[[int], object]) -> None:
        together.wait()
        for number in range(300):
            action(number)

    actions: list[Callable[[int], object]] = [
        load,
        lambda number: load(number % 7),
        lambda _: cache.invalidate(pattern="paint_*"),
        lambda number: cache.invalidate(f"paint_{number}"),
        lambda _: cache.get_stats(),
        lambda _: cache.invalidate(),
    ]
    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(use, action) for action in actions]:
            assert done.result(timeout=60) is None


def test_the_hit_rate_is_counted(colour: Colour, cache: CacheManager) -> None:
    """Row 20: three hits in four calls are 0.75; loads and their errors are counted, too."""

    def load(number: int) -> int:
        return 10 // number

    cached = cache.cache_result()(colour.function(load))
    for _ in range(4):
        colour.call(cached, 5)
    assert 0.75 == cache.get_stats()["hit_rate"]

    with pytest.raises(ZeroDivisionError):
        colour.call(cached, 0)

    stats = cache.get_stats()
    assert (3, 2, 2, 1) == (stats["hits"], stats["misses"], stats["loads"], stats["load_errors"])


class Unprintable:
    """Tells when it is asked for its text, as a row that loads its relations then would."""

    def __repr__(self) -> str:
        raise AssertionError("printed")

    __str__ = __repr__


def test_the_size_is_estimated_without_printing(cache: CacheManager) -> None:
    """Row 21: no value is turned into text, and a larger one counts for more."""
    load = cache.cache_result()(lambda size: (Unprintable(), "x" * size))
    load(10)
    small = cache.get_stats()["estimated_size"]

    load(100_000)

    assert cache.get_stats()["estimated_size"] - small > 100_000


@pytest.mark.parametrize(
    "held",
    [lambda paint: paint, lambda paint: [paint], lambda paint: {"paint": paint}],
    ids=["itself", "in a list", "in a dict"],
)
def test_mapped_objects_are_refused(
    colour: Colour, cache: CacheManager, held: Callable[[Paint], object]
) -> None:
    """Row 22: the error names the class and the fix; nothing is stored."""

    def get_paint() -> object:
        return held(Paint(id=1))

    with pytest.raises(TypeError, match=r"Paint, a mapped SQLAlchemy object.*Return plain data"):
        colour.call(cache.cache_result()(colour.function(get_paint)))

    assert 0 == cache.get_stats()["entries"]


def test_a_coroutine_function_can_be_awaited_again(cache: CacheManager) -> None:
    """Row 24: the value is cached, not the coroutine; the second await is a hit."""
    counting = Counting()

    @cache.cache_result()
    async def load(number: int) -> tuple[Any, ...]:
        return counting.of(number)

    async def scenario() -> list[Any]:
        return [await load(1), await load(1)]

    assert [(1,), (1,)] == asyncio.run(scenario())
    assert 1 == counting.loads


def test_that_there_is_nothing_is_remembered_for_as_long_as_one_says(
    colour: Colour, cache: CacheManager
) -> None:
    """Row 23: `None` is a value like any other, unless `timeout` says how long to believe it, or not to keep it at all."""
    paints: dict[int, str] = {}
    asked = []

    def find(number: int) -> str | None:
        asked.append(number)
        return paints.get(number)

    def time_of(found: str | None) -> float:
        return 300 if found else 5

    load = cache.cache_result(timeout=time_of)(colour.function(find))
    hasty = cache.cache_result(timeout=lambda found: 300 if found else 0)(colour.function(find))

    with FakeClock() as clock:
        assert None is colour.call(load, 1) is colour.call(load, 1)
        assert [1] == asked
        paints[1] = "red"
        clock.advance(5)
        assert "red" == colour.call(load, 1)
    assert None is colour.call(hasty, 2) is colour.call(hasty, 2)
    assert [1, 1, 2, 2] == asked


def test_an_old_value_stands_in_for_a_failing_load(colour: Colour, cache: CacheManager) -> None:
    """Row 23: with `stale_on_error` the value that was there before is served, until somebody invalidates it."""
    supplier = {"red": 350}

    def price(sku: str) -> int:
        return supplier[sku]

    load = cache.cache_result(timeout=60, stale_on_error=3600)(colour.function(price))

    with FakeClock() as clock:
        assert 350 == colour.call(load, "red")
        supplier.clear()
        clock.advance(600)
        assert 350 == colour.call(load, "red")
        cache.invalidate()
        with pytest.raises(KeyError, match="red"):
            colour.call(load, "red")


def test_what_came_together_does_not_go_together() -> None:
    """Row 23: `jitter` spreads the ends of a thousand values over the last tenth of their time, and never beyond it."""
    cache = CacheManager()

    @cache.cache_result(timeout=100, jitter=0.1)
    def load(number: int) -> int:
        return number

    with FakeClock() as clock:
        for number in range(1000):
            load(number)
        kept = []
        for _ in range(10):
            clock.advance(10)
            kept.append(sum(load.explain(number).fresh for number in range(1000)))
        assert [1000] * 8 == kept[:8]
        assert 0 == kept[-1]

        for number in range(1000):
            load.refresh(number)
        clock.advance(95)
        assert 300 < sum(load.explain(number).fresh for number in range(1000)) < 700


def test_a_cache_inside_the_check_of_rights_lets_nobody_pass(colour: Colour, cache: CacheManager) -> None:
    """Row 26: a value that differs by user names the user in `vary`; the check around it is made for every call."""
    user = ContextVar("user", default="")
    loads = []

    def orders(page: int) -> str:
        loads.append(page)
        return f"orders of {user.get()}"

    load = cache.cache_result(vary=(user,))(colour.function(orders))

    def shown(name: str) -> str:
        user.set(name)
        if not name:
            raise PermissionError("log in")
        return str(colour.call(load, 1))

    assert ["orders of ann", "orders of bob", "orders of ann"] == [
        shown(name) for name in ("ann", "bob", "ann")
    ]
    assert [1, 1] == loads
    with pytest.raises(PermissionError, match="log in"):
        shown("")
