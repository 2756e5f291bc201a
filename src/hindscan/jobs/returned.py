"""What a step returned, as the one thing that is stored: an Arrow table with UTC microsecond times.

Keeps the first half of promise 9: what is published is a table with a schema that does not depend on which library made it.
A step may return an Arrow, pandas or Polars table, or a dict: scalars make one row, arrays make columns. A model, what a calibration gives
to a simulation, comes back in the shape it was returned in: a dict of arrays stays a dict of arrays, whatever their lengths.

::

    step -> value -> to_table -> partial, result;  calibration -> to_model_table -> partial -> to_model -> the simulation's function
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.errors import BadPartial
from hindscan.jobs.chart import charts_of

__all__ = ["stored_type", "to_model", "to_model_table", "to_table"]

#: Metadata of a model's table if the value was a dict: the shape of each array, as JSON; the array itself lies in one list.
_SHAPES = b"hindscan.shapes"

_ALLOWED = "an Arrow, pandas or Polars table, or a dict (scalars make one row, arrays of one length make columns)"


def to_table(value: object, step: str) -> pa.Table:
    """Turn what a step returned into a table.

    Parameters
    ----------
    value : object
        An Arrow table or batch, a pandas or Polars data frame, or a dict.
    step : str
        Name of the step, for the error.

    Returns
    -------
    pa.Table
        Times in microseconds, UTC; naive ones are UTC. No metadata but charts (`jobs.chart`), no dictionary encoding, chunks as they came.

    Raises
    ------
    hindscan.errors.BadPartial
        It is nothing of that, has two columns of one name, or a time that microseconds cannot hold.
    """
    try:
        table = _decoded(_table(value, step))
        names = table.column_names
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise _bad(step, "columns of different names", f"{twice} twice", "Rename one of them")
        wanted = pa.schema([pa.field(field.name, stored_type(field.type)) for field in table.schema])
        stored: pa.Table = table if table.schema.equals(wanted, check_metadata=True) else table.cast(wanted)
        return stored.replace_schema_metadata(charts_of(table.schema.metadata or {}) or None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _bad(
            step, _ALLOWED, f"a {_kind(value)} that does not become one ({error})", "Return plain columns"
        ) from error


def _decoded(table: Any) -> Any:
    """Undo what Arrow has no cast for."""
    for at, kind in enumerate(table.schema.types):
        if pa.types.is_run_end_encoded(kind):
            plain = pc.call_function("run_end_decode", [table.column(at)])
            table = table.set_column(at, table.schema.field(at).with_type(kind.value_type), plain)
    return table


def _bad(step: str, required: str, found: str, advice: str) -> BadPartial:
    return BadPartial(
        f"Taking what the step {step!r} returned: {required} is required, and it gave {found}. {advice}.", step=step
    )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _table(value: Any, step: str) -> Any:
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.RecordBatchReader):
        whole: pa.Table = value.read_all()
        return whole
    if isinstance(value, Mapping):
        return _from_mapping(value, step)
    library, kind = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "pandas" and kind == "DataFrame":
        # An index that carries names carries data; a plain range does not.
        named = value.reset_index() if any(name is not None for name in value.index.names) else value
        return pa.Table.from_pandas(named, preserve_index=False)
    if library == "polars" and kind in ("DataFrame", "LazyFrame"):
        return (value.collect() if kind == "LazyFrame" else value).to_arrow()
    advice = "A step must end with `return`" if value is None else "Return one of these"
    raise _bad(step, _ALLOWED, "nothing (None)" if value is None else f"a {_kind(value)}", advice)


def _from_mapping(value: Mapping[Any, Any], step: str) -> pa.Table:
    bad = [name for name in value if not isinstance(name, str)]
    if bad or not value:
        raise _bad(
            step, "a dict with names of columns", f"{bad[0]!r} as a name" if bad else "an empty one", "Use strings"
        )
    lengths = {name: _length(item) for name, item in value.items()}
    if all(length is None for length in lengths.values()):
        return pa.table({name: _column([_scalar(item)]) for name, item in value.items()})
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {'a scalar' if n is None else n}" for name, n in lengths.items())
        raise _bad(step, "a dict of scalars, or of arrays of one length", f"lengths {told}", "Make them equal")
    return pa.table({name: _column(item) for name, item in value.items()})


def _length(item: Any) -> int | None:
    if (
        isinstance(item, str | bytes | Mapping | pa.Scalar)
        or not hasattr(item, "__len__")
        or getattr(item, "shape", None) == ()
    ):
        return None
    return len(item)


def _scalar(item: Any) -> Any:
    for convert in ("as_py", "to_pydatetime"):
        if hasattr(item, convert):
            return getattr(item, convert)()
    return item.item() if isinstance(item, np.generic | np.ndarray) and item.dtype.kind not in "mM" else item


def _column(items: Any) -> Any:
    if isinstance(items, pa.Array | pa.ChunkedArray):
        return items
    if type(items).__module__.startswith("polars"):
        return items.to_arrow()
    if isinstance(items, np.ndarray) and items.ndim > 1:
        flat: Any = _flat(items)
        for width in reversed(items.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, width)
        return flat
    if type(items) is np.ndarray and items.ndim == 1:
        return _flat(items)
    return pa.array(items, from_pandas=type(items).__module__.startswith("pandas"))


def _flat(items: npt.NDArray[Any]) -> Any:
    """Give an array's values one after another; bytes and texts of numpy's own types would end at their first zero."""
    return pa.array(
        np.ascontiguousarray(items).reshape(-1).astype(object if items.dtype.kind in "SU" else items.dtype, copy=False)
    )


def stored_type(kind: Any) -> Any:
    """Give the type a column is stored as: one way to say a time, no encodings."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind) or pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(stored_type(kind.value_type), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(stored_type(kind.key_type), stored_type(kind.item_type))
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise TypeError("a struct without fields, which no file can hold")
        return pa.struct(
            [pa.field(f.name, stored_type(f.type)) for f in (kind.field(i) for i in range(kind.num_fields))]
        )
    return kind


# Models ----------------------------------------------------------------------------------------------------------


def to_model_table(value: object, step: str) -> pa.Table:
    """Turn a finished model into a table; a dict keeps its shapes.

    Parameters
    ----------
    value : object
        What the last step of the calibration returned.
    step : str
        Name of the step, for the error.

    Raises
    ------
    hindscan.errors.BadPartial
        As `to_table`.
    """
    if not isinstance(value, Mapping):
        return to_table(value, step)
    shapes: dict[str, list[int]] = {}
    columns: dict[str, Any] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise _bad(step, "a dict with names", f"{name!r} as a name", "Use strings")
        try:
            given = _scalar(item) if _length(item) is None else item
            array = np.asarray(given)
            if array.dtype.kind in "SU":
                # In numpy's own types they would lose the zeros that they end with, too.
                array = np.asarray(given, object)
            flat = _flat(array)
            column = pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _bad(
                step,
                "a dict of scalars and arrays",
                f"a {_kind(item)} as {name!r} ({error})",
                "Keep the numbers that it is made from, and make it in the function",
            ) from error
        shapes[name] = list(array.shape)
        columns[name] = column
    return pa.table(columns, metadata={_SHAPES: msgspec.json.encode(shapes)})


def to_model(table: pa.Table) -> pa.Table | dict[str, Any]:
    """Give a model as the simulation's function gets it: a dict of numpy arrays and scalars if it was a dict, else the table."""
    said = (table.schema.metadata or {}).get(_SHAPES)
    if said is None:
        return table
    shapes = msgspec.json.decode(said, type=dict[str, list[int]])
    model: dict[str, Any] = {}
    for name, shape in shapes.items():
        values: Any = table[name].combine_chunks()
        array = values.flatten().to_numpy(zero_copy_only=False).reshape(shape)
        model[name] = array if shape else array.item()
    return model
