"""Small files that would take a gigabyte are refused before they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan.history.expansion as module
from hindscan import files
from hindscan.data import Data
from hindscan.errors import CorruptData
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Window
from hindscan.plans.cut import cut_whole


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    of = ParquetHistory(name="h", location=str(path), place=files.place(path))
    pin = of.pin(Window())
    with of.reader(pin).open(cut_whole(pin)) as source:
        return Data("t", {"t": source}).arrow(columns)


def write(path: Path, texts: list[str | None], **options: Any) -> Path:
    pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), path, write_page_checksum=True, **options)
    return path


def test_a_bomb_of_one_text_in_many_rows_is_refused_with_the_figures(tmp_path: Path) -> None:
    # 3,000 rows of one megabyte: 3 GB out of some kilobytes. Made without ever holding them.
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"n": range(3000), "text": values}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    with pytest.raises(CorruptData, match=r"bomb\.parquet: column 'text' must take about what the footer says"):
        read(tmp_path / "bomb.parquet")
    assert read(tmp_path / "bomb.parquet", ["n"]).num_rows == 3000, "a column that is not asked for harms nobody"


def test_the_same_by_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SURE_BYTES", 100_000)
    path = write(
        tmp_path / "delta.parquet",
        ["x" * 1000] * 3000,
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY", "n": "PLAIN"},
    )
    with pytest.raises(CorruptData, match="text"):
        read(path)


@pytest.mark.parametrize(
    "texts",
    [
        ["cars", "boats"] * 5000,
        ["y" * 200, None] * 5000,
        [None] * 1000,
        [],
        ["z" * 50_000, *["s"] * 9999],  # the longest times all rows is too much; their sum is not
        [str(n) * 10 for n in range(10_000)],
    ],
)
def test_texts_that_are_what_they_seem_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str | None]
) -> None:
    monkeypatch.setattr(module, "SURE_BYTES", 1_200_000)
    path = write(tmp_path / "fine.parquet", texts, row_group_size=4000, dictionary_pagesize_limit=50_000)
    table = read(path) if texts else None
    assert table is None or table["text"].to_pylist() == texts
