"""From a pin to its slices: bounds that depend only on the data and `slice_rows`.

Keeps promise 7 (incremental). Where a slice begins and ends is decided before the window of the run is looked at, so that another `as_of`, more data or
another number of workers moves no bound: a Parquet file is cut at the same row groups, a partition at the same absolute offsets, whatever else there is.
The window then only takes away (row groups that statistics show to lie wholly outside) and marks: `since` and `before` are put on a slice only
where nothing shows that all its rows are inside, because whatever is on a slice is in its key.

What "shows" means: for Parquet the least and greatest time of each row group, which a pin has only where the footer counts no null time; for Kafka what
the pin learned from look-ups by time (`history.kafka_window`), or the greatest time an earlier proof of the very same offsets recorded.

::

    Pin -> cut (data, slice_rows) -> prune (statistics) -> bounds (only where needed) -> Slice, Slice, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from hindscan.history.equality import digest_of
from hindscan.history.snapshot import (
    DrawPin,
    DrawSlice,
    FilePin,
    KafkaPin,
    KafkaSlice,
    ParquetPin,
    ParquetSlice,
    PartitionPin,
    Pin,
    RowGroup,
    Slice,
)

__all__ = ["Known", "count_draws", "cut", "cut_whole"]

#: Blocks of the first slices of draws: of the default size a million draws still occupy four cores.
BLOCKS_PER_SLICE: Final = 4
#: A later slice has a sixteenth of the draws before it, in a power of two of these: what is lost with a worker stays small, and so does what slices cost in all.
SHARE_OF_SLICE: Final = 16
#: Draws of a slice at most.
DRAWS_PER_SLICE_MOST: Final = 1 << 24

#: More rows than a file or a partition has: one slice for each.
_WHOLE: Final = 1 << 62

#: Greatest event time, in microseconds, of `(partition, start, end)` of the same topic, from earlier proofs.
Known = Mapping[tuple[int, int, int], int]

_S = TypeVar("_S", ParquetSlice, KafkaSlice, DrawSlice)


def cut(pin: Pin, slice_rows: int, *, known: Known | None = None) -> tuple[Slice, ...]:
    """Cut what is pinned into slices, in the order of the data.

    Parameters
    ----------
    pin : Pin
        Files are taken in the order of the pin (which lists them by path), partitions in the order of their numbers.
    slice_rows : int
        Parquet: row groups of one file are taken until this many rows are reached, so a slice never spans files and never splits a row group. Kafka: slices
        end at absolute multiples of this offset, so a full slice never changes when the topic grows. Draws: of no use, where a slice ends follows from the block
        and the draws before it.
    known : mapping, optional
        Greatest times of offset ranges from earlier proofs. Default: none are known.

    Returns
    -------
    tuple of Slice
        Positions count from 0. Row groups without rows and row groups wholly outside the window are in none.
    """
    if slice_rows < 1:
        raise ValueError(f"Cutting a pin into slices: slice_rows must be at least 1, not {slice_rows}.")
    match pin:
        case ParquetPin():
            return _numbered([s for file in pin.files for s in _cut_file(file, pin, slice_rows)])
        case KafkaPin():
            order = sorted(pin.partitions, key=lambda partition: partition.partition)
            return _numbered(
                [s for partition in order for s in _cut_partition(partition, pin, slice_rows, known or {})]
            )
        case DrawPin():
            return _numbered(list(_cut_draws(pin)))


def cut_whole(pin: Pin, *, known: Known | None = None) -> tuple[Slice, ...]:
    """Cut into as few slices as can be: one for each file or partition, as broadcast tables are read."""
    return cut(pin, _WHOLE, known=known)


def count_draws(pin: DrawPin) -> int:
    """Count the slices that draws are cut into, without cutting them."""
    count, start, step = 0, 0, BLOCKS_PER_SLICE * pin.block_size
    while start < pin.draws:
        grown = _grown(step, start)
        # Of one size are all up to the one that begins where they grow, and the rest of those that grow no more.
        ends = SHARE_OF_SLICE * 2 * grown if grown * 2 <= DRAWS_PER_SLICE_MOST else pin.draws
        alike = -(-(min(ends, pin.draws) - start) // grown)
        count, start, step = count + alike, start + alike * grown, grown
    return count


def _numbered(slices: Sequence[_S]) -> tuple[_S, ...]:
    return tuple(msgspec.structs.replace(s, position=position) for position, s in enumerate(slices))


def _cut_file(file: FilePin, pin: ParquetPin, slice_rows: int) -> Iterator[ParquetSlice]:
    deletes = digest_of(pin.deletes_of(file))
    for candidates in _groups(file.row_groups, slice_rows):
        inside = [i for i in candidates if file.row_groups[i].kept_rows and not _outside(file.row_groups[i], pin)]
        if not inside:
            continue
        # Only the ends are trimmed: a slice is one range, and a reader skips what lies outside in its middle by itself.
        first, last = inside[0], inside[-1] + 1
        groups = file.row_groups[first:last]
        starts_inside = all(
            g.least_time is not None and pin.since is not None and g.least_time >= pin.since for g in groups
        )
        ends_inside = all(
            g.greatest_time is not None and pin.before is not None and g.greatest_time < pin.before for g in groups
        )
        yield ParquetSlice(
            position=0,
            path=file.path,
            size=file.size,
            identity=file.identity,
            first=first,
            last=last,
            rows=sum(g.kept_rows for g in groups),
            bytes=sum(g.bytes for g in groups),
            since=None if starts_inside else pin.since,
            before=None if ends_inside else pin.before,
            partition_values=file.partition_values,
            deleted=file.deleted(first, last),
            version=file.version,
            equality_deletes=deletes,
        )


def _groups(row_groups: Sequence[RowGroup], slice_rows: int) -> Iterator[range]:
    first, rows = 0, 0
    for i, group in enumerate(row_groups):
        rows += group.rows
        if rows >= slice_rows:
            yield range(first, i + 1)
            first, rows = i + 1, 0
    if first < len(row_groups):
        yield range(first, len(row_groups))


def _outside(group: RowGroup, pin: ParquetPin) -> bool:
    late = pin.before is not None and group.least_time is not None and group.least_time >= pin.before
    early = pin.since is not None and group.greatest_time is not None and group.greatest_time < pin.since
    return late or early


def _cut_partition(partition: PartitionPin, pin: KafkaPin, slice_rows: int, known: Known) -> Iterator[KafkaSlice]:
    start = partition.start
    while start < partition.end:
        end = min(partition.end, (start // slice_rows + 1) * slice_rows)
        greatest = known.get((partition.partition, start, end))
        ends_inside = (greatest is not None and pin.before is not None and greatest < pin.before) or (
            partition.before_holds_to is not None and end <= partition.before_holds_to
        )
        starts_inside = partition.since_holds_from is not None and start >= partition.since_holds_from
        yield KafkaSlice(
            position=0,
            partition=partition.partition,
            start=start,
            end=end,
            rows=end - start,
            bytes=round((end - start) * pin.record_bytes),
            since=None if starts_inside else pin.since,
            before=None if ends_inside else pin.before,
        )
        start = end


def _cut_draws(pin: DrawPin) -> Iterator[DrawSlice]:
    start, step = 0, BLOCKS_PER_SLICE * pin.block_size
    while start < pin.draws:
        step = _grown(step, start)
        yield DrawSlice(position=0, start=start, end=min(pin.draws, start + step))
        start += step


def _grown(step: int, start: int) -> int:
    """Give the draws of a slice that begins at `start`, after one of `step`."""
    while step * 2 <= min(start // SHARE_OF_SLICE, DRAWS_PER_SLICE_MOST):
        step *= 2
    return step
