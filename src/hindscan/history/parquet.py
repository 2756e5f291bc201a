"""A history in Parquet files: a folder, a glob or a URL, pinned file by file.

Keeps promises 1 and 2 for Parquet. A pin lists every file with what identifies its content (size with modification time or etag), its row groups and the one
schema that all files have; nothing but footers is read for it. The reader (`parquet_reader`) refuses a file that is no longer the one that was
pinned. Folders ``name=value`` are columns. A declared schema must fit every file by name and type; without one the files must agree,
unless ``drift = "widen"`` lets them differ (`unify`).

::

    find -> footers (kept) -> schema -> bounds -> ParquetPin;  ParquetReader.open(slices) -> Source
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from hindscan import files
from hindscan.errors import CorruptData, SchemaMismatch, SourceMissing
from hindscan.history.archive import listed_only
from hindscan.history.bounds import Bounds, bounds_of, check_time_column
from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.deletes import Positions, masked
from hindscan.history.equality import digest_of
from hindscan.history.footer import Footer
from hindscan.history.footers import Footers
from hindscan.history.parquet_reader import ParquetReader
from hindscan.history.snapshot import FilePin, ParquetPin, Pin, RowGroup, Window
from hindscan.history.unify import misfits, union
from hindscan.history.window import refuse_topic_options

__all__ = ["ParquetHistory", "shown_root"]

#: Files of a folder that are data; a file or glob named in the project file is taken at its word.
SUFFIXES: Final = (".parquet", ".parq", ".pq")
#: What engines write for a missing partition value.
_HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetHistory:
    """A Parquet data set under a name.

    Parameters
    ----------
    name : str
        Name in the project file.
    location : str
        Folder, file, glob or URL as declared.
    place : Place
        The same, resolved.
    time : str, optional
        Event-time column.
    columns : pyarrow.Schema, optional
        Declared schema: these columns and no others. Default: all columns of the files, which must agree.
    ignores_as_of : bool
        May be read as it is now in a run as of an earlier time.
    verify : bool
        Verify page checksums while reading.
    drift : {"fail", "widen"}
        What files that differ in their columns are: an error, or one table of the least types that hold all values, null where a file lacks a column.
    rename : mapping of str to str
        New names of columns by the names that some files have.
    kept : Path, optional
        Folder in which footers are kept from one process to the next. Default: they are not.
    """

    name: str
    location: str
    place: files.Place
    time: str | None = None
    columns: pa.Schema | None = None
    ignores_as_of: bool = False
    verify: bool = True
    drift: str = "fail"
    rename: Mapping[str, str] = field(default_factory=dict)
    kept: Path | None = None
    #: A server pins at every event, and files rarely change in between.
    _footers: Footers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make what reads footers."""
        footers = Footers(time=self.time, rename=self.rename, kept=self.kept, name=str(self.place))
        object.__setattr__(self, "_footers", footers)

    @property
    def root(self) -> str:
        """Folder or URL that paths are relative to, as pins say it."""
        return shown_root(self.location)

    def refuse(self, window: Window) -> None:
        """Refuse offsets, partitions and keys, and a bound where there is no time column; looks at nothing.

        Raises
        ------
        UsageError
            One is asked for.
        """
        refuse_topic_options(window, self.name)
        self._bounds(window)

    def _bounds(self, window: Window) -> Bounds:
        return bounds_of(window, history=self.name, has_time=self.time is not None, ignores_as_of=self.ignores_as_of)

    def pin(self, window: Window) -> ParquetPin:
        """List the files and read their footers.

        Raises
        ------
        SourceMissing
            No such folder, or no Parquet file in it.
        CorruptData
            A file is broken or cut short.
        SchemaMismatch
            Files disagree, or do not have what is declared.
        UsageError
            A bound is asked for and there is no time column.
        """
        root = files.listing_root(self.place)
        found = listed_only(self.place, files.find(self.place, SUFFIXES))
        if not found:
            raise SourceMissing(
                f"While pinning history {self.name}: at least one Parquet file is required; {self.place} has none "
                f"({', '.join('*' + suffix for suffix in SUFFIXES)}). Correct `parquet` in [history.{self.name}].",
                history=self.name,
                path=str(self.place),
            )
        return self.pin_files(window, root, found, [_hive_values(file.path) for file in found])

    def pin_files(
        self,
        window: Window,
        root: files.Place,
        found: Sequence[files.FoundFile],
        hive: Sequence[dict[str, str | None]],
        deleted: Mapping[str, Positions] | None = None,
    ) -> ParquetPin:
        """Pin files that were found, by a listing or in the snapshot of a table, with the partition values and the deleted rows of each; raises as `pin`."""
        refuse_topic_options(window, self.name)
        bounds = self._bounds(window)
        read = self._footers.read(root, found) if found else []
        found, footers = [file for file, _ in read], [footer for _, footer in read]
        names = {file.path: footer for file, footer in zip(found, footers, strict=True)}
        schema = self._schema(names, hive)
        if self.time is not None:
            check_time_column(schema, self.time, self.name)
        bounded = bounds.since is not None or bounds.before is not None
        if bounded:
            self._check_null_times(names)
        return ParquetPin(
            root=self.root,
            files=tuple(
                FilePin(
                    path=file.path,
                    size=file.size,
                    identity=file.identity,
                    row_groups=self._counted(
                        file.path, self._timed(footer.row_groups, values, schema), (deleted or {}).get(file.path)
                    ),
                    partition_values=values,
                    version=file.version,
                )
                for file, footer, values in zip(found, footers, hive, strict=True)
            ),
            schema=schema_to_text(schema),
            time=self.time,
            since=bounds.since,
            before=bounds.before,
            verify=self.verify,
            widens=self.drift == "widen",
            rename=dict(self.rename),
            caveats=bounds.caveats,
        )

    def reader(self, pin: Pin) -> ParquetReader:
        """Give what workers need to read this pin."""
        assert isinstance(pin, ParquetPin)
        return ParquetReader(
            root=files.listing_root(self.place),
            schema=schema_from_text(pin.schema),
            time=pin.time,
            verify=pin.verify,
            widens=pin.widens,
            rename=pin.rename,
            equality_deletes={digest_of(found): found for file in pin.files if (found := pin.deletes_of(file))},
        )

    def _schema(self, footers: Mapping[str, Footer], hive: Sequence[dict[str, str | None]]) -> pa.Schema:
        keys = list(hive[0]) if hive else []
        faults = [
            f"{path}: it lies in the partitions {list(values) or 'none'}, the first file in {keys or 'none'}"
            for path, values in zip(footers, hive, strict=True)
            if list(values) != keys
        ]
        joined, conflicts = union(footers, without=keys, drift=self.drift)
        if self.columns is None:
            faults += conflicts
            fields = [*joined.values(), *(pa.field(key, _hive_type(key, hive)) for key in keys)]
        else:
            fields = [declared for declared in self.columns if declared.name not in keys]
            faults += misfits(fields, footers, drift=self.drift)
            # Partition columns come last, declared or not: they cost nothing and a query prunes by them.
            declared_types = {declared.name: declared.type for declared in self.columns}
            fields += [pa.field(key, declared_types.get(key, _hive_type(key, hive))) for key in keys]
        faults += _unfit_values(fields, keys, footers, hive)
        if faults:
            shown = "".join(f"\n  {fault}" for fault in faults[:20])
            more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
            raise SchemaMismatch(
                f"While pinning history {self.name}: all files must have the columns "
                f"{'that are declared' if self.columns is not None else 'of the others, with the same types'}; found:{shown}{more}\n"
                f"{self._advice()}",
                history=self.name,
                faults=faults,
            )
        return pa.schema(fields)

    def _advice(self) -> str:
        if self.drift == "fail":
            return (
                f'If the files are meant to differ, say drift = "widen" in [history.{self.name}] (what a file lacks is null, types become the least that '
                "holds all values), or declare `columns`; else take the files out."
            )
        return (
            f"No type holds all of these values exactly: correct the files, or take them out of [history.{self.name}]."
        )

    def _check_null_times(self, footers: Mapping[str, Footer]) -> None:
        faults = [f"{path}: {footer.null_times}" for path, footer in footers.items() if footer.null_times]
        if faults:
            raise SchemaMismatch(
                f"While pinning history {self.name} up to a time: every row must have a {self.time!r}; rows without one are in "
                f"{'; '.join(faults[:20])}. Correct the files, or read the history without a bound.",
                history=self.name,
                faults=faults,
            )

    def _counted(self, path: str, groups: tuple[RowGroup, ...], deleted: Positions | None) -> tuple[RowGroup, ...]:
        """Leave out of the count what the table has deleted."""
        try:
            return groups if deleted is None else masked(groups, deleted)
        except ValueError as fault:
            raise CorruptData(
                f"While pinning history {self.name}: deletes must be of rows that are there; of {path}, {fault}. Repair the table.",
                path=path,
            ) from fault

    def _timed(
        self, groups: tuple[RowGroup, ...], values: Mapping[str, str | None], schema: pa.Schema
    ) -> tuple[RowGroup, ...]:
        """Let a partition column be the time column: its value is every row's time."""
        if self.time is None or self.time not in values:
            return groups
        value = values[self.time]
        if value is None:
            raise SchemaMismatch(
                f"While pinning history {self.name}: every file must have a {self.time!r}; one lies in {self.time}={_HIVE_NULL}."
            )
        kind = schema.field(self.time).type
        at = pa.scalar(value).cast(kind).cast(pa.timestamp("us")).cast(pa.int64()).as_py()
        return tuple(RowGroup(rows=group.rows, bytes=group.bytes, least_time=at, greatest_time=at) for group in groups)


def shown_root(location: str) -> str:
    """Give a location as a pin may show it."""
    # Keys and options in a URL never become part of a pin.
    return re.sub(r"//[^/@]*@", "//", location.split("?", 1)[0] if "://" in location else location)


def _hive_values(path: str) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for part in path.split("/")[:-1]:
        key, sign, value = part.partition("=")
        if sign and key:
            values[unquote(key)] = None if value == _HIVE_NULL else unquote(value)
    return values


def _hive_type(key: str, hive: Sequence[Mapping[str, str | None]]) -> pa.DataType:
    values = [values[key] for values in hive if values.get(key) is not None]
    whole = bool(values) and all(re.fullmatch("-?[0-9]{1,18}", str(value)) for value in values)
    return pa.int64() if whole else pa.string()


def _unfit_values(
    fields: Sequence[pa.Field[Any]],
    keys: Sequence[str],
    footers: Mapping[str, Footer],
    hive: Sequence[Mapping[str, str | None]],
) -> list[str]:
    types = {column.name: column.type for column in fields}
    faults = []
    for path, values in zip(footers, hive, strict=True):
        for key in keys:
            value = values.get(key)
            if value is not None and not _fits(value, types[key]):
                faults.append(f"{path}: partition {key}={value} is not {types[key]}")
    return faults


def _fits(value: str, kind: pa.DataType) -> bool:
    """Tell whether Arrow reads a partition's value as this type."""
    digits = 18 if pa.types.is_int64(kind) else 9 if pa.types.is_int32(kind) else 0
    if pa.types.is_string(kind) or (value.isascii() and value.isdigit() and len(value) <= digits):
        # The common cases without making a scalar: that would import pandas where it is installed, half a second for nothing.
        return True
    try:
        pc.cast(pa.scalar(value), kind)
    except pa.ArrowException:
        return False
    return True
