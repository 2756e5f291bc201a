"""The bidder scan over Parquet: hindscan beside DuckDB, Polars and Dask DataFrame, on the same files, each as a whole process.

Run it with `python benchmarks/bench_scan.py [--bids N] [--repeats R]`; it generates the history once (kept under the user's cache),
prints wall and CPU seconds and ratios to DuckDB's
single process, and checks that all engines agree. The machine may be noisy: only ratios of one run mean anything.
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
import time
from importlib.metadata import version
from pathlib import Path

#: Each prints [rows, sum of total] so that answers can be compared.
PEERS = {
    "duckdb, one process": """
import duckdb, json
con = duckdb.connect(config={"threads": 2})
print(json.dumps(con.execute(f'''
    SELECT count(*), sum(total)::BIGINT FROM (
        SELECT bidder, count(*) bids, count(DISTINCT auction) auctions, sum(price) total, max(price) top, min(date_time), max(date_time)
        FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = true)
        WHERE category = 'cars' AND year = 2018 GROUP BY bidder)''').fetchone()))
""",
    "polars streaming, one process": """
import json, polars as pl
bids = pl.scan_parquet(f"{data}/bids/**/*.parquet", hive_partitioning=True)
out = (bids.filter((pl.col("category") == "cars") & (pl.col("year") == 2018)).group_by("bidder", "auction")
    .agg(pl.len().alias("n"), pl.col("price").sum().alias("total"), pl.col("price").max().alias("top"))
    .group_by("bidder").agg(pl.col("n").sum(), pl.len().alias("auctions"), pl.col("total").sum(), pl.col("top").max())
    .collect(engine="streaming"))
print(json.dumps([len(out), int(out["total"].sum())]))
""",
    "dask dataframe, threads": """
import json, dask.dataframe as dd
bids = dd.read_parquet(f"{data}/bids", columns=["bidder", "auction", "price", "category", "year"], filters=[("category", "==", "cars"), ("year", "==", 2018)])
cars = bids[bids.category == "cars"]
pairs = cars.groupby(["bidder", "auction"]).price.agg(["count", "sum", "max"]).reset_index()
out = pairs.groupby("bidder").agg({"count": "sum", "auction": "count", "sum": "sum", "max": "max"}).compute(scheduler="threads")
print(json.dumps([len(out), int(out["sum"].sum())]))
""",
}
SCAN = ("run", "bidder_scan", "-p", "category=cars", "-p", "year=2018", "--json")


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """Run a whole process; give wall seconds, CPU seconds of it and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def history(bids: int) -> Path:
    """Give the generated history, made once for each size."""
    from hindscan.generate import generate_auctions

    cache = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hindscan" / "benchmarks" / f"auctions-{bids}"
    )
    if not cache.is_dir():
        generate_auctions(str(cache), bids=bids, seed=7)
    return cache


def project(data: Path) -> Path:
    """Make a project over the history, without copying it."""
    from hindscan.template import write_project

    folder = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    write_project(folder, bids=0)
    (folder / "data").symlink_to(data)
    return folder


def answer_of(out: str) -> list[int]:
    """Read back what hindscan computed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(json.loads(out)["result"]["path"])
    return [table.num_rows, pc.sum(table["total"]).as_py()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    data = history(given.bids)
    root = project(data)
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    hindscan = [sys.executable, "-m", "hindscan", *SCAN, "--project", str(root)]
    candidates = {name: [sys.executable, "-c", f"data = {str(data)!r}\n{code}"] for name, code in PEERS.items()}
    candidates["hindscan, first run"] = [*hindscan, "--fresh"]
    candidates["hindscan, first run, verify off"] = [*hindscan, "--fresh"]
    candidates["hindscan, second run"] = hindscan
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    answers: dict[str, list[int]] = {}
    for _ in range(given.repeats):
        for name, command in candidates.items():
            # Checksums cost something: the peers do not verify theirs, so both figures are shown.
            more = {"HINDSCAN_HISTORY__BIDS__VERIFY": "false"} if "verify off" in name else {}
            wall, cpu, out = timed(command, {**env, **more})
            figures[name].append((wall, cpu))
            answers[name] = answer_of(out) if name.startswith("hindscan") else json.loads(out)
    shutil.rmtree(root)
    assert len({tuple(answer) for answer in answers.values()}) == 1, answers
    base = statistics.median(wall for wall, _ in figures["duckdb, one process"])
    libraries = ", ".join(f"{name} {version(name)}" for name in ("hindscan", "duckdb", "polars", "dask", "pyarrow"))
    print(
        f"\n{given.bids:,} bids, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}; whole processes, medians of {given.repeats}\n"
    )
    print("| engine | wall s | CPU s | x duckdb |\n|---|---|---|---|")
    for name, runs in figures.items():
        wall, cpu = statistics.median(w for w, _ in runs), statistics.median(c for _, c in runs)
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {wall / base:.2f} |")


if __name__ == "__main__":
    main()
