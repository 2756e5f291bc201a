"""What an Iceberg snapshot has deleted of its data files: by position, and by equality.

Serves `iceberg` for promises 1 and 7. Positions are read when the snapshot is pinned. Of deletes by equality only manifests are read: they say which of them
may touch which data file, by sequence number, by partition, and by the least and greatest values of the columns compared. So a delete makes no slice new that
it cannot touch; which rows it deletes is found where a slice is read (`equality`).

With `iceberg` and `iceberg_target` the only user of pyiceberg.

References
----------
"Scan planning" in https://iceberg.apache.org/spec/#scan-planning says which deletes apply to which data files.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindscan.history.deletes import Positions
from hindscan.history.lake import inside, unqualified
from hindscan.history.snapshot import EqualityDeletes, KeyColumn

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile, ManifestEntry
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.name_mapping import MappedField
    from pyiceberg.types import NestedField

__all__ = ["Equality", "deleted_positions", "is_of_equality", "is_of_positions", "mapped_names"]


def is_of_positions(file: DataFile) -> bool:
    """Tell whether a file deletes rows by their positions, in a form that is read."""
    from pyiceberg.manifest import DataFileContent, FileFormat

    return file.content == DataFileContent.POSITION_DELETES and file.file_format in (
        FileFormat.PARQUET,
        FileFormat.PUFFIN,
    )


def is_of_equality(file: DataFile) -> bool:
    """Tell whether a file deletes rows by what they hold, in a form that is read."""
    from pyiceberg.manifest import DataFileContent, FileFormat

    return file.content == DataFileContent.EQUALITY_DELETES and file.file_format == FileFormat.PARQUET


def deleted_positions(table: Table, deletes: Sequence[ManifestEntry]) -> Callable[[ManifestEntry], Positions | None]:
    """Read files of position deletes, and deletion vectors; tell of a data file which of its rows are deleted."""
    found: dict[str, list[tuple[int, Positions]]] = {}
    for path, entry in {entry.data_file.file_path: entry for entry in deletes}.items():
        with table.io.new_input(path).open() as stream:
            content = stream.read()
        for data_file, positions in _positions(content, entry.data_file.file_format.value):
            found.setdefault(unqualified(data_file), []).append((entry.sequence_number or 0, positions))

    def of(entry: ManifestEntry) -> Positions | None:
        # A delete is of files that were there: "applied when the data file's sequence number is less than or equal to the delete's".
        known = found.get(unqualified(entry.data_file.file_path), ())
        parts = [positions for sequence, positions in known if sequence >= (entry.sequence_number or 0)]
        return np.concatenate(parts) if parts else None

    return of


def _positions(content: bytes, kind: str) -> Iterator[tuple[str, Positions]]:
    """Give the deleted rows that a file names, by the path of their data file."""
    if kind == "PUFFIN":
        from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
        from pyiceberg.table.puffin import PuffinFile

        for vector in deletion_vectors_from_puffin_file(PuffinFile(content)):
            yield vector.referenced_data_file, vector.to_vector().to_numpy()
        return
    named = pq.read_table(pa.BufferReader(content), columns=["file_path", "pos"])
    for path in named["file_path"].unique().to_pylist():
        yield str(path), named.filter(pc.field("file_path") == path)["pos"].to_numpy()


class Equality:
    """The deletes by equality of one snapshot.

    Parameters
    ----------
    table : Table
        The table.
    schema : Schema
        The snapshot's columns.
    entries : sequence of ManifestEntry
        All files of deletes by equality.
    """

    def __init__(self, table: Table, schema: Schema, entries: Sequence[ManifestEntry]) -> None:
        self._metadata, self._location = table.metadata, table.location()
        # By partition, so that what concerns one data file lies together.
        self._entries = sorted(
            entries, key=lambda entry: (*_where(table.metadata, entry), _sequence(entry), _path(entry))
        )
        self.keys = {number: _key_column(table.metadata, schema, number) for number in self._ids()}
        self._kinds = {number: _kind_of(table.metadata, number) for number in self.keys}
        self._values = [_Values(entry.data_file, self._kinds) for entry in self._entries]
        self._runs: dict[tuple[int, str], tuple[int, list[int]]] = {}
        for where, run in itertools.groupby(enumerate(self._entries), key=lambda one: _where(table.metadata, one[1])):
            numbered = list(run)
            self._runs[where] = numbered[0][0], [_sequence(entry) for _, entry in numbered]

    @property
    def files(self) -> tuple[EqualityDeletes, ...]:
        """The files, in an order of which each data file concerns few ranges; not looked at yet."""
        return tuple(
            EqualityDeletes(
                path=inside(self._location, _path(entry)) or "",
                size=entry.data_file.file_size_in_bytes,
                identity="",
                columns=tuple(key for number in sorted(_ids(entry)) if (key := self.keys[number]) is not None),
            )
            for entry in self._entries
        )

    def faults(self) -> Iterator[str]:
        """Find files that cannot be read right."""
        defaults = {
            one.field_id
            for schema in self._metadata.schemas
            for _, one in _columns(schema.fields)
            if one.initial_default
        }
        for entry in self._entries:
            shown = inside(self._location, _path(entry))
            if shown is None:
                yield f"{_path(entry)}: it lies outside the table's folder {self._location}"
            if not _ids(entry):
                yield f"{shown}: it deletes rows that are equal, and does not say in which columns"
            for number in _ids(entry):
                if self.keys[number] is None:
                    yield f"{shown}: it deletes rows that are equal in field {number}, which is no column that the table has or had"
                elif number in defaults:
                    yield f"{shown}: it deletes rows that are equal in field {number}, which has a default for older files"

    def of(self, entry: ManifestEntry) -> tuple[tuple[int, int], ...]:
        """Tell which of the files may delete rows of a data file, as ranges of their places.

        "An equality delete file must be applied to a data file when all of the following are true: the data file's data sequence number is strictly less than the
        delete's data sequence number; the data file's partition (both spec id and partition values) is equal to the delete file's partition or the delete file's
        partition spec is unpartitioned."
        """
        values = _Values(entry.data_file, self._kinds)
        places: list[int] = []
        for where in dict.fromkeys([_NOWHERE, _where(self._metadata, entry)]):
            start, sequences = self._runs.get(where, (0, []))
            later = range(start + bisect_right(sequences, _sequence(entry)), start + len(sequences))
            places += [at for at in later if all(values.may_meet(self._values[at], n) for n in _ids(self._entries[at]))]
        return _as_ranges(sorted(places))

    def _ids(self) -> set[int]:
        return {number for entry in self._entries for number in _ids(entry)}


#: The partition of a table without any.
_NOWHERE = (-1, "")


def _where(metadata: TableMetadata, entry: ManifestEntry) -> tuple[int, str]:
    """Give a file's partitioning and partition, in a form that can be put in order."""
    from pyiceberg.transforms import VoidTransform

    spec = metadata.specs()[entry.data_file.spec_id]
    if all(isinstance(one.transform, VoidTransform) for one in spec.fields):
        return _NOWHERE
    partition = entry.data_file.partition
    return spec.spec_id, repr([partition[at] for at in range(len(spec.fields))])


def _sequence(entry: ManifestEntry) -> int:
    return entry.sequence_number or 0


def _path(entry: ManifestEntry) -> str:
    return entry.data_file.file_path


def _ids(entry: ManifestEntry) -> list[int]:
    return list(entry.data_file.equality_ids or ())


def _key_column(metadata: TableMetadata, schema: Schema, number: int) -> KeyColumn | None:
    """Find a column by its id, in any schema the table has had; None: it is none of single values, or lies inside of a list or map."""
    found = [
        name for other in (*metadata.schemas, schema) for name, one in _columns(other.fields) if one.field_id == number
    ]
    mapped = [name for at, name in mapped_names(metadata) if at == number]
    return KeyColumn(id=number, name=found[-1], names=tuple(sorted({*found, *mapped}))) if found else None


def _columns(fields: Sequence[NestedField], around: str = "") -> Iterator[tuple[str, NestedField]]:
    """Give all columns of single values with their names, those inside of structs as paths."""
    from pyiceberg.types import StructType

    for field in fields:
        if isinstance(field.field_type, StructType):
            yield from _columns(field.field_type.fields, f"{around}{field.name}.")
        elif field.field_type.is_primitive:
            yield around + field.name, field


def mapped_names(metadata: TableMetadata) -> Iterator[tuple[int, str]]:
    """Give the names, by the ids of their columns, that the table says files without ids have; those inside of others as paths."""

    def named(fields: Sequence[MappedField], before: str) -> Iterator[tuple[int, str]]:
        for field in fields:
            if field.field_id is not None:
                yield from ((field.field_id, before + name) for name in field.names)
            yield from named(field.fields, f"{before}{field.names[0]}." if field.names else before)

    mapping = metadata.name_mapping()
    return named([] if mapping is None else mapping.root, "")


def _kind_of(metadata: TableMetadata, number: int) -> str | None:
    """Tell how the least and greatest values of a column are written; None: they are of no use."""
    from pyiceberg import types

    names: dict[type, str] = {
        types.IntegerType: "whole",
        types.LongType: "whole",
        types.DateType: "date",
        types.TimeType: "time",
        types.TimestampType: "timestamp",
        types.TimestamptzType: "timestamp with zone",
        types.DecimalType: "decimal",
        **dict.fromkeys([types.StringType, types.UUIDType, types.BinaryType, types.FixedType], "bytes"),
    }
    columns = [one for schema in metadata.schemas for _, one in _columns(schema.fields) if one.field_id == number]
    kinds = {names.get(type(one.field_type)) for one in columns}
    return kinds.pop() if len(kinds) == 1 else None


class _Column(NamedTuple):
    """What a manifest says of one column of a file."""

    has_nulls: bool
    has_values: bool
    least: Any = None
    greatest: Any = None


class _Values:
    """What a manifest says of the columns of a file that deletes compare."""

    def __init__(self, file: DataFile, kinds: Mapping[int, str | None]) -> None:
        self._columns = {number: _column(file, number, kind) for number, kind in kinds.items()}

    def may_meet(self, other: _Values, number: int) -> bool:
        """Tell whether a column may have the same value, or a null, in both files."""
        mine, theirs = self._columns[number], other._columns[number]
        if mine.has_nulls and theirs.has_nulls:
            return True
        if not (mine.has_values and theirs.has_values):
            return False
        if None in (mine.least, mine.greatest, theirs.least, theirs.greatest):
            return True
        return bool(mine.least <= theirs.greatest and theirs.least <= mine.greatest)


def _column(file: DataFile, number: int, kind: str | None) -> _Column:
    nulls, count = (file.null_value_counts or {}).get(number), (file.value_counts or {}).get(number)
    least, greatest = (file.lower_bounds or {}).get(number), (file.upper_bounds or {}).get(number)
    return _Column(
        has_nulls=nulls != 0,
        has_values=nulls is None or nulls != count,
        least=_value(least, kind),
        greatest=_value(greatest, kind),
    )


def _value(bound: bytes | None, kind: str | None) -> Any:
    """Read a bound; a text that was cut short is one, too."""
    if bound is None or kind is None:
        return None
    if kind == "bytes":
        return bytes(bound)
    return int.from_bytes(bound, "big" if kind == "decimal" else "little", signed=True)


def _as_ranges(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Write numbers in order as ranges `[first, last)`.

    Examples
    --------
    >>> _as_ranges([0, 1, 2, 5])
    ((0, 3), (5, 6))
    """
    ranges: list[tuple[int, int]] = []
    for at in places:
        if ranges and ranges[-1][1] == at:
            ranges[-1] = ranges[-1][0], at + 1
        else:
            ranges.append((at, at + 1))
    return tuple(ranges)
