"""From what was asked for to a `Window`: every option checked, every relative time resolved.

Keeps the first half of promise 1 (pinned): `last` is a length of time before as_of, else before now, and becomes `since` here, once, when the question is asked.
Every way in (command line, Python, HTTP, triggers) comes through here, so that they mean the same and say the same of a fault; all faults are told at once.

::

    options -> make_window -> Window -> History.pin -> Pin
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hindscan import times
from hindscan.errors import UsageError
from hindscan.history.snapshot import OffsetRange, Position, Window

__all__ = ["Offsets", "make_window", "refuse_topic_options"]

#: Offsets `[start, end)` by partition; None is where the log begins or ends.
Offsets = Mapping[int, tuple[int | None, int | None]]


def make_window(
    *,
    as_of: int | None = None,
    since: int | None = None,
    until: int | None = None,
    last: int | None = None,
    offsets: Offsets | Iterable[OffsetRange] | None = None,
    partitions: Iterable[int] | None = None,
    keys: Iterable[str | bytes] | None = None,
    position: Position | None = None,
    doing: str = "Choosing a window",
) -> Window:
    """Check what was asked for and resolve `last`.

    Parameters
    ----------
    as_of, since, until : int, optional
        Microseconds since the epoch.
    last : int, optional
        Microseconds before `as_of`, or before now.
    offsets : mapping or iterable of OffsetRange, optional
        Of a topic: `[start, end)` by partition, and nothing else of it is read.
    partitions : iterable of int, optional
        Of a topic: the only partitions.
    keys : iterable of str or bytes, optional
        Of a topic: only records with one of these keys; texts are UTF-8.
    position : Position, optional
        Of the triggering event.
    doing : str
        How messages begin.

    Raises
    ------
    UsageError
        With every fault.
    """
    faults = []
    if last is not None:
        if since is not None:
            faults.append("last and since both say where the window begins; give one of them")
        elif last <= 0:
            faults.append("last must be longer than nothing")
        else:
            since = (times.now() if as_of is None else as_of) - last
    if since is not None and until is not None and since >= until:
        faults.append(f"since ({times.to_text(since)}) must be before until ({times.to_text(until)})")
    if since is not None and as_of is not None and since >= as_of:
        faults.append(f"since ({times.to_text(since)}) must be before as_of ({times.to_text(as_of)})")
    chosen = tuple(sorted(set(partitions or ())))
    if partitions is not None and not chosen:
        faults.append("partitions must name at least one; leave it out for all")
    faults += [f"partitions are numbered from 0; there is no {number}" for number in chosen if number < 0]
    ranges = _ranges(offsets or ())
    if ranges and chosen:
        faults.append("offsets say the partitions already; leave partitions out")
    faults += _offset_faults(ranges)
    named = sorted({key.encode() if isinstance(key, str) else bytes(key) for key in keys or ()})
    if keys is not None and not named:
        faults.append("keys must name at least one; leave it out for all")
    if faults:
        raise UsageError(f"{doing}: " + "; ".join(faults) + ".", faults=faults)
    return Window(
        as_of=as_of,
        since=since,
        until=until,
        position=position,
        offsets=ranges,
        partitions=chosen,
        keys=tuple(named),
    )


def _ranges(offsets: Offsets | Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    if isinstance(offsets, Mapping):
        offsets = [OffsetRange(partition=number, start=start, end=end) for number, (start, end) in offsets.items()]
    return tuple(sorted(offsets, key=lambda at: at.partition))


def _offset_faults(ranges: Iterable[OffsetRange]) -> list[str]:
    faults = []
    for at in ranges:
        said = f"offsets of partition {at.partition}"
        if at.partition < 0 or (at.start or 0) < 0 or (at.end or 0) < 0:
            faults.append(f"{said}: partitions and offsets count from 0")
        elif at.start is not None and at.end is not None and at.start > at.end:
            faults.append(f"{said}: the start ({at.start}) must not be after the end ({at.end})")
    return faults


def refuse_topic_options(window: Window, history: str) -> None:
    """Refuse what only a topic has, for a history that lies in files.

    Raises
    ------
    UsageError
        Offsets, partitions or keys are asked for.
    """
    asked = [name for name in ("offsets", "partitions", "keys") if getattr(window, name)]
    if asked:
        raise UsageError(
            f"While pinning history {history}: {', '.join(asked)} choose what is read of a topic, and it lies in files. "
            "Choose by time (since, until), or filter in the job.",
            history=history,
            asked=asked,
        )
