"""Auditing: proving that every event of a trigger was decided about once and started the one run it should, and submitting what is missing.

Keeps promise 4 checkable: what the broker holds is compared with what the store says, record by record. The log is read again, exactly, over the offsets that the
trigger has gone past by its own account; each event there must be recorded, decided about, and have its run, and what is no event must be in quarantine. What came
over HTTP is in the ledger or nowhere: of that the ledger's own tables are held against each other.

A repair is what would have happened on time: decided as it would be now, as of the event's T, under the trigger's own name, so that doing it twice does it once.

::

    log, ledger -> Finding, Finding, ... -> (repair) Intake.decide -> ledger.record | opening.reopen_run
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from hindscan.intake import position_of
from hindscan.past import Span, log_spans, read_log
from hindscan.replaying import open_intake, trigger_of
from hindscan.runs import opening, positions, recall
from hindscan.runs.ledger import Entry, Unreadable, record

if TYPE_CHECKING:
    from hindscan.events.received import Received
    from hindscan.intake import Intake
    from hindscan.workshop import Workshop

__all__ = ["Audit", "Audited", "Finding"]

Kind = Literal["no event", "no decision", "no run", "two runs", "not in quarantine"]


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
    #: Records of the log, and events of the ledger.
    records: int = 0
    events: int = 0
    #: Records that the trigger has not reached yet, by its own account: no finding.
    waiting: int = 0
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
        When the events came in (time of the record, else of receipt), half-open.
    repair : bool
        Submit what is missing.

    Raises
    ------
    hindscan.errors.NotFound
        There is no such trigger.
    """

    def __init__(
        self, workshop: Workshop, trigger: str, *, since: int | None, until: int | None, repair: bool = False
    ) -> None:
        self._workshop, self._store, self._project = workshop, workshop.store, workshop.project
        self._trigger = trigger_of(self._project, trigger)
        self._since, self._until, self._repair = since, until, repair
        self._made: Intake | None = None
        self._seen: set[tuple[str, str]] = set()
        self._doubled = recall.doubled(self._store, trigger)
        self._done = Audited(trigger=trigger)

    def run(self) -> Audited:
        """Look at everything, repair what is asked for, and tell.

        Raises
        ------
        hindscan.errors.HistoryError
            The log cannot be read exactly.
        hindscan.errors.BrokerUnavailable
            A cluster does not answer.
        """
        spans = self._passed_spans()
        quarantined = {
            place: recall.quarantined_places(self._store, *place)
            for place in {(span.cluster, span.topic, span.topic_id) for span in spans}
        }
        for batch in read_log(self._project, spans, self._since, self._until):
            self._done.records += len(batch)
            for one in batch:
                if one.event is None:
                    place = (one.cluster or "", one.topic or "", one.topic_id or "")
                    if (one.partition, one.offset) not in quarantined[place]:
                        self._set_apart(one)
            self._look(batch)
        for batch in self._recorded():
            self._done.events += len(batch)
            self._look(batch)
        for identity in recall.orphaned(self._store, self._trigger.name):
            # What the log still has was found there, and is repaired by now if that was asked for.
            if identity not in self._seen:
                self._find("no event", identity, None)
        return self._done

    def _passed_spans(self) -> list[Span]:
        """Give the offsets that the trigger has gone past and the log still holds; count the others."""
        places = self._places()
        spans = []
        for span in log_spans(self._project, self._trigger):
            place = places.get((span.cluster, span.topic, span.topic_id, span.partition))
            if place is None:
                self._done.waiting += span.end - span.start
                continue
            self._done.waiting += max(0, span.end - max(place.next_offset, span.start))
            self._done.gone += max(0, min(span.start, place.next_offset) - place.start_offset)
            start, end = max(span.start, place.start_offset), min(span.end, place.next_offset)
            spans.append(msgspec.structs.replace(span, start=start, end=max(start, end)))
        return spans

    def _recorded(self) -> Iterator[list[Received]]:
        """Give the events of the ledger that are the trigger's to decide about: of a topic those that it has gone past, of the others what came since its first."""
        first = recall.first_receipt(self._store, self._trigger.name)
        places = self._places()

        def is_due(one: Received) -> bool:
            if one.offset is None:
                return first is not None and one.received_at >= first
            place = places.get((one.cluster, one.topic, one.topic_id, one.partition))
            return place is not None and place.start_offset <= one.offset < place.next_offset

        for batch in recall.recorded(self._store, self._trigger.sources, self._since, self._until):
            yield [one for one in batch if is_due(one)]

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
        for identity, one in new.items():
            found = known.get(identity)
            if identity in self._doubled:
                self._find("two runs", identity, one, runs=tuple(self._doubled[identity]))
            elif found is None:
                self._find("no event", identity, one, repaired=self._submit(one))
            elif found.outcome is None:
                self._find("no decision", identity, one, repaired=self._submit(one))
            elif found.run is not None and found.job is None:
                self._find("no run", identity, one, runs=(found.run,), repaired=self._reopen(one, found.run))

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


def _place(one: Received | None) -> str | None:
    if one is None or one.offset is None:
        return None
    return f"{one.topic}[{one.partition}]@{one.offset}"
