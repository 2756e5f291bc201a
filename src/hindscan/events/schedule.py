"""Schedules: which instants are due, and the events they are (promise 4).

The identity of a tick is its instant, so it is one event however many dispatchers see it come. Up to where a schedule is decided is stored like the offsets of a topic,
in seconds since the epoch, in the transaction that records its ticks. What passed while nobody listened is still to be decided when somebody does, and `missed` says how.

::

    position, now -> due -> instants -> tick -> Event
"""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from hindscan import times
from hindscan.events.cron import ticks, time_zone
from hindscan.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hindscan.events.trigger import Missed

__all__ = ["LATE_SECONDS", "MAX_DUE", "due", "instants", "next_tick", "tick"]

#: A tick that is found later than this was missed: nobody listened at its minute.
LATE_SECONDS: Final = 60
#: Ticks that are decided in one transaction; the rest comes in the next look.
MAX_DUE: Final = 1000

_SECOND: Final = timedelta(seconds=1)


def due(expression: str, zone: str, since: int, now: int, missed: Missed) -> list[int]:
    """List the instants of a schedule that are to be decided now, in order, at most `MAX_DUE`.

    Parameters
    ----------
    expression, zone : str
        The schedule.
    since : int
        All before it is decided; seconds since the epoch.
    now : int
        Seconds since the epoch; a tick at this second is due.
    missed : "catch up", "latest" or "skip"
        What becomes of those that are late.
    """
    if missed == "skip":
        since = max(since, now - LATE_SECONDS)
    found = itertools.takewhile(lambda instant: instant <= now, _from(expression, zone, since))
    if missed != "latest":
        return list(itertools.islice(found, MAX_DUE))
    last: int | None = None
    for last in found:  # noqa: B007 - the last one is wanted
        pass
    return [] if last is None else [last]


def instants(expression: str, zone: str, start: int, end: int) -> Iterator[int]:
    """Give the instants of a schedule in [start, end), seconds since the epoch."""
    return itertools.takewhile(lambda instant: instant < end, _from(expression, zone, start))


def next_tick(expression: str, zone: str, since: int) -> int | None:
    """Give the first instant from a second on; None if there is none any more."""
    return next(_from(expression, zone, since), None)


def _from(expression: str, zone: str, since: int) -> itertools.chain[int] | map[int]:
    after = times.to_datetime(since * 1_000_000) - _SECOND
    return map(_seconds, ticks(expression, time_zone(zone), after))


def _seconds(instant: datetime) -> int:
    return times.from_datetime(instant) // 1_000_000


def tick(expression: str, zone: str, instant: int) -> Event:
    """Make the event of an instant, the same whoever makes it."""
    at = times.to_datetime(instant * 1_000_000)
    return Event(
        id=times.to_text(instant * 1_000_000),
        source=f"/schedules/{quote(zone, safe='')}/{quote(expression, safe='')}",
        type="hindscan.schedule",
        time=at,
        data={
            "schedule": expression,
            "time_zone": zone,
            "local_time": at.astimezone(time_zone(zone)).isoformat(),
        },
    )
