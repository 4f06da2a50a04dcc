"""Runs the migrations on the application's own engine."""

import asyncio

from alembic import context
from app.database import Base, engine
from sqlalchemy import Connection


def migrate(connection: Connection) -> None:
    """Bring the tables to the wanted revision, all of it or nothing."""
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Connect, migrate, let go."""
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
