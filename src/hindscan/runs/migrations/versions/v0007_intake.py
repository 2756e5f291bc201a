"""0007: which triggers decided about an event over HTTP, what is held found without looking at all events, and errands. The reasons stand in `runs.schema`."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Text, text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column, the index and the table."""
    op.add_column("events", Column("triggers", Text))
    held = text("outcome = 'quarantined'")
    op.create_index(
        "decisions_held", "decisions", ["source", "id", "trigger"], sqlite_where=held, postgresql_where=held
    )
    op.create_table(
        "errands",
        Column("name", Text, primary_key=True),
        Column("asked", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("outcome", Text),
        Column("error", Text),
        Column("message", Text),
        Column("begun_at", BigInteger, nullable=False),
        Column("owner", Text, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        CheckConstraint("state IN ('waiting', 'running', 'done', 'failed')", name="errands_state"),
    )


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
