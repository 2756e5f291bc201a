"""Auditing: proving that every event of a trigger was decided about once and started the one run it should, and submitting what is missing.

Keeps promise 4 checkable: what the sources hold is compared with what the store says. A topic is read again, exactly, over the offsets that the trigger has gone
past by its own account; each event there must be recorded, decided about, and have its run, and what is no event must be in quarantine. A schedule is gone through
like a topic, instant by instant. Files are listed: each complete version that was not there when the trigger began must have its event. What came over HTTP is in
the ledger or nowhere: of that the ledger's own tables are held against each other, and an event's row says who decided about it.

A repair is what would have happened on time: decided as it would be now, as of the event's T, under the trigger's own name, so that doing it twice does it once. A record
that is recorded under another identity than it would have now (its mapping was changed) is never submitted again.

::

    topics, schedules, files, ledger -> Finding, Finding, ... -> (repair) Intake.decide -> ledger.record | opening.reopen_run
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import msgspec

from hindscan.events.files import event_source
from hindscan.events.schedule import instants
from hindscan.intake import position_of
from hindscan.past import Span, log_spans, read_files, read_ledger, read_log, refuse_no_time
from hindscan.replaying import open_intake, trigger_of
from hindscan.runs import baselines, opening, positions, recall
from hindscan.runs.ledger import Entry, Unreadable, record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hindscan.events.received import Received
    from hindscan.intake import Intake
    from hindscan.workshop import Workshop

__all__ = ["Audit", "Audited", "Finding"]

Kind = Literal["no event", "no decision", "no run", "two runs", "not in quarantine", "other identity"]


class Finding(msgspec.Struct, kw_only=True):
    """One event, or record, that is not as it must be."""

    kind: Kind
    source: str | None = None
    id: str | None = None
    #: Where it stands, as TOPIC[P]@OFFSET.
    position: str | None = None
    runs: tuple[str, ...] = ()
    repaired: bool = False


class Audited(msgspec.Struct, kw_only=True):
    """What was looked at, and what was found."""

    trigger: str
    #: Records of topics, instants of schedules and files; and events of the ledger.
    records: int = 0
    events: int = 0
    #: Records, instants and files that the trigger has not reached yet: no finding.
    waiting: int = 0
    #: Instants that passed while nobody listened and that the trigger leaves out (`missed`).
    skipped: int = 0
    #: Offsets that are gone from the log by retention, and cannot be audited any more.
    gone: int = 0
    findings: list[Finding] = []

    @property
    def sound(self) -> bool:
        """Whether nothing was found that is not repaired."""
        return all(finding.repaired for finding in self.findings)


class Audit:
    """One audit of a trigger.

    Parameters
    ----------
    workshop : Workshop
        The open project.
    trigger : str
        Name of a declared trigger.
    since, until : int, optional
        When the events came in (time of the record, the instant or the file's last change, else of receipt), half-open.
    repair : bool
        Submit what is missing.
    intake : Intake, optional
        What decides; see `replaying.Replay`.

    Raises
    ------
    hindscan.errors.NotFound
        There is no such trigger.
    hindscan.errors.UsageError
        `since` is not before `until`.
    """

    def __init__(
        self,
        workshop: Workshop,
        trigger: str,
        *,
        since: int | None,
        until: int | None,
        repair: bool = False,
        intake: Intake | None = None,
    ) -> None:
        self._workshop, self._store, self._project = workshop, workshop.store, workshop.project
        self._trigger = trigger_of(self._project, trigger)
        refuse_no_time(f"Auditing trigger {trigger}", since, until)
        self._since, self._until, self._repair = since, until, repair
        self._made = intake
        self._seen: set[tuple[str, str]] = set()
        self._doubled: dict[tuple[str, str], list[str]] = {}
        self._done = Audited(trigger=trigger)
        #: By source of files: the versions that were there at the beginning, and when that was.
        self._begun = {
            source.text: baselines.beginning(self._store, trigger, source.text)
            for source in self._trigger.sources
            if source.kind == "files"
        }

    def run(self) -> Audited:
        """Look at everything, repair what is asked for, and tell.

        Raises
        ------
        hindscan.errors.HistoryError
            The log cannot be read exactly.
        hindscan.errors.BrokerUnavailable
            A cluster does not answer.
        """
        self._doubled = recall.doubled(self._store, self._trigger.name)
        spans = self._passed_spans()
        quarantined = {
            place: recall.quarantined_places(self._store, *place)
            for place in {(span.cluster, span.topic, span.topic_id) for span in spans if not span.is_schedule}
        }
        for batch in read_log(self._project, spans, self._since, self._until):
            self._done.records += len(batch)
            there = [one for one in batch if not _is_held(one, quarantined)]
            for one in there:
                if one.event is None:
                    self._set_apart(one)
            self._look(there)
        self._look_at_files()
        for batch in read_ledger(self._project, self._store, self._trigger, self._since, self._until):
            due = [one for one in batch if self._is_due(one)]
            self._done.events += len(due)
            self._look(due)
        for identity in recall.orphaned(self._store, self._trigger.name):
            # What the source still has was found there, and is repaired by now if that was asked for.
            if identity not in self._seen:
                self._find("no event", identity, None)
        return self._done

    def _passed_spans(self) -> list[Span]:
        """Give the offsets that the trigger has gone past and the log still holds; count the others."""
        spans = []
        for span in log_spans(self._project, self._trigger, self._store.now()):
            place = self._places.get((span.cluster, span.topic, span.topic_id, span.partition))
            if place is None:
                # A schedule that has not begun has no instants yet.
                self._done.waiting += 0 if span.is_schedule else span.end - span.start
                continue
            if span.is_schedule:
                self._done.waiting += sum(1 for _ in instants(span.topic, span.topic_id, place.next_offset, span.end))
            else:
                self._done.waiting += max(0, span.end - max(place.next_offset, span.start))
                self._done.gone += max(0, min(span.start, place.next_offset) - place.start_offset)
            start, end = max(span.start, place.start_offset), min(span.end, place.next_offset)
            spans.append(msgspec.structs.replace(span, start=start, end=max(start, end)))
        return spans

    def _look_at_files(self) -> None:
        for source in self._trigger.sources:
            if source.kind != "files":
                continue
            begun = self._begun[source.text]
            # What is recorded is looked at by the ledger; what was there at the beginning is none of the trigger's.
            known = baselines.known(self._store, self._trigger.name, source.text, event_source(source.text)) or set()
            now = self._store.now()
            for batch in read_files(self._project, self._trigger, source, now, self._since, self._until, without=known):
                found = [one for one in batch if one.event is not None and begun is not None]
                self._done.records += len(found)
                self._done.waiting += len(batch) - len(found)
                self._look(found)

    def _is_due(self, one: Received) -> bool:
        """Tell whether an event of the ledger is the trigger's: of a topic what it has gone past, of files what came since it began, else what it decided about."""
        if one.offset is not None:
            place = self._places.get((one.cluster, one.topic, one.topic_id, one.partition))
            return place is not None and place.start_offset <= one.offset < place.next_offset
        if one.way == "files" and one.event is not None:
            begun = next((at for text, at in self._begun.items() if event_source(text) == one.event.source), None)
            return begun is not None and one.received_at >= begun[1] and one.event.id not in begun[0]
        # Its own row says so; what an older hindscan recorded does not.
        return self._trigger.name in one.decided_by or (self._first is not None and one.received_at >= self._first)

    @cached_property
    def _first(self) -> int | None:
        return recall.first_receipt(self._store, self._trigger.name)

    @cached_property
    def _places(self) -> dict[tuple[str | None, str | None, str | None, int | None], positions.Place]:
        """Give where the trigger stands, by cluster, topic, id of the topic and partition."""
        return {
            (place.cluster, place.topic, place.topic_id, place.partition): place
            for place in positions.places(self._store, self._trigger.name)
        }

    def _look(self, batch: Sequence[Received]) -> None:
        new = {
            one.event.identity: one for one in batch if one.event is not None and one.event.identity not in self._seen
        }
        self._seen |= new.keys()
        known = recall.known(self._store, self._trigger.name, new)
        other = self._under_other_names([one for identity, one in new.items() if identity not in known])
        for identity, one in new.items():
            found = known.get(identity)
            if identity in self._doubled:
                self._find("two runs", identity, one, runs=tuple(self._doubled[identity]))
            elif found is None and identity in other:
                self._find("other identity", identity, one)
            elif found is None:
                self._find_missing(identity, one)
            elif found.outcome is None:
                self._find("no decision", identity, one, repaired=self._submit(one))
            elif found.run is not None and found.job is None:
                self._find("no run", identity, one, runs=(found.run,), repaired=self._reopen(one, found.run))

    def _find_missing(self, identity: tuple[str, str], one: Received) -> None:
        if one.way == "schedule" and self._trigger.missed != "catch up":
            self._done.skipped += 1
        else:
            self._find("no event", identity, one, repaired=self._submit(one))

    def _under_other_names(self, missing: Sequence[Received]) -> set[tuple[str, str]]:
        """Tell which of these events of records are not recorded, while something else is that was read from the same record."""
        read: dict[tuple[str, int, int], set[tuple[str, str]]] = defaultdict(set)
        for one in missing:
            if one.way == "kafka" and one.event is not None:
                read[_spot(one)].add(one.event.identity)
        recorded = recall.at_places(self._store, read)
        # A notification about several objects is several events of one record, and only some of them may be missing.
        return {
            identity
            for spot, identities in read.items()
            if recorded.get(spot, set()) - self._seen
            for identity in identities
        }

    def _find(
        self,
        kind: Kind,
        identity: tuple[str, str],
        one: Received | None,
        *,
        runs: tuple[str, ...] = (),
        repaired: bool = False,
    ) -> None:
        self._done.findings.append(
            Finding(kind=kind, source=identity[0], id=identity[1], position=_place(one), runs=runs, repaired=repaired)
        )

    # --- Repairing --------------------------------------------------------------------------------------------------

    @property
    def _intake(self) -> Intake:
        if self._made is None:
            self._made = open_intake(self._workshop)
        return self._made

    def _submit(self, one: Received) -> bool:
        if not self._repair or one.event is None:
            return False
        entry = Entry(
            event=one.event,
            way=one.way,
            decisions=(self._intake.decide(self._trigger, one),),
            position=position_of(one),
            record_time=one.record_time,
            received_at=one.received_at,
            past=True,
        )
        record(self._store, [entry])
        return True

    def _reopen(self, one: Received, run: str) -> bool:
        if not self._repair or one.event is None:
            return False
        decision = self._intake.decide(self._trigger, one)
        if decision.request is None:
            # What once matched does not any more: there is nothing that could be run as if on time.
            return False
        opening.reopen_run(
            self._store,
            run,
            decision.request,
            code=decision.code,
            trigger=self._trigger.name,
            event=one.event.identity,
            order_key=decision.order_key,
            not_before=decision.not_before,
            blocks=decision.blocks,
            key=decision.key,
        )
        return True

    def _set_apart(self, one: Received) -> None:
        if self._repair:
            kept = Unreadable(
                reason=one.reason, error="InvalidEvent", way=one.way, body=one.body, headers=one.headers, key=one.key,
                position=position_of(one), received_at=one.received_at,
            )  # fmt: skip
            record(self._store, [kept])
        self._done.findings.append(Finding(kind="not in quarantine", position=_place(one), repaired=self._repair))


def _spot(one: Received) -> tuple[str, int, int]:
    return one.topic_id or "", one.partition or 0, one.offset or 0


def _is_held(one: Received, quarantined: Mapping[tuple[str, str, str], Collection[tuple[int, int]]]) -> bool:
    """Tell whether the record is in quarantine as a whole; though it could be read now, it is for a redrive to decide."""
    place = (one.cluster or "", one.topic or "", one.topic_id or "")
    return (one.partition, one.offset) in quarantined.get(place, ())


def _place(one: Received | None) -> str | None:
    if one is None or one.offset is None or one.way != "kafka":
        return None
    return f"{one.topic}[{one.partition}]@{one.offset}"
