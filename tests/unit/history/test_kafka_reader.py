"""What a topic's source makes of batches, with the broker's client replaced at its edge."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hindscan.history.kafka_reader as module
import hindscan.history.materialised as module_kept
from hindscan.data import Data
from hindscan.errors import BadRecord, CorruptData, OutOfOrder, SourceChanged
from hindscan.history.columns import schema_from_columns
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.snapshot import KafkaSlice
from hindscan.kafka.fetch import RawBatch
from hindscan.kafka.topic import TopicDescription

Log = list[tuple[int, int, bytes | None]]


class Client:
    """Stands for the connection: gives the log's records in batches of given sizes."""

    log: Log = []  # noqa: RUF012
    #: Key by offset.
    keys: dict[int, bytes] = {}  # noqa: RUF012
    sizes: Sequence[int] = (3,)
    ranges: list[tuple[int, int, int]] = []  # noqa: RUF012

    def __init__(self, *_: object, **__: object) -> None:
        self.checks = 0

    def check(self) -> TopicDescription:
        self.checks += 1
        return TopicDescription(topic="t", topic_id="id", cluster_id="", partitions=(0, 1))

    def close(self) -> None:
        pass

    def read(self, partition: int, start: int, end: int, parts: Collection[str] = ()) -> Iterator[RawBatch]:
        self.ranges.append((partition, start, end))
        inside = [record for record in self.log if start <= record[0] < end]
        turn = 0
        while inside:
            size = self.sizes[turn % len(self.sizes)]
            taken, inside, turn = inside[:size], inside[size:], turn + 1
            batch = RawBatch.of(taken)
            names = pa.array([self.keys.get(offset) for offset, _, _ in taken], pa.large_binary())
            yield dataclasses.replace(batch, keys=names) if "keys" in parts else batch


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(module, "RangeReader", Client)
    Client.ranges = []
    Client.keys = {}
    Client.sizes = (3,)
    return Client


def reader(columns: dict[str, str], **options: Any) -> KafkaReader:
    given_: dict[str, Any] = {
        "format": "json",
        "time": None,
        "on_bad_record": "fail",
        "isolation": "read_committed",
        **options,
    }
    return KafkaReader(config={}, topic="t", topic_id="id", schema=schema_from_columns(columns), **given_)


def piece(start: int, end: int, **options: Any) -> KafkaSlice:
    return KafkaSlice(position=0, partition=0, start=start, end=end, rows=end - start, bytes=0, **options)


def record(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@settings(max_examples=60)
@given(
    holes=st.lists(st.integers(1, 3), min_size=1, max_size=15),
    nulls=st.sets(st.integers(0, 14)),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_batches_leave_no_trace_in_rows_or_proof(holes: list[int], nulls: set[int], sizes: list[int]) -> None:
    offsets = [sum(holes[: n + 1]) for n in range(len(holes))]
    Client.log = [(o, o * 10, None if n in nulls else record(n=n)) for n, o in enumerate(offsets)]
    end = offsets[-1] + 2

    def run(batches: Sequence[int]) -> tuple[Any, Any]:
        Client.sizes = batches
        with reader({"n": "int64"}).open([piece(0, end)]) as source:
            rows = Data("t", {"t": source}).arrow()["n"].to_pylist()
            return rows, source.proofs()

    one, other = run([1]), run(sizes)
    assert one == other
    rows, [proof] = other
    assert rows == [n for n in range(len(holes)) if n not in nulls]
    assert (proof.first_offset, proof.last_offset) == (offsets[0], offsets[-1])
    assert proof.records + proof.tombstones + proof.invisible == end
    assert proof.greatest_time == max((o * 10_000 for n, o in enumerate(offsets) if n not in nulls), default=None)


def digest(log: Log) -> str:
    Client.log = log
    with reader({"n": "int64"}, on_bad_record="set aside").open([piece(0, 100)]) as source:
        Data("t", {"t": source}).arrow()
        return source.proofs()[0].digest


def test_the_digest_tells_every_difference() -> None:
    base: Log = [(1, 10, b'{"n": 1}'), (2, 20, b'{"n": 2}')]
    others: list[Log] = [
        [(1, 10, b'{"n": 1}'), (3, 20, b'{"n": 2}')],
        [(1, 10, b'{"n": 1}'), (2, 21, b'{"n": 2}')],
        [(1, 10, b'{"n": 1}'), (2, 20, b'{"n": 3}')],
        [(1, 10, b'{"n": 1}'), (2, 20, None)],
        [(1, 10, b'{"n": 1}'), (2, 20, b"")],
        [(1, 10, b'{"n": 1}{'), (2, 20, b'"n": 2}')],
        [(1, 10, b'{"n": 1}')],
        [],
    ]
    assert len({digest(log) for log in [base, *others]}) == 9
    assert digest(base) == digest(list(base))


def test_a_bad_record_is_named_by_its_offset_and_field_even_after_holes_and_tombstones() -> None:
    Client.log = [(5, 1, record(n=1)), (9, 1, None), (40, 1, record(n="x")), (41, 1, record(n="y"))]
    with (
        reader({"n": "int64"}).open([piece(0, 50)]) as source,
        pytest.raises(BadRecord, match=r"t\[0\] at offset 40.*n: ") as refused,
    ):
        source.dataset()
    assert refused.value.details == {"topic": "t", "partition": 0, "offset": 40, "field": "n"}
    with reader({"n": "int64"}, on_bad_record="set aside").open([piece(0, 50)]) as source:
        assert Data("t", {"t": source}).arrow()["n"].to_pylist() == [1]
        [proof] = source.proofs()
    assert (proof.set_aside, proof.records, proof.tombstones) == (2, 1, 1)
    assert [bad.split(":")[1] for bad in proof.bad_records] == ["40", "41"]


def test_a_hundred_bad_records_are_named_and_all_are_counted() -> None:
    Client.log = [(n, 1, b"bad") for n in range(250)]
    with reader({"n": "int64"}, on_bad_record="set aside").open([piece(0, 250)]) as source:
        assert Data("t", {"t": source}).arrow().num_rows == 0
        [proof] = source.proofs()
    assert (proof.set_aside, len(proof.bad_records)) == (250, 100)


def test_which_records_are_set_aside_does_not_depend_on_the_columns_of_a_query() -> None:
    Client.log = [(0, 1, record(a=1, b=1)), (1, 1, record(a=2, b="bad"))]
    with reader({"a": "int64", "b": "int64"}, on_bad_record="set aside").open([piece(0, 2)]) as source:
        data = Data("t", {"t": source})
        assert data.sql("SELECT a FROM t")["a"].to_pylist() == [1]
        assert data.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1}]


def test_columns_are_decoded_once_and_those_asked_for_later_are_read_again() -> None:
    Client.log = [(n, n, record(a=n, b=str(n), c=n / 2)) for n in range(10)]
    with reader({"a": "int64", "b": "string", "c": "double"}).open([piece(0, 10)]) as source:
        data = Data("t", {"t": source})
        data.sql("SELECT a FROM t")
        data.sql("SELECT sum(a) FROM t")
        assert len(Client.ranges) == 1
        assert data.arrow(["b", "a"]).to_pylist() == [{"b": str(n), "a": n} for n in range(10)]
        assert len(Client.ranges) == 2
        Client.log[3] = (3, 3, record(a=3, b="3", c=99))
        with pytest.raises(SourceChanged, match="again"):
            data.arrow()


def test_bounds_go_by_the_time_column_or_else_by_the_records_own_time() -> None:
    Client.log = [(n, 100 - n, record(n=n, at=f"1970-01-01T00:00:00.0000{n:02}Z")) for n in range(50)]
    columns = {"n": "int64", "at": "timestamp[us, UTC]"}
    with reader(columns, time="at").open([piece(0, 50, since=10, before=20)]) as source:
        assert Data("t", {"t": source}).arrow(["n"])["n"].to_pylist() == list(range(10, 20))
        assert source.proofs()[0].greatest_time == 49
        assert source.proofs()[0].records == 50
    with reader(columns).open([piece(0, 50, since=60_000, before=70_000)]) as source:
        assert Data("t", {"t": source}).arrow(["n"])["n"].to_pylist() == list(range(31, 41))
        assert source.proofs()[0].greatest_time == 100_000


def test_a_slice_that_nothing_asked_for_is_not_read_and_its_proof_says_so() -> None:
    Client.log = [(0, 1, record(n=1))]
    with reader({"n": "int64"}).open([piece(0, 1)]) as source:
        [proof] = source.proofs()
    assert (proof.records, proof.digest, proof.first_offset, Client.ranges) == (0, "", None, [])


def test_settings_of_the_cluster_are_in_no_text() -> None:
    made = KafkaReader(
        config={"sasl.password": "hush"},
        topic="t",
        topic_id="id",
        isolation="read_committed",
        format="json",
        schema=pa.schema([("n", pa.int64())]),
        time=None,
        on_bad_record="fail",
    )
    assert "hush" not in repr(made) + str(made.identity())


# --- Conditions ---------------------------------------------------------------------------------------------------------


def test_a_condition_spares_the_fields_of_records_that_do_not_pass() -> None:
    Client.log = [(n, n, record(n=n, kind="odd" if n % 2 else "even", price=n if n % 2 else "free")) for n in range(9)]
    columns = {"n": "int64", "kind": "string", "price": "int64"}
    query = "SELECT n, price FROM t WHERE kind = $kind"
    with reader(columns).open([piece(0, 100)]) as source:
        found = Data("t", {"t": source}).sql(query, kind="odd")
        assert found.to_pylist() == [{"n": n, "price": n} for n in range(1, 9, 2)]
        [proof] = source.proofs()
        assert proof.records == 9, "what was read and judged, not what passed"
    with reader(columns).open([piece(0, 100)]) as source, pytest.raises(BadRecord, match=r"offset 0.*price"):
        Data("t", {"t": source}).sql(query, kind="even")


@pytest.mark.parametrize("bad", [b'{"n": 2, "kind": "odd"', b'{"n": 2, "kind": 5}', b"[]"])
def test_a_malformed_record_or_a_bad_field_of_the_condition_is_found_wherever_it_is(bad: bytes) -> None:
    Client.log = [(0, 0, record(n=0, kind="even")), (1, 1, record(n=1, kind="odd")), (2, 2, bad)]
    with (
        reader({"n": "int64", "kind": "string"}).open([piece(0, 100)]) as source,
        pytest.raises(BadRecord, match="offset 2"),
    ):
        Data("t", {"t": source}).sql("SELECT n FROM t WHERE kind = 'even'")


def test_which_records_are_set_aside_does_not_depend_on_a_condition() -> None:
    Client.log = [(n, n, record(n=n, kind="odd" if n % 2 else "even", price=n if n != 4 else "free")) for n in range(9)]
    columns = {"n": "int64", "kind": "string", "price": "int64"}
    proofs = []
    for query in ("SELECT count(*) FROM t WHERE kind = 'odd'", "SELECT price FROM t"):
        with reader(columns, on_bad_record="set aside").open([piece(0, 100)]) as source:
            Data("t", {"t": source}).sql(query)
            proofs += source.proofs()
    assert proofs[0] == proofs[1]
    assert proofs[0].set_aside == 1


def test_two_conditions_and_none_read_the_range_thrice_at_most_and_each_gets_its_rows() -> None:
    Client.log = [(n, n, record(n=n, kind="odd" if n % 2 else "even")) for n in range(9)]
    with reader({"n": "int64", "kind": "string"}).open([piece(0, 100)]) as source:
        data = Data("t", {"t": source})
        for _ in range(2):
            assert data.sql("SELECT count(*) AS c FROM t WHERE kind = 'odd'").to_pylist() == [{"c": 4}]
            assert data.sql("SELECT count(*) AS c FROM t WHERE kind = 'even'").to_pylist() == [{"c": 5}]
            assert data.sql("SELECT count(*) AS c FROM t").to_pylist() == [{"c": 9}]
            assert data.sql("SELECT sum(n)::BIGINT AS s FROM t WHERE kind = 'odd'").to_pylist() == [{"s": 16}]
        assert len(Client.ranges) <= 3


@settings(max_examples=40)
@given(
    least=st.integers(0, 12),
    since=st.none() | st.integers(0, 12),
    before=st.none() | st.integers(0, 12),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_a_condition_and_the_bounds_of_the_slice_hold_together(
    least: int, since: int | None, before: int | None, sizes: list[int]
) -> None:
    Client.log = [(n, 1000 * (n * 7 % 12), record(n=n, price=n * 5 % 12)) for n in range(12)]
    Client.sizes = sizes
    bounds = {
        "since": None if since is None else since * 1_000_000,
        "before": None if before is None else before * 1_000_000,
    }
    with reader({"n": "int64", "price": "int64"}).open([piece(0, 100, **bounds)]) as source:
        found = Data("t", {"t": source}).sql("SELECT n FROM t WHERE price >= $least", least=least)
        [proof] = source.proofs()
    assert found["n"].to_pylist() == [
        n
        for n in range(12)
        if n * 5 % 12 >= least and (since is None or n * 7 % 12 >= since) and (before is None or n * 7 % 12 < before)
    ]
    assert (proof.records, proof.greatest_time) == (12, 11_000_000)


# --- Keys, order and what is kept -------------------------------------------------------------------------------------


def test_a_row_that_the_statement_does_not_ask_fails_no_condition(client: type[Client]) -> None:
    client.log = [(n, n * 1000, json.dumps({"n": text}).encode()) for n, text in enumerate(["1", "x", "2"])]
    query = "SELECT n FROM t WHERE CAST(n AS BIGINT) > 0"
    with reader({"n": "string"}).open([piece(0, 3, since=2_000_000)]) as source:
        assert Data("t", {"t": source}).sql(query)["n"].to_pylist() == ["2"]
    with reader({"n": "string"}).open([piece(0, 3)]) as source, pytest.raises(duckdb.ConversionException):
        Data("t", {"t": source}).sql(query)
    guarded = "SELECT n FROM t WHERE n <> 'x' AND CAST(n AS BIGINT) > 0"
    with reader({"n": "string"}).open([piece(0, 3)]) as source:
        assert Data("t", {"t": source}).sql(guarded)["n"].to_pylist() == ["1", "2"]


def test_only_records_with_the_keys_are_decoded_and_the_proof_is_of_all(client: type[Client]) -> None:
    client.log = [(0, 5, b'{"n": 0}'), (1, 6, b"no JSON"), (2, 7, None), (3, 8, b'{"n": 3}'), (4, 9, b'{"n": 4}')]
    client.keys = {0: b"a", 1: b"b", 2: b"a", 3: b"\xff", 4: b""}

    def read(*keys: bytes) -> tuple[list[int], str]:
        with reader({"n": "int64"}, keys=keys).open([piece(0, 5)]) as source:
            found = Data("t", {"t": source}).arrow()["n"].to_pylist()
            (proof,) = source.proofs()
        assert (proof.records, proof.invisible, proof.tombstones) == (len(found), 0, 1)
        assert proof.greatest_time is None, "of some keys it says nothing about all"
        return found, proof.digest

    assert read(b"a")[0] == [0]
    assert read(b"\xff", b"")[0] == [3, 4]
    assert read(b"a")[1] == read(b"")[1]
    before = read(b"a")[1]
    client.keys[3] = b"a"
    assert read(b"a")[0] == [0, 3]
    assert read(b"a")[1] != before, "a key is part of what a keyed reading has read"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
@settings(max_examples=40)
def test_a_proof_tells_how_far_times_are_out_of_order(times: list[tuple[int, int]], sizes: list[int]) -> None:
    Client.log = [
        (offset, record, json.dumps({"at": f"1970-01-01T00:00:00.{event:03}Z"}).encode())
        for offset, (record, event) in enumerate(times)
    ]
    Client.sizes = sizes
    with reader({"at": "timestamp[us, UTC]"}, time="at").open([piece(0, len(times))]) as source:
        Data("t", {"t": source}).arrow()
        (proof,) = source.proofs()
    late = max(max(record for record, _ in times[: i + 1]) - event for i, (_, event) in enumerate(times))
    early = max(event - record for record, event in times)
    assert proof.disorder == max(0, late, early) * 1000
    assert proof.least_time == min(event for _, event in times) * 1000
    assert proof.latest_record_time == max(record for record, _ in times) * 1000


def test_a_record_beyond_the_lateness_fails_where_it_is_read(client: type[Client]) -> None:
    client.log = [(0, 100, b'{"n": 0}'), (1, 80, b'{"n": 1}')]
    for lateness, fails in ((20_000, False), (19_999, True), (None, False)):
        with reader({"n": "int64"}, lateness=lateness).open([piece(0, 2)]) as source:
            Data("t", {"t": source}).arrow()
            if fails:
                with pytest.raises(OutOfOrder, match="20ms out of order"):
                    source.proofs()
            else:
                assert source.proofs()[0].disorder == 20_000


def test_what_is_kept_is_read_again_whatever_the_topic_has_by_then(client: type[Client], tmp_path: Path) -> None:
    client.log = [(n, n, b'{"n": %d}' % n) for n in range(10)]
    client.keys = {3: b"k"}

    def read(start: int, end: int, **options: Any) -> list[int]:
        with reader({"n": "int64"}, kept=tmp_path, **options).open([piece(start, end)]) as source:
            return Data("t", {"t": source}).arrow()["n"].to_pylist()

    assert read(0, 10) == list(range(10))
    client.log, asked = client.log[5:], len(client.ranges)
    assert read(0, 10) == list(range(10))
    assert read(2, 4) == [2, 3], "a piece of it comes from it too"
    assert read(0, 10, keys=(b"k",)) == [3]
    assert len(client.ranges) == asked
    assert read(0, 11) == list(range(5, 10)), "what was not kept is what the topic has"
    (file,) = tmp_path.rglob("0-10.*.records")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptData, match=r"0-10\.read_committed\.records must have its checksum"):
        read(0, 10)


def test_of_two_workers_that_keep_one_slice_the_first_counts_for_both(client: type[Client], tmp_path: Path) -> None:
    client.log = [(0, 0, b'{"n": 0}'), (1, 1, b'{"n": 1}')]
    whole = read_kept_rows(tmp_path)
    path = next(tmp_path.rglob("*.records"))
    first = path.read_bytes()
    client.log = client.log[1:]
    module_kept._keep(path, module_kept._SCHEMA.empty_table())
    assert path.read_bytes() == first
    assert read_kept_rows(tmp_path) == whole == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no attempt is left behind"


def test_reading_marks_a_file_as_used_and_a_file_that_goes_meanwhile_is_read_from_the_topic(
    client: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.log = [(0, 0, b'{"n": 0}'), (1, 1, b'{"n": 1}')]
    read_kept_rows(tmp_path)
    path = next(tmp_path.rglob("*.records"))
    os.utime(path, (5, 5))
    read_kept_rows(tmp_path)
    assert time.time() - path.stat().st_mtime < 3_600
    assert module_kept.size_of(tmp_path) == (1, path.stat().st_size)
    found = module_kept.Kept.find

    def swept_meanwhile(kept: module_kept.Kept) -> Path | None:
        there = found(kept)
        module_kept.sweep(tmp_path, time.time() + 60, [])
        return there

    monkeypatch.setattr(module_kept.Kept, "find", swept_meanwhile)
    client.log = client.log[1:]
    assert read_kept_rows(tmp_path) == [1]


def read_kept_rows(folder: Path) -> list[int]:
    with reader({"n": "int64"}, kept=folder).open([piece(0, 2)]) as source:
        return Data("t", {"t": source}).arrow()["n"].to_pylist()
