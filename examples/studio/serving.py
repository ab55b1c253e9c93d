"""Serves the studio with gunicorn: one process, eight threads, a port that is free or one clear line."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from typing_extensions import override

from studio.app import create_app
from studio.config import Config
from studio.problems import StartupError
from studio.starting import opened, welcome

__all__ = ["serve"]

_THREADS = 8
_GRACE = 10  # seconds for requests in flight when the server is told to stop


def serve(config: Config, host: str, port: int) -> None:
    """Prepare, then serve until told to stop.

    Raises:
        StartupError: The database or the port cannot be used.
    """
    with _listen(host, port) as listener:
        _welcome(config)
        sys.stdout.write(f"studio: http://{host}:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        descriptor = listener.detach()  # from here on the server's to close
    _Server(lambda: create_app(config), descriptor).run()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port ourselves: gunicorn would try for seconds and then tell it in a traceback's worth of lines."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = (
            os.strerror(number) if number and number > 0 else error
        )  # the text of create_server repeats the address
        raise StartupError(f"cannot listen on {host}:{port}: {reason}; choose another with PORT=") from None
    listener.set_inheritable(True)
    return listener


def _welcome(config: Config) -> None:
    """Fill the studio in a short-lived application: no connection may cross the server's fork."""
    with opened(config) as services:
        welcome(services, config)


class _Server(BaseApplication):
    def __init__(self, make: Callable[[], Flask], listener: int) -> None:
        self._make = make
        self._listener = listener
        super().__init__()

    @override
    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._listener}",
            "workers": 1,
            "threads": _THREADS,
            "worker_class": "gthread",
            "graceful_timeout": _GRACE,
            "keepalive": 5,
            "loglevel": os.environ.get("STUDIO_LOG_LEVEL", "warning"),
            "control_socket_disable": True,
            "proc_name": "studio",
            "post_worker_init": _end_gracefully,
            "worker_exit": _close,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    @override
    def load(self) -> Any:
        return self._make()


def _end_gracefully(worker: Any) -> None:
    """Let Ctrl-C end the worker as SIGTERM does: gunicorn's quick exit may interrupt itself and then hang."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, worker.handle_exit)


def _close(_server: object, worker: Any) -> None:
    """Close what this worker built."""
    app = getattr(worker, "wsgi", None)
    if isinstance(app, Flask):
        app.extensions["studio"].close()
