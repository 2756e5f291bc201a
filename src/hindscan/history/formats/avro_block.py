"""Many Avro bodies as one container block: the fast way to a writer's arrays.

Keeps promise 2 at speed. Bodies written with one schema, laid end to end, are the one block of an Avro container file, which polars decodes about
fifteen times as fast as a library that makes an object of each record. Three things make it exact:

* A mark of eight random bytes, all different, is laid behind each body and read as one more field. If all are read where they were laid, every
  body ended where its schema says: no shift by a damaged record goes unseen. A mark cannot overlap itself, so that it is found in a foreign place with
  probability 2^-64 a byte.
* The engine never sees a type that it gets wrong or panics on; see `avro_engine`.
* Whatever it raises, a panic (a BaseException) included, means no more than "look closer": the records are then judged one by one by fastavro.

One thing it does not see: a branch of [null, T] numbered beyond the two, which no writer makes, is read as T.

Works on what `avro.py` gives it. The heads of the wire format stay: the engine reads them as two more fields that nobody asks for.
"""

from __future__ import annotations

import importlib.util
import io
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.history.formats.avro_engine import from_engine, told_fields
from hindscan.history.formats.avro_schema import AvroField, AvroType
from hindscan.history.formats.confluent import HEAD_BYTES
from hindscan.history.formats.decoder import Misfit

__all__ = ["Block", "block_of", "installed"]

_MAGIC: Final = b"Obj\x01"
_MARK_BYTES: Final = 8
_SYNC: Final = bytes(range(16))
#: One byte and four: what a head takes, in fields that need no meaning.
_HEAD: Final = [{"name": "head0", "type": "boolean"}, {"name": "head1", "type": "float"}]
_MARK: Final = {"name": "mark", "type": "double"}


def installed() -> bool:
    """Whether the engine is there (the extra polars)."""
    return importlib.util.find_spec("polars") is not None


def block_of(writer: AvroType, taken: Sequence[AvroField], head_bytes: int) -> Block | None:
    """Make the block reader of a writer schema; None where it has types that the engine cannot read.

    Parameters
    ----------
    writer : AvroType
        What the bodies were written with.
    taken : sequence of AvroField
        The fields of it to read.
    head_bytes : int
        Bytes before each body: those of the wire format, or none.
    """
    assert head_bytes in (0, HEAD_BYTES)
    if not all(_is_readable(each.type) for each in writer.fields):
        return None
    fields = told_fields(writer)
    record = {"type": "record", "name": "r", "fields": [*(_HEAD if head_bytes else []), *fields.values(), _MARK]}
    return Block(json.dumps(record), [(fields[each.name]["name"], each) for each in taken])


def _is_readable(type_: AvroType) -> bool:
    if type_.kind == "refused" or (type_.kind == "fixed" and type_.size == 0):
        return False
    if type_.kind == "record":
        return bool(type_.fields) and all(_is_readable(each.type) for each in type_.fields)
    return type_.items is None or _is_readable(type_.items)


class Block:
    """Reads bodies of one writer schema at once.

    Parameters
    ----------
    schema : str
        What the engine is told.
    columns : list
        Its names of the fields to read, and these.
    """

    def __init__(self, schema: str, columns: list[tuple[str, AvroField]]) -> None:
        self._columns = columns
        meta = {b"avro.schema": schema.encode(), b"avro.codec": b"null"}
        pairs = b"".join(_long(len(key)) + key + _long(len(value)) + value for key, value in meta.items())
        self._start = _MAGIC + _long(len(meta)) + pairs + _long(0) + _SYNC

    def read(self, values: pa.LargeBinaryArray) -> dict[str, pa.Array[Any]]:
        """Read values.

        Returns
        -------
        dict
            Arrays of the writer's types without logical types, by field.

        Raises
        ------
        Misfit
            Something is wrong with one of them; which, and what, is for others to find out.
        """
        import polars as pl

        mark = _new_mark()
        parts: list[Any] = [values, pa.scalar(mark, pa.large_binary()), pa.scalar(b"", pa.large_binary())]
        joined: Any = pc.binary_join_element_wise(*parts)
        _, places, content = cast(list[Any], joined.buffers())
        bounds = np.frombuffer(places, "<i8")
        first, last = int(bounds[joined.offset]), int(bounds[joined.offset + len(joined)])
        body = memoryview(content)[first:last]
        file = b"".join([self._start, _long(len(values)), _long(last - first), body, _SYNC])
        try:
            frame = pl.read_avro(io.BytesIO(file), columns=[*(name for name, _ in self._columns), "mark"])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:  # noqa: BLE001 - a panic of the engine is no Exception
            raise Misfit("", f"the block does not decode: {fault}") from None
        marks = frame["mark"].to_numpy().view("<i8")
        if len(marks) != len(values) or (marks != np.frombuffer(mark, "<i8")[0]).any():
            raise Misfit("", "a body does not end where its schema says")
        table = frame.to_arrow()
        return {
            each.name: from_engine(pa.concat_arrays(table.column(name).chunks), each.type, each.name)
            for name, each in self._columns
        }


def _new_mark() -> bytes:
    """Eight bytes, all different, that are a finite double."""
    while True:
        mark = secrets.token_bytes(_MARK_BYTES)
        if len(set(mark)) == _MARK_BYTES and np.isfinite(np.frombuffer(mark, "<f8")[0]):
            return mark


def _long(number: int) -> bytes:
    """Encode a number as Avro has it: zigzag, seven bits a byte, the lowest first."""
    rest, out = number << 1, bytearray()
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
