"""What a manager may be made of beside URLs and engines: a Flask app, or the object of a Flask extension."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

__all__ = ["AppSettings", "FlaskApp", "FlaskExtension", "is_flask", "is_flask_extension"]

_SETTING: Final = "SQLALCHEMY_ENGINE_OPTIONS"


class FlaskApp(Protocol):
    """What a manager needs of a `flask.Flask`, without importing it."""

    config: Any
    extensions: Any


class FlaskExtension(Protocol):
    """What a manager needs of the `SQLAlchemy` object of Flask-SQLAlchemy or Flask-SQLAlchemy-Lite."""

    @property
    def engine(self) -> Any:
        """The default engine of the current app."""
        ...


def is_flask(source: object) -> bool:
    """Whether this is a Flask app."""
    flask = sys.modules.get("flask")
    return flask is not None and isinstance(source, flask.Flask)


def is_flask_extension(source: object) -> bool:
    """Whether this is an object of Flask-SQLAlchemy or Flask-SQLAlchemy-Lite."""
    homes = {one.__module__.partition(".")[0] for one in type(source).__mro__}
    return not homes.isdisjoint({"flask_sqlalchemy", "flask_sqlalchemy_lite"})


class AppSettings:
    """The options of the engine in an app's configuration: what it says by itself, and what we write there.

    Args:
        app: The app.

    Attributes:
        own: What it says by itself, as far as it was heeded.
    """

    def __init__(self, app: FlaskApp) -> None:
        self._app = app
        self._written: dict[str, Any] = {}
        self.own: dict[str, Any] = {}

    def heed(self) -> None:
        """Take over what the configuration says and we did not write there: it may be set until the engine exists."""
        settings = self._app.config.get(_SETTING) or {}
        if not isinstance(settings, Mapping):
            raise TypeError(f"{_SETTING} must be a dictionary, not {type(settings).__name__}")
        self.own |= {
            name: value
            for name, value in settings.items()
            if name not in self._written or self._written[name] != value
        }

    def write(self, make: Callable[[], dict[str, Any]]) -> None:
        """Put the options that `make` returns into the configuration."""
        self._written = make()
        self._app.config[_SETTING] = make()  # made anew: what the app changes in these is the app's
