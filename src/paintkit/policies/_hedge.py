"""Hedge: ask again beside a call that is slow, and take the answer that comes first.

The idea and the choice of the 95th percentile are from Dean and Barroso, "The Tail at Scale" (CACM 56, 2013).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, ambient, clock, observations
from paintkit._locks import new_lock
from paintkit._race import AsyncioRace, Race, ThreadRace
from paintkit._runtime import Failure, Outcome, Success, drive
from paintkit._wrap import Cost, Policy, Templates, name_of, never_bare
from paintkit.errors import DeadlineExceededError
from paintkit.machines.hedging import HedgePlan, Quantile

if TYPE_CHECKING:
    from paintkit.budget import RetryBudget
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import ErrorMatch, Predicate, Seconds

__all__ = ["Hedge", "hedge"]

_TEMPLATES = Templates(
    name="hedge",
    blocking="    $result = $race($later).unwrap()\n    return $result\n",
    asyncio="    $result = (await $arace($later)).unwrap()\n    return $result\n",
)


class Hedge(Policy):
    """A hedge; made by `hedge`."""

    _templates = _TEMPLATES

    def __init__(
        self,
        delay: float | Quantile,
        *,
        most: int,
        on: Predicate,
        budget: RetryBudget | None,
        name: str | None,
    ) -> None:
        self._delay = delay
        self._most = most
        self._on = on
        self._budget = budget
        self._given_name = name
        self.name = name or "hedge"
        self._lock = new_lock()  # guards the quantile and _hedges
        self._hedges = 0

    @property
    def hedges(self) -> int:
        """How many tries beside the first this policy has started, over all calls."""
        return self._hedges

    @property
    def delay(self) -> float | None:
        """Seconds until the next try starts; `None` while too few calls are known for a quantile."""
        return self._delay.value if isinstance(self._delay, Quantile) else self._delay

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters, and its budget."""
        from paintkit import _catalogue

        yield from _catalogue.HEDGE.read(self.name, {"hedges": self._hedges})
        if self._budget is not None:
            yield self._budget

    def worst_case(self, cost: Cost) -> Cost:
        """All tries run, and the last one is as slow as the first."""
        beside = (self._most - 1) * (self.delay or 0.0)
        return Cost(calls=cost.calls * self._most, seconds=cost.seconds + beside)

    def __repr__(self) -> str:
        return f"<hedge {self.name!r}: up to {self._most} tries>"

    def _helpers(self) -> Mapping[str, Any]:
        return {"race": self._race, "arace": self._arace}

    def _race(self, call: Callable[[], Any]) -> Outcome[Any]:
        return drive(self._run(call, ThreadRace()))

    async def _arace(self, call: Callable[[], Any]) -> Outcome[Any]:
        return await self._run(call, AsyncioRace())

    async def _run(self, call: Callable[[], Any], race: Race) -> Outcome[Any]:
        """Start tries as the plan says, and return the first outcome that is worth it."""
        self._check_deadline()
        plan = HedgePlan(self._most, self.delay)
        if self._budget is not None:
            self._budget.deposit()
        started = clock.now()
        self._launch(plan, race, call)
        try:
            outcome = await self._decide(plan, race, call)
        finally:
            await race.leave()
        if isinstance(outcome, Success):  # what fails at once says nothing about how long an answer takes
            self._note(clock.now() - started)
        return outcome

    async def _decide(self, plan: HedgePlan, race: Race, call: Callable[[], Any]) -> Outcome[Any]:
        failures: dict[int, Failure] = {}
        while not plan.is_lost:
            finish = await race.next(self._patience(plan))
            if finish is not None:
                number, outcome = finish
                if not (isinstance(outcome, Failure) and self._on(outcome.error)):
                    return outcome
                failures[number] = outcome
                plan.fail()
            if plan.is_due(clock.now()):
                self._check_deadline()
                self._launch_beside(plan, race, call)
        return failures[min(failures)]

    def _patience(self, plan: HedgePlan) -> float | None:
        """Seconds to wait for the next event.

        Raises:
            DeadlineExceededError: The ambient deadline is over.
        """
        self._check_deadline()
        patience, left = plan.patience(clock.now()), ambient.remaining()
        if left is None:
            return patience
        return left if patience is None else min(patience, left)

    def _check_deadline(self) -> None:
        left = ambient.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceededError(f"{self.name!r} had no answer before the deadline")

    def _launch_beside(self, plan: HedgePlan, race: Race, call: Callable[[], Any]) -> None:
        if self._budget is not None and not self._budget.withdraw():
            plan.stop()  # the first try goes on: a budget bounds extra load, it fails nobody
            return
        with self._lock:
            self._hedges += 1
        observations.emit("hedge.launched", self._given_name or name_of(call), number=plan.launched + 1)
        self._launch(plan, race, call)

    def _launch(self, plan: HedgePlan, race: Race, call: Callable[[], Any]) -> None:
        plan.launch(clock.now())
        race.start(call, plan.launched)

    def _note(self, duration: float) -> None:
        if isinstance(self._delay, Quantile):
            with self._lock:
                self._delay.note(duration)


@never_bare("`idempotent`, your word that a second call does no harm", "@hedge(idempotent=True)")
def hedge(
    delay: Seconds | str = "p95",
    *,
    idempotent: bool,
    tries: int = 2,
    on: ErrorMatch = Exception,
    budget: RetryBudget | None = None,
    name: str | None = None,
) -> Hedge:
    """Return a policy that starts the call again beside itself when it is slow, and takes the first answer.

    A try that fails starts the next at once. If all fail, the first try's error is raised. The losers are cancelled;
    those of a plain function run on in daemon threads, with the caller's context variables.

    Args:
        delay: Seconds (> 0) or a `timedelta` from one try to the next, or a percentile of the latest calls such as
            `"p95"`, which starts no second try before 50 calls are known.
        idempotent: Must be `True`: you confirm that running the call twice does no harm.
        tries: How many may run for one call, the first included (>= 2).
        on: Which failures another try may answer; any other is raised at once.
        budget: Bounds the extra tries, shared with retries of the same dependency; the first try is never refused.
        name: The label in observations; the function's qualified name by default.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.call(fn, ...)`, `.acall(fn, ...)` and `.hedges`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or `idempotent` is not `True`.

    Example:
        >>> @hedge(0.05, idempotent=True)
        ... def lookup(code: str) -> str:
        ...     return code.lower()
        >>> lookup("A1")
        'a1'
    """
    if _arguments.flag("idempotent", idempotent) is not True:
        raise ValueError(
            "a hedge runs a call more than once: pass idempotent=True if that does no harm, or do not hedge"
        )
    return Hedge(
        _delay(delay),
        most=_arguments.count("tries", tries, least=2, most=10),
        on=_arguments.errors("on", on),
        budget=None if budget is None else _arguments.having("budget", budget, "withdraw", "a RetryBudget"),
        name=None if name is None else _arguments.label("name", name),
    )


def _delay(delay: Seconds | str) -> float | Quantile:
    if not isinstance(delay, str):
        return _arguments.seconds("delay", delay)
    percentile = re.fullmatch(r"p([1-9]\d?(?:\.\d+)?)", delay)
    if percentile is None:
        raise ValueError(f'delay must be seconds or a percentile such as "p95", not {delay!r}')
    return Quantile(float(percentile[1]) / 100)
