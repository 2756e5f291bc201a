"""Triggers of schedules and files: where each begins, and who watches for them.

Keeps promise 4. A new trigger's start is stored before its first look: a schedule's as an instant, that of files as the list of what is there. A look records what it
found in one transaction, a schedule together with up to where it is decided; two dispatchers on one store see the same and record it once.

::

    triggers -> starts (stored once) -> Watcher for all schedules, one for each trigger's files -> Intake

Points of failure: `watching.started`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from hindscan import faults
from hindscan.events.files import Arrivals, changed_at, event_source, version_id, versions
from hindscan.events.received import Received
from hindscan.events.schedule import LATE_SECONDS, MAX_DUE, due, next_tick, tick
from hindscan.events.watcher import Watcher
from hindscan.files import place
from hindscan.runs import baselines
from hindscan.runs.positions import Place, places, start_at, take_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hindscan.config import Project
    from hindscan.events.event import Event
    from hindscan.events.trigger import Source, Trigger
    from hindscan.runs.store import Store

    #: Decides about and records what was received, and tells who waits for runs.
    Take = Callable[[Sequence[Received]], object]

__all__ = ["watchers"]

#: How long a change of the machine's clock may be unnoticed.
_LONGEST_WAIT_SECONDS: Final = 1.0
#: Events that are recorded in one transaction.
_BATCH: Final = 1000

_logger = logging.getLogger("hindscan.watching")


def watchers(project: Project, store: Store, take: Take) -> list[Watcher]:
    """Make a watcher for all schedules and one for each trigger's files; their starts are stored when this returns.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        An object store does not answer when a new trigger's start must be resolved.
    """
    schedules: list[_Schedule] = []
    made: list[Watcher] = []
    for trigger in project.triggers.values():
        for source in trigger.sources:
            if source.kind == "cron":
                schedules.append(_schedule(store, trigger, source))
            elif source.kind == "files":
                look = partial(_look_for_files, _arrivals(project, store, trigger, source), trigger, store, take)
                made.append(Watcher(f"files {trigger.name} {source.text}", look))
    if schedules:
        made.append(Watcher("schedule", partial(_look_at_clock, schedules, store, take)))
    faults.point("watching.started")
    return made


# --- Schedules --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Schedule:
    """One schedule of one trigger; all before `since` is decided, and nothing is due before `next_at` (None: never again). Seconds."""

    trigger: Trigger
    source: Source
    since: int
    next_at: int | None = field(default=0)


def _schedule(store: Store, trigger: Trigger, source: Source) -> _Schedule:
    now = store.now() // 1_000_000
    # A schedule has no beginning: "earliest" is from now on, too.
    start = -(-trigger.start // 1_000_000) if isinstance(trigger.start, int) else now + 1
    here = ("", source.text, trigger.time_zone)
    if trigger.was:
        take_over(store, trigger.name, trigger.was, "", source.text)
    mine = [at for at in places(store, trigger.name) if (at.cluster, at.topic, at.topic_id) == here]
    if not mine:
        begun = Place(
            trigger=trigger.name,
            cluster="",
            topic=source.text,
            topic_id=trigger.time_zone,
            partition=0,
            start_offset=start,
            next_offset=start,
        )
        mine = start_at(store, [begun])
    return _Schedule(trigger=trigger, source=source, since=mine[0].next_offset)


def _look_at_clock(schedules: Iterable[_Schedule], store: Store, take: Take) -> float:
    waits = [_LONGEST_WAIT_SECONDS]
    for schedule in schedules:
        now = store.now()
        if schedule.next_at is not None and now >= schedule.next_at * 1_000_000:
            _decide(schedule, now // 1_000_000, take)
        if schedule.next_at is not None:
            waits.append(max(0.0, schedule.next_at - store.now() / 1e6))
    return min(waits)


def _decide(schedule: _Schedule, now: int, take: Take) -> None:
    trigger, expression = schedule.trigger, schedule.source.text
    if trigger.missed != "catch up" and schedule.next_at and now - schedule.next_at > LATE_SECONDS:
        _logger.warning("%s: instants of %s were missed: %s", trigger.name, expression, trigger.missed)
    instants = due(expression, trigger.time_zone, schedule.since, now, trigger.missed)
    if instants:
        take([_ticked(trigger, expression, instant, now) for instant in instants])
        schedule.since = instants[-1] + 1
    # What is left of a long absence comes at once; what is skipped or past never.
    rest = schedule.since if len(instants) == MAX_DUE else max(schedule.since, now + 1)
    schedule.next_at = next_tick(expression, trigger.time_zone, rest)


def _ticked(trigger: Trigger, expression: str, instant: int, now: int) -> Received:
    return Received(
        event=tick(expression, trigger.time_zone, instant),
        way="schedule",
        trigger=trigger.name,
        cluster="",
        topic=expression,
        topic_id=trigger.time_zone,
        partition=0,
        offset=instant,
        received_at=now * 1_000_000,
    )


# --- Files ------------------------------------------------------------------------------------------------------------


def _arrivals(project: Project, store: Store, trigger: Trigger, source: Source) -> Arrivals:
    where = place(source.text, project.root, project.object_stores)
    named = event_source(source.text)
    if trigger.was:
        baselines.take_over(store, trigger.name, trigger.was, source.text, named)
    known = baselines.known(store, trigger.name, source.text, named)
    if known is None:
        there = [] if trigger.start == "earliest" else versions(where)
        if isinstance(trigger.start, int):
            there = [file for file in there if changed_at(file) < trigger.start]
        baselines.begin(store, trigger.name, source.text, [version_id(file) for file in there])
        # Asked again: another dispatcher may have been first.
        known = baselines.known(store, trigger.name, source.text, named)
    return Arrivals(where, source.text, known or ())


def _look_for_files(arrivals: Arrivals, trigger: Trigger, store: Store, take: Take) -> float:
    found = arrivals.look()
    for first in range(0, len(found), _BATCH):
        batch = found[first : first + _BATCH]
        take([_arrived(trigger, event, store.now()) for event in batch])
        arrivals.recorded(batch)
    return trigger.every.total_seconds()


def _arrived(trigger: Trigger, event: Event, now: int) -> Received:
    return Received(event=event, way="files", trigger=trigger.name, received_at=now)
