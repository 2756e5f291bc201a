"""The tables of the store, each with its reason, so that they can be reviewed without reading the rest.

Carries promises 4 (one decision for each trigger and event identity, by a unique index, naming its run), 5 (what cannot be taken is kept),
3 (the first pin stays) and 13 (runs with one key in the order they came). Portable SQLAlchemy Core: SQLite and PostgreSQL get the same
tables. Documents are JSON in text columns and times are integers, microseconds since the epoch, so that both databases give back exactly
what was stored. `migrations/` leads an older store here; a test holds the two equal.

::

    events <── decisions ──> runs ──> facts, leases, snapshots, codes
    quarantine (what is no event)     positions (up to where a trigger has recorded)     tries (what is being decided)
    outlets <── outbox (what runs say of themselves, to be sent)
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

__all__ = [
    "REVISION",
    "baselines",
    "codes",
    "decisions",
    "errands",
    "events",
    "facts",
    "idempotency",
    "leases",
    "limits",
    "metadata",
    "outbox",
    "outlets",
    "positions",
    "quarantine",
    "runs",
    "snapshots",
    "store",
    "tries",
]

#: The newest revision in `migrations/versions`; a store that has it is opened without loading Alembic.
REVISION: Final = "0007"

metadata = MetaData()

#: SQLite counts rows only in a column declared INTEGER PRIMARY KEY.
_Counter = BigInteger().with_variant(Integer(), "sqlite")


def _order() -> Column[int]:
    """Make the counter that says which of two rows came first; it never reuses a number."""
    return Column("seq", _Counter, primary_key=True, autoincrement=True)


def _where(condition: str) -> dict[str, Any]:
    """Restrict an index to the rows that are looked for by it, in both databases."""
    return {"sqlite_where": text(condition), "info": {"where": condition}}


@event.listens_for(metadata, "before_create")
def _restrict_in_postgresql(target: MetaData, connection: Connection, **_: object) -> None:
    # Said only where it counts: saying it with the index would load PostgreSQL's dialect in every process that has a SQLite store.
    if connection.dialect.name == "postgresql":
        for index in (index for table in target.tables.values() for index in table.indexes if "where" in index.info):
            index.dialect_options["postgresql"]["where"] = text(index.info["where"])


#: What the store says of itself: which hindscan made and last migrated it, for the message when it is too new.
store = Table(
    "store",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

#: Every event that was taken, once for each identity. Bodies are kept: a replay must see the same bytes.
events = Table(
    "events",
    metadata,
    _order(),
    Column("source", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text),
    # The event's own `time`; null if it has none.
    Column("time", BigInteger),
    # All context attributes as the event had them, extensions included (JSON).
    Column("attributes", Text, nullable=False),
    Column("data", LargeBinary),
    # Tells a repeated event from another one under the same identity without comparing bodies.
    Column("data_digest", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    # kafka, http, schedule, files.
    Column("way", Text, nullable=False),
    # Where it stands in its topic, if it came from one: an as-of cut by offset needs it (promise 3).
    Column("cluster", Text),
    Column("topic", Text),
    Column("topic_id", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    # The record's own time: stands in for a missing `time`.
    Column("record_time", BigInteger),
    # 1 once the same identity has come with different data; the first one counts, the others are in quarantine.
    Column("conflict", Integer, nullable=False, server_default="0"),
    # Why its body is no longer there: expired, forgotten; null while it is. A forgotten event has no source, and a digest for an id.
    Column("gone", Text),
    # Over HTTP there is no log that could be read again, so the row itself says which triggers decided about it when it came (JSON): an audit misses a decision
    # by it. Null for other ways in, and where an older hindscan wrote it.
    Column("triggers", Text),
    # CloudEvents: source + id identify an event; a second delivery must not make a second row.
    UniqueConstraint("source", "id", name="events_identity"),
    # `forget --subject` and the page's search; events without a subject are never looked for by it.
    Index("events_by_subject", "subject", **_where("subject IS NOT NULL")),
    # `replay` and `audit` go through events by time of receipt.
    Index("events_by_receipt", "received_at"),
    sqlite_autoincrement=True,
)

#: What one trigger made of one event. The primary key is promise 4: a second decision cannot exist, so no second run can.
decisions = Table(
    "decisions",
    metadata,
    Column("trigger", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    # Why not, or why it failed; empty for a match.
    Column("reason", Text, nullable=False),
    # The job's parameters as they were mapped (JSON); null unless matched.
    Column("parameters", Text),
    # The run it opened; null unless matched.
    Column("run", Text),
    # Digest of the first snapshot pinned for this trigger and event: retry and replay read it again (promise 3).
    Column("snapshot", Text),
    Column("decided_at", BigInteger, nullable=False),
    # The event first: what was decided about an event is looked up more often than what a trigger decided.
    PrimaryKeyConstraint("source", "id", "trigger", name="decisions_once"),
    CheckConstraint("outcome IN ('matched', 'unmatched', 'quarantined')", name="decisions_outcome"),
    # A match without a run would be an event lost in silence.
    CheckConstraint("(outcome = 'matched') = (run IS NOT NULL)", name="decisions_matched_has_run"),
    # `hindscan events --quarantined` and redrives look for the few that are held among all that were decided.
    Index("decisions_held", "source", "id", "trigger", **_where("outcome = 'quarantined'")),
    # The key is the row: half the pages to write for each event.
    sqlite_with_rowid=False,
)

#: What could not be taken as an event or could not be stored as one, with its bytes and the reason; nothing is dropped (promise 5).
quarantine = Table(
    "quarantine",
    metadata,
    _order(),
    Column("received_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    # Name of the class in `hindscan.errors`.
    Column("error", Text, nullable=False),
    Column("way", Text, nullable=False),
    # Header names and values in order, values in base64 (JSON).
    Column("headers", Text, nullable=False),
    Column("key", LargeBinary),
    Column("body", LargeBinary),
    Column("body_digest", Text, nullable=False),
    # Only where it did have an identity: another body under a known identity, or a row the database refused.
    Column("source", Text),
    Column("id", Text),
    Column("cluster", Text),
    Column("topic", Text),
    Column("topic_id", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    # Both as in `events`.
    Column("record_time", BigInteger),
    Column("gone", Text),
    # A record delivered again after a crash is the same record. Nulls are distinct: rows without a position are not affected.
    UniqueConstraint("cluster", "topic", "topic_id", "partition", "offset", name="quarantine_position"),
    # An event sent again and again with the same wrong body is kept once.
    UniqueConstraint("source", "id", "body_digest", name="quarantine_identity"),
    sqlite_autoincrement=True,
)

#: One row for each run. `token` grows with every claim: whoever holds an older one can change nothing (promise 4).
runs = Table(
    "runs",
    metadata,
    _order(),
    Column("id", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("state", Text, nullable=False),
    # The RunRequest (JSON).
    Column("request", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("token", Integer, nullable=False, server_default="0"),
    # Digest of the code bundle, in `codes`; empty: the project's at the time it starts.
    Column("code", Text, nullable=False, server_default=""),
    Column("trigger", Text),
    Column("event_source", Text),
    Column("event_id", Text),
    # The run this one repeats.
    Column("parent", Text),
    Column("error", Text),
    Column("message", Text),
    Column("result", Text),
    Column("snapshot", Text),
    Column("requested_by", Text, nullable=False, server_default=""),
    # Runs with one key go strictly one after another, in the order of `seq` (promise 13).
    Column("order_key", Text),
    # Not before this time: a declared lateness, T + lateness (promise 3).
    Column("not_before", BigInteger, nullable=False, server_default="0"),
    # Set while it runs; its owner sees it at the next heartbeat (promise 11).
    Column("cancel_requested_at", BigInteger),
    # 1: while it is failed no later run of its order key starts.
    Column("blocks", Integer, nullable=False, server_default="0"),
    # What the trigger counts, replaces and gathers its runs by; null where it does none of this.
    Column("key", Text),
    # Minus the priority: lower goes first, so that one ascending index serves the claim.
    Column("rank", Integer, nullable=False, server_default="0"),
    # Tries that failed since it was opened or retried by hand.
    Column("failures", Integer, nullable=False, server_default="0"),
    # The run of a newer event that took its place in the queue.
    Column("superseded_by", Text),
    # What it was asked for and what came of it was deleted on request: nobody may do it again.
    Column("forgotten_at", BigInteger),
    UniqueConstraint("id", name="runs_id"),
    CheckConstraint("state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')", name="runs_state"),
    # `hindscan runs --state`, and the claim's look at what is running.
    Index("runs_by_state", "state", "seq"),
    # The claim goes through what waits in this order; with the state, or SQLite would take the index above and sort.
    Index("runs_to_claim", "state", "rank", "seq", **_where("state = 'pending'")),
    # A newer event looks for the waiting runs of its key.
    Index("runs_waiting_by_key", "trigger", "key", **_where("state = 'pending' AND key IS NOT NULL")),
    # `hindscan runs --job`, `result JOB@latest`.
    Index("runs_by_job", "job", "seq"),
    # The claim asks whether a run of the same key is running, or an earlier one pending.
    Index("runs_by_order_key", "order_key", "state", "seq", **_where("order_key IS NOT NULL")),
    sqlite_autoincrement=True,
)

#: How many runs of one trigger or job may run at once. Apart from `runs`: a changed setting counts for what waits already.
limits = Table(
    "limits",
    metadata,
    # trigger:NAME or job:NAME.
    Column("name", Text, primary_key=True),
    Column("total", Integer),
    Column("per_key", Integer),
)

#: Who works on a run and until when it counts as alive. Apart from `runs`, so that a heartbeat touches one small row.
leases = Table(
    "leases",
    metadata,
    Column("run", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column("heartbeat_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # The sweep for dead owners.
    Index("leases_by_expiry", "expires_at"),
)

#: What happened to a run, in order; moves are written in the transaction that makes them.
facts = Table(
    "facts",
    metadata,
    _order(),
    Column("run", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    # A `progress.Fact` (JSON, tagged).
    Column("fact", Text, nullable=False),
    # The log of one run, and the stream of what is new in it.
    Index("facts_by_run", "run", "seq"),
    sqlite_autoincrement=True,
)

#: Snapshots by the digest of their JSON: a run and its (trigger, event) share one. Compressed: a pin lists every file.
snapshots = Table(
    "snapshots",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
)

#: Code as it was when a run was opened: JobSpec (JSON) and Code (MessagePack). One bundle can hold several jobs.
codes = Table(
    "codes",
    metadata,
    Column("digest", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("code", LargeBinary, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("digest", "job", name="codes_by_digest"),
)

#: Up to where a trigger's records are in this store; written in the transaction that records them, never after it. The topic's id is in
#: the key: a recreated topic begins anew.
positions = Table(
    "positions",
    metadata,
    Column("trigger", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    # Where the trigger began, explicit before its first poll.
    Column("start_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("trigger", "cluster", "topic", "topic_id", "partition", name="positions_once"),
)

#: What is being decided about right now, written before it is: a process that dies on it leaves this behind (promise 5). A lane is a partition, or an
#: event that came another way; one row each, overwritten by the next batch.
tries = Table(
    "tries",
    metadata,
    Column("lane", Text, primary_key=True),
    # Offsets of the batch, both included; 0 where there are none.
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    # How many processes have begun to decide about it, this one included.
    Column("tries", Integer, nullable=False),
    # The process: its own marks say nothing to it, for it lives.
    Column("process", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

#: What a trigger of files found when it began, and so does not start runs for; explicit before its first look. One row: it is whole or not there.
baselines = Table(
    "baselines",
    metadata,
    Column("trigger", Text, nullable=False),
    Column("source", Text, nullable=False),
    # Names of versions (JSON), compressed: a lake has many.
    Column("versions", LargeBinary, nullable=False),
    Column("began_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("trigger", "source", name="baselines_once"),
)

#: Replays and audits that were asked for over HTTP: what became of them is told after a restart, too.
errands = Table(
    "errands",
    metadata,
    Column("name", Text, primary_key=True),
    # What was asked for, and what came of it (JSON).
    Column("asked", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("error", Text),
    Column("message", Text),
    Column("begun_at", BigInteger, nullable=False),
    # The server that does it, and until when it counts as alive.
    Column("owner", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('waiting', 'running', 'done', 'failed')", name="errands_state"),
)

#: A client's Idempotency-Key and the run it opened: a repeated request gets the same run, another one under the key is refused.
idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("request_digest", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

#: Where events of runs are sent to, and who sends at present: one dispatcher at a time, so that none sends double on purpose. The row is what makes a
#: run's move write to `outbox`, whichever process moves it; what happened before it was declared is not sent.
outlets = Table(
    "outlets",
    metadata,
    Column("name", Text, primary_key=True),
    # The `source` of its events.
    Column("source", Text, nullable=False),
    Column("declared_at", BigInteger, nullable=False),
    Column("owner", Text),
    Column("expires_at", BigInteger, nullable=False, server_default="0"),
)

#: What runs say of themselves, one row for each outlet; written in the transaction that moves the run, and sent afterwards under the id it has here.
outbox = Table(
    "outbox",
    metadata,
    _order(),
    Column("outlet", Text, nullable=False),
    Column("run", Text, nullable=False),
    # The event in the JSON format.
    Column("event", Text, nullable=False),
    Column("written_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("tries", Integer, nullable=False, server_default="0"),
    # After a failed try: not before this time.
    Column("next_at", BigInteger, nullable=False, server_default="0"),
    # Of the last failed try, or why it is not for this outlet.
    Column("reason", Text, nullable=False, server_default=""),
    Column("sent_at", BigInteger),
    CheckConstraint("state IN ('waiting', 'sent', 'unmatched', 'refused')", name="outbox_state"),
    # The sender looks for what waits, oldest first, and whether something earlier of the same run does.
    Index("outbox_waiting", "outlet", "run", "seq", **_where("state = 'waiting'")),
    # What is done with goes after a time.
    Index("outbox_settled", "sent_at", **_where("state IN ('sent', 'unmatched')")),
    sqlite_autoincrement=True,
)
