"""An archive's manifest is whole or refused, its files hold what they say, and on an object store nobody's work is harmed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hindscan import files
from hindscan.data import Data
from hindscan.errors import Conflict, CorruptData, DataLost, SourceChanged
from hindscan.history import kafka_reader
from hindscan.history.archive import MANIFEST, Archive, ArchivePlace, listed_only, read_archive, write_archive
from hindscan.history.archiving import SWEEP_SECONDS, _pieces, archive
from hindscan.history.columns import schema_from_columns, schema_from_text
from hindscan.history.kafka import KafkaHistory
from hindscan.history.parquet_reader import ParquetSource
from hindscan.history.snapshot import KafkaSlice, Window
from hindscan.history.stitched import StitchedHistory
from hindscan.kafka.fetch import RawBatch
from hindscan.kafka.topic import TopicDescription, TopicOffset
from hindscan.plans.cut import cut

Log = list[tuple[int, int, bytes | None]]


NUMBERS = {"n": "int64"}


class Broker:
    """Stands for the connection and for the admin client: one partition, its records and where it begins and ends."""

    log: Log = []  # noqa: RUF012
    start = 0
    topic_id = "first"

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self) -> TopicDescription:
        return TopicDescription(topic="t", topic_id="id", cluster_id="", partitions=(0,))

    def close(self) -> None:
        pass

    def read(self, partition: int, start: int, end: int, _parts: Any = ()) -> Iterator[RawBatch]:
        if start < self.start:
            raise DataLost(f"offset {start} is gone")
        batch = RawBatch.of([record for record in self.log if start <= record[0] < end])
        keys = pa.array([b"k%d" % offset for offset in batch.offsets], pa.large_binary())
        yield dataclasses.replace(batch, keys=keys if "keys" in _parts else None)

    def describe(self, *, settings: bool = True) -> TopicDescription:
        return TopicDescription(
            topic="t",
            topic_id=self.topic_id,
            cluster_id="c",
            partitions=(0,),
            cleanup_policy="delete",
            retention_ms=1000,
        )

    def offsets(self, numbers: Any, at: str | int, isolation: str) -> dict[int, TopicOffset]:
        if isinstance(at, int):
            found = [offset for offset, time, _ in self.log if offset >= self.start and time >= at]
            return {0: TopicOffset(offset=found[0] if found else -1, leader_epoch=0)}
        end = self.log[-1][0] + 1 if self.log else self.start
        return {0: TopicOffset(offset=self.start if at == "earliest" else end, leader_epoch=0)}


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> type[Broker]:
    monkeypatch.setattr(kafka_reader, "RangeReader", Broker)
    monkeypatch.setattr("hindscan.history.kafka.TopicInspector", Broker)
    Broker.start, Broker.topic_id = 0, "first"
    Broker.log = numbers(30)
    return Broker


def numbers(count: int, first: int = 0) -> Log:
    return [(n, 1000 * n, b'{"n": %d}' % n) for n in range(first, first + count)]


def stitched(place: files.Place, columns: dict[str, str] | None = NUMBERS, **settings: Any) -> StitchedHistory:
    schema = None if columns is None else schema_from_columns(columns)
    topic = KafkaHistory(name="h", cluster="default", config={}, topic="t", columns=schema, **settings)
    return StitchedHistory(topic=topic, archive=ArchivePlace(location="lake", place=place))


def read(of: Any, slice_rows: int = 10) -> list[Any]:
    pin = of.pin(Window())
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    found: list[Any] = []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            found.append((Data("t", {"t": source}).arrow(), source.proofs()))
    return found


@given(start=st.integers(0, 100), length=st.integers(0, 100), slice_rows=st.integers(1, 40))
def test_pieces_end_where_slices_do(start: int, length: int, slice_rows: int) -> None:
    pieces = list(_pieces(start, start + length, slice_rows))
    assert [offset for a, b in pieces for offset in range(a, b)] == list(range(start, start + length))
    assert all(a // slice_rows == (b - 1) // slice_rows for a, b in pieces)
    assert len(pieces) <= length // slice_rows + 2


@settings(max_examples=40)
@given(
    steps=st.lists(st.integers(0, 12), max_size=6),
    cuts=st.lists(st.sampled_from([3, 7, 10]), min_size=6, max_size=6),
    holes=st.sets(st.integers(0, 29), max_size=12),
    nulls=st.sets(st.integers(0, 29), max_size=8),
    retained=st.booleans(),
)
def test_wherever_and_however_often_it_was_archived_the_rows_are_those_of_the_topic(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    cuts: list[int],
    holes: set[int],
    nulls: set[int],
    retained: bool,
) -> None:
    of = stitched(files.place(tmp_path_factory.mktemp("lake")))
    Broker.start = 0
    Broker.log = [(o, t, None if o in nulls else v) for o, t, v in numbers(30) if o not in holes] + numbers(1, 30)
    expected = read(of.topic)
    reached = 0
    for step, slice_rows in zip(steps, cuts, strict=False):
        reached = min(reached + step, 31)
        archive(of, slice_rows=slice_rows, until=reached)
        if retained:
            Broker.start = reached
        found = read(of)
        assert [table for table, _ in found] == [table for table, _ in expected]
        assert [proof.records for _, [proof] in found] == [proof.records for _, [proof] in expected]
        known = read_archive(of.archive.place)
        assert known is not None
        assert known[0].partitions[0].end == reached


def test_values_of_every_type_come_back_as_they_were(tmp_path: Path) -> None:
    columns = {
        "b": "bool", "i8": "int8", "u16": "uint16", "u64": "uint64", "f": "float", "d": "double", "s": "string not null",
        "date": "date32", "ts": "timestamp[s]", "tms": "timestamp[ms, UTC]", "tns": "timestamp[ns, UTC]", "dec": "decimal128(12, 2)",
        "l": "list<int64>", "st": "struct<street: string, number: int32>",
    }  # fmt: skip
    full = {
        "b": True, "i8": -128, "u16": 65535, "u64": 2**64 - 1, "f": 0.1, "d": 1e308, "s": "ä\u0000", "date": "1969-12-31",
        "ts": "1960-01-01T00:00:01", "tms": "2018-01-01T00:00:00.001Z", "tns": "2018-01-01T00:00:00.000000001Z", "dec": "12.34",
        "l": [1, None, 3], "st": {"street": "x", "number": None},
    }  # fmt: skip
    Broker.log = [
        (0, 5, json.dumps(full).encode()),
        (1, -1, b'{"s": ""}'),
        (2, 7, json.dumps({**full, "l": [], "st": None}).encode()),
    ]
    of = stitched(files.place(tmp_path), columns)
    expected = read(of.topic)
    archive(of, slice_rows=10)
    Broker.start = 3
    found = read(of)
    assert found == expected
    row = found[0][0].to_pylist()[0]
    assert (row["dec"], row["date"], row["u64"]) == (decimal.Decimal("12.34"), dt.date(1969, 12, 31), 2**64 - 1)
    assert math.isclose(row["f"], 0.1, rel_tol=1e-6)


def test_a_slice_says_what_is_read_from_where(tmp_path: Path) -> None:
    of = stitched(files.place(tmp_path))
    pin = of.pin(Window())
    assert any("0 of 30 offsets are read from the archive lake" in caveat for caveat in pin.caveats)
    assert (pin.retention_ms, pin.schema_from) == (1000, "declared")
    archive(of, slice_rows=10, until=15)
    pin = of.pin(Window())
    assert any("15 of 30 offsets are read from the archive lake" in caveat for caveat in pin.caveats)
    assert any("retention" in caveat for caveat in pin.caveats)
    assert pin.retention_ms == 1000
    archive(of, slice_rows=10)
    pin = of.pin(Window())
    assert pin.caveats == ("30 of 30 offsets are read from the archive lake, repeatable as long as its files stay",)
    assert pin.retention_ms is None, "nothing of it is read that retention could take"


def test_a_slice_of_the_archive_asks_no_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = stitched(files.place(tmp_path))
    archive(of, slice_rows=10, until=15)
    pin = of.pin(Window())
    reader = of.reader(pin)
    monkeypatch.setattr(kafka_reader, "RangeReader", None)
    first, second, _ = cut(pin, 10)
    with reader.open([first]) as source:
        assert Data("t", {"t": source}).arrow()["n"].to_pylist() == list(range(10))
        assert source.proofs()[0].records == 10
    with reader.open([second]) as source, pytest.raises(TypeError):
        Data("t", {"t": source}).arrow()


def test_what_was_set_aside_stays_counted_when_its_file_is_replaced_and_is_told_part_by_part(tmp_path: Path) -> None:
    Broker.log = [(n, n, b"no" if n in (3, 12, 27) else value) for n, _, value in Broker.log]
    of = stitched(files.place(tmp_path), on_bad_record="set aside")
    for until in (5, 15, 30):
        done = archive(of, slice_rows=20, until=until)
    assert [file.set_aside for file in done.archive.files] == [(3, 12), (27,)]
    assert [one.set_aside for one in done.archive.partitions] == [3]
    Broker.start = 30
    proofs = [proof for _, [proof] in read(of, 6)]
    assert [(proof.set_aside, [bad.split(":")[1] for bad in proof.bad_records]) for proof in proofs] == [
        (1, ["3"]), (0, []), (1, ["12"]), (0, []), (1, ["27"]),
    ]  # fmt: skip
    assert [proof.records for proof in proofs] == [5, 6, 5, 6, 5]


def test_without_declared_columns_those_of_the_archive_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.history.kafka.RangeReader", Broker)
    of = stitched(files.place(tmp_path), None)
    archive(of, slice_rows=10)
    Broker.log += [(n, n, b'{"n": %d, "later": true}' % n) for n in range(30, 40)]
    Broker.start = 30
    pin = of.topic.pin(Window())
    assert schema_from_text(pin.schema).names == ["n", "later"]
    assert {tuple(table.column_names) for table, _ in read(of)} == {("n",)}
    assert of.pin(Window()).schema_from == "the archive"
    archive(of, slice_rows=10)
    assert [row for table, _ in read(of) for row in table["n"].to_pylist()] == list(range(40))


def test_what_was_read_behind_an_archive_can_be_kept(tmp_path: Path) -> None:
    of = stitched(files.place(tmp_path / "lake"), kept=tmp_path / "materialised")
    (tmp_path / "lake").mkdir()
    archive(of, slice_rows=10, until=15)
    expected = read(of)
    Broker.log = [record for record in Broker.log if record[0] not in (3, 17, 25)]  # as compaction does
    found = read(of)
    assert [table for table, _ in found] == [table for table, _ in expected]
    archive(of, slice_rows=10)
    assert [table for table, _ in read(of)] == [table for table, _ in expected], "what is kept is archived"


def test_an_older_pin_without_an_archive_reads_the_topic(tmp_path: Path) -> None:
    of = stitched(files.place(tmp_path))
    pin = of.topic.pin(Window())
    archive(of, slice_rows=10)
    with of.reader(pin).open([KafkaSlice(position=0, partition=0, start=3, end=5, rows=2, bytes=0)]) as source:
        assert Data("t", {"t": source}).arrow()["n"].to_pylist() == [3, 4]


def test_a_log_that_ends_before_its_archive_was_truncated(tmp_path: Path) -> None:
    of = stitched(files.place(tmp_path))
    archive(of, slice_rows=10)
    Broker.log = Broker.log[:25]
    with pytest.raises(DataLost, match=r"ends at 30, beyond the end of the topic at 25: the log was truncated"):
        of.pin(Window())


def test_a_file_that_goes_while_it_is_read_is_read_from_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = stitched(files.place(tmp_path))
    archive(of, slice_rows=20, until=5)
    pin = of.pin(Window())
    real = ParquetSource.dataset

    def replaced_meanwhile(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(ParquetSource, "dataset", real)
        archive(of, slice_rows=20, until=15)
        return real(*arguments, **named)

    monkeypatch.setattr(ParquetSource, "dataset", replaced_meanwhile)
    with of.reader(pin).open([KafkaSlice(position=0, partition=0, start=0, end=5, rows=5, bytes=0)]) as source:
        assert Data("t", {"t": source}).arrow()["n"].to_pylist() == [0, 1, 2, 3, 4]
        assert source.proofs()[0].records == 5
    assert len(files.find(of.archive.place)) == 1


def test_a_lake_that_begins_after_the_topic_hides_nothing(tmp_path: Path) -> None:
    for start in (5, 10, 20):
        pq.write_table(pa.table({"n": list(range(start, 2 * start))}), tmp_path / f"t+0+{start}.parquet")
    of = stitched(files.place(tmp_path))
    connected = dataclasses.replace(of, archive=dataclasses.replace(of.archive, layout="connect"))
    with pytest.raises(DataLost, match=r"begins at 5, and the topic has \[0, 5\) before it"):
        connected.pin(Window())
    Broker.start = 5
    pin = connected.pin(Window())
    assert [(one.start, one.end) for one in pin.partitions] == [(5, 30)]
    assert pin.archive is not None
    assert pin.archive.end(0, 5) == 20


def test_another_topic_id_is_another_topic(tmp_path: Path) -> None:
    of = stitched(files.place(tmp_path))
    archive(of, slice_rows=10)
    Broker.topic_id = "second"
    with pytest.raises(SourceChanged, match="with id second; it is of one with id first"):
        of.pin(Window())


# --- The manifest -----------------------------------------------------------------------------------------------------


def harmed(known: Archive, harm: str) -> Archive:
    first, second, *others = known.files
    match harm:
        case "gap":
            return replace(known, files=(first, *others))
        case "overlap":
            return replace(known, files=(first, replace(second, start=first.start), *others))
        case "short":
            return replace(known, files=(first, second, *others[:-1]))
        case "empty":
            return replace(known, files=(first, replace(second, start=10, end=10), replace(second, start=10), *others))
        case "stray":
            return replace(known, files=(*known.files, replace(first, partition=7)))
    return replace(known, archive=2)


@pytest.mark.parametrize("harm", ["gap", "overlap", "short", "empty", "stray", "newer"])
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, harm: str) -> None:
    of = stitched(files.place(tmp_path))
    archive(of, slice_rows=10)
    known = read_archive(of.archive.place)
    assert known is not None
    write_archive(of.archive.place, harmed(known[0], harm))
    for attempt in (lambda: of.pin(Window()), lambda: archive(of, slice_rows=10)):
        with pytest.raises(CorruptData, match=f"Restore {MANIFEST}"):
            attempt()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"archive": 1}'])
def test_what_is_no_manifest_is_refused_and_never_taken_for_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(CorruptData, match="a document of hindscan is required"):
        read_archive(files.place(tmp_path))


def test_a_plain_folder_s_files_all_count_and_an_archive_s_only_if_all_are_there(tmp_path: Path) -> None:
    lake = files.place(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"x")
    assert [file.path for file in listed_only(lake, files.find(lake))] == ["a.parquet"]
    archive(stitched(lake), slice_rows=10)
    listed = listed_only(lake, files.find(lake))
    assert len(listed) == 3
    assert "a.parquet" not in {file.path for file in listed}
    (tmp_path / listed[0].path).unlink()
    with pytest.raises(SourceChanged, match=listed[0].path):
        listed_only(lake, files.find(lake))
    glob = files.place(f"{tmp_path}/partition-*/{20:020d}-*.parquet")
    assert [file.path for file in listed_only(glob, files.find(glob))] == [listed[2].path]


# --- An object store: no locks, no folders' times ---------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path: Path) -> files.Place:
    """A file system that is not the local one, over a folder: what is written appears at the end of the writing, and nothing is locked."""
    (tmp_path / "lake" / "partition-00000").mkdir(parents=True)
    return files.Place(filesystem=pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), path="lake")


def test_an_archive_on_an_object_store_is_written_and_read_by_the_same_code(bucket: files.Place) -> None:
    of = stitched(bucket)
    expected = read(of.topic)
    archive(of, slice_rows=10, until=15)
    archive(of, slice_rows=10)
    Broker.start = 30
    assert [table for table, _ in read(of)] == [table for table, _ in expected]
    assert len(files.find(bucket)) == 3


def test_without_locks_the_archiver_that_comes_second_to_the_manifest_stops_and_harms_nothing(
    bucket: files.Place,
) -> None:
    of = stitched(bucket)
    archive(of, slice_rows=10, until=15)
    overtaken = False

    def meanwhile(_: object) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            archive(of, slice_rows=10, until=25)

    with pytest.raises(Conflict, match="it has replaced the manifest since this one began"):
        archive(of, slice_rows=10, told=meanwhile)
    known = read_archive(bucket)
    assert known is not None
    assert known[0].partitions[0].end == 25
    assert [row for table, _ in read(of) for row in table["n"].to_pylist()] == list(range(30))


def test_on_an_object_store_leftovers_stay_for_a_day(
    bucket: files.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = stitched(bucket)
    archive(of, slice_rows=10)
    left = tmp_path / "lake" / "partition-00000" / f"{0:020d}-{5:020d}-0123abcd.parquet"
    left.write_bytes(b"x")
    assert archive(of, slice_rows=10).swept == 0
    written = left.stat().st_mtime
    monkeypatch.setattr("hindscan.history.archiving.time.time", lambda: written + SWEEP_SECONDS + 1)
    assert archive(of, slice_rows=10).swept == 1
    assert not left.exists()


# --- Conditions -------------------------------------------------------------------------------------------------------

KINDS = {
    "n": "int64",
    "kind": "string",
    "x": "double",
    "day": "timestamp[us, UTC]",
    "ok": "bool",
    "d": "decimal128(9, 2)",
}
CONDITIONS = [
    "n >= 12 AND n < $end", "n = 99", "kind = $kind", "kind <> 'b' AND day < '1970-01-01T00:00:17Z'", "NOT (n BETWEEN 4 AND 22.5)", "kind IN ('a', 'c') OR n IN (3, 17)",
    "x > 1.5", "x <= 1.5 OR ok", "NOT ok AND kind IS NULL", "day >= TIMESTAMPTZ '1970-01-01 00:00:21'", "d > 1.25", "kind LIKE 'a%'", "n + 1 > 20", "h.n < 6",
    "CASE WHEN n > 5 THEN kind = 'a' ELSE ok END", "$kind IS NULL OR kind = $kind", "year(day) = 1970",
]  # fmt: skip
COLUMNS = ["n", "kind", "x", "day", "ok", "d"]


def of_kinds(chance: random.Random, count: int) -> Log:
    """Make records whose first columns rise, as those of a log do, so that row groups can be told apart; some fields are null."""
    found: Log = []
    for n in range(count):
        fields = {
            "kind": "abc"[n % 27 // 9],
            "x": n / 8 if n % 5 else None,
            "ok": n % 4 == 1,
            "d": f"{n / 8:.2f}",
            "day": f"1970-01-01T00:00:{n:02}Z",
        }
        kept = {name: value for name, value in fields.items() if chance.random() < 0.9}
        found.append((n, 1000 * (n * 7 % count), json.dumps({"n": n, **kept}).encode()))
    return [record for record in found if chance.random() < 0.9]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 99),
    until=st.integers(0, 30),
    condition=st.sampled_from(CONDITIONS),
    picked=st.sets(st.sampled_from(COLUMNS), min_size=1),
    cuts=st.tuples(st.integers(3, 12), st.integers(1, 5)),
)
def test_a_condition_gives_of_an_archive_the_rows_that_it_gives_of_the_topic(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    until: int,
    condition: str,
    picked: set[str],
    cuts: tuple[int, int],
) -> None:
    Broker.start, Broker.log = 0, [*of_kinds(random.Random(seed), 30), (30, 0, b'{"n": 30}')]
    of = stitched(files.place(tmp_path_factory.mktemp("lake")), KINDS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hindscan.history.archiving.ROW_GROUP_ROWS", cuts[1])
        archive(of, slice_rows=cuts[0], until=until)
    whole = dataclasses.replace(of.topic, cuts_by_time=False)
    values = {name: value for name, value in {"end": 20, "kind": "b"}.items() if f"${name}" in condition}
    query = f"SELECT {', '.join(sorted(picked))} FROM h WHERE {condition}"
    tables: list[list[pa.Table]] = []
    for history in (whole, of):
        pin = history.pin(Window(since=2_000_000, until=28_000_000) if seed % 2 else Window())
        with history.reader(pin).open(cut(pin, 11)) as source:
            data = Data("h", {"h": source})
            tables.append([data.sql(query, **values), data.sql(f"{query} AND n > 3", **values), data.arrow(["n"])])
            source.proofs()
    assert tables[0] == tables[1]


def damaged(of: StitchedHistory, column: str, group: int) -> None:
    """Flip a bit in a column of a row group of the first file, and have the manifest name the file as it is now."""
    known = read_archive(of.archive.place)
    assert known is not None
    first = known[0].files[0]
    path = Path(of.archive.place.path) / first.path
    content, metadata = bytearray(path.read_bytes()), pq.read_metadata(path)
    chunk = metadata.row_group(group).column(metadata.schema.names.index(column))
    # Near the end, where surely no page has its header.
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 5] ^= 4
    path.write_bytes(content)
    as_it_is = replace(first, identity=files.look(of.archive.place, first.path).identity)
    write_archive(of.archive.place, replace(known[0], files=(as_it_is, *known[0].files[1:])))


@pytest.mark.parametrize(
    ("column", "query", "is_read"),
    [
        ("kind", "SELECT count(kind) AS c FROM h WHERE n >= 1000", False),
        ("kind", "SELECT count(kind) AS c FROM h WHERE n >= 999", True),
        ("n", "SELECT count(kind) AS c FROM h WHERE n >= 1000", False),
        ("n", "SELECT count(kind) AS c FROM h WHERE n + 1 > 1000", True),
    ],
)
def test_of_row_groups_that_a_condition_excludes_nothing_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, query: str, is_read: bool
) -> None:
    """A damaged page is the witness; a condition that may fail on a value is asked of every row, as of a topic."""
    monkeypatch.setattr("hindscan.history.archiving.ROW_GROUP_ROWS", 1000)
    Broker.log = [(n, n, json.dumps({"n": n, "kind": f"{n}" * 4}).encode()) for n in range(3000)]
    of = stitched(files.place(tmp_path), {"n": "int64", "kind": "string"})
    archive(of, slice_rows=3000)
    damaged(of, column, 0)
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 3000)) as source:
        data = Data("h", {"h": source})
        if is_read:
            with pytest.raises(CorruptData, match="whole pages with right checksums are required"):
                data.sql(query)
        else:
            assert data.sql(query)["c"].to_pylist() == [2000]


def test_a_condition_that_fails_on_a_value_fails_of_the_archive_as_of_the_topic(tmp_path: Path) -> None:
    Broker.log = [(n, n, json.dumps({"n": n, "kind": "x" if n == 3 else "7"}).encode()) for n in range(30)]
    of = stitched(files.place(tmp_path), {"n": "int64", "kind": "string"})
    archive(of, slice_rows=30)
    for history in (of.topic, of):
        pin = history.pin(Window())
        with history.reader(pin).open(cut(pin, 30)) as source, pytest.raises(duckdb.ConversionException):
            Data("h", {"h": source}).sql("SELECT n FROM h WHERE n > 2 AND CAST(kind AS INTEGER) = 7")
        with history.reader(pin).open(cut(pin, 30)) as source:
            found = Data("h", {"h": source}).sql("SELECT n FROM h WHERE n > 20 AND CAST(kind AS INTEGER) = 7")
        assert found["n"].to_pylist() == list(range(21, 30)), "the statement does not ask it of the others"
