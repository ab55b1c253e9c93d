"""How Alembic reaches the studio's database: by the address that `studio.database.alembic_config` holds."""

from alembic import context
from sqlalchemy import create_engine, pool

from studio.models import Base


def run() -> None:
    """Run the migrations, in one transaction where the database can."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    context.configure(url=context.config.attributes["url"], target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
