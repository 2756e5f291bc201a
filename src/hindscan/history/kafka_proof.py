"""What a reading of a topic proves: a digest over all that was taken, and how far its times are out of order.

Keeps the proving half of promise 2. Neither depends on how records came in batches, so two readings of the same offsets can be compared: `snapshot --verify` and a
second reading in the same source must find the same.

::

    RawBatch, RawBatch, ... -> Digest, Order -> Proof
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan.history.bounds import micros_of
from hindscan.kafka.fetch import RawBatch

__all__ = ["Digest", "Order"]

#: Tells a record without a value from an empty one in the digest.
_NO_VALUE: Final = -1


class Order:
    """How many rows there were, and how far their times are out of order; microseconds."""

    def __init__(self) -> None:
        self.rows = 0
        self.least: int | None = None
        self.greatest: int | None = None
        self.latest_record_time: int | None = None
        #: None where a row has no time.
        self.disorder: int | None = 0
        self._peak = np.iinfo(np.int64).min

    def add(self, batch: RawBatch, rows: np.ndarray[Any, Any], times: pa.ChunkedArray[Any]) -> None:
        """Take a batch, which of its records are rows, and the rows' event times."""
        if not len(batch):
            return
        peaks = np.maximum(np.maximum.accumulate(batch.times), self._peak)
        self._peak = int(peaks[-1])
        self.latest_record_time = self._peak * 1000
        self.rows += len(rows)
        known = micros_of(times.drop_null())
        if len(known):
            self.least = min(int(known.min()), self.least if self.least is not None else int(known.min()))
            self.greatest = max(int(known.max()), self.greatest if self.greatest is not None else int(known.max()))
        if len(known) < len(rows):
            self.disorder = None
        elif self.disorder is not None and len(known):
            record_times = batch.times
            if len(rows) < len(batch):
                peaks, record_times = peaks[rows], record_times[rows]
            behind, ahead = peaks * 1000 - known, known - record_times * 1000
            self.disorder = max(self.disorder, int(behind.max()), int(ahead.max()))


class Digest:
    """Counts, and a 128-bit hash over all that was taken of every record: a stream for each kind of thing, so that batches leave no trace."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.tombstones = 0
        self.first: int | None = None
        self.last: int | None = None
        self._streams: dict[str, xxhash.xxh3_128] = {
            name: xxhash.xxh3_128() for name in ("offsets", "times", "values: lengths", "values")
        }

    def add(self, batch: RawBatch) -> None:
        """Take in the records of a batch that follows those before."""
        if not len(batch):
            return
        self._numbers("offsets", batch.offsets)
        self._numbers("times", batch.times)
        self.bytes += self._binary("values", batch.values)
        if batch.keys is not None:
            self._binary("keys", batch.keys)
        if batch.headers is not None:
            self._numbers("headers", pc.list_value_length(batch.headers).fill_null(_NO_VALUE).to_numpy())
            pairs = cast(Any, batch.headers.flatten())
            self._binary("header names", pairs.field(0).cast(pa.large_binary()))
            self._binary("header values", pairs.field(1).cast(pa.large_binary()))
        self.count += len(batch)
        self.tombstones += batch.values.null_count
        self.first = int(batch.offsets[0]) if self.first is None else self.first
        self.last = int(batch.offsets[-1])

    def _numbers(self, name: str, numbers: np.ndarray[Any, Any]) -> None:
        self._streams.setdefault(name, xxhash.xxh3_128()).update(np.ascontiguousarray(numbers, "<i8").data)

    def _binary(self, name: str, array: pa.LargeBinaryArray) -> int:
        """Add values and their lengths; give the bytes of the values."""
        lengths = pc.binary_length(array)
        self._numbers(f"{name}: lengths", (lengths.fill_null(_NO_VALUE) if array.null_count else lengths).to_numpy())
        stream = self._streams.setdefault(name, xxhash.xxh3_128())
        present = array.drop_null()
        _, places, content = cast(list[Any], present.buffers())
        bounds = np.frombuffer(places, "<i8")
        first, last = (int(bounds[at]) for at in (present.offset, present.offset + len(present)))
        if last > first:
            stream.update(memoryview(content)[first:last])
        return last - first

    def hexdigest(self) -> str:
        """Give the hash over all that was taken, as 32 hexadecimal digits."""
        return xxhash.xxh3_128(b"".join(stream.digest() for stream in self._streams.values())).hexdigest()
