"""A result with as many rows as there are bidders: a job split by key beside the same job unsplit, DuckDB and Polars, on the same files.

Run it with `python benchmarks/bench_by_key.py [--bidders N] [--bids N]`; it writes bids of ten million bidders once (kept under the user's cache), prints wall
seconds and the greatest resident memory of the command and of any worker, and checks that all agree. The machine may be noisy: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

ROWS_PER_GROUP = 1_000_000
JOB = """
import hindscan as hs

def bids_of(bids):
    return bids.sql('''
        SELECT bidder, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top, min(date_time) AS first, max(date_time) AS last
        FROM bids GROUP BY bidder
    ''')

def merge(partials):
    return partials.sql('''
        SELECT bidder, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total, max(top) AS top, min(first) AS first, max(last) AS last
        FROM partials GROUP BY bidder
    ''')

def done(combined):
    return combined.sql("SELECT *, total / bids AS mean FROM combined ORDER BY bidder")

split = hs.job(history="bids", by="bidder", name="split")(bids_of)
unsplit = hs.job(history="bids", name="unsplit")(bids_of)
for job in (split, unsplit):
    job.combine(merge)
    job.finish(done)
"""
PEERS = {
    "duckdb": """
import duckdb
con = duckdb.connect(config={"threads": 2})
con.execute(f'''
    COPY (SELECT bidder, count(*) bids, sum(price)::BIGINT total, max(price) top, min(date_time), max(date_time), sum(price) / count(*) mean
          FROM read_parquet('{data}/*.parquet') GROUP BY bidder ORDER BY bidder) TO '{out}' (FORMAT parquet)''')
""",
    "polars streaming": """
import polars as pl
(pl.scan_parquet(f"{data}/*.parquet").group_by("bidder")
    .agg(pl.len().alias("bids"), pl.col("price").sum().alias("total"), pl.col("price").max().alias("top"),
    pl.col("date_time").min().alias("first"), pl.col("date_time").max().alias("last"))
    .with_columns((pl.col("total") / pl.col("bids")).alias("mean")).sort("bidder").sink_parquet(out))
""",
}


def history(bidders: int, bids: int) -> Path:
    """Give bids whose bidders come in no order, made once for each size."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hindscan" / "benchmarks"
    folder = cache / f"bidders-{bidders}-{bids}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=cache))
    draw = np.random.default_rng(7)
    schema = pa.schema({"bidder": pa.int64(), "price": pa.int64(), "date_time": pa.timestamp("us", "UTC")})
    with pq.ParquetWriter(half / "bids.parquet", schema) as writer:
        for first in range(0, bids, ROWS_PER_GROUP):
            rows = np.arange(first, min(first + ROWS_PER_GROUP, bids))
            # A step that has no factor in common with the number of bidders reaches all of them, far from each other.
            who = rows * 7_368_787 % bidders
            columns = [who, draw.integers(100, 100_000, len(rows)), rows * 1_000_000]
            arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    half.rename(folder)
    return folder


def project(data: Path) -> Path:
    """Make a project over the history, without copying it."""
    folder = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    (folder / "jobs").mkdir()
    (folder / "jobs" / "by_key.py").write_text(JOB)
    (folder / "hindscan.toml").write_text(f'[history.bids]\nparquet = "{data}"\ntime = "date_time"\n')
    return folder


def measured(command: list[str], env: dict[str, str]) -> tuple[float, list[int], str]:
    """Run a command; give wall seconds, the peak MiB of each of its processes (its own first), and what it printed."""
    began = time.perf_counter()
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                for pid in family(process.pid):
                    peaks[pid] = max(peaks.get(pid, 0), peak_of(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = process.communicate()
        ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    own = peaks.pop(process.pid, 0)
    return time.perf_counter() - began, [own, *sorted(peaks.values(), reverse=True)], out


def family(pid: int) -> list[int]:
    """Give a process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    found = {int(child) for child in (*children, *(c for of_thread in threads for c in of_thread))}
    return [pid, *(one for child in found for one in family(child))]


def peak_of(pid: int) -> int:
    """Give the greatest resident memory of a process so far, in MiB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


def main() -> None:
    import duckdb

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bidders", type=int, default=10_000_000)
    parser.add_argument("--bids", type=int, default=20_000_000)
    given = parser.parse_args()
    data = history(given.bidders, given.bids)
    root = project(data)
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    lines, answers = [], {}
    for name in ("split", "unsplit"):
        command = [sys.executable, "-m", "hindscan", "run", name, "--json", "--fresh", "--project", str(root)]
        seconds, peaks, out = measured(command, env)
        path = json.loads(out)["result"]["path"]
        answers[name] = duckdb.sql(f"SELECT count(*), sum(total)::BIGINT, sum(top)::BIGINT FROM '{path}'").fetchall()[0]
        lines.append(f"| hindscan, {name} | {seconds:.1f} | {peaks[0]} | {peaks[1]} |")
    for name, code in PEERS.items():
        path = str(root / "peer.parquet")
        seconds, peaks, _ = measured([sys.executable, "-c", f"data, out = {str(data)!r}, {path!r}\n{code}"], env)
        answers[name] = duckdb.sql(f"SELECT count(*), sum(total)::BIGINT, sum(top)::BIGINT FROM '{path}'").fetchall()[0]
        lines.append(f"| {name}, one process | {seconds:.1f} | {peaks[0]} | |")
    shutil.rmtree(root)
    assert len(set(answers.values())) == 1, answers
    libraries = ", ".join(f"{name} {version(name)}" for name in ("hindscan", "duckdb", "polars", "pyarrow"))
    print(
        f"\n{given.bids:,} bids of {given.bidders:,} bidders, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}; one run\n"
    )
    print("| engine | wall s | peak MiB, the command | peak MiB, greatest worker |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
