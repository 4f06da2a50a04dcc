"""The table of notes, and the database that DATABASE_URL names.

    python3 -m app.database      makes the tables that are missing
"""

import asyncio
import os
from datetime import datetime

from sqlalchemy import DateTime, func
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Nothing connects here: the first request of each worker opens that worker's own connections.
engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=5, max_overflow=0, pool_pre_ping=True)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """Knows all tables."""


class Note(Base):
    """One note."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


async def create_tables() -> None:
    """Make the tables that are missing; tables that exist stay as they are."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create_tables())
