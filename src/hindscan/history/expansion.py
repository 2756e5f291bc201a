"""How much memory the texts of a Parquet file take, before they are decoded.

Keeps promise 10 where a footer cannot: it tells the bytes of a column as it is encoded, and a text that a dictionary holds once can stand in a million rows. A
file of a hundred kilobytes was seen to take a gigabyte. What a slice's columns can take at most follows from the longest entry of
each dictionary, one page per column; only if that is too much are the texts counted, still as dictionary entries.

Stands between `parquet_reader` and the decoding it is about to allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindscan.errors import CorruptData
from hindscan.history.parquet_files import OpenFile
from hindscan.history.snapshot import ParquetSlice

__all__ = ["check_expansion"]

#: What a slice's column may take without any question.
SURE_BYTES: Final = 1 << 30
#: Beyond that, how many times what the footer says of the slice, on which the plan and its memory limit rest.
SURE_FACTOR: Final = 16
_BATCH_ROWS: Final = 65_536
#: Of an encoding that a dictionary cannot show, texts are decoded in small steps.
_STEP_ROWS: Final = 1024


def check_expansion(file: OpenFile, s: ParquetSlice, columns: Sequence[str], *, verify: bool) -> None:
    """Refuse a slice whose texts take far more memory than its footer says.

    Parameters
    ----------
    file : OpenFile
        The slice's file.
    s : ParquetSlice
        The slice.
    columns : sequence of str
        Those that will be decoded. Texts inside of lists and structs are not looked at.
    verify : bool
        Verify page checksums.

    Raises
    ------
    CorruptData
        With the figures.
    """
    allowed = max(SURE_BYTES, SURE_FACTOR * s.bytes)
    metadata = file.metadata
    doubtful = _doubtful(metadata, s, columns)
    if not doubtful:
        return
    with file.place.filesystem.open_input_file(file.place.path) as stream:
        for name, shares_prefixes in doubtful.items():
            parquet = pq.ParquetFile(
                stream,
                metadata=metadata,
                # Texts that share their beginnings with the one before are not decoded to a dictionary.
                read_dictionary=[] if shares_prefixes else [name],
                page_checksum_verification=verify,
                pre_buffer=False,
            )
            groups = range(s.first, s.last)
            if not shares_prefixes and sum(_at_most(parquet, group, name) for group in groups) <= allowed:
                continue
            taken = 0
            for group in groups:
                taken += _exactly(parquet, group, name, allowed - taken)
            if taken > allowed:
                raise CorruptData(
                    f"While reading row groups [{s.first}, {s.last}) of {s.path}: column {name!r} must take about what the footer says, {s.bytes} bytes for the "
                    f"whole slice; decoded it takes more than {allowed}. Write the file with smaller row groups if these texts are meant.",
                    path=s.path,
                    column=name,
                    footer_bytes=s.bytes,
                )


def _doubtful(metadata: pq.FileMetaData, s: ParquetSlice, columns: Sequence[str]) -> dict[str, bool]:
    """Find the columns of texts that could take more than is sure, going by the footer alone, and whether they share beginnings."""
    found = {}
    for at in range(metadata.num_columns):
        column = metadata.schema.column(at)
        if column.path not in columns or column.physical_type != "BYTE_ARRAY":
            continue
        worst, shares_prefixes = 0, False
        for number in range(s.first, s.last):
            chunk = metadata.row_group(number).column(at)
            delta = "DELTA_BYTE_ARRAY" in chunk.encodings
            shares_prefixes = shares_prefixes or delta
            # No text is longer than all of them together; plain ones take what they are.
            times = chunk.num_values if delta or chunk.has_dictionary_page else 1
            worst += times * chunk.total_uncompressed_size
        if worst > SURE_BYTES:
            found[column.path] = shares_prefixes
    return found


def _lengths(texts: Any) -> Any:
    return pc.cast(pc.binary_length(texts), pa.int64())


def _at_most(parquet: pq.ParquetFile, group: int, name: str) -> int:
    row_group = parquet.metadata.row_group(group)
    # Pages that a writer added after it gave up the dictionary hold their texts themselves.
    plain = sum(
        row_group.column(at).total_uncompressed_size
        for at in range(row_group.num_columns)
        if row_group.column(at).path_in_schema == name
    )
    for batch in parquet.iter_batches(batch_size=1, row_groups=[group], columns=[name], use_threads=False):
        longest = pc.max(_lengths(cast(Any, batch.column(0)).dictionary)).as_py() or 0
        return int(longest) * row_group.num_rows + plain
    return 0


def _exactly(parquet: pq.ParquetFile, group: int, name: str, allowed: int) -> int:
    """Count the bytes of the texts, until there are more than allowed."""
    taken = 0
    rows = _BATCH_ROWS if pa.types.is_dictionary(parquet.schema_arrow.field(name).type) else _STEP_ROWS
    for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=[name], use_threads=False):
        column = cast(Any, batch.column(0))
        is_dictionary = pa.types.is_dictionary(column.type)
        lengths = _lengths(column.dictionary).take(column.indices) if is_dictionary else _lengths(column)
        taken += pc.sum(lengths).as_py() or 0
        if taken > allowed:
            break
    return taken
