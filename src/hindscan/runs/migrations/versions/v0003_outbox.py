"""0003: outlets and the outbox of what runs say of themselves. Why each column and index is there stands in `runs.schema`; this is what leads an older store to them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, Text, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "outlets",
        Column("name", Text, primary_key=True),
        Column("source", Text, nullable=False),
        Column("declared_at", BigInteger, nullable=False),
        Column("owner", Text),
        Column("expires_at", BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "outbox",
        Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
        Column("outlet", Text, nullable=False),
        Column("run", Text, nullable=False),
        Column("event", Text, nullable=False),
        Column("written_at", BigInteger, nullable=False),
        Column("state", Text, nullable=False, server_default="waiting"),
        Column("tries", Integer, nullable=False, server_default="0"),
        Column("next_at", BigInteger, nullable=False, server_default="0"),
        Column("reason", Text, nullable=False, server_default=""),
        Column("sent_at", BigInteger),
        CheckConstraint("state IN ('waiting', 'sent', 'unmatched', 'refused')", name="outbox_state"),
        sqlite_autoincrement=True,
    )
    waiting = text("state = 'waiting'")
    op.create_index(
        "outbox_waiting", "outbox", ["outlet", "run", "seq"], sqlite_where=waiting, postgresql_where=waiting
    )
