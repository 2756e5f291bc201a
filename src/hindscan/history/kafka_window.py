"""What part of a topic a window is: partitions, offsets, and times turned into offsets.

Keeps promises 1 and 2 for windows. Offsets that are asked for lie within the log or are an error by name. Times only ever leave out offsets that cannot
hold a row of the window; every slice that may hold both kinds still carries its bounds, so what is read is filtered to the microsecond.

Kafka answers a look-up by time with the first offset *in the order of the log* that has this record time or a later one. So everything before the answer
is earlier: that much is always true. What comes after it can be earlier too, unless somebody promises a limit. A history's `lateness` L is this promise, for
every partition:

1. no event time is more than L behind a record time at or before it in the log, and
2. no event time is more than L ahead of its own record time.

Without a `time` column event time is record time, and 2 holds by itself. A topic whose broker stamps the records (LogAppendTime) has a lateness without declaring one.

::

    since,  ahead:    [start ............ since_holds_from ..................)   start = first(since - ahead), from first(since + L) on all are inside
    before, behind:   (.................. before_holds_to ............... end)   up to first(before - ahead) all are inside, end = first(before + L)

An answer that rests on the promise counts only if a reader sees the record at that offset: the marker that ends a transaction has the broker's clock
for its time, and would answer for records that were written with the times of long ago. Whether the promise was kept is seen where it costs nothing: at
the record where the end is cut, and in the proofs of all that was read; a broken one fails the run, because records may be missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from hindscan import times
from hindscan.data import Proof
from hindscan.errors import DataLost, OutOfOrder, SourceMissing, UsageError
from hindscan.history.snapshot import KafkaSlice, PartitionPin, Slice, Window

__all__ = ["APPEND_LATENESS", "Lookup", "Seen", "check_lateness", "choose_partitions", "cut_at_offsets", "cut_at_times"]

#: Where brokers stamp the records: clocks of two leaders of one partition may differ by this much, in microseconds.
APPEND_LATENESS: Final = 10_000_000

#: First offset of each partition with this record time (microseconds) or a later one; None where there is none.
Lookup = Callable[[Sequence[int], int], dict[int, int | None]]


class Seen(msgspec.Struct, frozen=True):
    """The record at an offset, in microseconds."""

    record_time: int
    event_time: int


def choose_partitions(
    window: Window, *, declared: tuple[int, ...] | None, existing: tuple[int, ...], history: str, topic: str
) -> tuple[int, ...]:
    """Decide which partitions are read.

    Raises
    ------
    SourceMissing
        A declared partition does not exist.
    UsageError
        One that is asked for does not, or is no part of the history.
    """
    absent = sorted(set(declared or ()) - set(existing))
    if absent:
        raise SourceMissing(
            f"While pinning history {history}: partitions {absent} of topic {topic!r} must exist; it has "
            f"{len(existing)}, numbered from 0. Correct `partitions` in [history.{history}].",
            topic=topic,
            partitions=absent,
        )
    all_of_it = tuple(sorted(set(existing if declared is None else declared)))
    asked = tuple(sorted(window.partitions or {at.partition for at in window.offsets}))
    strange = [number for number in asked if number not in all_of_it]
    if strange:
        raise UsageError(
            f"While pinning history {history}: the partitions asked for must be among its own, "
            f"{', '.join(map(str, all_of_it))}; {', '.join(map(str, strange))} of topic {topic!r} are not. Ask for others.",
            history=history,
            partitions=strange,
        )
    return asked or all_of_it


def cut_at_offsets(partitions: Sequence[PartitionPin], window: Window, *, history: str) -> list[PartitionPin]:
    """Take the offsets that were asked for; every fault at once, nothing is clamped.

    Raises
    ------
    DataLost
        The log begins after a start: those records are gone.
    UsageError
        The log, as far as it can be read, ends before an end.
    """
    asked = {at.partition: (at.start, at.end) for at in window.offsets}
    gone, beyond, cut = [], [], []
    for pinned in partitions:
        start, end = asked.get(pinned.partition, (None, None))
        start = pinned.start if start is None else start
        end = pinned.end if end is None else end
        said = f"[{start}, {end}) of partition {pinned.partition}"
        if end > pinned.end or start > pinned.end:
            held = (
                ", because an open transaction holds the end back" if pinned.high_watermark >= max(end, start) else ""
            )
            beyond.append(f"{said}: it can be read up to {pinned.end}{held}")
        elif start < pinned.start:
            gone.append(f"{said}: the log begins at {pinned.start}")
        elif end < start:
            beyond.append(f"{said}: the end is before the start")
        else:
            cut.append(msgspec.structs.replace(pinned, start=start, end=end))
    if gone or beyond:
        kind = UsageError if beyond else DataLost
        raise kind(
            f"While pinning history {history}: the offsets asked for must be in the log; {'; '.join([*beyond, *gone])}. "
            "Ask for offsets that are there: `hindscan snapshot` shows them.",
            history=history,
            faults=[*beyond, *gone],
        )
    return cut


def cut_at_times(
    partitions: Sequence[PartitionPin],
    *,
    since: int | None,
    before: int | None,
    ahead: int | None,
    behind: int | None,
    lookup: Lookup,
    look: Callable[[int, int], Seen | None],
    topic: str,
) -> list[PartitionPin]:
    """Leave out offsets that cannot hold a row of the window, and say from where to where all rows are inside.

    Parameters
    ----------
    since, before : int, optional
        Bounds of the window, microseconds since the epoch.
    ahead : int, optional
        The most that an event time can be ahead of its record time; None: anything.
    behind : int, optional
        The most that an event time can be behind a record time before it; None: anything.
    lookup : callable
        Asks the broker; the answers are of the log as it is, which may be longer than what is pinned.
    look : callable
        Reads the record at an offset of a partition; None: no reader sees it, or it is a deletion or has no time.
    topic : str
        For messages.

    Raises
    ------
    OutOfOrder
        The record where the end would be cut breaks the promise.
    """

    def earlier(bound: int | None) -> dict[int, int | None]:
        """Give for each partition the offset up to which all is before the bound, whatever comes after."""
        if bound is None or ahead is None:
            return {}
        found = lookup(numbers, bound - ahead)
        return {p.partition: _within(p, found[p.partition]) for p in partitions}

    def later(bound: int | None) -> dict[int, int | None]:
        """Give for each partition the offset from which on all is at or after the bound; None: nobody knows."""
        if bound is None or behind is None:
            return {}
        found = lookup(numbers, bound + behind)
        return {p.partition: _promised(p, found[p.partition], bound + behind) for p in partitions}

    def _promised(pinned: PartitionPin, offset: int | None, time: int) -> int | None:
        if offset is None or offset >= pinned.end:
            return pinned.end
        seen = look(pinned.partition, offset)
        if seen is None or seen.record_time < time:
            return None
        disorder = abs(seen.event_time - seen.record_time)
        if behind is not None and disorder > behind:
            raise _broken(topic, f"the record at {pinned.partition}:{offset}", disorder, behind)
        return _within(pinned, offset)

    numbers = [p.partition for p in partitions]
    starts, holds_from = earlier(since), later(since)
    holds_to, ends = earlier(before), later(before)
    cut = []
    for p in partitions:
        start = _or(starts.get(p.partition), p.start)
        end = max(start, _or(ends.get(p.partition), p.end))
        cut.append(
            msgspec.structs.replace(
                p,
                start=start,
                end=end,
                since_holds_from=holds_from.get(p.partition),
                before_holds_to=holds_to.get(p.partition),
            )
        )
    return cut


def _within(pinned: PartitionPin, offset: int | None) -> int:
    """Bring an answer into what is pinned; no answer: the record that would be one is not in it."""
    return pinned.end if offset is None else min(max(offset, pinned.start), pinned.end)


def _or(offset: int | None, otherwise: int) -> int:
    return otherwise if offset is None else offset


def check_lateness(read: Iterable[tuple[Slice, Proof]], *, lateness: int | None, topic: str) -> None:
    """Make sure that what was read keeps the promise that offsets were left out on.

    Parameters
    ----------
    read : iterable of (Slice, Proof)
        Slices of one pin, computed now or reused, in any order.
    lateness : int, optional
        What the pin rests on, in microseconds; None: nothing rests on it.
    topic : str
        For messages.

    Raises
    ------
    OutOfOrder
        A record is further out of order than was promised: others may lie where nobody looked.
    """
    if lateness is None:
        return
    of_topic = ((s, proof) for s, proof in read if isinstance(s, KafkaSlice) and proof.records)
    ordered = sorted(of_topic, key=lambda one: (one[0].partition, one[0].start))
    for _, of_partition in itertools.groupby(ordered, key=lambda one: one[0].partition):
        latest: int | None = None
        for s, proof in of_partition:
            disorder = proof.disorder
            if disorder is not None and latest is not None and proof.least_time is not None:
                disorder = max(disorder, latest - proof.least_time)
            if disorder is None or disorder > lateness:
                raise _broken(
                    topic, f"a record in offsets [{s.start}, {s.end}) of {topic}[{s.partition}]", disorder, lateness
                )
            if proof.latest_record_time is not None:
                latest = max(latest or proof.latest_record_time, proof.latest_record_time)


def _broken(topic: str, where: str, disorder: int | None, lateness: int) -> OutOfOrder:
    found = "has no time" if disorder is None else f"is {times.duration_text(disorder)} out of order"
    return OutOfOrder(
        f"While reading a window of topic {topic!r}: times must be at most {times.duration_text(lateness)} out of order, as the history's lateness promises; "
        f"{where} {found}, so records of the window may lie where the promise said there are none. Raise `lateness` of the history, "
        "or leave it out to have everything looked at.",
        topic=topic,
        lateness=lateness,
        disorder=disorder,
    )
