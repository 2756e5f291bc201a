"""Iceberg tables: which files a snapshot has, and what its columns are called in each.

Keeps promise 1 for Iceberg: a snapshot id is one list of files for ever. Manifests and deletes are read with pyiceberg, and nothing else is: no plan of its own,
no rows. Columns are known by their ids: a column that was renamed is read from older files under the name it had there. Where names do not tell columns apart (a
name that was two columns, a renamed field inside a struct) a file that could be read wrong is refused by name: compact the table first. What a snapshot has
deleted of its files, `iceberg_deletes` says.

With `iceberg_deletes` and `iceberg_target` the only user of pyiceberg. Stands beside `delta`, behind `lake`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hindscan import files
from hindscan.errors import ServiceUnavailable, SourceMissing
from hindscan.history.formats.decoder import missing_extra
from hindscan.history.iceberg_deletes import Equality, deleted_positions, is_of_equality, is_of_positions, mapped_names
from hindscan.history.lake import TableFile, TableVersion, inside, plain_schema, refused, unqualified
from hindscan.history.snapshot import KeyColumn

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile, ManifestEntry
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["IcebergTable", "store_properties"]

#: ``00003-UUID.metadata.json`` and ``v3.metadata.json``, compressed or not.
_METADATA: Final = re.compile(r"v?(\d+)[-.].*metadata\.json(\.gz)?\Z")
#: Our settings of an object store by what pyiceberg calls them.
_S3: Final = {
    "endpoint": "s3.endpoint",
    "region": "s3.region",
    "access_key": "s3.access-key-id",
    "secret_key": "s3.secret-access-key",
    "session_token": "s3.session-token",
}
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class IcebergTable:
    """One table, by its folder or by its name in a catalog.

    Parameters
    ----------
    declared : str
        Folder, metadata file, or ``CATALOG.NAMESPACE.TABLE``.
    place : Place, optional
        The folder or file, resolved. Default: `declared` names a catalog's table.
    catalog : mapping, optional
        Properties of the catalog.
    version : int or str, optional
        Id of a snapshot, or name of a branch or tag. Default: the current snapshot.
    stores : mapping
        How buckets are reached, by name or as ``default``.
    """

    declared: str
    place: files.Place | None
    catalog: Mapping[str, Any] | None
    version: int | str | None
    stores: Mapping[str, files.StoreSettings]

    def __repr__(self) -> str:
        # Properties of a catalog may hold secrets.
        return f"IcebergTable({self.declared!r})"

    def folder(self) -> files.Place:
        """Give the folder of the table."""
        return files.place(unqualified(self._load().location()), stores=self.stores)

    def at(self, before: int | None) -> TableVersion:
        """Give the declared snapshot, the current one, or the last before a time."""
        table = self._load()
        snapshot = self._snapshot(table, before)
        schema = table.schema() if self.version is None and before is None else _schema_of(table, snapshot)
        uuid = table.metadata.table_uuid
        if snapshot is None:
            return TableVersion(name=f"iceberg table {uuid}, empty", files=(), columns=plain_schema(schema.as_arrow()))
        name = f"iceberg snapshot {snapshot.snapshot_id} of {uuid}"
        # A later commit has a later number; what a rewrite keeps keeps its own.
        whole = sorted(
            _entries(table, snapshot), key=lambda entry: (entry.sequence_number or 0, entry.data_file.file_path)
        )
        positions = [entry for entry in whole if is_of_positions(entry.data_file)]
        equality = Equality(table, schema, [entry for entry in whole if is_of_equality(entry.data_file)])
        entries = [
            entry for entry in whole if not (is_of_positions(entry.data_file) or is_of_equality(entry.data_file))
        ]
        names = _Names(table.metadata, schema)
        root = files.place(unqualified(table.location()), stores=self.stores)
        keys = _constant_columns(table.metadata, schema, {entry.data_file.spec_id for entry in entries})
        faults = [
            fault
            for entry in entries
            for fault in _faults(entry.data_file, table, schema, names, keys, root, equality.keys)
        ]
        faults += equality.faults()
        faults += [f"column {one.name!r} has a default for older files" for one in schema.fields if one.initial_default]
        if faults:
            todo = "Rewrite the table's data files (compaction), or pin a snapshot without them by `version`."
            raise refused(self.declared, name, faults, todo)
        deleted = deleted_positions(table, positions)
        listed = tuple(
            TableFile(
                path=inside(table.location(), entry.data_file.file_path) or "",
                size=entry.data_file.file_size_in_bytes,
                partition_values={key: value(entry.data_file) for key, value in keys.items()},
                deleted=deleted(entry),
                equality_deletes=equality.of(entry),
            )
            for entry in entries
        )
        return TableVersion(
            name=name,
            files=listed,
            columns=plain_schema(schema.as_arrow()),
            rename=names.renamed,
            equality_deletes=equality.files,
        )

    def _load(self) -> Table:
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
            from pyiceberg.table import StaticTable
        except ImportError as fault:
            raise missing_extra("an Iceberg table", "pyiceberg", "iceberg") from fault
        if self.place is not None:
            location = _metadata_file(self.place, self.declared)
            return StaticTable.from_metadata(location, store_properties(self.stores, location))
        catalog, _, identifier = self.declared.partition(".")
        # Reading creates nothing: a catalog in a database that has no tables yet is no catalog.
        properties = {
            "init_catalog_tables": "false",
            **store_properties(self.stores, "default"),
            **(self.catalog or {}),
        }
        try:
            return load_catalog(catalog, **properties).load_table(identifier)
        except (NoSuchTableError, NoSuchNamespaceError) as fault:
            raise SourceMissing(
                f"While loading {self.declared}: catalog {catalog} must have the table {identifier}; it has not. "
                "Correct `iceberg`, or create the table.",
                table=self.declared,
            ) from fault
        except Exception as fault:  # a catalog's client raises whatever its transport does
            raise ServiceUnavailable(
                f"While loading {self.declared}: the catalog must answer; {type(fault).__name__}: {str(fault).partition(chr(10))[0]}. "
                f"Check [iceberg.{catalog}].",
                table=self.declared,
            ) from fault

    def _snapshot(self, table: Table, before: int | None) -> Snapshot | None:
        if before is not None:
            # Commits are timed in milliseconds: before T is up to the last whole one that is not at or after T.
            found = table.snapshot_as_of_timestamp(-(-before // 1000), inclusive=False)
            wanted = f"a snapshot committed before {_shown_time(before)}"
        elif isinstance(self.version, int):
            found, wanted = table.snapshot_by_id(self.version), f"the snapshot {self.version}"
        elif self.version is not None:
            found, wanted = table.snapshot_by_name(self.version), f"a branch or tag {self.version!r}"
        else:
            return table.current_snapshot()
        if found is None:
            known = ", ".join(
                f"{one.snapshot_id} ({_shown_time(one.timestamp_ms * 1000)})" for one in table.history()[-5:]
            )
            raise SourceMissing(
                f"While pinning {self.declared}: the table must have {wanted}; it has not, or it was expired. "
                f"The newest it has: {known or 'none'}. Name one that is there.",
                table=self.declared,
            )
        return found


def store_properties(stores: Mapping[str, files.StoreSettings], location: str) -> dict[str, str]:
    """Give the settings of a location's bucket as pyiceberg calls them."""
    bucket = location.removeprefix("s3://").split("/", 1)[0]
    settings = stores.get(bucket, stores.get("default", {}))
    return {_S3[name]: str(value) for name, value in settings.items() if name in _S3}


def _shown_time(micros: int) -> str:
    return dt.datetime.fromtimestamp(micros / 1e6, dt.UTC).isoformat()


def _schema_of(table: Table, snapshot: Snapshot | None) -> Schema:
    number = None if snapshot is None else snapshot.schema_id
    return table.schema() if number is None else table.schemas()[number]


def _metadata_file(place: files.Place, declared: str) -> str:
    """Find the newest metadata file of a table's folder."""
    prefix = "" if place.is_local else f"{place.filesystem.type_name}://"
    if _METADATA.search(place.name):
        return prefix + place.path
    folder = place / "metadata"
    infos = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    numbered = [(int(match[1]), info.path) for info in infos if (match := _METADATA.match(info.base_name))]
    newest = [path for number, path in numbered if number == max(numbered)[0]]
    if len(newest) == 1:
        return prefix + newest[0]
    found = "none is there" if not newest else f"{len(newest)} have the same number: {', '.join(sorted(newest))}"
    raise SourceMissing(
        f"While looking for the Iceberg table {declared}: one newest metadata file must be in {folder}; {found}. "
        "Name the metadata file itself, or the table in its catalog.",
        table=declared,
    )


def _entries(table: Table, snapshot: Snapshot) -> Iterator[ManifestEntry]:
    for manifest in snapshot.manifests(table.io):
        yield from manifest.fetch_manifest_entry(table.io, discard_deleted=True)


class _Names:
    """What columns are called in files, by all schemas the table has had, and by what it says of files that know no ids."""

    def __init__(self, metadata: TableMetadata, schema: Schema) -> None:
        schemas = [{number: str(one.find_column_name(number)) for number in one.field_ids} for one in metadata.schemas]
        ids: dict[str, set[int]] = {}
        names: dict[int, set[str]] = {}
        for number, path in [*(column for one in schemas for column in one.items()), *mapped_names(metadata)]:
            ids.setdefault(path, set()).add(number)
            names.setdefault(number, set()).add(path)
        current = {one.name: one.field_id for one in schema.fields}
        #: Names now by older names.
        self.renamed = {old: name for name, number in current.items() for old in names[number] if old != name}
        #: Ids whose columns a file cannot be read right for, if it has them, and why.
        self.unclear: dict[int, str] = {}
        for path, numbers in ids.items():
            if len(numbers) > 1:
                right = set() if path in self.renamed else {current.get(path)}
                why = f"{path!r} has been the name of {len(numbers)} columns"
                self.unclear |= dict.fromkeys(numbers - right, why)
        top = {one.field_id for other in metadata.schemas for one in other.fields}
        for number, paths in names.items():
            if number not in top and len({path.rpartition(".")[2] for path in paths}) > 1:
                self.unclear[number] = f"a field inside a column was renamed: {', '.join(sorted(paths))}"
        # What is unclear about a struct is so about what it holds.
        for one in schemas:
            for outer in [number for number in one if number in self.unclear]:
                inner = [number for number, path in one.items() if path.startswith(f"{one[outer]}.")]
                self.unclear |= dict.fromkeys(inner, self.unclear[outer])


def _constant_columns(
    metadata: TableMetadata, schema: Schema, specs: set[int]
) -> dict[str, Callable[[DataFile], str | None]]:
    """Give the columns that are one value in each file, whichever of the partitionings in use it was written with."""
    from pyiceberg.types import DateType, IntegerType, LongType, StringType

    names = {
        one.field_id: one.name
        for one in schema.fields
        if isinstance(one.field_type, DateType | IntegerType | LongType | StringType)
    }
    used = [_identities(metadata, number) for number in sorted(specs)]
    common = [number for number in (used[0] if used else {}) if all(number in one for one in used) and number in names]

    def of(number: int) -> Callable[[DataFile], str | None]:
        is_date = isinstance(schema.find_type(number), DateType)

        def value(file: DataFile) -> str | None:
            found = file.partition[_identities(metadata, file.spec_id)[number]]
            if found is None:
                return None
            return (_EPOCH + dt.timedelta(days=found)).isoformat() if is_date and isinstance(found, int) else str(found)

        return value

    return {names[number]: of(number) for number in common}


def _identities(metadata: TableMetadata, spec: int) -> dict[int, int]:
    """Give the place in a partition of every column that partitions by its own value."""
    from pyiceberg.transforms import IdentityTransform

    fields = metadata.specs()[spec].fields
    return {one.source_id: place for place, one in enumerate(fields) if isinstance(one.transform, IdentityTransform)}


def _faults(
    file: DataFile,
    table: Table,
    schema: Schema,
    names: _Names,
    keys: Mapping[str, object],
    root: files.Place,
    compared: Mapping[int, KeyColumn | None],
) -> Iterator[str]:
    from pyiceberg.manifest import DataFileContent, FileFormat

    shown = inside(table.location(), file.file_path)
    if file.content != DataFileContent.DATA:
        yield f"{shown or file.file_path}: it deletes rows of other files ({file.content.name.lower().replace('_', ' ')})"
        return
    if file.file_format != FileFormat.PARQUET:
        yield f"{shown or file.file_path}: it is {file.file_format.value}, not Parquet"
    if shown is None:
        yield f"{file.file_path}: it lies outside the table's folder {table.location()}"
    # What a file has is asked of the file: counts of values in the manifest may leave columns out.
    present = {number: key.name for number, key in compared.items() if key is not None}
    present |= {one.field_id: one.name for one in schema.fields}
    absent = [
        number for number in _identities(table.metadata, file.spec_id) if present.get(number) not in {None, *keys}
    ]
    if shown is None or not (names.unclear or absent):
        return
    ids = _field_ids(root / shown)
    if ids is None:
        return
    for number, why in names.unclear.items():
        # A file without ids was not written for this table: names are all there is.
        if number in ids or not ids:
            yield f"{shown}: {why}, and the file may hold another than the present one"
    for number in absent:
        if number not in ids:
            yield f"{shown}: the value of its partition column {present[number]!r} is only in the table's metadata"


def _field_ids(file: files.Place) -> set[int] | None:
    """Give the ids of all columns of a file, those inside others included; None if it cannot be read: the pin reads it too, and says so."""
    try:
        schema = pq.read_schema(file.path, filesystem=file.filesystem)
    except (pa.ArrowException, OSError):
        return None

    def ids(column: Any) -> Iterator[int]:
        said = (column.metadata or {}).get(b"PARQUET:field_id")
        if said is not None:
            yield int(said)
        for place in range(column.type.num_fields):
            yield from ids(column.type.field(place))

    return {number for column in schema for number in ids(column)}
