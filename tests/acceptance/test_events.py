"""An event starts exactly one run per identity, by HTTP and by Kafka, whatever is sent again and whenever the dispatcher dies."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from acceptance.command import bidder_scan_oracle, hindscan, same_rows
from acceptance.serving import Server, closed, finished, http_only, post, serve
from clock import until

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

#: Every named side effect between the receipt of an event and the publication of its result, in the dispatcher's process.
POINTS = [
    "intake.received", "ledger.recorded", "intake.recorded", "store.claimed", "runner.claimed", "store.pinned", "runner.pinned",
    "runner.planned", "runner.executed", "results.table_written", "results.manifest_written", "runner.published", "store.moved", "runner.moved",
]  # fmt: skip


def check_result(project: Path, server: Server, run: str) -> None:
    with server.client() as client:
        answer = client.get(f"/runs/{run}/result", headers={"accept": "application/vnd.apache.parquet"})
    same_rows(pq.read_table(io.BytesIO(answer.content)), bidder_scan_oracle(project / "data"))


def test_an_event_by_http_starts_one_run_and_none_when_sent_again(sample: Path) -> None:
    with serve(http_only(sample)) as server, server.client() as client:
        first = post(client, closed())
        assert first.status_code == 202
        (run,) = first.json()["runs"]
        done = finished(client, run)
        assert (done["state"], done["parameters"]) == ("succeeded", {"category": "cars", "year": 2018})
        assert done["event"] == {"source": "/auctions", "id": "a-1", "trigger": "scan_on_close"}
        check_result(sample, server, run)
        for _ in range(3):
            assert post(client, closed()).json() == {"runs": [], "existing": [run], "quarantined": []}
        assert [one["id"] for one in client.get("/runs").json()["runs"]] == [run]
        manifest = client.get(f"/runs/{run}/manifest").json()
        assert manifest["event"]["id"] == "a-1"
        assert post(client, {**closed("a-2"), "type": "auction.opened"}).json()["runs"] == []


def test_what_cannot_be_mapped_is_quarantined_with_its_reason(sample: Path) -> None:
    with serve(http_only(sample)) as server, server.client() as client:
        wrong = {**closed("bad"), "data": {"category": ["no", "text"]}}
        answer = post(client, wrong).json()
        assert answer["runs"] == []
        assert "category" in answer["quarantined"][0]
        (event,) = client.get("/events?quarantined=true").json()["events"]
        assert event["id"] == "bad"
        shown = hindscan("events", "--quarantined", "--json", project=sample).document["events"]
        assert [one["id"] for one in shown] == ["bad"]


def test_what_was_quarantined_gets_its_run_after_a_fix_and_is_forgotten_on_request(sample: Path) -> None:
    with serve(http_only(sample)) as server, server.client() as client:
        wrong = {**closed("bad"), "subject": "auction/7", "data": {"category": ["no", "text"], "year": 2018}}
        assert post(client, wrong).json()["runs"] == []
        (held,) = client.post("/events/bad/redrive").json()["redriven"]
        assert (held["trigger"], held["outcome"]) == ("scan_on_close", "quarantined")
        assert client.post("/events/event:99/redrive").status_code == 404
        assert hindscan("redrive", "bad", project=sample, check=1).code == 1
        file = sample / "hindscan.toml"
        file.write_text(file.read_text().replace('category = "data.category"', 'category = { value = "cars" }'))
        (redriven,) = hindscan("redrive", "bad", "--json", project=sample).document["redriven"]
        assert (redriven["outcome"], redriven["source"]) == ("matched", "/auctions")
        # The server, which has the old declaration, works on the run all the same.
        assert finished(client, redriven["run"])["state"] == "succeeded"
        check_result(sample, server, redriven["run"])
        assert client.post("/events/redrive").json() == {"redriven": []}
        assert client.post("/events/bad/redrive").status_code == 409
        told = hindscan("forget", "--subject", "auction/7", "--dry-run", "--json", project=sample).document
        done = hindscan("forget", "--subject", "auction/7", "--json", project=sample).document
        assert told == {**done, "dry_run": True}
        assert (done["runs"], done["results"], done["histories"]) == ([redriven["run"]], 1, ["bids"])
        assert client.get(f"/runs/{redriven['run']}/result").status_code == 410
        assert hindscan("result", redriven["run"], project=sample, check=2).code == 2
        assert post(client, wrong).json() == {"runs": [], "existing": [redriven["run"]], "quarantined": []}


def test_sigterm_ends_the_dispatcher_cleanly_and_the_run_is_taken_up_again(sample: Path) -> None:
    with serve(http_only(sample)) as server:
        with server.client() as client:
            (run,) = post(client, closed()).json()["runs"]
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() in {0, -signal.SIGTERM}
    with serve(sample) as server, server.client() as client:
        assert finished(client, run)["state"] == "succeeded"
        check_result(sample, server, run)


@pytest.mark.parametrize("point", POINTS)
def test_a_dispatcher_killed_at_any_side_effect_leaves_one_run_with_the_right_result(sample: Path, point: str) -> None:
    http_only(sample)
    with serve(sample, fault=point) as server:
        with server.client() as client:
            try:
                post(client, closed())
            except Exception as error:
                print(f"the client saw {error!r}", file=sys.stderr)
        assert server.ended() == -signal.SIGKILL, server.log()
    with serve(sample) as server, server.client() as client:
        answer = post(client, closed()).json()
        (run,) = answer["runs"] + answer["existing"]
        assert finished(client, run)["state"] == "succeeded", server.log()
        assert len(client.get("/runs").json()["runs"]) == 1
        check_result(sample, server, run)
    manifests = list((sample / ".hindscan" / "results").glob("*/*/manifest.json"))
    assert len(manifests) == 1


@pytest.mark.kafka
def test_an_event_by_kafka_starts_one_run_and_none_when_sent_again(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("auction-events")
    file = sample / "hindscan.toml"
    file.write_text(file.read_text().replace("kafka:auction-events", f"kafka:{name}"))
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"', "HINDSCAN_SERVE__GROUP": name}
    event = sample / "event.json"
    event.write_text(json.dumps(closed()))
    with serve(sample, **env) as server, server.client() as client:
        for mode in ("structured", "binary", "structured", "structured"):
            hindscan("emit", str(event), "--to", f"kafka:{name}", "--mode", mode, project=sample, **env)
        hindscan("emit", "--type", "auction.opened", "--to", f"kafka:{name}", project=sample, **env)
        found = until(lambda: client.get("/runs").json()["runs"], "a run")
        assert finished(client, found[0]["id"])["state"] == "succeeded"
        until(
            lambda: any(one["type"] == "auction.opened" for one in client.get("/events").json()["events"]),
            "the last event",
        )
        assert len(client.get("/runs").json()["runs"]) == 1
        check_result(sample, server, found[0]["id"])
        assert post(client, closed()).json()["existing"] == [found[0]["id"]]


@pytest.mark.kafka
@pytest.mark.parametrize(
    "point",
    ["listening.started", "intake.received", "ledger.recorded", "intake.recorded", "runner.pinned", "store.moved"],
)
def test_a_dispatcher_killed_while_listening_to_kafka_loses_and_doubles_nothing(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic, point: str
) -> None:
    name = topic("auction-events")
    file = sample / "hindscan.toml"
    file.write_text(file.read_text().replace("kafka:auction-events", f"kafka:{name}"))
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"', "HINDSCAN_SERVE__GROUP": name}
    event = sample / "event.json"
    event.write_text(json.dumps(closed()))
    with serve(sample, fault=point, **env) as server:
        # The trigger's start is stored before its first poll, so what is produced from here on is its business, served or not.
        hindscan("emit", str(event), "--to", f"kafka:{name}", project=sample, **env)
        assert server.ended() == -signal.SIGKILL, server.log()
    with serve(sample, **env) as server, server.client() as client:
        (run,) = until(lambda: client.get("/runs").json()["runs"], "a run")
        assert finished(client, run["id"])["state"] == "succeeded"
        check_result(sample, server, run["id"])
        assert len(client.get("/runs").json()["runs"]) == 1
