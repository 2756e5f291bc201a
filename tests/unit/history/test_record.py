"""Columns of the records themselves: what they hold, what they cost, and what of them a read's digest covers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hindscan.history.kafka_reader as module
from hindscan.data import Data, Proof
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.record import RECORD, parts_of, record_fields
from hindscan.history.snapshot import KafkaSlice
from hindscan.kafka.fetch import HEADERS, RawBatch
from hindscan.kafka.topic import TopicDescription

Headers = list[tuple[str, bytes | None]] | None
Record = tuple[bytes | None, bytes | None, Headers]  # value, key, headers
EVERYTHING = tuple(RECORD)


class Client:
    """Stands for the connection: gives records 10, 11, ... in batches of given sizes, with the parts asked for."""

    log: Sequence[Record] = ()
    sizes: Sequence[int] = (3,)
    asked: list[Collection[str]] = []  # noqa: RUF012

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def check(self) -> TopicDescription:
        return TopicDescription(topic="t", topic_id="id", cluster_id="", partitions=(0,))

    def close(self) -> None:
        pass

    def read(self, partition: int, start: int, end: int, parts: Collection[str]) -> Iterator[RawBatch]:
        self.asked.append(parts)
        at, turn = 0, 0
        while at < len(self.log):
            part = self.log[at : at + self.sizes[turn % len(self.sizes)]]
            keys: Any = pa.array([key for _, key, _ in part], pa.large_binary())
            headers: Any = pa.array([pairs for _, _, pairs in part], HEADERS)
            yield RawBatch(
                offsets=np.arange(10 + at, 10 + at + len(part)),
                times=np.array([-1 if at + n == 0 else at + n for n in range(len(part))], np.int64),
                values=pa.array([value for value, _, _ in part], pa.large_binary()),
                keys=keys if "keys" in parts else None,
                headers=headers if "headers" in parts else None,
            )
            at, turn = at + len(part), turn + 1


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RangeReader", Client)
    Client.asked = []


def read(
    log: Sequence[Record], record: tuple[str, ...], sizes: Sequence[int] = (3,), columns: list[str] | None = None
) -> tuple[list[dict[str, Any]], Proof]:
    Client.log, Client.sizes = log, sizes
    reader = KafkaReader(
        config={},
        topic="t",
        topic_id="id",
        isolation="read_committed",
        format="bytes",
        schema=pa.schema([pa.field("value", pa.string()), *record_fields(record)]),
        time=None,
        on_bad_record="fail" if columns else "set aside",
        record=record,
    )
    piece = KafkaSlice(position=0, partition=5, start=10, end=99, rows=1, bytes=1)
    with reader.open([piece]) as source:
        return Data("t", {"t": source}).arrow(columns).to_pylist(), source.proofs()[0]


pairs = st.tuples(st.text(max_size=2), st.none() | st.binary(max_size=2))
records = st.tuples(
    st.none() | st.binary(max_size=2),
    st.none() | st.binary(max_size=2),
    st.none() | st.lists(pairs, min_size=1, max_size=3),
)


def is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.lists(records, min_size=1, max_size=8), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_batches_tombstones_and_bad_records_leave_the_rest_in_place(log: list[Record], sizes: list[int]) -> None:
    rows, proof = read(log, EVERYTHING, sizes)
    assert rows == [
        {
            "value": value.decode(),
            "_key": key,
            "_headers": None if headers is None else [{"key": name, "value": content} for name, content in headers],
            "_timestamp": None if at == 0 else row["_timestamp"],
            "_offset": 10 + at,
            "_partition": 5,
        }
        for row, (at, (value, key, headers)) in zip(
            rows, ((at, each) for at, each in enumerate(log) if each[0] is not None and is_text(each[0])), strict=True
        )
        if value is not None
    ]
    assert [row["_timestamp"].timestamp() for row in rows if row["_timestamp"]] == [
        (row["_offset"] - 10) / 1000 for row in rows if row["_offset"] > 10
    ]
    assert (rows, proof) == read(log, EVERYTHING, [1])


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ((), set()),
        (("offset", "partition", "timestamp"), set()),
        (("key",), {"keys"}),
        (("headers", "offset"), {"headers"}),
        (EVERYTHING, {"keys", "headers"}),
    ],
)
def test_only_what_is_declared_is_taken_from_the_client(record: tuple[str, ...], parts: set[str]) -> None:
    read([(b"a", b"k", None)], record)
    assert [set(asked) for asked in Client.asked] == [parts] == [parts_of(record, headers=False)]


LOG: list[Record] = [(b"a", b"k", [("x", b"1"), ("y", None)]), (b"b", None, None)]


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ([(b"a", b"K", LOG[0][2]), LOG[1]], "key"),
        ([(b"a", b"k", LOG[0][2]), (b"b", b"", None)], "key"),
        ([(b"a", b"k", [("x", b"1"), ("y", b"")]), LOG[1]], "headers"),
        ([(b"a", b"k", [("x", b"1"), ("z", None)]), LOG[1]], "headers"),
        ([(b"a", b"k", [("x", b"1")]), (b"b", None, [("y", None)])], "headers"),
        ([(b"a", b"k", [("y", None), ("x", b"1")]), LOG[1]], "headers"),
    ],
)
def test_a_digest_covers_keys_and_headers_where_they_are_declared(other: list[Record], covered: str) -> None:
    for record in ((), ("offset",), ("key",), ("headers",), EVERYTHING):
        same = read(LOG, record)[1].digest == read(other, record)[1].digest
        assert same == (covered not in record), record


def test_values_are_not_looked_at_where_none_is_asked_for() -> None:
    rows, _ = read([(b"\xff", b"k", None), (None, b"gone", None)], ("key",), columns=["_key"])
    assert rows == [{"_key": b"k"}]
