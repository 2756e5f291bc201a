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

from typing import Any, Literal, Protocol, cast

import msgspec
import pyarrow as pa

from hindscan.errors import SchemaMismatch
from hindscan.history.footer import plain_type
from hindscan.history.unify import widens

__all__ = ["MODES", "Mode", "Rows", "TableTarget", "creatable", "fitted", "plain"]

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


def plain(schema: pa.Schema) -> pa.Schema:
    """Leave out what says how a column lies in memory, and what pandas or hindscan noted on it."""
    return pa.schema([pa.field(column.name, plain_type(column.type), column.nullable) for column in schema])


def creatable(schema: pa.Schema) -> pa.Schema:
    """Give the columns that a table is made with, so that it holds a result of this schema: tables have fewer types."""
    return pa.schema([pa.field(column.name, _of_tables(plain_type(column.type)), column.nullable) for column in schema])


def _holds(column: pa.DataType, found: pa.DataType) -> bool:
    # A result without rows, or with nothing but nulls, may have no type at all.
    one, other = plain_type(found), plain_type(column)
    return pa.types.is_null(found) or widens(one, other) or widens(_of_tables(one), other)


def _of_tables(kind: pa.DataType) -> pa.DataType:
    """Give the least type that both kinds of table have and that holds all values of a plain type."""
    t, inner = pa.types, cast("Any", kind)
    if t.is_integer(kind) and inner.bit_width <= 16:
        return pa.int32()
    if t.is_unsigned_integer(kind):
        return pa.int64() if inner.bit_width == 32 else pa.decimal128(20, 0)
    if t.is_float16(kind):
        return pa.float32()
    if t.is_date64(kind):
        return pa.date32()
    if t.is_decimal32(kind) or t.is_decimal64(kind):
        return pa.decimal128(inner.precision, inner.scale)
    if t.is_fixed_size_binary(kind):
        return pa.binary()
    if t.is_list(kind) or t.is_fixed_size_list(kind):
        item = inner.value_field
        return pa.list_(pa.field("element", _of_tables(plain_type(item.type)), item.nullable))
    if t.is_struct(kind):
        return pa.struct([pa.field(f.name, _of_tables(f.type), f.nullable) for f in inner.fields])
    if t.is_map(kind):
        return pa.map_(_of_tables(inner.key_type), _of_tables(inner.item_type))
    return kind
