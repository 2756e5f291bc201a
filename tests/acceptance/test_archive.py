"""A topic is archived by the command line; retention takes it; the result stays the same, and nothing is computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from acceptance.command import hindscan
from hindscan.generate import generate_auctions
from hindscan.testing import KafkaCluster

SCAN = ("run", "bidder_scan", "-p", "category=cars", "-p", "year=2018", "--json")
NAME = "bids-to-archive"


def declare(project: Path) -> Path:
    """Declare the topic, the topic with its archive, and the archive's folder as plain Parquet."""
    with (project / "hindscan.toml").open("a") as file:
        for history, archive in (("bids_topic", ""), ("bids_all", 'archive = "lake/bids"'), ("bids_lake", "")):
            where = 'parquet = "lake/bids"' if history == "bids_lake" else f'topic = "{NAME}"'
            file.write(f'\n[history.{history}]\n{where}\ntime = "date_time"\nslice_rows = 1000\n{archive}\n')
    return project


@pytest.fixture
def site(sample: Path, kafka_cluster: KafkaCluster) -> Path:
    """The sample with other bids in a topic of four partitions, aborted transactions between them."""
    kafka = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions(f"kafka:{NAME}", bids=20_000, kafka=kafka, partitions=4, aborted=20)
    return declare(sample)


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_topic_is_archived_and_retention_takes_it_and_no_result_changes(
    site: Path, kafka_cluster: KafkaCluster, kafka_admin: AdminClient
) -> None:
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"'}
    from_topic = hindscan(*SCAN, "--history", "bids=bids_topic", project=site, **env).document
    assert from_topic["result"]["rows"] > 0
    total = from_topic["slices"]["total"]
    assert from_topic["slices"]["computed"] == total > 8

    partial = hindscan(
        "archive", "bids_all", "--until-offset", "0=1500", "--until-offset", "1=1000", "--json", project=site, **env
    ).document
    assert [(one["partition"], one["end"]) for one in partial["partitions"]] == [(0, 1500), (1, 1000)]
    assert partial["files"] == {"total": 3, "written": 3, "replaced": 0, "swept": 0}
    snapshot = hindscan("snapshot", "bids_all", project=site, **env).out
    assert "archived to" in snapshot
    plan = hindscan("plan", "bidder_scan", "--history", "bids=bids_all", "--json", project=site, **env).document
    assert any("offsets are read from the archive lake/bids" in caveat for caveat in plan["caveats"])
    both = hindscan(*SCAN, "--history", "bids=bids_all", project=site, **env).document
    assert both["slices"] == {"total": total, "reused": total, "computed": 0}
    assert both["result"]["digest"] == from_topic["result"]["digest"]

    done = hindscan("archive", "bids_all", "--json", project=site, **env).document
    assert done["files"]["replaced"] == 1
    assert done["topic"] == NAME
    for one in done["partitions"]:
        place = TopicPartition(NAME, one["partition"], one["end"])
        kafka_admin.delete_records([place])[place].result(20)
    whole = hindscan(*SCAN, "--history", "bids=bids_all", "--fresh", project=site, **env).document
    assert whole["slices"] == {"total": total, "reused": 0, "computed": total}
    assert whole["result"]["digest"] == from_topic["result"]["digest"]
    manifest = Path(whole["manifest"]).read_text()
    assert '"stitched"' in manifest
    assert f"lake/bids + default:{NAME}" in manifest
    assert "repeatable until retention" not in manifest
    alone = hindscan(*SCAN, "--history", "bids=bids_lake", project=site, **env).document
    assert alone["result"]["digest"] == from_topic["result"]["digest"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bids",), "a topic with a place for its archive"),
        (("bids_topic",), "a topic with a place for its archive"),
        (("bids_all", "--until-offset", "x=1"), "must be whole numbers"),
    ],
)
def test_what_is_asked_wrongly_is_said(sample: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in hindscan("archive", *arguments, project=declare(sample), check=2).err
