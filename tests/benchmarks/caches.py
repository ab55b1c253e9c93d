"""What caches do beside being quick: `make bench-caches`, or `python -m tests.benchmarks.caches [hits|stampede|memory]`.

- `hits`: which part of a trace is answered from the cache. The trace is made here: names of skewed popularity (Zipf),
  interrupted by scans over names that are never asked for again.
- `stampede`: how often 1,000 callers that miss at once load.
- `memory`: what a million small entries take, each library in a process of its own.

Targets are told as met or missed; neither fails the command.
"""

import argparse
import asyncio
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import contenders as by
from tests.benchmarks.course import version
from tests.benchmarks.race import ARGUMENT

_LINE = "  {name:<44} {value:>12} {verdict}".format

# --- Hit ratio ---


def zipf_with_scans(seed: int, accesses: int = 120_000, names: int = 10_000) -> list[int]:
    """Return accesses of skewed popularity; after each thousand comes a scan over 300 names that nobody asks for again."""
    popular = random.Random(seed).choices(
        range(names), [1 / rank for rank in range(1, names + 1)], k=accesses
    )
    fresh = itertools.count(names)
    trace = []
    for start in range(0, accesses, 1_000):
        trace += popular[start : start + 1_000]
        trace += itertools.islice(fresh, 300)
    return trace


def hit_ratio(protect: Callable[[by.Fn, int], by.Fn], trace: list[int], maxsize: int) -> float:
    """Return the part of a trace that is answered without a load."""
    loads = 0

    def load(name: int) -> int:
        nonlocal loads
        loads += 1
        return name

    cached = protect(load, maxsize)
    for name in trace:
        cached(name)
    return 1 - loads / len(trace)


def _ours(fn: by.Fn, maxsize: int) -> by.Fn:
    import paintkit

    return paintkit.CacheManager("bench", maxsize=maxsize).cache_result()(fn)


def _lru(fn: by.Fn, maxsize: int) -> by.Fn:
    import cachetools

    return cachetools.cached(cachetools.LRUCache(maxsize))(fn)


def _w_tiny_lfu(fn: by.Fn, maxsize: int) -> by.Fn:
    import theine

    return theine.Memoize(maxsize, None)(fn)


_POLICIES = (
    ("paintkit", "S3-FIFO", _ours),
    ("cachetools", "LRU", _lru),
    ("theine", "W-TinyLFU", _w_tiny_lfu),
)


def hits() -> Iterator[str]:
    """Compare eviction policies: the target is to be above all others."""
    for seed, maxsize in itertools.product((1, 2), (200, 500, 1_000, 2_000)):
        yield f"\nhit ratio, Zipf with scans, seed {seed}, {maxsize} entries: above the others"
        trace = zipf_with_scans(seed)
        found = {
            f"{package} {version(package)} ({policy})": hit_ratio(protect, trace, maxsize)
            for package, policy, protect in _POLICIES
            if version(package)
        }
        ours, *others = found.values()
        for place, (name, ratio) in enumerate(found.items()):
            verdict = "" if place else "met" if all(ours > other for other in others) else "MISSED"
            yield _LINE(name=name, value=f"{ratio:.2%}", verdict=verdict)


# --- Stampedes ---

_WAITERS = 1_000
_LOAD_SECONDS = 0.3


def loads_of_threads(protect: Callable[[by.Fn], by.Fn], waiters: int = _WAITERS) -> int:
    """Return how often as many threads load that miss at once."""
    loads = itertools.count()
    landed = threading.Event()
    start = threading.Barrier(waiters + 1)

    def load(number: int) -> int:
        next(loads)
        landed.wait(_LOAD_SECONDS)
        return number

    cached = protect(load)

    def call() -> None:
        start.wait()
        cached(ARGUMENT)

    threads = [threading.Thread(target=call) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    return next(loads)


def loads_of_tasks(protect: Callable[[by.Fn], by.Fn], waiters: int = _WAITERS) -> int:
    """Return how often as many tasks load that miss at once."""
    loads = itertools.count()

    async def load(number: int) -> int:
        next(loads)
        await asyncio.sleep(_LOAD_SECONDS)
        return number

    async def stampede() -> None:
        cached = protect(load)
        await asyncio.gather(*(cached(ARGUMENT) for _ in range(waiters)))

    asyncio.run(stampede())
    return next(loads)


_IN_THREADS = (
    ("paintkit", by.hit),
    ("cachebox", by.cachebox_hit),
    ("cachetools", by.cachetools_hit),
    ("nopanic", by.nopanic_hit),
    ("theine", by.theine_hit),
    ("dogpile.cache", by.dogpile_in_memory),
    ("Flask-Caching", by.flask_caching_hit),
)
_IN_TASKS = (
    ("paintkit", by.hit),
    ("cachebox", by.cachebox_hit),
    ("nopanic", by.nopanic_hit),
    ("async-lru", by.async_lru_hit),
    ("theine", by.theine_hit),
    ("cashews", by.cashews_in_memory),
    ("aiocache", by.aiocache_in_memory),
)


def stampede() -> Iterator[str]:
    """Count the loads of a thousand callers: the target is one."""
    for what, measure, lanes in (
        ("threads", loads_of_threads, _IN_THREADS),
        ("tasks", loads_of_tasks, _IN_TASKS),
    ):
        yield f"\nstampede of {_WAITERS:,} {what}: 1 load"
        for package, protect in lanes:
            if version(package) is None:
                yield _LINE(name=package, value="missing", verdict="")
                continue
            loads = measure(protect)
            verdict = "" if package != "paintkit" else "met" if loads == 1 else "MISSED"
            yield _LINE(name=f"{package} {version(package)}", value=f"{loads:,}", verdict=verdict)


# --- Memory ---

_ENTRIES = 1_000_000


def bytes_each(protect: Callable[[by.Fn], by.Fn], entries: int = _ENTRIES) -> float:
    """Return by how much this process grows for each entry: a number as key, and the same number as value."""
    cached = protect(lambda number: number)
    numbers = list(range(1_000, 1_000 + entries))
    cached(0)
    before = _resident()
    for number in numbers:
        cached(number)
    return (_resident() - before) / entries


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _without_tags(fn: by.Fn) -> by.Fn:
    import paintkit

    return paintkit.CacheManager("bench", maxsize=by.SIZE, timeout=by.TTL).cache_result()(fn)


_IN_MEMORY: dict[str, Callable[[by.Fn], by.Fn]] = {
    "paintkit": _without_tags,
    "cachebox": by.cachebox_hit,
    "cachetools": by.cachetools_hit,
    "theine": by.theine_hit,
}


def memory() -> Iterator[str]:
    """Weigh a million entries: the target is to be no heavier than cachetools."""
    yield f"\nresident bytes of each of {_ENTRIES:,} small entries, TTL: no more than cachetools"
    found = {package: _apart(package) if version(package) is not None else None for package in _IN_MEMORY}
    most = found["cachetools"]
    for package, size in found.items():
        if size is None:
            yield _LINE(name=package, value="missing", verdict="")
            continue
        ours = package == "paintkit" and most is not None
        verdict = "" if not ours or most is None else "met" if size <= most else "MISSED"
        yield _LINE(name=f"{package} {version(package)}", value=f"{size:.0f}", verdict=verdict)


def _apart(package: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.caches", "--weigh", package]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


_SECTIONS: dict[str, Callable[[], Iterator[str]]] = {"hits": hits, "stampede": stampede, "memory": memory}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.caches", description=__doc__)
    parser.add_argument("section", nargs="?", choices=_SECTIONS, help="only this one")
    parser.add_argument("--weigh", choices=_IN_MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.weigh is not None:
        by.SIZE = 2 * _ENTRIES  # room for all
        print(bytes_each(_IN_MEMORY[options.weigh]))
        return
    for name, section in _SECTIONS.items():
        if options.section in {None, name}:
            for line in section():
                print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
