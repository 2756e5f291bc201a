"""0007: which triggers decided about an event that came over HTTP, and what is held found without looking at all events. The reasons stand in `runs.schema`."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text, text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column and the index."""
    op.add_column("events", Column("triggers", Text))
    held = text("outcome = 'quarantined'")
    op.create_index(
        "decisions_held", "decisions", ["source", "id", "trigger"], sqlite_where=held, postgresql_where=held
    )


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
