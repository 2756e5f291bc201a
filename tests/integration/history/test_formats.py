"""Each format from a real topic to rows: pinned, cut, read as workers do, with one record that is set aside.

The records are written by each format's own library; what comes out is compared with what went in.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import fastavro
import msgspec
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, message_factory

from hindscan.data import Data, Proof
from hindscan.errors import BadRecord, RegistryUnavailable, SchemaMismatch, SourceMissing
from hindscan.history.columns import schema_from_text
from hindscan.history.declared import history_from_toml
from hindscan.history.formats import avro_fast
from hindscan.history.formats.confluent import head
from hindscan.history.formats.protobuf_schema import load_file
from hindscan.history.kafka import KafkaHistory
from hindscan.history.snapshot import KafkaPin, Window
from hindscan.kafka import fast
from hindscan.kafka.registry import RegisteredSchema, SchemaRegistry
from hindscan.plans.cut import cut
from hindscan.testing import KafkaCluster
from registry_server import RegistryServer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

MakeTopic = Callable[..., str]
Headers = list[tuple[str, bytes | None]] | None


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def write(
    cluster: KafkaCluster, topic: str, *values: bytes | None, key: bytes | None = None, headers: Headers = None
) -> None:
    """Write to partition 0; the times are 1000, 1001, ..."""
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 0})
    for at, value in enumerate(values):
        producer.produce(topic, value, key, 0, timestamp=1000 + at, headers=headers or [])
    assert producer.flush(30) == 0


def history(
    cluster: KafkaCluster, topic: str, registry: str | None = None, root: Path | str = ".", **table: Any
) -> KafkaHistory:
    made = history_from_toml(
        "log",
        {"topic": topic, "on_bad_record": "set aside", **table},
        clusters={"default": {"bootstrap.servers": cluster.bootstrap}},
        registries={} if registry is None else {"default": {"url": registry}},
        root=root,
    )
    assert isinstance(made, KafkaHistory)
    return made


def read(
    of: KafkaHistory, columns: list[str] | None = None, pin: KafkaPin | None = None, slice_rows: int = 4
) -> tuple[list[dict[str, Any]], list[Proof]]:
    """Read slices, of four offsets as a rule: the pin travels as JSON, the reader as bytes."""
    pin = msgspec.json.decode(
        msgspec.json.encode(pin or of.pin(Window()), order="deterministic"),  # as the store writes it
        type=KafkaPin,
    )
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    rows, proofs = [], []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            rows += Data("t", {"t": source}).arrow(columns).to_pylist()
            proofs += source.proofs()
    return rows, proofs


def set_aside(proofs: list[Proof]) -> list[str]:
    return [said for proof in proofs for said in proof.bad_records]


def avro(schema: Any, **record: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return out.getvalue()


def avro_record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Bid", "fields": [{"name": name, "type": t} for name, t in fields.items()]}


def register(url: str, subject: str, kind: str, text: str) -> int:
    return SchemaRegistry({"url": url}).register(subject, RegisteredSchema(kind=kind, files=(("own", text),)))


ONE = avro_record(price="int", gone="string")
TWO = avro_record(price="long", channel=["null", "string"])
TWO["fields"][1]["default"] = None


def test_avro_of_several_writers_is_read_as_the_latest(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer
) -> None:
    name = topic("avro")
    one = register(registry.url, f"{name}-value", "AVRO", json.dumps(ONE))
    two = register(registry.url, f"{name}-value", "AVRO", json.dumps(TWO))
    first, second = head(one) + avro(ONE, price=1, gone="x"), head(two) + avro(TWO, price=2**40, channel="web")
    bad = [head(two) + b"\x02", b"\x01\x02\x03\x04\x05\x06", head(9999) + b"?", first + b"\x00"]
    write(kafka_cluster, name, first, second, *bad, None, second, first)
    of = history(kafka_cluster, name, registry.url, format="avro")
    pin = of.pin(Window())
    assert pin.schema_from == f"schema id {two} of registry default"
    assert schema_from_text(pin.schema) == pa.schema([("price", pa.int64()), ("channel", pa.string())])
    rows, proofs = read(of, pin=pin)
    old, new = {"price": 1, "channel": None}, {"price": 2**40, "channel": "web"}
    assert rows == [old, new, new, old]
    assert set_aside(proofs) == [
        "0:2: is no record of its schema: it ends before its last field does",
        "0:3: begins with byte 0x01; a zero byte before the schema id is required",
        "0:4: schema id 9999 is not in registry default",
        "0:5: is no record of its schema: it ends at byte 8 of 9",
    ]
    assert sum(proof.tombstones for proof in proofs) == 1
    assert sum(proof.set_aside for proof in proofs) == 4
    assert read(of, ["channel"])[0] == [{"channel": row["channel"]} for row in rows]


def test_both_readers_give_of_avro_what_fastavro_gives_record_for_record(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers in turn, damaged records and deletions among them, in batches that are decoded at once."""
    name, chance = topic("engines"), random.Random(8)
    written = {register(registry.url, f"{name}-value", "AVRO", json.dumps(each)): each for each in (ONE, TWO)}
    values: list[bytes | None] = []
    expected, bad = [], []
    for at in range(600):
        number, schema = chance.choice(list(written.items()))
        fields = (
            {"price": chance.randrange(-(2**31), 2**31), "gone": "é" * (at % 3)}
            if schema is ONE
            else {"price": chance.randrange(2**62), "channel": chance.choice([None, "web", "é"])}
        )
        body = avro(schema, **fields)
        if chance.random() < 0.05:
            values.append(None)
            continue
        if chance.random() < 0.05:
            bad.append(at)
            body = body[:-1] if chance.random() < 0.5 else body + b"\x00"
        else:
            parsed = [fastavro.parse_schema(each) for each in (schema, TWO)]
            expected.append(fastavro.schemaless_reader(io.BytesIO(body), *parsed))
        values.append(head(number) + body)
    write(kafka_cluster, name, *values)
    of = history(kafka_cluster, name, registry.url, format="avro")
    scanned: list[int] = []
    scan = avro_fast.Scan.read
    monkeypatch.setattr(avro_fast.Scan, "read", lambda *given: scanned.append(len(given[1])) or scan(*given))
    found = []
    for reader in ("fast", "plain"):
        one = dataclasses.replace(of, config={**of.config, "hindscan.reader": reader})
        rows, proofs = read(one, slice_rows=1000)
        assert rows == expected
        assert [int(said.split(":")[1]) for said in set_aside(proofs)] == bad
        assert read(one, ["channel"], slice_rows=1000)[0] == [{"channel": row["channel"]} for row in expected]
        found.append(proofs)
        assert (max(scanned, default=0) > 200) == (reader == "fast")
        scanned.clear()
    assert found[0] == found[1]
    assert len(bad) > 10


def test_a_pin_looks_at_records_with_the_plain_client_whatever_reads_the_topic(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = topic("glance")
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    number = registry.register(f"{name}-value", {"schema": json.dumps(schema)})
    write(kafka_cluster, name, *(head(number) + bytes([2 * n]) for n in range(4)))
    found = history(kafka_cluster, name, registry.url, format="avro")
    found = dataclasses.replace(found, config={**found.config, "hindscan.reader": "fast"})
    with monkeypatch.context() as patch:
        patch.setattr(fast, "FastClient", lambda *_: pytest.fail("a server would load the compiler"))
        pin = found.pin(Window())
    assert isinstance(pin, KafkaPin)
    assert read(found, pin=pin)[0] == [{"a": n} for n in range(4)]


def test_a_schema_id_that_the_sample_did_not_show_is_asked_of_the_registry_by_the_worker(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer
) -> None:
    name = topic("later")
    other = {**TWO, "name": "Other", "fields": [*TWO["fields"], {"name": "more", "type": "int"}]}
    two = register(registry.url, f"{name}-value", "AVRO", json.dumps(TWO))
    write(kafka_cluster, name, head(two) + avro(TWO, price=1, channel=None))
    before = history(kafka_cluster, name, registry.url, format="avro").pin(Window())
    later = register(registry.url, "elsewhere", "AVRO", json.dumps(other))
    write(kafka_cluster, name, head(later) + avro(other, price=2, channel="b", more=3))
    of = history(kafka_cluster, name, registry.url, format="avro")
    now = of.pin(Window())
    assert before.coding is not None
    pin = msgspec.structs.replace(now, coding=before.coding)
    assert [schema_id for schema_id, _ in before.coding.known] == [two]
    assert read(of, pin=pin)[0] == [{"price": 1, "channel": None}, {"price": 2, "channel": "b"}]
    # A registry that is away is no bad record: the run may be tried again.
    away = history(kafka_cluster, name, "http://127.0.0.1:1", format="avro")
    with pytest.raises(
        RegistryUnavailable, match=r"registry default for schema id \d+: the registry at http://127.0.0.1:1"
    ):
        read(away, pin=pin)
    # What the pin knows needs no registry at all.
    assert len(read(away, pin=now)[0]) == 2


def test_bare_avro_is_written_with_a_declared_schema(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    name = topic("bare")
    (tmp_path / "bid.avsc").write_text(json.dumps(ONE))
    write(kafka_cluster, name, *(avro(ONE, price=n, gone="x") for n in range(5)), b"\x02")
    of = history(kafka_cluster, name, root=tmp_path, format="avro", schema="bid.avsc", columns={"price": "int32"})
    pin = of.pin(Window())
    assert pin.schema_from == "declared in bid.avsc"
    rows, proofs = read(of, pin=pin)
    assert rows == [{"price": n} for n in range(5)]
    assert set_aside(proofs) == ["0:5: is no record of its schema: it ends before its last field does"]
    strict = history(kafka_cluster, name, root=tmp_path, format="avro", schema="bid.avsc", on_bad_record="fail")
    with pytest.raises(BadRecord, match=r"at offset 5: a value of format avro .*ends before its last field does"):
        read(strict)
    with pytest.raises(SourceMissing, match="No such file"):
        history(kafka_cluster, name, root=tmp_path, format="avro", schema="absent.avsc").pin(Window())
    wrong = {"price": "int64", "lost": "int32"}
    with pytest.raises(SchemaMismatch, match=r"price is int32, declared int64; lost is not in it; it has price, gone"):
        history(kafka_cluster, name, root=tmp_path, format="avro", schema="bid.avsc", columns=wrong).pin(Window())


def protobuf_schema() -> tuple[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bid.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Other").field.add(name="x", number=1, type=9, label=1)
    file.message_type.add(name="Bid").field.add(name="price", number=1, type=3, label=1)
    text = base64.b64encode(file.SerializeToString()).decode()
    loaded = load_file(RegisteredSchema(kind="PROTOBUF", files=(("bid.proto", text),)))
    return text, message_factory.GetMessageClass(loaded.message_types_by_name["Bid"])


def test_protobuf(kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer, tmp_path: Path) -> None:
    name = topic("protobuf")
    text, bid = protobuf_schema()
    number = register(registry.url, f"{name}-value", "PROTOBUF", text)
    good = [head(number) + b"\x02\x02" + bid(price=n).SerializeToString() for n in range(5)]
    write(kafka_cluster, name, *good, head(number) + b"\x00" + bid(price=1).SerializeToString(), good[0][:-1])
    of = history(kafka_cluster, name, registry.url, format="protobuf")
    pin = of.pin(Window())
    assert pin.coding is not None
    assert pin.coding.message == "shop.Bid"
    rows, proofs = read(of, pin=pin)
    assert rows == [{"price": n} for n in range(5)]
    assert set_aside(proofs)[0] == "0:5: is message shop.Other; shop.Bid is required"
    assert set_aside(proofs)[1].startswith("0:6: ends within the places") or "is no message" in set_aside(proofs)[1]
    # Bare, with a descriptor set as protoc writes it.
    files = descriptor_pb2.FileDescriptorSet(
        file=[descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text))]
    )
    (tmp_path / "bid.desc").write_bytes(files.SerializeToString())
    bare = topic("bare-protobuf")
    write(kafka_cluster, bare, bid(price=5).SerializeToString())
    declared = {"format": "protobuf", "schema": "bid.desc"}
    with pytest.raises(SchemaMismatch, match=r"does not show of which: shop.Other, shop.Bid. Set `message`"):
        history(kafka_cluster, bare, root=tmp_path, **declared).pin(Window())
    of = history(kafka_cluster, bare, root=tmp_path, message="shop.Bid", **declared)
    assert read(of)[0] == [{"price": 5}]


def test_json_schema(kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer) -> None:
    name = topic("jsonschema")
    schema = {
        "type": "object",
        "properties": {"price": {"type": "integer"}, "at": {"type": ["null", "string"], "format": "date"}},
        "required": ["price"],
    }
    number = register(registry.url, f"{name}-value", "JSON", json.dumps(schema))
    write(kafka_cluster, name, head(number) + b'{"price": 5}', head(number) + b'{"at": "2018-01-01"}', b'{"price": 5}')
    rows, proofs = read(history(kafka_cluster, name, registry.url, format="jsonschema"))
    assert rows == [{"price": 5, "at": None}]
    assert set_aside(proofs) == [
        "0:1: price: Object missing required field `price`",
        "0:2: begins with byte 0x7b; a zero byte before the schema id is required",
    ]


def test_arrow(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("arrow")

    def stream(*prices: int) -> bytes:
        table = pa.table({"price": pa.array(prices, pa.int32())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    write(kafka_cluster, name, stream(1), stream(2, 3), stream(4))
    rows, proofs = read(history(kafka_cluster, name, format="arrow"))
    assert rows == [{"price": 1}, {"price": 4}]
    assert set_aside(proofs) == ["0:1: has 2 rows; a record must have exactly one"]


def test_cloudevents_in_both_modes(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("cloudevents")
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    whole = json.dumps({**attributes, "data": {"price": 1}}).encode()
    write(kafka_cluster, name, whole, b"[]", headers=[("content-type", b"application/cloudevents+json")])
    binary: Headers = [(f"ce_{key}", text.encode()) for key, text in attributes.items()]
    assert binary is not None
    write(kafka_cluster, name, b'{"price": 2}', None, headers=[*binary, ("content-type", b"application/json")])
    write(kafka_cluster, name, None)
    of = history(kafka_cluster, name, format="cloudevents", columns={"ce_id": "string", "price": "int64"})
    rows, proofs = read(of)
    assert rows == [{"ce_id": "1", "price": 1}, {"ce_id": "1", "price": 2}, {"ce_id": "1", "price": None}]
    assert [said.partition(": ")[0] for said in set_aside(proofs)] == ["0:1"]
    assert sum(proof.tombstones for proof in proofs) == 1
    inferred = history(kafka_cluster, name, format="cloudevents").pin(Window())
    assert schema_from_text(inferred.schema).names == ["ce_id", "ce_source", "ce_type", "ce_datacontenttype", "price"]


def test_bytes_with_all_of_the_record(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("bytes")
    headers: Headers = [("twice", b"1"), ("twice", b""), ("none", None), ("odd", b"\xff")]
    write(kafka_cluster, name, b"a", key=b"k", headers=headers)
    write(kafka_cluster, name, b"", key=b"")
    write(kafka_cluster, name, None, b"c")
    everything = ["key", "headers", "timestamp", "offset", "partition"]
    of = history(kafka_cluster, name, format="bytes", record=everything)
    rows, proofs = read(of)
    assert [row["value"] for row in rows] == [b"a", b"", b"c"]
    assert [row["_key"] for row in rows] == [b"k", b"", None]
    assert rows[0]["_headers"] == [{"key": key, "value": value} for key, value in headers or []]
    assert [row["_headers"] for row in rows[1:]] == [None, None]
    assert [row["_timestamp"].timestamp() for row in rows] == [1.0, 1.0, 1.001]
    assert [(row["_partition"], row["_offset"]) for row in rows] == [(0, 0), (0, 1), (0, 3)]
    # A read without them is another read: keys and headers are part of its digest only where they are declared.
    bare, bare_proofs = read(history(kafka_cluster, name, format="bytes"))
    assert bare == [{"value": row["value"]} for row in rows]
    assert bare_proofs[0].digest != proofs[0].digest
    only_places, _ = read(history(kafka_cluster, name, format="bytes", record=["offset"]), ["_offset"])
    assert only_places == [{"_offset": 0}, {"_offset": 1}, {"_offset": 3}]
    query = "SELECT _offset, decode(_key) AS k FROM t WHERE _key IS NOT NULL"
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 100)) as source:
        assert Data("t", {"t": source}).sql(query).to_pylist() == [
            {"_offset": 0, "k": "k"},
            {"_offset": 1, "k": ""},
        ]


def test_the_records_time_can_be_the_event_time(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("times")
    write(kafka_cluster, name, *(json.dumps({"n": n}).encode() for n in range(5)))
    of = history(kafka_cluster, name, record=["timestamp"], time="_timestamp")
    rows, _ = read(of, ["n"], of.pin(Window(as_of=1_003_000)))
    assert rows == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_pin_says_what_is_wrong_with_schemas(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer
) -> None:
    name = topic("faults")
    of = history(kafka_cluster, name, registry.url, format="avro")
    with pytest.raises(SchemaMismatch, match=r"must know subject 'faults-.*-value'.*ids seen: none"):
        of.pin(Window())
    with pytest.raises(RegistryUnavailable, match="Connection refused"):
        history(kafka_cluster, name, "http://127.0.0.1:1", format="avro").pin(Window())
    number = register(registry.url, f"{name}-value", "JSON", '{"type": "object"}')
    with pytest.raises(SchemaMismatch, match=f"schema id {number} must be of AVRO; it is of JSON"):
        of.pin(Window())
    register(registry.url, "union", "AVRO", json.dumps(avro_record(u=["int", "string"], price="int")))
    with pytest.raises(SchemaMismatch, match=r"u is a union of 2 types. Declare `columns` without"):
        history(kafka_cluster, name, registry.url, format="avro", subject="union").pin(Window())
    chosen = history(kafka_cluster, name, registry.url, format="avro", subject="union", columns={"price": "int32"})
    assert schema_from_text(chosen.pin(Window()).schema).names == ["price"]
    clash = topic("clash")
    write(kafka_cluster, clash, b'{"_key": 1}')
    with pytest.raises(SchemaMismatch, match="_key is in the values"):
        history(kafka_cluster, clash, record=["key"]).pin(Window())


def test_keys_of_partials_depend_on_the_fields_that_are_columns(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: RegistryServer
) -> None:
    name = topic("identity")

    def identity(schema: Any, **table: Any) -> dict[str, object]:
        register(registry.url, f"{name}-value", "AVRO", json.dumps(schema))
        of = history(kafka_cluster, name, registry.url, format="avro", **table)
        return of.reader(of.pin(Window())).identity()

    price = {"columns": {"price": "int64"}}
    less = identity(avro_record(price="long"), **price)
    assert identity(TWO, **price) == less
    assert identity(TWO) != less
    renamed = avro_record(price="long")
    renamed["fields"][0]["aliases"] = ["cents"]
    assert identity(renamed, **price) != less
    assert identity(renamed, **price, record=["key"]) != identity(renamed, **price)
