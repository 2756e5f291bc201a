"""A storm of events, and the first event after a `kill -9`.

Run it with `python benchmarks/bench_intake.py [--events 100000] [--restarts 5] [--profile]`. Records as a listener hands them on (1,000 a batch, structured
CloudEvents of about 200 bytes) are read, decided and recorded in a SQLite store with their runs, in a process of its own for each kind; beside them, in the same
process, the very same rows are put into tables of the same kind by plain `executemany`, in transactions as large. Ratios of one run mean something; so does CPU
time on a machine that others use too, and the best batch, which is what the machine does when nobody else is there.

The restart: a real `hindscan serve`, killed and started again while a client tries; seconds from the start of the process to the answer to the first event,
which is recorded then; and the CPU seconds of that process and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

BATCH = 1_000

PROJECT = """[history.marks]
parquet = "marks"
time = "at"
[kafka.default]
"bootstrap.servers" = "127.0.0.1:1"
[triggers.scan]
on = ON
filter = { exact = { type = "auction.closed" } }
job = "mark"
parameters = { category = "data.category", year = { path = "data.year", default = 2018 } }
[serve]
port = PORT
"""

JOB = '''import hindscan as hs


@hs.job(history="marks", combine="concat")
def mark(marks, category: str, year: int = 2018):
    """Nothing: every slice gives the same row."""
    return {"n": 1}
'''


def make_site(root: Path, on: str, port: int = 0) -> None:
    """Make the project: one history, one job, one trigger."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "marks").mkdir()
    (root / "jobs").mkdir()
    pq.write_table(pa.table({"at": pa.array([0], pa.timestamp("us", "UTC"))}), root / "marks" / "m.parquet")
    (root / "hindscan.toml").write_text(PROJECT.replace("ON", json.dumps(on)).replace("PORT", str(port)))
    (root / "jobs" / "mark.py").write_text(JOB)


def event(number: int, type: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"auction-{number}",
        "source": "/auctions",
        "type": type,
        "time": "2019-05-06T07:08:09Z",
        "datacontenttype": "application/json",
        "data": {"category": "cars", "year": 2018, "price": number},
    }


def batches(events: int, type: str) -> Iterator[list[Any]]:
    """Give batches as a listener would."""
    from hindscan.events.received import Unread, received_from_kafka

    headers = (("content-type", b"application/cloudevents+json"),)
    for first in range(0, events, BATCH):
        batch = []
        for number in range(first, first + BATCH):
            value = json.dumps(event(number, type)).encode()
            at = {"key": None, "cluster": "default", "topic": "closings", "topic_id": "i", "partition": 0, "offset": number, "record_time": 5}  # fmt: skip
            batch.append(
                Unread(body=value, headers=headers, read=partial(received_from_kafka, value, headers, **at), **at)
            )  # type: ignore[arg-type]
        yield batch


def plain_inserts(folder: Path) -> float:
    """Put the rows that were recorded into equal tables by `executemany`; give the CPU seconds."""
    source = sqlite3.connect(folder / ".hindscan" / "hindscan.db")
    target = sqlite3.connect(folder / "plain.db", isolation_level=None)
    target.execute("PRAGMA journal_mode=WAL")
    target.execute("PRAGMA synchronous=FULL")
    tables = ("events", "decisions", "runs")
    for kind in ("table", "index"):
        made = "SELECT sql FROM sqlite_master WHERE type = ? AND tbl_name IN (?, ?, ?) AND sql IS NOT NULL"
        for (statement,) in source.execute(made, (kind, *tables)):
            target.execute(statement)
    rows = {table: source.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    began = time.process_time()
    for first in range(0, len(rows["events"]), BATCH):
        target.execute("BEGIN IMMEDIATE")
        for table in tables:
            some = rows[table][first : first + BATCH]
            if some:
                target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(some[0]))})", some)
        target.execute("COMMIT")
    return time.process_time() - began


def storm(events: int, type: str, *, profiled: bool) -> dict[str, float]:
    """Record a storm in this process."""
    import cProfile
    import pstats

    from hindscan.config_file import load_project
    from hindscan.intake import Intake
    from hindscan.workshop import open_workshop

    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    make_site(root, "kafka:closings")
    walls, cpus, memory = [], [], []
    profile = cProfile.Profile()
    with open_workshop(load_project(root, {})) as workshop:
        intake = Intake(workshop.project, workshop.store, {"mark": workshop.job("mark")[0]})
        for batch in batches(events, type):
            wall, cpu = time.perf_counter(), time.process_time()
            if profiled:
                profile.enable()
            recorded = intake.take(batch)
            profile.disable()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            assert len(recorded) == BATCH
        with workshop.store.read() as connection:
            runs = connection.exec_driver_sql("SELECT count(*), count(DISTINCT event_id) FROM runs").one()
            assert tuple(runs) == ((events, events) if type == "auction.closed" else (0, 0)), runs
    if profiled:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    return {
        "wall": sum(walls),
        "cpu": sum(cpus),
        "best": min(cpus),
        "plain": plain_inserts(root),
        "early": memory[len(memory) // 5],
        "most": memory[-1],
    }


def restart(root: Path, port: int) -> tuple[float, float]:
    """Start the server, send the first event as soon as it is let in, and kill it; give the seconds until the answer, and of CPU until its end."""
    number = time.monotonic_ns()
    body = json.dumps(event(number, "auction.closed")).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/events", body, {"content-type": "application/cloudevents+json"}
    )
    with (root / "serve.log").open("ab") as log:
        began, before = time.perf_counter(), children_seconds()
        process = subprocess.Popen(
            [sys.executable, "-m", "hindscan", "serve", "--project", str(root)], stdout=log, stderr=log
        )
    try:
        while (seconds := answered(asked, began)) is None:
            assert process.poll() is None, "see serve.log"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    return seconds, children_seconds() - before


def answered(asked: urllib.request.Request, began: float) -> float | None:
    """Send the event; give the seconds since it began, or None where nobody listens yet."""
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.load(answer)["runs"], "a run was opened"
    except urllib.error.URLError as fault:
        if not isinstance(fault.reason, ConnectionError):
            raise
        return None
    return time.perf_counter() - began


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(storm(given.events, given.only, profiled=given.profile)))
        return
    print(
        f"{'events':<22} {'events/s':>9} {'by CPU/s':>9} {'best batch/s':>13} {'x executemany':>14} {'MB at a fifth':>14} {'MB at the end':>14}"
    )
    for name, type in (("all match, with runs", "auction.closed"), ("no trigger matches", "auction.opened")):
        command = [sys.executable, __file__, "--events", str(given.events), "--only", type]
        command += ["--profile"] if given.profile else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ})
        m = json.loads(done.stdout)
        print(
            f"{name:<22} {given.events / m['wall']:>9,.0f} {given.events / m['cpu']:>9,.0f} {BATCH / m['best']:>13,.0f} "
            f"{m['cpu'] / m['plain']:>14.1f} {m['early']:>14.0f} {m['most']:>14.0f}",
            flush=True,
        )
    root, port = Path(tempfile.mkdtemp(prefix="hindscan-bench-")), free_port()
    make_site(root, "http", port)
    # The first start makes the store and compiles what was never compiled.
    restarts = sorted([restart(root, port) for _ in range(given.restarts + 1)][1:])
    if restarts:
        walls, cpus = zip(*restarts, strict=True)
        print(
            f"restart to the first event, s: best {walls[0]:.2f}, median {walls[len(walls) // 2]:.2f}; CPU, least: {min(cpus):.2f}"
        )


if __name__ == "__main__":
    main()
