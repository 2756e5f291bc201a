"""Rows that a table has deleted by what they hold: Iceberg's equality deletes, as writers of streams make them.

Keeps promises 1, 2, 7 and 10 for tables whose deletes are joins. A file of deletes names columns, and each of its rows deletes the rows of older data files
that are equal to it in them. Which deletes may touch which data file, the table's metadata say, and the pin keeps (`iceberg_deletes`); the join is done where a
slice is read: the columns are read from it whether a job asks for them or not, and what is found there is left out before any condition is asked. Columns are
known by the ids that files carry, so that it does not matter what they are called, or whether the table still has them; one that a file lacks is null in all
its rows. Null equals null, NaN equals NaN, and -0.0 is not 0.0, as in Iceberg's own reader.

Memory is bounded by the columns of one slice and by `CHUNK_ROWS` deletes, however many there are. Small files of deletes are kept decoded: slices of one file,
and of its neighbours, need the same.

::

    manifests -> EqualityDeletes (of a pin) -> digest_of (of a slice) -> Erasers.found -> drifted.rows_as_pinned
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.engine import database
from hindscan.errors import CorruptData, SchemaMismatch, SourceChanged
from hindscan.files import Place, look
from hindscan.history.footer import plain_type
from hindscan.history.pages import check_headers
from hindscan.history.parquet_files import OpenFile
from hindscan.history.snapshot import EqualityDeletes, KeyColumn

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["DeleteFiles", "Erasers", "digest_of", "stored_path"]

#: Deletes that a slice is compared with at once: some megabytes.
CHUNK_ROWS: Final = 262_144
#: Decoded deletes that are kept.
KEPT_BYTES: Final = 64 << 20
_FIELD_ID: Final = b"PARQUET:field_id"


def digest_of(deletes: Sequence[EqualityDeletes]) -> str:
    """Digest what a file's rows are compared with; empty where that is nothing."""
    if not deletes:
        return ""
    return hashlib.blake2b(msgspec.json.encode(deletes), digest_size=16).hexdigest()


def stored_path(schema: pa.Schema, column: KeyColumn) -> tuple[str, ...] | None:
    """Find where a file has a column, by the names it has for the structs around it and for itself; None: it has none.

    Parameters
    ----------
    schema : pyarrow.Schema
        The file's own.
    column : KeyColumn
        The column.
    """
    known = {path: (field.metadata or {}).get(_FIELD_ID) for path, field in _fields(schema)}
    ids = {path: int(said) for path, said in known.items() if said is not None}
    if ids:
        return next((path for path, number in ids.items() if number == column.id), None)
    # A file without ids was not written for this table: names are all there is.
    return next((path for path in known if ".".join(path) in column.names), None)


def _fields(
    fields: Iterable[pa.Field[Any]], around: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], pa.Field[Any]]]:
    """Give all fields with their paths, those inside of structs included."""
    for field in fields:
        path = (*around, field.name)
        yield path, field
        if pa.types.is_struct(field.type):
            yield from _fields(cast("Iterable[pa.Field[Any]]", field.type), path)


class Erasers:
    """Deletes as one reader has them decoded. Travels to workers empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[EqualityDeletes, pa.Table] = OrderedDict()

    def __reduce__(self) -> tuple[type[Erasers], tuple[()]]:
        return Erasers, ()

    def found(
        self,
        fragment: ds.ParquetFileFragment,
        deletes: Sequence[EqualityDeletes],
        constants: Mapping[str, pa.Scalar[Any]],
        stored: DeleteFiles,
    ) -> npt.NDArray[np.int64]:
        """Find the rows of a slice that are deleted.

        Parameters
        ----------
        fragment : pyarrow.dataset.ParquetFileFragment
            The slice.
        deletes : sequence of EqualityDeletes
            Those that may touch its file.
        constants : mapping of str to pyarrow.Scalar
            Columns whose value the table's metadata say.
        stored : DeleteFiles
            Where they are read from.

        Returns
        -------
        numpy.ndarray
            Their numbers, from 0; one may be named twice.

        Raises
        ------
        SourceChanged
            A file of deletes is no longer the one that was pinned.
        CorruptData
            A file of deletes does not read, or lacks its columns.
        SchemaMismatch
            A column is of another kind there than in the slice.
        """
        parts = []
        for columns, same in itertools.groupby(sorted(deletes, key=_ids), key=lambda one: one.columns):
            rows = _rows_of(fragment, columns, constants)
            chunks = _in_chunks(table for one in same for table in self._read(one, stored))
            parts += [_equal_rows(_alike(rows, chunk, columns), chunk) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _read(self, deletes: EqualityDeletes, stored: DeleteFiles) -> Iterator[pa.Table]:
        """Give a file's rows, each column by its place; one that is small only once from the file."""
        with self._lock:
            kept = self._kept.get(deletes)
            if kept is not None:
                self._kept.move_to_end(deletes)
        if kept is not None:
            yield kept
            return
        held: list[pa.Table] | None = []
        for table in stored.read(deletes):
            if held is not None:
                held.append(table)
                held = held if sum(one.nbytes for one in held) <= KEPT_BYTES else None
            yield table
        if held:
            self._keep(deletes, pa.concat_tables(held))

    def _keep(self, deletes: EqualityDeletes, table: pa.Table) -> None:
        with self._lock:
            self._kept[deletes] = table
            while sum(one.nbytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteFiles:
    """Where files of deletes are read from, and how: as data files are.

    Parameters
    ----------
    root : Place
        The table's folder.
    parquet : pyarrow.dataset.ParquetFileFormat
        How they are read.
    verify : bool
        Their page headers are looked at, too.
    """

    root: Place
    parquet: ds.ParquetFileFormat
    verify: bool

    def read(self, deletes: EqualityDeletes) -> Iterator[pa.Table]:
        """Decode a file's columns in steps; whoever has taken all of them is sure that it is the one that was pinned."""
        self._check_identity(deletes)
        place = self.root / deletes.path
        make: Any = self.parquet.make_fragment
        file = OpenFile(place=place, make=lambda: make(place.path, place.filesystem))
        try:
            fragment = file.fragment
            paths = [stored_path(fragment.physical_schema, column) for column in deletes.columns]
            absent = [column.name for column, path in zip(deletes.columns, paths, strict=True) if path is None]
            if absent:
                raise _corrupt(deletes, f"it has no {', '.join(absent)}")
            found = [path for path in paths if path is not None]
            if self.verify and self.root.is_local:
                check_headers(file, range(fragment.num_row_groups), [path[0] for path in found])
            read: Any = {f"k{at}": pc.field(*path) for at, path in enumerate(found)}
            for batch in fragment.to_batches(columns=read, batch_size=CHUNK_ROWS, use_threads=False):
                yield _plain(pa.Table.from_batches([batch]))
        except (pa.ArrowException, OSError, ValueError) as fault:
            self._check_identity(deletes)
            raise _corrupt(deletes, fault) from fault
        self._check_identity(deletes)

    def _check_identity(self, deletes: EqualityDeletes) -> None:
        found = look(self.root, deletes.path)
        if (found.size, found.identity) != (deletes.size, deletes.identity):
            raise SourceChanged(
                f"While reading the deletes in {deletes.path}: the file must be the one that was pinned, with {deletes.size} bytes, {deletes.identity}; "
                f"found {found.size} bytes, {found.identity}. Restore it, or run again to pin the table as it is now.",
                paths=[deletes.path],
            )


def _ids(deletes: EqualityDeletes) -> list[int]:
    return [column.id for column in deletes.columns]


def _rows_of(
    fragment: ds.ParquetFileFragment, columns: Sequence[KeyColumn], constants: Mapping[str, pa.Scalar[Any]]
) -> pa.Table:
    """Read the columns that rows are compared by, each by its place; nulls without a type where the file lacks one."""
    found = fragment.physical_schema
    stored = [stored_path(found, column) for column in columns]
    read: Any = {f"k{at}": pc.field(*path) for at, path in enumerate(stored) if path is not None}
    table = fragment.to_table(schema=found, columns=read, use_threads=False)
    rows = sum(group.num_rows for group in fragment.row_groups)
    made: list[Any] = []
    for at, (path, column) in enumerate(zip(stored, columns, strict=True)):
        if path is not None:
            made.append(table.column(f"k{at}"))
        elif column.name in constants:
            made.append(pa.repeat(cast(Any, constants[column.name]), rows))
        else:
            made.append(pa.nulls(rows))
    return _plain(pa.table(made, names=[f"k{at}" for at in range(len(made))]))


def _plain(table: pa.Table) -> pa.Table:
    """Give columns in which values are equal if they are the same, of one type for each kind."""
    columns = [_plain_column(cast(Any, column)) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _plain_column(values: Any) -> Any:
    t, kind = pa.types, values.type
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], cast(Any, kind))
    if t.is_floating(kind):
        # Their bits: engines take -0.0 for 0.0. Not a number has many.
        numbers = values.cast(pa.float64()).combine_chunks()
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(np.nan, pa.float64()), numbers)
        return numbers.view(pa.int64())
    if t.is_integer(kind):
        return values.cast(pa.int64())
    if t.is_decimal(kind):
        return values.cast(pa.decimal128(38, kind.scale))
    if t.is_timestamp(kind):
        return values.cast(pa.timestamp("ns" if kind.unit == "ns" else "us"))
    if t.is_fixed_size_binary(kind):
        return values.cast(pa.binary())
    return values.cast(plain_type(kind))


def _alike(rows: pa.Table, deletes: pa.Table, columns: Sequence[KeyColumn]) -> pa.Table:
    """Give what a file lacks as nulls of the deletes' type, and see that the others are of it."""
    for at, column in enumerate(columns):
        mine, theirs = rows.schema.field(at).type, deletes.schema.field(at).type
        if pa.types.is_null(mine):
            rows = rows.set_column(at, f"k{at}", pa.nulls(rows.num_rows, theirs))
        elif mine != theirs:
            raise SchemaMismatch(
                f"While leaving out deleted rows: column {column.name!r} must be of one kind in data and in deletes; data have {mine}, deletes {theirs}. "
                "Rewrite the table's data files (compaction).",
                column=column.name,
            )
    return rows


def _in_chunks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Put small tables together, as far as their types agree."""
    held: list[pa.Table] = []
    for table in tables:
        if held and (held[0].schema != table.schema or sum(one.num_rows for one in held) >= CHUNK_ROWS):
            yield pa.concat_tables(held)
            held = []
        held.append(table)
    if held:
        yield pa.concat_tables(held)


def _equal_rows(rows: pa.Table, deletes: pa.Table) -> npt.NDArray[np.int64]:
    """Give the numbers of rows that are equal to one of some others."""
    numbered = rows.append_column("n", pa.array(np.arange(rows.num_rows)))
    equal = " AND ".join(f"rows.{name} IS NOT DISTINCT FROM deletes.{name}" for name in rows.column_names)
    with closing(database(os.getpid()).cursor()) as cursor:
        cursor.register("rows", numbered)
        cursor.register("deletes", deletes)
        found = cursor.sql(f"SELECT n FROM rows SEMI JOIN deletes ON {equal}").to_arrow_table()
    return np.asarray(found.column(0).to_numpy(), np.int64)


def _corrupt(deletes: EqualityDeletes, fault: object) -> CorruptData:
    return CorruptData(
        f"While reading the deletes in {deletes.path}: a whole Parquet file with right checksums and the columns "
        f"{', '.join(column.name for column in deletes.columns)} is required; {fault}. Restore the file, or compact the table.",
        path=deletes.path,
    )
