"""Which records of a topic are rows, and which of their columns are decoded.

Keeps promise 2 for what is inside the records of a slice. Where a query filters its rows by a condition, the columns of the condition are decoded of every
record and the others only of those that pass. So a malformed record is found wherever it is, and so is a bad field of the condition; another bad field is
found in the records that pass. The slice's own bounds are applied here too, on the same rows.

::

    RawBatch -> Passing.decode: wanted (value, key) -> first columns -> bounds and condition -> the other columns -> rows
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.condition import Where
from hindscan.errors import BadRecord
from hindscan.history.archived import OFFSET, POSITIONS, TIMESTAMP
from hindscan.history.bounds import Bounds, keeps
from hindscan.history.formats.choose import WITH_HEADERS
from hindscan.history.formats.decoder import BadValue, Decoder
from hindscan.history.kafka_proof import Order
from hindscan.history.record import record_arrays
from hindscan.history.snapshot import KafkaSlice
from hindscan.kafka.fetch import RawBatch

if TYPE_CHECKING:
    from hindscan.history.kafka_reader import KafkaReader

__all__ = ["Passing", "in_fewer", "inside"]

#: Records, or bytes of their values, that are decoded at once at least, while there are more: twenty thousand were seen to be half as fast as a hundred
#: thousand, which take more memory and a few hundredths less time than this.
BATCH_RECORDS: Final = 65_536
BATCH_BYTES: Final = 12 * 2**20


class Passing:
    """Decodes batches of one slice: of every record the columns that say whether it passes, of those that do the others too."""

    def __init__(self, reader: KafkaReader, s: KafkaSlice, wanted: Sequence[str], where: Where | None) -> None:
        self._reader, self._slice, self._where = reader, s, where
        names = reader.schema.names
        # Its greatest value says whether a later run as of a time may take this slice's partial as it is.
        first = {*(where.columns if where is not None else wanted), *([reader.time] if reader.time is not None else [])}
        beside = reader.record_schema.names
        #: Columns that are not decoded come of all records: they cost little, and a condition may ask for them.
        self._beside = [name for name in names if name in beside and (name in first or name in wanted)]
        decoded_first = [name for name in names if name in first and name not in beside]
        decoded_last = [name for name in names if name in wanted and name not in {*first, *beside}]
        self._first, self._rest = self._decoder(decoded_first), self._decoder(decoded_last)
        self._positions = [field for field in POSITIONS if field.name in wanted and field.name not in names]
        #: What is given: a column that only the condition needed is kept too, as it is there.
        given = [reader.schema.field(name) for name in (*decoded_first, *self._beside, *decoded_last)]
        self.schema = pa.schema([*given, *self._positions])
        self.order = Order()
        #: Records without a value that are rows all the same.
        self.valueless = 0

    def decode(self, batch: RawBatch, take_bad: Callable[[Sequence[BadValue], Sequence[int]], None]) -> pa.Table:
        """Give the rows that pass."""
        columns, rows = self._decode(self._first, batch, self._wanted(batch), take_bad)
        columns |= record_arrays(self._beside, batch, rows, self._slice.partition)
        time = self._reader.time
        times = _chunked(pa.array(batch.times[rows]).cast(pa.timestamp("ms")) if time is None else columns[time])
        self.order.add(batch, rows, times)
        kept = self._keeps(columns, times)
        if kept is not None:
            columns, rows = {name: column.filter(pa.array(kept)) for name, column in columns.items()}, rows[kept]
        rest, rows = self._decode(self._rest, batch, rows, take_bad)
        places = {OFFSET: batch.offsets, TIMESTAMP: batch.times}
        positions = {field.name: pa.array(places[field.name][rows]).cast(field.type) for field in self._positions}
        return pa.table({**columns, **rest, **positions}, schema=self.schema)

    def _wanted(self, batch: RawBatch) -> np.ndarray[Any, Any]:
        """Tell which records of a batch are rows: those with a value, and with one of the keys where some are asked for."""
        wanted = pc.is_valid(batch.values) if batch.values.null_count else None
        if wanted is not None and batch.headers is not None and self._reader.format in WITH_HEADERS:
            from hindscan.history.formats.cloudevents import valueless_events

            events = valueless_events(batch.values, batch.headers)
            self.valueless += int(events.sum())
            wanted = pc.or_(wanted, pa.array(events))
        if self._reader.keys:
            assert batch.keys is not None
            # A key is compared, never hashed to a partition: producers of one topic may use different partitioners.
            named = pc.is_in(batch.keys, pa.array(self._reader.keys, pa.large_binary()))
            wanted = named if wanted is None else pc.and_(wanted, named)
        return np.arange(len(batch)) if wanted is None else np.flatnonzero(wanted.to_numpy(zero_copy_only=False))

    def _decoder(self, names: Sequence[str]) -> Decoder | None:
        """Make a decoder; none is needed where nothing is to be decoded."""
        return self._reader.decoder(names) if names else None

    def _decode(
        self,
        decoder: Decoder | None,
        batch: RawBatch,
        rows: np.ndarray[Any, Any],
        take_bad: Callable[[Sequence[BadValue], Sequence[int]], None],
    ) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        """Decode some records of a batch: their columns, and which records they are."""
        if decoder is None:
            return {}, rows
        values, headers = batch.values, batch.headers
        if len(rows) < len(batch):
            values, headers = values.take(pa.array(rows)), None if headers is None else headers.take(pa.array(rows))
        table, bad = decoder.decode(values, headers)
        if bad:
            wrong = [b.index for b in bad]
            take_bad(bad, batch.offsets[rows[wrong]].tolist())
            rows = np.delete(rows, wrong)
        return {name: table.column(name) for name in table.column_names}, rows

    def _keeps(
        self, columns: Mapping[str, Any], times: pa.ChunkedArray[Any]
    ) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Tell which rows are inside the slice's bounds and fulfil the condition; None where all are and do."""
        kept = None if self._where is None else self._where.keeps(pa.table(dict(columns)))
        bounded = inside(times, self._slice, self._reader)
        if bounded is None:
            return kept
        return bounded if kept is None else bounded & kept


def inside(
    times: pa.ChunkedArray[Any], s: KafkaSlice, reader: KafkaReader
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Mark the rows inside a slice's bounds by their times; None if there is no bound.

    Raises
    ------
    BadRecord
        There is a bound, and a row has no time.
    """
    kept = keeps("time", times.type, Bounds(since=s.since, before=s.before))
    if kept is None:
        return None
    if times.null_count:
        raise BadRecord(
            f"While reading offsets [{s.start}, {s.end}) of {reader.topic}[{s.partition}] up to a time: every record must have a {reader.time!r}; "
            f"{times.null_count} have none. Correct the producer, or read the history without a bound.",
            topic=reader.topic,
            partition=s.partition,
            field=reader.time,
        )
    # An expression over a table of the one column, so that bounds mean the same here as for Parquet.
    import pyarrow.dataset as ds

    marked = ds.dataset(pa.table({"time": cast(Any, times)})).to_table(columns={"kept": kept}).column("kept")
    return np.asarray(marked.combine_chunks().to_numpy(zero_copy_only=False), bool)


def _chunked(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Give a column as decoders give it; of one that is chunked already `pa.chunked_array` would convert value by value."""
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def in_fewer(batches: Iterator[RawBatch]) -> Iterator[RawBatch]:
    """Put batches together until they are worth the fixed cost of decoding and filtering one."""
    held: list[RawBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        size += batch.values.nbytes
        del batch  # else it is held while the client fills the next, and cannot use its memory again
        if rows >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield RawBatch.joined(held)
            held, rows, size = [], 0, 0
    if held:
        yield RawBatch.joined(held)
