"""What replicas share through Redis or Valkey; needs the extra `paintkit[redis]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paintkit.redis.breaker_state import RedisBreakerState as RedisBreakerState
    from paintkit.redis.level import RedisLevel as RedisLevel
    from paintkit.redis.limits import RedisLimits as RedisLimits
    from paintkit.redis.transport import RedisStreams as RedisStreams

_HOMES = {
    "RedisBreakerState": "breaker_state",
    "RedisLevel": "level",
    "RedisLimits": "limits",
    "RedisStreams": "transport",
}

__all__ = ["RedisBreakerState", "RedisLevel", "RedisLimits", "RedisStreams"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from paintkit._extras import Extra

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'paintkit.redis' has no attribute {name!r}")
    with Extra("redis"):
        value = getattr(import_module(f"paintkit.redis.{home}"), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return __all__
