"""From what was received to what is recorded: where events, jobs and runs meet.

Keeps promises 4 and 5: for everything received, every trigger that listens there decides, what it decides is recorded with the event in one transaction, and only then is
the record committed or the request answered. Nothing is dropped: what is no event, what a filter or mapping cannot decide, and parameters that do
not fit the job end in quarantine with their reason. So does what the process has died on three times (`runs.tries`). Deciding is pure and never runs user code.

::

    Unread, Received -> marked -> triggers that listen there -> decide -> parameters fit? -> Entry -> ledger.record -> Recorded

Points of failure: `intake.received` (marked, nothing is recorded yet), `intake.recorded` (nobody was told yet).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from hindscan import faults
from hindscan.errors import ConfigError, EventError, HindscanError, NotFound
from hindscan.events.chain import chain_fault
from hindscan.events.received import Received, Unread
from hindscan.events.trigger import Source, Trigger, decide
from hindscan.history.snapshot import Position
from hindscan.planning import ask
from hindscan.runs.ledger import Decision, Entry, Recorded, Unreadable, record
from hindscan.runs.tries import Place, Tries
from hindscan.runs.waiting import Limit, Quiet

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.event import Event
    from hindscan.events.queue import Queue
    from hindscan.jobs.job import JobSpec
    from hindscan.runs.store import Store

__all__ = ["Intake", "limits_of_runs", "position_of"]

_logger = logging.getLogger("hindscan.intake")

_POISON: Final = (
    "While deciding about it: the process must live through that; {died} processes have died in the middle of it, so it was set aside undecided. "
    "Look at what it holds (`hindscan events --quarantined`), mend what it breaks, then redrive it."
)


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
    hindscan.errors.ConfigError
        A trigger goes on for one that is declared still.
    """

    def __init__(self, project: Project, store: Store, specs: Mapping[str, JobSpec]) -> None:
        triggers = project.triggers
        unknown = [f"{trigger.name} runs {trigger.job!r}" for trigger in triggers.values() if trigger.job not in specs]
        if unknown:
            known = ", ".join(sorted(specs)) or "none"
            raise NotFound(f"Setting up triggers: each must run a declared job; {'; '.join(unknown)}. Jobs: {known}.")
        taken = [f"{trigger.name} was {trigger.was!r}" for trigger in triggers.values() if trigger.was in triggers]
        if taken:
            raise ConfigError(
                f"Setting up triggers: `was` must name one that is no longer declared; {'; '.join(taken)}, which is. Remove the old one, or `was`."
            )
        self._project, self._store = project, store
        self._specs = specs
        #: By job: its parameters that have a default.
        self._optional = {name: [p.name for p in spec.parameters if not p.required] for name, spec in specs.items()}
        self._tries = Tries(store)
        self._by_source: dict[Source, list[Trigger]] = {}
        for trigger in triggers.values():
            for source in trigger.sources:
                self._by_source.setdefault(source, []).append(trigger)

    def take(
        self, batch: Sequence[Received | Unread], starts: Mapping[tuple[str, str, int], int] | None = None
    ) -> list[Recorded]:
        """Decide about and record what was received, in order.

        Parameters
        ----------
        batch : sequence of Received or Unread
            Of Kafka records: those of each partition in the order of their offsets.
        starts : mapping, optional
            First offset of (trigger, topic id, partition): what lies before is none of the trigger's. Default: everything is.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            What was not recorded yet was not; taking the same batch again later is safe.
        """
        places = [_place(one) for one in batch]
        recorded: list[Recorded] = []
        for group in self._tries.groups(places):
            faults.point("intake.received")
            part = batch[group.first : group.last]
            if group.poison:
                entries = [self._set_aside(one, starts or {}, group.died) for one in part]
            else:
                read = [each for one in part for each in (one.read() if isinstance(one, Unread) else [one])]
                entries = [self._entry(each, starts or {}) for each in read]
            recorded += record(
                self._store, entries, settled=[] if group.poison else _unordered(places[group.first : group.last])
            )
        faults.point("intake.recorded")
        for one in recorded:
            _log_quarantined(one)
        return recorded

    def spec(self, job: str) -> JobSpec:
        """Give the job of a trigger."""
        return self._specs[job]

    def decide(self, trigger: Trigger, received: Received) -> Decision:
        """Decide for one trigger about one event, as when it comes in, and record nothing: for events of the past.

        Raises
        ------
        ValueError
            What was received is no event.
        """
        if received.event is None:
            raise ValueError("only an event can be decided about")
        return self._decision(trigger, received, received.event, position_of(received))

    def redecide(self, received: Received, names: Collection[str]) -> Entry:
        """Decide once more, by those of these triggers that are still declared, about an event that is recorded already."""
        assert received.event is not None, "what is recorded is an event"
        position = position_of(received)
        triggers = [trigger for name, trigger in self._project.triggers.items() if name in names]
        return self._decided(received, received.event, triggers, position)

    def reread(self, received: Received, starts: Mapping[tuple[str, str, int], int], row: int) -> Entry | None:
        """Decide about what lay unread in a row of the quarantine; None if it is no event by the present rules either."""
        entry = self._entry(received, starts)
        return replace(entry, resolves=row) if isinstance(entry, Entry) else None

    def _listening(
        self, received: Received | Unread, position: Position | None, starts: Mapping[tuple[str, str, int], int]
    ) -> list[Trigger]:
        return [
            trigger
            for trigger in self._heard_by(received)
            if position is None
            or position.offset >= starts.get((trigger.name, position.topic_id, position.partition), 0)
        ]

    def _heard_by(self, received: Received | Unread) -> list[Trigger]:
        if isinstance(received, Received) and received.trigger is not None:
            return [self._project.triggers[received.trigger]]
        listening = self._by_source.get(_source(received), [])
        # What is posted to all is a CloudEvent; bodies that are none are posted to the one trigger that says what they are.
        return [trigger for trigger in listening if trigger.wrapping is None] if received.way == "http" else listening

    def _entry(self, received: Received, starts: Mapping[tuple[str, str, int], int]) -> Entry | Unreadable:
        position = position_of(received)
        listening = self._listening(received, position, starts)
        if received.event is None:
            return _unreadable(received, received.reason, "InvalidEvent", position, listening)
        return self._decided(received, received.event, listening, position)

    def _decided(
        self, received: Received, event: Event, triggers: Sequence[Trigger], position: Position | None
    ) -> Entry:
        return Entry(
            event=event,
            way=received.way,
            decisions=tuple(self._decision(trigger, received, event, position) for trigger in triggers),
            position=position,
            record_time=received.record_time,
            received_at=received.received_at,
        )

    def _set_aside(
        self, received: Received | Unread, starts: Mapping[tuple[str, str, int], int], died: int
    ) -> Entry | Unreadable:
        """Keep what nobody lives through: an event with its decisions held, a record as its bytes."""
        reason = _POISON.format(died=died)
        position = position_of(received)
        listening = self._listening(received, position, starts)
        if isinstance(received, Unread):
            return _unreadable(received, reason, EventError.__name__, position, listening)
        event = received.event
        if event is None:
            return _unreadable(received, reason, EventError.__name__, position, listening)
        held = tuple(Decision(trigger=trigger.name, outcome="quarantined", reason=reason) for trigger in listening)
        return Entry(
            event=event,
            way=received.way,
            decisions=held,
            position=position,
            record_time=received.record_time,
            received_at=received.received_at,
        )

    def _decision(self, trigger: Trigger, received: Received, event: Event, position: Position | None) -> Decision:
        spec = self._specs[trigger.job]
        decided = decide(trigger, event, self._optional[trigger.job])
        if decided.outcome != "matched":
            return Decision(trigger=trigger.name, outcome=decided.outcome, reason=decided.reason)
        fault = chain_fault(event.extensions, self._project.serve.chain_depth)
        if fault is not None:
            return Decision(trigger=trigger.name, outcome="quarantined", reason=fault)
        as_of = received.time if trigger.as_of == "event" else None
        if received.way != "kafka":
            # A schedule stands at its instants; that is no place in the log of a history.
            position = None
        queue = trigger.queue
        try:
            key = queue.key(event)
            request = ask(
                self._project,
                spec,
                decided.parameters,
                as_of=as_of,
                position=msgspec.to_builtins(position) if position is not None and as_of is not None else None,
                priority=queue.priority,
                time_limit=queue.time_limit_seconds,
                retries=queue.retries,
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
            # A renamed trigger goes on in the queue it had.
            order_key=queue.order_key(trigger.was or trigger.name, event, _sequence(received)),
            blocks=queue.blocks,
            key=key,
            supersede=queue.supersede,
            quiet=_quiet(queue),
        )


def limits_of_runs(project: Project, specs: Mapping[str, JobSpec]) -> dict[str, Limit]:
    """Give how many runs of each trigger and job may run at once, by the names that the store has them under."""
    limits = {f"job:{name}": Limit(total=spec.concurrency) for name, spec in specs.items()}
    for name, trigger in project.triggers.items():
        limits[f"trigger:{name}"] = Limit(total=trigger.queue.total, per_key=trigger.queue.per_key)
    return limits


def _quiet(queue: Queue) -> Quiet | None:
    if queue.quiet_seconds is None:
        return None
    at_most = queue.at_most_seconds
    return Quiet(for_=int(queue.quiet_seconds * 1e6), at_most=None if at_most is None else int(at_most * 1e6))


def _sequence(received: Received) -> str:
    """Name the sequence that an event came in: a partition of a topic, or the way in, which counts as one."""
    return received.way if received.partition is None else f"{received.topic_id}/{received.partition}"


def _log_quarantined(recorded: Recorded) -> None:
    """Say what was set aside; reasons may repeat what an event holds, so they are in the store alone."""
    event = None if recorded.identity is None else dict(zip(("source", "id"), recorded.identity, strict=True))
    for trigger in recorded.quarantined:
        _logger.warning(
            "an event is in quarantine; `hindscan events --quarantined` has the reason",
            extra={"event": event, "trigger": trigger or None},
        )


#: Lanes of events that have no next one.
_NO_ORDER: Final = "event/"


def _place(received: Received | Unread) -> Place:
    """Give the lane in which something is decided, and where in it."""
    if received.offset is not None:
        return f"{received.cluster}/{received.topic}/{received.topic_id}/{received.partition}", received.offset
    if received.event is None:
        return None
    # A digest: what waits here is not to be read by people, and a forgotten event must not be found here.
    identity = hashlib.sha256(msgspec.json.encode(received.event.identity)).hexdigest()
    return f"{_NO_ORDER}{identity}", 0


def _unordered(places: Sequence[Place]) -> list[str]:
    """Give the lanes that are settled with what stands in them. What was set aside keeps its mark."""
    return [place[0] for place in places if place is not None and place[0].startswith(_NO_ORDER)]


def _unreadable(
    received: Received | Unread, reason: str, error: str, position: Position | None, listening: Sequence[Trigger]
) -> Unreadable:
    return Unreadable(
        reason=reason,
        error=error,
        way=received.way,
        body=received.body,
        headers=received.headers,
        key=received.key,
        position=position,
        record_time=received.record_time,
        received_at=received.received_at if isinstance(received, Received) else None,
        triggers=tuple(trigger.name for trigger in listening),
    )


@lru_cache(maxsize=256)
def _source_of(way: str, cluster: str, topic: str) -> Source:
    # The same for all records of a topic, and asked for each.
    return Source(kind="http") if way == "http" else Source(kind="kafka", cluster=cluster, topic=topic)


def _source(received: Received | Unread) -> Source:
    return _source_of(received.way, received.cluster or "", received.topic or "")


def position_of(received: Received | Unread) -> Position | None:
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
