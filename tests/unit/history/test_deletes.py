"""Deleted rows are left out wherever slices are cut, and nothing else is."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindscan import files
from hindscan.data import Data
from hindscan.history.deletes import kept_mask, masked
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import RowGroup, Window
from hindscan.plans.cut import cut

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), SIZES)
def test_a_mask_is_that_of_the_positions_for_any_range_of_row_groups(data: st.DataObject, sizes: list[int]) -> None:
    total = sum(sizes)
    positions = data.draw(st.lists(st.integers(0, total - 1), max_size=60)) if total else []
    groups = masked([RowGroup(rows=size, bytes=1) for size in sizes], np.array(positions, np.int64))
    whole = np.ones(total, bool)
    whole[positions] = False
    ends = np.cumsum([0, *sizes])
    first = data.draw(st.integers(0, len(sizes) - 1))
    last = data.draw(st.integers(first + 1, len(sizes)))
    found = kept_mask([group.deleted for group in groups[first:last]], sizes[first:last])
    assert found.tolist() == whole[ends[first] : ends[last]].tolist()
    assert [group.kept_rows for group in groups] == [whole[a:b].sum() for a, b in itertools.pairwise(ends)]
    # The same rows in another order are the same pin.
    assert groups == masked([RowGroup(rows=size, bytes=1) for size in sizes], np.array(positions[::-1], np.int64))


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.integers(0, 99)), st.integers(5, 60), st.integers(20, 60), st.integers(0, 100))
def test_every_cut_of_a_file_reads_the_rows_that_are_left(
    tmp_path_factory: pytest.TempPathFactory, deleted: set[int], group_rows: int, slice_rows: int, least: int
) -> None:
    folder = tmp_path_factory.mktemp("file")
    table = pa.table({"n": pa.array(range(100), pa.int64()), "t": pa.array(range(100), pa.timestamp("us", "UTC"))})
    pq.write_table(table, folder / "a.parquet", row_group_size=group_rows)
    history = ParquetHistory(name="n", location=str(folder), place=files.place(folder), time="t")
    positions = {"a.parquet": np.array(sorted(deleted), np.int64)}
    pin = history.pin_files(Window(since=10), files.place(folder), files.find(folder), [{}], positions)
    reader, found = history.reader(pin), []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            found += Data("t", {"t": source}).sql("SELECT n FROM t WHERE n >= $least", least=least)["n"].to_pylist()
            [proof] = source.proofs()
            assert proof.records == piece.rows
    assert found == [n for n in range(max(10, least), 100) if n not in deleted]


def test_deletes_outside_of_the_file_are_refused() -> None:
    with pytest.raises(ValueError, match="rows 1 to 5 are deleted, and the file has 5"):
        masked([RowGroup(rows=5, bytes=1)], np.array([5, 1], np.int64))
    with pytest.raises(ValueError, match="rows -1 to 2 are deleted"):
        masked([RowGroup(rows=5, bytes=1)], np.array([2, -1], np.int64))
