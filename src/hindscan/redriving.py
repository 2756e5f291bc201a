"""Redriving: what is in quarantine is decided once more, by the triggers and jobs as they are now.

Keeps promises 4 and 5: after the filter, the mapping or the job was mended, exactly the (trigger, event) pairs that are held get a new decision, in one
transaction with the run that it opens; a pair that was decided meanwhile keeps what it has, so there is never a second run. A record that could not be read
is read again by the present rules, and recorded from its own place. The event itself is never edited: another body is another event, with an id of its own.

::

    Handle -> held -> Intake.redecide, Intake.reread -> ledger.record -> Redriven, Redriven, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from hindscan.errors import Conflict, Gone, NotFound
from hindscan.events.received import Received, received_from_kafka
from hindscan.listening import wrapped_at
from hindscan.runs import held, positions
from hindscan.runs.ledger import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindscan.config import Project
    from hindscan.intake import Intake
    from hindscan.runs.held import Handle, HeldEvent, HeldRecord
    from hindscan.runs.ledger import Entry, Recorded
    from hindscan.runs.store import Store

__all__ = ["Redriven", "redrive"]

#: An offset that no record has: where a trigger has no place in a topic, nothing in it is its.
_NOWHERE: Final = 2**62


class Redriven(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one held pair, or of one record."""

    #: Its handle.
    event: str
    source: str | None = None
    id: str | None = None
    #: None: the record as a whole.
    trigger: str | None = None
    #: "matched", "unmatched", "quarantined", or "recorded" of a record that no trigger listens to.
    outcome: str
    run: str | None = None
    reason: str = ""


def redrive(
    project: Project,
    store: Store,
    intake: Intake,
    name: str | None,
    *,
    source: str | None = None,
    trigger: str | None = None,
) -> list[Redriven]:
    """Decide once more about one event, by the triggers that hold it, or about all that is held and can be decided, in the order it came in.

    Parameters
    ----------
    name : str or None
        Handle, id of the event, or place in a topic; see `held.find`. None: all.
    source : str, optional
        Source of the event, where several have the id.
    trigger : str, optional
        Of all: only what this trigger holds.

    Raises
    ------
    hindscan.errors.NotFound
        There is none, or no such trigger.
    hindscan.errors.Conflict
        Nothing of the one is held, or it can never be taken under its identity.
    hindscan.errors.Gone
        Its body was deleted.
    """
    if name is None:
        return _redrive_all(project, store, intake, trigger)
    handle = held.find(store, name, source)
    if handle.kind == "event":
        [event] = held.held_events(store, number=handle.number)
        if not event.triggers:
            raise Conflict(
                f"Redriving {handle}: a trigger must hold it; all have decided about it. `hindscan events` shows what. To send it once more, give it another id.",
                event=str(handle),
            )
        if event.event is None:
            raise _gone(handle, event.gone)
        return _redrive_events(project, store, intake, [event])
    [row] = held.held_records(store, number=handle.number)
    if row.error == Conflict.__name__:
        raise Conflict(
            f"Redriving {handle}: it must be the first under its identity; another event came before with other data, and that one counts. Send this one "
            "again with an id of its own.",
            event=str(handle),
        )
    if row.gone is not None:
        raise _gone(handle, row.gone)
    return _redrive_records(project, store, intake, [row])


def _redrive_all(project: Project, store: Store, intake: Intake, trigger: str | None) -> list[Redriven]:
    if trigger is not None and trigger not in project.triggers:
        known = ", ".join(sorted(project.triggers)) or "none"
        raise NotFound(f"Redriving what {trigger!r} holds: it must be a declared trigger. Declared: {known}.")
    done: list[Redriven] = []
    after = 0
    if trigger is None:
        while rows := held.held_records(store, after=after, unlike=(Conflict.__name__,)):
            after = rows[-1].handle.number
            done += _redrive_records(project, store, intake, [row for row in rows if row.gone is None])
    after = 0
    while events := held.held_events(store, trigger=trigger, after=after):
        after = events[-1].handle.number
        done += _redrive_events(project, store, intake, [event for event in events if event.event is not None])
    return done


def _redrive_events(project: Project, store: Store, intake: Intake, events: list[HeldEvent]) -> list[Redriven]:
    entries = [intake.redecide(_received(event), event.triggers) for event in events]
    done = []
    for event, recorded in zip(events, record(store, entries, redrive=True), strict=True):
        done += _told(event.handle, recorded, [name for name in event.triggers if name in project.triggers])
        done += [
            Redriven(
                event=str(event.handle),
                source=event.source,
                id=event.id,
                trigger=name,
                outcome="quarantined",
                reason=_undeclared(name),
            )
            for name in event.triggers
            if name not in project.triggers
        ]
    return done


def _undeclared(name: str) -> str:
    trigger, _, replay = name.partition("@")
    if replay:
        return f"The replay {replay} of trigger {trigger} could not decide. Repeat it: `hindscan replay {trigger} --name {replay}`."
    return f"The trigger {name} is not declared any more. Declare it again, or leave the event held."


def _redrive_records(project: Project, store: Store, intake: Intake, rows: list[HeldRecord]) -> list[Redriven]:
    starts: dict[tuple[str, str, int], int] = {}
    for name in project.triggers:
        for place in positions.places(store, name):
            starts[name, place.topic_id, place.partition] = place.start_offset
    done: list[Redriven] = []
    entries: list[tuple[HeldRecord, Entry]] = []
    for row in rows:
        # One that has no place of its own in this topic began to listen later.
        for name in project.triggers:
            starts.setdefault((name, row.place["topic_id"], row.place["partition"]), _NOWHERE)
        for received in _read_again(project, row):
            entry = intake.reread(received, starts, row.handle.number)
            if entry is None:
                done.append(Redriven(event=str(row.handle), outcome="quarantined", reason=received.reason))
            else:
                entries.append((row, entry))
    recorded = record(store, [entry for _, entry in entries])
    for (row, entry), one in zip(entries, recorded, strict=True):
        source, identity = entry.event.identity
        done += _told(row.handle, one, [decision.trigger for decision in entry.decisions]) or [
            Redriven(event=str(row.handle), source=source, id=identity, outcome="recorded")
        ]
    return done


def _told(handle: Handle, recorded: Recorded, triggers: Sequence[str]) -> list[Redriven]:
    source, identity = recorded.identity or (None, None)
    told = []
    for name in triggers:
        run = recorded.opened.get(name) or recorded.existing.get(name)
        reason = recorded.quarantined.get(name)
        outcome = "matched" if run is not None else "unmatched" if reason is None else "quarantined"
        told.append(
            Redriven(
                event=str(handle),
                source=source,
                id=identity,
                trigger=name,
                outcome=outcome,
                run=run,
                reason=reason or "",
            )
        )
    if (whole := recorded.quarantined.get("")) is not None:
        return [Redriven(event=str(handle), source=source, id=identity, outcome="quarantined", reason=whole)]
    return told


def _received(event: HeldEvent) -> Received:
    return Received(
        event=event.event,
        way=event.way,
        record_time=event.record_time,
        received_at=event.received_at,
        **event.place,
    )


def _read_again(project: Project, row: HeldRecord) -> list[Received]:
    read = received_from_kafka(
        row.body,
        row.headers,
        key=row.key,
        record_time=row.record_time,
        wrapped=wrapped_at(project, row.place["cluster"] or "", row.place["topic"] or ""),
        **row.place,
    )
    return [replace(one, way=row.way, received_at=row.received_at) for one in read]


def _gone(handle: Handle, why: str | None) -> Gone:
    return Gone(
        f"Redriving {handle}: its body must be there; it was deleted ({why}). Nothing can be decided about it any more; send it again with another id.",
        event=str(handle),
        why=why,
    )
