"""Results in Delta tables: one version for each run, told by an application transaction.

Keeps promise 4 for `[copies]` with ``delta``. The format has what is needed: a commit names an application and its version, and a reader of the log knows
the newest one. Each run is an application of its own. Stands beside `delta`, behind `lake_target`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hindscan import files
from hindscan.errors import SchemaMismatch, ServiceUnavailable
from hindscan.faults import point
from hindscan.history.delta import where_is
from hindscan.history.formats.decoder import missing_extra
from hindscan.history.lake_target import Mode, Rows, creatable, fitted, plain

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["DeltaTarget"]

#: How often a commit may meet another one.
_TRIES: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaTarget:
    """A table, by its folder.

    Parameters
    ----------
    declared : str
        Folder or URL as declared.
    place : Place
        The same, resolved.
    mode : {"append", "replace"}
        What becomes of the rows that are there.
    stores : mapping
        How buckets are reached, by name or as ``default``.
    """

    declared: str
    place: files.Place
    mode: Mode
    stores: Mapping[str, files.StoreSettings]

    def __repr__(self) -> str:
        # Settings of a bucket may hold secrets.
        return f"DeltaTarget({self.declared!r})"

    def __str__(self) -> str:
        return self.declared

    def add(self, rows: Rows) -> bool:
        """Commit the rows of a run, once."""
        try:
            import deltalake
            from deltalake.exceptions import CommitFailedError, DeltaError
        except ImportError as fault:
            raise missing_extra("a Delta table", "deltalake", "delta") from fault
        where, options = where_is(self.place, self.stores)
        application = f"hindscan:{rows.job}:{rows.run}"
        try:
            for tried in range(_TRIES):
                table = self._table(where, options, rows)
                if table.transaction_version(application) is not None or self._is_older(table, rows):
                    return False
                # The stubs know fewer types of metadata than deltalake takes.
                said: Any = rows.properties()
                properties = deltalake.CommitProperties(
                    custom_metadata=said,
                    max_commit_retries=0,
                    app_transactions=[deltalake.Transaction(app_id=application, version=1)],
                )
                columns: Any = table.schema().to_arrow()
                fit = fitted(rows, plain(pa.schema(columns)), self.declared)
                try:
                    deltalake.write_deltalake(
                        table,
                        fit,
                        mode="append" if self.mode == "append" else "overwrite",
                        commit_properties=properties,
                    )
                except CommitFailedError:
                    if tried + 1 == _TRIES:
                        raise
                    continue
                point("delta.committed")
                return True
        except (DeltaError, OSError) as fault:
            raise ServiceUnavailable(
                f"While writing run {rows.run} into {self.declared}: the table must take a commit; {type(fault).__name__}: {fault}. "
                f"The result is kept. Check the place in [copies], and `hindscan retry {rows.run}`.",
                run=rows.run,
                table=self.declared,
            ) from fault
        raise AssertionError("a loop that neither commits nor raises")

    def _table(self, where: str, options: Mapping[str, str], rows: Rows) -> DeltaTable:
        import deltalake
        from deltalake.exceptions import TableNotFoundError

        given = dict(options) or None
        try:
            return deltalake.DeltaTable(where, storage_options=given)
        except TableNotFoundError:
            try:
                columns = deltalake.Schema.from_arrow(creatable(rows.table.schema))
            except Exception as fault:  # what converts a schema raises no class of its own
                raise SchemaMismatch(
                    f"While making {self.declared} for {rows.job}: every column must be of a type that Delta has; {str(fault).partition(chr(10))[0]}. "
                    "Give the job's result other types.",
                    run=rows.run,
                ) from fault
            return deltalake.DeltaTable.create(where, schema=columns, mode="ignore", storage_options=given)

    def _is_older(self, table: DeltaTable, rows: Rows) -> bool:
        """Tell whether a newer run's rows have taken the place of all others."""
        if self.mode == "append":
            return False
        runs = (str(one["hindscan.run"]) for one in table.history() if one.get("hindscan.job") == rows.job)
        return max(runs, default="") > rows.run
