"""What a topic's source makes of batches, with the broker's client replaced at its edge."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hindscan.history.kafka_reader as module
from hindscan.data import Data
from hindscan.errors import BadRecord, SourceChanged
from hindscan.history.columns import schema_from_columns
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.snapshot import KafkaSlice
from hindscan.kafka_log import RawBatch

Log = list[tuple[int, int, bytes | None]]


class Client:
    """Stands for the connection: gives the log's records in batches of given sizes."""

    log: Log = []  # noqa: RUF012
    sizes: Sequence[int] = (3,)
    ranges: list[tuple[int, int, int]] = []  # noqa: RUF012

    def __init__(self, *_: object) -> None:
        self.checks = 0

    def check(self) -> None:
        self.checks += 1

    def close(self) -> None:
        pass

    def read(self, partition: int, start: int, end: int, parts: Collection[str] = ()) -> Iterator[RawBatch]:
        self.ranges.append((partition, start, end))
        inside = [record for record in self.log if start <= record[0] < end]
        turn = 0
        while inside:
            size = self.sizes[turn % len(self.sizes)]
            taken, inside, turn = inside[:size], inside[size:], turn + 1
            yield RawBatch.of(taken)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(module, "RangeReader", Client)
    Client.ranges = []
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


@settings(max_examples=60, deadline=None)
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
