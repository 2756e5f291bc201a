"""A registry that others wrote: evolution, references and what is not there, by the protocol as Apicurio speaks it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apicurio import Apicurio, application
from hindscan.errors import HindscanError
from hindscan.history.formats.confluent import head
from hindscan.history.snapshot import Window
from hindscan.kafka.registry import SchemaRegistry
from hindscan.testing import KafkaCluster
from integration.history.test_formats import avro, history, read, set_aside, write

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

MakeTopic = Callable[..., str]


@pytest.fixture(scope="module")
def registry(kafka_cluster: KafkaCluster) -> Iterator[Apicurio]:
    """Start it; the cluster is asked for first, since what it needs is what this one needs.

    Where 158 MB of it cannot be fetched the tests are skipped in CI, too: the protocol as `registry_server` speaks it is tested there all the same.
    """
    try:
        application()
    except (RuntimeError, HindscanError) as fault:
        pytest.skip(f"Apicurio: {fault}")
    with Apicurio() as server:
        yield server


def register(registry: Apicurio, subject: str, kind: str, schema: object, **references: str) -> int:
    """Register as producers do; `references` names the subject of each schema that this one refers to."""
    refers = [{"name": name, "subject": of, "version": 1} for name, of in references.items()]
    body = json.dumps({"schema": json.dumps(schema), "schemaType": kind, "references": refers}).encode()
    asked = urllib.request.Request(
        f"{registry.url}/subjects/{subject}/versions",
        body,
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return int(json.load(answer)["id"])


def record(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": f"shop.{name}", "fields": [{"name": n, "type": t} for n, t in fields.items()]}


def test_avro_with_a_schema_in_another_subject_evolves_within_one_range(
    kafka_cluster: KafkaCluster, topic: MakeTopic, registry: Apicurio
) -> None:
    name = topic("apicurio-avro")
    place = record("Place", city="string")
    refers = {"shop.Place": f"{name}-place"}
    versions = [
        record("Bid", price="int", at="shop.Place"),
        record("Bid", price="long", at="shop.Place", web=["null", "string"]),
    ]
    versions[1]["fields"][2]["default"] = None
    register(registry, f"{name}-place", "AVRO", place)
    ids = [register(registry, f"{name}-value", "AVRO", one, **refers) for one in versions]
    whole = [
        {**one, "fields": [one["fields"][0], {"name": "at", "type": place}, *one["fields"][2:]]} for one in versions
    ]
    values = [
        head(ids[0]) + avro(whole[0], price=1, at={"city": "Ulm"}),
        head(ids[1]) + avro(whole[1], price=2**40, at={"city": "Bonn"}, web="w"),
    ]
    write(kafka_cluster, name, *values, head(987_654) + b"x", values[0])
    of = history(kafka_cluster, name, registry.url, format="avro")
    pin = of.pin(Window())
    assert pin.schema_from == f"schema id {ids[1]} of registry default"
    rows, proofs = read(of, pin=pin)
    old = {"price": 1, "at": {"city": "Ulm"}, "web": None}
    assert rows == [old, {"price": 2**40, "at": {"city": "Bonn"}, "web": "w"}, old]
    assert set_aside(proofs) == ["0:2: schema id 987654 is not in registry default"]


def test_json_schema_with_a_reference(kafka_cluster: KafkaCluster, topic: MakeTopic, registry: Apicurio) -> None:
    name = topic("apicurio-json")
    place = {"$id": "place.json", "type": "object", "properties": {"city": {"type": "string"}}}
    register(registry, f"{name}-place", "JSON", place)
    bid = {"type": "object", "properties": {"n": {"type": "integer"}, "at": {"$ref": "place.json"}}}
    number = register(registry, f"{name}-value", "JSON", bid, **{"place.json": f"{name}-place"})
    write(kafka_cluster, name, *(head(number) + json.dumps({"n": n, "at": {"city": "Ulm"}}).encode() for n in range(3)))
    rows, _ = read(history(kafka_cluster, name, registry.url, format="jsonschema"))
    assert rows == [{"n": n, "at": {"city": "Ulm"}} for n in range(3)]


def test_what_is_not_there_is_none(registry: Apicurio) -> None:
    asked = SchemaRegistry({"url": registry.url})
    assert asked.schema(987_654, "AVRO") is None
    assert asked.latest("nobody-value", "AVRO") is None
