"""Several policies as one: in a stated order, in one wrapper, with an account of what they come to.

A pipeline writes the wrappers of its policies into one function, each at the place of the call of the one around it. Its
happy path has one frame however many policies it holds. What follows a failure in one of them runs over the ordinary
wrapper of those inside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast, overload

from paintkit._words import counted
from paintkit._wrap import Colour, Cost, Policy, Templates, colour_of, wrap
from paintkit.policies._bulkhead import Bulkhead
from paintkit.policies._circuit_breaker import CircuitBreaker
from paintkit.policies._deadline import Deadline
from paintkit.policies._fallback import Fallback
from paintkit.policies._retry import Retry
from paintkit.policies._timeout import Timeout

if TYPE_CHECKING:
    from paintkit.telemetry import Source
    from paintkit.typing import AnyCallable, P, R

__all__ = ["Explanation", "Pipeline", "pipeline"]

D = TypeVar("D")

# The one statement of a template at whose place the next policy is written.
_CALL = re.compile(r"^( *)\$result = (?:await )?\$call\n", re.MULTILINE)
_RETURN = "    return $result\n"


class Explanation(NamedTuple):
    """What a pipeline comes to.

    Attributes:
        order: The policies, outermost first, as text.
        calls: How often the protected function runs at worst.
        seconds: How long a caller waits at worst; infinite if nothing bounds it. Deadlines and cooperative timeouts bound
            a plain function only where it waits within paintkit, for nothing interrupts it elsewhere.
        warnings: What is probably not meant, each with its fix.
    """

    order: tuple[str, ...]
    calls: int
    seconds: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        wait = "without bound" if math.isinf(self.seconds) else f"up to {self.seconds:.3g} s"
        lines = [f"{'  ' * depth}{policy}" for depth, policy in enumerate(self.order)]
        lines.append(f"at worst {counted(self.calls, 'call')}, {wait}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


class Pipeline(Policy):
    """Policies around each other, the first outermost; made by `pipeline`."""

    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self.name = "pipeline"
        #: The policies, outermost first.
        self.policies = policies

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Return `fn` protected by all policies, with the same signature.

        Raises:
            TypeError: One of the policies cannot protect `fn`.
        """
        return cast("Callable[P, R]", _fused(self.policies, fn))

    def describe(self) -> tuple[str, ...]:
        """Return the kinds of the policies, outermost first, for a test of what was composed.

        Example:
            >>> from paintkit import retry, timeout
            >>> pipeline(retry(on=OSError), timeout(2.0)).describe()
            ('retry', 'timeout')
        """
        return tuple(policy._templates.name for policy in self.policies)

    def explain(self) -> Explanation:
        """Return the order, the worst case in calls and seconds, and what is probably not meant.

        Example:
            >>> from paintkit import backoff, deadline, retry, timeout
            >>> print(pipeline(
            ...     deadline(5.0), retry(on=OSError, attempts=4, backoff=backoff.constant(1.0)), timeout(2.0)
            ... ).explain())
            <deadline 5 s>
              <retry 'retry': 4 attempts>
                <timeout 'timeout': 2 s>
            at worst 4 calls, up to 5 s
            warning: 4 attempts of up to 2 s and their delays take 11 s, more than the deadline of 5 s: shorten the timeout
        """
        cost = self.worst_case(Cost(calls=1, seconds=math.inf))
        return Explanation(
            tuple(map(repr, self.policies)), cost.calls, cost.seconds, tuple(_warnings(self.policies))
        )

    def telemetry(self) -> Iterable[Source]:
        """Return its policies, for exporters."""
        return self.policies

    def worst_case(self, cost: Cost) -> Cost:
        """Return what one call costs at worst: each policy's own, from the innermost out."""
        for policy in reversed(self.policies):
            cost = policy.worst_case(cost)
        return cost

    def __repr__(self) -> str:
        return f"<pipeline {' > '.join(self.describe())}>"

    def _helpers(self) -> Mapping[str, Any]:
        return {}


def _fused(policies: tuple[Policy, ...], fn: AnyCallable) -> AnyCallable:
    """Return `fn` under the policies, in one wrapper."""
    colour = colour_of(fn)
    inner = [fn]  # what is inside each policy, innermost first
    for policy in reversed(policies[1:]):
        inner.append(policy(inner[-1]))
    if colour in {Colour.GENERATOR, Colour.ASYNC_GENERATOR} or len(policies) == 1:
        return policies[0](inner[-1])
    body, helpers = _nested(policies, inner[::-1], colour)
    templates = Templates(name="pipeline", blocking=body, asyncio=body)
    return wrap(fn, templates, helpers)


def _nested(
    policies: Iterable[Policy], inner: list[AnyCallable], colour: Colour
) -> tuple[str, dict[str, Any]]:
    """Write each policy's template at the place of the call in the template around it."""
    body, helpers = "", {}
    for depth, (policy, within) in enumerate(zip(policies, inner, strict=True)):
        template = policy._templates.of(colour)
        if template is None:
            policy(within)  # refuses, and says why
            raise TypeError(f"{policy!r} cannot protect a {colour.value} function")
        own = _renamed(template, depth)
        helpers.update({f"{name}_{depth}": helper for name, helper in policy._helpers().items()})
        helpers[f"within_{depth}"] = within
        if body and not _CALL.search(body):
            break  # the policy around calls out of line, and what is inside it with it
        body = _inserted(own, body) if body else own
    return body, helpers


def _renamed(template: str, depth: int) -> str:
    """Give the names of one policy's template their own number; the call, its arguments and the result are shared."""
    template = template.replace("$later", f"$partial($within_{depth}, $arguments)")
    return re.sub(
        r"\$(?!call\b|arguments\b|given\b|result\b|partial\b|fn\b|within_)(\w+)", rf"$\1_{depth}", template
    )


def _inserted(inner: str, outer: str) -> str:
    """Write the inner template at the place of the call in the outer one."""
    lines = inner.removesuffix(_RETURN).splitlines(keepends=True)
    return _CALL.sub(lambda found: "".join(f"{found[1][4:]}{line}" for line in lines), outer)


def _warnings(policies: tuple[Policy, ...]) -> Iterable[str]:
    yield from _about_time(policies)
    retries = [policy for policy in policies if isinstance(policy, Retry)]
    if len(retries) > 1:
        calls = math.prod(policy.worst_case(Cost(calls=1, seconds=0.0)).calls for policy in retries)
        yield f"retries inside retries multiply to {calls} calls: keep one of them"
    for policy in policies:
        outside_retry = any(isinstance(other, Retry) for other in policies[policies.index(policy) + 1 :])
        if outside_retry and isinstance(policy, CircuitBreaker):
            yield "the circuit breaker is outside the retry and sees one result for all attempts: put it inside"
        if outside_retry and isinstance(policy, Bulkhead):
            yield "the bulkhead is outside the retry and holds its permit while the retry sleeps: put it inside"
        if outside_retry and isinstance(policy, Timeout):
            yield "the timeout is outside the retry and bounds all attempts together: use deadline() for that"


def _about_time(policies: tuple[Policy, ...]) -> Iterable[str]:
    """Warn where the attempts cannot fit into the deadline around them."""
    for outer, policy in enumerate(policies):
        if not isinstance(policy, Deadline):
            continue
        inside = policies[outer + 1 :]
        cost = Pipeline(inside).worst_case(Cost(calls=1, seconds=math.inf))
        spans = [timeout.seconds for timeout in inside if isinstance(timeout, Timeout)]
        if spans and policy.seconds < cost.seconds < math.inf and cost.calls > 1:
            yield (
                f"{cost.calls} attempts of up to {min(spans):g} s and their delays take {cost.seconds:.3g} s,"
                f" more than the deadline of {policy.seconds:g} s: shorten the timeout"
            )


class FallbackPipeline(Pipeline, Generic[D]):
    """A pipeline that begins with a fallback, whose type it adds to the function's result."""

    @overload  # type: ignore[override]  # see Fallback
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R | D]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Return `fn` protected by all policies; see `Pipeline`."""
        return super().__call__(fn)


@overload
def pipeline(first: Fallback[D], /, *policies: Policy) -> FallbackPipeline[D]: ...
@overload
def pipeline(*policies: Policy) -> Pipeline: ...
def pipeline(*policies: Policy) -> Pipeline:
    """Return several policies as one; the first is the outermost, as decorators read.

    A good order is: fallback, deadline, retry or hedge, rate limit, bulkhead, circuit breaker, timeout. Then each attempt
    is paid for, refusals never trip the breaker, waiting in a queue does not count as slow, and no permit is held while
    the retry sleeps.

    Args:
        policies: One or more, each at most once; a fallback only in the first place. A pipeline stands for its policies.

    Returns:
        The pipeline: a decorator like each of its policies, with `.call(fn, ...)`, `.acall(fn, ...)`, `.explain()` and
        `.describe()`.

    Raises:
        TypeError: Something is not a policy.
        ValueError: There is none, one stands twice, or a fallback is not the first.

    Example:
        >>> from paintkit import retry, timeout
        >>> @pipeline(retry(on=ConnectionError, attempts=3), timeout(2.0))
        ... async def search(text: str) -> list[str]:
        ...     return [text]
    """
    if not policies:
        raise ValueError("a pipeline needs at least one policy")
    policies = tuple(_flat(policies))
    for place, policy in enumerate(policies):
        if policy in policies[:place]:
            raise ValueError(f"{policy!r} stands twice in the pipeline")
        if place and isinstance(policy, Fallback):
            raise ValueError(
                f"{policy!r} must be the first of the pipeline: it changes the type of the result"
            )
    return FallbackPipeline(policies) if isinstance(policies[0], Fallback) else Pipeline(policies)


def _flat(policies: Iterable[Policy]) -> Iterable[Policy]:
    """Put the policies of a pipeline in its place."""
    for policy in policies:
        if not isinstance(policy, Policy):
            raise TypeError(f"a pipeline is made of policies, such as retry(on=…), not {policy!r}")
        if isinstance(policy, Pipeline):
            yield from policy.policies
        else:
            yield policy
