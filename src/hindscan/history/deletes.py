"""Rows of a Parquet file that its table has deleted without writing the file anew.

Keeps promises 1, 2 and 7 for tables that are merged while they are read: position deletes and deletion vectors say which rows of a file no longer count. They are
read once, when a version is pinned, and become part of the pin, row group by row group. So slices stay row groups, a slice's key covers the deletes of its own
rows and no others, and a worker needs nothing but the file. Positions are kept as text: differences of 32 bits, compressed.

::

    positions in a file -> masked -> RowGroup.deleted -> ParquetSlice.deleted -> kept_mask -> drifted.rows_as_pinned
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hindscan.history.snapshot import RowGroup

__all__ = ["Positions", "kept_mask", "masked"]

#: Numbers of rows in a file, from 0.
Positions = npt.NDArray[np.int64]


def masked(groups: Sequence[RowGroup], positions: Positions) -> tuple[RowGroup, ...]:
    """Give row groups with the rows of theirs that are deleted.

    Parameters
    ----------
    groups : sequence of RowGroup
        All row groups of the file.
    positions : array of int64
        Deleted rows, in any order; one may be named twice.

    Raises
    ------
    ValueError
        A position lies outside of the file.
    """
    found = np.unique(positions)
    ends = np.cumsum([0, *(group.rows for group in groups)])
    if found.size and not 0 <= found[0] <= found[-1] < ends[-1]:
        raise ValueError(f"rows {found[0]} to {found[-1]} are deleted, and the file has {ends[-1]}")
    cuts = np.searchsorted(found, ends)
    return tuple(
        group
        if begin == end
        else msgspec.structs.replace(
            group, deleted_rows=int(end - begin), deleted=_written((found[begin:end] - start).astype(np.uint32))
        )
        for group, start, begin, end in zip(groups, ends[:-1], cuts[:-1], cuts[1:], strict=True)
    )


def kept_mask(deleted: Sequence[str], rows: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Tell of each row of several row groups whether it still counts.

    Parameters
    ----------
    deleted : sequence of str
        Of each group, as `masked` wrote it; empty where nothing is deleted.
    rows : sequence of int
        How many rows each has.
    """
    parts = []
    for text, count in zip(deleted, rows, strict=True):
        kept = np.ones(count, dtype=np.bool_)
        if text:
            kept[_read(text)] = False
        parts.append(kept)
    return np.concatenate(parts)


def _written(positions: npt.NDArray[np.uint32]) -> str:
    steps = np.diff(positions, prepend=np.uint32(0)).astype("<u4")
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()


def _read(text: str) -> npt.NDArray[np.uint32]:
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4")
    return np.cumsum(steps, dtype=np.uint32)
