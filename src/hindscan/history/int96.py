"""Times of twelve bytes (INT96), as Spark and Impala write them: nanoseconds of a day, and a day of any year.

Keeps promise 1 for them. Arrow reads them as nanoseconds of 64 bits unless told otherwise, and a time before 1677 or after 2262, such as the end of 9999 that
stands for "still valid", becomes another one without a word. So they are read as microseconds, of which 64 bits hold every such day; as nanoseconds only where
`columns` declare them. What the unit that is read does not hold exactly, a fraction of a microsecond or a far day, fails the slice by file and column.

Stands beside `parquet_reader`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindscan.errors import SchemaMismatch
from hindscan.history.parquet_files import OpenFile

__all__ = ["INT96_UNIT", "check_int96", "int96_unit"]

#: What such times are, if nothing else is declared.
INT96_UNIT: Final = "us"


def int96_unit(schema: pa.Schema) -> Literal["us", "ns"]:
    """Give the unit in which such times are read for these columns."""
    kinds: list[Any] = list(schema.types)
    return "ns" if any(pa.types.is_timestamp(kind) and kind.unit == "ns" for kind in kinds) else INT96_UNIT


def check_int96(
    file: OpenFile,
    row_groups: Sequence[int],
    columns: Collection[str],
    unit: Literal["us", "ns"],
    *,
    shown: str,
    verify: bool,
) -> None:
    """Check that a unit holds the times of some row groups exactly.

    Parameters
    ----------
    file : OpenFile
        The file.
    row_groups : sequence of int
        Their numbers.
    columns : collection of str
        Columns that are read, as the file calls them; those of other types, and what lies inside of others, are not looked at.
    unit : {"us", "ns"}
        The unit they are read in.
    shown : str
        The file's name in messages.
    verify : bool
        Verify page checksums.

    Raises
    ------
    SchemaMismatch
        A time is not held.
    pyarrow.ArrowException or OSError
        The file does not read.
    """
    metadata = file.metadata
    leaves = [metadata.schema.column(at) for at in range(metadata.num_columns)]
    names = [leaf.path for leaf in leaves if leaf.physical_type == "INT96" and leaf.path in columns]
    if not names:
        return
    with file.place.filesystem.open_input_file(file.place.path) as stream:
        read = {
            each: pq.ParquetFile(
                stream, metadata=metadata, coerce_int96_timestamp_unit=each, page_checksum_verification=verify
            )
            for each in ("us", "ns")
        }
        for group in row_groups:
            micros, nanos = (read[each].read_row_group(group, columns=names, use_threads=False) for each in read)
            for name in names:
                fault = _fault(_integers(micros.column(name)), _integers(nanos.column(name)), unit)
                if fault:
                    raise SchemaMismatch(
                        f"While reading row group {group} of {shown}: every time in column {name!r} (INT96) must be a whole one in timestamp[{unit}]; {fault}.",
                        path=shown,
                        column=name,
                    )


def _integers(times: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(times.drop_null().cast(pa.int64()), np.int64)


def _fault(micros: np.ndarray[Any, Any], nanos: np.ndarray[Any, Any], unit: str) -> str:
    """Tell what a unit does not hold; `nanos` wrapped around where 64 bits do not hold them, as the product here does."""
    if unit == "us":
        fine = int(np.count_nonzero(micros * 1000 != nanos))
        return (
            f"{fine} have fractions of a microsecond, or are too far away for 64 bits. Declare `timestamp[ns]` for it in `columns`, or correct the file"
            if fine
            else ""
        )
    far = int(np.count_nonzero(np.abs(micros) > np.iinfo(np.int64).max // 1000))
    return f"{far} are before 1678 or after 2262. Declare `timestamp[us]` for it in `columns`" if far else ""
