"""Reading archived offsets: rows of Parquet files that stand for a range of a topic's log, and how it is known that they all do.

Keeps promise 2 for what has left the topic. Files are those that were pinned (size and identity, before and after), their pages have the right checksums, the offsets in
them rise strictly and lie where the manifest says, and a file has as many rows as it says. The proof of a range that was archived as it is
asked for is the proof of the very reading that archived it; of another range it says what the rows show.

An archiver replaces a file that ends within a slice by a longer one. A run that pinned the shorter one finds its successor in the manifest: the same readings
of the topic, with the same digests, and more after them; its rows of the pinned range are the same.

::

    ArchiveReader + [start, end) -> ArchivedRows -> columns, proofs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.errors import CorruptData, SourceChanged
from hindscan.history.archive import read_archive
from hindscan.history.archived import POSITIONS, ArchivedFile, ArchivePin
from hindscan.history.parquet_reader import ParquetReader, ParquetSource
from hindscan.history.snapshot import ParquetSlice

__all__ = ["ArchiveReader", "ArchivedRows"]

Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveReader:
    """All that a worker needs to read archived offsets. Holds the file system, with its keys if it has any."""

    place: files.Place
    pin: ArchivePin
    #: Of the decoded rows.
    schema: pa.Schema

    def files(self, partition: int, start: int, end: int) -> list[ArchivedFile]:
        """Give the files that have offsets of a range, in order."""
        return [
            file for file in self.pin.files if file.partition == partition and file.start < end and file.end > start
        ]

    def parquet(self) -> ParquetReader:
        """Give the reader of the files as they lie there: the columns of the rows and those of their positions."""
        # Kafka Connect keeps no record times, and offsets only where it was told to.
        own = [] if self.pin.offset is None else [pa.field(self.pin.offset, pa.int64())]
        schema = pa.schema([*self.schema, *(POSITIONS if self.pin.layout == "hindscan" else own)])
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
        self._offsets: Offsets | None = None

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
        pending = [name for name in names if name not in self._columns]
        if pending or not self.is_read:
            try:
                self._columns |= self._scanned(pending)
            except SourceChanged:
                # An archiver may have removed a file after it was looked at: its successor is in the manifest then.
                self._columns |= self._scanned(pending)
        return {name: self._columns[name] for name in names}

    def verify(self) -> None:
        """Look at the files again: what was read is what was pinned."""
        self._opened()

    def proofs(self) -> list[tuple[int, int, Proof]]:
        """Say of each reading of the topic what of it was read here: `[start, end)` and the proof."""
        assert self._offsets is not None
        found = []
        for file in self._pinned:
            for read in file.reads:
                start, end = max(read.start, self._start), min(read.end, self._end)
                if start < end:
                    whole = (start, end) == (read.start, read.end)
                    found.append((start, end, read.proof if whole else self._part(file, read.proof, start, end)))
        return found

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

    def _scanned(self, names: Sequence[str]) -> dict[str, pa.ChunkedArray[Any]]:
        with self._opened() as source:
            try:
                return self._read(source, names)
            except (pa.ArrowException, OSError):
                source.diagnose()
                raise

    def _read(self, source: ParquetSource, names: Sequence[str]) -> dict[str, pa.ChunkedArray[Any]]:
        column = self._reader.pin.offset
        if column is None:
            return self._read_counted(source, names)
        if self._offsets is None:
            all_offsets = cast(Offsets, source.dataset([column]).to_table().column(column).to_numpy())
            self._check(all_offsets)
            first, last = np.searchsorted(all_offsets, [self._start, self._end])
            self._offsets = all_offsets[first:last]
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
        self._offsets = np.arange(self._start, self._end)
        inside = table.slice(self._start - self._files[0].start, self._end - self._start)
        return {name: inside.column(name) for name in names}

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
