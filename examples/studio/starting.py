"""What has to be true before the studio serves, and what a first start in development makes."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from studio import database
from studio.app import create_app
from studio.auth.passwords import Passwords
from studio.catalogue.generator import generate
from studio.config import Config
from studio.models import Paint, User
from studio.problems import StartupError
from studio.services import Services

__all__ = ["make_user", "opened", "prepare", "welcome"]


def prepare(config: Config) -> None:
    """Make sure that the database answers and has today's schema.

    Raises:
        StartupError: It does not answer, or production's schema is out of date.
    """
    database.reach(config.database_url)
    if config.development:
        database.upgrade(config.database_url)
    elif not database.is_current(config.database_url):
        raise StartupError("the database's schema is out of date: run python -m studio db upgrade")


@contextmanager
def opened(config: Config) -> Iterator[Services]:
    """Open the studio for one command, without serving it."""
    prepare(config)
    app = create_app(config)
    services: Services = app.extensions["studio"]
    try:
        with app.app_context():
            yield services
    finally:
        services.close()


def welcome(services: Services, config: Config) -> None:
    """Fill an empty studio in development: a generated catalogue, and an administrator with a random password."""
    if not config.development:
        return
    if config.demo_paints and not _count(services, Paint):
        services.importer.store(generate(config.demo_paints))
    if not _count(services, User):
        password = secrets.token_urlsafe(12)
        make_user(services, "admin", "admin", password)
        sys.stdout.write(f"first start: log in as admin with the password {password} (shown only now)\n")
        sys.stdout.flush()


def make_user(services: Services, name: str, role: str, password: str) -> int:
    """Store a user; the password itself is not kept."""
    passwords = services.kit.components.get("password-hasher", Passwords)
    return services.users.create(name, role, passwords.hash(password))


def _count(services: Services, model: type[Paint | User]) -> int:
    with services.kit.db.unit_of_work(read_only=True) as session:
        return session.execute(select(func.count()).select_from(model)).scalar_one()
