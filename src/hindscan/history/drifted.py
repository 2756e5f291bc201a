"""Rows of a Parquet file whose columns are not yet those that were pinned.

Keeps promise 1 for files that drifted: every value becomes exactly the pinned type's, or the slice fails by file and column; what the file lacks is
null. Which types there can be, `unify` decided when the files were pinned. A file that Arrow's own scan reads as pinned (wider integers and floats, finer
times, absent columns) is not touched here and stays lazy, pruned by its statistics; of others a slice is decoded batch by batch, each filtered by the
query's own condition before the next. So are slices some of whose rows their table has deleted (`deletes`, `equality`).

Stands beside `parquet_reader`, which asks it for the files that need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.errors import SchemaMismatch
from hindscan.history.footer import plain_type
from hindscan.history.unify import widens

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.condition import Where

__all__ = ["is_read_as_pinned", "rows_as_pinned"]

_BATCH_ROWS: Final = 131_072


def is_read_as_pinned(found: pa.Schema, pinned: pa.Schema, rename: Mapping[str, str]) -> bool:
    """Tell whether Arrow's scan of a file gives the pinned columns by itself.

    Parameters
    ----------
    found : pyarrow.Schema
        The file's own.
    pinned : pyarrow.Schema
        The columns that are wanted.
    rename : mapping of str to str
        New names by old ones.
    """
    for column in pinned:
        if column.name not in found.names:
            if any(rename.get(name) == column.name for name in found.names):
                return False
        elif not widens(plain_type(found.field(column.name).type), plain_type(column.type)):
            return False
    return True


def rows_as_pinned(
    fragment: ds.ParquetFileFragment,
    pinned: pa.Schema,
    *,
    shown: str,
    rename: Mapping[str, str],
    constants: Mapping[str, Any],
    kept: npt.NDArray[np.bool_] | None = None,
    where: Where | None = None,
) -> pa.Table:
    """Decode one slice's columns and make them the pinned ones.

    Parameters
    ----------
    fragment : pyarrow.dataset.ParquetFileFragment
        The slice.
    pinned : pyarrow.Schema
        The columns that are wanted.
    shown : str
        The file's name in messages.
    rename : mapping of str to str
        New names by old ones.
    constants : mapping of str to pyarrow.Scalar
        Columns whose value the folders' names say.
    kept : array of bool, optional
        Which rows count. Default: all do.
    where : Where, optional
        Rows that do not fulfil it are left out.

    Raises
    ------
    SchemaMismatch
        A value does not fit its pinned column.
    """
    found = fragment.physical_schema
    stored = {rename.get(name, name): name for name in found.names}
    # The stubs know only names here; Arrow takes expressions, too.
    read: Any = {c.name: pc.field(stored[c.name]) for c in pinned if c.name in stored and c.name not in constants}
    batches, at = [], 0
    for batch in fragment.to_batches(schema=found, columns=read, batch_size=_BATCH_ROWS):
        columns: list[pa.Array[Any]] = []
        for column in pinned:
            if column.name in constants:
                columns.append(pa.repeat(constants[column.name], batch.num_rows))
            elif column.name in read:
                columns.append(_as_pinned(batch.column(column.name), column, shown))
            else:
                columns.append(pa.nulls(batch.num_rows, column.type))
        rows = pa.RecordBatch.from_arrays(columns, schema=pinned)
        if kept is not None:
            # Nothing is filtered before.
            rows, at = rows.filter(pa.array(kept[at : at + rows.num_rows])), at + rows.num_rows
        if where is not None and rows.num_rows:
            rows = rows.filter(pa.array(where.keeps(pa.Table.from_batches([rows]))))
        batches.append(rows)
    return pa.Table.from_batches(batches, pinned)


def _as_pinned(values: pa.Array[Any], column: pa.Field[Any], shown: str) -> pa.Array[Any]:
    try:
        return pc.cast(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise SchemaMismatch(
            f"While reading column {column.name!r} of {shown}: every value must be exactly one of {column.type}; {fault}. "
            "Correct the file, or declare another type in `columns`.",
            path=shown,
            column=column.name,
        ) from fault
