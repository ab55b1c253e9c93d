"""A registry of named policies: retries and circuit breakers that an application can find, count and show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from paintkit import _arguments, backoff
from paintkit._locks import new_lock
from paintkit._words import counted
from paintkit._wrap import Policy, name_of, never_bare
from paintkit.policies._circuit_breaker import CircuitBreaker, circuit_breaker
from paintkit.policies._retry import Retry, retry

if TYPE_CHECKING:
    from paintkit.telemetry import Source
    from paintkit.typing import Decorator, ErrorMatch, P, R, Seconds

__all__ = ["ErrorRecoveryManager"]

PolicyT = TypeVar("PolicyT", bound=Policy)
AnyPolicy = TypeVar("AnyPolicy", bound=Policy)

# A name for every call, not for every dependency, would grow for ever.
_MOST = 1_000

_LONGEST_DELAY = 60.0


class ErrorRecoveryManager:
    """Makes retries and circuit breakers by name, and keeps them.

    A name stands for one policy: asking for it again with the same options gives the same policy, so that several
    functions can share one circuit breaker; asking with other options is an error.

    Example:
        >>> recovery = ErrorRecoveryManager()
        >>> @recovery.with_retry(max_retries=3, exceptions=(ConnectionError, TimeoutError))
        ... @recovery.circuit_breaker(failure_threshold=5, name="database")
        ... def load() -> str:
        ...     return "rows"
        >>> load()
        'rows'
        >>> recovery.circuit_breakers["database"].state
        <CircuitState.CLOSED: 'closed'>
    """

    def __init__(self) -> None:
        self._retries: _Registry[Retry] = _Registry("retry")
        self._breakers: _Registry[CircuitBreaker] = _Registry("circuit breaker")
        self._others: _Registry[Policy] = _Registry("policy")

    @property
    def circuit_breakers(self) -> Mapping[str, CircuitBreaker]:
        """The circuit breakers by name, read-only and live."""
        return self._breakers.policies

    @property
    def retries(self) -> Mapping[str, Retry]:
        """The retry policies by name, read-only and live."""
        return self._retries.policies

    @property
    def retry_counts(self) -> dict[str, int]:
        """How many retries each policy has made so far, by name."""
        return {name: policy.retries for name, policy in self.retries.items()}

    @never_bare("parentheses, even without options", "@recovery.with_retry()", method=True)
    def with_retry(
        self,
        max_retries: int = 3,
        backoff_base: Seconds = 1,
        exceptions: ErrorMatch = (Exception,),
        *,
        name: str | None = None,
    ) -> Decorator:
        """Return a decorator that retries with exponential back-off and full jitter, up to a minute.

        Args:
            max_retries: How many attempts may follow the first (>= 0): 3 are 4 attempts in all.
            backoff_base: The ceiling of the first delay, in seconds; 0 does not wait at all.
            exceptions: What is worth another attempt: types or a predicate. Narrow it: by default every `Exception` is
                retried, a bug as well as an outage.
            name: The name of the policy; the function's module and qualified name by default.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range, or `name` stands for a policy with other options.
        """
        attempts = _arguments.count("max_retries", max_retries, least=0) + 1
        base = _arguments.seconds("backoff_base", backoff_base, zero=True, most=backoff.LONGEST_DELAY)
        _arguments.errors("exceptions", exceptions)
        schedule = backoff.exponential(base, cap=max(base, _LONGEST_DELAY)) if base else backoff.constant(0)

        def make(label: str) -> Retry:
            return retry(on=exceptions, attempts=attempts, backoff=schedule, name=label)

        options = {"max_retries": max_retries, "backoff_base": base, "exceptions": exceptions}
        return self._retries.decorator(name, options, make)

    @never_bare("parentheses, even without options", "@recovery.circuit_breaker()", method=True)
    def circuit_breaker(
        self,
        failure_threshold: int = 5,
        recovery_timeout: Seconds = 60,
        *,
        name: str | None = None,
        probes: int = 3,
        record: ErrorMatch | None = None,
        ignore: ErrorMatch | None = None,
    ) -> Decorator:
        """Return a decorator that protects with the circuit breaker of that name.

        Args:
            failure_threshold: Failures in a row that open the circuit (>= 1).
            recovery_timeout: Seconds (> 0) or a `timedelta` until the first probe.
            name: The name of the policy, best that of the dependency; the function's module and qualified name by default.
            probes: How many probes have to succeed to close the circuit (>= 1).
            record: Which exceptions count as failures; all by default.
            ignore: Which exceptions say nothing about the dependency.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range, or `name` stands for a policy with other options.
        """
        options: dict[str, Any] = {
            "failure_threshold": _arguments.count("failure_threshold", failure_threshold),
            "recovery_timeout": _arguments.seconds("recovery_timeout", recovery_timeout),
            "probes": probes,
            "record": record,
            "ignore": ignore,
        }
        # A mistake is told here, at the call, not when a function is decorated.
        circuit_breaker("validation", **options)

        def make(label: str) -> CircuitBreaker:
            return circuit_breaker(label, **options)

        return self._breakers.decorator(name, options, make)

    def add(self, policy: AnyPolicy) -> AnyPolicy:
        """Keep another named policy (a bulkhead, a rate limit, …) with the rest, for pages and the command line.

        Args:
            policy: Any policy with a name of its own.

        Returns:
            The policy, so that it can be made and added in one line.

        Raises:
            TypeError: It is no policy.
            ValueError: Another policy has that name.

        Example:
            >>> recovery = ErrorRecoveryManager()
            >>> from paintkit import bulkhead
            >>> renderer = recovery.add(bulkhead(2, name="renderer"))
            >>> recovery.policies["renderer"] is renderer
            True
        """
        if not isinstance(policy, Policy):
            raise TypeError(f"policy must be a policy, such as bulkhead(8), not {policy!r}")
        self._others.keep(policy)
        return policy

    @property
    def policies(self) -> Mapping[str, Policy]:
        """The policies that were added, by name, read-only and live."""
        return self._others.policies

    def get_stats(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return plain numbers and names for pages and exporters: `{"retries": …, "circuit_breakers": …, "policies": …}`, by policy."""
        return {
            "retries": {name: {"retries": policy.retries} for name, policy in self.retries.items()},
            "circuit_breakers": {
                name: {**policy.metrics()._asdict(), "state": policy.state.value}
                for name, policy in self.circuit_breakers.items()
            },
            "policies": {name: _metrics(policy) for name, policy in self.policies.items()},
        }

    def telemetry(self) -> Iterable[Source]:
        """Return its policies, for exporters."""
        return (*self.retries.values(), *self.circuit_breakers.values(), *self.policies.values())

    def __repr__(self) -> str:
        number = len(self.retries) + len(self.circuit_breakers) + len(self.policies)
        return f"<ErrorRecoveryManager: {counted(number, 'policy', 'policies')}>"


def _metrics(policy: Policy) -> dict[str, Any]:
    """Plain numbers of whichever policy; one that counts nothing shows none."""
    metrics = getattr(policy, "metrics", None)
    return dict(metrics()._asdict()) if callable(metrics) else {}


class _Registry(Generic[PolicyT]):
    """Policies of one kind by name, each with the options that made it."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._options: dict[str, Mapping[str, object]] = {}
        self._policies: dict[str, PolicyT] = {}
        self._lock = new_lock()  # guards both
        self.policies: Mapping[str, PolicyT] = MappingProxyType(self._policies)

    def decorator(
        self, name: str | None, options: Mapping[str, object], make: Callable[[str], PolicyT]
    ) -> Decorator:
        """Return a decorator whose policy is found, or made, when the name is known: now, or from the function."""
        if name is not None:
            return self._policy(_arguments.label("name", name), options, make)

        def decorate(fn: Callable[P, R], /) -> Callable[P, R]:
            return self._policy(name_of(fn), options, make)(fn)

        return decorate

    def _policy(self, name: str, options: Mapping[str, object], make: Callable[[str], PolicyT]) -> PolicyT:
        with self._lock:
            if name not in self._policies:
                self._check_room()
                self._policies[name], self._options[name] = make(name), options
            elif (known := self._options[name]) != options:
                other = [option for option in options if known[option] != options[option]]
                has = ", ".join(f"{option}={known[option]!r}" for option in other)
                asked = ", ".join(f"{option}={options[option]!r}" for option in other)
                raise ValueError(
                    f"the {self._kind} {name!r} exists with {has}, not {asked}; use the same options or another name"
                )
            return self._policies[name]

    def keep(self, policy: PolicyT) -> None:
        """Keep a policy that was made elsewhere under its own name."""
        with self._lock:
            if self._policies.get(policy.name, policy) is not policy:
                raise ValueError(
                    f"another {self._kind} is called {policy.name!r}: give this one a name of its own"
                )
            self._check_room()
            self._policies[policy.name] = policy

    def _check_room(self) -> None:
        if len(self._policies) >= _MOST:
            raise ValueError(
                f"there are {_MOST} named policies: name them after dependencies, not after calls"
            )
