"""Delta tables: which files a version has, and what its columns are.

Keeps promise 1 for Delta: a version is one list of files for ever. The log and the deletion vectors are read by deltalake, and no rows are. Tables that cannot
be read right are refused by name: mapped columns, and features that this module does not know.

With `delta_target` the only user of deltalake. Stands beside `iceberg`, behind `lake`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from hindscan import files
from hindscan.errors import SourceMissing
from hindscan.history.deletes import Positions
from hindscan.history.formats.decoder import missing_extra
from hindscan.history.lake import TableFile, TableVersion, inside, plain_schema, refused

if TYPE_CHECKING:
    from deltalake import DeltaTable as Opened

__all__ = ["DeltaTable", "where_is"]

#: Features a reader must know that change nothing about which rows a version has; deletion vectors are looked for file by file.
_HARMLESS: Final = frozenset(
    {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "deletionVectors", "typeWidening", "columnMapping"}
)
_COMMIT: Final = re.compile(r"(\d{20})\.json\Z")
#: Our settings of an object store by what deltalake calls them.
_S3: Final = {
    "endpoint": "AWS_ENDPOINT_URL",
    "region": "AWS_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaTable:
    """One table, by its folder.

    Parameters
    ----------
    declared : str
        Folder or URL as declared.
    place : Place
        The same, resolved.
    version : int, optional
        Version that is read. Default: the newest.
    stores : mapping
        How buckets are reached, by name or as ``default``.
    """

    declared: str
    place: files.Place
    version: int | None
    stores: Mapping[str, files.StoreSettings]

    def __repr__(self) -> str:
        # Settings of a bucket may hold secrets.
        return f"DeltaTable({self.declared!r})"

    def folder(self) -> files.Place:
        """Give the folder of the table."""
        return self.place

    def at(self, before: int | None) -> TableVersion:
        """Give the declared version, the newest one, or the last before a time."""
        table = self._open(self.version if before is None else self._before(before))
        name = f"delta version {table.version()} of {table.metadata().id}"
        actions: pa.Table = pa.table(table.get_add_actions(flatten=True))
        actions = actions.sort_by([("modification_time", "ascending"), ("path", "ascending")])
        paths = [unquote(str(path)) for path in actions["path"].to_pylist()]
        deleted, vector_faults = _deleted(table)
        faults = [
            *_faults(table),
            *vector_faults,
            *(f"{path}: it lies outside the table's folder" for path in paths if _is_foreign(path)),
        ]
        if faults:
            todo = "Rewrite the table without them (REORG TABLE ... APPLY (PURGE)), or pin a version without them by `version`."
            raise refused(self.declared, name, faults, todo)
        keys = list(table.metadata().partition_columns)
        values = {key: pc.cast(actions[f"partition.{key}"], pa.string()).to_pylist() for key in keys}
        sizes: list[Any] = actions["size_bytes"].to_pylist()
        listed = tuple(
            TableFile(
                path=path,
                size=sizes[at],
                partition_values={key: values[key][at] for key in keys},
                deleted=deleted.get(path),
            )
            for at, path in enumerate(paths)
        )
        arrow: Any = table.schema().to_arrow()
        return TableVersion(name=name, files=listed, columns=plain_schema(pa.schema(arrow)))

    def _open(self, version: int | None) -> Opened:
        try:
            import deltalake
            from deltalake.exceptions import DeltaError
        except ImportError as fault:
            raise missing_extra("a Delta table", "deltalake", "delta") from fault
        where, options = where_is(self.place, self.stores)
        try:
            return deltalake.DeltaTable(where, version=version, storage_options=options or None)
        except DeltaError as fault:
            wanted = "a Delta table" if version is None else f"version {version} of a Delta table"
            raise SourceMissing(
                f"While opening {self.declared}: {wanted} must be there; {fault}. "
                "Correct `delta` or `version`; a version whose log was cleaned up cannot be read any more.",
                table=self.declared,
            ) from fault

    def _before(self, before: int) -> int:
        """Find the last version that was committed before a time."""
        log = self.place / "_delta_log"
        infos = log.filesystem.get_file_info(pafs.FileSelector(log.path, allow_not_found=True))
        commits = sorted(
            ((int(match[1]), info) for info in infos if (match := _COMMIT.match(info.base_name))),
            key=lambda commit: -commit[0],
        )
        for number, info in commits:
            if _committed_at(log / info.base_name, info) < before:
                return number
        shown = dt.datetime.fromtimestamp(before / 1e6, dt.UTC).isoformat()
        raise SourceMissing(
            f"While pinning {self.declared}: the table must have a version committed before {shown}; of the {len(commits)} in its log none was. "
            "Ask for a later time, or leave out `as_of`.",
            table=self.declared,
        )


def where_is(place: files.Place, stores: Mapping[str, files.StoreSettings]) -> tuple[str, dict[str, str]]:
    """Give a table's place as deltalake takes it: path or URL, and the settings of its bucket."""
    if place.is_local:
        return place.path, {}
    settings = stores.get(place.path.partition("/")[0], stores.get("default", {}))
    options = {_S3[name]: str(value) for name, value in settings.items() if name in _S3}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return f"{place.filesystem.type_name}://{place.path}", options


def _committed_at(commit: files.Place, info: pafs.FileInfo) -> int:
    """Give the time of a commit in microseconds: what it says itself, else when its file was written."""
    for line in files.read_bytes(commit).splitlines():
        said = json.loads(line).get("commitInfo")
        if said is not None:
            millis = said.get("inCommitTimestamp", said.get("timestamp"))
            if isinstance(millis, int):
                return millis * 1000
    return int(info.mtime_ns or 0) // 1000


def _faults(table: Opened) -> Iterator[str]:
    protocol = table.protocol()
    features = set(protocol.reader_features or ())
    for feature in sorted(features - _HARMLESS):
        yield f"the table needs readers to know {feature!r}"
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        yield f"its columns have other names in files (delta.columnMapping.mode = {mode!r})"


def _deleted(table: Opened) -> tuple[dict[str, Positions], list[str]]:
    """Give the deleted rows of files by path, and what is wrong with the vectors."""
    from deltalake.exceptions import DeltaError

    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}, []
    found: dict[str, Positions] = {}
    faults = []
    try:
        vectors: Any = table.deletion_vectors()
        for batch in pa.RecordBatchReader.from_stream(vectors):
            for uri, kept in zip(batch["filepath"].to_pylist(), batch["selection_vector"], strict=True):
                path = inside(table.table_uri, unquote(str(uri)))
                if path is None:
                    faults.append(f"{uri}: it lies outside the table's folder")
                else:
                    found[path] = np.flatnonzero(~kept.values.to_numpy(zero_copy_only=False)).astype(np.int64)
    except DeltaError as fault:
        return {}, [f"some rows are deleted, by vectors that cannot be read: {fault}"]
    return found, faults


def _is_foreign(path: str) -> bool:
    return path.startswith(("/", "file:")) or "://" in path
