"""Resilience and performance primitives for database-backed Python applications, as typed decorators that compose.

Everything here is loaded when it is first used: `import paintkit` by itself costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paintkit import backoff as backoff
    from paintkit._pipeline import pipeline as pipeline
    from paintkit.ambient import remaining as remaining
    from paintkit.batching.batcher import RequestBatcher as RequestBatcher
    from paintkit.budget import RetryBudget as RetryBudget
    from paintkit.cache.eviction import S3FIFOCache as S3FIFOCache
    from paintkit.cache.manager import CacheManager as CacheManager
    from paintkit.components import ComponentManager as ComponentManager
    from paintkit.errors import (
        BatcherClosedError as BatcherClosedError,
    )
    from paintkit.errors import (
        BatchReplyError as BatchReplyError,
    )
    from paintkit.errors import (
        BulkheadFullError as BulkheadFullError,
    )
    from paintkit.errors import (
        CallTimeoutError as CallTimeoutError,
    )
    from paintkit.errors import (
        CircuitOpenError as CircuitOpenError,
    )
    from paintkit.errors import (
        CommitOutcomeUnknownError as CommitOutcomeUnknownError,
    )
    from paintkit.errors import (
        ComponentCycleError as ComponentCycleError,
    )
    from paintkit.errors import (
        DeadlineExceededError as DeadlineExceededError,
    )
    from paintkit.errors import (
        EventNotSentError as EventNotSentError,
    )
    from paintkit.errors import (
        IdempotencyKeyReusedError as IdempotencyKeyReusedError,
    )
    from paintkit.errors import (
        NoUnitOfWorkError as NoUnitOfWorkError,
    )
    from paintkit.errors import (
        PaintkitError as PaintkitError,
    )
    from paintkit.errors import (
        PoolTimeoutError as PoolTimeoutError,
    )
    from paintkit.errors import (
        QueryGuardError as QueryGuardError,
    )
    from paintkit.errors import (
        RateLimitedError as RateLimitedError,
    )
    from paintkit.errors import (
        RejectedError as RejectedError,
    )
    from paintkit.errors import (
        UnexpectedRollbackError as UnexpectedRollbackError,
    )
    from paintkit.errors import (
        UnknownComponentError as UnknownComponentError,
    )
    from paintkit.events.bus import EventBus as EventBus
    from paintkit.http import retry_after_from as retry_after_from
    from paintkit.machines.breaker import CircuitState as CircuitState
    from paintkit.monitor.performance import PerformanceMonitor as PerformanceMonitor
    from paintkit.observations import Observation as Observation
    from paintkit.observations import observe as observe
    from paintkit.policies._bulkhead import bulkhead as bulkhead
    from paintkit.policies._circuit_breaker import circuit_breaker as circuit_breaker
    from paintkit.policies._deadline import deadline as deadline
    from paintkit.policies._fallback import fallback as fallback
    from paintkit.policies._hedge import hedge as hedge
    from paintkit.policies._rate_limit import rate_limit as rate_limit
    from paintkit.policies._retry import retry as retry
    from paintkit.policies._timeout import timeout as timeout
    from paintkit.predicates import caused_by as caused_by
    from paintkit.recovery import ErrorRecoveryManager as ErrorRecoveryManager

__version__ = "0.1.0"

_HOMES = {
    "CacheManager": "cache.manager",
    "CircuitState": "machines.breaker",
    "ComponentManager": "components",
    "ErrorRecoveryManager": "recovery",
    "EventBus": "events.bus",
    "Observation": "observations",
    "PerformanceMonitor": "monitor.performance",
    "RequestBatcher": "batching.batcher",
    "caused_by": "predicates",
    "circuit_breaker": "policies._circuit_breaker",
    "RetryBudget": "budget",
    "S3FIFOCache": "cache.eviction",
    "timeout": "policies._timeout",
    "rate_limit": "policies._rate_limit",
    "pipeline": "_pipeline",
    "hedge": "policies._hedge",
    "fallback": "policies._fallback",
    "deadline": "policies._deadline",
    "bulkhead": "policies._bulkhead",
    "observe": "observations",
    "remaining": "ambient",
    "retry": "policies._retry",
    "retry_after_from": "http",
} | dict.fromkeys(
    (
        "BatchReplyError",
        "BatcherClosedError",
        "BulkheadFullError",
        "CallTimeoutError",
        "CircuitOpenError",
        "CommitOutcomeUnknownError",
        "ComponentCycleError",
        "DeadlineExceededError",
        "EventNotSentError",
        "IdempotencyKeyReusedError",
        "NoUnitOfWorkError",
        "PaintkitError",
        "PoolTimeoutError",
        "QueryGuardError",
        "RateLimitedError",
        "RejectedError",
        "UnexpectedRollbackError",
        "UnknownComponentError",
    ),
    "errors",
)

__all__ = sorted([*_HOMES, "__version__", "backoff"])  # noqa: PLE0605 - a list, as it has to be


def __getattr__(name: str) -> Any:
    if name == "backoff":
        return _module("backoff")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'paintkit' has no attribute {name!r}")
    value = getattr(_module(home), name)
    globals()[name] = value  # found at once from now on
    return value


def _module(home: str) -> Any:
    # As `importlib.import_module` does, without loading a package for it.
    return __import__(f"paintkit.{home}", fromlist=["_"])


def __dir__() -> list[str]:
    return __all__
