"""Promise 9's storage half: what is written is there whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
    write_parquet_atomic(tmp_path / "t.parquet", pa.table({"a": list(range(1000))}))
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[60] ^= 1
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(tmp_path / "t.parquet", page_checksum_verification=True)
