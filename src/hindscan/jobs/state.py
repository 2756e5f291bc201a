"""The state of an ordered job: what one slice of a partition leaves to the next, as a table that can be stored.

Keeps promises 6, 8 and 12. A state is a table, or a dict whose values are arrays or JSON values; either becomes one Arrow table, the checkpoint, and nothing of it
is ever a pickle. The next slice gets what comes out of that table, also where it is computed by the same task right after and no checkpoint is read:
so how slices are grouped into tasks cannot show in a result. Arrays come back with their shape and type and belong to the function, JSON values come back as they
are; whatever would come back as something else (a tuple, a time, a number as a key) is refused.

The columns of a table stay those that the job's `state=` began with, types included: a sum that widens from slice to slice is found at the first.

::

    state=, function -> value -> to_state -> table -> checkpoint -> from_state -> the next slice's function, close
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.jobs.returned import to_table

__all__ = ["STATE_BYTES_MOST", "check_next", "from_state", "to_state"]

#: A state is stored after every slice and held by every worker: beyond this a job means to keep its data, not a state.
STATE_BYTES_MOST: Final = 256 * 2**20

#: Metadata of a state that was a dict: for each name null (JSON text), or type and shape of its array.
_FORMS: Final = b"hindscan.state"


def to_state(value: object, step: str) -> pa.Table:
    """Turn a state into a table.

    Parameters
    ----------
    value : object
        What a step can return as a table, or a dict of arrays (numpy, Arrow) and JSON values.
    step : str
        Name of the step, for the error.

    Raises
    ------
    hindscan.errors.BadPartial
        It is nothing of that, or larger than `STATE_BYTES_MOST`.
    """
    table = (_from_mapping(value, step) if isinstance(value, Mapping) else to_table(value, step)).combine_chunks()
    if table.nbytes > STATE_BYTES_MOST:
        raise BadPartial(
            f"Keeping the state that the step {step!r} returned: at most {STATE_BYTES_MOST:,} bytes are allowed, and it has {table.nbytes:,}. "
            "Keep only what a later slice needs, and give the rest as rows of the partial.",
            step=step,
        )
    return table


def from_state(table: pa.Table) -> pa.Table | dict[str, Any]:
    """Give a state as it was returned: the table, or the dict with arrays that may be written to."""
    said = (table.schema.metadata or {}).get(_FORMS)
    if said is None:
        return table
    state: dict[str, Any] = {}
    for name, form in json.loads(said).items():
        column: Any = table[name].combine_chunks()
        if form is None:
            state[name] = json.loads(column[0].as_py())
        else:
            kind = np.dtype(form["type"])
            flat = column.flatten().to_numpy(zero_copy_only=False)
            # Copied in both cases: what the function writes to must not be the checkpoint.
            array = flat.view(kind).copy() if kind.kind in "mM" else flat.astype(kind)
            state[name] = array.reshape(form["shape"])
    return state


def check_next(before: pa.Table, after: pa.Table) -> None:
    """Refuse a state that is of another form than the one before it.

    Raises
    ------
    hindscan.errors.BadPartial
        Naming every column, or name of a dict, that differs.
    """
    faults = list(_differences(before, after))
    if faults:
        raise BadPartial(
            f"Keeping the state that the step 'slice' returned: it must have the form that state= gave; {'; '.join(faults)}. "
            "Cast in the function (in SQL, sum of integers widens: write sum(x)::BIGINT), and give empty tables their types in state=.",
            faults=faults,
        )


def _differences(before: pa.Table, after: pa.Table) -> Iterator[str]:
    was, is_now = (_FORMS in (table.schema.metadata or {}) for table in (before, after))
    if was != is_now:
        yield f"it was {'a dict' if was else 'a table'} and is {'a dict' if is_now else 'a table'} now"
    elif before.column_names != after.column_names:
        yield f"its {'names' if was else 'columns'} are {after.column_names}, and must be {before.column_names}, in this order"
    elif not was:
        for one, other in zip(before.schema, after.schema, strict=True):
            if one.type != other.type:
                yield f"column {one.name!r} is {other.type}, and must be {one.type}"


def _from_mapping(value: Mapping[Any, Any], step: str) -> pa.Table:
    columns: dict[str, Any] = {}
    forms: dict[str, Any] = {}
    faults: list[str] = []
    for name, item in value.items():
        if not isinstance(name, str):
            faults.append(f"{name!r} is no name")
        elif isinstance(item, np.ndarray | pa.Array | pa.ChunkedArray):
            array = item if isinstance(item, np.ndarray) else item.to_numpy(zero_copy_only=False)
            if array.dtype.kind not in "biufmMUS":
                faults.append(f"{name!r} is an array of {array.dtype}")
                continue
            forms[name] = {"type": array.dtype.str, "shape": list(array.shape)}
            flat = np.ascontiguousarray(array).reshape(-1)
            stored = pa.array(flat.view("int64") if array.dtype.kind in "mM" else flat)
            columns[name] = pa.ListArray.from_arrays(pa.array([0, len(stored)], pa.int32()), stored)
        else:
            forms[name] = None
            found = list(_no_json(item, name))
            faults += found
            columns[name] = pa.array([None if found else json.dumps(_plain(item))], pa.string())
    if faults or not columns:
        raise BadPartial(
            f"Keeping the state that the step {step!r} returned: a table, or a dict with names whose values are arrays or JSON values, is required; "
            f"{'; '.join(faults) or 'it is empty'}. Write a time as text or as microseconds, a tuple as a list, and rows as a table.",
            step=step,
            faults=faults,
        )
    return pa.table(columns, metadata={_FORMS: json.dumps(forms).encode()})


def _plain(item: Any) -> Any:
    """Take numpy's scalars for what they are."""
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, Mapping):
        return {name: _plain(one) for name, one in item.items()}
    return [_plain(one) for one in item] if isinstance(item, list) else item


def _no_json(item: Any, where: str) -> Iterator[str]:
    """Name the parts that would not come back from JSON as they are."""
    if isinstance(item, np.generic) and item.dtype.kind in "biuf":
        return
    if isinstance(item, Mapping):
        for name, one in item.items():
            if isinstance(name, str):
                yield from _no_json(one, f"{where}.{name}")
            else:
                yield f"{where!r} has the key {name!r}"
    elif isinstance(item, list):
        for index, one in enumerate(item):
            yield from _no_json(one, f"{where}[{index}]")
    elif item is not None and type(item) not in (bool, int, float, str):
        yield f"{where!r} is a {type(item).__module__}.{type(item).__qualname__}".replace("builtins.", "")
