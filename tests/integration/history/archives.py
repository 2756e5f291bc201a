"""What the tests of archives share: a topic with everything in it, its histories, and what a worker would read of them."""

from __future__ import annotations

import json
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka
import msgspec
import pyarrow as pa

from hindscan.data import Data, Proof
from hindscan.history.declared import history_from_toml
from hindscan.history.kafka import KafkaHistory
from hindscan.history.snapshot import KafkaPin, Window
from hindscan.history.stitched import StitchedHistory
from hindscan.plans.cut import cut
from hindscan.testing import KafkaCluster

#: Small, so that little data has many slices.
SLICE_ROWS = 20
COLUMNS = {"n": "int64", "tx": "string", "at": "timestamp[us, UTC]", "price": "double", "tags": "list<string>"}


def value(n: int, tx: str = "commit") -> bytes:
    """Make a record; its times go back and forth."""
    fields = {"n": n, "tx": tx, "at": f"1970-01-01T00:{n * 7 % 60:02}:00Z", "price": n / 3, "tags": ["x"] * (n % 3)}
    return json.dumps(fields).encode()


def fill(cluster: KafkaCluster, topic: str, partition: int, count: int, *, seed: int = 1) -> None:
    """Write plain records and tombstones."""
    chance = random.Random(seed)
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 0})
    for n in range(count):
        content = None if chance.random() < 0.1 else value(n)
        producer.produce(topic, content, b"k", partition, timestamp=1_000 * (n * 13 % count))
    assert producer.flush(30) == 0


def transact(cluster: KafkaCluster, topic: str, ends: list[tuple[int, bool]]) -> None:
    """Write transactions of so many records to partition 0, each committed or aborted."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": cluster.bootstrap, "linger.ms": 0, "transactional.id": f"{topic}-{len(ends)}"}
    )
    producer.init_transactions(30)
    n = 0
    for count, committed in ends:
        producer.begin_transaction()
        for _ in range(count):
            producer.produce(topic, value(n, "commit" if committed else "abort"), partition=0, timestamp=1_000 * n)
            n += 1
        assert producer.flush(30) == 0
        (producer.commit_transaction if committed else producer.abort_transaction)(30)


def mixed(cluster: KafkaCluster, topic: str) -> None:
    """Fill partition 0 with transactions, committed and aborted, 1 with plain records and tombstones; leave 2 empty."""
    chance = random.Random(5)
    transact(cluster, topic, [*((chance.randint(1, 6), chance.random() < 0.6) for _ in range(18)), (3, False)])
    fill(cluster, topic, 1, 75)


@dataclass(frozen=True)
class Both:
    """A topic as a history of its own, and with an archive."""

    topic: KafkaHistory
    stitched: StitchedHistory


def both(cluster: KafkaCluster, topic: str, folder: Path, **settings: Any) -> Both:
    """Declare a topic twice."""
    table = {"topic": topic, "columns": COLUMNS, "time": "at", **settings}
    table = {name: setting for name, setting in table.items() if setting is not None}
    clusters = {"default": {"bootstrap.servers": cluster.bootstrap}}
    plain = history_from_toml("plain", table, clusters=clusters, root=folder)
    archive = {"archive": "lake"} if "archive" not in table else {}
    stitched = history_from_toml("stitched", {**table, **archive}, clusters=clusters, root=folder)
    assert isinstance(plain, KafkaHistory)
    assert isinstance(stitched, StitchedHistory)
    return Both(plain, stitched)


def read(
    of: KafkaHistory | StitchedHistory,
    window: Window | None = None,
    *,
    slice_rows: int = SLICE_ROWS,
    pin: KafkaPin | None = None,
) -> tuple[list[pa.Table], list[Proof]]:
    """Read every slice alone, as workers do: the reader travels as bytes, the pin as JSON."""
    pin = of.pin(window or Window()) if pin is None else pin
    pin = msgspec.json.decode(msgspec.json.encode(pin), type=KafkaPin)
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    tables, proofs = [], []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            tables.append(Data("t", {"t": source}).arrow().combine_chunks())
            proofs += source.proofs()
    return tables, proofs


def parquet_files(folder: Path) -> list[str]:
    """List what a glob would find."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.parquet"))
