"""0002: bodies that expire or are forgotten, runs that are forgotten, and marks of what is being decided. Why each is there stands in `runs.schema`; what was
stored before has its bodies, was not forgotten, and is not being decided.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that are null in what is there, and an empty table."""
    op.add_column("events", Column("gone", Text))
    op.add_column("quarantine", Column("record_time", BigInteger))
    op.add_column("quarantine", Column("gone", Text))
    op.add_column("runs", Column("forgotten_at", BigInteger))
    op.create_table(
        "tries",
        Column("lane", Text, primary_key=True),
        Column("first", BigInteger, nullable=False),
        Column("last", BigInteger, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("process", Text, nullable=False),
        Column("at", BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
