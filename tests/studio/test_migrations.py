"""Laws of the schema."""

import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint

from studio import database
from studio.models import Base


def test_migrations_make_the_models(database_url):
    """What the migrations build is what the models say, to the last index."""
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert [] == compare_metadata(MigrationContext.configure(connection), Base.metadata)
        checks = sqlalchemy.inspect(connection).get_check_constraints("paints")
    known = {
        check.name
        for check in Base.metadata.tables["paints"].constraints
        if isinstance(check, CheckConstraint)
    }
    assert known == {check["name"] for check in checks}


def test_down_and_up_again(tmp_path):
    """The schema can be taken back to nothing and built again; in between it is known to be out of date."""
    url = f"sqlite:///{tmp_path / 'x.sqlite3'}"
    assert not database.is_current(url)
    database.upgrade(url)
    assert database.is_current(url)
    command.downgrade(database.alembic_config(url), "base")
    assert not database.is_current(url)
    database.upgrade(url)
    assert database.is_current(url)
