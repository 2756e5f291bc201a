"""0001: the first tables. Why each column and index is there stands in `runs.schema`; this is what a store of the first release has."""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None

_COUNTER = BigInteger().with_variant(Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def upgrade() -> None:
    """Make the tables."""
    op.create_table("store", Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
    _inbox()
    _runs()
    op.create_table(
        "positions",
        Column("trigger", Text, nullable=False),
        Column("cluster", Text, nullable=False),
        Column("topic", Text, nullable=False),
        Column("topic_id", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("start_offset", BigInteger, nullable=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("trigger", "cluster", "topic", "topic_id", "partition", name="positions_once"),
    )


def _inbox() -> None:
    op.create_table(
        "events",
        Column("seq", _COUNTER, primary_key=True, autoincrement=True),
        Column("source", Text, nullable=False),
        Column("id", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("subject", Text),
        Column("time", BigInteger),
        Column("attributes", Text, nullable=False),
        Column("data", LargeBinary),
        Column("data_digest", Text, nullable=False),
        Column("received_at", BigInteger, nullable=False),
        Column("way", Text, nullable=False),
        Column("cluster", Text),
        Column("topic", Text),
        Column("topic_id", Text),
        Column("partition", Integer),
        Column("offset", BigInteger),
        Column("record_time", BigInteger),
        Column("conflict", Integer, nullable=False, server_default="0"),
        UniqueConstraint("source", "id", name="events_identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_subject", "events", ["subject"], **_where("subject IS NOT NULL"))
    op.create_index("events_by_receipt", "events", ["received_at"])
    op.create_table(
        "decisions",
        Column("trigger", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("id", Text, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("parameters", Text),
        Column("run", Text),
        Column("snapshot", Text),
        Column("decided_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("source", "id", "trigger", name="decisions_once"),
        CheckConstraint("outcome IN ('matched', 'unmatched', 'quarantined')", name="decisions_outcome"),
        CheckConstraint("(outcome = 'matched') = (run IS NOT NULL)", name="decisions_matched_has_run"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        Column("seq", _COUNTER, primary_key=True, autoincrement=True),
        Column("received_at", BigInteger, nullable=False),
        Column("reason", Text, nullable=False),
        Column("error", Text, nullable=False),
        Column("way", Text, nullable=False),
        Column("headers", Text, nullable=False),
        Column("key", LargeBinary),
        Column("body", LargeBinary),
        Column("body_digest", Text, nullable=False),
        Column("source", Text),
        Column("id", Text),
        Column("cluster", Text),
        Column("topic", Text),
        Column("topic_id", Text),
        Column("partition", Integer),
        Column("offset", BigInteger),
        UniqueConstraint("cluster", "topic", "topic_id", "partition", "offset", name="quarantine_position"),
        UniqueConstraint("source", "id", "body_digest", name="quarantine_identity"),
        sqlite_autoincrement=True,
    )


def _runs() -> None:
    op.create_table(
        "runs",
        Column("seq", _COUNTER, primary_key=True, autoincrement=True),
        Column("id", Text, nullable=False),
        Column("job", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("request", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        Column("attempt", Integer, nullable=False, server_default="0"),
        Column("token", Integer, nullable=False, server_default="0"),
        Column("code", Text, nullable=False, server_default=""),
        Column("trigger", Text),
        Column("event_source", Text),
        Column("event_id", Text),
        Column("parent", Text),
        Column("error", Text),
        Column("message", Text),
        Column("result", Text),
        Column("snapshot", Text),
        Column("requested_by", Text, nullable=False, server_default=""),
        Column("order_key", Text),
        Column("not_before", BigInteger, nullable=False, server_default="0"),
        Column("cancel_requested_at", BigInteger),
        UniqueConstraint("id", name="runs_id"),
        CheckConstraint("state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')", name="runs_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("runs_by_state", "runs", ["state", "seq"])
    op.create_index("runs_by_job", "runs", ["job", "seq"])
    op.create_index("runs_by_order_key", "runs", ["order_key", "state", "seq"], **_where("order_key IS NOT NULL"))
    op.create_table(
        "leases",
        Column("run", Text, primary_key=True),
        Column("owner", Text, nullable=False),
        Column("token", Integer, nullable=False),
        Column("heartbeat_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
    )
    op.create_index("leases_by_expiry", "leases", ["expires_at"])
    op.create_table(
        "facts",
        Column("seq", _COUNTER, primary_key=True, autoincrement=True),
        Column("run", Text, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("fact", Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("facts_by_run", "facts", ["run", "seq"])
    op.create_table(
        "snapshots",
        Column("digest", Text, primary_key=True),
        Column("body", LargeBinary, nullable=False),
        Column("saved_at", BigInteger, nullable=False),
    )
    op.create_table(
        "codes",
        Column("digest", Text, nullable=False),
        Column("job", Text, nullable=False),
        Column("spec", Text, nullable=False),
        Column("code", LargeBinary, nullable=False),
        Column("saved_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("digest", "job", name="codes_by_digest"),
    )
    op.create_table(
        "idempotency",
        Column("key", Text, primary_key=True),
        Column("request_digest", Text, nullable=False),
        Column("run", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
