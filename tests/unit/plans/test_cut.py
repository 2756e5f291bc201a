"""Promise 7: where slices begin and end depends on the data and slice_rows alone."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.snapshot import (
    DrawPin,
    DrawSlice,
    FilePin,
    KafkaPin,
    KafkaSlice,
    ParquetPin,
    ParquetSlice,
    PartitionPin,
    RowGroup,
    Slice,
)
from hindscan.plans.cut import count_draws, cut, cut_whole


def parquet_pin(*files: FilePin, since: int | None = None, before: int | None = None) -> ParquetPin:
    return ParquetPin(root="/data", files=files, schema="", time="t", since=since, before=before)


def file_pin(path: str, *groups: tuple[int, int | None, int | None]) -> FilePin:
    return FilePin(
        path=path,
        size=100,
        identity="mtime_ns:1",
        row_groups=tuple(RowGroup(rows=r, bytes=10 * r, least_time=a, greatest_time=b) for r, a, b in groups),
    )


def kafka_pin(*ranges: tuple[int, int], since: int | None = None, before: int | None = None) -> KafkaPin:
    return KafkaPin(
        cluster="default",
        cluster_id="c",
        topic="bids",
        topic_id="id",
        isolation="read_committed",
        partitions=tuple(
            PartitionPin(partition=i, start=a, end=b, log_start=a, high_watermark=b) for i, (a, b) in enumerate(ranges)
        ),
        format="json",
        schema="",
        schema_from="declared",
        time="t",
        since=since,
        before=before,
        record_bytes=2.5,
    )


def without_position(slices: tuple[Slice, ...]) -> list[Slice]:
    return [msgspec.structs.replace(s, position=0) for s in slices]


groups = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 100), st.integers(0, 40)).map(lambda g: (g[0], g[1], g[1] + g[2])),
    max_size=8,
)
files = st.dictionaries(st.text("abc/", min_size=1, max_size=4), groups, max_size=5).map(
    lambda found: [file_pin(path, *of) for path, of in found.items()]
)


@given(files, st.integers(1, 200))
def test_row_groups_of_a_data_set_are_each_in_exactly_one_slice(found, slice_rows):
    slices = cut(parquet_pin(*found), slice_rows)
    assert [s.position for s in slices] == list(range(len(slices)))
    read = [(s.path, i) for s in slices for i in range(s.first, s.last)]
    there = [(f.path, i) for f in found for i in range(len(f.row_groups))]
    assert len(read) == len(set(read))
    by_file = {f.path: f for f in found}
    assert [p for p in read if by_file[p[0]].row_groups[p[1]].rows] == [
        p for p in there if by_file[p[0]].row_groups[p[1]].rows
    ]
    for s in slices:
        inside = by_file[s.path].row_groups[s.first : s.last]
        assert s.rows == sum(g.rows for g in inside)
        assert s.bytes == sum(g.bytes for g in inside)
        # Reached by the last row group with rows and not before: never larger than asked by more than that group.
        assert s.rows - inside[-1].rows < slice_rows


@given(files, files, st.integers(1, 200), st.none() | st.integers(0, 150), st.none() | st.integers(0, 150))
def test_slices_of_a_data_set_stay_when_files_are_added(found, more, slice_rows, since, before):
    new = [f for f in more if f.path not in {g.path for g in found}]
    old = without_position(cut(parquet_pin(*found, since=since, before=before), slice_rows))
    both = without_position(cut(parquet_pin(*found, *new, since=since, before=before), slice_rows))
    assert [s for s in both if isinstance(s, ParquetSlice) and s.path in {f.path for f in found}] == old


@given(files, st.integers(1, 200), st.integers(0, 150), st.integers(0, 150))
def test_a_window_takes_away_only_what_lies_outside_and_marks_only_what_it_may_cut(found, slice_rows, since, before):
    windowed = cut(parquet_pin(*found, since=since, before=before), slice_rows)
    kept = {(s.path, i): s for s in windowed for i in range(s.first, s.last)}
    for f in found:
        for i, g in enumerate(f.row_groups):
            if g.rows and g.greatest_time >= since and g.least_time < before:
                s = kept[f.path, i]
                assert s.since == since or g.least_time >= since
                assert s.before == before or g.greatest_time < before
    for s in windowed:
        f = next(f for f in found if f.path == s.path)
        ends = (f.row_groups[s.first], f.row_groups[s.last - 1])
        assert all(g.rows and g.greatest_time >= since and g.least_time < before for g in ends)
        every = f.row_groups[s.first : s.last]
        assert (s.since is None) == all(g.least_time >= since for g in every)
        assert (s.before is None) == all(g.greatest_time < before for g in every)


def test_a_later_as_of_leaves_the_slices_that_it_does_not_reach():
    found = [file_pin("a", (10, 0, 9), (10, 10, 19)), file_pin("b", (10, 20, 29), (10, 30, 39))]
    old = cut(parquet_pin(*found, before=25), 10)
    new = cut(parquet_pin(*found, before=38), 10)
    assert [s.before for s in old] == [None, None, 25]
    assert [s.before for s in new] == [None, None, None, 38]
    assert new[:2] == old[:2]


def test_row_groups_without_statistics_are_read_and_cut():
    (only,) = cut(parquet_pin(file_pin("a", (10, None, None)), since=5, before=9), 100)
    assert (only.since, only.before) == (5, 9)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda r: (r[0], r[0] + r[1])), max_size=4),
    st.integers(1, 100),
)
def test_offsets_of_a_topic_are_each_in_exactly_one_slice(ranges, slice_rows):
    slices = cut(kafka_pin(*ranges), slice_rows)
    assert [(s.partition, o) for s in slices for o in range(s.start, s.end)] == [
        (p, o) for p, (a, b) in enumerate(ranges) for o in range(a, b)
    ]
    assert all(s.start < s.end and s.start // slice_rows == (s.end - 1) // slice_rows for s in slices)


@given(
    st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(1, 100), st.none() | st.integers(0, 9)
)
def test_full_slices_of_a_topic_stay_when_it_grows(start, length, growth, slice_rows, before):
    old = cut(kafka_pin((start, start + length), before=before), slice_rows)
    new = cut(kafka_pin((start, start + length + growth), before=before), slice_rows)
    assert [s for s in old if s.end % slice_rows == 0] == [
        s for s in new[: len(old)] if s in old and s.end % slice_rows == 0
    ]
    assert sum(s not in new for s in old) <= 1


@given(st.integers(0, 120), st.integers(0, 120), st.integers(1, 40))
def test_offsets_that_a_pin_says_are_inside_carry_no_bound_and_others_do(holds_from, holds_to, slice_rows):
    pin = kafka_pin((0, 100), since=5, before=9)
    (partition,) = pin.partitions
    held = msgspec.structs.replace(partition, since_holds_from=holds_from, before_holds_to=holds_to)
    slices = cut(msgspec.structs.replace(pin, partitions=(held,)), slice_rows)
    assert [(s.start, s.end) for s in slices] == [(s.start, s.end) for s in cut(pin, slice_rows)]
    for s in slices:
        assert (s.since is None) == (s.start >= holds_from)
        assert (s.before is None) == (s.end <= holds_to)


def test_offsets_known_to_end_before_the_bound_do_not_carry_it():
    slices = cut(kafka_pin((0, 30), before=100), 10, known={(0, 0, 10): 99, (0, 10, 20): 100, (1, 20, 30): 5})
    assert [s.before for s in slices] == [None, 100, 100]
    assert [s.bytes for s in slices] == [25, 25, 25]


@given(st.integers(1, 100_000), st.integers(1, 700))
def test_draws_are_cut_at_whole_blocks(draws, block_size):
    pin = DrawPin(draws=draws, seed=1, block_size=block_size)
    slices = cut(pin, 1)
    assert count_draws(pin) == len(slices)
    assert all(isinstance(s, DrawSlice) for s in slices)
    assert [(s.start, s.end) for s in slices] == list(itertools.pairwise([0, *(s.end for s in slices)]))
    assert slices[-1].end == draws
    # A late slice may be large, but never against what comes before it.
    assert all(s.rows <= max(4 * block_size, s.start / 16) for s in slices)
    assert all(s.start % block_size == 0 for s in slices)
    assert all(s.end % block_size == 0 for s in slices[:-1])
    longer = cut(DrawPin(draws=draws * 3, seed=1, block_size=block_size), 1)
    assert longer[: len(slices) - 1] == slices[:-1]


def test_a_broadcast_table_is_cut_once_for_each_file_or_partition():
    assert [
        (s.path, s.first, s.last)
        for s in cut_whole(parquet_pin(file_pin("b", (1, 0, 0), (2, 0, 0)), file_pin("a", (3, 0, 0))))
    ] == [
        ("b", 0, 2),
        ("a", 0, 1),
    ]
    assert [(s.start, s.end) for s in cut_whole(kafka_pin((3, 2_000_000_000), (5, 5)))] == [(3, 2_000_000_000)]


def test_slices_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="slice_rows must be at least 1, not 0"):
        cut(kafka_pin((0, 3)), 0)


def test_kafka_slices_keep_the_order_of_partitions_and_offsets():
    slices = cut(kafka_pin((5, 25), (0, 3)), 10)
    assert [(s.position, s.partition, s.start, s.end) for s in slices if isinstance(s, KafkaSlice)] == [
        (0, 0, 5, 10),
        (1, 0, 10, 20),
        (2, 0, 20, 25),
        (3, 1, 0, 3),
    ]
