"""What would this policy do in that outage? A simulation under virtual time answers before production does."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from paintkit import _arguments
from paintkit.errors import RejectedError
from paintkit.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from paintkit._wrap import Policy
    from paintkit.testing._outage import Outage
    from paintkit.typing import Seconds

__all__ = ["Second", "SimulatedOutageError", "Simulation", "simulate"]


class SimulatedOutageError(ConnectionError):
    """What the simulated dependency raises while it is down."""


class Second(NamedTuple):
    """One second of a simulation.

    Attributes:
        requests: How many requests began in it.
        calls: How many calls reached the dependency.
        failed: How many requests that began in it failed in the end, refusals included.
    """

    requests: int
    calls: int
    failed: int


class Simulation(NamedTuple):
    """What came of it.

    Attributes:
        requests: How many requests were made of the policy.
        calls: How many calls reached the dependency.
        succeeded: How many requests got an answer.
        failed: How many got the dependency's error, or ran out of time.
        rejected: How many were refused by the policy, without a call at the end.
        amplification: Calls per request over the whole simulation.
        peak_amplification: The most calls in one second, per request of an average second.
        p50: The median of the requests' durations, in seconds.
        p95: Exceeded by one request in twenty.
        p99: Exceeded by one request in a hundred.
        slowest: The longest duration.
        recovery_time: Seconds from the end of the outage to the beginning of the last request that failed after it; 0 if
            none did.
        seconds: The same, second by second.
    """

    requests: int
    calls: int
    succeeded: int
    failed: int
    rejected: int
    amplification: float
    peak_amplification: float
    p50: float
    p95: float
    p99: float
    slowest: float
    recovery_time: float
    seconds: tuple[Second, ...]

    def __str__(self) -> str:
        rows = {
            "requests": f"{self.requests}: {self.succeeded} answered, {self.failed} failed, {self.rejected} rejected",
            "calls": f"{self.calls}: {self.amplification:.2f} per request, at the peak {self.peak_amplification:.2f}",
            "duration": f"p50 {self.p50:.3g} s, p95 {self.p95:.3g} s, p99 {self.p99:.3g} s, slowest {self.slowest:.3g} s",
            "recovery": f"{self.recovery_time:.3g} s after the outage",
        }
        return "\n".join(f"{name:<9} {text}" for name, text in rows.items())

    def plot(self, path: str | Path, *, title: str = "") -> None:
        """Draw requests, calls and failures by second.

        Args:
            path: Where to; its ending (`.svg`, `.png`) tells the format.
            title: What to write above it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("a plot needs matplotlib: pip install 'paintkit[docs]'") from error

        figure = Figure(figsize=(8, 3), layout="constrained")
        axes = figure.subplots()
        for name in Second._fields:
            axes.step(
                range(len(self.seconds)), [getattr(second, name) for second in self.seconds], label=name
            )
        axes.set(xlabel="seconds", ylabel="per second", title=title)
        axes.legend(frameon=False)
        figure.savefig(path)


class _Run:
    """The simulated dependency, its clients, and what they see."""

    def __init__(
        self, policy: Policy, outage: Outage, clock: FakeClock, latency: float, rng: random.Random
    ) -> None:
        self._policy = policy
        self._outage = outage
        self._clock = clock
        self._latency = latency
        self._rng = rng
        self.calls: list[float] = []
        self.results: list[tuple[float, float, Exception | None]] = []  # began, duration, error

    async def all(self, arrivals: list[float]) -> None:
        async with asyncio.TaskGroup() as clients:
            for arrival in arrivals:
                await asyncio.sleep(max(0.0, arrival - self._clock.now()))
                clients.create_task(self._request())

    async def _request(self) -> None:
        began = self._clock.now()
        try:
            await self._policy.acall(self._dependency)
        except Exception as error:  # noqa: BLE001 - what a client sees is the result
            self.results.append((began, self._clock.now() - began, error))
        else:
            self.results.append((began, self._clock.now() - began, None))

    async def _dependency(self) -> None:
        self.calls.append(self._clock.now())
        await asyncio.sleep(self._latency * self._rng.uniform(0.5, 1.5))
        if self._outage.is_down(self._clock.now()):
            raise SimulatedOutageError("simulated outage")


def simulate(
    policy: Callable[[], Policy],
    outage: Outage,
    *,
    rate: float = 20.0,
    duration: Seconds | None = None,
    latency: Seconds = 0.05,
    seed: int = 0,
) -> Simulation:
    """Run clients against a dependency that goes down, under a policy and virtual time.

    Requests arrive at random (a Poisson process). The dependency answers after a random time around `latency`; while it
    is down it raises `SimulatedOutageError`, a `ConnectionError`, after as long. The same seed gives the same result,
    as far as the policy's own jitter has a seed, too.

    Args:
        policy: Makes the policy: a function, so that its state belongs to the virtual clock.
        outage: When the dependency is down; virtual time begins at 0.
        rate: Requests per second (> 0) on average.
        duration: Seconds (> 0) or a `timedelta` in which requests arrive; a minute after the outage by default.
        latency: The dependency's average answer time in seconds (>= 0), or a `timedelta`.
        seed: Where the randomness begins.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from paintkit import circuit_breaker
        >>> from paintkit.testing import Outage
        >>> result = simulate(lambda: circuit_breaker(failure_threshold=5), Outage(((10.0, 40.0),)))
        >>> result.calls < result.requests
        True
    """
    per_second = _arguments.number("rate", rate, above=0.0, most=10_000.0)
    span = outage.ends + 60.0 if duration is None else _arguments.seconds("duration", duration)
    answer_time = _arguments.seconds("latency", latency, zero=True)
    rng = random.Random(_arguments.count("seed", seed, least=0))  # noqa: S311 - a simulation
    with FakeClock() as clock:
        run = _Run(_arguments.callback("policy", policy)(), outage, clock, answer_time, rng)
        clock.run(run.all(_arrivals(per_second, span, rng)))
    return _report(run, outage, span, per_second)


def _arrivals(rate: float, span: float, rng: random.Random) -> list[float]:
    arrivals, at = [], rng.expovariate(rate)
    while at < span:
        arrivals.append(at)
        at += rng.expovariate(rate)
    return arrivals


def _report(run: _Run, outage: Outage, span: float, rate: float) -> Simulation:
    durations = sorted(duration for _, duration, _ in run.results) or [0.0]
    failures = [(began, error) for began, _, error in run.results if error is not None]
    rejected = sum(isinstance(error, RejectedError) for _, error in failures)
    seconds = _by_second(run, span)
    late = [began - outage.ends for began, _ in failures if began > outage.ends]
    requests = len(run.results)
    return Simulation(
        requests=requests,
        calls=len(run.calls),
        succeeded=requests - len(failures),
        failed=len(failures) - rejected,
        rejected=rejected,
        amplification=len(run.calls) / max(requests, 1),
        peak_amplification=max((second.calls for second in seconds), default=0) / rate,
        p50=_quantile(durations, 0.50),
        p95=_quantile(durations, 0.95),
        p99=_quantile(durations, 0.99),
        slowest=durations[-1],
        recovery_time=max(late, default=0.0),
        seconds=seconds,
    )


def _by_second(run: _Run, span: float) -> tuple[Second, ...]:
    last = max([span, *run.calls])
    counts: list[Any] = [[0, 0, 0] for _ in range(int(last) + 1)]
    for began, _, error in run.results:
        counts[int(began)][0] += 1
        counts[int(began)][2] += error is not None
    for at in run.calls:
        counts[int(at)][1] += 1
    return tuple(Second(*count) for count in counts)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
