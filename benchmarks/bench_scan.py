"""The bidder scan over Parquet: hindscan beside DuckDB, Polars, Dask DataFrame and PySpark, on the same files, warm and as whole processes.

Run it with `python benchmarks/bench_scan.py [--bids N] [--repeats R] [--peers PYTHON]`. It draws the sample site's history into 72 files of a temporary folder, two for
each month, and asks all of them the same question in two forms: bids, distinct auctions, total and maximum of every bidder on cars in 2018, with the category in
the bids, and joined from the auctions. Every engine gets a process of its own for each form, which answers once cold and then warm as often as asked; what
is printed are wall seconds, the warm ones medians, and how many times as long they are as those of DuckDB. All answers are compared.

hindscan runs as it does on a server: the project and its workers stay open, and the time is from the request to the published result. It computes an SQL job
(in DuckDB) and a Polars job, first anew, with and without the verification that the peers do not have, then again with every slice reused, then with one per cent
more data. PySpark is taken from another interpreter (`make peers`); without one it is left out. The machine may be noisy: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 131_072
FORMS = {"bids": "category in the bids", "joined": "joined from the auctions"}

#: Around each peer: `ask(form)` gives the table, as Arrow or pandas has it, one row for each bidder, sorted by bidder. The clock is the machine's, so that the start of
#: the process counts.
PEER = """
import json, sys, time
data, form, repeats, began = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
{code}
tables, seconds = [ask(form)], [time.monotonic() - began]
for _ in range(repeats):
    began = time.monotonic()
    tables.append(ask(form))
    seconds.append(time.monotonic() - began)
import pyarrow as pa, pyarrow.compute as pc
def told(table):
    table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table)
    return [table.num_rows, *(int(pc.sum(table[name]).as_py()) for name in ("bids", "auctions", "total", "top"))]
answers = [told(table) for table in tables]
assert len({{tuple(a) for a in answers}}) == 1, answers
print(json.dumps({{"answer": answers[0], "whole": seconds[0], "warm": seconds[1:]}}))
"""
DASK = """
import dask.dataframe as dd
def ask(form):
    filters, columns = [("year", "==", 2018)], ["bidder", "auction", "price", "year"]
    if form == "joined":
        cars = dd.read_parquet(f"{{data}}/auctions", columns=["id", "category"], filters=[("category", "==", "cars")])
        bids = dd.read_parquet(f"{{data}}/bids", columns=columns, filters=filters)
        bids = bids.merge(cars[cars.category == "cars"].compute(scheduler={scheduler})[["id"]], left_on="auction", right_on="id")
    else:
        bids = dd.read_parquet(f"{{data}}/bids", columns=[*columns, "category"], filters=[*filters, ("category", "==", "cars")])
        bids = bids[bids.category == "cars"]
    pairs = bids.groupby(["bidder", "auction"]).price.agg(["count", "sum", "max"]).reset_index()
    out = pairs.groupby("bidder").agg({{"count": "sum", "auction": "count", "sum": "sum", "max": "max"}}).compute(scheduler={scheduler})
    return out.sort_index().rename(columns={{"count": "bids", "auction": "auctions", "sum": "total", "max": "top"}})
"""
PEERS = {
    "DuckDB": """
import duckdb
con = duckdb.connect(config={"threads": 2})
CARS = {"bids": "category = 'cars'", "joined": f"auction IN (SELECT id FROM read_parquet('{data}/auctions/*.parquet') WHERE category = 'cars')"}
def ask(form):
    return con.sql(f'''
        SELECT bidder, sum(bids)::BIGINT AS bids, count(*) AS auctions, sum(total)::BIGINT AS total, max(top) AS top FROM (
            SELECT bidder, auction, count(*) AS bids, sum(price) AS total, max(price) AS top
            FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = true) WHERE year = 2018 AND {CARS[form]} GROUP BY ALL)
        GROUP BY bidder ORDER BY bidder''').to_arrow_table()
""",
    "DuckDB, count(DISTINCT)": """
import duckdb
con = duckdb.connect(config={"threads": 2})
CARS = {"bids": "category = 'cars'", "joined": f"auction IN (SELECT id FROM read_parquet('{data}/auctions/*.parquet') WHERE category = 'cars')"}
def ask(form):
    return con.sql(f'''
        SELECT bidder, count(*) AS bids, count(DISTINCT auction) AS auctions, sum(price)::BIGINT AS total, max(price) AS top
        FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = true) WHERE year = 2018 AND {CARS[form]} GROUP BY bidder ORDER BY bidder''').to_arrow_table()
""",
    "Polars, streaming": """
import polars as pl
def ask(form):
    bids = pl.scan_parquet(f"{data}/bids/**/*.parquet", hive_partitioning=True).filter(pl.col("year") == 2018)
    if form == "joined":
        cars = pl.scan_parquet(f"{data}/auctions/*.parquet").filter(pl.col("category") == "cars")
        bids = bids.join(cars, left_on="auction", right_on="id", how="semi")
    else:
        bids = bids.filter(pl.col("category") == "cars")
    return (bids.group_by("bidder", "auction").agg(pl.len().alias("bids"), pl.col("price").sum().alias("total"), pl.col("price").max().alias("top"))
        .group_by("bidder").agg(pl.col("bids").sum(), pl.len().alias("auctions"), pl.col("total").sum(), pl.col("top").max())
        .sort("bidder").collect(engine="streaming").to_arrow())
""",
    "Dask DataFrame, threads": DASK.format(scheduler='"threads"'),
    "Dask DataFrame, 2 processes": """
from distributed import Client
client = Client(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
"""
    + DASK.format(scheduler="client"),
}
SPARK = """
from pyspark.sql import SparkSession, functions as F
spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).config("spark.sql.shuffle.partitions", 4)
    .config("spark.driver.memory", "4g").config("spark.log.level", "ERROR").getOrCreate())
def ask(form):
    bids = spark.read.parquet(f"{data}/bids").where("year = 2018")
    if form == "joined":
        cars = spark.read.parquet(f"{data}/auctions").where("category = 'cars'").select(F.col("id").alias("auction"))
        bids = bids.join(cars, "auction", "left_semi")
    else:
        bids = bids.where("category = 'cars'")
    pairs = bids.groupBy("bidder", "auction").agg(F.count("*").alias("n"), F.sum("price").alias("total"), F.max("price").alias("top"))
    return (pairs.groupBy("bidder").agg(F.sum("n").alias("bids"), F.count("*").alias("auctions"), F.sum("total").alias("total"), F.max("top").alias("top"))
        .orderBy("bidder").toArrow())
"""

TOML = """[history.bids]
parquet = "data/bids"
time = "date_time"
slice_rows = 1_000_000

[history.auctions]
parquet = "data/auctions"
time = "date_time"

[compute]
workers = 2
"""
SQL_JOB = """-- What every bidder bid on one category in one year.
--
-- /// job
-- history = "bids"
{tables}--
-- [parameters]
-- category = {{ type = "str", default = "cars" }}
-- year = {{ type = "int", default = 2018 }}
-- ///

-- name: slice
SELECT bidder, auction, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top
FROM bids WHERE year = $year AND {cars} GROUP BY ALL

-- name: combine
SELECT bidder, auction, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total, max(top) AS top FROM partials GROUP BY ALL

-- name: finish
SELECT bidder, sum(bids)::BIGINT AS bids, count(*) AS auctions, sum(total)::BIGINT AS total, max(top) AS top FROM combined GROUP BY ALL ORDER BY bidder
"""
POLARS_JOB = '''"""What every bidder bid on one category in one year."""
import polars as pl
import hindscan as hs


def added(rows, keys, **more):
    return rows.group_by(*keys).agg(pl.col("bids").sum(), pl.col("total").sum(), pl.col("top").max(), **more)


@hs.job(history="bids", tables={tables})
def {name}(bids: hs.Data{auctions}, category: str = "cars", year: int = 2018) -> pl.DataFrame:
    """One row per bidder."""
    rows = {rows}
    return rows.group_by("bidder", "auction").agg(
        pl.len().cast(pl.Int64).alias("bids"), pl.col("price").sum().alias("total"), pl.col("price").max().alias("top"))


@{name}.combine
def merge(partials: hs.Data) -> pl.DataFrame:
    """Add up the same bidder and auction."""
    return added(partials.polars(), ["bidder", "auction"])


@{name}.finish
def per_bidder(combined: hs.Data) -> pl.DataFrame:
    """Count the auctions of each bidder."""
    return added(combined.polars(), ["bidder"], auctions=pl.len().cast(pl.Int64)).sort("bidder")
'''
#: hindscan in a process that is warm. Each line it reads is a request; it answers with the seconds from there to the published result.
HINDSCAN = """
import json, os, shutil, sys, time
from pathlib import Path
from hindscan.config_file import load_project
from hindscan.driver import drive
from hindscan.planning import ask
from hindscan.runs import codes, opening
from hindscan.workshop import open_workshop
import pyarrow.compute as pc, pyarrow.parquet as pq

COLUMNS = "bids", "auctions", "total", "top"
project = load_project(Path(sys.argv[1]))
with open_workshop(project) as workshop:
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["fresh"]:  # as of a first run, nothing is there to be replaced
            shutil.rmtree(workshop.partials.folder, ignore_errors=True)
        began = time.monotonic()
        spec, code = workshop.job(asked["job"])
        request = ask(project, spec, {}, fresh=asked["fresh"])
        opened = opening.open_run(workshop.store, request, code=codes.save_code(workshop.store, spec, code), requested_by="bench")
        done = drive(workshop, opened.id)
        seconds = time.monotonic() - began
        assert done.state == "succeeded", done.message
        table = pq.read_table(project.root / done.result / "result.parquet")
        slices = json.loads((project.root / done.result / "manifest.json").read_text())["slices"]
        print(json.dumps({"seconds": seconds, "answer": [table.num_rows, *(pc.sum(table[name]).as_py() for name in COLUMNS)], "slices": slices}), flush=True)
"""


# The history ------------------------------------------------------------------------------------------------------------


def write_history(folder: Path, bids: int) -> int:
    """Draw the sample site, each month's bids in two files; give the number of files."""
    import pyarrow as pa

    from hindscan.sample import found_site, parts

    site = found_site(bids=bids, seed=7)
    files, opened = 0, []
    # While two files are written, the next month is drawn.
    with ThreadPoolExecutor(2) as writers:
        writing: list[Future[None]] = []
        for (year, month), stretch in groupby(parts(site), key=lambda part: (part.year, part.month)):
            whole = list(stretch)
            rows = pa.concat_tables([part.bids for part in whole])
            opened += [part.auctions for part in whole]
            for done in writing:
                done.result()
            half = rows.num_rows // 2
            place = folder / "bids" / f"year={year}" / f"month={month}"
            writing = [
                writers.submit(write, place / f"part-{number}.parquet", piece)
                for number, piece in enumerate((rows.slice(0, half), rows.slice(half)))
            ]
            files += 2
        for done in writing:
            done.result()
    write(folder / "auctions" / "part-0.parquet", pa.concat_tables(opened))
    return files


def write_more(folder: Path, bids: int) -> None:
    """Write one file more: the last bids of the year once again."""
    import pyarrow.parquet as pq

    place = folder / "bids" / "year=2018" / "month=12"
    rows = pq.read_table(place / "part-1.parquet", partitioning=None)
    write(place / "part-2.parquet", rows.slice(max(0, rows.num_rows - bids)))


def write(path: Path, rows: pa.Table) -> None:
    """Write a file as others write theirs, with the checksums that only hindscan looks at."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, row_group_size=ROW_GROUP_ROWS, compression="zstd", write_page_checksum=True)


# Those who are asked ----------------------------------------------------------------------------------------------------


def write_project(root: Path, data: Path) -> None:
    """Make the project: two histories, the job of each form in SQL and in Polars."""
    (root / "hindscan.toml").write_text(TOML)
    (root / "data").symlink_to(data)
    jobs = root / "jobs"
    jobs.mkdir()
    (jobs / "sql_bids.sql").write_text(SQL_JOB.format(tables="", cars="category = $category"))
    tables = '--\n-- [tables]\n-- auctions = "auctions"\n'
    cars = "auction IN (SELECT id FROM auctions WHERE category = $category)"
    (jobs / "sql_joined.sql").write_text(SQL_JOB.format(tables=tables, cars=cars))
    plain = """pl.from_arrow(
        bids.sql("SELECT bidder, auction, price FROM bids WHERE year = $year AND category = $category", year=year, category=category))"""
    (jobs / "polars_bids.py").write_text(POLARS_JOB.format(name="polars_bids", tables="{}", auctions="", rows=plain))
    joined = """pl.from_arrow(bids.sql("SELECT bidder, auction, price FROM bids WHERE year = $year", year=year)).join(
        pl.from_arrow(auctions.sql("SELECT id FROM auctions WHERE category = $category", category=category)), left_on="auction", right_on="id", how="semi")"""
    (jobs / "polars_joined.py").write_text(
        POLARS_JOB.format(
            name="polars_joined", tables='{"auctions": "auctions"}', auctions=", auctions: hs.Data", rows=joined
        )
    )


def ask_peer(python: str, code: str, data: Path, form: str, repeats: int) -> dict[str, Any]:
    """Ask one engine in a process of its own."""
    program = PEER.format(code=code)
    command = [python, "-c", program, str(data), form, str(repeats), repr(time.monotonic())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"a peer failed:\n{done.stderr[-3000:]}")
    answered: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answered


class Warm:
    """hindscan in a process that is warm."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HINDSCAN, str(root)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: str, *, fresh: bool) -> dict[str, Any]:
        """Run a job and wait for its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"job": job, "fresh": fresh}), file=self._process.stdin, flush=True)
        answered: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answered

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def whole_command(root: Path, job: str, env: dict[str, str]) -> float:
    """Run a job as a command, anew; give the seconds from enter to its end."""
    command = [sys.executable, "-m", "hindscan", "run", job, "--fresh", "--json", "--project", str(root)]
    began = time.monotonic()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


# The tables -------------------------------------------------------------------------------------------------------------


class Row:
    """One line of the table."""

    def __init__(self, name: str, warm: float | None, whole: float | None = None, note: str = "") -> None:
        self.name, self.warm, self.whole, self.note = name, warm, whole, note


def measured(root: Path, data: Path, form: str, given: argparse.Namespace, env: dict[str, str]) -> list[Row]:
    """Ask everybody one form of the question."""
    rows: list[Row] = []
    answers = set()
    for name, code in PEERS.items():
        said = ask_peer(sys.executable, code, data, form, given.repeats)
        answers.add(tuple(said["answer"]))
        rows.append(Row(name, statistics.median(said["warm"]), said["whole"]))
    if given.peers:
        said = ask_peer(given.peers, SPARK, data, form, given.repeats)
        answers.add(tuple(said["answer"]))
        rows.append(Row("PySpark, local[2]", statistics.median(said["warm"]), said["whole"]))
    for engine in ("sql", "polars"):
        job = f"{engine}_{form}"
        for verify in (False, True):
            settings = env if verify else {**env, "HINDSCAN_HISTORY__BIDS__VERIFY": "false", "HINDSCAN_HISTORY__AUCTIONS__VERIFY": "false"}  # fmt: skip
            name = f"hindscan, {engine} job, {'verified' if verify else 'verify = false'}"
            server = Warm(root, settings)
            server.run(job, fresh=True)  # which starts the workers
            first = [server.run(job, fresh=True) for _ in range(given.repeats)]
            whole = whole_command(root, job, settings)
            rows.append(Row(f"{name}, first run", seconds_of(first), whole, f"{first[0]['slices']['total']} slices"))
            if not verify:
                second = [server.run(job, fresh=False) for _ in range(given.repeats)]
                rows.append(Row(f"{name}, second run", seconds_of(second), None, slices_of(second[0])))
                answers |= {tuple(said["answer"]) for said in second}
            answers |= {tuple(said["answer"]) for said in first}
            server.close()
    if len(answers) != 1:
        sys.exit(f"the answers differ: {answers}")
    return rows


def grown(root: Path, form: str, env: dict[str, str], write_it: Any) -> list[Row]:
    """Run the jobs, add one per cent of data, run them again."""
    settings = {**env, "HINDSCAN_HISTORY__BIDS__VERIFY": "false", "HINDSCAN_HISTORY__AUCTIONS__VERIFY": "false"}
    server = Warm(root, settings)
    jobs = [f"{engine}_{form}" for engine in ("sql", "polars")]
    for job in jobs:
        server.run(job, fresh=False)
    write_it()
    rows = [
        Row(f"hindscan, {job.partition('_')[0]} job, 1 % more data", *told(server.run(job, fresh=False)))
        for job in jobs
    ]
    server.close()
    return rows


def told(said: dict[str, Any]) -> tuple[float, None, str]:
    """Give what a line shows of one run."""
    return said["seconds"], None, slices_of(said)


def seconds_of(runs: list[dict[str, Any]]) -> float:
    """Give the median of the seconds of runs."""
    return statistics.median(said["seconds"] for said in runs)


def slices_of(said: dict[str, Any]) -> str:
    """Tell how many slices a run computed."""
    return f"{said['slices']['computed']} of {said['slices']['total']} slices computed"


def print_table(title: str, rows: list[Row]) -> None:
    """Print a form's figures beside those of DuckDB."""
    base = next(row for row in rows if row.name == "DuckDB")
    assert base.warm is not None
    assert base.whole is not None
    print(f"\n| {title} | warm s | x DuckDB | whole process s | |\n|---|---|---|---|---|")
    for row in rows:
        warm = f"{row.warm:.2f} | {row.warm / base.warm:.2f}" if row.warm is not None else " | "
        print(f"| {row.name} | {warm} | {f'{row.whole:.2f}' if row.whole is not None else ''} | {row.note} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=50_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--peers", default=str(Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"), help="an interpreter with PySpark")  # fmt: skip
    parser.add_argument("--data", type=Path, help="keep the history here, and take it from here where it is there")
    given = parser.parse_args()
    if not Path(given.peers).exists():
        given.peers = ""
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    temporary = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    try:
        data = given.data or temporary / "data"
        if not data.exists():
            began = time.monotonic()
            files = write_history(data, given.bids)
            print(f"{given.bids:,} bids written to {files} files in {time.monotonic() - began:.0f} s", file=sys.stderr)
        root = temporary / "site"
        root.mkdir()
        write_project(root, data)
        libraries = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "polars", "dask", "pyarrow"))
        print(f"{given.bids:,} bids, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}; medians of {given.repeats}")  # fmt: skip
        tables = {form: measured(root, data, form, given, env) for form in given.forms}
        extra = data / "bids" / "year=2018" / "month=12" / "part-2.parquet"
        for form in given.forms:
            tables[form] += grown(root, form, env, lambda: write_more(data, given.bids // 100))
            extra.unlink()
        for form, rows in tables.items():
            print_table(FORMS[form], rows)
    finally:
        shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
