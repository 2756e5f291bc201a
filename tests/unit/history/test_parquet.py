"""Parquet histories: pins that name every file, readers that refuse what is no longer so, rows that DuckDB agrees with."""

from __future__ import annotations

import datetime as dt
import os
import pickle
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindscan import files
from hindscan.data import Data, Proof
from hindscan.errors import CorruptData, HindscanError, SchemaMismatch, SourceChanged, SourceMissing, UsageError
from hindscan.history.columns import schema_from_columns, schema_from_text
from hindscan.history.declared import history_from_toml
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import ParquetPin, Window
from hindscan.plans.cut import cut, cut_whole

SECOND = 1_000_000
US = pa.timestamp("us", "UTC")


def bids(first: int, count: int, **more: Any) -> pa.Table:
    """Make bids numbered from `first`, one per second."""
    numbers = range(first, first + count)
    columns = {
        "auction": pa.array([n % 5 for n in numbers], pa.int64()),
        "price": pa.array([n * 10 for n in numbers], pa.int64()),
        "date_time": pa.array([n * SECOND for n in numbers], US),
        **more,
    }
    return pa.table(columns)


def write(path: Path, table: pa.Table, row_group_rows: int = 10, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_rows, write_page_checksum=True, **options)
    return path


def history(location: Path | str, **options: Any) -> ParquetHistory:
    options.setdefault("time", "date_time")
    return ParquetHistory(name="bids", location=str(location), place=files.place(location), **options)


def read(
    of: ParquetHistory, window: Window | None = None, *, slice_rows: int = 10, pin: ParquetPin | None = None
) -> tuple[pa.Table, list[Proof]]:
    """Pin, cut, travel through pickle and JSON, open each slice alone, and put the rows together."""
    pinned = pin or of.pin(window or Window())
    pinned = msgspec.json.decode(msgspec.json.encode(pinned), type=ParquetPin)
    reader = pickle.loads(pickle.dumps(of.reader(pinned)))
    tables, proofs = [], []
    for piece in cut(pinned, slice_rows):
        with reader.open([piece]) as source:
            tables.append(Data("t", {"t": source}).arrow())
            proofs += source.proofs()
    return pa.concat_tables([schema_from_text(pinned.schema).empty_table(), *tables]), proofs


def test_all_rows_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "b/2.parquet", bids(25, 30))
    write(tmp_path / "b/10.parquet", bids(55, 5))
    write(tmp_path / "b/1.parquet", bids(0, 25))
    table, proofs = read(history(tmp_path / "b"))
    assert table["price"].to_pylist() == [n * 10 for n in range(60)]
    assert sum(proof.records for proof in proofs) == 60
    assert [proof.greatest_time for proof in proofs] == [n * SECOND for n in (9, 19, 24, 34, 44, 54, 59)]
    assert len({proof.digest for proof in proofs}) == 7


@pytest.mark.parametrize("slice_rows", [10, 25, 30, 70, 1000])
def test_rows_of_a_slice_come_in_the_order_of_the_file_wherever_its_row_groups_lie(
    tmp_path: Path, slice_rows: int
) -> None:
    write(tmp_path / "b/1.parquet", bids(0, 400))
    table, _ = read(history(tmp_path / "b"), slice_rows=slice_rows)
    assert table["price"].to_pylist() == [n * 10 for n in range(400)]


def test_the_pin_describes_files_and_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "b/year=2018/a.parquet", bids(0, 25))
    pin = history(tmp_path / "b").pin(Window())
    [file] = pin.files
    assert file.path == "year=2018/a.parquet"
    assert file.size == path.stat().st_size
    assert file.identity == f"mtime_ns:{path.stat().st_mtime_ns}"
    assert file.partition_values == {"year": "2018"}
    assert [(g.rows, g.least_time, g.greatest_time) for g in file.row_groups] == [
        (10, 0, 9 * SECOND),
        (10, 10 * SECOND, 19 * SECOND),
        (5, 20 * SECOND, 24 * SECOND),
    ]
    assert schema_from_text(pin.schema).names == ["auction", "price", "date_time", "year"]


def test_a_row_group_with_a_row_without_time_has_no_known_times(tmp_path: Path) -> None:
    """Else a slice would be thought to lie inside of a window, and its bound left out of key and filter."""
    write(tmp_path / "a.parquet", pa.table({"date_time": pa.array([1, None, 3, 4, 5], US)}), 3)
    groups = history(tmp_path / "a.parquet").pin(Window()).files[0].row_groups
    assert [(g.least_time, g.greatest_time) for g in groups] == [(None, None), (4, 5)]


def test_folder_names_are_typed_columns_and_prune(tmp_path: Path) -> None:
    for year in (2017, 2018):
        for month in (1, 2, 11):
            write(tmp_path / f"b/year={year}/month={month}/x.parquet", bids(year * 100 + month, 3))
    write(tmp_path / "b/year=__HIVE_DEFAULT_PARTITION__/month=1/x.parquet", bids(0, 1))
    of = history(tmp_path / "b")
    table, _ = read(of)
    assert table.schema.field("year").type == pa.int64()
    assert table.num_rows == 19
    assert table["year"].null_count == 1
    assert table["month"].to_pylist()[:9] == [1, 1, 1, 2, 2, 2, 11, 11, 11]
    pin = of.pin(Window())
    source = of.reader(pin).open(cut_whole(pin))
    found = Data("t", {"t": source}).sql(
        "SELECT count(*) AS n, min(date_time) AS first FROM t WHERE year = 2018 AND month = 2"
    )
    assert found["n"].to_pylist() == [3]


def test_a_folder_name_is_text_if_one_is_and_its_escapes_are_undone(tmp_path: Path) -> None:
    write(tmp_path / "b/kind=12/x.parquet", bids(0, 1))
    write(tmp_path / "b/kind=a%20b%2Fc/x.parquet", bids(1, 1))
    table, _ = read(history(tmp_path / "b"))
    assert table["kind"].to_pylist() == ["12", "a b/c"]


def test_declared_types_of_folder_names_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "b/day=2018-01-02/x.parquet", bids(0, 2))
    write(tmp_path / "b/day=2018-01-03/x.parquet", bids(2, 2))
    columns = schema_from_columns({"price": "int64", "day": "date32"})
    of = history(tmp_path / "b", columns=columns, time="day")
    table, _ = read(of, Window(as_of=1514937600 * SECOND))
    assert table.to_pylist() == [
        {"price": 0, "day": dt.date(2018, 1, 2)},
        {"price": 10, "day": dt.date(2018, 1, 2)},
    ]


def test_a_folder_name_that_does_not_fit_its_declared_type_is_named(tmp_path: Path) -> None:
    write(tmp_path / "b/day=soon/x.parquet", bids(0, 2))
    columns = schema_from_columns({"price": "int64", "day": "date32"})
    with pytest.raises(SchemaMismatch, match=r"day=soon/x\.parquet: partition day=soon is not date32"):
        history(tmp_path / "b", columns=columns).pin(Window())


def test_files_in_unlike_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b/year=2018/x.parquet", bids(0, 2))
    write(tmp_path / "b/x.parquet", bids(0, 2))
    with pytest.raises(SchemaMismatch, match="partitions"):
        history(tmp_path / "b").pin(Window())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bounds_keep_exactly_the_rows_inside_for_every_unit_order_and_cut(tmp_path: Path, data: st.DataObject) -> None:
    """DuckDB over the same file is the oracle. Times are shuffled, so that statistics overlap."""
    unit = data.draw(st.sampled_from(["s", "ms", "us", "ns"]))
    zone = data.draw(st.sampled_from(["UTC", None]))
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    least = st.integers(0, 40).map(lambda half: half * per_second // 2)
    times = data.draw(st.lists(least.flatmap(lambda t: st.integers(t, t + 2)), min_size=1, max_size=30))
    table = pa.table({"n": range(len(times)), "date_time": pa.array(times, pa.timestamp(unit, zone))})
    path = write(
        tmp_path / f"{data.draw(st.uuids())}.parquet", table, data.draw(st.integers(1, 7)), coerce_timestamps=None
    )
    micros = st.integers(0, 21).flatmap(lambda s: st.sampled_from([s * SECOND - 1, s * SECOND, s * SECOND + 1]))
    window = Window(
        since=data.draw(st.none() | micros), until=data.draw(st.none() | micros), as_of=data.draw(st.none() | micros)
    )
    found, _ = read(history(path), window, slice_rows=data.draw(st.integers(1, 9)))
    exact = [int(t * (10**9 // per_second)) for t in times]
    expected = [
        n
        for n, nanos in enumerate(exact)
        if (window.since is None or nanos >= window.since * 1000)
        and (window.until is None or nanos < window.until * 1000)
        and (window.as_of is None or nanos < window.as_of * 1000)
    ]
    assert found["n"].to_pylist() == expected


def test_a_history_without_a_time_column_is_refused_as_of_a_time(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 3))
    with pytest.raises(UsageError, match=r'as_of.*no time column.*as_of = "ignore"'):
        history(tmp_path / "b", time=None).pin(Window(as_of=5))


def test_unless_it_says_ignore_which_the_pin_shows(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 3))
    pin = history(tmp_path / "b", time=None, ignores_as_of=True).pin(Window(as_of=5))
    assert pin.before is None
    assert "ignored" in pin.caveats[0]
    with pytest.raises(UsageError, match="since"):
        history(tmp_path / "b", time=None, ignores_as_of=True).pin(Window(since=5))


def test_rows_without_a_time_are_never_dropped_in_silence(tmp_path: Path) -> None:
    table = pa.table({"date_time": pa.array([1, None, 3], US)})
    write(tmp_path / "seen/a.parquet", table)
    with pytest.raises(SchemaMismatch, match=r"a\.parquet: 1"):
        history(tmp_path / "seen").pin(Window(as_of=2))
    assert read(history(tmp_path / "seen"))[0].num_rows == 3

    write(tmp_path / "unseen/a.parquet", table, write_statistics=False)
    with pytest.raises(SchemaMismatch, match="1 have none"):
        read(history(tmp_path / "unseen"), Window(as_of=2))


def test_a_time_column_that_is_no_time_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 3))
    for wrong in ("price", "nowhere"):
        with pytest.raises(SchemaMismatch, match=wrong):
            history(tmp_path / "b", time=wrong).pin(Window())


@pytest.mark.parametrize("place", ["nowhere", "nowhere/*.parquet", "empty"])
def test_no_files_are_an_error_that_names_the_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/_SUCCESS").write_text("")
    with pytest.raises(SourceMissing, match=place.partition("/")[0]):
        history(tmp_path / place).pin(Window())


def test_files_that_disagree_are_all_named(tmp_path: Path) -> None:
    write(tmp_path / "b/1.parquet", bids(0, 3))
    write(tmp_path / "b/2.parquet", bids(0, 3, price=pa.array([1.5, 2, 3])))
    write(tmp_path / "b/3.parquet", bids(0, 3, auction=["a", "b", "c"]))
    with pytest.raises(SchemaMismatch) as refused:
        history(tmp_path / "b").pin(Window())
    assert "2.parquet: column 'price' is double, in 1.parquet it is int64" in str(refused.value)
    assert "3.parquet: column 'auction' is string" in str(refused.value)


def test_a_column_that_a_file_lacks_is_an_error_that_says_how_to_mean_it(tmp_path: Path) -> None:
    write(tmp_path / "b/1.parquet", bids(0, 2))
    write(tmp_path / "b/2.parquet", bids(2, 2, channel=["x", "y"]))
    with pytest.raises(
        SchemaMismatch, match=r"1\.parquet: no column 'channel'; 2\.parquet has it[\s\S]*drift = \"widen\""
    ):
        history(tmp_path / "b").pin(Window())
    with pytest.raises(SchemaMismatch, match=r"1\.parquet: no column 'channel'"):
        history(tmp_path / "b", columns=schema_from_columns({"channel": "string", "date_time": "timestamp"})).pin(
            Window()
        )


def test_a_declared_schema_widens_but_never_narrows(tmp_path: Path) -> None:
    small = pa.table({"n": pa.array([1, 2], pa.int32()), "date_time": pa.array([1, 2], pa.timestamp("ms"))})
    write(tmp_path / "b/1.parquet", small)
    wide = schema_from_columns({"n": "int64", "date_time": "timestamp[us]"})
    table, _ = read(history(tmp_path / "b", columns=wide), Window(as_of=2000))
    assert table.to_pylist() == [{"n": 1, "date_time": dt.datetime(1970, 1, 1, 0, 0, 0, 1000)}]
    for narrow in (
        {"n": "int16"},
        {"n": "uint32"},
        {"n": "string"},
        {"date_time": "timestamp[s]"},
        {"date_time": "timestamp[ms, UTC]"},
    ):
        with pytest.raises(SchemaMismatch, match=r"1\.parquet"):
            history(tmp_path / "b", columns=schema_from_columns(narrow), time=None).pin(Window())


def test_not_null_is_believed_only_where_the_footer_shows_it(tmp_path: Path) -> None:
    declared = schema_from_columns({"n": "int64 not null"})
    write(tmp_path / "good/1.parquet", pa.table({"n": [1]}))
    write(tmp_path / "bad/1.parquet", pa.table({"n": [1, None]}))
    write(tmp_path / "unknown/1.parquet", pa.table({"n": [1]}), write_statistics=False)
    assert read(history(tmp_path / "good", columns=declared, time=None))[0].schema.field("n").nullable is False
    for name in ("bad", "unknown"):
        with pytest.raises(SchemaMismatch, match="declared as not null"):
            history(tmp_path / name, columns=declared, time=None).pin(Window())


def test_encodings_that_differ_only_in_memory_are_one_type(tmp_path: Path) -> None:
    write(tmp_path / "b/1.parquet", pa.table({"s": pa.array(["x", "y", "x"]).dictionary_encode()}))
    write(tmp_path / "b/2.parquet", pa.table({"s": pa.array(["z"], pa.large_string())}))
    table, _ = read(history(tmp_path / "b", time=None))
    assert table.schema.field("s").type == pa.string()
    assert table["s"].to_pylist() == ["x", "y", "x", "z"]


@pytest.mark.parametrize("size", [0, 3, 11, -1, -8, -20])
def test_a_file_cut_short_is_named_when_pinned(tmp_path: Path, size: int) -> None:
    write(tmp_path / "b/good.parquet", bids(0, 100))
    path = write(tmp_path / "b/short.parquet", bids(0, 100))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptData, match=r"short\.parquet"):
        history(tmp_path / "b").pin(Window())


def test_a_file_that_was_replaced_after_the_pin_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "b/a.parquet", bids(0, 30))
    of = history(tmp_path / "b")
    pin = of.pin(Window())
    write(path, bids(0, 31))
    with pytest.raises(SourceChanged, match=r"a\.parquet: pinned with"):
        read(of, pin=pin)
    path.unlink()
    with pytest.raises(SourceChanged, match=r"a\.parquet"):
        read(of, pin=pin)


def test_a_file_that_is_replaced_while_it_is_read_fails_its_proof(tmp_path: Path) -> None:
    path = write(tmp_path / "b/a.parquet", bids(0, 30))
    of = history(tmp_path / "b")
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 100)) as source:
        Data("t", {"t": source}).arrow()
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged, match=r"a\.parquet"):
            source.proofs()


def test_another_file_in_the_folder_changes_nothing_pinned(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 30))
    of = history(tmp_path / "b")
    pin = of.pin(Window())
    write(tmp_path / "b/b.parquet", bids(30, 30))
    assert read(of, pin=pin)[0].num_rows == 30
    assert read(of)[0].num_rows == 60


@pytest.mark.parametrize("reading", ["arrow", "sql", "batches"])
def test_a_flipped_byte_in_a_page_is_found_and_its_file_named(tmp_path: Path, reading: str) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 1000), 1000)
    path = write(tmp_path / "b/b.parquet", bids(1000, 1000), 1000)
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 4
    path.write_bytes(broken)
    of = history(tmp_path / "b")
    pin = of.pin(Window(as_of=10**12))
    data = Data("t", {"t": of.reader(pin).open(cut_whole(pin))})
    readers: dict[str, Any] = {
        "arrow": data.arrow,
        "sql": lambda: data.sql("SELECT * FROM t"),
        "batches": lambda: list(data.batches()),
    }
    with pytest.raises(CorruptData, match=r"b\.parquet") as refused:
        readers[reading]()
    assert "a.parquet" not in str(refused.value)


def test_without_verification_the_same_byte_is_read_as_data(tmp_path: Path) -> None:
    """Shows that it is the verification which finds it."""
    path = write(
        tmp_path / "a.parquet",
        pa.table({"n": pa.array(range(1000), pa.int64())}),
        1000,
        use_dictionary=False,
        compression="none",
    )
    broken = bytearray(path.read_bytes())
    broken[2000] ^= 4
    path.write_bytes(broken)
    table, _ = read(history(path, time=None, verify=False), slice_rows=5000)
    assert table["n"].to_pylist() != list(range(1000))
    with pytest.raises(CorruptData):
        read(history(path, time=None, verify=True), slice_rows=5000)


def test_no_slices_are_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 3))
    of = history(tmp_path / "b")
    pin = of.pin(Window(until=0))
    assert cut_whole(pin) == ()
    with of.reader(pin).open([]) as source:
        assert Data("t", {"t": source}).sql("SELECT count(*) AS n, max(price) AS p FROM t").to_pylist() == [
            {"n": 0, "p": None}
        ]
        assert source.proofs() == []


def test_a_second_pin_reads_no_footer_of_a_file_that_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hindscan.history.footers as module

    write(tmp_path / "b/1.parquet", bids(0, 3))
    write(tmp_path / "b/2.parquet", bids(3, 3))
    of = history(tmp_path / "b")
    first = of.pin(Window())
    read_now: list[str] = []
    real = module.read_footer

    def counted(file: files.Place, shown: str, *more: Any) -> Any:
        read_now.append(shown)
        return real(file, shown, *more)

    monkeypatch.setattr(module, "read_footer", counted)
    assert of.pin(Window()) == first
    write(tmp_path / "b/2.parquet", bids(3, 4))
    of.pin(Window())
    assert read_now == ["2.parquet"]


def test_a_glob_chooses_files_and_keeps_partition_columns(tmp_path: Path) -> None:
    for year in (2017, 2018, 2019):
        write(tmp_path / f"b/year={year}/x.parquet", bids(year, 1))
    table, _ = read(history(str(tmp_path / "b/year=201[89]/*.parquet")))
    assert table["year"].to_pylist() == [2018, 2019]


def test_row_groups_are_at_least_as_big_as_their_rows_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"n": pa.array([7] * 100_000, pa.int64())}), 100_000)
    [group] = history(tmp_path / "a.parquet", time=None).pin(Window()).files[0].row_groups
    assert group.bytes >= 800_000


def test_sql_over_slices_agrees_with_duckdb_over_the_files(tmp_path: Path) -> None:
    for month in range(1, 4):
        write(tmp_path / f"b/month={month}/x.parquet", bids(month * 1000, 500), 77)
    of = history(tmp_path / "b")
    pin = of.pin(Window(as_of=2400 * SECOND))
    query = "SELECT auction, month, count(*) AS n, sum(price)::BIGINT AS total FROM {} WHERE price > 10500 GROUP BY ALL ORDER BY ALL"
    with duckdb.connect() as oracle:
        oracle.execute("SET TimeZone = 'UTC'")
        whole = f"(SELECT * FROM read_parquet('{tmp_path}/b/*/*.parquet', hive_partitioning = true) WHERE epoch_us(date_time) < {2400 * SECOND})"
        expected = oracle.execute(query.format(whole)).fetchall()
    with of.reader(pin).open(cut(pin, 100)) as source:
        found = Data("bids", {"bids": source}).sql(query.format("bids"))
    assert [tuple(row.values()) for row in found.to_pylist()] == expected
    assert len(expected) == 10


def test_an_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HindscanError, match="Check the path"):
        history(tmp_path / "nowhere").pin(Window())


def test_footers_are_kept_from_one_process_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hindscan.history.footers as module

    folder, kept = tmp_path / "b", tmp_path / "footers"
    for number in range(12):
        write(folder / f"{number}.parquet", bids(number * 3, 3))
    first = history(folder, kept=kept).pin(Window())
    read_now: list[str] = []
    real = module.read_footer

    def counted(file: files.Place, shown: str, *more: Any) -> Any:
        read_now.append(shown)
        return real(file, shown, *more)

    monkeypatch.setattr(module, "read_footer", counted)
    assert history(folder, kept=kept).pin(Window()) == first
    assert read_now == []
    write(folder / "3.parquet", bids(0, 5))
    (folder / "4.parquet").unlink()
    assert history(folder, kept=kept).pin(Window()) == history(folder).pin(Window())
    assert read_now[0] == "3.parquet"
    assert len(read_now) == 1 + 11

    [file] = kept.iterdir()
    for damaged in (b"", file.read_bytes()[:-9], b"\xff" * 100):
        file.write_bytes(damaged)
        assert history(folder, kept=kept).pin(Window()) == history(folder).pin(Window())
    # Another time column needs other statistics: they are another file.
    assert history(folder, kept=kept, time=None).pin(Window()).files[0].row_groups[0].least_time is None


def test_footers_that_cannot_be_kept_fail_no_plan(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"b/{number}.parquet", bids(number * 3, 3))
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert len(history(tmp_path / "b", kept=tmp_path / "kept").pin(Window()).files) == 12


@pytest.mark.parametrize("column", ["price", "channel"])
def test_a_flipped_bit_anywhere_in_a_column_is_found_or_changes_nothing(tmp_path: Path, column: str) -> None:
    """Checksums cover a page's content; in its header some bytes say nothing that a reader needs, and others made Arrow leave out pages in silence."""
    table = bids(0, 200, channel=pa.array([f"c{n % 7}" for n in range(200)]).dictionary_encode())
    path = write(tmp_path / "b/a.parquet", table, 100, data_page_size=256)
    whole = path.read_bytes()
    expected = table[column].to_pylist()
    of = history(tmp_path / "b")
    found: list[str] = []
    for group in (0, 1):
        chunk = pq.read_metadata(pa.BufferReader(whole)).row_group(group).column(table.schema.get_field_index(column))
        begin = chunk.dictionary_page_offset or chunk.data_page_offset
        for place in range(begin, begin + chunk.total_compressed_size):
            broken = bytearray(whole)
            broken[place] ^= 1
            path.write_bytes(broken)
            pin = of.pin(Window())
            try:
                with of.reader(pin).open(cut_whole(pin)) as source:
                    rows = Data("t", {"t": source}).arrow([column])[column].to_pylist()
                    source.proofs()
                    assert rows == expected, place - begin
            except CorruptData as fault:
                found.append(str(fault))
    assert len(found) > 100
    assert all("row groups [0, 2) of a.parquet" in text for text in found)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_files_without_checksums_are_read_and_the_proof_says_so(tmp_path: Path, rows: int, version: Any) -> None:
    for checked in (True, False):
        folder = tmp_path / str(checked)
        folder.mkdir()
        table = pa.table({"n": pa.array(range(rows), pa.int64())})
        pq.write_table(table, folder / "a.parquet", write_page_checksum=checked, data_page_version=version)
        found, proofs = read(history(folder, time=None), slice_rows=10**6)
        assert found == table
        expected = None if checked else "page checksums (files without them)"
        assert [proof.unverified for proof in proofs] == [expected] * bool(rows)
        _, proofs = read(history(folder, time=None, verify=False), slice_rows=10**6)
        assert [proof.unverified for proof in proofs] == ["page checksums (verify = false)"] * bool(rows)


def test_the_default_of_a_declared_history_verifies(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", bids(0, 3))
    of = history_from_toml("b", {"parquet": "b"}, clusters={}, root=tmp_path)
    assert isinstance(of, ParquetHistory)
    assert of.pin(Window()).verify


def test_digits_of_other_scripts_in_the_names_of_folders_are_texts(tmp_path: Path) -> None:
    write(tmp_path / "b/part=\u0663/a.parquet", bids(0, 2))
    table, _ = read(history(tmp_path / "b"))
    assert table["part"].to_pylist() == ["\u0663"] * 2
