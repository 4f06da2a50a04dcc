"""A colour for each tag; with BROKEN_MIGRATION=1 one that the database refuses."""

import os

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("tags", sa.Column("colour", sa.Text))
    if os.environ.get("BROKEN_MIGRATION"):
        op.execute("ALTER TABLE nowhere ADD COLUMN colour text")
