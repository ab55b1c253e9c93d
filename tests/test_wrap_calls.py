"""Single calls under a policy, and what cannot be called so."""

import asyncio

import pytest

from paintkit import bulkhead, circuit_breaker, fallback, rate_limit, retry, timeout

POLICIES = [
    retry(on=OSError),
    circuit_breaker(failure_threshold=3),
    bulkhead(3),
    rate_limit(1_000),
    fallback(None, on=OSError),
    timeout(5.0, cooperative=True),
]


async def coroutine_function():
    """Do nothing, later."""


def generator_function():
    """Yield once."""
    yield 1


async def async_generator_function():
    """Yield once, later."""
    yield 1


class Awaited:
    """An object whose calls have to be awaited."""

    async def __call__(self):
        """Do nothing, later."""


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize(
    "fn",
    [coroutine_function, Awaited(), generator_function, async_generator_function],
    ids=["async def", "async __call__", "generator", "async generator"],
)
def test_call_refuses_what_would_run_unprotected(policy, fn):
    """What it would return is only a promise of the call."""
    with pytest.raises(TypeError, match="call\\(\\) cannot protect"):
        policy.call(fn)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize(
    "fn", [generator_function, async_generator_function], ids=["generator", "async generator"]
)
def test_acall_refuses_generators(policy, fn):
    """Their items would come when the call is over."""
    with pytest.raises(TypeError, match="decorate"):
        asyncio.run(policy.acall(fn))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_acall_takes_whatever_can_be_awaited(policy):
    """Also from a plain function that returns an awaitable."""

    async def answer():
        return 42

    def plain():
        return answer()

    assert 42 == asyncio.run(policy.acall(plain))
