"""A table of tags."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table("tags", sa.Column("name", sa.Text, primary_key=True))
    print("the table tags is made")
