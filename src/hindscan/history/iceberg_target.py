"""Results in Iceberg tables: one snapshot for each run, found again by its properties.

Keeps promise 4 for `[copies]` with ``iceberg``: which runs are in the table is what its snapshots say. A commit that meets another one is refused by the
catalog, and then the table is looked at again, because the other may have been the same run's. Stands beside `iceberg`, behind `lake_target`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hindscan import files
from hindscan.errors import SchemaMismatch, ServiceUnavailable
from hindscan.faults import point
from hindscan.history.formats.decoder import missing_extra
from hindscan.history.iceberg import store_properties
from hindscan.history.lake_target import Mode, Rows, creatable, fitted

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["IcebergTarget"]

#: How often a commit may meet another one.
_TRIES: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class IcebergTarget:
    """A table of a catalog.

    Parameters
    ----------
    declared : str
        ``CATALOG.NAMESPACE.TABLE``.
    catalog : mapping
        Properties of the catalog.
    mode : {"append", "replace"}
        What becomes of the rows that are there.
    stores : mapping
        How buckets are reached, by name or as ``default``.
    """

    declared: str
    catalog: Mapping[str, Any]
    mode: Mode
    stores: Mapping[str, files.StoreSettings]

    def __repr__(self) -> str:
        # Properties of a catalog may hold secrets.
        return f"IcebergTarget({self.declared!r})"

    def __str__(self) -> str:
        return self.declared

    def add(self, rows: Rows) -> bool:
        """Commit the rows of a run, once."""
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.exceptions import CommitFailedException
        except ImportError as fault:
            raise missing_extra("an Iceberg table", "pyiceberg", "iceberg") from fault
        name, _, identifier = self.declared.partition(".")
        try:
            catalog = load_catalog(name, **{**store_properties(self.stores, "default"), **self.catalog})
            for tried in range(_TRIES):
                table = self._table(catalog, identifier, rows)
                if self._has(table, rows):
                    return False
                try:
                    self._commit(table, rows)
                except CommitFailedException:
                    if tried + 1 == _TRIES:
                        raise
                    continue
                point("iceberg.committed")
                return True
        except SchemaMismatch:
            raise
        except Exception as fault:  # a catalog's client raises whatever its transport does
            raise ServiceUnavailable(
                f"While writing run {rows.run} into {self.declared}: the catalog must take a commit; {type(fault).__name__}: {str(fault).partition(chr(10))[0]}. "
                f"The result is kept. Check [iceberg.{name}], and `hindscan retry {rows.run}`.",
                run=rows.run,
                table=self.declared,
            ) from fault
        raise AssertionError("a loop that neither commits nor raises")

    def _table(self, catalog: Catalog, identifier: str, rows: Rows) -> Table:
        from pyiceberg.exceptions import NoSuchTableError
        from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException

        try:
            table = catalog.load_table(identifier)
        except NoSuchTableError:
            catalog.create_namespace_if_not_exists(identifier.rpartition(".")[0])
            columns = creatable(rows.table.schema)
            try:
                untyped = [column.name for column in columns if pa.types.is_null(column.type)]
                if untyped:
                    raise TypeError(f"{', '.join(untyped)} has nothing but nulls and no type")
                table = catalog.create_table_if_not_exists(identifier, columns)
            except (TypeError, UnsupportedPyArrowTypeException) as fault:
                raise SchemaMismatch(
                    f"While making {self.declared} for {rows.job}: every column must be of a type that Iceberg has; {fault}. "
                    "Give the job's result other types.",
                    run=rows.run,
                ) from fault
        # A commit that meets another would be rebased on it, though that may be the same run's. This is not written to the table.
        table.metadata.properties["commit.retry.num-retries"] = "0"
        return table

    def _has(self, table: Table, rows: Rows) -> bool:
        runs = {run for one in table.metadata.snapshots if (run := _run_of(one, rows.job)) is not None}
        # Ids of runs sort as the times they were opened at: what replaced an older result is not replaced by it.
        return rows.run in runs or (self.mode == "replace" and max(runs, default="") > rows.run)

    def _commit(self, table: Table, rows: Rows) -> None:
        # Rows are laid out as the table's files are written: strings of 32 bits, plain values.
        fit = fitted(rows, table.schema().as_arrow(), self.declared)
        if self.mode == "append":
            table.append(fit, snapshot_properties=rows.properties())
            return
        with warnings.catch_warnings():
            # Of a table that has no rows.
            warnings.filterwarnings("ignore", "Delete operation did not match any records")
            table.overwrite(fit, snapshot_properties=rows.properties())


def _run_of(snapshot: Snapshot, job: str) -> str | None:
    """Tell which run of the job committed a snapshot."""
    said = {} if snapshot.summary is None else snapshot.summary.additional_properties
    return said.get("hindscan.run") if said.get("hindscan.job") == job else None
