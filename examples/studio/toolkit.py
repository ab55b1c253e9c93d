"""The primitives that the studio stands on, made once per application and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from flask import Flask

from paintkit import CacheManager, ComponentManager, ErrorRecoveryManager, EventBus, PerformanceMonitor
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig, is_transient

if TYPE_CHECKING:
    from paintkit.redis import RedisLevel

__all__ = ["Toolkit", "open_toolkit"]

P = ParamSpec("P")
R = TypeVar("R")


class Toolkit(NamedTuple):
    """One of each, and how the studio combines them."""

    db: DatabaseConnectionManager
    cache: CacheManager
    recovery: ErrorRecoveryManager
    bus: EventBus
    components: ComponentManager
    monitor: PerformanceMonitor
    shared_cache: RedisLevel | None

    def guard_database(self, read: Callable[P, R], /) -> Callable[P, R]:
        """Measure and protect a read: three attempts, and none at all while the database is known to be away."""
        retry = self.recovery.with_retry(2, 0.05, is_transient, name="database reads")
        breaker = self.recovery.circuit_breaker(5, 10, name="database", probes=1, record=is_transient)
        return retry(breaker(self.monitor.measure(f"query {read.__name__.lstrip('_')}")(read)))

    def repeat_write(self, write: Callable[P, R], /) -> Callable[P, R]:
        """Try a whole unit of work again, a fresh one each time, when the database says that this may help."""
        return self.recovery.with_retry(2, 0.05, is_transient, name="database writes")(write)

    def guard_images(self, use: Callable[P, R], /) -> Callable[P, R]:
        """Protect a use of the image store in the same way."""
        retry = self.recovery.with_retry(2, 0.05, (OSError,), name="image-store")
        breaker = self.recovery.circuit_breaker(5, 30, name="image-store", probes=1, record=(OSError,))
        return retry(breaker(use))

    def ask_shared_cache(self) -> None:
        """Raise an error if this process does not hear what others change."""
        if self.shared_cache and not self.shared_cache.wait_until_connected(0.5):
            raise ConnectionError("Redis is away: what other processes change shows here later")


def open_toolkit(app: Flask, *, pool: PoolConfig, redis_url: str | None = None) -> Toolkit:
    """Make the primitives for this application; with Redis, its processes share what they have read."""
    components = ComponentManager()
    level2 = None if redis_url is None else _shared_level(redis_url, components)
    return Toolkit(
        db=DatabaseConnectionManager(app, pool=pool),
        cache=CacheManager("studio", maxsize=10_000, timeout=300, level2=level2),
        recovery=ErrorRecoveryManager(),
        bus=EventBus(),
        components=components,
        monitor=PerformanceMonitor(),
        shared_cache=level2,
    )


def _shared_level(redis_url: str, components: ComponentManager) -> RedisLevel:
    from paintkit.redis import RedisLevel  # a studio of one process needs none

    components.register("shared-cache", lambda: RedisLevel(redis_url))
    return components.get("shared-cache", RedisLevel)
