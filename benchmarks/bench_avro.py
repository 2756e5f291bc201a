"""Avro bids in the wire format: hindscan's decoders beside fastavro over the same values, and a topic of them to the bidder aggregate.

Run it with `python benchmarks/bench_avro.py [--messages N] [--bids N] [--repeats R]`. It decodes in this process and in two threads, to all 8 columns and to 4 of them,
checks that all give the same rows, and prints million messages a second (medians) and ratios to fastavro.

With `--bids N` it also starts a real Kafka and a schema registry on loopback, fills one topic with so many Avro bids and another with the same as JSON (8 partitions,
lz4), and reads them to the bidder aggregate: a consumer with fastavro, and `bidder_scan` on servers that are warm. All answers are compared; memory is that of a whole
tree of processes, what they share counted once. The broker works on the same cores.

The machine may be noisy: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa

from bench_kafka import PRELUDE, print_table, serving, timed
from hindscan.history.formats.avro import AvroDecoder, avro_columns
from hindscan.history.formats.avro_schema import parse_avro
from hindscan.history.formats.confluent import head

SCHEMA = {
    "type": "record",
    "name": "Bid",
    "fields": [
        {"name": "auction", "type": "long"},
        {"name": "bidder", "type": "long"},
        {"name": "price", "type": "long"},
        {"name": "channel", "type": "string"},
        {"name": "url", "type": "string"},
        {"name": "date_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "category", "type": ["null", "string"]},
        {"name": "extra", "type": "string"},
    ],
}
FOUR = ["bidder", "price", "date_time", "category"]
#: Messages of a batch; what a client hands over at once is of this order.
BATCH = 100_000
#: Reads the topic of Avro bids to its end and prints [rows, sum of total] of the aggregate.
FASTAVRO = """
import io
import fastavro
schema = fastavro.parse_schema(SCHEMA)
def decoded(messages):
    for message in messages:
        body = io.BytesIO(message.value())
        body.seek(5)
        yield fastavro.schemaless_reader(body, schema)
consumer = open_consumer({"fetch.queue.backoff.ms": 0})
bids = decoded(records(consumer, lambda: consumer.consume(10_000, 0.05)))
told((b["auction"], b["bidder"], b["price"]) for b in bids if b["category"] == "cars" and b["date_time"].year == 2018)
"""
PEER = "consume(10000) + fastavro"
#: Added to the project that has the topic of JSON.
PROJECT = """
[registry.default]
url = "{registry}"

[history.bids_avro]
topic = "bids_avro"
format = "avro"
time = "date_time"
"""


def messages(count: int) -> list[pa.LargeBinaryArray]:
    """Make batches of values, about 80 bytes each."""
    chance, parsed = random.Random(7), fastavro.parse_schema(SCHEMA)
    some = []
    for n in range(20_000):
        out = io.BytesIO(head(1))
        out.seek(5)
        bid = {
            "auction": 1000 + n,
            "bidder": chance.randrange(5000),
            "price": chance.randrange(10**7),
            "channel": "Google",
            "url": "https://example.com/item.htm?query=1",
            "date_time": 1_514_764_800_000_000 + n,
            "category": chance.choice(["cars", "art", None]),
            "extra": "x" * 10,
        }
        fastavro.schemaless_writer(out, parsed, bid)
        some.append(out.getvalue())
    batch = pa.array(some * (BATCH // len(some)), pa.large_binary())
    return [batch] * max(1, count // BATCH)


def hindscan(batches: list[pa.LargeBinaryArray], columns: list[str], *, compiled: bool = True) -> list[pa.Table]:
    reader = parse_avro([json.dumps(SCHEMA)])
    schema = pa.schema([avro_columns(reader)[0].field(name) for name in columns])
    decoder = AvroDecoder(schema, reader, lambda _: reader, compiled=compiled)
    return [decoder.decode(batch)[0] for batch in batches]


def in_threads(batches: list[pa.LargeBinaryArray], columns: list[str]) -> list[pa.Table]:
    found: list[list[pa.Table]] = [[], []]
    half = len(batches) // 2

    def work(at: int, part: list[pa.LargeBinaryArray]) -> None:
        found[at] = hindscan(part, columns)

    threads = [
        threading.Thread(target=work, args=(at, part)) for at, part in enumerate((batches[:half], batches[half:]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0] + found[1]


def by_message(batches: list[pa.LargeBinaryArray], columns: list[str]) -> list[pa.Table]:
    parsed = fastavro.parse_schema(SCHEMA)
    tables = []
    for batch in batches:
        rows = [fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed) for value in batch.to_pylist()]
        tables.append(pa.table({name: [row[name] for row in rows] for name in columns}))
    return tables


def over_topics(given: argparse.Namespace) -> None:
    """Measure from topics to the bidder aggregate."""
    from hindscan.kafka.registry import SchemaRegistry
    from hindscan.template import write_project
    from hindscan.testing import KafkaCluster

    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from registry_server import RegistryServer

    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with KafkaCluster() as cluster, RegistryServer() as registry, ExitStack() as servers:
        write_project(root, bids=0, bootstrap=cluster.bootstrap)
        with (root / "hindscan.toml").open("a") as file:
            file.write(PROJECT.format(registry=registry.url))
        for topic, form in (("bids", "json"), ("bids_avro", "avro")):
            generate = ["generate", "auctions", f"kafka:{topic}", "--bids", str(given.bids), "--format", form]
            command = [sys.executable, "-m", "hindscan", *generate, "--project", str(root), "--json"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        found = SchemaRegistry({"url": registry.url}).latest("bids_avro-value", "AVRO")
        assert found is not None
        written = json.loads(found[1].files[-1][1])
        code = PRELUDE.replace('"bids"', '"bids_avro"') + FASTAVRO.replace("SCHEMA", repr(written))
        ways: dict[str, Any] = {PEER: lambda: timed([sys.executable, "-c", code, cluster.bootstrap], env)}
        for history, kind in (("bids_log", "fast"), ("bids_avro", "fast"), ("bids_avro", "plain")):
            settings = {**env, "HINDSCAN_KAFKA__DEFAULT__HINDSCAN_READER": kind}
            form = "Avro" if history == "bids_avro" else "JSON"
            ways[f"hindscan, {form}, {kind}, on a server that is warm"] = servers.enter_context(
                serving(root, settings, history)
            )
        print_table("From a topic of Avro to the bidder aggregate", ways, given, PEER, once=[PEER])
    shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--bids", type=int, default=0, help="bids of the topics; none are made by default")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.messages:
        over_values(options)
    if options.bids:
        over_topics(options)


def over_values(options: argparse.Namespace) -> None:
    """Measure decoding alone."""
    batches = messages(options.messages)
    few = batches[:2]  # a tenth of it is slow enough
    everything = [field["name"] for field in SCHEMA["fields"]]
    ways = [
        ("fastavro, message by message, 8 columns", by_message, few, everything),
        ("hindscan without numba, one thread, 8 columns", partial(hindscan, compiled=False), batches, everything),
        ("hindscan without numba, one thread, 4 columns", partial(hindscan, compiled=False), batches, FOUR),
        ("hindscan, one thread, 8 columns", hindscan, batches, everything),
        ("hindscan, one thread, 4 columns", hindscan, batches, FOUR),
        ("hindscan, two threads, 8 columns", in_threads, batches, everything),
        ("hindscan, two threads, 4 columns", in_threads, batches, FOUR),
    ]
    hindscan(few, everything)
    print(
        f"{len(batches) * BATCH:,} messages; Python {platform.python_version()}, polars {version('polars')}, fastavro {version('fastavro')}\n"
    )
    print("| way | million messages/s | times fastavro |\n|---|---|---|")
    base, oracle = 0.0, None
    for name, decode, part, columns in ways:
        seconds = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            tables = decode(part, columns)
            seconds.append(time.perf_counter() - began)
        speed = len(part) * BATCH / statistics.median(seconds) / 1e6
        base = base or speed
        rows = tables[0].to_pylist()
        oracle = oracle or rows
        assert rows == [{column: row[column] for column in columns} for row in oracle], name
        print(f"| {name} | {speed:.2f} | {speed / base:.1f} |", flush=True)


if __name__ == "__main__":
    main()
