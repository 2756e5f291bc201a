"""Writing a result into a lake table: its rows are added or take the place of all others, once for each run.

Keeps promises 4 and 9 for tables. A commit of a table is atomic, but a process may die between the commit and the moment in which the run is said to have
succeeded; the retry must find what was committed. So every commit names its run: in the properties of an Iceberg snapshot, as an application transaction of
Delta, which is what that format has for it. Before a commit the table is asked for the run's name, and a commit that meets another is not rebased but asks
again. The result's columns must be those of the table, by name; a narrower type is widened where no value changes, anything else is refused by name
before anything is written.

::

    result.parquet -> fitted -> IcebergTarget | DeltaTarget .add -> one commit, named after the run
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec
import pyarrow as pa

from hindscan.errors import SchemaMismatch
from hindscan.history.footer import plain_type
from hindscan.history.unify import widens

__all__ = ["MODES", "Mode", "Rows", "TableTarget", "fitted"]

#: "append": rows of every run are added. "replace": the table is the result of the newest run.
Mode = Literal["append", "replace"]
MODES: tuple[Mode, ...] = ("append", "replace")


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """A finished result, and whose it is."""

    job: str
    run: str
    #: Of the rows.
    digest: str
    table: pa.Table

    def properties(self) -> dict[str, str]:
        """Say in a table's own log what a commit is."""
        return {"hindscan.run": self.run, "hindscan.job": self.job, "hindscan.digest": self.digest}


class TableTarget(Protocol):
    """A table that results are written into."""

    def add(self, rows: Rows) -> bool:
        """Commit the rows of a run, making the table where there is none.

        Returns
        -------
        bool
            False if they were committed already, or a newer run's rows have taken their place.

        Raises
        ------
        hindscan.errors.SchemaMismatch
            The result's columns are not those of the table.
        hindscan.errors.ServiceUnavailable
            The table cannot be written to.
        """
        ...


def fitted(rows: Rows, columns: pa.Schema, table: str) -> pa.Table:
    """Give the rows with the columns of a table, in its order and types.

    Raises
    ------
    hindscan.errors.SchemaMismatch
        They are not the same columns, a type would change values, or a column that the table requires has nulls.
    """
    found = {column.name: column for column in rows.table.schema}
    faults = [f"the table has no column {name!r}" for name in found if name not in columns.names]
    for column in columns:
        if column.name not in found:
            faults.append(f"the result has no column {column.name!r}")
        elif not _holds(column.type, found[column.name].type):
            faults.append(f"column {column.name!r} is {found[column.name].type}, in the table {column.type}")
        elif not column.nullable and rows.table[column.name].null_count:
            faults.append(f"column {column.name!r} has nulls, and the table requires a value")
    if faults:
        raise SchemaMismatch(
            f"While writing run {rows.run} of {rows.job} into {table}: the result must have the table's columns; {'; '.join(faults)}. "
            "Change the job, or the table (by its own tools), and retry the run.",
            run=rows.run,
            faults=faults,
        )
    return rows.table.select(columns.names).cast(columns)


def _holds(column: pa.DataType, found: pa.DataType) -> bool:
    # A result without rows, or with nothing but nulls, may have no type at all.
    return pa.types.is_null(found) or widens(plain_type(found), plain_type(column))
