"""From what was received to what is recorded: where events, jobs and runs meet.

Keeps promises 4 and 5: for everything received, every trigger that listens there decides, what it decides is recorded with the event in one transaction, and only then is
the record committed or the request answered. Nothing is dropped: what is no event, what a filter or mapping cannot decide, and parameters that do
not fit the job end in quarantine with their reason. Deciding is pure and never runs user code.

::

    Received -> triggers that listen there -> decide -> parameters fit? -> Entry -> ledger.record -> Recorded

Points of failure: `intake.received` (nothing is recorded yet), `intake.recorded` (nobody was told yet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from hindscan import faults
from hindscan.errors import HindscanError, NotFound
from hindscan.events.trigger import Source, Trigger, decide
from hindscan.history.snapshot import Position
from hindscan.planning import ask
from hindscan.runs.ledger import Decision, Entry, Recorded, Unreadable, record

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.event import Event
    from hindscan.events.received import Received
    from hindscan.jobs.job import JobSpec
    from hindscan.runs.store import Store

__all__ = ["Intake"]


class Intake:
    """Decides and records; safe to call from several threads.

    Parameters
    ----------
    project : Project
        Its triggers decide.
    store : Store
        Where events, decisions and runs go.
    specs : mapping
        The jobs the triggers run, by name.

    Raises
    ------
    hindscan.errors.NotFound
        A trigger names a job that there is not.
    """

    def __init__(self, project: Project, store: Store, specs: Mapping[str, JobSpec]) -> None:
        triggers = project.triggers
        unknown = [f"{trigger.name} runs {trigger.job!r}" for trigger in triggers.values() if trigger.job not in specs]
        if unknown:
            known = ", ".join(sorted(specs)) or "none"
            raise NotFound(f"Setting up triggers: each must run a declared job; {'; '.join(unknown)}. Jobs: {known}.")
        self._project, self._store = project, store
        self._specs = specs
        self._triggers = triggers
        self._by_source: dict[Source, list[Trigger]] = {}
        for trigger in triggers.values():
            for source in trigger.sources:
                self._by_source.setdefault(source, []).append(trigger)

    def take(
        self, batch: Sequence[Received], starts: Mapping[tuple[str, str, int], int] | None = None
    ) -> list[Recorded]:
        """Decide about and record what was received, in order.

        Parameters
        ----------
        batch : sequence of Received
            Of Kafka records: those of one partition in the order of their offsets.
        starts : mapping, optional
            First offset of (trigger, topic id, partition): what lies before is none of the trigger's. Default: everything is.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            Nothing was recorded; taking the same batch again later is safe.
        """
        faults.point("intake.received")
        entries = [self._entry(received, starts or {}) for received in batch]
        recorded = record(self._store, entries)
        faults.point("intake.recorded")
        return recorded

    def _entry(self, received: Received, starts: Mapping[tuple[str, str, int], int]) -> Entry | Unreadable:
        position = _position(received)
        listening = [
            trigger
            for trigger in self._listening(received)
            if position is None
            or position.offset >= starts.get((trigger.name, position.topic_id, position.partition), 0)
        ]
        if received.event is None:
            return Unreadable(
                reason=received.reason,
                error="InvalidEvent",
                way=received.way,
                body=received.body,
                headers=received.headers,
                key=received.key,
                position=position,
                received_at=received.received_at,
                triggers=tuple(trigger.name for trigger in listening),
            )
        return Entry(
            event=received.event,
            way=received.way,
            decisions=tuple(self._decision(trigger, received, received.event, position) for trigger in listening),
            position=position,
            record_time=received.record_time,
            received_at=received.received_at,
        )

    def _listening(self, received: Received) -> list[Trigger]:
        if received.trigger is not None:
            return [self._triggers[received.trigger]]
        listening = self._by_source.get(_source(received), [])
        # What is posted to all is a CloudEvent; bodies that are none are posted to the one trigger that says what they are.
        return [trigger for trigger in listening if trigger.wrapping is None] if received.way == "http" else listening

    def _decision(self, trigger: Trigger, received: Received, event: Event, position: Position | None) -> Decision:
        spec = self._specs[trigger.job]
        decided = decide(trigger, event, [parameter.name for parameter in spec.parameters if not parameter.required])
        if decided.outcome != "matched":
            return Decision(trigger=trigger.name, outcome=decided.outcome, reason=decided.reason)
        as_of = received.time if trigger.as_of == "event" else None
        if received.way != "kafka":
            # A schedule stands at its instants; that is no place in the log of a history.
            position = None
        try:
            request = ask(
                self._project,
                spec,
                decided.parameters,
                as_of=as_of,
                position=msgspec.to_builtins(position) if position is not None and as_of is not None else None,
            )
        except HindscanError as error:
            return Decision(trigger=trigger.name, outcome="quarantined", reason=f"{type(error).__name__}: {error}")
        lateness = int(trigger.lateness.total_seconds() * 1_000_000)
        return Decision(
            trigger=trigger.name,
            outcome="matched",
            request=request,
            code=spec.code,
            not_before=received.time + lateness if lateness else 0,
        )


def _source(received: Received) -> Source:
    if received.way == "http":
        return Source(kind="http")
    return Source(kind="kafka", cluster=received.cluster or "", topic=received.topic or "")


def _position(received: Received) -> Position | None:
    """Give the place of a record in its topic; None for what came over HTTP."""
    if received.partition is None or received.offset is None:
        return None
    return Position(
        cluster=received.cluster or "",
        topic=received.topic or "",
        topic_id=received.topic_id or "",
        partition=received.partition,
        offset=received.offset,
    )
