"""The measurements of caches measure what they say: each is shown something that is worse."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks import caches


def no_cache(fn: Callable[..., Any], _maxsize: int = 0) -> Callable[..., Any]:
    return fn


def for_ever(fn: Callable[..., Any], _maxsize: int = 0) -> Callable[..., Any]:
    return functools.cache(fn)


def test_the_trace_is_the_same_in_every_run_and_scans() -> None:
    """Seeded, and about a quarter of it names that come once."""
    trace = caches.zipf_with_scans(1, accesses=5_000, names=100)
    assert trace == caches.zipf_with_scans(1, accesses=5_000, names=100)
    assert trace != caches.zipf_with_scans(2, accesses=5_000, names=100)
    assert list(range(100, 400)) == trace[1_000:1_300]


def test_hit_ratios_tell_a_cache_from_none() -> None:
    """Nothing hits without a cache, and no cache hits more than one that keeps everything."""
    trace = caches.zipf_with_scans(1, accesses=5_000, names=100)
    best = caches.hit_ratio(for_ever, trace, 0)
    assert 0.0 == caches.hit_ratio(no_cache, trace, 0)
    assert 1 - len(set(trace)) / len(trace) == pytest.approx(best)
    assert caches.hit_ratio(caches._lru, trace, 50) < caches.hit_ratio(caches._ours, trace, 50) < best


def test_a_stampede_tells_one_load_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache everybody loads."""
    monkeypatch.setattr(caches, "_LOAD_SECONDS", 0.02)
    assert 20 == caches.loads_of_threads(no_cache, 20)
    assert 20 == caches.loads_of_tasks(no_cache, 20)
    assert 1 == caches.loads_of_tasks(caches.by.hit, 20)
    assert 1 == caches.loads_of_threads(caches.by.hit, 20)


def test_the_heavier_cache_weighs_more() -> None:
    """What keeps much for each entry is heavier than what keeps nothing."""
    size = 1 << 20  # so large that it is never put where a former test has left room

    def heavy(fn: Callable[..., Any]) -> Callable[..., Any]:
        kept: list[bytes] = []
        return lambda number: kept.append(b"x" * size)

    assert caches.bytes_each(heavy, 50) > size / 2 > caches.bytes_each(no_cache, 50)
