"""Reading a stitched history: what is archived from Parquet, the rest from the topic, as one table.

Keeps promises 2, 7 and 8 for stitched histories. A slice is a range of offsets, wherever they lie: it is read from the archive, from the topic, or from both where the
archive ends inside it, and gives the same rows in the same order; so its key does not say where it was read, and what was computed from the topic is
reused when it is archived. Bounds are applied to the times of the rows as for a topic, by the same code.

::

    [start, end) -> [start, X) archived_reader + [X, end) kafka_reader -> one table;  their proofs -> one proof
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import xxhash

from hindscan.data import Proof
from hindscan.history.archived import TIMESTAMP
from hindscan.history.archived_reader import ArchivedRows, ArchiveReader, Mask
from hindscan.history.kafka_reader import NAMED_BAD_RECORDS, KafkaReader, KafkaSource
from hindscan.history.kafka_rows import inside
from hindscan.history.kafka_window import check_lateness
from hindscan.history.snapshot import KafkaSlice, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.condition import Where

__all__ = ["StitchedReader", "StitchedSource"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StitchedReader:
    """All that a worker needs to read slices of one stitched pin. Holds secrets of cluster and file system: never stored or shown."""

    topic: KafkaReader
    archive: ArchiveReader

    def open(self, slices: Sequence[Slice]) -> StitchedSource:
        """Open slices as one table, rows in the order of the slices. Reads and connects when rows are asked for."""
        return StitchedSource(self, [s for s in slices if isinstance(s, KafkaSlice)])

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: what it is for the topic, wherever the rows lie.

        What Kafka Connect wrote was decoded by Kafka Connect: nothing proves that hindscan makes the same of the topic, so the two share no key.
        """
        layout = self.archive.pin.layout
        return self.topic.identity() if layout == "hindscan" else {**self.topic.identity(), "archive": layout}


class StitchedSource:
    """Slices of a stitched pin as one table."""

    def __init__(self, reader: StitchedReader, slices: Sequence[KafkaSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._archived: dict[int, _Archived] = {}
        #: The condition whose rows are read apart.
        self._filtered: str | None = None
        live: list[KafkaSlice] = []
        #: Which of the topic's slices is the rest of a slice, by the place of the slice here.
        self._live: dict[int, int] = {}
        for place, s in enumerate(slices):
            end = max(s.start, min(s.end, reader.archive.pin.end(s.partition, s.start)))
            if s.start < end:
                self._archived[place] = _Archived(reader, msgspec.structs.replace(s, end=end))
            if end < s.end:
                self._live[place] = len(live)
                live.append(msgspec.structs.replace(s, start=end))
        self._rests = live
        self._topic = KafkaSource(reader.topic, live)

    def __enter__(self) -> StitchedSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._reader.topic.schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        """Read the slices, unless these columns already are. The rows of one condition are read apart; with more of them all are given.

        Raises
        ------
        BadRecord
            A record does not decode, and is not to be set aside; or has no time where one is needed.
        HistoryError
            What is there is not what was pinned.
        BrokerUnavailable
            No broker answered.
        """
        wanted = list(self.schema.names if columns is None else columns) or self.schema.names[:1]
        schema = pa.schema([self.schema.field(name) for name in wanted])
        live = self._topic.tables(wanted, where) if self._live else []
        if where is not None:
            self._filtered = self._filtered or where.key
            where = where if where.key == self._filtered else None
        tables = [schema.empty_table()]
        for place in range(len(self._slices)):
            if place in self._archived:
                tables.append(self._archived[place].table(schema, where))
            if place in self._live:
                tables.append(live[self._live[place]])
        import pyarrow.dataset as ds

        return ds.dataset(pa.concat_tables(tables))

    def diagnose(self) -> None:
        """Return: whatever was wrong with the archive or the topic was said when it was read."""

    def proofs(self) -> list[Proof]:
        """Check that the files and the topic are still those that were pinned, and say what was read of them.

        Raises
        ------
        HistoryError
            They are not, or a record breaks the promise that the window was cut by.
        """
        live = self._topic.proofs() if self._live else []
        proofs = []
        for place, s in enumerate(self._slices):
            parts = self._archived[place].proofs() if place in self._archived else []
            if place in self._live:
                at = self._live[place]
                parts = [*parts, (self._rests[at].start, s.end, live[at])]
            proofs.append(_joined(s, parts))
        topic = self._reader.topic
        check_lateness(zip(self._slices, proofs, strict=True), lateness=topic.lateness, topic=topic.topic)
        return proofs

    def close(self) -> None:
        """Let go of the connection."""
        self._topic.close()


class _Archived:
    """The archived part of one slice."""

    def __init__(self, reader: StitchedReader, s: KafkaSlice) -> None:
        self._reader = reader
        self._slice = s
        self._rows = ArchivedRows(reader.archive, s.partition, s.start, s.end)

    def table(self, schema: pa.Schema, where: Where | None) -> pa.Table:
        """Give the rows inside the slice's bounds; those that do not fulfil the condition may be left out."""
        s, mask = self._slice, self._rows.keyed()
        passing = None
        if where is not None:
            # As of the topic: records of other keys are not looked at, those outside the bounds are.
            passing = self._rows.passing(where) if mask is None else _within(mask, self._passing(where, mask))
        if s.since is not None or s.before is not None:
            times = self._times()
            bounded = inside(times if mask is None else times.filter(pa.array(mask)), s, self._reader.topic)
            assert bounded is not None
            mask = bounded if mask is None else _within(mask, bounded)
        if passing is not None:
            mask = passing if mask is None else passing & mask
        columns = self._rows.columns(schema.names) if mask is None else self._rows.columns_of(schema.names, mask)
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _passing(self, where: Where, rows: Mask) -> Mask:
        """Tell which of some rows fulfil a condition."""
        columns = self._rows.columns_of(where.columns, rows)
        return where.keeps(pa.Table.from_arrays(list(columns.values()), names=list(columns)))

    def _times(self) -> pa.ChunkedArray[Any]:
        time = self._reader.topic.time
        return self._rows.record_times() if time is None else self._rows.columns([time])[time]

    def proofs(self) -> list[tuple[int, int, Proof]]:
        if not self._rows.is_read:
            return [(self._slice.start, self._slice.end, Proof(slice=0, records=0))]
        proofs = self._rows.proofs(self._reader.topic.time or TIMESTAMP)
        self._rows.verify()
        return proofs


def _within(rows: Mask, chosen: Mask) -> Mask:
    """Mark of all rows those that are chosen from some of them."""
    found = rows.copy()
    found[rows] = chosen
    return found


def _joined(s: KafkaSlice, parts: Sequence[tuple[int, int, Proof]]) -> Proof:
    """Make one proof of those of a slice's parts. Of one part that is the whole slice it is that part's."""
    if len(parts) == 1 and parts[0][:2] == (s.start, s.end):
        return msgspec.structs.replace(parts[0][2], slice=s.position)
    proofs = [proof for _, _, proof in parts]
    seen = "\n".join(f"{start} {end} {proof.digest}" for start, end, proof in parts)
    invisible = [proof.invisible for proof in proofs]
    return Proof(
        slice=s.position,
        records=sum(proof.records for proof in proofs),
        bytes=sum(proof.bytes for proof in proofs),
        first_offset=next((p.first_offset for p in proofs if p.first_offset is not None), None),
        last_offset=next((p.last_offset for p in reversed(proofs) if p.last_offset is not None), None),
        invisible=None if None in invisible else sum(count for count in invisible if count is not None),
        greatest_time=max((p.greatest_time for p in proofs if p.greatest_time is not None), default=None),
        least_time=min((p.least_time for p in proofs if p.least_time is not None), default=None),
        latest_record_time=max(
            (p.latest_record_time for p in proofs if p.latest_record_time is not None), default=None
        ),
        disorder=_disorder(proofs),
        partition_count=next((proof.partition_count for proof in proofs if proof.partition_count), None),
        digest=xxhash.xxh3_128(seen.encode()).hexdigest() if any(proof.digest for proof in proofs) else "",
        set_aside=sum(proof.set_aside for proof in proofs),
        bad_records=tuple(bad for proof in proofs for bad in proof.bad_records)[:NAMED_BAD_RECORDS],
        tombstones=sum(proof.tombstones for proof in proofs),
        unverified=next((proof.unverified for proof in proofs if proof.unverified), None),
    )


def _disorder(proofs: Sequence[Proof]) -> int | None:
    """Say how far the times of adjoining parts are out of order, in all; None where a row has no time, or none is known."""
    found, latest = 0, None
    for proof in proofs:
        if proof.disorder is None:
            return None
        behind = 0 if latest is None or proof.least_time is None else latest - proof.least_time
        found = max(found, proof.disorder, behind)
        if proof.latest_record_time is not None:
            latest = max(latest or proof.latest_record_time, proof.latest_record_time)
    return found
