"""What others say Parquet is: the good and the bad files of apache/parquet-testing.

They are read from `../shared/authorities` beside the project, or from where `HINDSCAN_AUTHORITIES` points; their absence is a failure in CI.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan import files
from hindscan.data import Data
from hindscan.errors import CorruptData, HistoryError, SchemaMismatch
from hindscan.history.footer import plain_type
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Window
from hindscan.plans.cut import cut, cut_whole

BESIDE = Path(__file__).parents[3] / "shared" / "authorities"

#: Damaged files that must be refused by name. ARROW-GH-43605 is odd but whole: every reader agrees on its rows.
DAMAGED = {
    "bad_data/ARROW-GH-41317.parquet",
    "bad_data/ARROW-GH-41321.parquet",
    "bad_data/ARROW-GH-45185.parquet",
    "bad_data/ARROW-GH-47662.parquet",
    "bad_data/ARROW-RS-GH-6229-DICTHEADER.parquet",
    "bad_data/ARROW-RS-GH-6229-LEVELS.parquet",
    "bad_data/PARQUET-1481.parquet",
    "data/datapage_v1-corrupt-checksum.parquet",
    "data/rle-dict-uncompressed-corrupt-checksum.parquet",
    # A map whose keys may be null: no such type exists.
    "data/incorrect_map_schema.parquet",
}
#: A time of the year 290000, which Arrow reads as another one in any unit.
FAR = "data/int96_from_spark.parquet"
#: Two texts of a gigabyte each: for the test of what the pin says, not for reading.
HUGE = "data/large_string_map.brotli.parquet"


@pytest.fixture(scope="module")
def authorities() -> Path:
    folder = Path(os.environ.get("HINDSCAN_AUTHORITIES", BESIDE)) / "parquet-testing"
    if not folder.is_dir():
        message = f"the Parquet authorities are not at {folder}: set HINDSCAN_AUTHORITIES"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return folder


def history(path: Path) -> ParquetHistory:
    return ParquetHistory(name="authority", location=str(path), place=files.place(path))


def read(path: Path) -> pa.Table:
    of = history(path)
    pin = of.pin(Window())
    with of.reader(pin).open(cut_whole(pin)) as source:
        table = Data("t", {"t": source}).arrow()
        source.proofs()
    return table


def test_every_good_file_reads_as_arrow_reads_it(authorities: Path) -> None:
    paths = [*authorities.glob("data/**/*.parquet"), *authorities.glob("bad_data/*.parquet")]
    good = [path for path in paths if path.relative_to(authorities).as_posix() not in {*DAMAGED, FAR, HUGE}]
    assert len(good) > 60
    for path in sorted(good):
        # As nanoseconds, of which 64 bits hold no far times, Arrow would read others.
        expected = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()
        expected = expected.cast(pa.schema([pa.field(f.name, plain_type(f.type), f.nullable) for f in expected.schema]))
        found = read(path)
        # NaN equals nothing, so columns of it are compared as text.
        unequal = [name for name in found.column_names if not found[name].equals(expected[name])]
        assert [name for name in unequal if str(found[name].to_pylist()) != str(expected[name].to_pylist())] == [], path


def test_a_time_that_arrow_reads_as_another_is_refused_by_its_file(authorities: Path) -> None:
    with pytest.raises(
        SchemaMismatch, match=r"int96_from_spark\.parquet: .* 'a' \(INT96\).* 1 have .*too far away for 64 bits"
    ):
        read(authorities / FAR)


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_every_damaged_file_is_refused_by_its_name(authorities: Path, name: str) -> None:
    with pytest.raises(CorruptData) as refused:
        read(authorities / name)
    assert Path(name).name in str(refused.value)


def test_an_encrypted_file_is_refused_by_its_name(authorities: Path) -> None:
    for path in sorted(authorities.glob("data/*.encrypted")):
        with pytest.raises(HistoryError) as refused:
            read(path)
        assert path.name in str(refused.value)


def test_the_pin_of_a_small_file_of_huge_texts_says_how_much_they_are(authorities: Path) -> None:
    pin = history(authorities / HUGE).pin(Window())
    assert pin.files[0].size < 10_000
    assert sum(piece.bytes for piece in cut(pin, 1000)) > 2_000_000_000
