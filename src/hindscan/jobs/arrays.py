"""Arrays and tables in a digest: numpy's, Arrow's, those of pandas and Polars, by what they hold.

Serves promise 7. Types, names and values count; how a column is cut into chunks, or an array lies in memory, does not. Neither pandas nor Polars is loaded for it: a
value of theirs comes from who has.

::

    captured value -> array_token -> token -> digest.Digester
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["Token", "array_token", "hashed"]

#: A value made of strings, integers and lists alone.
Token = Any


def hashed(data: bytes) -> str:
    """Give the digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def array_token(value: Any, give: Callable[[object, str], Token]) -> Token | None:
    """Give the token of an array, a column or a table; None where it is none.

    Parameters
    ----------
    value : object
        Any.
    give : callable
        Gives the token of what is in one, by the name it has there: an array of objects may hold anything.
    """
    if isinstance(value, np.ndarray) and type(value) is np.ndarray:
        if value.dtype.hasobject:
            return ["array", str(value.dtype), list(value.shape), _list(value.ravel().tolist(), give)]
        return [
            "array",
            value.dtype.descr.__repr__(),
            list(value.shape),
            hashed(np.ascontiguousarray(value).tobytes()),
        ]
    if isinstance(value, np.generic):
        return ["scalar", str(value.dtype), hashed(value.tobytes())]
    if isinstance(value, np.dtype):
        return ["dtype", repr(value.descr)]
    if isinstance(value, np.random.Generator):
        return ["generator", give(value.bit_generator.state, "its state")]
    if isinstance(value, pa.DataType | pa.Field | pa.Schema):
        return ["arrow", type(value).__name__, str(value)]
    if isinstance(value, pa.Table | pa.RecordBatch):
        return [
            "table",
            value.schema.to_string(),
            [hashed(repr(one.to_pylist()).encode()) for one in value.columns],
        ]
    if isinstance(value, pa.Array | pa.ChunkedArray | pa.Scalar):
        rows = value.as_py() if isinstance(value, pa.Scalar) else value.to_pylist()
        return ["column", str(value.type), hashed(repr(rows).encode())]
    return _frame(value, give)


def _frame(value: Any, give: Callable[[object, str], Token]) -> Token | None:
    library, kind = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "polars" and kind in ("DataFrame", "Series"):
        return ["polars", getattr(value, "name", ""), array_token(value.to_arrow(), give)]
    if library != "pandas":
        return None
    if kind == "DataFrame":
        columns = [_frame(value.iloc[:, i], give) for i in range(value.shape[1])]
        return ["frame", _frame(value.index, give), _frame(value.columns, give), columns]
    if kind in ("Series", "Timestamp", "Timedelta") or kind.endswith("Index"):
        rows = value.tolist() if hasattr(value, "tolist") else repr(value)
        names = list(getattr(value, "names", None) or [getattr(value, "name", None)])
        return ["pandas", kind, repr(names), str(getattr(value, "dtype", "")), _list(rows, give)]
    return None


def _list(values: Iterable[object], give: Callable[[object, str], Token]) -> Token:
    return [give(item, f"item {index}") for index, item in enumerate(values)]
