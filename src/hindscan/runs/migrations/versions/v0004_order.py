"""0004: what a trigger's queue needs: keys, ranks, failed tries, blocking runs, links to the run that took a run's place, limits."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, Text, text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns, their indexes and the table of limits."""
    for column in (
        Column("blocks", Integer, nullable=False, server_default="0"),
        Column("key", Text),
        Column("rank", Integer, nullable=False, server_default="0"),
        Column("failures", Integer, nullable=False, server_default="0"),
        Column("superseded_by", Text),
    ):
        op.add_column("runs", column)
    for name, columns, condition in (
        ("runs_to_claim", ["state", "rank", "seq"], "state = 'pending'"),
        ("runs_waiting_by_key", ["trigger", "key"], "state = 'pending' AND key IS NOT NULL"),
    ):
        op.create_index(name, "runs", columns, sqlite_where=text(condition), postgresql_where=text(condition))
    op.create_table(
        "limits", Column("name", Text, primary_key=True), Column("total", Integer), Column("per_key", Integer)
    )


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
