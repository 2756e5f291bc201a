"""Reading pinned Parquet: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Parquet. Every file is looked at before it is read and again when its proof is asked for: another size or identity fails the
slice by the file's name. Page checksums are verified unless the history says otherwise (a file without them is read as it is: only its writer
could have added them). Nothing is decoded but the columns and row groups asked for; the bounds of the window are part of the data set,
so no engine can lose them.

::

    ParquetReader.open(slices) -> ParquetSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.errors import CorruptData, SchemaMismatch, SourceChanged
from hindscan.history.bounds import Bounds, keeps
from hindscan.history.columns import described
from hindscan.history.expansion import check_expansion
from hindscan.history.footer import read_footer
from hindscan.history.snapshot import ParquetSlice, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.query import Where

__all__ = ["ParquetReader", "ParquetSource"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetReader:
    """All that a worker needs to read slices of one Parquet pin. Holds the file system, with its keys if it has any."""

    root: files.Place
    schema: pa.Schema
    time: str | None
    verify: bool

    def open(self, slices: Sequence[Slice]) -> ParquetSource:
        """Open slices as one table, rows in the order of the slices.

        Raises
        ------
        SourceChanged
            A file is no longer the one that was pinned.
        """
        return ParquetSource(self, [s for s in slices if isinstance(s, ParquetSlice)])

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: the columns as they are read, and which of them is the time."""
        return {"format": "parquet", "schema": described(self.schema), "time": self.time}


class ParquetSource:
    """Slices of a Parquet pin as one table."""

    def __init__(self, reader: ParquetReader, slices: Sequence[ParquetSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._asked: list[str] = []
        self._check_identity()

    def __enter__(self) -> ParquetSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order; those of the folders' names last."""
        return self._reader.schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:  # noqa: ARG002
        """Give the rows, lazily: nothing is read before the data set is scanned. The engine filters while it scans."""
        wanted = list(self.schema.names if columns is None else columns)
        self._asked = wanted
        if any(pa.types.is_string(kind) or pa.types.is_binary(kind) for kind in map(self._type, wanted)):
            for s in self._slices:
                self._check_expansion(s, wanted)
        return self._dataset(self._slices, wanted)

    def diagnose(self) -> None:
        """Read again what was asked for, file by file, to find the one that is at fault.

        Raises
        ------
        SourceChanged
            A file is no longer the one that was pinned.
        CorruptData
            A file does not read, or its checksums are wrong.
        SchemaMismatch
            A value does not fit the pinned column.
        """
        self._check_identity()
        for s in self._slices:
            try:
                for _ in self._dataset([s], self._asked, bounded=False).to_batches():
                    pass
            except (pa.ArrowException, OSError, ValueError) as fault:
                if isinstance(fault, pa.ArrowInvalid) and "would lose data" in str(fault):
                    raise SchemaMismatch(
                        f"While reading {s.path}: every value must fit the column's pinned type; {fault}. Declare a finer type in `columns`.",
                        path=s.path,
                    ) from fault
                if isinstance(fault, pa.ArrowNotImplementedError):
                    raise SchemaMismatch(
                        f"While reading {s.path}: every column that is asked for must be of a kind that can be decoded; {fault}. "
                        "Ask for other columns, or write the file in another way.",
                        path=s.path,
                    ) from fault
                raise _corrupt(s, fault) from fault

    def proofs(self) -> list[Proof]:
        """Check that the files are still those that were pinned, and that every row had a time if a bound needed it."""
        self._check_identity()
        return [self._proof(s) for s in self._slices]

    def close(self) -> None:
        """Keep nothing open: files are open only while a data set is scanned."""

    def _type(self, name: str) -> pa.DataType:
        kind: pa.DataType = self.schema.field(name).type
        return kind

    def _check_expansion(self, s: ParquetSlice, wanted: Sequence[str]) -> None:
        try:
            check_expansion(self._reader.root / s.path, s, wanted, verify=self._reader.verify)
        except (pa.ArrowException, OSError) as fault:
            self.diagnose()
            raise _corrupt(s, fault) from fault

    def _proof(self, s: ParquetSlice) -> Proof:
        greatest = None
        if self._reader.time is not None:
            groups = read_footer(self._reader.root / s.path, s.path, self._reader.time).row_groups[s.first : s.last]
            times = [group.greatest_time for group in groups if group.rows]
            greatest = max((t for t in times if t is not None), default=None) if None not in times else None
            if None in times and (s.since is not None or s.before is not None):
                self._check_null_times(s)
        seen = xxhash.xxh3_128(f"{s.path}\0{s.size}\0{s.identity}\0{s.first}\0{s.last}".encode())
        return Proof(slice=s.position, records=s.rows, bytes=s.bytes, greatest_time=greatest, digest=seen.hexdigest())

    def _check_null_times(self, s: ParquetSlice) -> None:
        # A bound compares to unknown and drops such a row; the statistics could not say that there is none.
        time = str(self._reader.time)
        nulls = self._dataset([s], [time], bounded=False).count_rows(filter=pc.field(time).is_null())
        if nulls:
            raise SchemaMismatch(
                f"While reading {s.path} up to a time: every row must have a {time!r}; {nulls} have none. "
                "Correct the file, or read the history without a bound.",
                path=s.path,
            )

    def _dataset(self, slices: Sequence[ParquetSlice], wanted: Sequence[str], *, bounded: bool = True) -> ds.Dataset:
        # Imported here: it brings pandas with it where that is installed, and whoever only pins reads no rows.
        import pyarrow.dataset as ds

        time = self._reader.time
        bounds = _common_bounds(slices) if bounded else Bounds()
        needs_time = bounds.since is not None or bounds.before is not None
        chosen = [*wanted, *([time] if needs_time and time is not None and time not in wanted else [])]
        schema = pa.schema([self.schema.field(name) for name in chosen])
        if not slices:
            return ds.dataset(schema.empty_table())
        scanning = ds.ParquetFragmentScanOptions(page_checksum_verification=self._reader.verify)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=scanning)
        root = self._reader.root
        fragments = [
            parquet.make_fragment(
                (root / s.path).path,
                root.filesystem,
                partition_expression=self._partition(s),
                row_groups=range(s.first, s.last),
            )
            for s in slices
        ]
        dataset = ds.FileSystemDataset(fragments, schema, parquet, root.filesystem)
        kept = keeps(time, self.schema.field(time).type, bounds) if needs_time and time is not None else None
        return dataset if kept is None else dataset.filter(kept)

    def _partition(self, s: ParquetSlice) -> pc.Expression:
        parts: list[Any] = []
        for name, value in s.partition_values.items():
            column = pc.field(name)
            if value is None:
                parts.append(column.is_null())
            else:
                parts.append(column == pa.scalar(value).cast(self.schema.field(name).type))
        whole = pc.scalar(True)
        for part in parts:
            whole = whole & part
        return whole

    def _check_identity(self) -> None:
        pinned = {s.path: (s.size, s.identity) for s in self._slices}
        changed = []
        for path, (size, identity) in pinned.items():
            found = files.look(self._reader.root, path)
            if (found.size, found.identity) != (size, identity):
                changed.append(
                    f"{path}: pinned with {size} bytes, {identity}; found {found.size} bytes, {found.identity}"
                )
        if changed:
            listed = "\n  ".join(changed[:20])
            raise SourceChanged(
                f"While reading Parquet: files must be those that were pinned; {len(changed)} changed:\n  {listed}\n"
                "Run again to pin the files as they are now.",
                paths=changed,
            )


def _corrupt(s: ParquetSlice, fault: Exception) -> CorruptData:
    return CorruptData(
        f"While reading row groups [{s.first}, {s.last}) of {s.path}: whole pages with right checksums are required; {fault}. "
        "Restore the file from its source, or take it out of the history.",
        path=s.path,
    )


def _common_bounds(slices: Sequence[ParquetSlice]) -> Bounds:
    # A slice without a bound is one whose rows are all inside, so the bound of another changes nothing about it.
    since = {s.since for s in slices if s.since is not None}
    before = {s.before for s in slices if s.before is not None}
    assert len(since) <= 1
    assert len(before) <= 1, "slices of one pin have one window"
    return Bounds(since=next(iter(since), None), before=next(iter(before), None))
