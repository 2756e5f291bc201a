"""Incomplete on purpose: tolerated failures and results on the way, by command line, Python and HTTP (promises 2, 9, 11 and 12)."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan as hs
from acceptance.command import hindscan
from acceptance.serving import serve
from clock import until
from hindscan.anytime import INCOMPLETE
from hindscan.errors import NotFound

SLICES, ROWS = 12, 10

JOB = """
import os
import time
from pathlib import Path
import hindscan as hs

@hs.job(history="numbers")
def total(numbers, folder: str = "", bad: int = -1, slow: int = -1):
    n = numbers.arrow()["n"][0].as_py()
    if n == bad and not Path(folder, "mended").exists():
        raise LookupError(f"slice {n} is bad")
    if n == slow:
        time.sleep(100)
    return {"slices": 1, "total": int(numbers.arrow()["i"].to_numpy().sum())}

@total.combine
def add(partials):
    return partials.sql("SELECT sum(slices)::BIGINT AS slices, sum(total)::BIGINT AS total FROM partials")

@total.finish
def whose(combined):
    return combined.sql("SELECT *, $pid::BIGINT AS pid FROM combined", pid=os.getpid())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "total.py").write_text(JOB)
    (tmp_path / "numbers").mkdir()
    for half in range(2):
        numbers = range(half * SLICES * ROWS // 2, (half + 1) * SLICES * ROWS // 2)
        table = pa.table({"n": [i // ROWS for i in numbers], "i": list(numbers)})
        pq.write_table(table, tmp_path / "numbers" / f"{half}.parquet", row_group_size=ROWS)
    (tmp_path / "hindscan.toml").write_text(
        f'[history.numbers]\nparquet = "numbers"\nslice_rows = {ROWS}\n[compute]\nslices_per_task = 1\n'
    )
    return tmp_path


def oracle(project: Path, *without: int) -> int:
    where = " AND ".join(["true", *(f"n <> {n}" for n in without)])
    return duckdb.sql(f"SELECT sum(i)::BIGINT FROM '{project}/numbers/*.parquet' WHERE {where}").fetchall()[0][0]


def test_tolerated_failures_are_counted_listed_and_made_good_by_the_next_run(project: Path):
    typed = ["run", "total", "-p", "bad=7", "-p", f"folder={project}", "--json"]
    assert hindscan(*typed, project=project, check=1).document["error"] == "JobFailed"
    answer = hindscan(*typed, "--allow-failed", "0.1", project=project).document
    assert answer["incomplete"] is True
    assert answer["slices"] == {"total": SLICES, "reused": SLICES - 1, "computed": 0, "failed": 1}
    row = pq.read_table(answer["result"]["path"]).to_pylist()[0]
    assert (row["slices"], row["total"]) == (SLICES - 1, oracle(project, 7))
    manifest = json.loads(Path(answer["manifest"]).read_text())
    parts = json.loads(manifest["coverage"])["parts"]
    assert {name: (part["slices_done"], part["slices"]) for name, part in parts.items()} == {
        "0.parquet": (6, 6), "1.parquet": (5, 6)
    }  # fmt: skip
    slices = Path(answer["manifest"]).with_name("snapshot.parquet")
    failed = duckdb.sql(f"SELECT position, error, message, records FROM '{slices}' WHERE error IS NOT NULL").fetchall()
    assert [(position, error, records) for position, error, _, records in failed] == [(7, "JobFailed", None)]
    assert "LookupError: slice 7 is bad" in failed[0][2]
    shown = hindscan("run", *typed[1:-1], "--allow-failed", "1", project=project)
    assert "INCOMPLETE: 1 of 12 slices failed" in shown.err

    (project / "mended").touch()
    again = hindscan(*typed, "--allow-failed", "0.1", project=project).document
    assert "incomplete" not in again
    assert again["slices"] == {"total": SLICES, "reused": SLICES - 1, "computed": 1}
    row = pq.read_table(again["result"]["path"]).to_pylist()[0]
    assert (row["slices"], row["total"]) == (SLICES, oracle(project))


def test_the_projects_tolerance_counts_where_neither_job_nor_run_says_one(project: Path):
    typed = ["run", "total", "-p", "bad=7", "--json"]
    answer = hindscan(*typed, project=project, HINDSCAN_COMPUTE__ALLOW_FAILED="1").document
    assert answer["slices"]["failed"] == 1
    refused = hindscan(*typed, "--allow-failed", "0", project=project, check=1, HINDSCAN_COMPUTE__ALLOW_FAILED="1")
    assert refused.document["error"] == "JobFailed"
    assert (
        "allow_failed must be a share below 1"
        in hindscan(*typed, "--allow-failed", "1.0", project=project, check=2).document["message"]
    )


def test_a_failed_run_gives_what_it_has_and_nothing_is_left_of_that(project: Path):
    run = hindscan("run", "total", "-p", "bad=7", "--json", project=project, check=1).document["run"]
    assert hindscan("result", run, project=project, check=2).out == ""
    before = sorted((project / ".hindscan").rglob("*.arrow"))
    given = hindscan("result", run, "--partial", "--format", "json", project=project)
    assert [(row["slices"], row["total"]) for row in given.document] == [(SLICES - 1, oracle(project, 7))]
    assert "INCOMPLETE: 11 of 12 slices, 110 of 120 rows" in given.err
    assert "1.parquet: 5 of 6 slices" in given.err
    file = project / "so_far.parquet"
    hindscan("result", run, "--partial", "--format", "parquet", "-o", str(file), project=project)
    said = json.loads(pq.read_schema(file).metadata[INCOMPLETE])
    assert (said["slices_done"], said["slices"]) == (11, 12)
    found = hs.runs(project=project)[0].partial()
    assert found.incomplete
    assert found.to_pandas().attrs["incomplete"]["parts"]["1.parquet"]["slices_done"] == 5
    assert found.table["pid"][0].as_py() != os.getpid()
    assert sorted((project / ".hindscan").rglob("*.arrow")) == before
    assert not list((project / ".hindscan").rglob("manifest.json"))
    (project / "mended").touch()


JOINED = """
import hindscan as hs

def rows_of(numbers, bad):
    rows = numbers.arrow(["n", "i"])
    if bad in rows["n"].to_pylist():
        raise LookupError(f"slice {bad} is bad")
    return rows

@hs.job(history="numbers", by="i", combine="concat")
def others(numbers, bad_other: int = -1):
    return rows_of(numbers, bad_other)

@hs.job(history="numbers", by="i", combine="concat", join={"others": others})
def pairs(numbers, bad: int = -1):
    return rows_of(numbers, bad)

@pairs.finish
def both(combined, others):
    return combined.sql("SELECT i, others.n AS n FROM combined LEFT JOIN others USING (i)")
"""


def test_a_join_is_incomplete_where_either_of_its_histories_is(project: Path):
    (project / "jobs" / "pairs.py").write_text(JOINED)
    hindscan("run", "pairs", "-p", "bad=7", "--json", project=project, check=1)
    found = hs.runs(project=project)[0].partial()
    assert found.incomplete
    assert (found.coverage.slices_done, found.coverage.slices) == (2 * SLICES - 1, 2 * SLICES)
    assert (found.coverage.parts["1.parquet"].slices_done, found.coverage.parts["others: 1.parquet"].slices_done) == (
        5,
        6,
    )
    rows = [(i, i // ROWS) for i in range(SLICES * ROWS) if i // ROWS != 7]
    assert list(zip(*(found.table[name].to_pylist() for name in ("i", "n")), strict=True)) == rows
    # Of the side that is joined a row is missing, not the one that it would be joined with.
    typed = ["run", "pairs", "-p", "bad_other=3", "--allow-failed", "1", "--json"]
    answer = hindscan(*typed, project=project).document
    assert answer["slices"] == {"total": 2 * SLICES, "reused": 0, "computed": 2 * SLICES - 1, "failed": 1}
    table = pq.read_table(answer["result"]["path"])
    assert [n is None for n in table["n"].to_pylist()] == [i // ROWS == 3 for i in range(SLICES * ROWS)]
    coverage = json.loads(json.loads(Path(answer["manifest"]).read_text())["coverage"])
    assert (coverage["slices_done"], coverage["parts"]["others: 0.parquet"]["slices_done"]) == (2 * SLICES - 1, 5)


def test_a_run_that_has_nothing_says_so(project: Path):
    run = hindscan("run", "total", "-p", "bad=0", "--json", project=project, check=1).document["run"]
    for partial in (project / ".hindscan").rglob("*.arrow"):
        partial.unlink()
    with pytest.raises(NotFound, match="none of its slices is done yet, and the run is failed"):
        hs.runs(project=project)[0].partial()
    assert run


def test_a_server_gives_what_a_run_has_while_it_goes_on_and_its_cancel_ends_the_work(project: Path):
    with serve(project) as server, server.client() as client:
        run = client.post("/jobs/total/runs", json={"parameters": {"slow": 11}, "workers": 2}).json()["id"]
        shelves = project / ".hindscan" / "partials"
        until(lambda: len(list(shelves.rglob("*.arrow"))) >= SLICES - 1, "partials")
        answer = client.get(f"/runs/{run}/result?partial=true", headers={"Accept": "application/vnd.apache.parquet"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["Hindscan-Incomplete"] == "slices=11/12, rows=110/120"
        table = pq.read_table(io.BytesIO(answer.content))
        assert (table["slices"][0].as_py(), table["total"][0].as_py()) == (SLICES - 1, oracle(project, 11))
        assert json.loads(table.schema.metadata[INCOMPLETE])["slices_done"] == SLICES - 1
        assert table["pid"][0].as_py() != server.process.pid
        assert client.get(f"/runs/{run}").json()["state"] == "running"
        assert client.get(f"/runs/{run}/result").status_code == 404
        began = time.monotonic()
        client.post(f"/runs/{run}/cancel")
        assert client.get(f"/runs/{run}?wait=30").json()["state"] == "cancelled"
        assert time.monotonic() - began < 15
        after = client.get(f"/runs/{run}/result?partial=true", headers={"Accept": "application/json"})
        assert [(row["slices"], row["total"]) for row in after.json()] == [(SLICES - 1, oracle(project, 11))]
