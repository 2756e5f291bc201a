"""A registry's answers, and the ways in which it gives none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from hindscan.errors import HindscanError, RegistryUnavailable, UsageError
from hindscan.kafka.registry import RegisteredSchema, SchemaRegistry
from registry_server import RegistryServer


def avro(text: object) -> RegisteredSchema:
    return RegisteredSchema(kind="AVRO", files=(("own", json.dumps(text)),))


MONEY = {"type": "record", "name": "Money", "fields": [{"name": "cents", "type": "long"}]}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.mark.parametrize("mock", [True, False])
def test_schemas_are_found_by_id_and_by_subject(server: RegistryServer, mock: bool) -> None:
    # The mock lives as long as the process: another name is another registry.
    registry = SchemaRegistry({"url": "mock://by-id" if mock else server.url})
    first, second = registry.register("a-value", avro("int")), registry.register("a-value", avro(MONEY))
    assert first != second
    found = registry.schema(first, "AVRO")
    assert found is not None
    assert (found.kind, found.files[-1][1]) == ("AVRO", '"int"')
    latest = registry.latest("a-value", "AVRO")
    assert latest is not None
    assert (latest[0], json.loads(latest[1].files[-1][1])) == (second, MONEY)
    assert registry.schema(99, "AVRO") is None
    assert registry.latest("b-value", "AVRO") is None


def test_a_schema_is_fetched_once_in_a_process(server: RegistryServer) -> None:
    number = SchemaRegistry({"url": server.url}).register("a-value", avro("int"))
    for _ in range(3):
        assert SchemaRegistry({"url": server.url}).schema(number, "AVRO") is not None
    assert [path for method, path in server.requests if method == "GET"] == [f"/schemas/ids/{number}"]


def test_the_latest_version_is_asked_for_anew_each_time(server: RegistryServer) -> None:
    registry = SchemaRegistry({"url": server.url})
    server.register("a-value", {"schema": '"int"'})
    first = registry.latest("a-value", "AVRO")
    server.register("a-value", {"schema": '"long"'})
    second = registry.latest("a-value", "AVRO")
    assert first is not None
    assert second is not None
    assert (first[1].files[-1][1], second[1].files[-1][1]) == ('"int"', '"long"')


def test_what_a_schema_refers_to_comes_before_it(server: RegistryServer) -> None:
    server.register("money", {"schema": json.dumps(MONEY)})
    order = {"type": "record", "name": "Order", "fields": [{"name": "net", "type": "Money"}]}
    references = [{"name": "Money", "subject": "money", "version": 1}]
    number = server.register("o-value", {"schema": json.dumps(order), "references": references})
    found = SchemaRegistry({"url": server.url}).schema(number, "AVRO")
    assert found is not None
    assert [json.loads(text)["name"] for _, text in found.files] == ["Money", "Order"]


def test_protobuf_schemas_come_as_descriptors(server: RegistryServer) -> None:
    registry = SchemaRegistry({"url": server.url})
    number = registry.register("p-value", RegisteredSchema(kind="PROTOBUF", files=(("p", "CgFw"),)))
    found = registry.schema(number, "PROTOBUF")
    assert found == RegisteredSchema(kind="PROTOBUF", files=((str(number), "CgFw"),))


def test_a_registry_that_does_not_answer_is_unavailable_and_tells_no_secret() -> None:
    registry = SchemaRegistry({"url": "http://me:hush@127.0.0.1:1"}, "prod")
    with pytest.raises(RegistryUnavailable) as refused:
        registry.latest("a-value", "AVRO")
    assert str(refused.value) == (
        "While asking registry prod for subject 'a-value': the registry at http://127.0.0.1:1 must answer; it did not: "
        "[Errno 111] Connection refused. Check that it runs and that `url` in [registry.prod] names it."
    )
    assert refused.value.__cause__ is None
    assert (refused.value.exit_code, refused.value.retryable) == (3, True)


def test_a_fault_of_the_server_is_tried_again_and_then_unavailable(server: RegistryServer) -> None:
    registry = SchemaRegistry({"url": server.url, "retries.wait.ms": 1, "retries.max.wait.ms": 2})
    number = registry.register("a-value", avro("int"))
    server.broken[:] = [500]
    assert registry.schema(number, "AVRO") is not None
    server.broken[:] = [503] * 9
    with pytest.raises(RegistryUnavailable, match="Error in the backend"):
        registry.schema(number + 1, "AVRO")


def test_a_refusal_is_neither_unavailable_nor_unknown() -> None:
    with RegistryServer(user="me:right") as server:
        good = SchemaRegistry({"url": server.url, "basic.auth.user.info": "me:right"})
        assert good.schema(1, "AVRO") is None
        bad = SchemaRegistry({"url": server.url, "basic.auth.user.info": "me:hush"})
        with pytest.raises(HindscanError, match="refused with status 401") as refused:
            bad.schema(1, "AVRO")
        assert not isinstance(refused.value, RegistryUnavailable)
        assert "hush" not in str(refused.value)


def test_a_404_of_something_that_is_no_registry_is_a_refusal(server: RegistryServer) -> None:
    with pytest.raises(HindscanError, match="refused with status 404"):
        SchemaRegistry({"url": server.url + "/elsewhere"}).schema(1, "AVRO")


def test_settings_that_the_client_does_not_take_are_said_without_their_values() -> None:
    with pytest.raises(UsageError, match=r"in \[registry.default\] must be those of .*nonsense") as refused:
        SchemaRegistry({"url": "mock://", "nonsense": "hush"}).schema(1, "AVRO")
    assert "hush" not in str(refused.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("confluent_kafka.schema_registry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cachetools", None)
    with pytest.raises(UsageError, match=r"pip install 'hindscan\[registry\]'"):
        SchemaRegistry({"url": "mock://extra"}).schema(1, "AVRO")
