"""The primitives of an app by kind and name, and their totals as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Parts", "collect", "named"]


class Parts(NamedTuple):
    """What an app uses of each kind, by a name that is its own within the kind."""

    databases: Mapping[str, Any]
    caches: Mapping[str, Any]
    recoveries: Mapping[str, Any]
    buses: Mapping[str, Any]
    batchers: Mapping[str, Any]
    components: Mapping[str, Any]
    monitors: Mapping[str, Any]


def named(kind: str, given: Any, method: str) -> dict[str, Any]:
    """Return one, several or none of a kind by name: their own, made distinct, or else the kind's.

    Raises:
        TypeError: Something among them does not tell its totals.
    """
    if given is None:
        return {}
    parts = [given] if hasattr(given, method) or not isinstance(given, Iterable) else list(given)
    result: dict[str, Any] = {}
    for part in parts:
        if not callable(getattr(part, method, None)):
            raise TypeError(
                f"{kind} must be one or several objects with {method}(), not {type(part).__name__}"
            )
        wish = name = str(getattr(part, "name", kind))
        while name in result:
            name = f"{wish} {len(result) + 1}"
        result[name] = part
    return result


def collect(parts: Parts) -> dict[str, dict[str, Any]]:
    """Return the totals by kind and name."""
    return {
        "databases": {name: db.get_connection_stats() for name, db in parts.databases.items()},
        "monitors": {name: monitor.get_metrics() for name, monitor in parts.monitors.items()},
    } | {
        kind: {name: part.get_stats() for name, part in getattr(parts, kind).items()}
        for kind in ("caches", "recoveries", "buses", "batchers", "components")
    }
