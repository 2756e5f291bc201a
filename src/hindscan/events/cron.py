"""Cron expressions in a time zone: the instants at which one ticks, each once, whatever the clocks do (promise 4).

An expression has the five fields of Vixie's cron, as Debian has it (`L`, `LW`, `MON#2` too). It is matched against wall clocks, which daylight saving sets back and
forth, so there are two rules, Debian's. Where minute or hour begins with `*`, time goes on as it passes: every minute whose wall clock matches is a tick, in the
repeated hour twice and in the skipped one never. Where both are given, each matching wall clock ticks once: a repeated one when it comes first, a skipped one at the
first minute there is after it.

The only user of cronsim, and only for wall clocks: with time zones it leaves out ticks of, or never comes
back from, days on which clocks that are not whole hours from UTC are set.

::

    expression, zone, instant -> ticks -> instants (UTC, increasing)
"""

from __future__ import annotations

import heapq
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cron_fault", "ticks", "time_zone"]

_FIELDS: Final = 5
_MINUTE: Final = timedelta(minutes=1)
#: More than clocks are ever set at once: Samoa left out a whole day.
_LEAP: Final = timedelta(hours=25)


def cron_fault(expression: str) -> str | None:
    """Tell why an expression is none, or None."""
    count = len(expression.split())
    if count != _FIELDS or not expression.isascii():
        return f"a schedule has five fields, minute, hour, day of month, month, day of week, and {expression!r} has {count}"
    try:
        next(CronSim(expression, datetime(2000, 1, 1)))  # noqa: DTZ001 - a wall clock
    except CronSimError as fault:
        return f"{expression!r} is no cron expression: {fault}"
    except StopIteration:
        return f"{expression!r} never ticks: there is no such day"
    return None


def time_zone(name: str) -> zoneinfo.ZoneInfo:
    """Look up an IANA time zone.

    Raises
    ------
    ValueError
        There is none of this name.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise ValueError(f"there is no time zone {name!r}; it is an IANA name such as Europe/Berlin or UTC") from fault


def ticks(expression: str, zone: zoneinfo.ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Give the instants of an expression, increasing, each once.

    Parameters
    ----------
    expression : str
        A valid one.
    zone : ZoneInfo
        Whose wall clock it is matched against.
    after : datetime
        Aware; the first tick is later than this.

    Yields
    ------
    datetime
        In UTC, at whole minutes of the wall clock.
    """
    minute, hour = expression.split()[:2]
    as_it_passes = minute.startswith("*") or hour.startswith("*")
    last = after.astimezone(UTC)
    waiting: list[datetime] = []
    for wall in CronSim(expression, last.astimezone(zone).replace(tzinfo=None, fold=0) - _LEAP):
        instants = _as_it_passes(wall, zone) if as_it_passes else [_once(wall, zone)]
        for instant in instants:
            heapq.heappush(waiting, instant)
        # A later wall clock has no earlier first instant; what is left waiting is the second one of a repeated hour.
        while waiting and instants and waiting[0] <= instants[0]:
            found = heapq.heappop(waiting)
            if found > last:
                last = found
                yield found


def _as_it_passes(wall: datetime, zone: zoneinfo.ZoneInfo) -> list[datetime]:
    """Give the instants at which a clock shows this: one, two or none."""
    if not _shown(wall, zone):
        return []
    return sorted({wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)})


def _once(wall: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    while not _shown(wall, zone):
        wall += _MINUTE
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _shown(wall: datetime, zone: zoneinfo.ZoneInfo) -> bool:
    """Whether a clock there ever shows this."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == wall
