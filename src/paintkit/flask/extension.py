"""The Flask extension: what an app shows of the primitives that it uses."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, Flask, Response, abort, current_app, request

from paintkit import _arguments
from paintkit.flask import cli, totals
from paintkit.flask.health import Health, Probe, broken_circuits, database_fault
from paintkit.monitor import exposition
from paintkit.monitor.gathering import checked, gather
from paintkit.monitor.workers import Workers
from paintkit.telemetry import Source

if TYPE_CHECKING:
    from paintkit import (
        CacheManager,
        ComponentManager,
        ErrorRecoveryManager,
        EventBus,
        PerformanceMonitor,
        RequestBatcher,
    )
    from paintkit.sqlalchemy import DatabaseConnectionManager

__all__ = ["PaintKit"]

_NAME: Final = "paintkit"
_MEMOS: Final = "paintkit.memos"
_NO_STORE: Final = {"Cache-Control": "no-store"}


class PaintKit:
    """Gives an app `/health/live`, `/health/ready`, `/metrics` and `flask paintkit stats|explain|check|outbox`.

    - `/health/live` answers as long as the process does, without any I/O.
    - `/health/ready` asks the databases and the `checks`, all at once, and waits `PAINTKIT_READY_TIMEOUT` seconds at most:
      503 if a database does not answer, 200 with the status `degraded` if anything else is wrong, 200 with `ok` else. It
      tells names, never reasons; those are in the log.
    - `/metrics` gives all totals as text for Prometheus, to those who send `Authorization: Bearer` and the app's
      `PAINTKIT_METRICS_TOKEN`. Without a token it is not there (404), unless the app runs in debug mode or says
      `PAINTKIT_METRICS_PUBLIC = True`. With `PAINTKIT_METRICS_DIR`, a folder that the workers of a server share, it gives
      the sum over them; each writes its numbers there every `PAINTKIT_METRICS_INTERVAL` seconds.

    Each request has a memo of each cache: what it has read it reads again. `PAINTKIT_CACHE_MEMO = False` spares that.

    The extension is kept in `app.extensions["paintkit"]`. The first database manager becomes the app's own: it gives each
    app context a session to read with.

    Args:
        app: The app; or call `init_app(app)` later, for several apps if need be.
        db: What the app uses of each kind: one, several (an iterable), or `None`.
        cache: The same for caches.
        recovery: The same for registries of policies.
        bus: The same for event buses.
        batcher: The same for request batchers.
        components: The same for component managers.
        monitor: The same for performance monitors.
        checks: Further things to ask, by name; each is called without arguments in an app context of its own, in a thread
            of its own, and raises an `Exception` if something is wrong.
        telemetry: A further source for `/metrics`, such as a policy outside of every registry, or several; see
            `paintkit.telemetry`.
        url_prefix: What the paths begin with, such as `"/internal"` (default: nothing).

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: `url_prefix` does not begin with a slash or ends with one, or `app` has a `PaintKit` already.

    Example:
        >>> from flask import Flask
        >>> from paintkit import CacheManager
        >>> app = Flask("studio")
        >>> kit = PaintKit(app, cache=CacheManager("paints"))
        >>> app.test_client().get("/health/ready").json["status"]
        'ok'
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        db: DatabaseConnectionManager | Iterable[DatabaseConnectionManager] | None = None,
        cache: CacheManager | Iterable[CacheManager] | None = None,
        recovery: ErrorRecoveryManager | Iterable[ErrorRecoveryManager] | None = None,
        bus: EventBus | Iterable[EventBus] | None = None,
        batcher: RequestBatcher[Any, Any] | Iterable[RequestBatcher[Any, Any]] | None = None,
        components: ComponentManager | Iterable[ComponentManager] | None = None,
        monitor: PerformanceMonitor | Iterable[PerformanceMonitor] | None = None,
        checks: Mapping[str, Callable[[], object]] | None = None,
        telemetry: Source | Iterable[Source] = (),
        url_prefix: str = "",
    ) -> None:
        self.parts = totals.Parts(
            databases=totals.named("db", db, "get_connection_stats"),
            caches=totals.named("cache", cache, "get_stats"),
            recoveries=totals.named("recovery", recovery, "get_stats"),
            buses=totals.named("bus", bus, "get_stats"),
            batchers=totals.named("batcher", batcher, "get_stats"),
            components=totals.named("components", components, "get_stats"),
            monitors=totals.named("monitor", monitor, "get_metrics"),
        )
        self.checks = {
            _arguments.label("checks", name): _arguments.callback(f"checks[{name!r}]", check)
            for name, check in _by_name(checks).items()
        }
        self._telemetry = checked((telemetry,) if isinstance(telemetry, Source) else telemetry)
        self._url_prefix = _checked_prefix(url_prefix)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add paths, commands, read sessions and memos to `app`.

        Raises:
            TypeError: A `PAINTKIT_…` entry of the app's configuration is of the wrong kind.
            ValueError: The app has a `PaintKit` already, or a `PAINTKIT_…` entry is out of range.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"app must be a Flask app, not {type(app).__name__}")
        if _NAME in app.extensions:
            raise ValueError("this app has a PaintKit already: give that one everything")
        timeout = _configured(app)
        told = self._told(app)
        for db in list(self.parts.databases.values())[:1]:
            db.init_app(app)
        app.extensions[_NAME] = self
        blueprint = self._blueprint(self._health(app, timeout), told)
        app.register_blueprint(blueprint, url_prefix=self._url_prefix or None)
        app.cli.add_command(cli.group(self.parts, self.checks))
        if app.config["PAINTKIT_CACHE_MEMO"]:
            app.before_request(self._open_memos)
            app.teardown_request(_close_memos)

    def get_stats(self) -> dict[str, dict[str, Any]]:
        """Return the totals of everything, as plain data: by kind, then by name."""
        return totals.collect(self.parts)

    def telemetry(self) -> Iterable[Source]:
        """Return everything of the app, for exporters."""
        return (*(part for parts in self.parts for part in parts.values()), *self._telemetry)

    def _open_memos(self) -> None:
        memos = request.environ[_MEMOS] = [cache.memo() for cache in self.parts.caches.values()]
        for memo in memos:
            memo.open()

    def _told(self, app: Flask) -> Source:
        """What `/metrics` shows: this process, or all that share a folder."""
        folder = app.config.setdefault("PAINTKIT_METRICS_DIR", None)
        interval = app.config.setdefault("PAINTKIT_METRICS_INTERVAL", 5.0)
        _arguments.seconds("PAINTKIT_METRICS_INTERVAL", interval)
        if folder is None:
            return self
        workers = Workers(folder, self, interval=interval)
        # Not before: a process that only forks the workers serves nobody, and is none of them.
        app.before_request(workers.start)
        return workers

    def _health(self, app: Flask, timeout: float) -> Health:
        essential = [
            Probe(app, name, database_fault(db))
            for name, db in self.parts.databases.items()
            if not getattr(db, "is_async", False)
        ]
        optional = [Probe(app, name, check) for name, check in self.checks.items()]
        return Health(essential, optional, lambda: broken_circuits(self.parts.recoveries.values()), timeout)

    def _blueprint(self, health: Health, told: Source) -> Blueprint:
        blueprint = Blueprint(_NAME, __name__)

        @blueprint.get("/health/live")
        def live() -> tuple[dict[str, str], int, dict[str, str]]:
            return {"status": "ok"}, 200, _NO_STORE

        @blueprint.get("/health/ready")
        def ready() -> tuple[Mapping[str, Any], int, dict[str, str]]:
            report = health.report()
            return report, 503 if report["status"] == "unavailable" else 200, _NO_STORE

        @blueprint.get("/metrics")
        def metrics() -> Response:
            _check_access()
            text = exposition.render(gather([told]))
            return Response(text, headers=_NO_STORE, content_type=exposition.CONTENT_TYPE)

        return blueprint


def _close_memos(_error: BaseException | None) -> None:
    for memo in reversed(request.environ.pop(_MEMOS, [])):
        memo.close()


def _by_name(checks: Mapping[str, Callable[[], object]] | None) -> Mapping[str, Callable[[], object]]:
    if checks is not None and not isinstance(checks, Mapping):
        raise TypeError(
            f"checks must be functions by name, as in {{'storage': ping}}, not {type(checks).__name__}"
        )
    return checks or {}


def _checked_prefix(prefix: str) -> str:
    if not isinstance(prefix, str):
        raise TypeError(f"url_prefix must be a string, not {type(prefix).__name__}")
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f"url_prefix must begin with a slash and end without one, not {prefix!r}")
    return prefix


def _configured(app: Flask) -> float:
    """Check what the configuration says, and return for how long readiness may ask."""
    token = app.config.setdefault("PAINTKIT_METRICS_TOKEN", None)
    if token is not None and not _arguments.label("PAINTKIT_METRICS_TOKEN", token).isascii():
        raise ValueError("PAINTKIT_METRICS_TOKEN must be ASCII: a header carries nothing else for sure")
    _arguments.flag("PAINTKIT_METRICS_PUBLIC", app.config.setdefault("PAINTKIT_METRICS_PUBLIC", False))
    _arguments.flag("PAINTKIT_CACHE_MEMO", app.config.setdefault("PAINTKIT_CACHE_MEMO", True))
    timeout = app.config.setdefault("PAINTKIT_READY_TIMEOUT", 1.0)
    return _arguments.seconds("PAINTKIT_READY_TIMEOUT", timeout)


def _check_access() -> None:
    config = current_app.config
    if config["PAINTKIT_METRICS_PUBLIC"]:
        return
    token: str | None = config["PAINTKIT_METRICS_TOKEN"]
    if token is None:
        if not current_app.debug:
            abort(404)
        return
    sent = request.authorization
    given = sent.token if sent is not None and sent.type == "bearer" and sent.token else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        abort(
            Response(
                "a token is needed\n",
                401,
                {"WWW-Authenticate": "Bearer", **_NO_STORE},
                content_type="text/plain",
            )
        )
