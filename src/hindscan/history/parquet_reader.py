"""Reading pinned Parquet: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Parquet. Every file is looked at before it is read and again when its proof is asked for (`pinned_files`): another size or identity fails the
slice by the file's name. Page checksums are verified unless the history says otherwise (a file without them is read as it is: only its writer
could have added them). Nothing is decoded but the columns and row groups asked for; the bounds of the window are part of the data set,
so no engine can lose them.

::

    ParquetReader.open(slices) -> ParquetSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.errors import CorruptData, SchemaMismatch
from hindscan.history.bounds import Bounds, keeps
from hindscan.history.columns import described
from hindscan.history.decoded import decoded
from hindscan.history.deletes import kept_mask
from hindscan.history.drifted import is_read_as_pinned, rows_as_pinned
from hindscan.history.equality import DeleteFiles, Erasers, stored_path
from hindscan.history.expansion import check_expansion
from hindscan.history.footer import greatest_times
from hindscan.history.int96 import check_int96, int96_unit
from hindscan.history.pages import check_headers, has_checksums
from hindscan.history.parquet_files import Files, OpenFile
from hindscan.history.pinned_files import PinnedFiles
from hindscan.history.snapshot import EqualityDeletes, ParquetSlice, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.condition import Where

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
    #: By what slices call them.
    equality_deletes: Mapping[str, Sequence[EqualityDeletes]] = field(default_factory=dict)
    #: What slices of one file share.
    files: Files = field(default_factory=Files, compare=False, repr=False)
    erasers: Erasers = field(default_factory=Erasers, compare=False, repr=False)

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


class _Chosen(NamedTuple):
    """What is left of one slice."""

    slice: ParquetSlice
    fragment: ds.ParquetFileFragment

    @property
    def row_groups(self) -> list[int]:
        return [group.id for group in self.fragment.row_groups]


class ParquetSource:
    """Slices of a Parquet pin as one table."""

    def __init__(self, reader: ParquetReader, slices: Sequence[ParquetSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._asked: list[str] = []
        #: Of each slice, by position: the columns that were ever asked for, and the row groups of each that were left.
        self._decodes: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        #: Which rows of a slice count, by position.
        self._kept: dict[int, npt.NDArray[np.bool_]] = {}
        self._files = PinnedFiles(reader.root, reader.files, slices)

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
        """Give the rows, lazily; where a condition prunes them, those that are left are read at once, and so are those of files that drifted."""
        wanted = list(self.schema.names if columns is None else columns)
        self._asked = wanted
        chosen = self._chosen(self._slices, None if where is None or self._may_drift else where.may_pass(self.schema))
        for one in chosen:
            self._decodes[one.slice.position] |= {(name, group) for name in wanted for group in one.row_groups}
        if any(pa.types.is_string(kind) or pa.types.is_binary(kind) for kind in map(self._type, wanted)):
            for one in chosen:
                self._check_expansion(one.slice, wanted)
        if any(map(pa.types.is_timestamp, self.schema.types)):
            for one in chosen:
                self._check_int96(one, wanted)
        if where is None:
            return self._dataset(chosen, wanted)
        # What is left is decoded at once: an engine filters a table faster than Arrow filters while it scans.
        rows = self._decoded(chosen, wanted, where)
        if rows is None:
            rows = self._dataset(chosen, wanted, where=where).to_table(columns=wanted, use_threads=False)
        return _in_memory(rows)

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
        self._files.check()
        for s in self._slices:
            try:
                for _ in self._dataset(self._chosen([s]), self._asked, bounded=False).to_batches():
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
        for s in self._slices:
            if s.equality_deletes:
                self._kept_of(s)
        self._files.check()
        self._check_headers()
        return [self._proof(s) for s in self._slices]

    def close(self) -> None:
        """Keep nothing open: files are open only while a data set is scanned."""

    def _file(self, s: ParquetSlice) -> OpenFile:
        return self._reader.files.open(self._files.place(s), s.size, s.identity, lambda: self._fragment(s))

    def _fragment(self, s: ParquetSlice) -> ds.ParquetFileFragment:
        place = self._files.place(s)
        partition = self._partition(s)
        made: Any = self._parquet.make_fragment(place.path, place.filesystem, partition_expression=partition)
        return cast("ds.ParquetFileFragment", made)

    def _type(self, name: str) -> pa.DataType:
        kind: pa.DataType = self.schema.field(name).type
        return kind

    def _check_expansion(self, s: ParquetSlice, wanted: Sequence[str]) -> None:
        try:
            older = [old for old, new in self._reader.rename.items() if new in wanted]
            check_expansion(self._file(s), s, [*wanted, *older], verify=self._reader.verify)
        except (pa.ArrowException, OSError) as fault:
            self.diagnose()
            raise _corrupt(s, fault) from fault

    def _check_int96(self, one: _Chosen, wanted: Sequence[str]) -> None:
        needed = set(self._columns(wanted, self._bounds([one])).names)
        stored = needed | {old for old, new in self._reader.rename.items() if new in needed}
        try:
            check_int96(
                self._file(one.slice),
                one.row_groups,
                stored,
                self._int96,
                shown=one.slice.path,
                verify=self._reader.verify,
            )
        except (pa.ArrowException, OSError) as fault:
            self.diagnose()
            raise _corrupt(one.slice, fault) from fault

    def _check_headers(self) -> None:
        """Look at the page headers of the columns that were read: checksums do not cover them, and what they hide is missing without a word."""
        if not self._reader.verify or not self._reader.root.is_local or not self._decodes:
            return
        for s in self._slices:
            read = self._decodes[s.position]
            needed = {name for name, _ in read} | (
                {self._reader.time} if self._reader.time is not None and read else set()
            )
            stored = needed | {old for old, new in self._reader.rename.items() if new in needed}
            try:
                check_headers(self._file(s), {group for _, group in read}, stored)
            except (pa.ArrowException, OSError, ValueError) as fault:
                raise _corrupt(s, fault) from fault

    def _proof(self, s: ParquetSlice) -> Proof:
        greatest = None
        if self._reader.time is not None:
            try:
                metadata = self._file(s).metadata
            except (pa.ArrowException, OSError) as fault:
                raise _corrupt(s, fault) from fault
            times = greatest_times(metadata, range(s.first, s.last), self._reader.time, self._reader.rename)
            greatest = max((t for t in times if t is not None), default=None) if None not in times else None
            if None in times and (s.since is not None or s.before is not None):
                self._check_null_times(s)
        which = f"{s.path}\0{s.size}\0{s.identity}\0{s.first}\0{s.last}{''.join(s.deleted)}{s.equality_deletes}"
        seen = xxhash.xxh3_128(which.encode())
        return Proof(
            slice=s.position,
            records=int(self._kept_of(s).sum()) if s.equality_deletes else s.rows,
            bytes=s.bytes,
            greatest_time=greatest,
            digest=seen.hexdigest(),
            unverified=self._unverified(s),
        )

    def _unverified(self, s: ParquetSlice) -> str | None:
        """Tell why nothing shows that the pages read are those that were written."""
        if not self._reader.verify:
            return "page checksums (verify = false)"
        return None if has_checksums(self._file(s), s.first, s.last) else "page checksums (files without them)"

    def _check_null_times(self, s: ParquetSlice) -> None:
        # A bound compares to unknown and drops such a row; the statistics could not say that there is none.
        time = str(self._reader.time)
        nulls = self._dataset(self._chosen([s]), [time], bounded=False).count_rows(filter=pc.field(time).is_null())
        if nulls:
            raise SchemaMismatch(
                f"While reading {s.path} up to a time: every row must have a {time!r}; {nulls} have none. "
                "Correct the file, or read the history without a bound.",
                path=s.path,
            )

    def _dataset(
        self, chosen: Sequence[_Chosen], wanted: Sequence[str], *, bounded: bool = True, where: Where | None = None
    ) -> ds.Dataset:
        """Give the rows of what was chosen, lazily where their files are as pinned."""
        # Imported here: it brings pandas with it where that is installed, and whoever only pins reads no rows.
        import pyarrow.dataset as ds

        bounds = self._bounds(chosen) if bounded else None
        schema = self._columns(wanted, bounds)
        if not chosen:
            return ds.dataset(schema.empty_table())
        parts = [self._part(list(run), schema, where) for run in self._alike(chosen, schema)]
        dataset = parts[0] if len(parts) == 1 else ds.dataset(parts, schema=schema)
        return dataset if bounds is None else dataset.filter(bounds)

    def _decoded(self, chosen: Sequence[_Chosen], wanted: Sequence[str], where: Where) -> pa.Table | None:
        """Give the rows of what was chosen as they lie, perhaps without such as do not fulfil a condition; None where something of them must be converted first."""
        bounds = self._bounds(chosen)
        schema = self._columns(wanted, bounds)
        tables = []
        for one in chosen:
            constants = self._constants(one.slice)
            if _may_lose_rows(one.slice) or self._may_drift or (bounds is not None and self._reader.time in constants):
                return None
            file = self._file(one.slice)
            table = decoded(
                file,
                one.row_groups,
                schema,
                constants=constants,
                where=where,
                int96=self._int96,
                verify=self._reader.verify,
            )
            if table is None:
                return None
            if table.num_rows:
                tables.append(table)
        alike = len({table.schema for table in tables}) == 1
        whole = (
            pa.concat_tables(tables if alike else [table.cast(schema) for table in tables])
            if tables
            else schema.empty_table()
        )
        return whole if bounds is None else whole.filter(bounds)

    def _bounds(self, chosen: Sequence[_Chosen]) -> pc.Expression | None:
        """Give the condition of the window; None where all rows are inside."""
        bounds, time = _common_bounds([one.slice for one in chosen]), self._reader.time
        if time is None or (bounds.since is None and bounds.before is None):
            return None
        return keeps(time, self._type(time), bounds)

    def _columns(self, wanted: Sequence[str], bounds: pc.Expression | None) -> pa.Schema:
        """Give the columns that are read: those wanted, and the time where rows are chosen by it."""
        time = self._reader.time
        more = [time] if bounds is not None and time is not None and time not in wanted else []
        return pa.schema([self.schema.field(name) for name in (*wanted, *more)])

    @functools.cached_property
    def _parquet(self) -> ds.ParquetFileFormat:
        import pyarrow.dataset as ds

        scanning = ds.ParquetFragmentScanOptions(page_checksum_verification=self._reader.verify)
        how: dict[str, Any] = {"coerce_int96_timestamp_unit": self._int96}
        return ds.ParquetFileFormat(default_fragment_scan_options=scanning, **how)

    @functools.cached_property
    def _int96(self) -> Literal["us", "ns"]:
        return int96_unit(self.schema)

    @property
    def _may_drift(self) -> bool:
        return self._reader.widens or bool(self._reader.rename)

    def _chosen(self, slices: Sequence[ParquetSlice], may_pass: pc.Expression | None = None) -> list[_Chosen]:
        """Choose the row groups of slices, without those of which the footer or the folder's name shows that no row passes."""
        chosen = []
        for s in slices:
            whole: Any = self._file(s).fragment.subset(row_group_ids=list(range(s.first, s.last)))
            left = whole if may_pass is None else whole.subset(may_pass, schema=self.schema)
            if may_pass is None or left.num_row_groups:
                # What is deleted goes by position: a row group that is left out would move the others.
                chosen.append(_Chosen(s, whole if _may_lose_rows(s) else left))
        return chosen

    def _alike(self, chosen: Sequence[_Chosen], schema: pa.Schema) -> list[list[tuple[_Chosen, bool]]]:
        """Put those together that one scan reads: all, unless files drifted."""
        runs: list[list[tuple[_Chosen, bool]]] = []
        for one in chosen:
            as_pinned = not _may_lose_rows(one.slice) and (
                not self._may_drift or is_read_as_pinned(one.fragment.physical_schema, schema, self._reader.rename)
            )
            if not (runs and as_pinned and runs[-1][0][1]):
                runs.append([])
            runs[-1].append((one, as_pinned))
        return runs

    def _part(
        self,
        run: list[tuple[_Chosen, bool]],
        schema: pa.Schema,
        where: Where | None,
    ) -> ds.Dataset:
        import pyarrow.dataset as ds

        (s, fragment), as_pinned = run[0]
        if as_pinned:
            return ds.FileSystemDataset(
                [one.fragment for one, _ in run], schema, self._parquet, self._reader.root.filesystem
            )
        table = rows_as_pinned(
            fragment,
            schema,
            shown=s.path,
            rename=self._reader.rename,
            constants=self._constants(s),
            kept=self._kept_of(s) if _may_lose_rows(s) else None,
            where=where,
        )
        return ds.dataset(table)

    def _kept_of(self, s: ParquetSlice) -> npt.NDArray[np.bool_]:
        """Tell which rows of a slice count; where deletes go by what rows hold, those columns of it are read, once."""
        found = self._kept.get(s.position)
        if found is None:
            [(_, fragment)] = self._chosen([s])
            rows = [group.num_rows for group in fragment.row_groups]
            found = kept_mask(s.deleted or [""] * len(rows), rows)
            if s.equality_deletes:
                found[self._erased(s, fragment)] = False
            self._kept[s.position] = found
        return found

    def _erased(self, s: ParquetSlice, fragment: ds.ParquetFileFragment) -> npt.NDArray[np.int64]:
        deletes = self._reader.equality_deletes[s.equality_deletes]
        keys = {column for one in deletes for column in one.columns}
        stored = {path[0] for key in keys if (path := stored_path(fragment.physical_schema, key)) is not None}
        self._decodes[s.position] |= {(name, group) for name in stored for group in range(s.first, s.last)}
        try:
            check_expansion(self._file(s), s, list(stored), verify=self._reader.verify)
            where = DeleteFiles(root=self._reader.root, parquet=self._parquet, verify=self._reader.verify)
            return self._reader.erasers.found(fragment, deletes, self._constants(s), where)
        except (pa.ArrowException, OSError) as fault:
            self._files.check()
            raise _corrupt(s, fault) from fault

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


def _may_lose_rows(s: ParquetSlice) -> bool:
    """Tell whether the slice's table has deleted some of its rows, or may have."""
    return bool(s.deleted or s.equality_deletes)


def _corrupt(s: ParquetSlice, fault: Exception) -> CorruptData:
    return CorruptData(
        f"While reading row groups [{s.first}, {s.last}) of {s.path}: whole pages with right checksums are required; {fault}. "
        "Restore the file from its source, or take it out of the history.",
        path=s.path,
    )


def _in_memory(table: pa.Table) -> ds.Dataset:
    import pyarrow.dataset as ds

    return ds.dataset(table)


def _common_bounds(slices: Sequence[ParquetSlice]) -> Bounds:
    # A slice without a bound is one whose rows are all inside, so the bound of another changes nothing about it.
    since = {s.since for s in slices if s.since is not None}
    before = {s.before for s in slices if s.before is not None}
    assert len(since) <= 1
    assert len(before) <= 1, "slices of one pin have one window"
    return Bounds(since=next(iter(since), None), before=next(iter(before), None))
