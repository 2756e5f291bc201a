"""The pages of a Parquet column: whether their headers tell the whole story.

Keeps promise 2 where checksums do not reach. A page's checksum covers its content and not its header, and a flipped bit in a header was seen to make
Arrow leave out a page, or read a part of it, without a word when one column was asked for. So the headers are read once more on their own, after the rows: they must
follow each other within the column, be of known kinds, all carry a checksum or none, and count as many values as the footer. Some dozen bytes a page.

Only for files on disk: an object store verifies what it keeps, and a request for each page would cost more than the data.

Stands beside `parquet_reader`.

References
----------
The header is `PageHeader` of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, written in Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import pyarrow.parquet as pq

from hindscan.history.parquet_files import OpenFile

__all__ = ["check_headers", "has_checksums"]

#: Read at once: statistics of long texts are the only large part of a header.
_HEADER_BYTES: Final = 512
_MOST_BYTES: Final = 1 << 20
#: Kinds of page by number: those with values, with the field of the header that counts them.
_COUNTED_IN: Final = {0: 5, 3: 8}
_DICTIONARY: Final = 2
_CRC: Final = 4

_Fields = dict[int, Any]


class _Cut(Exception):
    """The bytes end before the header does."""


class _Compact:
    """As much of Thrift's compact protocol as a page's header needs."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def byte(self) -> int:
        if self.at >= len(self._content):
            raise _Cut
        self.at += 1
        return self._content[self.at - 1]

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            one = self.byte()
            value |= (one & 0x7F) << shift
            if one < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def signed(self) -> int:
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> _Fields:
        """Read a struct: its fields by number."""
        found: _Fields = {}
        number = 0
        while (head := self.byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.signed()
            found[number] = self._value(head & 0x0F)
        return found

    def _value(self, kind: int) -> object:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self.byte()
            case 4 | 5 | 6:
                return self.signed()
            case 8:
                length = self.number()
                if self.at + length > len(self._content):
                    raise _Cut
                self.at += length
                return None
            case 12:
                return self.fields()
        raise ValueError(f"a field of the unknown kind {kind}")


def check_headers(file: OpenFile, row_groups: Collection[int], columns: Collection[str]) -> None:
    """Walk over the page headers of columns in some row groups.

    Parameters
    ----------
    file : OpenFile
        A file on disk.
    row_groups : collection of int
        Their numbers.
    columns : collection of str
        Names as the file has them; of nested columns all leaves.

    Raises
    ------
    ValueError
        With row group and column, and what is wrong.
    """
    metadata = file.metadata
    for group in sorted(row_groups):
        for at in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(at)
            path = chunk.path_in_schema
            if path in columns or path.split(".", 1)[0] in columns:
                try:
                    _walk(file, chunk)
                except (_Cut, ValueError, KeyError) as fault:
                    raise ValueError(
                        f"row group {group}, column {path!r}: {str(fault) or 'a header is cut short'}"
                    ) from fault


def _walk(file: OpenFile, chunk: pq.ColumnChunkMetaData) -> None:
    begin = _begin(chunk)
    end = begin + chunk.total_compressed_size
    values, checked = 0, set()
    while begin < end and values < chunk.num_values:
        header, length = _header(file, begin, end)
        kind = header[1]
        if kind in _COUNTED_IN:
            values += header[_COUNTED_IN[kind]][1]
            # A dictionary may be the only page without.
            checked.add(_CRC in header)
        elif kind != _DICTIONARY:
            raise ValueError(f"a page of the unknown kind {kind} at byte {begin}")
        begin += length + header[3]
    # Where the last page ends is not compared: old writers did not count a dictionary's header in a column's size.
    if values != chunk.num_values:
        raise ValueError(
            f"the headers of its pages count {values} values up to byte {begin}; the footer says {chunk.num_values}"
        )
    if len(checked) > 1:
        raise ValueError("some of its pages have a checksum and some have not")


def _begin(chunk: pq.ColumnChunkMetaData) -> int:
    # Some writers say 0 where there is no dictionary.
    dictionary = chunk.dictionary_page_offset or chunk.data_page_offset
    return min(dictionary, chunk.data_page_offset)


def _header(file: OpenFile, begin: int, end: int) -> tuple[_Fields, int]:
    size = _HEADER_BYTES
    while True:
        reading = _Compact(file.read_at(begin, min(size, end - begin)))
        try:
            return reading.fields(), reading.at
        except _Cut:
            if size >= min(_MOST_BYTES, end - begin):
                raise
            size *= 16


def has_checksums(file: OpenFile, first: int, last: int) -> bool:
    """Tell whether the pages of row groups `[first, last)` carry checksums, going by the first page of each."""
    metadata = file.metadata
    for number in range(first, last):
        group = metadata.row_group(number)
        if metadata.num_columns and group.num_rows:
            chunk = group.column(0)
            begin = _begin(chunk)
            if _CRC not in _header(file, begin, begin + chunk.total_compressed_size)[0]:
                return False
    return True
