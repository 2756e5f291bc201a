"""The wire format of schema registries: a zero byte, a schema id of four bytes, and the body.

Keeps promise 2 at the head of a record: a value that does not begin so is bad, and says how it begins. The heads of a batch are read as
arrays. What a schema id stands for is asked of a `Schemas`: first what the pin knows, then the registry, each id once.

::

    values -> split -> ids, bodies of one id -> a format's decoder
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.history.formats.decoder import BadValue

__all__ = ["HEAD_BYTES", "Ints", "Schemas", "UnknownSchema", "bodies", "decode_by_id", "head", "split"]

#: Bytes before the body.
HEAD_BYTES: Final = 5
_NO_ID: Final = -1

Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
#: Gives the schema of an id in the form a decoder wants; raises `UnknownSchema`.
Schemas: TypeAlias = Callable[[int], Any]


class UnknownSchema(ValueError):
    """What a schema id stands for is not known, or is not of the format."""


def head(schema_id: int) -> bytes:
    """Give the first bytes of a value."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def split(values: pa.LargeBinaryArray) -> tuple[Ints, list[BadValue]]:
    """Read the heads.

    Returns
    -------
    ids, bad
        One id for each value, -1 where there is none; and the values without one.
    """
    _, places, content = cast(list[Any], values.buffers())
    bounds = np.frombuffer(places, "<i8")[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    good = np.flatnonzero(np.diff(bounds) >= HEAD_BYTES)
    good = good[data[bounds[good]] == 0]
    ids = np.full(len(values), _NO_ID, np.int64)
    if len(good):
        # Four bytes from every place, so that an id is looked up where it lies.
        numbers: Ints = np.ndarray(len(data) - 3, ">u4", data, strides=(1,))
        ids[good] = numbers[bounds[good] + 1]
    return ids, [_bad(int(at), values) for at in np.flatnonzero(ids == _NO_ID)]


def _bad(at: int, values: pa.LargeBinaryArray) -> BadValue:
    value = values[at].as_py() or b""
    if len(value) < HEAD_BYTES:
        reason = f"has {len(value)} bytes; a zero byte and four bytes of a schema id are required"
    else:
        reason = f"begins with byte 0x{value[0]:02x}; a zero byte before the schema id is required"
    return BadValue(index=at, field="", reason=reason)


def bodies(values: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """Give values without their heads."""
    # binary_slice cannot take a start without an end from large_binary.
    return pc.binary_replace_slice(values, 0, HEAD_BYTES, b"")


def decode_by_id(
    schema: pa.Schema,
    values: pa.LargeBinaryArray,
    decode: Callable[[int, pa.LargeBinaryArray], tuple[pa.Table, list[BadValue]]],
) -> tuple[pa.Table, list[BadValue]]:
    """Decode the values of each schema id together, and put the rows back in order.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the columns.
    values : pyarrow.Array
        With their heads.
    decode : callable
        Takes an id and its values, with their heads; may raise `UnknownSchema`.
    """
    ids, bad = split(values)
    tables: list[pa.Table] = [schema.empty_table()]
    places: list[Ints] = []
    is_one = len(ids) > 0 and not bad and bool((ids == ids[0]).all())  # as nearly always
    for schema_id in ids[:1].tolist() if is_one else np.unique(ids[ids != _NO_ID]).tolist():
        at = np.flatnonzero(ids == schema_id)
        part = values if len(at) == len(values) else values.take(cast(Any, pa.array(at)))
        try:
            table, wrong = decode(schema_id, part)
        except UnknownSchema as fault:
            bad += [BadValue(index=int(index), field="", reason=str(fault)) for index in at]
            continue
        bad += [BadValue(index=int(at[b.index]), field=b.field, reason=b.reason) for b in wrong]
        tables.append(table)
        places.append(np.delete(at, [b.index for b in wrong]))
    whole = pa.concat_tables(tables)
    if len(places) > 1:
        whole = whole.take(cast(Any, pa.array(np.argsort(np.concatenate(places), kind="stable"))))
    return whole, sorted(bad, key=lambda each: each.index)
