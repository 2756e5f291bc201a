"""Replaying: past events through a trigger again, or only counting what that would do.

Keeps promises 3 and 4 for the past. A replay has a name, and its decisions stand in the ledger under ``TRIGGER@NAME``: an identity space of its own, in which
each event is decided once like everywhere, so a replay that is repeated, or was killed, goes on where it stopped. A run of a replay names the original as its
parent and reads the original's stored snapshot; without one, or with `repin`, it is pinned when it starts, as of its event's T.

A dry run decides with the filter and the mapping as they are declared now and records nothing. A new trigger can be activated from the exact offsets up to which the past
was looked at: what comes after them is its own from the first record on, what lies before them is the replay's.

::

    past events -> Intake.decide -> Decision(TRIGGER@NAME, parent, snapshot) -> ledger.record -> runs that wait for a dispatcher
                               `-> counted, the first few planned (dry run)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from hindscan import times
from hindscan.errors import Conflict, HindscanError, NotFound, UsageError
from hindscan.intake import Intake, position_of
from hindscan.past import Span, count_gone, log_spans, read_files, read_ledger, read_log, refuse_no_time
from hindscan.planning import pin, prepare
from hindscan.runs import baselines, codes, positions, recall
from hindscan.runs.ledger import Entry, record

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.received import Received
    from hindscan.events.trigger import Trigger
    from hindscan.runs.ledger import Decision
    from hindscan.runs.run import RunRequest
    from hindscan.workshop import Workshop

__all__ = ["Replay", "Replayed", "open_intake", "trigger_of"]

#: Matches of a dry run that are planned, and decisions that it shows.
PLANNED_MOST: Final = 3
SHOWN_MOST: Final = 20
#: Kinds of sources that can be read again.
_READABLE: Final = ("kafka", "cron", "files")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:+-]{1,100}")


class Replayed(msgspec.Struct, kw_only=True):
    """What a replay did, or would do."""

    trigger: str
    replay: str
    dry_run: bool
    #: Events looked at.
    events: int = 0
    matched: int = 0
    unmatched: int = 0
    quarantined: int = 0
    #: Records that are no events.
    unreadable: int = 0
    #: Recorded events whose bodies were deleted (`event_retention`, `forget`): they cannot be replayed.
    gone: int = 0
    #: Matches that this replay had opened before.
    existing: int = 0
    #: Matches whose original run is the parent.
    linked: int = 0
    #: Matches that the trigger did not match when they came, and what it matched then and does not now.
    newly: int = 0
    no_longer: int = 0
    #: Runs that were opened; the first few.
    opened: int = 0
    runs: list[str] = []
    #: Of a dry run: what the first few matches would take.
    plans: list[dict[str, Any]] = []
    #: The first few that did not match or could not be decided, with the reason.
    refused: list[dict[str, Any]] = []
    #: Of an activation: the first offset of each partition, as TOPIC[P]; of a schedule, as cron:EXPRESSION, the second from which on it counts.
    activated: dict[str, int] = {}


def open_intake(workshop: Workshop) -> Intake:
    """Make what decides about events, with the jobs of the project as they are now; their code is stored for the runs."""
    found = workshop.registered.jobs
    for spec, code in found.values():
        codes.save_code(workshop.store, spec, code)
    return Intake(workshop.project, workshop.store, {name: spec for name, (spec, _) in found.items()})


def trigger_of(project: Project, name: str) -> Trigger:
    """Look up a declared trigger.

    Raises
    ------
    hindscan.errors.NotFound
        There is none of that name.
    """
    try:
        return project.triggers[name]
    except KeyError:
        known = ", ".join(sorted(project.triggers)) or "none"
        raise NotFound(
            f"Looking up trigger {name!r}: it must be declared as [triggers.{name}]. Declared: {known}.", trigger=name
        ) from None


class Replay:
    """One replay of a trigger.

    Parameters
    ----------
    workshop : Workshop
        The open project.
    trigger : str
        Name of a declared trigger.
    since, until : int, optional
        When the events came in (time of the record, the instant or the file's last change, else of receipt), half-open.
    name : str, optional
        Of the replay. Default: made of `since`, so that the same replay asked for later takes up what is new.
    repin : bool
        Pin anew, as of each event's T, where there is a stored snapshot, too.
    from_topic : bool
        Read the trigger's topics again rather than what the ledger has of them, and its schedules and files likewise; so it is for a trigger that was never
        there, in any case.
    intake : Intake, optional
        What decides, and has the code of its jobs stored. Default: made of the project's jobs as they are now.

    Raises
    ------
    hindscan.errors.UsageError
        The name cannot be one; `since` is not before `until`; or a schedule is to be read again from its beginning, which it has not.
    """

    def __init__(
        self,
        workshop: Workshop,
        trigger: str,
        *,
        since: int | None,
        until: int | None,
        name: str | None = None,
        repin: bool = False,
        from_topic: bool = False,
        intake: Intake | None = None,
    ) -> None:
        self._workshop, self._store, self._project = workshop, workshop.store, workshop.project
        self._trigger = trigger_of(self._project, trigger)
        refuse_no_time(f"Replaying trigger {trigger}", since, until)
        self._since, self._until, self._repin = since, until, repin
        self.name = name or f"since-{'the-beginning' if since is None else times.to_text(since)}"
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"Replaying trigger {trigger}: a replay's name is 1 to 100 letters, digits, '_', '-', '.', ':' or '+', found {self.name!r}."
            )
        self._identity = f"{trigger}@{self.name}"
        readable = [source for source in self._trigger.sources if source.kind in _READABLE]
        begun = bool(positions.places(self._store, trigger)) or any(
            baselines.beginning(self._store, trigger, source.text) for source in readable if source.kind == "files"
        )
        self._from_topic = bool(readable) and (from_topic or not begun)
        if self._from_topic and since is None and any(source.kind == "cron" for source in readable):
            raise UsageError(
                f"Replaying trigger {trigger}: a schedule has no beginning, so it must be said since when; give --since."
            )
        self._intake = intake or open_intake(workshop)

    def run(self, *, dry_run: bool = False, activate: bool = False) -> Replayed:
        """Go through the past.

        Parameters
        ----------
        dry_run : bool
            Decide and count; open nothing.
        activate : bool
            Afterwards store where the trigger, which must be new, begins: after the last record that was looked at.

        Raises
        ------
        hindscan.errors.Conflict
            The trigger is active already.
        hindscan.errors.UsageError
            It has no topic or schedule to begin in, or the past that is looked at ends before now.
        """
        now = self._store.now()
        spans = log_spans(self._project, self._trigger, now) if self._from_topic or activate else []
        if activate:
            self._refuse_activation(spans)
        done = Replayed(trigger=self._trigger.name, replay=self.name, dry_run=dry_run)
        if not self._from_topic:
            done.gone = count_gone(self._project, self._store, self._trigger, self._since, self._until)
        for batch in self._past(spans, now):
            done.unreadable += sum(one.event is None for one in batch)
            events = [one for one in batch if one.event is not None]
            decided = self._decided(events, done)
            if dry_run:
                self._plan(events, decided, done)
            else:
                self._open(events, decided, done)
        if activate:
            self._activate(spans, done)
        return done

    def _past(self, spans: Sequence[Span], now: int) -> Iterator[list[Received]]:
        project, trigger, since, until = self._project, self._trigger, self._since, self._until
        if not self._from_topic:
            return read_ledger(project, self._store, trigger, since, until)
        return chain(
            read_ledger(project, self._store, trigger, since, until, ["http"]),
            read_log(project, spans, since, until),
            *(
                read_files(project, trigger, source, now, since, until)
                for source in trigger.sources
                if source.kind == "files"
            ),
        )

    def _decided(self, events: Sequence[Received], done: Replayed) -> list[Decision]:
        """Decide about each, as this replay's own trigger; what is in the ledger of the originals is put in."""
        identities = [one.event.identity for one in events if one.event is not None]
        before = recall.known(self._store, self._trigger.name, identities)
        here = recall.known(self._store, self._identity, identities)
        decisions = []
        for one, identity in zip(events, identities, strict=True):
            was = before.get(identity, recall.Known())
            decision = replace(self._intake.decide(self._trigger, one), trigger=self._identity)
            done.events += 1
            setattr(done, decision.outcome, getattr(done, decision.outcome) + 1)
            matched = decision.outcome == "matched"
            done.newly += matched and was.outcome != "matched"
            done.no_longer += was.outcome == "matched" and not matched
            done.existing += identity in here and here[identity].outcome == "matched"
            if matched and was.job is not None:
                done.linked += 1
                # A snapshot of another job has not the tables of this one.
                stored = None if self._repin or was.job != self._trigger.job else was.snapshot
                decision = replace(decision, parent=was.run, snapshot=stored)
            elif not matched and len(done.refused) < SHOWN_MOST:
                shown = {
                    "source": identity[0],
                    "id": identity[1],
                    "outcome": decision.outcome,
                    "reason": decision.reason,
                }
                done.refused.append(shown)
            decisions.append(decision)
        return decisions

    def _open(self, events: Sequence[Received], decided: Sequence[Decision], done: Replayed) -> None:
        entries = [
            Entry(
                event=one.event,
                way=one.way,
                decisions=(decision,),
                position=position_of(one),
                record_time=one.record_time,
                received_at=one.received_at,
                past=True,
            )
            for one, decision in zip(events, decided, strict=True)
            if one.event is not None
        ]
        # What this replay could not decide before is decided again: the filter or the mapping may have been mended.
        for recorded in record(self._store, entries, redrive=True):
            done.opened += len(recorded.opened)
            done.runs += list(recorded.opened.values())[: SHOWN_MOST - len(done.runs)]

    def _plan(self, events: Sequence[Received], decided: Sequence[Decision], done: Replayed) -> None:
        for one, decision in zip(events, decided, strict=True):
            if len(done.plans) >= PLANNED_MOST:
                return
            if decision.request is not None and one.event is not None:
                done.plans.append({"source": one.event.source, "id": one.event.id, **self._cost(decision.request)})

    def _cost(self, request: RunRequest) -> dict[str, Any]:
        """Say what a match would take, or why it could not run. Reads metadata only."""
        workshop = self._workshop
        spec = self._intake.spec(request.job)
        found: dict[str, Any] = {"parameters": request.parameters}
        try:
            cost = prepare(
                self._project,
                spec,
                request,
                pin(self._project, spec, request),
                workshop.partials.has,
                proofs=workshop.partials.find_proof,
                paces=lambda: workshop.paces(request.job),
                workers=self._project.compute.workers,
            ).cost
        except HindscanError as fault:
            return found | {"error": f"{type(fault).__name__}: {fault}"}
        names = ("slices", "reused", "rows_to_read", "bytes_to_read", "seconds")
        return found | {name: getattr(cost, name) for name in names}

    # --- Activation -------------------------------------------------------------------------------------------------

    def _refuse_activation(self, spans: Sequence[Span]) -> None:
        name = self._trigger.name
        if any(source.kind == "files" for source in self._trigger.sources):
            raise UsageError(
                f"Activating trigger {name}: it must have a place to begin at, and a folder has none; the trigger begins when a dispatcher first looks there."
            )
        if not spans:
            raise UsageError(
                f"Activating trigger {name}: it must listen to a topic or a schedule, in which it can begin; it has none."
            )
        if self._until is not None:
            raise UsageError(
                f"Activating trigger {name}: the past must reach up to where it begins, which is now; leave --until out."
            )
        if positions.places(self._store, name):
            raise Conflict(
                f"Activating trigger {name}: it must be new; it has begun already, and no event between may be left out. What it would make of the past "
                "tells a dry run; a changed filter counts from the next start of the dispatcher on.",
                trigger=name,
            )

    def _activate(self, spans: Sequence[Span], done: Replayed) -> None:
        begun = positions.start_at(
            self._store,
            [
                positions.Place(
                    trigger=self._trigger.name,
                    cluster=span.cluster,
                    topic=span.topic,
                    topic_id=span.topic_id,
                    partition=span.partition,
                    start_offset=span.end,
                    next_offset=span.end,
                )
                for span in spans
            ],
        )
        done.activated = {
            f"{place.topic}[{place.partition}]" if place.cluster else f"cron:{place.topic}": place.start_offset
            for place in begun
        }
