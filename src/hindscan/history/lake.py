"""A history in a lake table: Iceberg or Delta, pinned by the version of the table.

Keeps promises 1, 2 and 7 for tables. A version of a table is a fixed list of Parquet files, so its pin is a `ParquetPin` like any other: from there on cutting,
reading, proofs and keys are those of `parquet`, and a file keeps its partials while the table around it grows. What the table knows better than a listing is
taken from it: which files count, how large each is, which of their rows are deleted (`deletes`, `equality`), the columns with their older names, and the values
of partitions. What cannot be read right is refused by name (other formats than Parquet, columns that cannot be told apart); a file that has gone, because a
snapshot expired or the table was vacuumed, fails the run by its name when it is pinned and again when it is read.

With ``as_of = "snapshot"`` a run as of T reads the last version committed before T (promise 3), of which rows are cut by time too where they have one.

::

    LakeTable.at(version | before) -> TableVersion(files, columns, rename) -> ParquetHistory.pin_files -> ParquetPin
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs

from hindscan import files
from hindscan.errors import HistoryError, SourceChanged
from hindscan.history.deletes import Positions
from hindscan.history.footer import plain_type
from hindscan.history.footers import THREADS
from hindscan.history.parquet import ParquetHistory
from hindscan.history.parquet_reader import ParquetReader
from hindscan.history.snapshot import EqualityDeletes, ParquetPin, Pin, Window

__all__ = ["LakeHistory", "LakeTable", "TableFile", "TableVersion", "inside", "plain_schema", "refused", "unqualified"]

#: Faults that one message lists.
_SHOWN: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """One data file as the table names it."""

    #: Relative to the table's folder.
    path: str
    size: int
    #: Values of columns that are the same in all its rows, as texts; the same columns in every file of the version.
    partition_values: dict[str, str | None] = field(default_factory=dict)
    #: Rows that the table has deleted.
    deleted: Positions | None = None
    #: Which of the version's `equality_deletes` may delete more of them, as ranges `[first, last)`.
    equality_deletes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TableVersion:
    """One version of a table: what it holds, and how that is read."""

    #: In words, with the table's own id: ``iceberg snapshot 42 of 3f...``.
    name: str
    #: In an order that later versions only add to.
    files: tuple[TableFile, ...]
    columns: pa.Schema
    #: Names that columns have now by names they have in some files.
    rename: Mapping[str, str] = field(default_factory=dict)
    #: Files whose rows delete rows that are equal to them, without their identities.
    equality_deletes: tuple[EqualityDeletes, ...] = ()


class LakeTable(Protocol):
    """A table in one of the formats; holds what is needed to reach it, with keys if there are any."""

    def folder(self) -> files.Place:
        """Give the folder that the files' paths are relative to."""
        ...

    def at(self, before: int | None) -> TableVersion:
        """Give the declared version, or the newest one; with `before` the last that was committed before that time, in microseconds.

        Raises
        ------
        SourceMissing
            There is no such table or version.
        HistoryError
            The version cannot be read right.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LakeHistory:
    """An Iceberg or Delta table under a name.

    Parameters
    ----------
    table : LakeTable
        The table.
    parquet : ParquetHistory
        How its files are read: name, time column, declared columns and checksums.
    by_snapshot : bool
        A run as of T reads the table as it was before T.
    """

    table: LakeTable
    parquet: ParquetHistory
    by_snapshot: bool = False
    #: One for each set of older names: it keeps the footers it has read.
    _named: dict[tuple[tuple[str, str], ...], ParquetHistory] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name in the project file."""
        return self.parquet.name

    @property
    def root(self) -> str:
        """Table as declared, as pins say it."""
        return self.parquet.root

    def refuse(self, window: Window) -> None:
        """Refuse what a table does not have, as for files; looks at nothing.

        Raises
        ------
        UsageError
            Offsets, partitions or keys are asked for, or a bound where there is no time column.
        """
        self.parquet.refuse(self._window_of_rows(window))

    def _window_of_rows(self, window: Window) -> Window:
        if self.by_snapshot and self.parquet.time is None:
            # The version is what bounds it: its rows have no time to be cut by.
            return msgspec.structs.replace(window, as_of=None)
        return window

    def pin(self, window: Window) -> ParquetPin:
        """Pin the files of one version of the table. Reads the table's metadata and the footers of files that are new.

        Raises
        ------
        SourceMissing
            There is no such table or version.
        SourceChanged
            Files of the version have gone.
        HistoryError
            The version cannot be read right: it has deleted rows, or files of another format.
        SchemaMismatch
            Files do not have the columns of the table, or what is declared.
        UsageError
            A bound is asked for and there is no time column.
        """
        version = self.table.at(window.as_of if self.by_snapshot else None)
        root = self.table.folder()
        window = self._window_of_rows(window)
        found = _found(root, version.files, version.name, self.name)
        values = [file.partition_values for file in version.files]
        deleted = {file.path: file.deleted for file in version.files if file.deleted is not None}
        pin = self._reading(version).pin_files(window, root, found, values, deleted)
        caveat = f"{version.name}: its files can be read until it is expired or vacuumed"
        return msgspec.structs.replace(
            _with_equality_deletes(pin, root, version, self.name),
            version=version.name,
            caveats=(*pin.caveats, caveat),
        )

    def reader(self, pin: Pin) -> ParquetReader:
        """Give what workers need to read this pin."""
        return replace(self.parquet.reader(pin), root=self.table.folder())

    def _reading(self, version: TableVersion) -> ParquetHistory:
        names = tuple(sorted(version.rename.items()))
        kept = self._named.get(names)
        columns = version.columns if self.parquet.columns is None else self.parquet.columns
        if kept is None or kept.columns != columns:
            # Files follow the table's rules of evolution, not those of a folder: what they lack is null, and types widen.
            kept = replace(self.parquet, columns=columns, drift="widen", rename=dict(version.rename))
            self._named.clear()
            self._named[names] = kept
        return kept


def _with_equality_deletes(pin: ParquetPin, root: files.Place, version: TableVersion, history: str) -> ParquetPin:
    """Put what a version deletes by equality into its pin."""
    if not version.equality_deletes:
        return pin
    found = _found(root, version.equality_deletes, version.name, history)
    with ThreadPoolExecutor(THREADS) as pool:
        identified = list(pool.map(lambda one: files.identified(root, one), found))
    deletes = [
        msgspec.structs.replace(one, identity=known.identity)
        for one, known in zip(version.equality_deletes, identified, strict=True)
    ]
    ranges = {file.path: file.equality_deletes for file in version.files}
    return msgspec.structs.replace(
        pin,
        equality_deletes=tuple(deletes),
        files=tuple(msgspec.structs.replace(file, equality_deletes=ranges[file.path]) for file in pin.files),
    )


def _found(
    root: files.Place, named: Sequence[TableFile | EqualityDeletes], version: str, history: str
) -> list[files.FoundFile]:
    """Look at files of a version."""
    infos = root.filesystem.get_file_info([(root / file.path).path for file in named])
    faults = []
    found = []
    for file, info in zip(named, infos, strict=True):
        if info.type != pafs.FileType.File:
            faults.append(f"{file.path}: it has gone")
        elif info.size != file.size:
            faults.append(f"{file.path}: it has {info.size} bytes, the table says {file.size}")
        else:
            found.append(files.FoundFile(path=file.path, size=info.size, identity=f"mtime_ns:{info.mtime_ns}"))
    if faults:
        raise SourceChanged(
            f"While pinning history {history}, {version}: every file of the version must be in {root} as it was written; "
            f"{_listed(faults)}\nThe version was expired or vacuumed, or its files were changed: pin a newer one, or restore them.",
            history=history,
            paths=[fault.partition(":")[0] for fault in faults],
        )
    return found


def refused(table: str, version: str, faults: list[str], todo: str) -> HistoryError:
    """Give the error for a version that cannot be read right, with every reason."""
    return HistoryError(
        f"While pinning {version} of {table}: every row of the version must be what its Parquet files hold; {_listed(faults)}\n{todo}",
        table=table,
        faults=faults,
    )


def _listed(faults: list[str]) -> str:
    more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "found:" + "".join(f"\n  {fault}" for fault in faults[:_SHOWN]) + more


def unqualified(uri: str) -> str:
    """Write a location as everything here does: a local one as a path, and one scheme for an object store.

    Examples
    --------
    >>> unqualified("file:///lake/bids/"), unqualified("file:/lake/bids"), unqualified("s3a://bucket/bids")
    ('/lake/bids', '/lake/bids', 's3://bucket/bids')
    """
    return re.sub(r"^file:/+", "/", re.sub(r"^s3[an]://", "s3://", uri)).rstrip("/")


def inside(folder: str, uri: str) -> str | None:
    """Give a file's path relative to the table's folder; None if it lies elsewhere.

    Examples
    --------
    >>> inside("file:///lake/bids", "/lake/bids/data/a.parquet"), inside("s3://one/t", "s3://other/t/a.parquet")
    ('data/a.parquet', None)
    """
    prefix, path = unqualified(folder) + "/", unqualified(uri)
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Give the columns as files are read: plain types, and everything may be null.

    That a table's column is required says something of its writers; no value is lost by not relying on it.
    """
    return pa.schema([pa.field(column.name, _loose(plain_type(column.type))) for column in schema])


def _loose(kind: pa.DataType) -> pa.DataType:
    inner: Any = kind
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _loose(one.type)) for one in inner.fields])
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", _loose(inner.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(inner.key_type, _loose(inner.item_type))
    return kind
