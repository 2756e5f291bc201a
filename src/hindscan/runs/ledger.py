"""The ledger: what was received, what was decided about it, and the runs it opened, in one transaction.

Keeps promises 4 and 5. `record` writes a batch: the events, one decision for each trigger, a run for each match, and the positions up to which the
triggers' topics are now in the store. Only when it has returned may an offset be committed or a response be sent. The primary key of
`decisions` is what makes a run effective exactly once: of all that ever try, in any process, one inserts the decision, and only with it the run.

Nothing is dropped. The first event under an identity counts; another body under it is flagged and kept in quarantine. A row that the database refuses
would block its neighbours for ever, so a failing batch is cut in two until the row stands alone, and it ends in quarantine with the reason.

::

    Entry, Unreadable -> record -> events + decisions + runs + quarantine + positions -> Recorded

Points of failure: `ledger.writing` (inside the transaction, all rows written), `ledger.recorded` (committed, nobody knows yet).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from hindscan import times
from hindscan.errors import StoreError
from hindscan.faults import point
from hindscan.runs import positions, schema
from hindscan.runs.decisions import Stored, find, look_up, write_decisions
from hindscan.runs.entries import Decision, Entry, Outcome, Recorded, Unreadable
from hindscan.runs.forgotten import forgotten_among
from hindscan.runs.statement import insert_many, keys_in_parts
from hindscan.runs.store import blames_a_row
from hindscan.runs.tries import settle

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hindscan.history.snapshot import Position
    from hindscan.runs.store import Store

__all__ = ["Decision", "Entry", "Outcome", "Recorded", "Unreadable", "record"]


def record(
    store: Store, batch: Sequence[Entry | Unreadable], *, redrive: bool = False, settled: Collection[str] = ()
) -> list[Recorded]:
    """Record what was received, each once, in the order given; in one transaction unless a row is refused.

    Parameters
    ----------
    batch : sequence of Entry or Unreadable
        The entries of one partition in the order of their offsets.
    redrive : bool
        The events are recorded; of their decisions those that are in quarantine give way to these, and nothing else is written.
    settled : collection of str
        Lanes whose marks (`runs.tries`) are taken back when all of it is recorded.

    Returns
    -------
    list of Recorded
        One for each entry, in the same order.

    Raises
    ------
    hindscan.errors.StoreUnavailable
        The database does not answer; recording the same batch again later is safe.
    """
    if not batch:
        return []
    try:
        recorded = _write(store, batch, redrive, settled)
    except Exception as fault:
        if not blames_a_row(fault):
            raise
        if len(batch) > 1:
            middle = len(batch) // 2
            first = record(store, batch[:middle], redrive=redrive)
            return first + record(store, batch[middle:], redrive=redrive, settled=settled)
        recorded = [_set_apart(store, batch[0], fault, settled)]
    point("ledger.recorded")
    return recorded


def _set_apart(store: Store, entry: Entry | Unreadable, fault: Exception, settled: Collection[str]) -> Recorded:
    """Keep the entry that the database refuses: the event with its decisions in quarantine, else its bytes, else what can be said of it."""
    cause = getattr(fault, "orig", None) or fault
    reason = (
        f"While recording the event: the store must be able to hold it; it refused it: {type(cause).__name__}: {cause}"
    )
    if isinstance(entry, Entry):
        kept = tuple(
            Decision(trigger=decision.trigger, outcome="quarantined", reason=reason) for decision in entry.decisions
        )
        event = entry.event
        bare = Unreadable(
            reason=reason,
            error=StoreError.__name__,
            way=entry.way,
            body=json.dumps(event.to_json(), default=repr).encode(),
            headers=(("content-type", b"application/cloudevents+json"),),
            position=entry.position,
            record_time=entry.record_time,
            received_at=entry.received_at,
            triggers=tuple(decision.trigger for decision in entry.decisions),
        )
        tries: list[Entry | Unreadable] = [replace(entry, decisions=kept)] if kept else []
    else:
        bare = replace(entry, reason=f"{entry.reason} {reason}")
        tries = []
    digest = _digest(bare.body)
    where = f" It stood at {msgspec.json.encode(bare.position).decode()}; its body had the digest {digest}."
    tries += [
        bare,
        replace(
            bare,
            position=None,
            record_time=None,
            received_at=None,
            body=None,
            key=None,
            headers=(),
            reason=bare.reason + where,
        ),
    ]
    for attempt in tries[:-1]:
        try:
            return _write(store, [attempt], False, settled)[0]
        except Exception as again:
            if not blames_a_row(again):
                raise
    return _write(store, tries[-1:], False, settled)[0]


def _write(
    store: Store, batch: Sequence[Entry | Unreadable], redrive: bool, settled: Collection[str]
) -> list[Recorded]:
    now = store.now()
    entries = [entry for entry in batch if isinstance(entry, Entry)]
    digests = {id(entry): entry.event.data_digest() for entry in entries}
    with store.write(turn="record") as connection:
        _resolve(connection, entries)
        # Nothing of these events is written again.
        forgotten = forgotten_among(connection, {entry.event.identity for entry in entries})
        known = [entry for entry in entries if entry.event.identity not in forgotten] if forgotten else entries
        new = [entry for entry in known if entry.past or not redrive]  # what is driven again is recorded already
        in_conflict = _write_events(connection, new, digests, now) if new else set()
        kept = [entry for entry in known if id(entry) not in in_conflict]
        stored = write_decisions(connection, kept, now, redrive)
        _recall(connection, entries, forgotten, stored)
        look_up(connection, [entry for entry in entries if id(entry) in in_conflict], stored)
        _write_quarantine(connection, batch, in_conflict, digests, now)
        if not redrive:
            positions.advance(connection, _passed(batch), now)
        settle(connection, settled)
        point("ledger.writing")
    return [_recorded(entry, stored, in_conflict) for entry in batch]


def _resolve(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Take what can be read now out of the quarantine; it is recorded in the same transaction."""
    rows = [entry.resolves for entry in entries if entry.resolves is not None]
    if rows:
        connection.execute(sa.delete(schema.quarantine).where(schema.quarantine.c.seq.in_(rows)))


def _recall(
    connection: sa.Connection,
    entries: Sequence[Entry],
    forgotten: dict[tuple[str, str], tuple[str, str]],
    stored: Stored,
) -> None:
    """Find the runs of forgotten events; a trigger that had not decided about one never will."""
    wanted: Stored = {
        (decision.trigger, *forgotten[entry.event.identity]): ("unmatched", "", None, False)
        for entry in entries
        if entry.event.identity in forgotten
        for decision in entry.decisions
    }
    if wanted:
        find(connection, wanted)
    for identity, (empty, digest) in forgotten.items():
        stored |= {
            (trigger, *identity): found
            for (trigger, source, name), found in wanted.items()
            if (source, name) == (empty, digest)
        }


def _write_events(connection: sa.Connection, entries: Sequence[Entry], digests: dict[int, str], now: int) -> set[int]:
    """Write the events that are new; give those (by `id`) whose identity was there with other data."""
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first.setdefault(entry.event.identity, entry)
    rows = [_event_row(entry, digests[id(entry)], now) for entry in first.values()]
    known = {identity: digests[id(entry)] for identity, entry in first.items()}
    if insert_many(connection, schema.events, rows) != len(rows):
        columns = (schema.events.c.source, schema.events.c.id)
        for part in keys_in_parts(known):
            found = connection.execute(
                sa.select(*columns, schema.events.c.data_digest).where(sa.tuple_(*columns).in_(part))
            )
            known |= {(source, identity): digest for source, identity, digest in found}
    in_conflict = {id(entry) for entry in entries if digests[id(entry)] != known[entry.event.identity]}
    for identity in {entry.event.identity for entry in entries if id(entry) in in_conflict}:
        connection.execute(
            sa.update(schema.events)
            .where(schema.events.c.source == identity[0], schema.events.c.id == identity[1])
            .values(conflict=1)
        )
    return in_conflict


def _event_row(entry: Entry, digest: str, now: int) -> dict[str, object]:
    event = entry.event
    return {
        "source": event.source,
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "time": None if event.time is None else times.from_datetime(event.time),
        "attributes": msgspec.json.encode(event.context()).decode(),
        "data": event.data_bytes(),
        "data_digest": digest,
        "received_at": now if entry.received_at is None else entry.received_at,
        "way": entry.way,
        **_place(entry.position),
        "record_time": entry.record_time,
        "triggers": _deciding(entry) if entry.way == "http" else None,
    }


def _deciding(entry: Entry) -> str:
    return msgspec.json.encode([decision.trigger for decision in entry.decisions]).decode()


_NOWHERE: Final[Mapping[str, object]] = dict.fromkeys(("cluster", "topic", "topic_id", "partition", "offset"))


def _place(at: Position | None) -> Mapping[str, object]:
    if at is None:
        return _NOWHERE
    return {
        "cluster": at.cluster,
        "topic": at.topic,
        "topic_id": at.topic_id,
        "partition": at.partition,
        "offset": at.offset,
    }


def _write_quarantine(
    connection: sa.Connection,
    batch: Sequence[Entry | Unreadable],
    in_conflict: set[int],
    digests: dict[int, str],
    now: int,
) -> None:
    rows = []
    for entry in batch:
        if isinstance(entry, Unreadable):
            rows.append(_quarantine_row(entry, (None, None), _digest(entry.body), now))
        elif id(entry) in in_conflict:
            kept = Unreadable(
                reason=_CONFLICT,
                error="Conflict",
                way=entry.way,
                body=msgspec.json.encode(entry.event.to_json()),
                headers=(("content-type", b"application/cloudevents+json"),),
                position=entry.position,
                record_time=entry.record_time,
                received_at=entry.received_at,
            )
            rows.append(_quarantine_row(kept, entry.event.identity, digests[id(entry)], now))
    insert_many(connection, schema.quarantine, rows)


_CONFLICT = (
    "While recording the event: an event's source and id must name one event; another one with different data came before under the same. "
    "The first counts; give this one an id of its own and send it again."
)


def _quarantine_row(
    entry: Unreadable, identity: tuple[str | None, str | None], digest: str, now: int
) -> dict[str, object]:
    # json.dumps escapes all but ASCII: what made an event unstorable (a NUL, half a surrogate pair) must not do it again here.
    headers = [[name, None if value is None else base64.b64encode(value).decode()] for name, value in entry.headers]
    return {
        "received_at": now if entry.received_at is None else entry.received_at,
        "reason": entry.reason.replace("\0", "\\0").encode(errors="backslashreplace").decode(),
        "error": entry.error,
        "way": entry.way,
        "headers": json.dumps(headers),
        "key": entry.key,
        "body": entry.body,
        "body_digest": digest,
        "source": identity[0],
        "id": identity[1],
        **_place(entry.position),
        "record_time": entry.record_time,
    }


def _digest(body: bytes | None) -> str:
    return f"sha256:{hashlib.sha256(body or b'').hexdigest()}"


def _passed(batch: Sequence[Entry | Unreadable]) -> list[tuple[str, Position]]:
    """Tell which triggers have gone past which positions."""
    passed = []
    for entry in batch:
        if entry.position is not None and not (isinstance(entry, Entry) and entry.past):
            names = entry.triggers if isinstance(entry, Unreadable) else [d.trigger for d in entry.decisions]
            passed += [(name, entry.position) for name in names]
    return passed


def _recorded(entry: Entry | Unreadable, stored: Stored, in_conflict: set[int]) -> Recorded:
    if isinstance(entry, Unreadable):
        return Recorded(identity=None, quarantined={"": entry.reason})
    opened: dict[str, str] = {}
    existing: dict[str, str] = {}
    quarantined: dict[str, str] = {}
    conflict = id(entry) in in_conflict
    for decision in entry.decisions:
        key = (decision.trigger, *entry.event.identity)
        outcome, reason, run, mine = stored[key]
        if run is not None and mine and not conflict:
            opened[decision.trigger] = run
            # The same event a second time in one batch finds the run there.
            stored[key] = (outcome, reason, run, False)
        elif run is not None:
            existing[decision.trigger] = run
        elif outcome == "quarantined":
            quarantined[decision.trigger] = reason
    if conflict:
        quarantined[""] = _CONFLICT
    return Recorded(
        identity=entry.event.identity, opened=opened, existing=existing, quarantined=quarantined, conflict=conflict
    )
