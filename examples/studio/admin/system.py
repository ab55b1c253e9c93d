"""The machinery at one moment, as plain values for the system page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from studio.services import Services
from studio.toolkit import Toolkit

__all__ = ["System", "look"]

Numbers = Mapping[str, Any]


class System(NamedTuple):
    """The statistics of every primitive."""

    pool: Numbers
    cache: Numbers
    shared_cache: Numbers
    breakers: Mapping[str, Numbers]
    retries: Mapping[str, Numbers]
    bus: Numbers
    batcher: Numbers
    components: Numbers
    measures: Mapping[str, Numbers]


def look(services: Services) -> System:
    """Ask every primitive how it is; nothing here waits for the database."""
    kit = services.kit
    recovery = kit.recovery.get_stats()
    return System(
        pool=_for_people(kit.db.get_connection_stats()),
        cache=_of_cache(kit),
        shared_cache=_shared(kit),
        breakers=recovery["circuit_breakers"],
        retries=recovery["retries"],
        bus=kit.bus.get_stats(),
        batcher=services.gallery.batcher.get_stats(),
        components=kit.components.get_stats(),
        measures=dict(sorted(kit.monitor.get_metrics().items())),
    )


def _of_cache(kit: Toolkit) -> Numbers:
    """Say in words what people ask of the cache; how its values leave is told by why calls missed."""
    stats = kit.cache.get_stats()
    told = {
        "entries": stats["entries"],
        "entries at most": stats["maxsize"],
        "estimated bytes": stats["estimated_size"],
        "hit_rate": stats["hit_rate"],
        "hits": stats["hits"],
        "misses": stats["misses"],
        "of an expired value": stats["expired"],
        "of an invalidated value": stats["invalidated"],
        "of a value that made room": stats["evicted"],
        "waited for another's load": stats["joined"],
        "answered with an old value": stats["stale"],
        "loads": stats["loads"],
        "failed loads": stats["load_errors"],
        "load_time": stats["load_time"],
        "invalidations": stats["invalidations"],
    }
    if kit.shared_cache:
        told |= {"found in the shared cache": stats["level2_hits"], "to be verified": stats["unverified"]}
    return told


def _shared(kit: Toolkit) -> Numbers:
    if (level := kit.shared_cache) is None:
        return {}
    totals = {name: int(number) for name, number in level.stats().items()}
    return {"connected": "yes" if level.is_connected else "no"} | totals


def _for_people(connections: Numbers) -> Numbers:
    """Leave out what only programs read: the pool's own count, and the names of OpenTelemetry."""
    return {
        name: number for name, number in connections.items() if name != "overflow_raw" and "." not in name
    }
