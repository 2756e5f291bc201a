"""The main job, as a user types it: row for row what DuckDB computes, however it is worked through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from acceptance.command import bidder_scan_oracle, hindscan, same_rows

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster

SCAN = ("run", "bidder_scan", "-p", "category=cars", "-p", "year=2018", "--json")


def test_the_committed_sample_gives_what_duckdb_computes(sample: Path) -> None:
    document = hindscan(*SCAN, project=sample).document
    assert document["state"] == "succeeded"
    assert document["parameters"] == {"category": "cars", "year": 2018}
    assert document["event"] is None
    found = pq.read_table(document["result"]["path"])
    wanted = bidder_scan_oracle(sample / "data")
    assert wanted.num_rows > 0
    same_rows(found, wanted)
    assert document["result"]["rows"] == wanted.num_rows
    assert Path(document["manifest"]).is_file()


def test_a_command_loads_no_library_that_a_small_run_can_do_without(sample: Path) -> None:
    program = (
        "import sys\n"
        "from hindscan.cli.app import run_app\n"
        "run_app()\n"
        "print(sorted({'pandas', 'polars', 'dask', 'distributed', 'fastapi', 'alembic'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (SCAN, (*SCAN, "--fresh")):  # the second learns from the first
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, "--project", str(sample)],
            capture_output=True, text=True, timeout=110, check=True, cwd=Path(sys.executable).parent,
        )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_second_run_computes_no_slice(sample: Path) -> None:
    first = hindscan(*SCAN, project=sample).document
    second = hindscan(*SCAN, project=sample).document
    assert first["slices"]["computed"] == first["slices"]["total"] > 0
    assert second["slices"] == {"total": first["slices"]["total"], "reused": first["slices"]["total"], "computed": 0}
    assert second["run"] != first["run"]
    assert second["result"]["digest"] == first["result"]["digest"]


def test_a_declared_file_is_read_on_workers_and_its_change_recomputes(sample: Path) -> None:
    (sample / "jobs/rated.py").write_text(
        "import hindscan as hs\n"
        "@hs.job(history='bids', combine='concat', depends=['tables/rate.txt'])\n"
        "def rated(bids: hs.Data):\n"
        "    rate = int(hs.resource('tables/rate.txt').read_text())\n"
        "    return bids.sql('SELECT count(*) * $rate AS n FROM bids', rate=rate)\n"
    )
    (sample / "tables").mkdir()
    found = []
    for text, other in (("3", "x"), ("3", "y"), ("4", "y")):
        (sample / "tables/rate.txt").write_text(text)
        (sample / "tables/other.txt").write_text(other)
        document = hindscan("run", "rated", "--json", project=sample).document
        slices = document["slices"]
        found.append((sum(pq.read_table(document["result"]["path"])["n"].to_pylist()), slices["computed"]))
    bids = found[0][0] // 3
    assert bids > 0
    assert found == [(3 * bids, slices["total"]), (3 * bids, 0), (4 * bids, slices["total"])]


@pytest.mark.parametrize(("workers", "slices_per_task"), [(1, None), (2, None), (5, None), (2, 1), (2, 7)])
def test_two_million_bids_give_what_duckdb_computes(site: Path, workers: int, slices_per_task: int | None) -> None:
    grouping = {"HINDSCAN_COMPUTE__SLICES_PER_TASK": str(slices_per_task)} if slices_per_task else {}
    document = hindscan(*SCAN, "--fresh", "--workers", str(workers), project=site, **grouping).document
    assert document["slices"]["computed"] == document["slices"]["total"] > 10
    same_rows(pq.read_table(document["result"]["path"]), bidder_scan_oracle(site / "data"))


@pytest.fixture(scope="module")
def topic_site(site: Path, kafka_cluster: KafkaCluster) -> dict[str, str]:
    """The same bids in a topic of 8 partitions, with committed and aborted transactions in between."""
    from hindscan.generate import generate_auctions

    cluster = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions("kafka:bids", source=str(site / "data"), kafka=cluster, partitions=8, aborted=40)
    return {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"'}


@pytest.mark.kafka
@pytest.mark.parametrize(("workers", "slices_per_task"), [(1, None), (2, None), (5, 1)])
def test_the_same_bids_in_a_topic_give_the_same_rows(
    site: Path, topic_site: dict[str, str], workers: int, slices_per_task: int | None
) -> None:
    grouping = {"HINDSCAN_COMPUTE__SLICES_PER_TASK": str(slices_per_task)} if slices_per_task else {}
    document = hindscan(
        *SCAN,
        "--fresh",
        "--history",
        "bids=bids_log",
        "--workers",
        str(workers),
        project=site,
        **topic_site,
        **grouping,
    ).document
    same_rows(pq.read_table(document["result"]["path"]), bidder_scan_oracle(site / "data"))


@pytest.mark.kafka
def test_a_second_scan_of_the_topic_computes_no_slice(site: Path, topic_site: dict[str, str]) -> None:
    over_topic = (*SCAN, "--history", "bids=bids_log")
    hindscan(*over_topic, project=site, **topic_site)
    second = hindscan(*over_topic, project=site, **topic_site).document
    assert second["slices"]["computed"] == 0
    assert second["slices"]["reused"] == second["slices"]["total"] >= 8


@pytest.mark.kafka
def test_a_scan_of_the_topic_as_of_a_later_time_computes_only_what_the_time_cuts(
    site: Path, topic_site: dict[str, str]
) -> None:
    """Every event has a time of its own; what lies before two of them is computed once."""
    settings = {**topic_site, "HINDSCAN_HISTORY__BIDS_LOG__SLICE_ROWS": "50000"}
    over_topic = (*SCAN, "--history", "bids=bids_log")
    first = hindscan(*over_topic, "--as-of", "2018-11-01", project=site, **settings).document
    second = hindscan(*over_topic, "--as-of", "2018-12-01", project=site, **settings).document
    assert first["slices"]["computed"] == first["slices"]["total"] > 16
    assert 0 < second["slices"]["computed"] < second["slices"]["total"]
    again = hindscan(*over_topic, "--as-of", "2018-12-01", "--fresh", project=site, **settings).document
    assert again["result"]["digest"] == second["result"]["digest"] != first["result"]["digest"]
