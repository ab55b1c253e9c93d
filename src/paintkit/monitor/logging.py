"""Observations as log records, for those who read logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from paintkit import _arguments, clock, observations
from paintkit._locks import new_lock
from paintkit._words import counted
from paintkit.monitor.details import on_one_line, plain
from paintkit.monitor.gathering import OTHER

if TYPE_CHECKING:
    from paintkit.observations import Observation, Subscription
    from paintkit.typing import Seconds

__all__ = ["LEVELS", "JsonFormatter", "log_observations"]

#: How loud each kind is; all others are `INFO`.
LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "budget.refused": logging.WARNING,
        "circuit_breaker.state_changed": logging.WARNING,
        "component_manager.build_failed": logging.ERROR,
        "component_manager.close_failed": logging.ERROR,
        "deadline.exceeded": logging.WARNING,
        "event_bus.handler_failed": logging.ERROR,
        "outbox.dead": logging.ERROR,
        "outbox.late": logging.WARNING,
        "outbox.listener_lost": logging.WARNING,
        "outbox.relay_failed": logging.ERROR,
        "outbox.retrying": logging.WARNING,
        "pool.exhausted": logging.ERROR,
        "pool.leaked": logging.WARNING,
        "request_batcher.batch_failed": logging.ERROR,
        "retry.gave_up": logging.WARNING,
        "timeout.expired": logging.WARNING,
    }
)

# More kinds and names than that share one limit.
_MOST: Final = 1_000


def log_observations(
    logger: logging.Logger | str = "paintkit",
    *,
    levels: Mapping[str, int] = LEVELS,
    most: int = 10,
    per: Seconds = 60.0,
) -> Subscription:
    """Write every observation to a logger from now on.

    A record's message is for people; its `kind`, `source`, `details` and `suppressed` are for machines. Names and texts
    are on one line each, without the passwords of URLs.

    Args:
        logger: Where to, or its name.
        levels: The level by kind; a kind that is not there has the level of its primitive (`"retry"`), else `INFO`.
        most: How many records there are of one kind and source (>= 1) within `per`. Those left out are counted: the next
            record says how many.
        per: Seconds (> 0) or a `timedelta`.

    Returns:
        The registration: `.cancel()` it, or use it as a context manager.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.

    Example:
        >>> import logging
        >>> handler = logging.StreamHandler()
        >>> handler.setFormatter(JsonFormatter())
        >>> logging.getLogger("paintkit").addHandler(handler)
        >>> with log_observations(levels={**LEVELS, "retry.waiting": logging.DEBUG}):
        ...     pass
        >>> logging.getLogger("paintkit").removeHandler(handler)
    """
    if isinstance(logger, str):
        logger = logging.getLogger(logger)
    if not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a Logger or a name, not {type(logger).__name__}")
    for kind, level in dict(levels).items():
        _arguments.count(f"levels[{kind!r}]", level, least=0)
    limit = _Limit(_arguments.count("most", most), _arguments.seconds("per", per))
    return observations.observe(_Writer(logger, dict(levels), limit))


class JsonFormatter(logging.Formatter):
    """Formats records as one line of JSON each: `time` (UTC), `level`, `logger`, `message`, and what else there is.

    Beside an observation's `kind`, `source`, `details` and `suppressed` these are `exception`, a traceback as text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("kind", "source", "details", "suppressed"):
            value = getattr(record, name, None)
            if value:
                entry[name] = _finite(value) if isinstance(value, Mapping) else value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _finite(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details with words for the numbers that JSON has none for: a line with a bare NaN is no JSON."""
    return {
        name: value if not isinstance(value, float) or isfinite(value) else str(value)
        for name, value in details.items()
    }


class _Writer:
    """The observer."""

    def __init__(self, logger: logging.Logger, levels: Mapping[str, int], limit: _Limit) -> None:
        self._logger = logger
        self._levels = levels
        self._limit = limit

    def __call__(self, observation: Observation) -> None:
        kind, source, details = observation
        level = self._level(kind)
        if not self._logger.isEnabledFor(level):
            return
        suppressed = self._limit.admit(kind, source)
        if suppressed is None:
            return
        source, shown = on_one_line(source), plain(details)
        text = " ".join([f"{source}:", *(f"{name}={value}" for name, value in shown.items())])
        if suppressed:
            text += f" ({counted(suppressed, 'more was', 'more were')} not logged)"
        extra = {"kind": kind, "source": source, "details": shown, "suppressed": suppressed}
        self._logger.log(level, "%s %s", kind, text, extra=extra)

    def _level(self, kind: str) -> int:
        primitive = kind.partition(".")[0]
        return self._levels.get(kind, self._levels.get(primitive, logging.INFO))


class _Limit:
    """So many records of one kind and source within so many seconds."""

    def __init__(self, most: int, per: float) -> None:
        self._most = most
        self._per = per
        self._lock = new_lock()  # guards _spans
        self._spans: dict[tuple[str, str], _Span] = {}

    def admit(self, kind: str, source: str) -> int | None:
        """Return how many were left out before this record, or `None` if it is to be left out, too."""
        now = clock.now()
        with self._lock:
            span = self._span(kind, source, now)
            if not 0.0 <= now - span.began < self._per:
                span.began, span.written = now, 0
            if span.written >= self._most:
                span.suppressed += 1
                return None
            span.written += 1
            suppressed, span.suppressed = span.suppressed, 0
            return suppressed

    def _span(self, kind: str, source: str, now: float) -> _Span:
        if (kind, source) not in self._spans and len(self._spans) >= _MOST:
            kind = source = OTHER
        return self._spans.setdefault((kind, source), _Span(now))


class _Span:
    """What was written of one kind and source since `began`."""

    __slots__ = ("began", "suppressed", "written")

    def __init__(self, began: float) -> None:
        self.began = began
        self.written = self.suppressed = 0
