"""Decoding Avro bids in the wire format to columns: hindscan's decoder beside fastavro, message by message, over the same values.

Run it with `python benchmarks/bench_avro.py [--messages N] [--repeats R]`. It decodes in this process and in two threads, to all 8 columns and to 4 of them, checks that
all give the same rows, and prints million messages a second (medians) and ratios to fastavro. The machine may be noisy: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import random
import statistics
import threading
import time
from importlib.metadata import version

import fastavro
import pyarrow as pa

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


def hindscan(batches: list[pa.LargeBinaryArray], columns: list[str]) -> list[pa.Table]:
    reader = parse_avro([json.dumps(SCHEMA)])
    schema = pa.schema([avro_columns(reader)[0].field(name) for name in columns])
    decoder = AvroDecoder(schema, reader, lambda _: reader)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    batches = messages(options.messages)
    few = batches[:2]  # a tenth of it is slow enough
    everything = [field["name"] for field in SCHEMA["fields"]]
    ways = [
        ("fastavro, message by message, 8 columns", by_message, few, everything),
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
