"""The sample site's bids as values of records: JSON, or Avro in a registry's wire format.

The same bids give the same bytes in JSON; in Avro but for the number that the registry gives the schema. On top of the package, for `generate`. ::

    encoder(format, registry, subject) -> Encoder: table of bids -> values, one a bid
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.catalogue import BIDS
from hindscan.history.formats.confluent import head
from hindscan.history.formats.decoder import missing_extra
from hindscan.kafka.registry import RegisteredSchema, SchemaRegistry

__all__ = ["SAMPLE_FORMATS", "Encoder", "cells", "encoder"]

#: What bids can be written as.
SAMPLE_FORMATS: Final = ("json", "avro")

#: Makes the values of some bids.
Encoder = Callable[[pa.Table], list[bytes]]

#: The schema of a bid.
AVRO: Final = {
    "type": "record",
    "name": "Bid",
    "namespace": "auctions",
    "fields": [
        {"name": "auction", "type": "long"},
        {"name": "bidder", "type": "long"},
        {"name": "price", "type": "long"},
        {"name": "channel", "type": "string"},
        {"name": "category", "type": "string"},
        {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}


def encoder(chosen: str, registry: Mapping[str, str | int | float | bool] | None, subject: str) -> Encoder:
    """Make the encoder of a format; of Avro the schema is registered here.

    Parameters
    ----------
    chosen : str
        One of `SAMPLE_FORMATS`.
    registry : mapping, optional
        Settings of the registry; needed for Avro.
    subject : str
        What the schema is registered under.

    Raises
    ------
    UsageError
        The library for Avro is not installed.
    RegistryUnavailable
        Nobody answered.
    HindscanError
        The registry refused the schema.
    """
    if chosen == "json":
        return _json
    try:
        import fastavro
    except ImportError as fault:
        raise missing_extra("format avro", "fastavro", "avro") from fault
    schema: Any = fastavro.parse_schema(AVRO)
    own = RegisteredSchema(kind="AVRO", files=(("bid", json.dumps(AVRO)),))
    begin = head(SchemaRegistry(registry or {}).register(subject, own))

    def values(bids: pa.Table) -> list[bytes]:
        made = []
        for row in bids.select(BIDS.names).to_pylist():
            out = io.BytesIO()
            out.write(begin)
            fastavro.schemaless_writer(out, schema, row)
            made.append(out.getvalue())
        return made

    return values


def _json(bids: pa.Table) -> list[bytes]:
    text = {name: bids[name].cast(pa.string()) for name in BIDS.names[:-1]}
    time = bids["date_time"].cast(pa.timestamp("us")).cast(pa.string())
    # Names of channels and categories hold nothing that JSON would escape.
    pieces: list[Any] = [
        '{"auction":', text["auction"], ',"bidder":', text["bidder"], ',"price":', text["price"],
        ',"channel":"', text["channel"], '","category":"', text["category"],
        '","date_time":"', pc.binary_replace_slice(time, 10, 11, "T"), 'Z"}',
    ]  # fmt: skip
    return cells(pc.binary_join_element_wise(*pieces, ""))


def cells(column: pa.ChunkedArray[Any]) -> list[bytes]:
    """Cut the letters of a column by its offsets: several times as fast as making each a scalar first."""
    cut: list[bytes] = []
    for chunk in column.chunks:
        if len(chunk):
            _, offsets, letters = chunk.buffers()
            assert offsets is not None
            assert letters is not None
            ends = np.frombuffer(memoryview(offsets), np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
            whole = letters.to_pybytes()
            cut += [whole[first:last] for first, last in pairwise(ends)]
    return cut
