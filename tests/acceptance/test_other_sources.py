"""Schedules, files, records and bodies that are no CloudEvents start exactly one run each, whenever the server dies."""

from __future__ import annotations

import base64
import io
import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import confluent_kafka
import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import descriptor_pb2

from acceptance.command import hindscan
from acceptance.serving import Server, finished, serve
from clock import until
from registry_server import RegistryServer

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

CARS = 'job = "bidder_scan"\nparameters = { category = { value = "cars" }, year = { value = 2018 } }\n'
#: The start is long ago, so that there is something to catch up with at once.
YEARLY = f'on = "cron:0 6 1 6 *"\ntime_zone = "Europe/Berlin"\nmissed = "latest"\nstart = "{datetime.now(UTC) - timedelta(days=800):%Y-%m-%d}"\n{CARS}'
ARRIVALS = f'on = "files:data/arrived"\nevery = "1s"\n{CARS}'


def _closed_proto() -> str:
    """Give ``message Closed { string category = 2; string closed_at = 3; }`` as a registry has it."""
    field = descriptor_pb2.FieldDescriptorProto
    texts = [
        field(name=name, number=at, type=field.TYPE_STRING, label=1) for at, name in ((2, "category"), (3, "closed_at"))
    ]
    message = descriptor_pb2.DescriptorProto(name="Closed", field=texts)
    file = descriptor_pb2.FileDescriptorProto(name="closed.proto", syntax="proto3", message_type=[message])
    return base64.b64encode(file.SerializeToString()).decode()


CLOSED_PROTO = _closed_proto()


def declare(project: Path, **triggers: str) -> None:
    """Give the sample these triggers instead of its own."""
    file = project / "hindscan.toml"
    kept = file.read_text().partition("[triggers.")[0]
    file.write_text(kept + "".join(f"[triggers.{name}]\n{body}\n" for name, body in triggers.items()))


def arrive(project: Path, name: str) -> None:
    """Write a file under its name in the folder that is watched, not all at once."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"n": range(100)}), whole)
    file = project / "data" / "arrived" / name
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as stream:
        stream.write(whole.getvalue()[:200])
        stream.flush()
        stream.write(whole.getvalue()[200:])


def runs(server: Server) -> list[dict[str, Any]]:
    with server.client() as client:
        found: list[dict[str, Any]] = client.get("/runs").json()["runs"]
    return found


def last_june() -> datetime:
    now = datetime.now(UTC)
    instants = [
        datetime(year, 6, 1, 6, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC) for year in (now.year - 1, now.year)
    ]
    return max(at for at in instants if at < now)


def test_a_schedule_a_file_and_a_plain_body_start_one_run_each(sample: Path) -> None:
    plain = f'on = "http"\nevent = {{ id = "auction", source = "\'/auctions\'", time = "at" }}\n{CARS}'.replace(
        '{ value = "cars" }', '"data.category"'
    )
    s3 = f'on = "http"\nformat = "s3"\n{CARS}'
    signed = f'confirm = ["arn:aws:sns:eu-west-1:123456789012:t"]\n{s3}'
    declare(sample, yearly=YEARLY, arrivals=ARRIVALS, plain=plain, notified=f"unsigned = true\n{s3}", signed=signed)
    arrive(sample, "old.parquet")
    with serve(sample) as server, server.client() as client:
        arrive(sample, "new.parquet")
        body = {"auction": 7, "at": "2020-06-01", "category": "cars"}
        (run,) = client.post("/triggers/plain/events", json=body).json()["runs"]
        assert client.post("/triggers/plain/events", json=body).json()["existing"] == [run]
        refused = client.post("/triggers/plain/events", json={"auction": 8})
        assert (refused.status_code, "time from 'at'" in refused.text) == (400, True)
        assert client.post("/triggers/yearly/events", json=body).status_code == 404
        # Nothing is asked of an address that comes in a body.
        asked = {
            "Type": "SubscriptionConfirmation",
            "TopicArn": "arn:aws:sns:eu-west-1:1:t",
            "SubscribeURL": server.address,
        }
        refused = client.post("/triggers/notified/events", json=asked)
        assert (refused.status_code, "must be named in `confirm`" in refused.text) == (422, True)
        for unproven in (asked, {"Records": []}):
            refused = client.post("/triggers/signed/events", json=unproven)
            assert (refused.status_code, refused.json()["error"]) == (401, "SignatureRefused")
            assert refused.headers["WWW-Authenticate"] == "AmazonSNS"
        until(lambda: len(runs(server)) == 3, "three runs")
        by_trigger = {one["event"]["trigger"]: finished(client, one["id"]) for one in runs(server)}
        assert {name: one["state"] for name, one in by_trigger.items()} == dict.fromkeys(
            ("yearly", "arrivals", "plain"), "succeeded"
        )
        assert by_trigger["yearly"]["event"]["id"] == f"{last_june():%Y-%m-%dT%H:%M:%SZ}"
        assert by_trigger["arrivals"]["event"]["id"].startswith("new.parquet@")
        as_of = {
            name: client.get(f"/runs/{one['id']}/manifest").json()["event"]["time"] for name, one in by_trigger.items()
        }
        assert as_of["yearly"] == f"{last_june():%Y-%m-%dT%H:%M:%SZ}"
        assert as_of["plain"] == "2020-06-01T00:00:00Z"
        assert client.get("/readyz").json()["status"] == "ready"
    shown = {one["type"]: one["way"] for one in hindscan("events", "--json", project=sample).document["events"]}
    assert shown == {"hindscan.schedule": "schedule", "hindscan.file": "files", "hindscan.record": "http"}
    listed = hindscan("triggers", project=sample).out
    assert "cron:0 6 1 6 *" in listed
    assert "files:data/arrived" in listed


@pytest.mark.parametrize("point", ["watching.started", "ledger.recorded:1", "ledger.recorded:2"])
def test_a_server_killed_at_any_side_effect_leaves_one_run_for_each_tick_and_file(sample: Path, point: str) -> None:
    declare(sample, yearly=YEARLY, arrivals=ARRIVALS)
    arrive(sample, "old.parquet")
    with serve(sample, fault=point) as server:
        if point != "watching.started":
            arrive(sample, "new.parquet")
        assert server.ended() == -signal.SIGKILL, server.log()
    if point == "watching.started":
        # The start is stored: what comes while nobody listens is new to whoever comes next.
        arrive(sample, "new.parquet")
    with serve(sample) as server, serve(sample) as other, server.client() as client:
        until(lambda: len(runs(server)) == 2, "two runs")
        assert {finished(client, one["id"])["state"] for one in runs(other)} == {"succeeded"}
        ids = {one["event"]["trigger"]: one["event"]["id"] for one in runs(server)}
        assert ids["yearly"] == f"{last_june():%Y-%m-%dT%H:%M:%SZ}"
        assert ids["arrivals"].startswith("new.parquet@")


@pytest.fixture
def produce(kafka_cluster: KafkaCluster) -> Any:
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap})

    def write(topic: str, *values: bytes | None) -> None:
        for value in values:
            producer.produce(topic, value)
        assert producer.flush(30) == 0

    return write


@pytest.mark.kafka
def test_records_of_kafka_that_are_no_cloudevents_are_wrapped_or_quarantined(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic, produce: Any
) -> None:
    plain, avro, notified = topic("plain"), topic("avro"), topic("notified")
    protobuf, schema_json = topic("protobuf"), topic("jsonschema")
    mapping = (
        'event = { type = "\'auction.closed\'", source = "\'/auctions\'", time = "closed_at", subject = "category" }\n'
    )
    declare(
        sample,
        plain=f'on = "kafka:{plain}"\n{mapping}{CARS}',
        avro=f'on = "kafka:{avro}"\nformat = "avro"\n{mapping}{CARS}'.replace(
            "event = {", 'event = { id = "auction_id",'
        ),
        protobuf=f'on = "kafka:{protobuf}"\nformat = "protobuf"\n{mapping}{CARS}',
        schema_json=f'on = "kafka:{schema_json}"\nformat = "jsonschema"\n{mapping}{CARS}',
        notified=f'on = "kafka:{notified}"\nformat = "s3"\nfilter = {{ prefix = {{ type = "com.amazonaws.s3.ObjectCreated" }} }}\n{CARS}',
    )
    schema = {
        "type": "record",
        "name": "Closed",
        "fields": [
            {"name": "auction_id", "type": "long"},
            {"name": "category", "type": "string"},
            {"name": "closed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
    at = datetime(2020, 6, 1, tzinfo=UTC)
    with RegistryServer() as registry:
        number = registry.register(f"{avro}-value", {"schema": json.dumps(schema)})
        value = io.BytesIO(b"\0" + number.to_bytes(4, "big"))
        value.seek(5)
        fastavro.schemaless_writer(
            value, fastavro.parse_schema(schema), {"auction_id": 5, "category": "cars", "closed_at": at}
        )
        env = {
            "HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"',
            "HINDSCAN_SERVE__GROUP": plain,
        }
        env["HINDSCAN_REGISTRY__DEFAULT__URL"] = registry.url
        kinds = {"PROTOBUF": CLOSED_PROTO, "JSON": '{"type": "object"}'}
        proto_head, json_head = (
            b"\0" + registry.register(kind, {"schema": text, "schemaType": kind}).to_bytes(4, "big")
            for kind, text in kinds.items()
        )
        made = {
            "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "2020-06-01T00:00:00Z", "eventName": "ObjectCreated:Put",
            "responseElements": {"x-amz-request-id": "r1", "x-amz-id-2": "h"},
            "s3": {"bucket": {"name": "lake"}, "object": {"key": "a.parquet", "size": 5}},
        }  # fmt: skip
        other = {**made, "responseElements": {"x-amz-request-id": "r2", "x-amz-id-2": "h"}}
        gone = {**other, "eventName": "ObjectRemoved:Delete"}
        with serve(sample, **env) as server, server.client() as client:
            # The client asks three times; then the record waits, and is asked for again.
            registry.broken += [503] * 4
            produce(plain, b'{"closed_at": "2020-06-01T00:00:00Z", "category": "cars"}', b'{"category": "cars"}', b"{")
            produce(avro, value.getvalue(), b"no avro")
            produce(protobuf, proto_head + b"\x00\x12\x04cars\x1a\x0a2020-06-01", proto_head + b"\x00\x12")
            produce(
                schema_json,
                json_head + b'{"closed_at": "2020-06-01", "category": "cars"}',
                b'{"closed_at": "2020-06-01"}',
            )
            produce(
                notified,
                json.dumps({"Records": [made, other, gone]}).encode(),
                json.dumps({"Records": [made]}).encode(),
            )
            until(lambda: len(client.get("/events").json()["events"]) == 12, "every event")
            events = client.get("/events").json()["events"]
            started = until(lambda: (found := runs(server)) and len(found) == 6 and found, "six runs")
    assert sorted(one["event"]["trigger"] for one in started) == [
        "avro", "notified", "notified", "plain", "protobuf", "schema_json",
    ]  # fmt: skip
    wrapped = {one["id"]: one for one in events if one["id"] is not None}
    placed = [one for name, one in wrapped.items() if name.startswith("default/")]
    assert {one["position"] for one in placed} == {f"{name}[0]@0" for name in (plain, protobuf, schema_json)}
    assert {(one["source"], one["type"], one["subject"]) for one in placed} == {("/auctions", "auction.closed", "cars")}
    assert all(one["id"].endswith("/0/0") for one in placed)
    assert wrapped["5"]["position"] == f"{avro}[0]@0"
    assert wrapped["r1.h"]["subject"] == "a.parquet"
    quarantined = {one["position"]: one["reason"] for one in events if one["outcome"] == "quarantined"}
    assert set(quarantined) == {f"{name}[0]@1" for name in (plain, avro, protobuf, schema_json)} | {f"{plain}[0]@2"}
    assert "time from 'closed_at': it is null or not there" in quarantined[f"{plain}[0]@1"]
    assert "it is not JSON" in quarantined[f"{plain}[0]@2"]
    assert "begins with byte 0x6e" in quarantined[f"{avro}[0]@1"]
    assert "is no message of its schema" in quarantined[f"{protobuf}[0]@1"]
    assert "begins with byte 0x7b" in quarantined[f"{schema_json}[0]@1"]
    with serve(sample, **env) as server:
        assert len(runs(server)) == 6
