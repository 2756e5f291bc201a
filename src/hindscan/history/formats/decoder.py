"""What every format has in common: a decoder turns values into columns, and names those that do not decode.

Keeps promise 2 for what is inside a record, whatever the format: a value becomes exactly what it says or is a `BadValue` with field and reason; its
neighbours decode. A decoder is made for the columns that are asked for and decodes no others. A batch is decoded at once; only when one of its
values is bad is it halved until the bad ones stand alone.

::

    RawBatch.values -> Decoder.decode -> columns + the bad ones with field and reason
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from hindscan.errors import UsageError

__all__ = ["BadValue", "Columns", "Decoder", "Headers", "Misfit", "decode_by_halves", "missing_extra"]

#: Arrays of one length, in the order of a schema.
Columns: TypeAlias = "list[pa.Array[Any]]"
#: Headers of records: list<struct<key: string, value: binary>>, null where a record has none.
Headers: TypeAlias = "pa.ListArray[Any]"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadValue:
    """One record that does not decode."""

    #: Its place among the values that were given.
    index: int
    #: Column or path in it; empty where the record as a whole is at fault.
    field: str
    reason: str


class Misfit(ValueError):
    """A value that its column cannot hold.

    Parameters
    ----------
    field : str
        Column or path in it.
    reason : str
        What is wrong.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class Decoder(Protocol):
    """Decodes values of one format to columns of one schema."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that are decoded, and no others."""
        ...

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values.

        Parameters
        ----------
        values : pyarrow.Array
            Of large_binary, without nulls.
        headers : pyarrow.Array, optional
            The records' headers, for a format that lies in them too; one entry for each value.

        Returns
        -------
        table, bad
            One row for each value that decodes, in order; and those that do not, in order.
        """
        ...


def decode_by_halves(
    schema: pa.Schema,
    values: pa.LargeBinaryArray,
    decode_all: Callable[[int, pa.LargeBinaryArray], Columns],
    explain: Callable[[int, Exception], BadValue],
    expected: tuple[type[Exception], ...],
    most: int | None = None,
) -> tuple[pa.Table, list[BadValue]]:
    """Decode values at once where all are good, and find the bad ones where not.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the columns.
    values : pyarrow.Array
        What to decode.
    decode_all : callable
        Takes the place of the first value, and values; raises one of `expected` if one of them is bad.
    explain : callable
        Takes the place of a bad value and what was raised for it alone.
    expected : tuple of exception classes
        What a bad value raises. Anything else is a fault of ours and passes.
    most : int, optional
        How many values are decoded at once. Default: all.
    """
    bad: list[BadValue] = []

    def halve(first: int, part: pa.LargeBinaryArray) -> list[Columns]:
        if not len(part):
            return []
        try:
            return [decode_all(first, part)]
        except expected as fault:
            if len(part) == 1:
                bad.append(explain(first, fault))
                return []
        middle = len(part) // 2
        return halve(first, part[:middle]) + halve(first + middle, part[middle:])

    step = most or max(1, len(values))
    found = (part for first in range(0, len(values), step) for part in halve(first, values[first : first + step]))
    parts = [pa.Table.from_arrays(columns, schema=schema) for columns in found]
    return pa.concat_tables([schema.empty_table(), *parts]).combine_chunks(), bad


def missing_extra(what: str, library: str, extra: str) -> UsageError:
    """Give the error for a library that is not installed.

    Parameters
    ----------
    what : str
        What needs it, as the beginning of a sentence: "format avro".
    library : str
        Its name.
    extra : str
        The extra of hindscan that brings it.
    """
    return UsageError(
        f"While preparing to decode records: {what} needs the library {library}; it is not installed. Run: pip install 'hindscan[{extra}]'",
        library=library,
        extra=extra,
    )
