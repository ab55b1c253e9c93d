"""Whether an app can serve: asks what it depends on, and waits no longer than it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from paintkit import clock

if TYPE_CHECKING:
    from flask import Flask

    from paintkit import ErrorRecoveryManager
    from paintkit.sqlalchemy import DatabaseConnectionManager

__all__ = ["Health", "Probe", "Report", "broken_circuits", "database_fault"]

Status = Literal["ok", "degraded", "unavailable"]

_log: Final = logging.getLogger("paintkit.flask")


class Report(TypedDict):
    """What `/health/ready` says.

    Attributes:
        status: The worst of what follows.
        databases: `ok` or `unavailable`, by name.
        checks: `ok` or `degraded`, by name.
        circuit_breakers: `degraded`, by name, for those that refuse calls now.
    """

    status: Status
    databases: dict[str, Status]
    checks: dict[str, Status]
    circuit_breakers: dict[str, Status]


class Probe:
    """Asks one thing in a thread of its own, one question at a time: what never answers holds one thread, not more.

    Args:
        app: The question is asked in a context of this app.
        name: What is asked.
        ask: Returns if all is well and raises an `Exception` if not.
    """

    def __init__(self, app: Flask, name: str, ask: Callable[[], object]) -> None:
        self.name = name
        self._app = app
        self._ask = ask
        self._answered = threading.Condition()  # guards the two below
        self._asking: threading.Thread | None = None
        self._is_well = False

    def start(self) -> None:
        """Ask, unless the last question is still open; a forked child does not inherit an open question."""
        with self._answered:
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(
                    target=self._run, name=f"paintkit asks {self.name}", daemon=True
                )
                self._asking.start()

    def is_well(self, due: float) -> bool:
        """Return whether all is well; no answer until the instant `due` means no."""
        with self._answered:
            while self._asking is not None:
                rest = due - clock.now()
                if rest <= 0:
                    _log.warning("health: %s does not answer in time", self.name)
                    return False
                clock.wait(self._answered, rest)
            return self._is_well

    def _run(self) -> None:
        is_well = False
        try:
            with self._app.app_context():
                self._ask()
            is_well = True
        except BaseException as error:  # noqa: BLE001 - that it fails is the answer; this thread ends here anyway
            _log.warning("health: %s fails: %s", self.name, error)
        finally:
            with self._answered:
                self._is_well = is_well
                self._asking = None
                self._answered.notify_all()


class Health:
    """What an app depends on.

    Args:
        essential: Without these it cannot serve.
        optional: Without these it serves less.
        broken: Returns the names of circuit breakers that let nothing through.
        timeout: How many seconds all answers together may take.
    """

    def __init__(
        self,
        essential: Sequence[Probe],
        optional: Sequence[Probe],
        broken: Callable[[], Iterable[str]],
        timeout: float,
    ) -> None:
        self._essential = essential
        self._optional = optional
        self._broken = broken
        self._timeout = timeout

    def report(self) -> Report:
        """Ask all at once and return what they say."""
        due = clock.now() + self._timeout
        for probe in (*self._essential, *self._optional):
            probe.start()
        databases: dict[str, Status] = {
            probe.name: "ok" if probe.is_well(due) else "unavailable" for probe in self._essential
        }
        checks: dict[str, Status] = {
            probe.name: "ok" if probe.is_well(due) else "degraded" for probe in self._optional
        }
        breakers: dict[str, Status] = dict.fromkeys(self._broken(), "degraded")
        return {
            "status": _worst({*databases.values(), *checks.values(), *breakers.values()}),
            "databases": databases,
            "checks": checks,
            "circuit_breakers": breakers,
        }


def _worst(found: set[Status]) -> Status:
    if "unavailable" in found:
        return "unavailable"
    return "degraded" if "degraded" in found else "ok"


def database_fault(db: DatabaseConnectionManager) -> Callable[[], None]:
    """Return a question for a `Probe`: can the database be reached?"""

    def ask() -> None:
        for finding in db.check():
            if finding.level == "error" and finding.topic == "connection":
                raise ConnectionError(finding.message)

    return ask


def broken_circuits(recoveries: Iterable[ErrorRecoveryManager]) -> list[str]:
    """Return the names of the circuit breakers that refuse calls now."""
    return [
        name
        for recovery in recoveries
        for name, breaker in recovery.get_stats()["circuit_breakers"].items()
        if breaker["state"] in {"open", "half_open", "forced_open"}
    ]
