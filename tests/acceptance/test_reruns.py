"""`hindscan rerun` as a user types it, over HTTP and from Python; and what `hindscan plan` says of each slice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from acceptance.command import bidder_scan_oracle, hindscan, same_rows
from acceptance.serving import http_only, serve

SCAN = ("bidder_scan", "-p", "category=cars", "-p", "year=2018")

SCRIPT = """
import json, sys
import hindscan as hs

first = hs.run("bidder_scan", {"category": "cars"}, project=sys.argv[1]).wait(100, progress=False)
again = first.rerun({"year": 2017}, slices=[0]).wait(100, progress=False)
print(json.dumps([first.id, again.result.manifest.parent, str(again.result.path)]))
"""


def run(project: Path, *arguments: str) -> Any:
    return hindscan("run", *arguments, "--json", project=project).document


def rerun(project: Path, of: str, *arguments: str) -> Any:
    return hindscan("rerun", of, *arguments, "--json", project=project).document


def parent(project: Path, document: Any) -> str:
    return json.loads(Path(document["manifest"]).read_text())["parent"]


def add_a_file(project: Path) -> None:
    """Let history grow: a file of the sample comes once more, in a month that has none."""
    file = next((project / "data" / "bids" / "year=2018" / "month=3").glob("*.parquet"))
    grown = project / "data" / "bids" / "year=2018" / "month=13"
    grown.mkdir()
    shutil.copy(file, grown)


def test_a_rerun_reads_what_its_run_read_and_the_latest_one_what_there_is_now(sample: Path) -> None:
    first = run(sample, *SCAN)
    oracle = bidder_scan_oracle(sample / "data")
    add_a_file(sample)
    again = rerun(sample, first["run"])
    assert again["run"] != first["run"]
    assert (parent(sample, again), again["slices"]) == (first["run"], {"total": 36, "reused": 36, "computed": 0})
    same_rows(pq.read_table(again["result"]["path"]), oracle)
    latest = rerun(sample, first["run"], "--latest")
    assert (parent(sample, latest), latest["slices"]) == (first["run"], {"total": 37, "reused": 36, "computed": 1})
    same_rows(pq.read_table(latest["result"]["path"]), bidder_scan_oracle(sample / "data"))


def test_a_rerun_takes_edited_parameters_and_keeps_the_others(sample: Path) -> None:
    first = run(sample, "bidder_scan", "-p", "category=bikes", "-p", "year=2018")
    again = rerun(sample, first["run"], "-p", "year=2017")
    assert again["parameters"] == {"category": "bikes", "year": 2017}
    same_rows(pq.read_table(again["result"]["path"]), bidder_scan_oracle(sample / "data", "bikes", 2017))
    refused = hindscan("rerun", first["run"], "-p", "yaer=2017", project=sample, check=2)
    assert "yaer" in refused.err
    assert "category" in refused.err


def test_named_slices_and_all_that_is_made_of_them_are_computed_anew(sample: Path) -> None:
    first = run(sample, *SCAN)
    again = rerun(sample, first["run"], "--slice", "3", "--slice", "20")
    assert again["slices"] == {"total": 36, "reused": 34, "computed": 2}
    assert again["result"]["digest"] == first["result"]["digest"]
    table = pq.read_table(Path(again["manifest"]).with_name("snapshot.parquet"))
    assert table.filter(pc.invert(table["reused"]))["position"].to_pylist() == [3, 20]
    assert rerun(sample, again["run"])["slices"]["computed"] == 0
    refused = hindscan("rerun", first["run"], "--slice", "36", project=sample, check=2)
    assert "0 to 35; there is no slice 36" in refused.err


def test_a_plan_says_of_each_slice_whether_it_is_reused_or_why_not(sample: Path) -> None:
    def each(*arguments: str) -> tuple[dict[str, int], list[Any]]:
        document = hindscan("plan", *arguments, "--slices", "--json", project=sample).document
        return document["not_reused"], document["each"]

    assert each(*SCAN)[0] == {"no earlier run to compare with": 36}
    run(sample, *SCAN)
    counts, slices = each(*SCAN)
    assert (counts, {(s["reused"], s["why"]) for s in slices}) == ({}, {(True, None)})
    add_a_file(sample)
    key = slices[5]["key"]
    (sample / ".hindscan" / "partials" / key[:2] / f"{key}.arrow").unlink()
    counts, slices = each(*SCAN)
    assert counts == {"its partial is gone": 1, "new data": 1}
    assert {s["why"]: s["reads"] for s in slices if not s["reused"]}["new data"].startswith("year=2018/month=13/")
    assert slices[5]["why"] == "its partial is gone"
    assert each("bidder_scan", "-p", "category=cars", "-p", "year=2017")[0] == {"parameter year changed": 37}
    shown = hindscan("plan", *SCAN, "--slices", project=sample).out
    assert "not reused: 1 slices: new data" in shown
    assert "no: its partial is gone" in shown


def test_a_rerun_from_python_and_one_over_http_do_the_same(sample: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(sample)], capture_output=True, text=True, check=True, cwd=sample
    )
    first, of, path = json.loads(answer.stdout)
    assert of == first
    same_rows(pq.read_table(path), bidder_scan_oracle(sample / "data", "cars", 2017))
    with serve(http_only(sample)) as server, server.client() as client:
        opened = client.post(f"/runs/{first}/rerun", json={"parameters": {"year": 2017}, "slices": [1, 2]})
        assert opened.status_code == 201
        found = client.get(opened.headers["Location"], params={"wait": 60}).json()
        assert (found["state"], found["parent"]) == ("succeeded", first)
        manifest = client.get(f"/runs/{found['id']}/manifest").json()
        assert (manifest["slices"]["computed"], manifest["parameters"]["year"]) == (2, 2017)
        wrong = client.post(f"/runs/{first}/rerun", json={"as_of": "2018-01-01"})
        assert wrong.status_code == 422
        assert "--latest" in wrong.json()["detail"]
        asked = client.post(f"/runs/{first}/rerun", json={"as_of": "2018-01-01", "latest": True})
        assert asked.status_code == 201
        refused = client.post(f"/runs/{first}/rerun", json={"slices": "all"})
        assert "slices" in refused.json()["detail"]


def test_a_run_that_never_got_a_snapshot_is_not_run_again_on_one(sample: Path) -> None:
    shutil.move(sample / "data" / "bids", sample / "data" / "away")
    failed = hindscan("run", *SCAN, "--json", project=sample, check=1).document
    refused = hindscan("rerun", failed["run"], project=sample, check=2)
    assert "it must have a snapshot" in refused.err
    shutil.move(sample / "data" / "away", sample / "data" / "bids")
    assert rerun(sample, failed["run"], "--latest")["slices"]["computed"] == 36
