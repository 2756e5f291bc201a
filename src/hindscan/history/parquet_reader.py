"""Reading pinned Parquet: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Parquet. Every file is looked at before it is read and again when its proof is asked for: another size or identity fails the
slice by the file's name. Page checksums are verified unless the history says otherwise (a file without them is read as it is: only its writer
could have added them). Nothing is decoded but the columns and row groups asked for; the bounds of the window are part of the data set,
so no engine can lose them.

::

    ParquetReader.open(slices) -> ParquetSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.errors import CorruptData, SchemaMismatch, SourceChanged
from hindscan.history.bounds import Bounds, keeps
from hindscan.history.columns import described
from hindscan.history.drifted import is_read_as_pinned, rows_as_pinned
from hindscan.history.expansion import check_expansion
from hindscan.history.footer import read_footer
from hindscan.history.pages import check_headers, has_checksums
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
    #: Files may have other columns than the pinned ones, and under these older names.
    widens: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)

    def open(self, slices: Sequence[Slice]) -> ParquetSource:
        """Open slices as one table, rows in the order of the slices.

        Raises
        ------
        SourceChanged
            A file is no longer the one that was pinned.
        """
        return ParquetSource(self, [s for s in slices if isinstance(s, ParquetSlice)])

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: the columns as they are read, from which others, and which of them is the time."""
        whole: dict[str, object] = {"format": "parquet", "schema": described(self.schema), "time": self.time}
        return whole | ({"rename": dict(self.rename)} if self.rename else {})


class ParquetSource:
    """Slices of a Parquet pin as one table."""

    def __init__(self, reader: ParquetReader, slices: Sequence[ParquetSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._asked: list[str] = []
        #: All columns that were ever asked for.
        self._read: set[str] = set()
        self._check_identity()

    def __enter__(self) -> ParquetSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order; those of the folders' names last."""
        return self._reader.schema

    @property
    def slices(self) -> Sequence[ParquetSlice]:
        """What it reads, in order."""
        return self._slices

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        """Give the rows, lazily: nothing is read before the data set is scanned, but of files that drifted. The engine filters while it scans."""
        wanted = list(self.schema.names if columns is None else columns)
        self._asked = wanted
        self._read.update(wanted)
        if any(pa.types.is_string(kind) or pa.types.is_binary(kind) for kind in map(self._type, wanted)):
            for s in self._slices:
                self._check_expansion(s, wanted)
        return self._dataset(self._slices, wanted, where=where)

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
        self._check_headers()
        return [self._proof(s) for s in self._slices]

    def close(self) -> None:
        """Keep nothing open: files are open only while a data set is scanned."""

    def _type(self, name: str) -> pa.DataType:
        kind: pa.DataType = self.schema.field(name).type
        return kind

    def _check_expansion(self, s: ParquetSlice, wanted: Sequence[str]) -> None:
        try:
            older = [old for old, new in self._reader.rename.items() if new in wanted]
            check_expansion(self._reader.root / s.path, s, [*wanted, *older], verify=self._reader.verify)
        except (pa.ArrowException, OSError) as fault:
            self.diagnose()
            raise _corrupt(s, fault) from fault

    def _check_headers(self) -> None:
        """Look at the page headers of the columns that were read: checksums do not cover them, and what they hide is missing without a word."""
        if not self._reader.verify or not self._reader.root.is_local:
            return
        needed = self._read | ({self._reader.time} if self._reader.time is not None and self._read else set())
        stored = needed | {old for old, new in self._reader.rename.items() if new in needed}
        for s in self._slices:
            try:
                check_headers(self._reader.root / s.path, s.first, s.last, stored)
            except (pa.ArrowException, OSError, ValueError) as fault:
                raise _corrupt(s, fault) from fault

    def _proof(self, s: ParquetSlice) -> Proof:
        greatest = None
        if self._reader.time is not None:
            footer = read_footer(self._reader.root / s.path, s.path, self._reader.time, self._reader.rename)
            groups = footer.row_groups[s.first : s.last]
            times = [group.greatest_time for group in groups if group.rows]
            greatest = max((t for t in times if t is not None), default=None) if None not in times else None
            if None in times and (s.since is not None or s.before is not None):
                self._check_null_times(s)
        seen = xxhash.xxh3_128(f"{s.path}\0{s.size}\0{s.identity}\0{s.first}\0{s.last}".encode())
        return Proof(
            slice=s.position,
            records=s.rows,
            bytes=s.bytes,
            greatest_time=greatest,
            digest=seen.hexdigest(),
            unverified=self._unverified(s),
        )

    def _unverified(self, s: ParquetSlice) -> str | None:
        """Tell why nothing shows that the pages read are those that were written."""
        if not self._reader.verify:
            return "page checksums (verify = false)"
        return (
            None
            if has_checksums(self._reader.root / s.path, s.first, s.last)
            else "page checksums (files without them)"
        )

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

    def _dataset(
        self, slices: Sequence[ParquetSlice], wanted: Sequence[str], *, bounded: bool = True, where: Where | None = None
    ) -> ds.Dataset:
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
        parts = [self._part(list(run), schema, parquet, where) for run in self._alike(slices, schema, parquet)]
        dataset = parts[0] if len(parts) == 1 else ds.dataset(parts, schema=schema)
        kept = keeps(time, self.schema.field(time).type, bounds) if needs_time and time is not None else None
        return dataset if kept is None else dataset.filter(kept)

    def _alike(
        self, slices: Sequence[ParquetSlice], schema: pa.Schema, parquet: ds.ParquetFileFormat
    ) -> list[list[tuple[ds.ParquetFileFragment, ParquetSlice, bool]]]:
        """Make a fragment of each slice, and put those together that one scan reads: all, unless files drifted."""
        runs: list[list[tuple[ds.ParquetFileFragment, ParquetSlice, bool]]] = []
        root = self._reader.root
        for s in slices:
            fragment: Any = parquet.make_fragment(
                (root / s.path).path,
                root.filesystem,
                partition_expression=self._partition(s),
                row_groups=range(s.first, s.last),
            )
            as_pinned = not (self._reader.widens or self._reader.rename) or is_read_as_pinned(
                fragment.physical_schema, schema, self._reader.rename
            )
            if not (runs and as_pinned and runs[-1][0][2]):
                runs.append([])
            runs[-1].append((fragment, s, as_pinned))
        return runs

    def _part(
        self,
        run: list[tuple[ds.ParquetFileFragment, ParquetSlice, bool]],
        schema: pa.Schema,
        parquet: ds.ParquetFileFormat,
        where: Where | None,
    ) -> ds.Dataset:
        import pyarrow.dataset as ds

        fragment, s, as_pinned = run[0]
        if as_pinned:
            return ds.FileSystemDataset([one for one, _, _ in run], schema, parquet, self._reader.root.filesystem)
        table = rows_as_pinned(
            fragment,
            schema,
            shown=s.path,
            rename=self._reader.rename,
            constants=self._constants(s),
            where=where,
        )
        return ds.dataset(table)

    def _constants(self, s: ParquetSlice) -> dict[str, Any]:
        return {
            name: pa.scalar(value).cast(self.schema.field(name).type)
            if value is not None
            else pa.scalar(None, self.schema.field(name).type)
            for name, value in s.partition_values.items()
        }

    def _partition(self, s: ParquetSlice) -> pc.Expression:
        whole = pc.scalar(True)
        for name, value in self._constants(s).items():
            column: Any = pc.field(name)
            whole = whole & (column == value if value.is_valid else column.is_null())
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
