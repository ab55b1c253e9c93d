"""What the studio is told by its environment, checked before anything starts.

Production is the default: development has to be asked for with `STUDIO_ENV=development`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from typing_extensions import override

from studio.problems import StartupError

__all__ = ["Config", "DevelopmentConfig", "ProductionConfig", "load_config"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_SHORTEST_SECRET = 32  # characters: 128 bits in hexadecimal
_STATEMENT_TIMEOUT = 30_000  # milliseconds
_UPLOAD_BYTES = 10 * 1024 * 1024
_FIELD_BYTES = 256 * 1024  # well above the 64 KiB portions of a file that Werkzeug measures by this limit too


@dataclass(frozen=True, kw_only=True)
class Config:
    """What both environments share."""

    database_url: str
    secret_key: str = field(repr=False)
    data: Path
    trusted_hosts: tuple[str, ...] = ()
    proxy_hops: int = 0
    metrics_token: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    demo_paints: int = 0
    development: bool = False
    testing: bool = False
    max_upload_bytes: int = _UPLOAD_BYTES
    max_upload_rows: int = 100_000

    def as_flask(self) -> dict[str, Any]:
        """Return the settings that Flask and its extensions read."""
        return {
            "DEBUG": False,
            "TESTING": self.testing,
            "SECRET_KEY": self.secret_key,
            "SQLALCHEMY_DATABASE_URI": self.database_url,
            "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(self.database_url),
            "SESSION_COOKIE_NAME": "studio" if self.development else "__Host-studio",
            "SESSION_COOKIE_HTTPONLY": True,
            "SESSION_COOKIE_SAMESITE": "Lax",
            "SESSION_COOKIE_SECURE": not self.development,
            "PERMANENT_SESSION_LIFETIME": timedelta(hours=12),
            "SESSION_REFRESH_EACH_REQUEST": False,
            "MAX_CONTENT_LENGTH": self.max_upload_bytes,
            "MAX_FORM_MEMORY_SIZE": _FIELD_BYTES,
            "MAX_FORM_PARTS": 50,
            "TRUSTED_HOSTS": list(self.trusted_hosts) or None,
            "WTF_CSRF_TIME_LIMIT": None,  # a form that was open all day still saves; the session bounds it
            "BOOTSTRAP_SERVE_LOCAL": True,
            "PAINTKIT_METRICS_TOKEN": self.metrics_token,
        }

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read and check the environment.

        Raises:
            StartupError: A setting is missing or makes no sense; the message names it and the way out.
        """
        raise NotImplementedError


class DevelopmentConfig(Config):
    """Works without any setting: SQLite and a kept random key in the instance folder, a generated catalogue."""

    @classmethod
    @override
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        data = _data_folder(environ)
        return cls(
            database_url=_database_url(environ.get("DATABASE_URL") or f"sqlite:///{data / 'studio.sqlite3'}"),
            secret_key=environ.get("SECRET_KEY") or _kept_secret(data / "secret-key"),
            data=data,
            trusted_hosts=_hosts(environ),
            proxy_hops=_whole_number(environ, "STUDIO_PROXY_HOPS", 0),
            metrics_token=environ.get("STUDIO_METRICS_TOKEN") or None,
            redis_url=_redis_url(environ),
            demo_paints=_whole_number(environ, "STUDIO_DEMO_PAINTS", 3000),
            development=True,
        )


class ProductionConfig(Config):
    """Nothing is guessed: what is missing stops the start."""

    @classmethod
    @override
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        return cls(
            database_url=_database_url(
                _required(environ, "DATABASE_URL", "such as postgresql://user@host/studio")
            ),
            secret_key=_strong_secret(environ),
            data=_data_folder(environ),
            trusted_hosts=_hosts(environ),
            proxy_hops=_whole_number(environ, "STUDIO_PROXY_HOPS", 0),
            metrics_token=environ.get("STUDIO_METRICS_TOKEN") or None,
            redis_url=_redis_url(environ),
        )


_CHOICES: dict[str, type[Config]] = {"development": DevelopmentConfig, "production": ProductionConfig}


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration that `STUDIO_ENV` selects; `production` unless told.

    Raises:
        StartupError: A setting is missing or wrong.
    """
    environ = os.environ if environ is None else environ
    wanted = environ.get("STUDIO_ENV") or "production"
    chosen = _CHOICES.get(wanted)
    if chosen is None:
        raise StartupError(f"STUDIO_ENV must be one of {', '.join(sorted(_CHOICES))}, not {wanted!r}")
    return chosen.from_environ(environ)


def _required(environ: Mapping[str, str], name: str, hint: str) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise StartupError(
            f"{name} is not set: production needs it, {hint} (STUDIO_ENV=development needs nothing)"
        )
    return value


def _strong_secret(environ: Mapping[str, str]) -> str:
    secret = _required(
        environ, "SECRET_KEY", 'made with python -c "import secrets; print(secrets.token_hex(32))"'
    )
    if len(secret) < _SHORTEST_SECRET or len(set(secret)) < _SHORTEST_SECRET // 4:
        raise StartupError(
            f"SECRET_KEY is too easy to guess: give at least {_SHORTEST_SECRET} random characters"
        )
    return secret


def _kept_secret(path: Path) -> str:
    """Return the key in the file, made at the first start, so that a restart logs nobody out."""
    try:
        secret = _stored_secret(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise StartupError(f"the key for sessions cannot be kept: {reason}: {path}") from None
    if len(secret) < _SHORTEST_SECRET:
        raise StartupError(f"the key for sessions is damaged: delete {path}")
    return secret


def _stored_secret(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret := secrets.token_hex(32))
    return secret


def _database_url(given: str) -> str:
    """Return the URL with the driver this application ships: psycopg 3."""
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise StartupError("DATABASE_URL is no database URL: write postgresql://user@host/name") from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() not in {"postgresql", "sqlite"}:
        raise StartupError(
            f"DATABASE_URL names {url.drivername!r}: the studio runs on postgresql:// or sqlite://"
        )
    return url.render_as_string(hide_password=False)


def _redis_url(environ: Mapping[str, str]) -> str | None:
    """Return where the processes of the studio share their cache; `None`: each has its own."""
    url = environ.get("REDIS_URL", "").strip()
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise StartupError(
            "REDIS_URL is no URL of a Redis server: write redis://host:6379/0, or leave it out"
        )
    return url or None


def _engine_options(url: str) -> dict[str, Any]:
    """Return what the pool's own options leave open: no statement of a page runs for ever."""
    if not url.startswith("postgresql"):
        return {}
    return {"connect_args": {"options": f"-c statement_timeout={_STATEMENT_TIMEOUT}"}}


def _data_folder(environ: Mapping[str, str]) -> Path:
    folder = Path(environ.get("STUDIO_DATA") or _CHECKOUT / "instance").resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"STUDIO_DATA cannot be used: {error.strerror}: {folder}") from None
    return folder


def _hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(host.strip() for host in environ.get("STUDIO_TRUSTED_HOSTS", "").split(",") if host.strip())


def _whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    given = environ.get(name, "").strip()
    if not given:
        return default
    if not given.isdecimal():
        raise StartupError(f"{name} must be a whole number, not {given!r}")
    return int(given)
