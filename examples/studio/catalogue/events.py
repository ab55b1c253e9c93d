"""What follows a change: the cached answers that showed the old state are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.catalogue.reads import LISTS, PAINTS, paint_tag
from studio.toolkit import Toolkit

__all__ = ["register_events"]


def register_events(kit: Toolkit) -> None:
    """Let the bus's news reach the cache."""
    bus, cache = kit.bus, kit.cache

    @bus.subscribe("paint.created")
    @bus.subscribe("paint.updated")
    @bus.subscribe("paint.deleted")
    def forget_paint(paint: Mapping[str, Any]) -> None:
        cache.invalidate(paint_tag(paint["id"]))
        cache.invalidate(LISTS)

    @bus.subscribe("catalogue.imported")
    def forget_catalogue(_: Mapping[str, Any]) -> None:
        cache.invalidate(PAINTS)
        cache.invalidate(LISTS)
