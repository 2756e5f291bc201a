"""What of a record itself can be a column: key, headers, timestamp, offset, partition.

Keeps promise 2 for what lies beside the value: null and empty keys and header values are told apart, header names come as often as they were written.
A history names what it wants in `record`; what it does not name is neither taken from the client nor part of a read's digest.

=============  ===============================================  ======================================
`record` has   column                                           type
=============  ===============================================  ======================================
key            `_key`                                           binary
headers        `_headers`, null without any                     list<struct<key: string, value: binary>>
timestamp      `_timestamp`, null where a record has none       timestamp[ms, UTC]
offset         `_offset`                                        int64
partition      `_partition`                                     int32
=============  ===============================================  ======================================

Stands between `kafka.fetch.RawBatch` and the columns of `kafka_reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa

from hindscan.kafka.fetch import HEADERS, Part, RawBatch

__all__ = ["KEPT", "RECORD", "parts_of", "place_array", "record_arrays", "record_fields"]

#: Column of each name in `record`.
RECORD: Final[dict[str, pa.Field[Any]]] = {
    "key": pa.field("_key", pa.binary()),
    "headers": pa.field("_headers", HEADERS),
    "timestamp": pa.field("_timestamp", pa.timestamp("ms", "UTC")),
    "offset": pa.field("_offset", pa.int64()),
    "partition": pa.field("_partition", pa.int32()),
}
_PARTS: Final[dict[str, Part]] = {"key": "keys", "headers": "headers"}
#: What an archive has only if it was told to keep it; the rest follows from where a row lies.
KEPT: Final = ("key", "headers")
_NO_TIME: Final = -1


def record_fields(record: Sequence[str]) -> list[pa.Field[Any]]:
    """Give the columns of what a history names."""
    return [RECORD[name] for name in record]


def parts_of(record: Sequence[str], *, headers: bool) -> frozenset[Part]:
    """Give what the client must take from messages; `headers` says that the format lies in them too."""
    parts = {_PARTS[name] for name in record if name in _PARTS}
    return frozenset({*parts, "headers"} if headers else parts)


def record_arrays(
    names: Sequence[str], batch: RawBatch, rows: np.ndarray[Any, Any], partition: int
) -> dict[str, pa.Array[Any]]:
    """Make the columns of some records of a batch.

    Parameters
    ----------
    names : sequence of str
        The columns.
    batch : RawBatch
        With the parts that they need.
    rows : numpy.ndarray
        Places of the records in it.
    partition : int
        Where they lie.
    """
    made: dict[str, pa.Array[Any]] = {}
    for name in names:
        match name:
            case "_key":
                made[name] = cast(Any, batch.keys).take(pa.array(rows)).cast(pa.binary())
            case "_headers":
                made[name] = cast(Any, batch.headers).take(pa.array(rows))
            case _:
                made[name] = place_array(name, batch.offsets[rows], batch.times[rows], partition)
    return made


def place_array(name: str, offsets: np.ndarray[Any, Any], times: np.ndarray[Any, Any], partition: int) -> pa.Array[Any]:
    """Make a column of where records lie, or of their own times (milliseconds)."""
    match name:
        case "_timestamp":
            return pa.array(times, pa.int64(), mask=times == _NO_TIME).cast(RECORD["timestamp"].type)
        case "_offset":
            return pa.array(offsets, pa.int64())
    return pa.array(np.full(len(offsets), partition, np.int32))
