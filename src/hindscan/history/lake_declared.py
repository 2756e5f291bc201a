"""Lake tables as the project file declares them: `iceberg` and `delta` of a `[history.NAME]` table.

Keeps promise 12's neighbour, as `declared` does, which calls this: all that is wrong is said at once, field by field, and nothing is opened. An Iceberg
table is a folder, a metadata file or ``CATALOG.NAMESPACE.TABLE`` of a catalog declared as `[iceberg.CATALOG]`; what has a slash in it is a path.

::

    [history.NAME] iceberg | delta -> lake_from_toml -> LakeHistory
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from hindscan import files
from hindscan.errors import UsageError
from hindscan.history.delta import DeltaTable
from hindscan.history.iceberg import IcebergTable
from hindscan.history.lake import LakeHistory, LakeTable
from hindscan.history.parquet import ParquetHistory

__all__ = ["LAKE_KINDS", "lake_from_toml"]

#: Settings that say where a lake table is.
LAKE_KINDS: Final = ("iceberg", "delta")


def lake_from_toml(
    name: str,
    table: Mapping[str, Any],
    *,
    root: str | Path,
    schema: pa.Schema | None,
    kept: Path,
    stores: Mapping[str, files.StoreSettings],
    catalogs: Mapping[str, Mapping[str, Any]],
) -> tuple[LakeHistory | None, list[tuple[str, str]]]:
    """Read the table of a history that has `iceberg` or `delta`.

    Parameters
    ----------
    name : str
        The table's name.
    table : mapping
        What stands in it.
    root : path
        What a relative path is relative to.
    schema : pyarrow.Schema, optional
        Declared columns. Default: those of the table.
    kept : Path
        Folder in which footers are kept.
    stores : mapping
        How buckets are reached.
    catalogs : mapping
        Properties by name of the catalog.

    Returns
    -------
    history, faults
        None, and every fault as (field, text), where it is not valid.
    """
    kind = next(kind for kind in LAKE_KINDS if kind in table)
    declared, version = table[kind], table.get("version")
    faults = _version_faults(kind, table)
    if not isinstance(declared, str) or not declared:
        return None, [*faults, (kind, f"must be a folder or URL{_OR_NAME[kind]}, found {declared!r}")]
    place, catalog = None, None
    if kind == "iceberg" and "/" not in declared and declared.count(".") >= 2:
        chosen = declared.partition(".")[0]
        catalog = catalogs.get(chosen)
        if catalog is None:
            known = ", ".join(sorted(catalogs)) or "none"
            faults.append(
                (kind, f"names the catalog {chosen!r}, which must be declared as [iceberg.{chosen}]; declared: {known}")
            )
    else:
        try:
            place = files.place(declared, root, stores)
        except UsageError as fault:
            faults.append((kind, str(fault)))
    if faults:
        return None, faults
    lake: LakeTable
    if kind == "iceberg":
        lake = IcebergTable(declared=declared, place=place, catalog=catalog, version=version, stores=stores)
    else:
        assert place is not None, "a Delta table has no other name than its folder"
        lake = DeltaTable(declared=declared, place=place, version=version, stores=stores)
    parquet = ParquetHistory(
        name=name,
        location=declared,
        place=place or files.place(root),
        time=table.get("time"),
        columns=schema,
        ignores_as_of=table.get("as_of") == "ignore",
        verify=table.get("verify", True),
        kept=kept,
    )
    return LakeHistory(table=lake, parquet=parquet, by_snapshot=table.get("as_of") == "snapshot"), []


_OR_NAME: Final = {"iceberg": ", or CATALOG.NAMESPACE.TABLE", "delta": ""}


def _version_faults(kind: str, table: Mapping[str, Any]) -> list[tuple[str, str]]:
    version = table.get("version")
    is_number = type(version) is int and version >= 0
    is_name = kind == "iceberg" and isinstance(version, str) and version != ""
    faults = []
    if version is not None and not is_number and not is_name:
        also = (
            "the id of a snapshot, or the name of a branch or tag" if kind == "iceberg" else "the number of a version"
        )
        faults.append(("version", f"must be {also}, found {version!r}"))
    if version is not None and table.get("as_of") == "snapshot":
        faults.append(("version", 'is the one that is read, whatever T is; leave out it or as_of = "snapshot"'))
    return faults
