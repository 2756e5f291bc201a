"""The main job over a topic of Avro records with a schema registry: row for row what DuckDB computes over the same bids in Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka
import fastavro
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from acceptance.command import bidder_scan_oracle, hindscan, same_rows
from registry_server import RegistryServer

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster

BID = {
    "type": "record",
    "name": "Bid",
    "fields": [
        {"name": "auction", "type": "long"},
        {"name": "bidder", "type": "long"},
        {"name": "price", "type": "long"},
        {"name": "channel", "type": "string"},
        {"name": "category", "type": ["null", "string"]},
        {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}
SECRET = "me:canary-of-the-registry"


def write_bids(bootstrap: str, topic: str, data: Path, schema_id: int) -> None:
    parsed = fastavro.parse_schema(BID)
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap})
    for at, bid in enumerate(ds.dataset(data, partitioning="hive").to_table().to_pylist()):
        value = io.BytesIO(b"\x00" + schema_id.to_bytes(4, "big"))
        value.seek(5)
        fastavro.schemaless_writer(value, parsed, bid)
        producer.produce(topic, value.getvalue(), partition=at % 2)
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.mark.kafka
@pytest.mark.parametrize("reader", ["plain", "fast"])
def test_the_main_job_over_avro_gives_what_duckdb_computes_over_parquet(
    reader: str, sample: Path, kafka_cluster: KafkaCluster, topic: Callable[..., str]
) -> None:
    name = topic("bids-avro", partitions=2)
    with RegistryServer(user=SECRET) as registry:
        number = registry.register(f"{name}-value", {"schema": json.dumps(BID)})
        write_bids(kafka_cluster.bootstrap, name, sample / "data" / "bids", number)
        file = sample / "hindscan.toml"
        file.write_text(
            file.read_text()
            + f'\n[kafka.avro]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n"hindscan.reader" = "{reader}"\n'
            f'[registry.avro]\nurl = "{registry.url}"\n"basic.auth.user.info" = "${{REGISTRY_USER}}"\n'
            f'[history.bids_avro]\ntopic = "avro:{name}"\nformat = "avro"\nregistry = "avro"\ntime = "date_time"\n'
        )
        arguments = (
            "run",
            "bidder_scan",
            "-p",
            "category=cars",
            "-p",
            "year=2018",
            "--history",
            "bids=bids_avro",
            "--json",
        )
        answer = hindscan(*arguments, project=sample, REGISTRY_USER=SECRET)
        again = hindscan(*arguments, project=sample, REGISTRY_USER=SECRET).document
    same_rows(pq.read_table(answer.document["result"]["path"]), bidder_scan_oracle(sample / "data"))
    assert again["slices"]["reused"] == again["slices"]["total"] > 0
    written = [each for each in sample.rglob("*") if each.is_file()]
    assert [each for each in written if SECRET.encode() in each.read_bytes()] == []
    assert SECRET not in answer.out + answer.err
