"""Reading archived offsets: rows of Parquet files that stand for a range of a topic's log, and how it is known that they all do.

Keeps promise 2 for what has left the topic. Files are those that were pinned (size and identity, before and after), their pages have the right checksums, the offsets in
them rise strictly and lie where the manifest says, and a file has as many rows as it says. The proof of a range that was archived as it is
asked for is the proof of the very reading that archived it; of another range it says what the rows show.

An archiver replaces a file that ends within a slice by a longer one. A run that pinned the shorter one finds its successor in the manifest: the same readings
of the topic, with the same digests, and more after them; its rows of the pinned range are the same.

Where a query filters its rows, the condition is asked first: of row groups that their statistics do not exclude; if it may fail on a value, of every row, as of a topic.
Only row groups with a row that passes are decoded further. That leaves out nothing the topic would find: every column of every record was decoded when it was archived.

::

    ArchiveReader + [start, end) -> ArchivedRows -> columns, proofs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.engine import failed_while_running
from hindscan.errors import CorruptData, SourceChanged
from hindscan.history.archive import read_archive
from hindscan.history.archived import POSITIONS, TIMESTAMP, ArchivedFile, ArchivePin
from hindscan.history.bounds import micros_of
from hindscan.history.footer import read_footer
from hindscan.history.kafka_proof import Order
from hindscan.history.kafka_window import Seen
from hindscan.history.parquet_reader import ParquetReader, ParquetSource
from hindscan.history.record import KEPT, RECORD, place_array
from hindscan.history.snapshot import ParquetSlice, RowGroup
from hindscan.kafka.fetch import RawBatch

if TYPE_CHECKING:
    from hindscan.condition import Where

__all__ = ["ArchiveReader", "ArchivedRows", "ArchivedTimes", "Mask"]

KEY = RECORD["key"]
Offsets = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Scanned = TypeVar("Scanned")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveReader:
    """All that a worker needs to read archived offsets. Holds the file system, with its keys if it has any."""

    place: files.Place
    pin: ArchivePin
    #: Of the rows as they are given.
    schema: pa.Schema
    #: What of the records themselves is among them.
    record: tuple[str, ...] = ()
    #: Only rows with one of these keys count; empty: all do.
    keys: tuple[bytes, ...] = ()

    @property
    def places(self) -> list[str]:
        """Columns that are not read but follow from where a row lies."""
        return [RECORD[name].name for name in self.record if name not in KEPT]

    def files(self, partition: int, start: int, end: int) -> list[ArchivedFile]:
        """Give the files that have offsets of a range, in order."""
        return [
            file for file in self.pin.files if file.partition == partition and file.start < end and file.end > start
        ]

    @property
    def has_times(self) -> bool:
        """Whether the records' own times are kept: Kafka Connect keeps none."""
        return self.pin.layout == "hindscan"

    def parquet(self) -> ParquetReader:
        """Give the reader of the files as they lie there: the columns of the rows and those of their positions."""
        # Kafka Connect keeps offsets only where it was told to.
        own = [] if self.pin.offset is None else [pa.field(self.pin.offset, pa.int64())]
        stored = [field for field in self.schema if field.name not in self.places]
        if self.keys and KEY.name not in self.schema.names:
            stored.append(KEY)
        schema = pa.schema([*stored, *(POSITIONS if self.has_times else own)])
        return ParquetReader(root=self.place, schema=schema, time=None, verify=True)


class ArchivedRows:
    """The archived rows of offsets `[start, end)` of one partition; the files must cover them.

    Parameters
    ----------
    reader : ArchiveReader
        Where the files are.
    partition : int
        The partition.
    start, end : int
        Offsets, half-open.
    """

    def __init__(self, reader: ArchiveReader, partition: int, start: int, end: int) -> None:
        self._reader = reader
        self._partition, self._start, self._end = partition, start, end
        self._pinned = reader.files(partition, start, end)
        #: The pinned files or, where one was replaced since, its successor.
        self._files = list(self._pinned)
        self._columns: dict[str, pa.ChunkedArray[Any]] = {}
        #: Columns as they are stored, of names that mean another thing in `columns`.
        self._stored: dict[str, pa.ChunkedArray[Any]] = {}
        self._offsets: Offsets | None = None
        #: Rows of the files before those of the range.
        self._before = 0

    @property
    def offsets(self) -> Offsets:
        """Where its rows are; they must be read."""
        assert self._offsets is not None
        return self._offsets

    @property
    def is_read(self) -> bool:
        """Whether anything was asked for."""
        return self._offsets is not None

    def columns(self, names: Sequence[str]) -> Mapping[str, pa.ChunkedArray[Any]]:
        """Read columns, unless they already are: one entry for each row of the range.

        Raises
        ------
        SourceChanged
            A file is not the one that was pinned, and no successor of it.
        CorruptData
            A file is damaged, or does not hold the rows that it must.
        """
        pending = [name for name in names if name not in self._columns and name not in self._reader.places]
        if pending or not self.is_read:
            self._columns |= self._scanned(lambda source: self._read(source, pending))
        return {name: self._column(name) for name in names}

    def record_times(self) -> pa.ChunkedArray[Any]:
        """Read the records' own times."""
        pending = [] if TIMESTAMP in self._stored else [TIMESTAMP]
        if pending or not self.is_read:
            self._stored |= self._scanned(lambda source: self._read(source, pending))
        return self._stored[TIMESTAMP]

    def _column(self, name: str) -> pa.ChunkedArray[Any]:
        if name not in self._reader.places:
            return self._columns[name]
        assert self._offsets is not None
        times = np.asarray(self.record_times().cast(pa.int64())) if name == TIMESTAMP else self._offsets
        return pa.chunked_array([place_array(name, self._offsets, times, self._partition)])

    def keyed(self) -> Mask | None:
        """Tell which rows of the range have one of the keys that are asked for; None where none are.

        Raises
        ------
        SourceChanged, CorruptData
            As `columns`.
        """
        if not self._reader.keys:
            return None
        found = pc.is_in(self.columns([KEY.name])[KEY.name], value_set=pa.array(self._reader.keys, KEY.type))
        return np.asarray(found, bool)

    def passing(self, where: Where) -> Mask:
        """Tell which rows of the range fulfil a condition.

        Raises
        ------
        SourceChanged, CorruptData
            As `columns`.
        """
        self.columns([])
        assert self._offsets is not None
        place = self._reader.pin.offset
        derived = {name.lower() for name in (place, *self._reader.places) if name is not None}
        if place is None or where.rows is None or derived & {name.lower() for name in where.columns}:
            columns = self.columns(where.columns)
            return where.keeps(pa.Table.from_arrays(list(columns.values()), names=list(columns)))
        rows = self._scanned(lambda source: where.passing(source.dataset([*where.columns, place]), place))
        passing = np.zeros(len(self._offsets), bool)
        passing[np.searchsorted(self._offsets, rows[(rows >= self._start) & (rows < self._end)])] = True
        return passing

    def columns_of(self, names: Sequence[str], rows: Mask) -> Mapping[str, pa.ChunkedArray[Any]]:
        """Read columns of some rows of the range; of row groups without any of them nothing is decoded.

        Raises
        ------
        SourceChanged, CorruptData
            As `columns`.
        """
        at_hand = {*self._columns, *self._reader.places}
        found = {name: self._column(name).filter(pa.array(rows)) for name in names if name in at_hand}
        pending = [name for name in names if name not in found]
        if pending:
            found |= self._scanned(lambda source: self._read_of(source, pending, rows))
        return found

    def verify(self) -> None:
        """Look at the files again: what was read is what was pinned."""
        self._opened()

    def proofs(self, time: str) -> list[tuple[int, int, Proof]]:
        """Say of each reading of the topic what of it was read here: `[start, end)` and the proof.

        Parameters
        ----------
        time : str
            The column whose times are told; `_timestamp`: the records' own.
        """
        assert self._offsets is not None
        found = []
        for file in self._pinned:
            for read in file.reads:
                start, end = max(read.start, self._start), min(read.end, self._end)
                if start < end:
                    whole = (start, end) == (read.start, read.end)
                    proof = read.proof if whole else self._part(file, read.proof, start, end)
                    # Of another part, or by another column, the rows themselves tell of their times.
                    told = whole and read.time == time and not self._reader.keys
                    found.append((start, end, proof if told else self._in_time(proof, time, start, end)))
        return found

    def _in_time(self, proof: Proof, time: str, start: int, end: int) -> Proof:
        """Say what the rows of a part show of their times; those with the keys asked for, and how many they are."""
        assert self._offsets is not None
        first, last = (int(at) for at in np.searchsorted(self._offsets, [start, end]))
        times = (self.record_times() if time == TIMESTAMP else self.columns([time])[time]).slice(first, last - first)
        order, keyed, rows = Order(), self.keyed(), np.arange(last - first)
        if keyed is not None:
            rows = np.flatnonzero(keyed[first:last])
            times = times.filter(pa.array(keyed[first:last]))
        if self._reader.has_times:
            own = np.asarray(self.record_times().cast(pa.int64()))[first:last]
            nothing = pa.nulls(last - first, pa.large_binary())
            order.add(RawBatch(offsets=self._offsets[first:last], times=own, values=nothing), rows, times)
        else:
            known = micros_of(times.drop_null())
            # Of records without times of their own a broken promise of order cannot be seen.
            order.disorder = None if times.null_count else 0
            if len(known):
                order.least, order.greatest = int(known.min()), int(known.max())
        return msgspec.structs.replace(
            proof,
            records=proof.records if keyed is None else len(rows),
            least_time=order.least,
            # Of some keys it says nothing about the others, which a run over all of them reads.
            greatest_time=order.greatest if keyed is None else None,
            latest_record_time=proof.latest_record_time or order.latest_record_time,
            disorder=order.disorder,
        )

    def _part(self, file: ArchivedFile, whole: Proof, start: int, end: int) -> Proof:
        """Say what the rows of a part of a reading show; what had no row in it is not known apart from what was set aside."""
        assert self._offsets is not None
        first, last = np.searchsorted(self._offsets, [start, end])
        rows = int(last - first)
        aside = [offset for offset in file.set_aside if start <= offset < end]
        return Proof(
            slice=0,
            records=rows,
            bytes=round(file.bytes * rows / max(file.rows, 1)),
            first_offset=int(self._offsets[first]) if rows else None,
            last_offset=int(self._offsets[last - 1]) if rows else None,
            digest=xxhash.xxh3_128(f"{start} {end} {whole.digest}".encode()).hexdigest(),
            set_aside=len(aside),
            bad_records=tuple(bad for bad in whole.bad_records if start <= int(bad.split(":", 2)[1]) < end),
        )

    def _scanned(self, scan: Callable[[ParquetSource], Scanned]) -> Scanned:
        """Scan the files; once more if one has gone meanwhile."""
        try:
            return self._scanned_once(scan)
        except SourceChanged:
            # An archiver may have removed a file after it was looked at: its successor is in the manifest then.
            return self._scanned_once(scan)

    def _scanned_once(self, scan: Callable[[ParquetSource], Scanned]) -> Scanned:
        with self._opened() as source:
            return _diagnosed(source, scan)

    def _read(self, source: ParquetSource, names: Sequence[str]) -> dict[str, pa.ChunkedArray[Any]]:
        column = self._reader.pin.offset
        if column is None:
            return self._read_counted(source, names)
        if self._offsets is None:
            all_offsets = cast(Offsets, source.dataset([column]).to_table().column(column).to_numpy())
            self._check(all_offsets)
            first, last = np.searchsorted(all_offsets, [self._start, self._end])
            self._offsets, self._before = all_offsets[first:last], int(first)
        if not names:
            return {}
        inside = (pc.field(column) >= self._start) & (pc.field(column) < self._end)
        table = source.dataset([*dict.fromkeys([*names, column])]).to_table(columns=list(names), filter=inside)
        return {name: table.column(name) for name in names}

    def _read_counted(self, source: ParquetSource, names: Sequence[str]) -> dict[str, pa.ChunkedArray[Any]]:
        """Read rows whose places are their offsets."""
        table = source.dataset(list(names) or self._reader.schema.names[:1]).to_table()
        wanted = sum(file.rows for file in self._files)
        if table.num_rows != wanted:
            raise self._corrupt(f"there are {table.num_rows} rows, and there must be {wanted}")
        self._offsets, self._before = np.arange(self._start, self._end), self._start - self._files[0].start
        inside = table.slice(self._before, len(self._offsets))
        return {name: inside.column(name) for name in names}

    def _read_of(self, source: ParquetSource, names: Sequence[str], rows: Mask) -> dict[str, pa.ChunkedArray[Any]]:
        """Read columns of some rows: of the row groups that have any."""
        pieces: list[ParquetSlice] = []
        wanted: list[Mask] = [np.zeros(0, bool)]
        at = -self._before
        for whole in source.slices:
            for number, group in enumerate(read_footer(self._reader.place / whole.path, whole.path, None).row_groups):
                first, last = (min(max(place, 0), len(rows)) for place in (at, at + group.rows))
                if rows[first:last].any():
                    own = np.zeros(group.rows, bool)
                    own[first - at : last - at] = rows[first:last]
                    wanted.append(own)
                    pieces.append(_with_group(pieces, whole, number, group))
                at += group.rows
        with self._reader.parquet().open(pieces) as chosen:
            table = _diagnosed(chosen, lambda part: part.dataset(names).to_table(columns=list(names)))
        table = table.filter(pa.array(np.concatenate(wanted)))
        return {name: table.column(name) for name in names}

    def _opened(self) -> ParquetSource:
        try:
            return self._source()
        except SourceChanged:
            successors = self._successors()
            if successors is None:
                raise
            self._files = successors
            return self._source()

    def _source(self) -> ParquetSource:
        pieces = [
            ParquetSlice(
                position=position,
                path=file.path,
                size=file.size,
                identity=file.identity,
                first=0,
                last=file.row_groups,
                rows=file.rows,
                bytes=file.bytes,
            )
            for position, file in enumerate(self._files)
        ]
        return self._reader.parquet().open(pieces)

    def _successors(self) -> list[ArchivedFile] | None:
        """Find in the manifest as it is now the files that hold the pinned readings and perhaps more; None if one is in none."""
        known = read_archive(self._reader.place) if self._reader.pin.layout == "hindscan" else None
        current = () if known is None else known[0].files
        found = []
        for pinned in self._pinned:
            heirs = [
                file
                for file in current
                if (file.partition, file.start, file.reads[: len(pinned.reads)])
                == (pinned.partition, pinned.start, pinned.reads)
            ]
            if not heirs:
                return None
            found.append(heirs[0])
        return found

    def _check(self, offsets: Offsets) -> None:
        """Check that the files hold the rows they must, each those of its range, in order."""
        wanted = sum(file.rows for file in self._files)
        if len(offsets) != wanted:
            raise self._corrupt(f"there are {len(offsets)} rows, and there must be {wanted}")
        wrong = np.flatnonzero(np.diff(offsets) <= 0)
        if len(wrong):
            at = int(wrong[0])
            raise self._corrupt(f"after offset {offsets[at]} comes {offsets[at + 1]}")
        first = 0
        for file in self._files:
            own = offsets[first : first + file.rows]
            first += file.rows
            if len(own) and not file.start <= own[0] <= own[-1] < file.end:
                raise self._corrupt(
                    f"{file.path} holds offsets from {own[0]} to {own[-1]}, and must hold those of [{file.start}, {file.end})"
                )

    def _corrupt(self, found: str) -> CorruptData:
        named = ", ".join(file.path for file in self._files[:5])
        return CorruptData(
            f"While reading offsets [{self._start}, {self._end}) of partition {self._partition} from the archive in {self._reader.pin.root} ({named}): "
            f"every archived row must be there once, in the order of the offsets; {found}. Restore the files from a copy.",
            partition=self._partition,
            paths=[file.path for file in self._files],
        )


@dataclass(frozen=True, slots=True)
class ArchivedTimes:
    """What an archive knows of the times of records; reads a column of one file for each question, chosen by the proofs in the pin."""

    reader: ArchiveReader
    #: Event-time column; `_timestamp`: the records' own.
    time: str

    def first(self, partition: int, end: int, time: int) -> int | None:
        """Give the first row's offset before `end` with this record time (microseconds) or a later one."""
        for file in self.reader.files(partition, 0, end):
            latest = [read.proof.latest_record_time for read in file.reads if read.proof.latest_record_time is not None]
            if not latest or max(latest) < time:
                continue
            rows = ArchivedRows(self.reader, partition, file.start, min(file.end, end))
            fits = np.flatnonzero(np.asarray(rows.record_times().cast(pa.int64())) * 1000 >= time)
            if len(fits):
                return int(rows.offsets[fits[0]])
        return None

    def look(self, partition: int, offset: int) -> Seen | None:
        """Give the times of the row at an offset."""
        rows = ArchivedRows(self.reader, partition, offset, offset + 1)
        own = rows.record_times()
        times = own if self.time == TIMESTAMP else rows.columns([self.time])[self.time]
        if not len(own) or times.null_count:
            return None
        return Seen(int(micros_of(own)[0]), int(micros_of(times)[0]))


def _diagnosed(source: ParquetSource, scan: Callable[[ParquetSource], Scanned]) -> Scanned:
    """Scan, and have the source say which file is at fault where an engine failed over it."""
    try:
        return scan(source)
    except Exception as fault:
        if isinstance(fault, pa.ArrowException | OSError) or failed_while_running(fault):
            source.diagnose()
        raise


def _with_group(pieces: list[ParquetSlice], whole: ParquetSlice, number: int, group: RowGroup) -> ParquetSlice:
    """Give a row group of a file as a slice; together with the one before, which is taken off, if they adjoin."""
    first, rows, size = number, group.rows, group.bytes
    if pieces and (pieces[-1].path, pieces[-1].last) == (whole.path, number):
        before = pieces.pop()
        first, rows, size = before.first, before.rows + rows, before.bytes + size
    return msgspec.structs.replace(whole, first=first, last=number + 1, rows=rows, bytes=size)
