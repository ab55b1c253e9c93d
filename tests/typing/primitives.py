"""The bus, the batcher, components and the monitor give back the types that went in."""

from concurrent.futures import Future
from typing import Any, assert_type

from paintkit import ComponentManager, EventBus, PerformanceMonitor, RequestBatcher
from paintkit.monitor.performance import Measurement
from paintkit.observations import Subscription

bus = EventBus()
components = ComponentManager()
monitor = PerformanceMonitor()


@bus.subscribe("paint.created")
def welcome(name: str) -> int:
    """A handler keeps its type."""
    return len(name)


@bus.subscribe("paint.created", name="index", kind="work", idempotent=True)
def index(name: str) -> int:
    """So does one with options."""
    return len(name)


assert_type(index("Ultramarine"), int)
assert_type(bus.subscribe("paint.*", print, weak=True), Subscription)


@bus.subscribe("paint.created")
async def welcome_later(name: str) -> None:
    """An async one, too."""


assert_type(welcome("red"), int)
assert_type(bus.subscribe("paint.created", welcome), Subscription)
bus.subscribe(7, welcome)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def lengths(names: list[str]) -> list[int | BaseException]:
    """A batch function that may fail for one request."""
    return [len(name) for name in names]


def paints(numbers: list[int]) -> list[str]:
    """A batch function that may not."""
    return [str(number) for number in numbers]


batcher = RequestBatcher(paints, batch_size=3)
assert_type(batcher.add(7), str)
assert_type(batcher.submit(7), Future[str])
assert_type(RequestBatcher[str, int](lengths).add("red"), int)
batcher.add("red")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Store:
    """A component."""


components.register("store", Store)
assert_type(components.get("store", Store), Store)
assert_type(components.get("store"), Any)


@monitor.measure("mix")
def mix(red: int, *, blue: int = 0) -> str:
    """A measured function keeps its signature."""
    return f"{red}{blue}"


async def load() -> bytes:
    """Something to await."""
    return b""


assert_type(mix(1, blue=2), str)
mix("red")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(monitor.measure("mix"), Measurement)
assert_type(monitor.measure("mix", lambda: 7), int)


async def main() -> None:
    """What is awaited keeps its type."""
    assert_type(await monitor.measure("load", load), bytes)
    assert_type(await batcher.aadd(7), str)
