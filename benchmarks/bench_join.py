"""Two large histories joined by key: a split job beside DuckDB, and Dask DataFrame with its shuffle, on the same files.

Run it with `python benchmarks/bench_join.py [--bids N] [--auctions N]`; it writes bids and auctions once (kept under the user's cache), prints wall seconds, ratios, and
the greatest resident memory of the command and of any worker, and checks that all agree. hindscan runs three times: everything, again after one of the histories got one
more file (1 % of its rows), and again with another parameter of the join. The machine may be noisy: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from bench_by_key import measured

ROWS_PER_FILE = 1_000_000
JOB = """
import hindscan as hs

@hs.job(history="auctions", by="id", parts=16, combine="concat")
def lots(auctions):
    return auctions.arrow(["id", "seller", "reserve"])

@hs.job(history="bids", by="auction", parts=16, join={"lots": lots})
def sold(bids):
    return bids.sql("SELECT auction, count(*) AS bids, max(price) AS price FROM bids GROUP BY auction")

@sold.combine
def best(partials):
    return partials.sql("SELECT auction, sum(bids)::BIGINT AS bids, max(price) AS price FROM partials GROUP BY auction")

@sold.finish
def joined(combined, lots, least: int = 0):
    return combined.sql(
        "SELECT id AS auction, seller, bids, price FROM lots JOIN combined ON id = auction WHERE price >= reserve AND bids >= $least", least=least
    )
"""
DUCKDB = """
import duckdb
con = duckdb.connect(config={"threads": 2})
con.execute(f'''
    COPY (WITH best AS (SELECT auction, count(*) AS bids, max(price) AS price FROM read_parquet('{data}/bids/*.parquet') GROUP BY auction)
          SELECT id AS auction, seller, bids, price FROM read_parquet('{data}/auctions/*.parquet') JOIN best ON id = auction
          WHERE price >= reserve ORDER BY auction) TO '{out}' (FORMAT parquet)''')
"""
DASK = """
import dask.dataframe as dd
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        bids = dd.read_parquet(f"{data}/bids", columns=["auction", "price"])
        lots = dd.read_parquet(f"{data}/auctions", columns=["id", "seller", "reserve"])
        best = bids.groupby("auction").price.agg(["count", "max"], split_out=16).reset_index()
        joined = lots.merge(best, left_on="id", right_on="auction")
        joined = joined[joined["max"] >= joined.reserve].rename(columns={"count": "bids", "max": "price"})
        joined[["auction", "seller", "bids", "price"]].to_parquet(out)
"""


def history(bids: int, auctions: int) -> Path:
    """Give bids and auctions whose keys come in no order, made once for each size."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hindscan" / "benchmarks"
    folder = cache / f"join-{bids}-{auctions}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=cache))
    for name, rows in (("bids", bids), ("auctions", auctions)):
        for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
            write(half / name / f"{number:04}.parquet", name, range(first, min(first + ROWS_PER_FILE, rows)), auctions)
    half.rename(folder)
    return folder


def write(file: Path, name: str, rows: range, auctions: int) -> None:
    """Write some rows of a table."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(rows.start)
    # A step that has no factor in common with the number of auctions reaches all of them, far from each other.
    key = np.arange(rows.start, rows.stop) * 7_368_787 % auctions
    price = draw.integers(100, 100_000, len(rows))
    columns = (
        {"auction": key, "price": price} if name == "bids" else {"id": key, "seller": key % 10_007, "reserve": price}
    )
    file.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table(columns), file)


def project(data: Path) -> Path:
    """Make a project over the history: its files are linked, so that one more can be put beside them."""
    folder = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    (folder / "jobs").mkdir()
    (folder / "jobs" / "sold.py").write_text(JOB)
    for name in ("bids", "auctions"):
        (folder / name).mkdir()
        for file in (data / name).iterdir():
            (folder / name / file.name).symlink_to(file)
    (folder / "hindscan.toml").write_text(
        '[history.bids]\nparquet = "bids"\n[history.auctions]\nparquet = "auctions"\n'
    )
    return folder


def main() -> None:
    import duckdb

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=20_000_000)
    parser.add_argument("--auctions", type=int, default=5_000_000)
    given = parser.parse_args()
    data = history(given.bids, given.auctions)
    root = project(data)
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    rows: list[tuple[str, float, list[int]]] = []
    answers: dict[str, object] = {}

    def answer(path: str) -> object:
        return duckdb.sql(
            f"SELECT count(*), sum(auction)::BIGINT, sum(seller)::BIGINT, sum(bids)::BIGINT, sum(price)::BIGINT FROM '{path}'"
        ).fetchall()[0]

    def hindscan(label: str, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "hindscan",
            "run",
            "sold",
            "--json",
            "--workers",
            "2",
            "--project",
            str(root),
            *more,
        ]
        seconds, peaks, out = measured(command, env)
        document = json.loads(out)
        slices = document["slices"]
        rows.append((f"hindscan, {label} ({slices['computed']} of {slices['total']} slices)", seconds, peaks))
        answers[label] = answer(document["result"]["path"])

    def peer(label: str, code: str) -> None:
        out = root / f"{label.split(maxsplit=1)[0]}.parquet"
        seconds, peaks, _ = measured([sys.executable, "-c", f"data, out = {str(root)!r}, {str(out)!r}\n{code}"], env)
        rows.append((label, seconds, peaks))
        answers[label] = answer(str(out) if out.is_file() else f"{out}/*.parquet")

    hindscan("everything")
    peer("duckdb, one process", DUCKDB)
    peer("dask dataframe, two workers", DASK)
    assert len(set(answers.values())) == 1, answers
    # Bids on auctions that are there, 1 % of them.
    write(root / "bids" / "9999.parquet", "bids", range(given.bids, given.bids + given.bids // 100), given.auctions)
    hindscan("1 % more bids")
    hindscan("another parameter of the join", "-p", "least=5")
    peer("duckdb, 1 % more bids", DUCKDB)
    assert answers["1 % more bids"] == answers["duckdb, 1 % more bids"] != answers["everything"], answers
    shutil.rmtree(root)
    first = rows[0][1]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("hindscan", "duckdb", "dask", "pandas", "pyarrow"))
    print(
        f"\n{given.bids:,} bids joined with {given.auctions:,} auctions, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}; one run\n"
    )
    print(
        "| engine | wall s | of hindscan's first | peak MiB, the command | peak MiB, greatest worker |\n|---|---|---|---|---|"
    )
    for name, seconds, peaks in rows:
        worker = peaks[1] if len(peaks) > 1 else ""
        print(f"| {name} | {seconds:.1f} | {seconds / first:.2f} | {peaks[0]} | {worker} |")


if __name__ == "__main__":
    main()
