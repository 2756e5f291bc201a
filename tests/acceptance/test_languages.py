"""Jobs in Go and Node as a user types them: what DuckDB says over the same files, reused until a program changes, and ended with whoever runs them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acceptance.command import CHECKOUT, hindscan, same_rows
from clock import until
from conftest import absent

if TYPE_CHECKING:
    pass


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The examples over the bids of three months of the sample: three files, three slices."""
    shutil.copytree(
        CHECKOUT / "examples" / "commands", tmp_path / "commands", ignore=lambda *_: {".hindscan", "bidders"}
    )
    bids = tmp_path / "data" / "bids"
    for month in (1, 2, 3):
        (kept,) = (CHECKOUT / "data" / "bids" / "year=2018" / f"month={month}").glob("*.parquet")
        (bids / f"month={month}").mkdir(parents=True)
        shutil.copy(kept, bids / f"month={month}")
    shutil.copytree(CHECKOUT / "data" / "auctions", tmp_path / "data" / "auctions")
    text = (tmp_path / "commands" / "hindscan.toml").read_text().replace("../../data", "../data")
    (tmp_path / "commands" / "hindscan.toml").write_text(text)
    return tmp_path / "commands"


def build(project: Path) -> None:
    go = shutil.which("go")
    if go is None:
        absent("Go", "no `go` on PATH")
    command = [str(go), "build", "-o", "go/bidders", "go/bidders.go"]
    subprocess.run(command, cwd=project, env={**os.environ, "GO111MODULE": "off"}, check=True)


def asked(project: Path, query: str) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in ("bids", "auctions"):
            files = f"read_parquet('{project.parent}/data/{name}/**/*.parquet', hive_partitioning = false)"
            connection.execute(f"CREATE VIEW {name} AS FROM {files}")
        return connection.sql(query).to_arrow_table()


def ran(project: Path, job: str, *arguments: str) -> tuple[pa.Table, dict[str, int]]:
    document = hindscan("run", job, *arguments, "--json", project=project).document
    return pq.read_table(document["result"]["path"]), document["slices"]


@pytest.mark.timeout(300)
def test_a_job_in_go_says_what_duckdb_says_and_is_computed_again_only_when_its_program_changes(project: Path) -> None:
    assert (
        "'go/bidders', which must be a file of the project and is none; build it first"
        in hindscan("jobs", project=project).out
    )
    build(project)
    assert "category" in hindscan("jobs", "bidders_go", project=project).out
    found, slices = ran(project, "bidders_go", "-p", "category=art")
    wanted = """
        SELECT bidder, count(*)::BIGINT AS bids, sum(price)::BIGINT AS total, max(date_time) AS last
        FROM bids WHERE category = 'art' GROUP BY bidder ORDER BY bidder
    """
    same_rows(found, asked(project, wanted))
    assert slices == {"total": 3, "reused": 0, "computed": 3}
    assert ran(project, "bidders_go", "-p", "category=art")[1] == {"total": 3, "reused": 3, "computed": 0}
    source = project / "go" / "bidders.go"
    source.write_text(source.read_text().replace("b.Bids++", "b.Bids += 2"))
    build(project)
    again, slices = ran(project, "bidders_go", "-p", "category=art")
    assert slices == {"total": 3, "reused": 0, "computed": 3}
    assert again["bids"].to_pylist() == [2 * bids for bids in found["bids"].to_pylist()]


def test_a_job_in_node_with_a_table_of_its_own_says_what_duckdb_says_however_it_is_cut(project: Path) -> None:
    if shutil.which("node") is None:
        absent("Node", "no `node` on PATH")
    found, slices = ran(project, "items_node", "-p", "least=50000")
    wanted = """
        SELECT item, count(*)::BIGINT AS bids, max(price) AS top, min(bids.date_time) AS first
        FROM bids LEFT JOIN auctions ON auctions.id = auction WHERE price >= 50000 GROUP BY item ORDER BY bids DESC, item
    """
    same_rows(found, asked(project, wanted))
    assert slices["computed"] == 3
    assert "all the same" in hindscan("check", "items_node", project=project).out


# Ends ------------------------------------------------------------------------------------------------------------

SLEEPER = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"])
with open(sys.argv[1] + ".new", "w") as file: file.write(f"{os.getpid()} {child.pid} {os.getppid()}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)
"""


def living(pids: list[str]) -> list[str]:
    states = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            continue
    return [pid for pid, state in states.items() if state not in "ZX"]


@pytest.fixture
def sleeper(project: Path) -> Path:
    """A job that never ends; it says who it is in a file."""
    (project / "sleeper.py").write_text(SLEEPER)
    pids = project.parent / "pids"
    (project / "jobs" / "sleeper.toml").write_text(
        f'history = "bids"\ncombine = "concat"\n[slice]\ncommand = ["{sys.executable}", "-S", "sleeper.py", "{pids}"]\noutput = {{ a = "int64" }}\n'
    )
    return pids


def test_commands_end_when_whoever_runs_them_is_killed_and_are_never_its_own_children(
    project: Path, sleeper: Path
) -> None:
    command = [sys.executable, "-m", "hindscan", "run", "sleeper", "--workers", "1", "--project", str(project)]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(sleeper.exists, "the command runs")
        command_pid, child, parent = sleeper.read_text().split()
        assert int(parent) != runner.pid
        assert living([command_pid, child]) == [command_pid, child]
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.wait()
    until(lambda: not living([command_pid, child, parent]), "the command and what it started are gone")


def test_commands_end_when_their_run_is_cancelled(project: Path, sleeper: Path) -> None:
    run = hindscan("run", "sleeper", "--workers", "1", "--detach", "--json", project=project).document["run"]
    until(sleeper.exists, "the command runs")
    hindscan("cancel", run, project=project)
    until(lambda: not living(sleeper.read_text().split()[:2]), "the command and what it started are gone")
