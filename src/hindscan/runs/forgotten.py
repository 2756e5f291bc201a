"""What the store knows of a subject, and how it forgets it.

Part of `forgetting`. An identity stays as a digest, under a source that no event can have: what comes again is recognised and opens nothing (promise 4), and
cannot be read back. The runs stay as bare facts: which job, when, which state. They can be neither retried nor rerun. All of it happens in one transaction,
the last step: as long as it has not, the subject is found again, so a forgetting that was interrupted is completed by repeating it.

::

    concerned -> Concerned -> seal (nobody works on these runs any more) -> files, by `forgetting` -> redact
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan.errors import Conflict
from hindscan.runs import register, schema
from hindscan.runs.run import Run, RunRequest
from hindscan.runs.statement import Statement, keys_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hindscan.runs.store import Store

__all__ = ["FORGOTTEN_SOURCE", "Concerned", "concerned", "forgotten_among", "forgotten_identity", "redact", "seal"]

_Identity = tuple[str, str]

#: An event's source is never empty.
FORGOTTEN_SOURCE: Final = ""
#: Takes the place of reasons and messages, which may repeat what was in the event.
SAID: Final = "Forgotten: what it held was deleted on request."
#: Headers of a record that say an event's subject, in the Kafka and in the HTTP binding.
_SUBJECT_HEADERS: Final = ("ce_subject", "ce-subject")


class Concerned(msgspec.Struct, frozen=True, kw_only=True):
    """All that the store has of one subject."""

    subject: str
    #: (seq, source, id) of its events.
    events: tuple[tuple[int, str, str], ...]
    #: Where those that came from a topic stand in it, as TOPIC[PARTITION]@OFFSET.
    positions: tuple[str, ...]
    #: Runs that these events opened, and those that repeat them.
    runs: tuple[Run, ...]
    #: Numbers of the rows in quarantine.
    quarantined: tuple[int, ...]


def forgotten_identity(source: str, identity: str) -> tuple[str, str]:
    """Give what an event is known by when it is forgotten."""
    return FORGOTTEN_SOURCE, f"sha256:{hashlib.sha256(msgspec.json.encode((source, identity))).hexdigest()}"


def forgotten_among(connection: sa.Connection, identities: Iterable[_Identity]) -> dict[_Identity, _Identity]:
    """Give those of some identities that were forgotten, with what they are known by."""
    columns = (schema.events.c.source, schema.events.c.id)
    if _ANY.first(connection) is None:
        return {}
    digests = {forgotten_identity(*identity): identity for identity in identities}
    found: dict[_Identity, _Identity] = {}
    for part in keys_in_parts(digests):
        there = connection.execute(sa.select(*columns).where(sa.tuple_(*columns).in_(part)))
        found |= {digests[source, digest]: (source, digest) for source, digest in there}
    return found


_ANY: Final = Statement(
    lambda _: sa.select(schema.events.c.source).where(schema.events.c.source == FORGOTTEN_SOURCE).limit(1)
)


def concerned(store: Store, subject: str) -> Concerned:
    """Find events, runs and quarantined records of a subject. Reads the whole quarantine."""
    events = schema.events
    with store.read() as connection:
        columns = (events.c.seq, events.c.source, events.c.id, events.c.topic, events.c.partition, events.c.offset)
        found = connection.execute(sa.select(*columns).where(events.c.subject == subject).order_by(events.c.seq)).all()
        of_subject = tuple((int(row[0]), str(row[1]), str(row[2])) for row in found)
        return Concerned(
            subject=subject,
            events=of_subject,
            positions=tuple(f"{row[3]}[{row[4]}]@{row[5]}" for row in found if row[3] is not None),
            runs=_runs(connection, subject),
            quarantined=tuple(_quarantined(connection, subject, {event[1:] for event in of_subject})),
        )


def _runs(connection: sa.Connection, subject: str) -> tuple[Run, ...]:
    events, runs, decisions = schema.events, schema.runs, schema.decisions
    theirs = sa.select(decisions.c.run).join(
        events, sa.and_(events.c.source == decisions.c.source, events.c.id == decisions.c.id)
    )
    opened = sa.select(runs.c.id).join(
        events, sa.and_(events.c.source == runs.c.event_source, events.c.id == runs.c.event_id)
    )
    known: dict[str, Run] = {}
    query = sa.select(runs).where(
        sa.or_(
            runs.c.id.in_(theirs.where(events.c.subject == subject)),
            runs.c.id.in_(opened.where(events.c.subject == subject)),
        )
    )
    new = [register.from_row(row) for row in connection.execute(query).mappings()]
    while new:
        known |= {run.id: run for run in new}
        # What repeats a run was asked for the same thing.
        parts = keys_in_parts((run.id,) for run in new)
        new = [
            run
            for part in parts
            for row in connection.execute(sa.select(runs).where(runs.c.parent.in_([key[0] for key in part]))).mappings()
            if (run := register.from_row(row)).id not in known
        ]
    return tuple(run for _, run in sorted(known.items()))


def _quarantined(connection: sa.Connection, subject: str, identities: set[tuple[str, str]]) -> Iterable[int]:
    table = schema.quarantine
    columns = (table.c.seq, table.c.source, table.c.id, table.c.headers, table.c.body)
    rows = connection.execution_options(yield_per=1_000).execute(
        sa.select(*columns).where(sa.or_(table.c.gone.is_(None), table.c.gone != "forgotten")).order_by(table.c.seq)
    )
    for seq, source, identity, headers, body in rows:
        if (source, identity) in identities or _names(subject, headers, None if body is None else bytes(body)):
            yield int(seq)


def _names(subject: str, headers: str, body: bytes | None) -> bool:
    """Tell whether what could not be read names the subject where an event would: a header, or a member of a JSON object; with a fault before it, as text."""
    import base64

    for name, value in msgspec.json.decode(headers):
        if name.lower() in _SUBJECT_HEADERS and value is not None:
            return bool(base64.b64decode(value) == subject.encode())
    if not body:
        return False
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(subject) in body
    return isinstance(document, dict) and document.get("subject") == subject


def seal(store: Store, found: Concerned) -> None:
    """Let nobody work on these runs any more: those that wait are cancelled.

    Raises
    ------
    hindscan.errors.Conflict
        One is running.
    """
    runs = schema.runs
    ids = [run.id for run in found.runs]
    with store.write(turn="claim") as connection:
        now = store.now()
        states = {
            str(run): str(state)
            for part in keys_in_parts((run,) for run in ids)
            for run, state in connection.execute(
                sa.select(runs.c.id, runs.c.state).where(runs.c.id.in_([key[0] for key in part]))
            )
        }
        running = [run for run, state in states.items() if state == "running"]
        if running:
            raise Conflict(
                f"Forgetting a subject: none of its runs may be running; {', '.join(running[:10])} {'is' if len(running) == 1 else 'are'}. "
                "Cancel them (`hindscan cancel RUN`) or wait for their end, then repeat.",
                runs=running,
            )
        for run in (run for run, state in states.items() if state == "pending"):
            register.move_in(connection, run, "cancelled", now=now, token=None, reason="forgotten", values={})
        for part in keys_in_parts((run,) for run in ids):
            chosen = (runs.c.id.in_([key[0] for key in part]), runs.c.forgotten_at.is_(None))
            connection.execute(sa.update(runs).where(*chosen).values(forgotten_at=now))


def redact(store: Store, found: Concerned) -> None:
    """Delete what the store has of a subject, in one transaction."""
    events, decisions = schema.events, schema.decisions
    # The turn of the ledger: nothing may be recorded under an identity while it becomes a digest.
    with store.write(turn="record") as connection:
        _overwrite(connection)
        for seq, source, identity in found.events:
            empty, digest = forgotten_identity(source, identity)
            of_event = (decisions.c.source == source, decisions.c.id == identity)
            bare: dict[str, Any] = {"source": empty, "id": digest}
            connection.execute(
                sa.update(decisions).where(*of_event).values(**bare, reason="", parameters=None, snapshot=None)
            )
            cleared: dict[str, Any] = dict.fromkeys(("subject", "time", "data", "record_time"))
            connection.execute(
                sa.update(events)
                .where(events.c.seq == seq)
                .values(**bare, **cleared, attributes="{}", data_digest="", gone="forgotten")
            )
        for run in found.runs:
            _redact_run(connection, run)
        for seq in found.quarantined:
            _redact_record(connection, seq)
        _drop_snapshots(connection)
    if found.events or found.quarantined:
        _flush(store)


def _redact_run(connection: sa.Connection, run: Run) -> None:
    runs, facts = schema.runs, schema.facts
    event: Sequence[str | None] = (run.event_source, run.event_id)
    if run.event_source is not None and run.event_id is not None and run.event_source != FORGOTTEN_SOURCE:
        event = forgotten_identity(run.event_source, run.event_id)
    cleared = dict.fromkeys(("result", "snapshot", "order_key", "key"))
    request = msgspec.json.encode(RunRequest(job=run.job)).decode()
    connection.execute(
        sa.update(runs)
        .where(runs.c.id == run.id)
        .values(**cleared, request=request, event_source=event[0], event_id=event[1], message=SAID)
    )
    connection.execute(sa.delete(facts).where(facts.c.run == run.id))
    # What it said of itself holds its parameters, sent or not.
    connection.execute(sa.delete(schema.outbox).where(schema.outbox.c.run == run.id))


def _redact_record(connection: sa.Connection, seq: int) -> None:
    table = schema.quarantine
    cleared = dict.fromkeys(("body", "key", "source", "id", "record_time"))
    # The digest of a body is unique with its identity, and can be guessed from.
    values = {"headers": "[]", "reason": SAID, "body_digest": f"forgotten:{seq}", "gone": "forgotten"}
    connection.execute(sa.update(table).where(table.c.seq == seq).values(**cleared, **values))


def _drop_snapshots(connection: sa.Connection) -> None:
    """Delete snapshots that nobody has any more: they tell which keys and bounds were asked for."""
    table = schema.snapshots
    held = sa.union(
        *(
            sa.select(holder.c.snapshot).where(holder.c.snapshot.is_not(None))
            for holder in (schema.runs, schema.decisions)
        )
    )
    connection.execute(sa.delete(table).where(table.c.digest.not_in(held)))


def _overwrite(connection: sa.Connection) -> None:
    """Have SQLite write zeros over what it deletes; PostgreSQL does so when it vacuums."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")


def _flush(store: Store) -> None:
    """Have SQLite empty its log, which holds the pages as they were."""
    with store.read() as connection:
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
