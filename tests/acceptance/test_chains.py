"""Runs start runs: the success of one job, sent to a topic or a webhook, is the event of another; a circle ends; kill -9 sends again under the same id."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from acceptance.serving import closed, finished, http_only, post, serve
from clock import until
from receiver import Receiver, receiver

if TYPE_CHECKING:
    import httpx2 as httpx

    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

#: A second job, over the few auctions of the sample, that runs when the first has succeeded.
CHAIN = """
[triggers.then]
on = "{on}"
start = "earliest"
filter = {{ all = [ {{ exact = {{ type = "hindscan.run.succeeded" }} }}, {{ exact = {{ subject = "bidder_scan" }} }} ] }}
job = "count_auctions"
parameters = {{ category = "data.parameters.category" }}
[publish.told]
to = "{to}"
filter = {{ suffix = {{ type = ".succeeded" }} }}
"""
COUNT = """-- /// job
-- history = "auctions"
-- [parameters]
-- category = "cars"
-- ///

-- name: slice
SELECT count(*) AS auctions FROM auctions WHERE category = $category

-- name: combine
SELECT sum(auctions)::BIGINT AS auctions FROM partials
"""


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as listening:
        yield listening


def declare(project: Path, text: str) -> Path:
    http_only(project)
    (project / "jobs" / "count_auctions.sql").write_text(COUNT)
    file = project / "hindscan.toml"
    file.write_text(file.read_text() + text)
    return project


def runs_of(client: httpx.Client, job: str, state: str = "succeeded") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/runs?job={job}&state={state}").json()["runs"]
    return found


@pytest.mark.kafka
def test_the_success_of_one_job_starts_another_through_a_topic(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("run-events")
    declare(sample, CHAIN.format(on=f"kafka:{name}", to=f"kafka:{name}"))
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"', "HINDSCAN_SERVE__GROUP": name}
    with serve(sample, **env) as server, server.client() as client:
        (first,) = post(client, closed()).json()["runs"]
        (second,) = until(lambda: runs_of(client, "count_auctions"), "the second job's run")
        assert second["parameters"] == {"category": "cars"}
        manifest = client.get(f"/runs/{second['id']}/manifest").json()
        assert manifest["event"]["causationid"] == "a-1"
        assert manifest["event"]["correlationid"] == "a-1"
        assert manifest["event"]["chaindepth"] == 1
        # The second run's own success may be there already: whichever came is told apart by its subject.
        events = client.get("/events").json()["events"]
        (told,) = [one for one in events if (one["type"], one["subject"]) == ("hindscan.run.succeeded", "bidder_scan")]
        assert told["source"] == f"/hindscan/{sample.name}"
        assert finished(client, first)["result"] is not None
        assert len(runs_of(client, "bidder_scan")) == 1


def test_a_circle_of_triggers_ends_at_the_declared_depth_in_quarantine(sample: Path, hook: Receiver) -> None:
    circle = CHAIN.replace('exact = {{ subject = "bidder_scan" }}', 'prefix = {{ source = "/hindscan" }}')
    declare(sample, circle.format(on="http", to=hook.url) + "[serve]\nchain_depth = 3\n")
    with serve(sample) as server, server.client() as client:
        post(client, closed())

        def handed_on() -> Any:
            # Somebody else's service in the circle: it hands on what it gets, attributes and all.
            while hook.events:
                assert post(client, hook.events.pop(0).to_json()).status_code == 202
            return client.get("/events?quarantined=true").json()["events"]

        (one,) = until(handed_on, "the event that goes too deep")
        (decision,) = [d for d in one["decisions"] if d["outcome"] == "quarantined"]
        assert "one chain may have 3 runs" in decision["reason"]
        assert len(runs_of(client, "bidder_scan")) == 1
        assert len(runs_of(client, "count_auctions")) == 2


@pytest.mark.parametrize("point", ["outbox.sent", "outbox.marked"])
def test_a_dispatcher_killed_between_sending_and_marking_sends_again_under_the_same_id(
    sample: Path, hook: Receiver, point: str
) -> None:
    file = http_only(sample) / "hindscan.toml"
    file.write_text(file.read_text() + f'[publish.told]\nto = "{hook.url}"\n')
    with serve(sample, fault=point) as server, server.client() as client:
        (run,) = post(client, closed()).json()["runs"]
        assert server.ended() == -signal.SIGKILL, server.log()
    (first,) = hook.events
    assert first.type == "hindscan.run.started"
    with serve(sample) as server, server.client() as client:
        assert finished(client, run)["state"] == "succeeded"
        until(lambda: any(event.type.endswith("succeeded") for event in hook.events), "the last event")
    kinds = [event.type.rpartition(".")[2] for event in hook.events]
    again = [event for event in hook.events if event.id == first.id]
    assert len(again) == (2 if point == "outbox.sent" else 1)
    assert all(one == first for one in again)
    assert kinds[-1] == "succeeded"
    assert kinds.count("succeeded") == 1
    last = hook.events[-1]
    assert isinstance(last.data, dict)
    assert json.loads((sample / str(last.data["manifest"])).read_text())["run"] == run
    assert last.data["summary"]["rows"] > 0
