"""Splitting by key and merging: equal keys meet, nothing is lost, and the result is one sorted table."""

from __future__ import annotations

import functools
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from hindscan import writing
from hindscan.errors import BadPartial, CorruptPartial
from hindscan.runs.digest import table_digest
from hindscan.runs.partials import Partials
from hindscan.runs.parts import merge, sort_by_key, split


def part_of(values: pa.Array | pa.ChunkedArray, parts: int = 1000) -> list[int]:
    """Give the part of each value."""
    table = pa.table({"key": values, "row": range(len(values))})
    found = {row: part for part, rows in enumerate(split(table, ["key"], parts)) for row in rows["row"].to_pylist()}
    return [found[row] for row in range(len(values))]


NUMBERS = [0, 1, 2, 3, 100, 127]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((pa.array([*NUMBERS, None], pa.int8()), pa.array([*NUMBERS, None], kind)) for kind in (pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64())),
        (pa.array([-1, -5], pa.int8()), pa.array([-1, -5], pa.int64())),
        (pa.array(["a", "", None, "ü"]), pa.array(["a", "", None, "ü"], pa.large_string())),
        (pa.array(["a", "", None, "ü"]), pa.array(["a", "", None, "ü"], pa.string_view())),
        (pa.array(["a", "", None, "a"]), pa.array(["a", "", None, "a"]).dictionary_encode()),
        (pa.array([7, None, 7, 8]), pa.array([7, None, 7, 8]).dictionary_encode()),
        (pa.array([0.0, float("nan"), 1.5]), pa.array([-0.0, -float("nan"), 1.5])),
        (pa.array([0.5, None, 1.5], pa.float32()), pa.array([0.5, None, 1.5], pa.float64())),
        (pa.array([1, 2], pa.timestamp("s", "UTC")), pa.array([1_000_000, 2_000_000], pa.timestamp("us"))),
        (pa.array([1, 2], pa.date32()), pa.array([86_400_000, 172_800_000], pa.date64())),
        (pa.array([1, 2], pa.time32("s")), pa.array([1_000_000_000, 2_000_000_000], pa.time64("ns"))),
        (pa.array([None, None], pa.null()), pa.array([None, None], pa.string())),
    ],
)  # fmt: skip
def test_equal_keys_are_in_one_part_however_they_are_encoded(one: pa.Array, other: pa.Array):
    assert part_of(one) == part_of(other)


def test_the_parts_of_values_are_fixed():
    # Computed by hand from the definition in the module's docstring: another number is another SPLIT_VERSION.
    assert part_of(pa.array([0, 1, 42, None, -1]), 16) == [_part(0), _part(1), _part(42), _part(None), _part(-1)]


def _part(value: int | None, parts: int = 16) -> int:
    def mix(bits: int) -> int:
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        return bits ^ (bits >> 31)

    return (mix(0 ^ mix(0x9E3779B97F4A7C15 if value is None else value % 2**64)) >> 32) * parts >> 32


def test_parts_of_many_keys_are_about_equal():
    sizes = np.array([len(rows) for rows in split(pa.table({"key": np.arange(100_000)}), ["key"], 16)])
    assert sizes.sum() == 100_000
    assert abs(sizes / 6250 - 1).max() < 0.06  # more than four standard deviations


KEYS = st.one_of(st.none(), st.integers(-5, 5))
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ab"]))


@given(
    rows=st.lists(st.tuples(KEYS, TEXTS), max_size=60),
    parts=st.integers(1, 9),
    cut=st.integers(0, 60),
    encoded=st.booleans(),
)
def test_splitting_sorting_and_merging_is_sorting(rows: list[tuple], parts: int, cut: int, encoded: bool):
    texts = pa.array([text for _, text in rows], pa.string())
    keys = pa.array([key for key, _ in rows], pa.int64())
    row = pa.array(range(len(rows)), pa.int64())
    table = pa.table({"row": row, "key": keys, "text": texts.dictionary_encode() if encoded else texts})
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    split_up = split(chunked, ["key", "text"], parts)
    assert len(split_up) == parts
    homes = [{(r["key"], r["text"]) for r in part.to_pylist()} for part in split_up]
    assert sum(map(len, homes)) == len(set(rows))  # no key is in two parts
    finished = [sort_by_key(part, ["key", "text"]) for part in split_up]
    readers = [functools.partial(_batches, part) for part in finished]
    found = pa.concat_tables([table.schema.empty_table(), *merge(table.schema, ["key", "text"], readers)])
    plain = pa.table({"row": table["row"], "key": table["key"], "text": texts})
    wanted = duckdb.sql("SELECT * FROM plain ORDER BY key NULLS LAST, text NULLS LAST, row").to_arrow_table()
    assert found.to_pylist() == wanted.to_pylist()
    assert plain.num_rows == len(rows)


def _batches(table: pa.Table, columns: list[str] | None):
    return iter((table if columns is None else table.select(columns)).to_batches(max_chunksize=7))


def test_a_column_that_cannot_be_a_key_is_told():
    with pytest.raises(BadPartial, match=r"'price' is decimal128\(3, 2\), and the columns are \['price'\]"):
        split(pa.table({"price": [Decimal("1.20")]}), ["price"], 4)


def test_parts_with_dictionaries_of_their_own_are_merged_by_value():
    rows = ((["a", "c", "c"], [1, 2, 3]), (["b", None], [4, 5]))
    parts = [pa.table({"key": pa.array(texts).dictionary_encode(), "n": numbers}) for texts, numbers in rows]
    readers = [functools.partial(_batches, part) for part in parts]
    found = pa.concat_tables(list(merge(parts[0].schema, ["key"], readers)))
    assert found.to_pydict() == {"key": ["a", "b", "c", "c", None], "n": [1, 4, 2, 3, 5]}


KEY = "0123abcd"


def test_a_part_is_read_without_the_others_and_only_its_own_damage_counts(tmp_path: Path):
    partials = Partials(tmp_path)
    table = pa.table({"key": range(50), "text": [str(n) for n in range(50)]})
    parts = [table.slice(0, 20), table.slice(20, 0), table.slice(20)]
    digest, _ = partials.write_parts(KEY, parts)
    assert digest == table_digest(table)
    assert [partials.read_part(KEY, part).to_pylist() for part in range(3)] == [part.to_pylist() for part in parts]
    assert partials.read(KEY).to_pylist() == table.to_pylist()
    # Another value in the last part, in a file that is whole as far as Arrow can tell.
    stored = feather.read_table(partials.path(KEY))
    other = pa.array([*range(49), 0], pa.int64())
    changed = stored.set_column(0, "key", pa.chunked_array([other[:20], other[20:]]))
    writing.write_table_atomic(partials.path(KEY), changed.replace_schema_metadata(stored.schema.metadata))
    assert partials.read_part(KEY, 0).to_pylist() == parts[0].to_pylist()
    with pytest.raises(CorruptPartial, match="part 2 has digest"):
        partials.read_part(KEY, 2)
    assert not partials.has(KEY)
