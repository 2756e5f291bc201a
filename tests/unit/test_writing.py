"""Promise 9's storage half: what is written is there whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from hindscan.files import read_bytes
from hindscan.writing import write_atomic, write_parquet_atomic, write_table_atomic


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=50)))
def test_what_is_written_is_read_back(content: bytes | str, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("w") / "deep" / "down" / "file"
    write_atomic(target, content)
    assert read_bytes(target) == (content.encode() if isinstance(content, str) else content)


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    write_atomic(tmp_path / "f", b"new")
    assert [f.name for f in tmp_path.iterdir()] == ["f"]
    assert read_bytes(tmp_path / "f") == b"new"


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "f", object())  # type: ignore[arg-type]
    assert [f.name for f in tmp_path.iterdir()] == ["f"]
    assert read_bytes(tmp_path / "f") == b"old"


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_fsync(handle)

    def replace(half: str, target: str) -> None:
        seen.append("rename")
        real_replace(half, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(tmp_path / "f", b"x")
    assert seen == ["file", "rename", "folder"]


@pytest.mark.parametrize("times", [1, 100_000], ids=["small", "large"])
def test_tables_survive_both_formats(tmp_path: Path, times: int) -> None:
    table = pa.table({"a": [1, None] * times, "s": ["x", "y"] * times})
    size = write_table_atomic(tmp_path / "t.arrow", table, compression="lz4")
    assert size == (tmp_path / "t.arrow").stat().st_size
    assert feather.read_table(tmp_path / "t.arrow").equals(table)
    write_parquet_atomic(tmp_path / "t.parquet", table)
    assert pq.read_table(tmp_path / "t.parquet", page_checksum_verification=True).equals(table)


def test_a_parquet_file_written_here_reveals_a_flipped_byte(tmp_path: Path) -> None:
    write_parquet_atomic(tmp_path / "t.parquet", pa.table({"a": [n * n for n in range(1000)]}))
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    chunk = pq.read_metadata(tmp_path / "t.parquet").row_group(0).column(0)
    content[chunk.data_page_offset + chunk.total_compressed_size - 5] ^= 1
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(tmp_path / "t.parquet", page_checksum_verification=True)


COLUMNS: dict[str, pa.Array[Any]] = {
    "n": pa.array([1, None, -5]),
    "u": pa.array([2**64 - 1, 0, 1], pa.uint64()),
    "small": pa.array([-128, 127, 0], pa.int8()),
    "t": pa.array([3, None, 1], pa.timestamp("us", "UTC")),
    "day": pa.array([3, 2, None], pa.date32()),
    "x": [0.5, float("nan"), None],
    "ok": [True, None, False],
    "s": ["x", None, "y"],
    "d": pa.array(["x", "x", None]).dictionary_encode(),
    "a.b": [1, 2, 3],
    "struct": [{"n": 1, "s": "x"}, None, {"n": None, "s": None}],
    "list": [[1, 2], [], None],
    "texts": [["x"], ["y", None], None],
    "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "none": pa.nulls(3),
}


@given(names=st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=1))
def test_columns_of_any_type_are_read_back_from_parquet(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pa.table({name: COLUMNS[name] for name in names})
    path = tmp_path_factory.mktemp("w") / "t.parquet"
    write_parquet_atomic(path, table)
    assert repr(pq.read_table(path).to_pydict()) == repr(table.to_pydict()), "nan is not equal to itself"
    assert pq.read_schema(path).remove_metadata().equals(table.schema)


def test_numbers_are_written_as_differences_and_texts_as_dictionaries(tmp_path: Path) -> None:
    write_parquet_atomic(tmp_path / "t.parquet", pa.table(COLUMNS))
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    chunks = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    differences = {path for path, chunk in chunks.items() if "DELTA_BINARY_PACKED" in chunk.encodings}
    assert differences == {"n", "u", "small", "t", "day", "a.b", "struct.n", "list.list.element", "map.key_value.value"}
    coded = {path for path, chunk in chunks.items() if chunk.has_dictionary_page}
    assert coded >= {"s", "struct.s", "texts.list.element", "map.key_value.key"}
