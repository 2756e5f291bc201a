"""What every `Source` does alike, whatever lies behind it: the contract of `hindscan.data.Source` and `snapshot.Reader`.

The same rows lie in memory, in Parquet files, in a topic and partly in its archive; a source of each is put through one suite.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan.data import Data, Proof, Source, TableSource
from hindscan.history.archiving import archive
from hindscan.history.columns import schema_from_text
from hindscan.history.declared import history_from_toml
from hindscan.history.snapshot import History, Pin, Slice, Window
from hindscan.history.stitched import StitchedHistory
from hindscan.plans.cut import cut, cut_whole

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster

SECOND = 1_000_000
ROWS = 300
COLUMNS = {"n": "int64", "who": "string", "at": "timestamp[us, UTC]", "tags": "list<string>"}


def row(n: int) -> dict[str, Any]:
    return {"n": n, "who": None if n % 7 == 0 else f"w{n % 5}", "at": (n * 37 % ROWS) * SECOND, "tags": ["x"] * (n % 3)}


TABLE = pa.table(
    {
        "n": pa.array([row(n)["n"] for n in range(ROWS)], pa.int64()),
        "who": pa.array([row(n)["who"] for n in range(ROWS)], pa.string()),
        "at": pa.array([row(n)["at"] for n in range(ROWS)], pa.timestamp("us", "UTC")),
        "tags": pa.array([row(n)["tags"] for n in range(ROWS)], pa.list_(pa.field("element", pa.string()))),
    }
)

MakeHistory = Callable[[], History]


def parquet(folder: Path) -> History:
    for part, first in enumerate(range(0, ROWS, 100)):
        pq.write_table(TABLE.slice(first, 100), folder / f"{part}.parquet", row_group_size=30, write_page_checksum=True)
    table = {"parquet": str(folder), "time": "at", "columns": COLUMNS}
    return history_from_toml("h", table, clusters={}, root=folder)


def topic(cluster: KafkaCluster, name: str, folder: Path, **settings: Any) -> History:
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap})
    for n in range(ROWS):
        value = {**row(n), "at": f"1970-01-01T00:{row(n)['at'] // SECOND // 60:02}:{row(n)['at'] // SECOND % 60:02}Z"}
        producer.produce(name, json.dumps(value).encode(), partition=n * 3 // ROWS, timestamp=1000)
    assert producer.flush(30) == 0
    table = {"topic": name, "time": "at", "columns": COLUMNS, **settings}
    return history_from_toml("h", table, clusters={"default": {"bootstrap.servers": cluster.bootstrap}}, root=folder)


def stitched(cluster: KafkaCluster, name: str, folder: Path) -> History:
    """Archive one partition whole, one up to the middle of a slice, one not at all."""
    made = topic(cluster, name, folder, archive="lake")
    assert isinstance(made, StitchedHistory)
    archive(made, slice_rows=60, until={0: 100, 1: 37})
    return made


def connected(cluster: KafkaCluster, name: str, folder: Path) -> History:
    """Lay out two partitions as Kafka Connect would; the last file of each counts for nothing."""
    for partition, start, end in [(0, 0, 40), (0, 40, 41), (0, 41, 100), (1, 0, 37), (1, 37, 50)]:
        place = folder / "lake" / f"day={start % 7}" / f"{name}+{partition}+{start:010d}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(TABLE.slice(100 * partition + start, end - start), place)
    return topic(cluster, name, folder, archive={"path": "lake", "layout": "connect"})


_KINDS = {"topic": topic, "stitched": stitched, "connected": connected}


@pytest.fixture(params=["parquet", *(pytest.param(kind, marks=pytest.mark.kafka) for kind in _KINDS)])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    if request.param == "parquet":
        return parquet(tmp_path)
    name = request.getfixturevalue("topic")("sources", partitions=3)
    return _KINDS[request.param](request.getfixturevalue("kafka_cluster"), name, tmp_path)


def travelled(history: History, pin: Pin) -> tuple[Any, Pin]:
    """Send reader and pin where a worker would get them."""
    again: Pin = msgspec.json.decode(msgspec.json.encode(pin), type=Pin)
    assert again == pin
    return pickle.loads(pickle.dumps(history.reader(again))), again


def rows_and_proofs(history: History, window: Window, slice_rows: int) -> tuple[list[dict[str, Any]], list[Proof]]:
    pin = history.pin(window)
    reader, pin = travelled(history, pin)
    rows: list[dict[str, Any]] = []
    proofs: list[Proof] = []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            rows += Data("t", {"t": source}).arrow().to_pylist()
            proofs += source.proofs()
    return rows, proofs


def expected(window: Window) -> list[dict[str, Any]]:
    micros = TABLE["at"].cast(pa.int64()).to_pylist()
    ends = [end for end in (window.until, window.as_of) if end is not None]
    return [
        r
        for r, at in zip(TABLE.to_pylist(), micros, strict=True)
        if (window.since is None or at >= window.since) and all(at < end for end in ends)
    ]


WINDOWS = [
    Window(),
    Window(as_of=100 * SECOND),
    Window(as_of=100 * SECOND + 1),
    Window(since=50 * SECOND, until=51 * SECOND),
    Window(since=-5, until=10_000 * SECOND),
    Window(until=0),
    Window(since=200 * SECOND, as_of=250 * SECOND, until=260 * SECOND),
]


def test_every_cut_and_window_gives_the_rows_inside_in_order(history: History) -> None:
    for window, slice_rows in itertools.product(WINDOWS, (10_000, 90, 17)):
        rows, proofs = rows_and_proofs(history, window, slice_rows)
        assert rows == expected(window), (window, slice_rows)
        assert [proof.slice for proof in proofs] == list(range(len(proofs)))
        if window == Window():
            assert sum(proof.records for proof in proofs) == ROWS


def test_all_slices_at_once_are_one_table_in_the_order_of_the_slices(history: History) -> None:
    for window in WINDOWS:
        pin = history.pin(window)
        with history.reader(pin).open(cut_whole(pin)) as source:
            assert Data("t", {"t": source}).arrow().to_pylist() == expected(window)


def test_the_schema_is_known_before_anything_is_read_and_is_what_the_rows_have(history: History) -> None:
    pin = history.pin(Window())
    reader = history.reader(pin)
    for pieces in ([], list(cut_whole(pin))):
        with reader.open(pieces) as source:
            assert source.schema == schema_from_text(pin.schema) == TABLE.schema
            data = Data("t", {"t": source})
            assert data.arrow().schema == TABLE.schema
            assert data.arrow(["tags", "n"]).schema.names == ["tags", "n"]
            assert data.sql('SELECT who, "at" FROM t').schema.types == [pa.string(), pa.timestamp("us", "UTC")]


def test_a_bound_holds_for_queries_that_do_not_look_at_the_time(history: History) -> None:
    window = Window(as_of=100 * SECOND)
    pin = history.pin(window)
    with history.reader(pin).open(cut_whole(pin)) as source:
        data = Data("t", {"t": source})
        assert data.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 100}]
        assert data.sql("SELECT sum(n)::BIGINT AS s FROM t WHERE n > 10").to_pylist() == [
            {"s": sum(r["n"] for r in expected(window) if r["n"] > 10)}
        ]
        assert data.arrow(["who"])["who"].to_pylist() == [r["who"] for r in expected(window)]
        assert sum(batch.num_rows for batch in data.batches(["n"], rows=7)) == 100


def test_proofs_are_the_same_for_every_reading_and_differ_from_slice_to_slice(history: History) -> None:
    _, first = rows_and_proofs(history, Window(), 50)
    _, second = rows_and_proofs(history, Window(), 50)
    assert first == second
    assert len({proof.digest for proof in first}) == len(first) > 3
    assert all(proof.bytes > 0 for proof in first)


def test_a_proof_knows_the_greatest_time_whatever_columns_were_read(history: History) -> None:
    pin = history.pin(Window())
    pieces = cut(pin, 10_000)
    for piece in pieces:
        with history.reader(pin).open([piece]) as source:
            at = Data("t", {"t": source}).arrow(["at"])["at"].cast(pa.int64()).to_pylist()
        with history.reader(pin).open([piece]) as source:
            Data("t", {"t": source}).sql("SELECT sum(n) FROM t")
            assert source.proofs()[0].greatest_time == max(at)


def test_the_readers_identity_is_plain_data_that_holds_no_place(history: History, tmp_path: Path) -> None:
    identity = history.reader(history.pin(Window())).identity()
    text = json.dumps(identity, sort_keys=True)
    assert str(tmp_path) not in text
    assert "127.0.0.1" not in text
    assert json.loads(text) == identity


def test_closing_twice_is_harmless(history: History) -> None:
    pin = history.pin(Window())
    source = history.reader(pin).open(cut_whole(pin))
    Data("t", {"t": source}).arrow(["n"])
    source.close()
    source.close()


def test_a_table_in_memory_is_a_source_like_any_other() -> None:
    source: Source = TableSource(TABLE)
    assert source.schema == TABLE.schema
    assert Data("t", {"t": source}).arrow(["n"])["n"].to_pylist() == list(range(ROWS))
    assert [proof.records for proof in source.proofs()] == [ROWS]
    source.diagnose()
    source.close()


def test_slices_are_values(history: History) -> None:
    pieces = cut(history.pin(Window()), 50)
    assert msgspec.json.decode(msgspec.json.encode(list(pieces)), type=list[Slice]) == list(pieces)
