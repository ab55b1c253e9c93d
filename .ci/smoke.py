"""Use the installed wheel, with nothing but its own dependencies around."""

import asyncio
import sys
from importlib import metadata
from pathlib import Path

import paintkit
from paintkit import CacheManager, CircuitOpenError, circuit_breaker, retry

HOME = Path(paintkit.__file__).parent

calls: list[str] = []
cache = CacheManager("smoke", maxsize=10, timeout=60)
supplier = circuit_breaker("supplier", failure_threshold=2, recovery_timeout=60)


@retry(on=ConnectionError, attempts=3, backoff=paintkit.backoff.constant(0.001))
def flaky() -> int:
    """Fail twice, then answer."""
    calls.append("flaky")
    if len(calls) < 3:
        raise ConnectionError("not yet")
    return len(calls)


@retry(on=ConnectionError, attempts=2, backoff=paintkit.backoff.constant(0.001))
async def always_failing() -> None:
    """Fail each time."""
    calls.append("always_failing")
    raise ConnectionError("never")


@supplier
def order() -> None:
    """Fail each time."""
    calls.append("order")
    raise OSError("supplier is down")


@cache.cache_result(timeout=60)
def paint(number: int) -> str:
    """Load a paint."""
    calls.append(f"paint {number}")
    return f"paint {number}"


def fails_with(kind: type[Exception], *, times: int) -> None:
    """Order, and expect this kind of failure so many times in a row."""
    for _ in range(times):
        try:
            order()
        except kind:
            continue
        raise AssertionError(f"order() did not raise {kind.__name__}")


def main() -> None:
    """Run one scenario for each primitive."""
    assert HOME.is_relative_to(sys.prefix), HOME
    assert (HOME / "py.typed").exists()
    assert metadata.version("paintkit") == paintkit.__version__

    assert flaky() == 3

    try:
        asyncio.run(always_failing())
    except ConnectionError:
        assert calls.count("always_failing") == 2
    else:
        raise AssertionError("the last error was swallowed")

    fails_with(OSError, times=2)
    fails_with(CircuitOpenError, times=3)
    assert calls.count("order") == 2

    assert (paint(7), paint(7), paint(8)) == ("paint 7", "paint 7", "paint 8")
    assert calls.count("paint 7") == 1
    paint.invalidate(7)
    assert paint(7) == "paint 7"
    assert calls.count("paint 7") == 2

    optional = {"flask", "hypothesis", "msgspec", "opentelemetry", "prometheus_client", "pytest", "redis"}
    assert not optional & sys.modules.keys()
    print(f"paintkit {paintkit.__version__} works as installed")


main()
