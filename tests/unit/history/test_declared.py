"""A `[history.NAME]` table becomes a history, or every fault of it is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hindscan.errors import ConfigError
from hindscan.history.declared import history_from_toml
from hindscan.history.kafka import KafkaHistory
from hindscan.history.parquet import ParquetHistory

CLUSTERS = {
    "default": {"bootstrap.servers": "127.0.0.1:1"},
    "prod": {"bootstrap.servers": "b:2", "sasl.password": "hush"},
}


REGISTRIES = {"default": {"url": "mock://"}, "prod": {"url": "https://r", "basic.auth.user.info": "me:hush"}}


def build(**table: Any) -> Any:
    return history_from_toml("bids", table, clusters=CLUSTERS, registries=REGISTRIES, root="/project")


def faults(**table: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        build(**table)
    found = refused.value.details["faults"]
    assert isinstance(found, list)
    for field, message in found:
        assert f"history.bids.{field}: {message}" in str(refused.value)
    return dict(found)


def test_a_parquet_history_lies_relative_to_the_project() -> None:
    made = build(parquet="data/bids", time="date_time", as_of="ignore", verify=False, slice_rows=5)
    assert isinstance(made, ParquetHistory)
    assert (made.name, made.place.path, made.time) == ("bids", "/project/data/bids", "date_time")
    assert (made.ignores_as_of, made.verify, made.columns) == (True, False, None)


def test_a_topic_is_of_the_default_cluster_or_the_one_it_names() -> None:
    made = build(topic="bids")
    assert isinstance(made, KafkaHistory)
    assert (made.cluster, made.topic, made.format, made.isolation) == ("default", "bids", "json", "read_committed")
    made = build(
        topic="prod:bids", partitions=[1, 0], isolation="read_uncommitted", on_bad_record="set aside", format="bytes"
    )
    assert isinstance(made, KafkaHistory)
    assert (made.cluster, made.topic, made.partitions) == ("prod", "bids", (1, 0))
    assert made.config["sasl.password"] == "hush"
    assert "hush" not in repr(made)


def test_schemas_come_from_the_registry_of_the_history_or_from_a_file() -> None:
    made = build(topic="prod:bids", format="avro", registry="prod", record=["key", "offset"])
    assert isinstance(made, KafkaHistory)
    assert made.schemas is not None
    assert (made.schemas.registry, made.schemas.subject, made.schemas.file) == ("prod", "bids-value", None)
    assert made.record == ("key", "offset")
    assert "hush" not in repr(made)
    made = build(topic="bids", format="protobuf", schema="schemas/bid.desc", message="shop.Bid")
    assert made.schemas is not None
    assert (made.schemas.registry, made.schemas.settings) == (None, None)
    assert (str(made.schemas.file), made.schemas.message) == ("/project/schemas/bid.desc", "shop.Bid")
    assert build(topic="bids", format="avro").schemas.registry == "default"
    assert build(topic="bids").schemas is None


def test_declared_columns_are_a_schema() -> None:
    made = build(topic="bids", columns={"price": "int64 not null", "at": "timestamp[us, UTC]"})
    assert made.columns == pa.schema([pa.field("price", pa.int64(), nullable=False), ("at", pa.timestamp("us", "UTC"))])


def test_building_opens_nothing(tmp_path: Path) -> None:
    build(parquet=str(tmp_path / "nowhere"))
    build(topic="nowhere")


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ({}, {"parquet"}),
        ({"parquet": "a", "topic": "b"}, {"parquet"}),
        ({"parquet": ""}, {"parquet"}),
        ({"parquet": 5}, {"parquet"}),
        ({"parquet": "ftp://x/y"}, {"parquet"}),
        ({"parquet": "a", "tiem": "x"}, {"tiem"}),
        ({"parquet": "a", "format": "json"}, {"format"}),
        ({"parquet": "a", "archive": "b"}, {"archive"}),
        ({"topic": "a", "verify": True}, {"verify"}),
        ({"topic": ""}, {"topic"}),
        ({"topic": "staging:bids"}, {"topic"}),
        ({"topic": "a", "format": "avro", "registry": "staging"}, {"registry"}),
        ({"topic": "a", "format": "avro", "registry": 5}, {"registry"}),
        (
            {"topic": "a", "format": "avro", "schema": "s.avsc", "registry": "prod", "subject": "s"},
            {"registry", "subject"},
        ),
        ({"topic": "a", "format": "avro", "registry": ["prod"], "schema": 5}, {"registry", "schema"}),
        ({"topic": "a", "format": ["avro"]}, {"format"}),
        ({"topic": "a", "format": "avro", "message": "m"}, {"message"}),
        ({"topic": "a", "format": "protobuf", "schema": "s.proto"}, {"schema"}),
        ({"topic": "a", "format": "json", "registry": "prod", "subject": ""}, {"registry", "subject"}),
        ({"topic": "a", "record": "key"}, {"record"}),
        ({"topic": "a", "record": ["key", "size"]}, {"record"}),
        ({"topic": "a", "record": ["key", "key"]}, {"record"}),
        ({"topic": "a", "record": 5, "archive": {"path": "b", "layout": "connect"}}, {"record", "columns", "time"}),
        (
            {"topic": "a", "record": ["key", "offset"], "archive": {"path": "b", "layout": "connect"}, "time": "t"},
            {"record", "columns"},
        ),
        ({"topic": "a", "record": ["key"], "columns": {"_key": "string"}}, {"columns._key"}),
        ({"topic": "a", "format": "cloudevents", "columns": {"ce_id": "double", "x": "int64"}}, {"columns.ce_id"}),
        ({"parquet": "a", "registry": "prod", "record": ["key"]}, {"registry", "record"}),
        ({"topic": "a", "format": "xml"}, {"format"}),
        ({"topic": "a", "columns": {"x": "int65"}}, {"columns.x"}),
        ({"topic": "a", "columns": {"x": 5, "y": "list<"}}, {"columns.x", "columns.y"}),
        ({"topic": "a", "columns": {}}, {"columns"}),
        ({"topic": "a", "columns": "int64"}, {"columns"}),
        ({"topic": "a", "format": "bytes", "columns": {"x": "int64"}}, {"columns"}),
        ({"topic": "a", "columns": {'q"x': "int64"}}, {'columns.q"x'}),
        ({"topic": "a", "partitions": []}, {"partitions"}),
        ({"topic": "a", "partitions": [-1]}, {"partitions"}),
        ({"topic": "a", "partitions": [True]}, {"partitions"}),
        (
            {"topic": "a", "time": "", "slice_rows": 0, "as_of": "now", "on_bad_record": "skip", "isolation": "dirty"},
            {"time", "slice_rows", "as_of", "on_bad_record", "isolation"},
        ),
    ],
)
def test_every_fault_is_told_with_its_field(table: dict[str, Any], fields: set[str]) -> None:
    assert set(faults(**table)) == fields


def test_a_fault_says_what_would_be_right() -> None:
    assert "is it time?" in faults(parquet="a", tiem="x")["tiem"]
    assert "cloudevents, bytes, found 'xml'" in faults(topic="a", format="xml")["format"]
    assert "declared: default, prod. Without a registry" in faults(topic="a", format="avro", registry="x")["registry"]
    assert "protoc" in faults(topic="a", format="protobuf", schema="s.proto")["schema"]
    assert "declared: default, prod" in faults(topic="x:a")["topic"]
