"""0005: what was there when a trigger of files began, so that it starts runs only for what came later. Why each column is there stands in `runs.schema`."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, PrimaryKeyConstraint, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "baselines",
        Column("trigger", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("versions", LargeBinary, nullable=False),
        Column("began_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("trigger", "source", name="baselines_once"),
    )
