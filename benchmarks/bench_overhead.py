"""What hindscan itself costs for each slice: runs of thousands of slices in which there is nothing to do.

Run it with `python benchmarks/bench_overhead.py [--slices 10000 50000 100000] [--executors threads processes] [--profile]`. Every run is a process of
its own; for each the table has wall seconds, CPU seconds of the driver (planning, receipts, log, publication) and of its workers (reading, storing
partials), both for each slice too, and the most memory the driver ever had. The second line of a pair is the same run again with every slice reused. CPU
seconds count on a machine that others use too; wall seconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

#: Row groups of one row in a file: opening a file reads what its footer says of all of them, and the reading is not what is measured here.
GROUPS_PER_FILE = 50

PROJECT = """[history.marks]
parquet = "marks"
slice_rows = 1
[compute]
workers = 2
"""

JOB = '''import hindscan as hs


@hs.job(history="marks", combine="concat")
def mark(marks):
    """Nothing: every slice gives the same row."""
    return {"n": 1}
'''

DRIVER = """
import cProfile, json, pstats, resource, sys, time
from pathlib import Path
from hindscan import runner
from hindscan.config_file import load_project
from hindscan.driver import drive
from hindscan.planning import ask
from hindscan.runs import codes, opening
from hindscan.workshop import open_workshop

folder, executor, profiled = sys.argv[1:]
runner.kind_of_executor = lambda *_, **__: executor
cpu = lambda who: (lambda used: used.ru_utime + used.ru_stime)(resource.getrusage(who))
project = load_project(Path(folder))
with open_workshop(project) as workshop:
    spec, code = workshop.job("mark")
    request = ask(project, spec, {})
    opened = opening.open_run(workshop.store, request, code=codes.save_code(workshop.store, spec, code), requested_by="bench")
    began, before = time.perf_counter(), cpu(resource.RUSAGE_SELF)
    profile = cProfile.Profile()
    if profiled == "yes":
        profile.enable()
    done = drive(workshop, opened.id)
    profile.disable()
    assert done.state == "succeeded", done.message
    wall, driver = time.perf_counter() - began, cpu(resource.RUSAGE_SELF) - before
if profiled == "yes":
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"wall": wall, "driver": driver, "workers": cpu(resource.RUSAGE_CHILDREN), "rss": rss}))
"""


def write_marks(folder: Path, slices: int) -> None:
    """Write a history of so many row groups of one row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, slices, GROUPS_PER_FILE)):
        rows = pa.table({"i": pa.array(range(first, min(first + GROUPS_PER_FILE, slices)), pa.int64())})
        pq.write_table(rows, folder / f"{number:06}.parquet", row_group_size=1)


def make_site(root: Path, slices: int) -> None:
    """Make the project: one history, one job."""
    write_marks(root / "marks", slices)
    (root / "hindscan.toml").write_text(PROJECT)
    (root / "jobs").mkdir()
    (root / "jobs" / "mark.py").write_text(JOB)


def measured(root: Path, executor: str, *, profiled: bool) -> dict[str, float]:
    """Do one run in a process of its own."""
    command = [sys.executable, "-c", DRIVER, str(root), executor, "yes" if profiled else "no"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[10_000, 50_000, 100_000])
    parser.add_argument("--executors", nargs="+", default=["threads", "processes"])
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    given = parser.parse_args()
    print(
        f"{'slices':>8} {'executor':<10} {'run':<7} {'wall s':>7} {'driver s':>9} {'workers s':>10} {'driver us/slice':>16} {'workers us/slice':>17} {'driver MB':>10}"
    )
    # Removed at the end: on ext4 making files is up to ten times as slow for half a minute after as many were deleted.
    folder = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    for slices in given.slices:
        for executor in given.executors:
            root = folder / f"{slices}-{executor}"
            make_site(root, slices)
            for run in ("first", "second"):
                m = measured(root, executor, profiled=given.profile)
                each = 1e6 / slices
                print(
                    f"{slices:>8,} {executor:<10} {run:<7} {m['wall']:>7.1f} {m['driver']:>9.1f} {m['workers']:>10.1f} "
                    f"{m['driver'] * each:>16.0f} {m['workers'] * each:>17.0f} {m['rss']:>10.0f}",
                    flush=True,
                )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
