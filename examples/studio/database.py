"""The database's own business: its schema, whether it answers, and what its dialects say differently."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from studio.models import Base
from studio.problems import StartupError

__all__ = ["alembic_config", "insert_if_absent", "is_current", "reach", "upgrade"]

_MIGRATIONS = Path(__file__).with_name("migrations")
_PATIENCE = 5  # seconds that a first connection may take


def insert_if_absent(session: Session, model: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that does nothing when a unique value is there already."""
    dialect = session.get_bind().dialect.name
    return (postgresql.insert if dialect == "postgresql" else sqlite.insert)(model).on_conflict_do_nothing()


def reach(url: str) -> None:
    """Make sure that the database answers.

    Raises:
        StartupError: It does not; the message holds the address without its password.
    """
    parsed = make_url(url)
    options = {"connect_timeout": _PATIENCE} if parsed.get_backend_name() == "postgresql" else {}
    try:
        engine = create_engine(url, connect_args=options)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StartupError(f"the database does not answer at {parsed.render_as_string()}: {reason}") from None


def alembic_config(url: str) -> AlembicConfig:
    """Return the migrations of the studio, for this database."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Bring the schema up to date."""
    command.upgrade(alembic_config(url), "head")


def is_current(url: str) -> bool:
    """Whether the schema is the one this code was written for."""
    engine: Engine = create_engine(url)
    try:
        with engine.connect() as connection:
            there = MigrationContext.configure(connection).get_current_heads()
    finally:
        engine.dispose()
    return set(there) == set(ScriptDirectory.from_config(alembic_config(url)).get_heads())
