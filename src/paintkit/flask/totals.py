"""The totals of all primitives of an app: as plain data, and as families of numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from paintkit.machines.breaker import CircuitState
from paintkit.monitor.exposition import Family, Kind, Sample
from paintkit.monitor.performance import PerformanceMonitor

__all__ = ["Parts", "collect", "families", "named"]


class Parts(NamedTuple):
    """What an app uses of each kind, by a name that is its own within the kind."""

    databases: Mapping[str, Any]
    caches: Mapping[str, Any]
    recoveries: Mapping[str, Any]
    buses: Mapping[str, Any]
    batchers: Mapping[str, Any]
    components: Mapping[str, Any]
    monitors: Mapping[str, Any]


class _Total(NamedTuple):
    """How one entry of a primitive's statistics is exported."""

    key: str
    name: str
    kind: Kind
    help: str


_CACHE = (
    _Total("entries", "paintkit_cache_entries", "gauge", "Entries held."),
    _Total("estimated_size", "paintkit_cache_estimated_bytes", "gauge", "Estimated memory of the values."),
    _Total("hits", "paintkit_cache_hits_total", "counter", "Lookups that found a fresh value."),
    _Total("misses", "paintkit_cache_misses_total", "counter", "Lookups that did not."),
    _Total("joined", "paintkit_cache_joined_total", "counter", "Misses that waited for a load under way."),
    _Total("loads", "paintkit_cache_loads_total", "counter", "Loads that succeeded."),
    _Total("load_errors", "paintkit_cache_load_errors_total", "counter", "Loads that failed."),
    _Total("load_time", "paintkit_cache_load_seconds_total", "counter", "Time spent in loads."),
    _Total("evictions", "paintkit_cache_evictions_total", "counter", "Entries dropped for room."),
    _Total("expirations", "paintkit_cache_expirations_total", "counter", "Entries dropped by age."),
    _Total(
        "invalidations", "paintkit_cache_invalidations_total", "counter", "Invalidations that took effect."
    ),
)
_BREAKER = (
    _Total("failures", "paintkit_circuit_breaker_failures_total", "counter", "Failures recorded."),
    _Total("rejected", "paintkit_circuit_breaker_rejected_total", "counter", "Calls refused."),
    _Total("opened", "paintkit_circuit_breaker_opened_total", "counter", "Times that it opened."),
)
_POLICY = (
    _Total("running", "paintkit_policy_calls_running", "gauge", "Calls that hold a permit."),
    _Total("waiting", "paintkit_policy_calls_waiting", "gauge", "Calls that wait for a permit."),
    _Total("waited", "paintkit_policy_waited_total", "counter", "Calls that waited for their turn."),
    _Total("rejected", "paintkit_policy_rejected_total", "counter", "Calls refused."),
)
_RETRY = (_Total("retries", "paintkit_retries_total", "counter", "Attempts beyond the first."),)
_BUS = (
    _Total("published", "paintkit_events_published_total", "counter", "Events published."),
    _Total("deferred", "paintkit_events_deferred_total", "counter", "Events that waited for a commit."),
    _Total("delivered", "paintkit_events_delivered_total", "counter", "Calls of handlers that returned."),
    _Total("failed", "paintkit_events_failed_total", "counter", "Calls of handlers that raised."),
)
_BATCHER = (
    _Total("requests", "paintkit_batch_requests_total", "counter", "Requests accepted."),
    _Total("batches", "paintkit_batches_total", "counter", "Calls of the batch function."),
    _Total("failed_batches", "paintkit_batches_failed_total", "counter", "Batches that failed as a whole."),
    _Total(
        "failed_requests",
        "paintkit_batch_requests_failed_total",
        "counter",
        "Requests that ended with an error.",
    ),
    _Total("waiting", "paintkit_batch_requests_waiting", "gauge", "Requests that wait for their batch."),
    _Total("running", "paintkit_batches_running", "gauge", "Batches that run."),
)
_COMPONENTS = (
    _Total("builds", "paintkit_component_builds_total", "counter", "Components built."),
    _Total("build_failures", "paintkit_component_build_failures_total", "counter", "Factories that raised."),
    _Total("closes", "paintkit_component_closes_total", "counter", "Components closed."),
    _Total("close_failures", "paintkit_component_close_failures_total", "counter", "Closings that raised."),
)
_DATABASE = (
    _Total("capacity", "paintkit_db_connections_max", "gauge", "Connections that the pool may open."),
    _Total("invalid", "paintkit_db_connections_invalid_total", "counter", "Connections found broken."),
)
_CONNECTION_STATES = {"checked_out": "used", "checked_in": "idle"}


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


def families(parts: Parts) -> list[Family]:
    """Return all totals as families; a number that a primitive does not know is left out."""
    stats = collect(parts)
    result = _connections(stats["databases"]) + _of(_DATABASE, "database", stats["databases"])
    result += _of(_CACHE, "cache", stats["caches"])
    for name, recovery in stats["recoveries"].items():
        fixed = {"recovery": name}
        result += _of(_RETRY, "policy", recovery["retries"], fixed)
        result += _of(_BREAKER, "policy", recovery["circuit_breakers"], fixed)
        result.append(_states(recovery["circuit_breakers"], fixed))
        result += _of(_POLICY, "policy", recovery.get("policies", {}), fixed)
    result += _of(_BUS, "bus", stats["buses"]) + _of(_BATCHER, "batcher", stats["batchers"])
    result += _of(_COMPONENTS, "components", stats["components"])
    return result + _measurements(parts.monitors)


def _of(
    totals: Iterable[_Total],
    label: str,
    stats: Mapping[str, Mapping[str, Any]],
    fixed: Mapping[str, str] = MappingProxyType({}),
) -> list[Family]:
    return [
        Family(
            total.name,
            total.kind,
            total.help,
            tuple(
                Sample({**fixed, label: name}, values[total.key])
                for name, values in stats.items()
                if values.get(total.key) is not None
            ),
        )
        for total in totals
    ]


def _connections(stats: Mapping[str, Mapping[str, Any]]) -> list[Family]:
    samples = tuple(
        Sample({"database": name, "state": state}, values[key])
        for name, values in stats.items()
        for key, state in _CONNECTION_STATES.items()
        if values.get(key) is not None
    )
    return [Family("paintkit_db_connections", "gauge", "Open connections by state.", samples)]


def _states(breakers: Mapping[str, Mapping[str, Any]], fixed: Mapping[str, str]) -> Family:
    samples = tuple(
        Sample({**fixed, "policy": name, "state": state.value}, one["state"] == state.value)
        for name, one in breakers.items()
        for state in CircuitState
    )
    return Family(
        "paintkit_circuit_breaker_state", "gauge", "1 for the state that it is in, else 0.", samples
    )


def _measurements(monitors: Mapping[str, Any]) -> list[Family]:
    if not monitors:
        return []
    together = PerformanceMonitor()
    for monitor in monitors.values():
        together.merge(monitor.snapshot())
    return together.families()
