"""The sample's bids in a real topic are the bids of its folder, in order, whatever transactions lie between them."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import confluent_kafka
import duckdb
import fastavro
import pytest
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from hindscan.cli.app import run_app
from hindscan.errors import BrokerUnavailable, Conflict, HindscanError, UsageError
from hindscan.generate import ABORTED_ROWS, generate_auctions
from hindscan.testing import MockKafka
from registry_server import RegistryServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from confluent_kafka.admin import AdminClient

    from hindscan.testing import KafkaCluster

BIDS, SEED, PARTITIONS = 30_000, 11, 8


class Record(NamedTuple):
    partition: int
    offset: int
    milliseconds: int
    key: bytes
    value: bytes


def read(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[Record]:
    """Read a topic with a plain consumer until each partition has ended."""
    settings: dict[str, str | int | float | bool] = {
        "bootstrap.servers": bootstrap,
        "group.id": "oracle",
        "isolation.level": isolation,
        "enable.partition.eof": True,
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 10,
    }
    consumer = confluent_kafka.Consumer(settings)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in partitions])
    records, open_partitions = [], set(partitions)
    while open_partitions:
        message = consumer.poll(30)
        assert message is not None, f"silence with partitions {open_partitions} still open"
        error = message.error()
        if error is None:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            key, value = message.key() or b"", message.value() or b""
            records.append(Record(partition, offset, message.timestamp()[1], key, value))
        elif error.name() == "_PARTITION_EOF":
            open_partitions.discard(message.partition())
        else:
            raise confluent_kafka.KafkaException(error)
    consumer.close()
    return records


def stored(folder: Path) -> list[dict[str, object]]:
    """Read the bids of a folder with DuckDB, as the JSON of the topic has them, in the order of time."""
    rows = duckdb.execute(
        "SELECT auction, bidder, price, channel, category, strftime(date_time AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') "
        f"FROM read_parquet('{folder}/bids/*/*/*.parquet') ORDER BY date_time, auction, price"
    ).fetchall()
    return [
        dict(zip(("auction", "bidder", "price", "channel", "category", "date_time"), row, strict=True)) for row in rows
    ]


def in_order(records: list[Record]) -> list[dict[str, object]]:
    bids: list[dict[str, object]] = [json.loads(record.value) for record in records]
    return sorted(bids, key=lambda bid: (str(bid["date_time"]), int(str(bid["auction"])), int(str(bid["price"]))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sample")
    generate_auctions(str(target), bids=BIDS, seed=SEED)
    return target


@pytest.mark.kafka
def test_a_topic_holds_exactly_the_bids_of_the_folder_drawn_with_the_same_seed(
    kafka_cluster: KafkaCluster, folder: Path
) -> None:
    config = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions("kafka:drawn", bids=BIDS, seed=SEED, kafka=config)
    sample = generate_auctions("kafka:copied", source=str(folder), kafka=config)
    drawn, copied = read(kafka_cluster.bootstrap, "drawn"), read(kafka_cluster.bootstrap, "copied")
    assert in_order(drawn) == stored(folder)
    assert sorted(drawn) == sorted(copied)
    assert sample.bids == BIDS


@pytest.mark.kafka
def test_avro_holds_the_same_bids_with_their_schema_in_the_registry(
    kafka_cluster: KafkaCluster, folder: Path, tmp_path: Path
) -> None:
    with RegistryServer() as registry:
        (tmp_path / "hindscan.toml").write_text(
            f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n[registry.default]\nurl = "{registry.url}"\n'
        )
        typed = ["generate", "auctions", "kafka:in-avro", "--source", str(folder), "--format", "avro"]
        assert run_app([*typed, "--project", str(tmp_path)]) == 0
        number, schema = registry.latest("in-avro-value")
        written = fastavro.parse_schema(json.loads(schema))
        bids = []
        for record in read(kafka_cluster.bootstrap, "in-avro"):
            assert record.value[:5] == struct.pack(">bI", 0, number)
            bid: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), written, None)
            assert record.milliseconds == int(bid["date_time"].timestamp() * 1000)
            bids.append({**bid, "date_time": f"{bid['date_time']:%Y-%m-%dT%H:%M:%S.%fZ}"})
    assert sorted(bids, key=lambda bid: (bid["date_time"], bid["auction"], bid["price"])) == stored(folder)


@pytest.mark.parametrize(
    ("target", "form", "said"),
    [
        ("folder", "avro", "only a topic is written as avro"),
        ("kafka:t", "avro", "needs a schema registry"),
        ("kafka:t", "xml", "must be one of json, avro"),
    ],
)
def test_what_a_format_needs_is_asked_for(tmp_path: Path, target: str, form: str, said: str) -> None:
    where = target if target.startswith("kafka:") else str(tmp_path / target)
    with pytest.raises(UsageError, match=said):
        generate_auctions(where, bids=10, form=form, kafka={"bootstrap.servers": "127.0.0.1:1"})


@pytest.mark.kafka
def test_records_carry_the_bids_time_and_auction_and_lie_in_the_order_of_time(
    kafka_cluster: KafkaCluster, kafka_admin: AdminClient, folder: Path
) -> None:
    generate_auctions("kafka:ordered", source=str(folder), kafka={"bootstrap.servers": kafka_cluster.bootstrap})
    records = sorted(read(kafka_cluster.bootstrap, "ordered"))
    assert {record.partition for record in records} == set(range(PARTITIONS))
    homes: dict[bytes, set[int]] = {}
    for record in records:
        bid = json.loads(record.value)
        assert record.key == str(bid["auction"]).encode()
        # Milliseconds are what Kafka keeps of the time.
        assert record.milliseconds == int(datetime.fromisoformat(bid["date_time"]).timestamp() * 1000)
        homes.setdefault(record.key, set()).add(record.partition)
    assert all(len(home) == 1 for home in homes.values())
    for partition in range(PARTITIONS):
        times = [json.loads(record.value)["date_time"] for record in records if record.partition == partition]
        assert times == sorted(times)


@pytest.mark.kafka
def test_aborted_transactions_leave_holes_and_no_bid_more_for_a_committed_reader(
    kafka_cluster: KafkaCluster, kafka_admin: AdminClient, folder: Path
) -> None:
    config = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions("kafka:holes", source=str(folder), kafka=config, aborted=3)
    committed = read(kafka_cluster.bootstrap, "holes")
    everything = read(kafka_cluster.bootstrap, "holes", isolation="read_uncommitted")
    assert in_order(committed) == stored(folder)
    assert BIDS + 3 * 100 <= len(everything) <= BIDS + 3 * ABORTED_ROWS
    assert {record.value for record in everything} == {record.value for record in committed}
    # The last thing in the log is an aborted transaction: its records and its marker are beyond the last bid.
    for partition in range(PARTITIONS):
        last = max(record.offset for record in committed if record.partition == partition)
        assert last < max(record.offset for record in everything if record.partition == partition)


@pytest.mark.kafka
def test_a_new_topic_keeps_old_records_and_has_the_partitions_asked_for(
    kafka_cluster: KafkaCluster, kafka_admin: AdminClient
) -> None:
    generate_auctions("kafka:narrow", bids=100, kafka={"bootstrap.servers": kafka_cluster.bootstrap}, partitions=3)
    resource = ConfigResource(ResourceType.TOPIC, "narrow")
    settings = kafka_admin.describe_configs([resource])[resource].result()
    assert (settings["retention.ms"].value, settings["retention.bytes"].value) == ("-1", "-1")
    assert len(kafka_admin.list_topics("narrow", timeout=10).topics["narrow"].partitions) == 3


@pytest.mark.kafka
def test_a_topic_that_holds_records_or_would_delete_them_is_refused(
    kafka_cluster: KafkaCluster, topic: Callable[..., str]
) -> None:
    config = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions("kafka:twice", bids=100, kafka=config)
    with pytest.raises(Conflict, match=r"100 offsets in use.*Choose another name"):
        generate_auctions("kafka:twice", bids=100, kafka=config)
    forgetful = topic("forgetful", retention_ms=60_000)
    with pytest.raises(Conflict, match=r"retention\.ms = 60000"):
        generate_auctions(f"kafka:{forgetful}", bids=100, kafka=config)
    assert read(kafka_cluster.bootstrap, forgetful) == []


@pytest.mark.kafka
def test_a_bid_that_the_broker_refuses_fails_the_call(kafka_cluster: KafkaCluster, topic: Callable[..., str]) -> None:
    narrow = topic("refusing", max_message_bytes=10)
    with pytest.raises(HindscanError, match=r"not delivered.*refused"):
        generate_auctions(f"kafka:{narrow}", bids=100, kafka={"bootstrap.servers": kafka_cluster.bootstrap})


def test_the_mock_broker_takes_the_bids_into_a_topic_of_its_own(folder: Path) -> None:
    with MockKafka({"bids": 4}) as mock:
        generate_auctions("kafka:bids", source=str(folder), kafka={"bootstrap.servers": mock.bootstrap})
        records = read(mock.bootstrap, "bids")
    assert in_order(records) == stored(folder)
    assert {record.partition for record in records} == set(range(4))


def test_without_a_broker_the_call_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.generate.BROKER_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match=re.escape(address)):
            generate_auctions("kafka:bids", source=str(folder), kafka={"bootstrap.servers": address, "log_level": 0})
