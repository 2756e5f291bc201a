"""What works on a plan: threads where they do not hinder each other, else processes."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from hindscan.config import ComputeSettings
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.record import RECORD
from hindscan.history.snapshot import Coding, KafkaSlice, ParquetSlice
from hindscan.kafka.registry import RegisteredSchema
from hindscan.workshop import kind_of_executor

READER = KafkaReader(
    config={},
    topic="bids",
    topic_id="",
    isolation="read_committed",
    format="json",
    schema=pa.schema([("n", pa.int64()), RECORD["key"]]),
    time=None,
    on_bad_record="fail",
    record=("key",),
)


def kind(
    reader: KafkaReader = READER,
    *,
    rows: int = 1_000_000,
    workers: int = 2,
    tables: tuple[str, ...] = (),
    combine_is_sql: bool = True,
    files: bool = False,
) -> str:
    """Decide over ten slices of a topic, or of files."""
    slices: list[Any]
    if files:
        slices = [
            ParquetSlice(position=n, path=f"{n}", size=1, identity="", first=0, last=1, rows=rows, bytes=200 * rows)
            for n in range(10)
        ]
    else:
        slices = [
            KafkaSlice(position=n, partition=n, start=0, end=rows, rows=rows, bytes=200 * rows) for n in range(10)
        ]
    steps = {"slice": SimpleNamespace(is_sql=True), "combine": SimpleNamespace(is_sql=combine_is_sql)}
    plan: Any = SimpleNamespace(
        stages=[SimpleNamespace(slices=slices, reused=frozenset(), table="bids")],
        job_of=lambda _: SimpleNamespace(tables=tables, steps=steps),
    )
    cost = SimpleNamespace(bytes_to_read=2000 * rows)
    prepared: Any = SimpleNamespace(plan=plan, cost=cost, readers={"bids": reader})
    return kind_of_executor(ComputeSettings(), prepared, workers)


def avro(*types: Any) -> KafkaReader:
    """Make the reader of a topic of Avro with a field `n` of the first type, which alone is a column."""
    fields = [{"name": name, "type": each} for name, each in zip("nm", types, strict=False)]
    text = json.dumps({"type": "record", "name": "r", "fields": fields})
    coding = Coding(registry=None, reader=RegisteredSchema(kind="AVRO", files=(("schema", text),)))
    return dataclasses.replace(READER, format="avro", coding=coding)


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.kafka.fast._unavailable", lambda: None)


def test_a_topic_that_compiled_loops_read_for_statements_of_sql_is_done_by_threads() -> None:
    assert kind() == "threads"
    assert kind(workers=4) == "threads"
    assert kind(avro("long", "string")) == "threads"
    assert kind(dataclasses.replace(READER, format="bytes")) == "threads"
    assert kind(dataclasses.replace(READER, format="jsonschema")) == "threads"


def test_files_are_done_by_threads_for_statements_of_sql() -> None:
    assert kind(files=True, tables=("auctions",)) == "threads"
    assert kind(files=True, combine_is_sql=False) == "processes"
    assert kind(files=True, workers=5) == "processes"


def test_a_small_run_is_done_by_threads_whatever_it_does() -> None:
    assert kind(rows=1000, combine_is_sql=False) == "threads"


def test_what_holds_the_interpreters_lock_is_done_by_processes() -> None:
    nested = pa.schema([("n", pa.list_(pa.int64()))])
    headers = pa.schema([("n", pa.int64()), RECORD["headers"]])
    assert kind(combine_is_sql=False) == "processes"
    assert kind(tables=("auctions",)) == "processes"
    assert kind(workers=5) == "processes"
    assert kind(rows=100_000) == "processes", "read by the plain client, as starting the other takes longer"
    assert kind(dataclasses.replace(READER, config={"hindscan.reader": "plain"})) == "processes"
    assert kind(dataclasses.replace(READER, format="protobuf")) == "processes"
    assert kind(dataclasses.replace(READER, format="arrow")) == "processes"
    assert kind(avro("long", ["long", "string"])) == "processes", "read by an engine of Python objects"
    assert kind(avro({"type": "array", "items": "long"})) == "processes"
    assert kind(dataclasses.replace(READER, schema=nested, record=())) == "processes"
    assert kind(dataclasses.replace(READER, schema=headers, record=("headers",))) == "processes"


def test_without_the_compiler_a_topic_is_read_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.kafka.fast._unavailable", lambda: "numba is not installed")
    assert kind() == "processes"
